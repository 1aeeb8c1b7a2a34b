//! The one thread that owns the ledger.
//!
//! Commands come over a bounded queue and are carried out in order. All that wait are one batch: one transaction, one
//! flush to disk, and only then the replies. So nobody hears of anything that a crash could undo, and ten thousand
//! reports cost as many flushes as a handful.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use service_kit::Chain;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info};
use units::{Amount, SessionId, TaskId};

use crate::bank::{Bank, BankError, Change, Descent, Effects, Now, OpenRequest};
use crate::ledger::accounts::BalanceOverflow;
use crate::ledger::transfers::Kind;
use crate::ledger::{Journal, Transfer, TransferId};
use crate::lineage;
use crate::metrics::METRICS;
use crate::session::{AttemptCost, Bill, LeftBehind, Outcome, Task};
use crate::settlement::outbox::Payout;
use crate::settlement::wallet::PaymentId;
use crate::watch::Watchers;

/// Commands that may wait. Enough for several batches; a caller beyond it waits for its turn to wait.
const QUEUE: usize = 4096;

/// Commands in one transaction, at most: more would make the first wait longer than its flush takes.
const BATCH: usize = 1024;

/// Attempts of one task that are told of, and transfers of each: a message holds them easily.
const ATTEMPTS_TOLD_MAX: u32 = 100;

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Bank(#[from] BankError),
    #[error("the ledger cannot be written or read")]
    Journal(#[source] Arc<rusqlite::Error>),
    #[error("the ledger is closed")]
    Stopped,
}

impl From<rusqlite::Error> for CommandError {
    fn from(err: rusqlite::Error) -> Self {
        Self::Journal(Arc::new(err))
    }
}

impl From<BalanceOverflow> for CommandError {
    fn from(err: BalanceOverflow) -> Self {
        Self::Bank(err.into())
    }
}

/// What a command may use: the state, and the history in the journal.
pub struct Desk {
    pub bank: Bank,
    pub watchers: Watchers,
    journal: Journal,
}

impl Desk {
    /// Rebuilds the state from the journal.
    pub fn open(journal: Journal) -> rusqlite::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            bank: journal.load(now)?,
            watchers: Watchers::new(now),
            journal,
        })
    }

    pub fn task(&self, id: TaskId) -> Result<Option<Task>, CommandError> {
        Ok(self.journal.task(id)?)
    }

    /// Where the object of a request came from. `earlier` is the task whose id it carries, if it `is_marked` with one;
    /// `parent` the task that it is said to be a result of.
    pub fn descent(
        &self,
        open: &OpenRequest,
        earlier: Option<&Task>,
        is_marked: bool,
        parent: Option<TaskId>,
    ) -> Result<Descent, CommandError> {
        let task =
            |id: Option<TaskId>| Ok::<_, CommandError>(id.map(|id| self.task(id)).transpose()?.flatten());
        let goes_on = earlier.filter(|task| task.continues_with(&open.function, &open.key));
        let parent = task(parent.filter(|_| goes_on.is_none()))?;
        let child = parent
            .as_ref()
            .map(|parent| lineage::chained_id(parent.id, &open.function, &open.key));
        let root = goes_on.or(parent.as_ref()).map(|task| task.root);
        Ok(Descent {
            child: task(child)?,
            lineage: root.map(|root| self.journal.lineage(root)).transpose()?.flatten(),
            parent,
            is_marked,
            depth_max: open.descent.depth_max,
        })
    }

    /// The bill of a session that is closed.
    pub fn bill(&self, id: SessionId) -> Result<Option<Bill>, CommandError> {
        let Some(closed) = self.journal.closed(id)? else {
            return Ok(None);
        };
        let task = self.journal.task(closed.task)?;
        Ok(Some(Bill {
            task_amount: task.map(|task| task.amount).unwrap_or_default(),
            transfers: self.journal.transfers_of(id)?,
            closed,
        }))
    }

    /// What the ended attempts of a task cost, oldest first.
    pub fn attempts(&self, task: TaskId) -> Result<Vec<AttemptCost>, CommandError> {
        Ok(self.journal.attempts(task, ATTEMPTS_TOLD_MAX)?)
    }

    /// What is to become of a task whose object another node has seen lie for long, without a receipt. If its results are not
    /// to be expected any more, it was charged for nothing, which is taken back.
    pub fn left_behind(&mut self, id: TaskId, lease: Duration, now: Now) -> Result<LeftBehind, CommandError> {
        let Some(task) = self.journal.task(id)? else {
            return Ok(LeftBehind::Yes);
        };
        let newest = self.journal.attempts(id, 1)?.pop();
        let newest = newest.map(|cost| self.journal.closed(cost.session)).transpose()?;
        let Some(newest) = newest.flatten() else {
            return Ok(LeftBehind::No);
        };
        if newest.outcome != Outcome::Lost && !self.watchers.is_gone(&newest.node, lease, now.instant) {
            return Ok(LeftBehind::No);
        }
        match newest.outcome {
            Outcome::Lost | Outcome::Failed | Outcome::Aborted | Outcome::PlatformFault => {}
            Outcome::Succeeded => {
                let lineage = self.journal.lineage(task.root)?;
                let charges = self.charges(newest.id)?;
                self.bank.take_back(newest, &charges, task, lineage, now.wall)?;
            }
            over @ (Outcome::GaveUp | Outcome::Cancelled | Outcome::CapSpent) => {
                return Ok(LeftBehind::Over(over));
            }
        }
        Ok(LeftBehind::Yes)
    }

    fn charges(&self, session: SessionId) -> Result<Vec<Transfer>, CommandError> {
        let mut charges = Vec::new();
        for id in self.journal.transfers_of(session)? {
            let transfer = self.journal.transfer(&id)?;
            charges.extend(transfer.filter(|transfer| transfer.kind == Kind::Charge));
        }
        Ok(charges)
    }

    pub fn transfer(&self, id: &TransferId) -> Result<Option<Transfer>, CommandError> {
        Ok(self.journal.transfer(id)?)
    }

    /// A payment, whether it is over or not.
    pub fn payout(&self, id: &PaymentId) -> Result<Option<Payout>, CommandError> {
        Ok(self.journal.payout(id)?)
    }

    /// Writes what the last command changed, so that the next command's look at the history sees it.
    fn write(&mut self, batch: &mut Batch) -> rusqlite::Result<()> {
        let Effects {
            changes,
            stale,
            news,
            gates,
        } = self.bank.take_effects();
        for change in &changes {
            self.journal.apply(change)?;
            if let Change::Posted(transfer) = change {
                batch.posted.push((transfer.kind, transfer.amount));
            }
        }
        batch.stale.extend(stale);
        batch.news.extend(news);
        batch.gates.extend(gates);
        Ok(())
    }

    /// Forgets what could not be written: the journal is the truth.
    fn start_over(&mut self) -> rusqlite::Result<()> {
        self.journal.roll_back()?;
        self.bank = self.journal.load(Instant::now())?;
        self.watchers.close();
        Ok(())
    }
}

/// What a batch leaves to be done after its commit.
#[derive(Default)]
struct Batch {
    stale: BTreeSet<SessionId>,
    news: BTreeSet<SessionId>,
    gates: BTreeSet<units::UserName>,
    posted: Vec<(Kind, Amount)>,
}

type Command = Box<dyn FnOnce(&mut Desk) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), CommandError>) + Send>;

/// Sends commands to the [`Ledger`], which ends when the last of these is dropped.
#[derive(Clone)]
pub struct Writer(mpsc::Sender<Command>);

/// Completes when the ledger's thread has ended; with an error if it could not go on.
pub type WriterEnd = oneshot::Receiver<rusqlite::Result<()>>;

impl Writer {
    /// A writer and the ledger that has to be run for it. `settle` is woken whenever transfers were posted.
    pub fn new(desk: Desk, settle: Arc<Notify>) -> (Self, Ledger) {
        let (queue, commands) = mpsc::channel(QUEUE);
        let ledger = Ledger {
            desk,
            commands,
            settle,
        };
        (Self(queue), ledger)
    }

    /// Carries out a command and waits until what it changed is on disk. If it is not, nothing was changed.
    pub async fn call<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Desk) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let (reply, outcome) = oneshot::channel();
        let command: Command = Box::new(move |desk| {
            let result = command(desk);
            Box::new(move |committed| {
                // The caller may have gone; the command stands all the same.
                let _gone = reply.send(committed.and(result));
            })
        });
        self.0.send(command).await.map_err(|_| CommandError::Stopped)?;
        outcome.await.map_err(|_| CommandError::Stopped)?
    }
}

/// The owner of the state and its journal. Its steps are apart so that a simulation can crash between them.
pub struct Ledger {
    desk: Desk,
    commands: mpsc::Receiver<Command>,
    settle: Arc<Notify>,
}

/// Commands that wait to be one batch.
pub struct Waiting(Vec<Command>);

/// A batch that is written and not committed.
pub struct Written {
    answers: Vec<Answer>,
    written: rusqlite::Result<Batch>,
}

/// A batch that is on disk, or failed as a whole, and of which nobody has heard.
pub struct Committed {
    answers: Vec<Answer>,
    committed: rusqlite::Result<Batch>,
}

impl Ledger {
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Runs on a thread of its own. Errors if the system has none.
    pub fn spawn(self) -> std::io::Result<WriterEnd> {
        let (report_end, end) = oneshot::channel();
        thread::Builder::new().name("ledger".to_owned()).spawn(move || {
            // Nobody waits for the end of a service that was dropped.
            let _unheard = report_end.send(futures::executor::block_on(self.run()));
        })?;
        Ok(end)
    }

    /// Runs until the last writer is dropped. Errors if the journal cannot be read after it could not be written.
    pub async fn run(mut self) -> rusqlite::Result<()> {
        while let Some(waiting) = self.receive().await {
            let written = self.carry_out(waiting);
            let committed = self.commit(written);
            self.answer(committed)?;
        }
        info!("ledger closed");
        Ok(())
    }

    /// All commands that wait, up to a batch; `None` when no more can come.
    pub async fn receive(&mut self) -> Option<Waiting> {
        let mut waiting = Vec::new();
        let received = self.commands.recv_many(&mut waiting, BATCH).await;
        (received > 0).then_some(Waiting(waiting))
    }

    /// Carries out a batch and writes what it changes.
    pub fn carry_out(&mut self, waiting: Waiting) -> Written {
        let desk = &mut self.desk;
        let mut answers = Vec::with_capacity(waiting.0.len());
        let mut batch = Batch::default();
        let mut written = desk.journal.begin();
        for command in waiting.0 {
            answers.push(command(desk));
            written = written.and_then(|()| desk.write(&mut batch));
        }
        let written = written.and_then(|()| {
            for session in batch.stale.iter().filter_map(|id| desk.bank.session(*id)) {
                desk.journal.put_session(session)?;
            }
            Ok(batch)
        });
        Written { answers, written }
    }

    /// Puts a batch on disk. If that fails, nothing of it has happened.
    pub fn commit(&mut self, batch: Written) -> Committed {
        let Written { answers, written } = batch;
        let began = Instant::now();
        let committed = written.and_then(|batch| self.desk.journal.commit().map(|()| batch));
        METRICS.commit_duration.observe(began.elapsed().as_secs_f64());
        Committed { answers, committed }
    }

    /// Answers the callers and tells the nodes.
    pub fn answer(&mut self, batch: Committed) -> rusqlite::Result<()> {
        let Committed { answers, committed } = batch;
        match committed {
            Ok(batch) => {
                METRICS.committed(answers.len(), &batch.posted);
                for answer in answers {
                    answer(Ok(()));
                }
                let desk = &mut self.desk;
                desk.watchers.publish(&desk.bank, &batch.news, &batch.gates);
                if !batch.posted.is_empty() {
                    self.settle.notify_one();
                }
                Ok(())
            }
            Err(err) => {
                METRICS.commit_failed();
                error!(error = %Chain(&err), "the ledger cannot be written, nothing was changed");
                let err = Arc::new(err);
                for answer in answers {
                    answer(Err(CommandError::Journal(err.clone())));
                }
                self.desk.start_over()
            }
        }
    }
}

#[cfg(test)]
mod laws;
