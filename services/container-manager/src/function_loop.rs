//! One function on this node: its queue, its container, its running tasks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use service_kit::Chain;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use units::{ContainerId, FunctionName, MilliCores, UserName};

use crate::ahead::Ahead;
use crate::attempt::{self, Executed, Plan};
use crate::bulletin::Bulletin;
use crate::claim::{self, Claim, ClaimError, Claimer, Input};
use crate::credit::{Alert, Refusal};
use crate::finish;
use crate::function::retry_delay;
use crate::layout::TaskKey;
use crate::node::Node;
use crate::problem::{OURS_TO_MEND, Problem};
use crate::queue::Queue;
use crate::quote;
use crate::recover::Adopted;
use crate::task::{Attempt, Verdict};
use crate::warm::WarmContainer;
use crate::workplace::{Ready, Workplace};

/// A task that another node has, or that we had to give back, is looked at again after this.
const GIVEN_BACK_DELAY: Duration = Duration::from_secs(1);
/// After a failure of the store, of credit-manager or of a task's start.
const TROUBLE_DELAY: Duration = Duration::from_secs(2);
/// Looks into `input/` of an idle function for each look for what a node that is gone left in `processing/`.
const LEFT_LOOKS_EVERY: u32 = 10;
/// Of the time that nothing was found for, what passes until the next look.
const POLL_PART: u32 = 10;
/// Of the same, for each look into `quote/`.
const QUOTE_LOOKS_EVERY: u32 = 4;
/// How often that is listed at most.
const QUOTES_PAUSE: Duration = Duration::from_secs(1);
/// How often an idle container is looked after.
const UPKEEP_PAUSE: Duration = Duration::from_secs(1);

/// What a function is told from outside.
pub struct News {
    /// Whether the user's standing allows new work.
    pub gate: watch::Receiver<bool>,
    /// Look into `input/` now.
    pub hint: Arc<Notify>,
    /// Whether the user's balance is low.
    pub alert: watch::Receiver<Option<Alert>>,
    /// Told by the loop: nothing runs, and nothing was in `input/` at the last look.
    pub is_idle: Arc<AtomicBool>,
}

pub struct FunctionLoop {
    node: Arc<Node>,
    name: FunctionName,
    news: News,
    bulletin: Bulletin,
    workplace: Workplace,
    free_slots: BTreeSet<u32>,
    queue: Queue,
    ahead: Ahead,
    /// Each from its licence to its end, when it is over.
    tasks: JoinSet<Over>,
    /// Tasks that are not done with their slot.
    running: usize,
    /// One message for each task, of which there are no more than slots.
    freed: (mpsc::UnboundedSender<Freed>, mpsc::UnboundedReceiver<Freed>),
    idle_since: Instant,
    /// When something was last found in `input/`, or told of.
    active_at: Instant,
    /// When `input/` is to be listed again.
    look_at: Instant,
    /// Whether `utils/` was read after the newest listing.
    is_refreshed: bool,
    /// When `processing/` is to be listed again.
    left_at: Instant,
    not_before: Instant,
    upkeep_at: Instant,
    quotes_at: Instant,
    quoting: JoinSet<()>,
    /// What last kept tasks from being taken in, as the log was told.
    trouble: Option<String>,
}

/// A task is done with its slot.
struct Freed {
    container: ContainerId,
    slot: u32,
    /// Why it did not start, where the next may not either.
    fault: Option<String>,
}

/// Nothing of a task is left to do.
enum Over {
    Finished(Box<Attempt>),
    Withdrawn(TaskKey),
}

impl FunctionLoop {
    pub fn new(
        node: Arc<Node>,
        name: FunctionName,
        user: UserName,
        news: News,
        adopted: Option<Adopted>,
        shutdown: &CancellationToken,
    ) -> Self {
        let now = Instant::now();
        let mut function = Self {
            bulletin: Bulletin::new(node.clone(), name.clone(), user.clone()),
            workplace: Workplace::new(node.clone(), name.clone(), user),
            ahead: Ahead::new(node.clone(), name.clone()),
            node,
            name,
            news,
            // Until a container is there, its first slot stands for it.
            free_slots: BTreeSet::from([0]),
            queue: Queue::default(),
            tasks: JoinSet::new(),
            running: 0,
            freed: mpsc::unbounded_channel(),
            idle_since: now,
            active_at: now,
            look_at: now,
            is_refreshed: false,
            left_at: now,
            not_before: now,
            upkeep_at: now,
            quotes_at: now,
            quoting: JoinSet::new(),
            trouble: None,
        };
        if let Some(adopted) = adopted {
            function.adopt(adopted, shutdown);
        }
        function
    }

    /// Goes on with what an earlier manager started.
    fn adopt(&mut self, adopted: Adopted, shutdown: &CancellationToken) {
        let container = adopted.container;
        self.free_slots = (0..container.concurrency()).collect();
        self.workplace.adopt(container.clone());
        for (attempt, licence, started) in adopted.running {
            let slot = started.run.slot;
            self.free_slots.remove(&slot);
            self.queue.take(attempt.key.clone());
            let (node, shutdown) = (self.node.clone(), shutdown.clone());
            self.spawn(container.id(), slot, async move {
                let attempt = attempt::watch_over(&node, started, attempt, licence, &shutdown).await;
                Executed::Ended {
                    attempt: Box::new(attempt),
                    object: None,
                    is_fault: false,
                }
            });
        }
    }

    #[tracing::instrument(name = "function", skip_all, fields(function = %self.name))]
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            self.step(&shutdown).await;
            tokio::select! {
                () = tokio::time::sleep_until(self.wake_at()) => {}
                () = self.news.hint.notified() => self.look_soon(),
                () = self.workplace.turn() => self.look_soon(),
                _ = self.news.gate.changed() => {
                    self.upkeep_at = Instant::now();
                    self.look_soon();
                }
                Some(freed) = self.freed.1.recv() => self.on_freed(freed),
                Some(over) = self.tasks.join_next() => self.on_over(over),
                Some(_told) = self.quoting.join_next() => {}
                () = shutdown.cancelled() => {}
            }
        }
        // Every running task has seen the shutdown as well, and comes to rest.
        while self.tasks.join_next().await.is_some() {}
        self.workplace.stop("its function is served no longer").await;
        self.node.problems.clear(&self.name);
    }

    async fn step(&mut self, shutdown: &CancellationToken) {
        let now = Instant::now();
        if !self.may_take_in() {
            self.news.is_idle.store(false, Ordering::Relaxed);
            self.workplace.leave_line();
        } else if now >= self.not_before
            && let Err(err) = self.take_in(now, shutdown).await
        {
            self.workplace.leave_line();
            self.on_trouble(Chain(&err).to_string(), hint(&err));
        }
        let next = match self.workplace.container() {
            Some(container) if self.running > 0 => self.queue.peek(slots(container)),
            _ => Vec::new(),
        };
        self.ahead.read(&next);
        let alert = self.news.alert.borrow().clone();
        self.bulletin.tell_alert(alert).await;
        if now >= self.quotes_at && self.quoting.is_empty() {
            self.quotes_at = now + (self.node.poll_idle() * QUOTE_LOOKS_EVERY).max(QUOTES_PAUSE);
            let (node, name) = (self.node.clone(), self.name.clone());
            self.quoting.spawn(async move {
                if let Err(err) = quote::answer(&node, &name).await {
                    debug!(error = %Chain(&err), "quotes not answered, will be again");
                }
            });
        }
        if self.running > 0 {
            self.bulletin.tell_balance_of_work(now).await;
            return;
        }
        if self.tasks.is_empty() {
            self.bulletin.tell_balance_at_rest().await;
        }
        if now < self.upkeep_at && !self.workplace.is_wanted() {
            return;
        }
        self.upkeep_at = now + UPKEEP_PAUSE;
        let may_start = *self.news.gate.borrow();
        if let Some(why) = self.workplace.reason_to_stop(self.idle_since, may_start).await {
            self.workplace.stop(why).await;
            self.free_slots = BTreeSet::from([0]);
        }
    }

    fn may_take_in(&self) -> bool {
        *self.news.gate.borrow() && !self.free_slots.is_empty() && !self.workplace.is_to_yield()
    }

    /// When to go on if nothing happens before.
    fn wake_at(&self) -> Instant {
        let look_at = self.may_take_in().then(|| self.look_at.max(self.not_before));
        let is_warm = self.workplace.container().is_some();
        let upkeep_at = (is_warm && self.running == 0).then_some(self.upkeep_at);
        // The balance is told while tasks run.
        let told_at = self.bulletin.balance_at().filter(|_| self.running > 0);
        let at = [look_at, upkeep_at, told_at].into_iter().flatten();
        at.fold(self.quotes_at, Instant::min)
    }

    /// Something is new in the bucket, or may be taken now.
    fn look_soon(&mut self) {
        let now = Instant::now();
        (self.active_at, self.look_at) = (now, now);
        self.quotes_at = self.quotes_at.min(now + QUOTES_PAUSE);
    }

    /// Waits a little; says so in the log once for each trouble, however long it lasts.
    fn on_trouble(&mut self, trouble: String, hint: &str) {
        self.pause(TROUBLE_DELAY);
        self.bulletin.tell_trouble(Problem::new(trouble.as_str(), hint));
        if self.trouble.as_ref() != Some(&trouble) {
            warn!(error = trouble, "no task taken in, will retry until it works");
            self.trouble = Some(trouble);
        }
    }

    fn on_no_trouble(&mut self) {
        if self.trouble.take().is_some() {
            self.bulletin.trouble_is_over();
        }
    }

    /// Takes nothing in for a while, and then what is first in line then.
    fn pause(&mut self, delay: Duration) {
        self.not_before = Instant::now() + delay;
        self.look_at = self.not_before;
        self.queue.forget();
    }

    /// Claims as many tasks as there are free slots.
    async fn take_in(&mut self, now: Instant, shutdown: &CancellationToken) -> Result<(), ClaimError> {
        let (node, wanted) = (self.node.clone(), self.free_slots.len());
        let store = node.store.as_ref();
        let is_due = now >= self.look_at || self.queue.is_used_up();
        if is_due {
            let is_any = self.queue.look(store, &self.name, wanted).await?;
            if is_any {
                self.active_at = now;
            }
            let is_idle = self.queue.is_empty() && self.running == 0;
            self.news.is_idle.store(is_idle, Ordering::Relaxed);
            self.is_refreshed = false;
            self.look_at = now + self.poll(now);
        }
        if now >= self.left_at {
            let pause = node.poll_idle();
            self.left_at = now + pause * LEFT_LOOKS_EVERY;
            let patience = node.config.orphan();
            if let Some(at) = self.queue.look_for_left(store, &self.name, patience).await? {
                self.left_at = self.left_at.min(at.max(now + pause));
            }
        }
        let waiting = self.queue.next(wanted);
        if waiting.is_empty() {
            // Tasks that wait for a container are seen again with the next listing.
            if is_due {
                self.workplace.leave_line();
                self.on_no_trouble();
            }
            return Ok(());
        }
        if self.running == 0 && self.workplace.container().is_some() {
            node.cgroups.expect_place();
        }
        let name = self.name.clone();
        let mut inputs = Vec::new();
        for waiting in &waiting {
            inputs.push(self.ahead.take(waiting).await);
        }
        let inputs = join_all(
            waiting
                .iter()
                .zip(inputs)
                .map(async |(waiting, read)| match read {
                    Some(input) => Ok(Some(input)),
                    None => claim::look(store, &name, waiting).await,
                }),
        );
        let inputs = if self.is_refreshed {
            inputs.await
        } else {
            // Not before the listing, so that whoever uploads a script and then drops a task finds it run.
            let (refreshed, inputs) = tokio::join!(self.workplace.refresh(), inputs);
            refreshed?;
            self.is_refreshed = true;
            inputs
        };
        let ready = match self.workplace.ready().await? {
            Ok(ready) => ready,
            Err(problem) => return self.wait(problem).await,
        };
        if ready.is_new {
            // Tasks of a dead one that are still coming to rest hold none of these.
            self.free_slots = (0..ready.container.concurrency()).collect();
            // There may be more of them than tasks were wanted for.
            self.look_at = now;
        }
        let mut refused = None;
        for (waiting, input) in waiting.into_iter().zip(inputs) {
            let Some(input) = input? else {
                continue;
            };
            refused = self.claim(&ready, waiting.key, input, shutdown).await?;
            if refused.is_some() {
                break;
            }
        }
        self.on_no_trouble();
        match refused {
            Some(Refused::ByLimit(problem)) => {
                self.wait(problem).await?;
                self.pause(GIVEN_BACK_DELAY);
            }
            Some(Refused::NoFunds) => self.pause(GIVEN_BACK_DELAY),
            None => self.bulletin.all_is_well().await?,
        }
        Ok(())
    }

    /// Claims one task and starts it. One after the other, so that those first in line have the money.
    async fn claim(
        &mut self,
        ready: &Ready,
        key: TaskKey,
        input: Input,
        shutdown: &CancellationToken,
    ) -> Result<Option<Refused>, ClaimError> {
        let Some(slot) = self.free_slots.first().copied() else {
            return Ok(None);
        };
        let claimer = Claimer {
            store: self.node.store.as_ref(),
            credit: self.node.credit.as_ref(),
            journal: &self.node.journal,
            function: &self.name,
            capacity: capacity_each(&ready.container),
            bytes_max: self.node.config.fetch_bytes_max(),
        };
        let asked_at = Instant::now();
        match claimer.claim(&key, input, self.node.clock.now()).await? {
            Claim::Won(won) => {
                self.free_slots.remove(&slot);
                self.queue.take(key);
                let plan = Plan {
                    container: ready.container.clone(),
                    slot,
                    script: ready.script.clone(),
                    settings: ready.settings.clone(),
                    asked_at,
                };
                let (node, shutdown) = (self.node.clone(), shutdown.clone());
                self.spawn(ready.container.id(), slot, async move {
                    attempt::execute(&node, &plan, *won, &shutdown).await
                });
            }
            Claim::Changed => {
                debug!(%key, "the object changed while it was claimed");
                self.queue.defer(key, GIVEN_BACK_DELAY);
            }
            Claim::Parked { reason } => info!(%key, reason, "task cannot run, parked"),
            Claim::Refused { refusal, message } => match refusal {
                Refusal::NoFunds => {
                    info!(message, "no funds for new work");
                    return Ok(Some(Refused::NoFunds));
                }
                Refusal::Runway | Refusal::SpendLimit => {
                    return Ok(Some(Refused::ByLimit(over_limit(refusal, message))));
                }
                _ => {
                    debug!(%key, ?refusal, message, "claim refused");
                    self.queue.defer(key, GIVEN_BACK_DELAY);
                }
            },
        }
        Ok(None)
    }

    /// Takes nothing in before the problem is mended.
    async fn wait(&mut self, problem: Problem) -> Result<(), ClaimError> {
        self.trouble = None;
        self.queue.forget();
        self.look_at = Instant::now() + self.poll_idle();
        Ok(self.bulletin.tell_problem(problem).await?)
    }

    /// When to list `input/` again: sooner where a container is warm, and soonest while tasks come.
    fn poll(&self, now: Instant) -> Duration {
        let is_warm = self.workplace.container().is_some();
        let poll = now.duration_since(self.active_at) / POLL_PART;
        if is_warm {
            poll.clamp(self.node.config.poll_busy(), self.poll_idle())
        } else {
            self.poll_idle()
        }
    }

    /// How often an idle function's `input/` is listed.
    fn poll_idle(&self) -> Duration {
        match self.workplace.container() {
            Some(_warm) => self.node.config.poll_idle(),
            None => self.node.poll_idle(),
        }
    }

    /// Follows a task from its licence on; its slot is free before it is charged and published.
    fn spawn(
        &mut self,
        container: ContainerId,
        slot: u32,
        execute: impl Future<Output = Executed> + Send + 'static,
    ) {
        self.running += 1;
        let (node, freed) = (self.node.clone(), self.freed.0.clone());
        self.tasks.spawn(async move {
            let executed = execute.await;
            let fault = match &executed {
                Executed::Ended {
                    attempt,
                    is_fault: true,
                    ..
                } => attempt.ending().map(|ending| ending.how.reason()),
                _ => None,
            };
            let told = Freed {
                container,
                slot,
                fault,
            };
            // Nobody listens at shutdown.
            let _ignored = freed.send(told);
            match executed {
                Executed::Ended { attempt, object, .. } => {
                    Over::Finished(Box::new(finish::finish(&node, *attempt, object.as_ref()).await))
                }
                Executed::Withdrawn(key) => Over::Withdrawn(key),
            }
        });
    }

    fn on_freed(&mut self, freed: Freed) {
        self.running -= 1;
        let container = self.workplace.container();
        // Another container's slots are its own.
        if container.is_none_or(|container| container.id() == freed.container) {
            self.free_slots.insert(freed.slot);
        }
        self.idle_since = Instant::now();
        if let Some(fault) = freed.fault {
            self.on_trouble(fault, OURS_TO_MEND);
        }
    }

    fn on_over(&mut self, over: Result<Over, JoinError>) {
        match over.expect("a task's future does not panic and is not aborted") {
            Over::Withdrawn(key) => self.queue.leave(&key),
            Over::Finished(attempt) => {
                self.queue.leave(&attempt.key);
                let failures = attempt.licence().map_or(0, |licence| licence.failures);
                let delay = match attempt.verdict() {
                    Some(Verdict::Failed) => retry_delay(failures + 1),
                    Some(Verdict::Aborted | Verdict::PlatformFault) => GIVEN_BACK_DELAY,
                    _ => return,
                };
                self.queue.defer(attempt.key, delay);
            }
        }
    }
}

/// Why nothing more is claimed for now.
enum Refused {
    NoFunds,
    ByLimit(Problem),
}

/// What to do about it, for people.
fn hint(err: &ClaimError) -> &'static str {
    match err {
        ClaimError::Store(_) => "the tasks wait until the object store answers as it should",
        ClaimError::Credit(_) => "the tasks wait until credit-manager answers as it should",
        ClaimError::Journal(_) => OURS_TO_MEND,
    }
}

fn slots(container: &WarmContainer) -> usize {
    usize::try_from(container.concurrency()).unwrap_or(usize::MAX)
}

/// A task's part of its container.
fn capacity_each(container: &WarmContainer) -> MilliCores {
    MilliCores::from_millicores(container.cpu_max().millicores() / container.concurrency().max(1))
}

fn over_limit(refusal: Refusal, message: String) -> Problem {
    let hint = if refusal == Refusal::Runway {
        "deposit, or wait until other tasks have ended"
    } else {
        "raise the limit, or wait until other tasks have ended"
    };
    Problem::with_figures(message, hint)
}
