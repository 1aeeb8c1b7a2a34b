//! Writes a run down while it runs, for the laboratory.
//!
//! Nothing ever waits for it. What is recorded goes into a bounded queue to a writer; a disk that is full, or too slow, ends
//! the recording, which is said once, and nothing else.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use service_kit::Chain;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use units::{Amount, FunctionName, Standing, UserName};

use crate::credit::{Account, Credit};
use crate::layout::{self, TaskKey};
use crate::recording::{self, Entry, Record, TaskOutcome, Told};
use crate::store::{ObjectStore, StoreError};

/// Lines that wait for the disk, of some 250 bytes each: what a hundred containers have to tell in ten seconds.
const QUEUE: usize = 16_384;
/// Lines written at once.
const BATCH: usize = 1024;
/// How often waiting objects are counted and accounts are read, beside what is learnt of them anyway.
const SURVEY_PAUSE: Duration = Duration::from_millis(500);
/// Objects in one listing.
const PAGE: u32 = 1000;

#[derive(Debug, thiserror::Error)]
#[error("failed to create the recording `{path}`")]
pub struct RecorderError {
    path: PathBuf,
    #[source]
    err: io::Error,
}

/// Takes down what happens; the default takes down nothing. Clones write the same recording.
#[derive(Clone, Default)]
pub struct Recorder(Option<Arc<Mutex<Live>>>);

struct Live {
    began: Instant,
    /// Absent once the recording has ended.
    to: Option<mpsc::Sender<Entry>>,
    told: Told,
}

/// The file's side of a recording.
pub struct Writer {
    path: PathBuf,
    file: File,
    from: mpsc::Receiver<Entry>,
}

impl Recorder {
    /// Begins a recording with `run`. A file that is there is replaced.
    pub async fn create(path: &Path, run: Record) -> Result<(Self, Writer), RecorderError> {
        let file = File::create(path).await.map_err(|err| RecorderError {
            path: path.to_owned(),
            err,
        })?;
        let (to, from) = mpsc::channel(QUEUE);
        let live = Live {
            began: Instant::now(),
            to: Some(to),
            told: Told::default(),
        };
        let recorder = Self(Some(Arc::new(Mutex::new(live))));
        recorder.record(run);
        let path = path.to_owned();
        Ok((recorder, Writer { path, file, from }))
    }

    /// What is as it was last told is passed over. Of a task that starts or ends, its function's counts are told as well.
    pub fn record(&self, record: Record) {
        self.with(|live| live.record(record));
    }

    /// What an account is worth, from the only one who knows all of it.
    pub fn account(&self, user: &UserName, account: &Account) {
        self.record(Record::Funds {
            user: user.clone(),
            balance: account.balance,
            debt_limit: account.debt_limit,
            standing: account.standing,
            billing: account.billing,
        });
    }

    /// What a session tells of its user's account.
    pub fn balance(&self, user: &UserName, balance: Amount, standing: Standing) {
        self.with(|live| {
            if let Some(Record::Funds {
                debt_limit, billing, ..
            }) = live.told.funds(user)
            {
                let funds = Record::Funds {
                    user: user.clone(),
                    balance,
                    debt_limit: *debt_limit,
                    standing,
                    billing: *billing,
                };
                live.record(funds);
            }
        });
    }

    /// How many objects wait in a function's `input/`.
    pub fn waiting(&self, function: &FunctionName, pending: u32) {
        self.with(|live| live.count(function, |_, running| (pending, running)));
    }

    /// Nothing is taken down any more; the writer ends when all is on its way to the disk.
    pub fn end(&self) {
        self.with(|live| live.to = None);
    }

    /// Counts what waits and reads accounts until shutdown; with nothing to record, it only waits for that.
    pub async fn survey(
        self,
        store: Arc<dyn ObjectStore>,
        credit: Arc<dyn Credit>,
        shutdown: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        while self.is_on() {
            if shutdown
                .run_until_cancelled(self.look_around(store.as_ref(), credit.as_ref()))
                .await
                .is_none()
            {
                break;
            }
            let pause = tokio::time::sleep(SURVEY_PAUSE);
            let _woken = shutdown.run_until_cancelled(pause).await;
        }
        shutdown.cancelled().await;
        Ok(())
    }

    async fn look_around(&self, store: &dyn ObjectStore, credit: &dyn Credit) {
        let functions = match credit.functions().await {
            Ok(functions) => functions,
            Err(err) => return debug!(error = %Chain(&err), "functions not read"),
        };
        for function in &functions {
            match waiting(store, &function.name).await {
                Ok(pending) => self.waiting(&function.name, pending),
                Err(err) => debug!(error = %Chain(&err), "waiting tasks not counted"),
            }
        }
        let users: BTreeSet<&UserName> = functions.iter().map(|function| &function.user).collect();
        for user in users {
            match credit.account(user).await {
                Ok(account) => self.account(user, &account),
                Err(err) => debug!(error = %Chain(&err), "account not read"),
            }
        }
    }

    fn is_on(&self) -> bool {
        self.0.as_ref().is_some_and(|live| lock(live).to.is_some())
    }

    fn with(&self, act: impl FnOnce(&mut Live)) {
        if let Some(live) = &self.0 {
            act(&mut lock(live));
        }
    }
}

fn lock(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    // Nothing under the lock can panic halfway.
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    fn record(&mut self, record: Record) {
        match &record {
            Record::TaskStarted { function, .. } => {
                let function = function.clone();
                self.tell(record);
                self.count(&function, |pending, running| {
                    (pending.saturating_sub(1), running.saturating_add(1))
                });
            }
            Record::TaskEnded {
                function, outcome, ..
            } => {
                let (function, returned) = (function.clone(), *outcome == TaskOutcome::Returned);
                self.tell(record);
                self.count(&function, |pending, running| {
                    (
                        pending.saturating_add(u32::from(returned)),
                        running.saturating_sub(1),
                    )
                });
            }
            _ => self.tell(record),
        }
    }

    /// Tells how many tasks of a function wait and run, given how many did.
    fn count(&mut self, function: &FunctionName, change: impl FnOnce(u32, u32) -> (u32, u32)) {
        let (pending, running) = match self.told.tasks(function) {
            Some(Record::Tasks { pending, running, .. }) => change(*pending, *running),
            _ => change(0, 0),
        };
        self.tell(Record::Tasks {
            function: function.clone(),
            pending,
            running,
        });
    }

    /// The moment is taken under the lock, so lines are in the order of time.
    fn tell(&mut self, record: Record) {
        let Some(to) = &self.to else { return };
        let at_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let entry = Entry { at_us, record };
        if !self.told.is_news(&entry) {
            return;
        }
        match to.try_send(entry) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                warn!("the recording ends here: the disk does not keep up");
                self.to = None;
            }
            // The writer has said why.
            Err(TrySendError::Closed(_)) => self.to = None,
        }
    }
}

impl Writer {
    /// Writes until the recording has ended.
    pub async fn run(mut self) {
        if let Err(err) = self.write().await {
            warn!(path = %self.path.display(), error = %err, "the recording ends here: its file cannot be written");
        }
    }

    async fn write(&mut self) -> io::Result<()> {
        let (mut entries, mut lines) = (Vec::new(), Vec::new());
        while self.from.recv_many(&mut entries, BATCH).await > 0 {
            lines.clear();
            for entry in entries.drain(..) {
                recording::write(&mut lines, &entry)?;
            }
            self.file.write_all(&lines).await?;
            self.file.flush().await?;
        }
        Ok(())
    }
}

async fn waiting(store: &dyn ObjectStore, function: &FunctionName) -> Result<u32, StoreError> {
    let (mut count, mut after) = (0_u32, None::<String>);
    loop {
        let listed = store
            .list(function.as_str(), layout::INPUT, after.as_deref(), PAGE)
            .await?;
        let tasks = listed.iter().filter(|o| TaskKey::from_input(&o.key).is_some());
        count = count.saturating_add(u32::try_from(tasks.count()).unwrap_or(u32::MAX));
        if u32::try_from(listed.len()).unwrap_or(PAGE) < PAGE {
            return Ok(count);
        }
        after = listed.last().map(|object| object.key.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::{Billing, MilliCores};

    fn run() -> Record {
        Record::Run {
            name: "n1".to_owned(),
            speed: 1,
            capacity_millicores: MilliCores::ONE_CORE,
        }
    }

    fn read(path: &Path) -> Vec<Entry> {
        let file = std::fs::File::open(path).unwrap();
        recording::read(io::BufReader::new(file))
            .map(Result::unwrap)
            .collect()
    }

    #[tokio::test]
    async fn what_is_recorded_is_on_disk_when_the_writer_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let (recorder, writer) = Recorder::create(&path, run()).await.unwrap();
        let function: FunctionName = "work".parse().unwrap();
        recorder.waiting(&function, 2);
        recorder.waiting(&function, 2);
        recorder.clone().waiting(&function, 1);
        recorder.end();
        recorder.waiting(&function, 0);
        writer.run().await;
        let entries = read(&path);
        assert!(entries.is_sorted_by_key(|entry| entry.at_us));
        let pending: Vec<u32> = entries
            .iter()
            .filter_map(|entry| match &entry.record {
                Record::Tasks { pending, .. } => Some(*pending),
                _ => None,
            })
            .collect();
        assert_eq!(pending, [2, 1], "the same is said once");
        assert_eq!(entries[0].record, run());
    }

    #[tokio::test]
    async fn a_balance_is_recorded_once_the_account_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let (recorder, writer) = Recorder::create(&path, run()).await.unwrap();
        let user: UserName = "alice".parse().unwrap();
        let account = Account {
            balance: Amount::from_halfords(70),
            standing: Standing::Good,
            debt_limit: Amount::from_halfords(50),
            billing: Billing::Used,
            burn: Amount::ZERO,
            runway: None,
        };
        recorder.balance(&user, Amount::from_halfords(90), Standing::Good);
        recorder.account(&user, &account);
        recorder.balance(&user, Amount::from_halfords(-1), Standing::InDebt);
        recorder.end();
        writer.run().await;
        let halfords: Vec<i64> = read(&path)
            .iter()
            .filter_map(|entry| match &entry.record {
                Record::Funds {
                    balance, debt_limit, ..
                } => {
                    assert_eq!(*debt_limit, account.debt_limit);
                    Some(balance.halfords())
                }
                _ => None,
            })
            .collect();
        assert_eq!(halfords, [70, -1]);
    }

    #[tokio::test]
    async fn a_full_disk_ends_the_recording_and_nothing_else() {
        let (recorder, writer) = Recorder::create(Path::new("/dev/full"), run()).await.unwrap();
        writer.run().await;
        recorder.record(run());
        assert!(!recorder.is_on());
        assert!(Recorder::create(Path::new("/nowhere/run"), run()).await.is_err());
    }

    #[tokio::test]
    async fn a_disk_that_is_too_slow_ends_the_recording_and_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let (recorder, writer) = Recorder::create(&path, run()).await.unwrap();
        for _ in 0..QUEUE + 10 {
            recorder.record(run());
        }
        assert!(!recorder.is_on());
        writer.run().await;
        assert_eq!(read(&path).len(), QUEUE, "what had room is whole");
    }
}
