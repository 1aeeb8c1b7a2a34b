//! INVOKE: one task, from its input to its results, for somebody who waits for it.
//!
//! The input becomes an object of `input/` like any other. What is sent back is read where everybody can read it: the log as
//! it is written, the results from the bucket once they are published and paid for.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use units::FunctionName;
use uuid::Uuid;

use crate::intake::Registry;
use crate::journal::JournalError;
use crate::layout::{self, TaskKey};
use crate::node::Node;
use crate::store::StoreError;
use crate::task::{Attempt, State, Verdict};

/// How often a running task's log is read.
const LOG_PAUSE: Duration = Duration::from_millis(20);
/// How often is looked for what nobody tells: that another node ran the task, that the function cannot run.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Read at once of a log or a result, in bytes.
const CHUNK: usize = 64 << 10;
/// Objects in one listing.
const PAGE: u32 = 1000;
/// More than any problem has.
const PROBLEM_BYTES_MAX: u64 = 64 << 10;

/// What to run.
pub struct Invocation {
    pub function: FunctionName,
    /// One of our making if absent.
    pub key: Option<TaskKey>,
    pub input: Bytes,
}

/// What is told of it, in this order.
pub enum Event {
    Accepted(TaskKey),
    Log(Bytes),
    Result {
        name: String,
        chunk: Bytes,
    },
    /// `attempt` is the one that ended it, if it was this node's.
    Ended {
        attempt: Option<Box<Attempt>>,
        succeeded: bool,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    #[error("a task `{key}` waits or runs already")]
    Exists { key: TaskKey },
    #[error("the function cannot run, and the task waits: {problem}")]
    Waits { problem: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("failed to read `{path}`")]
    Disk {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    /// It stopped listening.
    #[error("the caller is gone")]
    CallerGone,
}

type Events = mpsc::Sender<Result<Event, InvokeError>>;

/// Runs one task and tells `events` of it until it is over or nobody listens.
pub async fn invoke(
    node: &Node,
    registry: &Registry,
    invocation: Invocation,
    events: &Events,
) -> Result<(), InvokeError> {
    let Invocation { function, key, input } = invocation;
    let (store, bucket) = (node.store.as_ref(), function.as_str());
    let key = match key {
        Some(key) => {
            for place in [key.input(), key.processing()] {
                if store.head(bucket, &place).await?.is_some() {
                    return Err(InvokeError::Exists { key });
                }
            }
            key
        }
        None => TaskKey::from_name(&format!("invoke-{}", Uuid::now_v7())).expect("it is not empty"),
    };
    let mut news = node.journal.follow();
    store
        .put(bucket, &key.input(), input, "application/octet-stream")
        .await?;
    registry.hint(&function);
    tell(events, Event::Accepted(key.clone())).await?;

    let mut log = None::<Log>;
    let mut is_ours = false;
    let mut read_log = tokio::time::interval(LOG_PAUSE);
    read_log.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK_PAUSE, LOOK_PAUSE);
    loop {
        let attempt = tokio::select! {
            told = news.recv() => match told {
                Ok(attempt) if attempt.function == function && attempt.key == key => Some(attempt),
                Ok(_others) => None,
                // The newest tells what was missed; an older one of that name was over before.
                Err(RecvError::Lagged(_)) => {
                    let newest = node.journal.newest_of(&function, &key).await?;
                    newest.filter(|attempt| is_ours || !attempt.is_over())
                }
                Err(RecvError::Closed) => return Ok(()),
            },
            _ = read_log.tick(), if log.is_some() => None,
            _ = look.tick() => {
                if events.is_closed() {
                    return Err(InvokeError::CallerGone);
                }
                if !is_ours && look_around(node, &function, &key, events).await? {
                    return Ok(());
                }
                None
            }
        };
        if let Some(attempt) = &attempt {
            is_ours = true;
            if matches!(attempt.state, State::Running { .. }) {
                log = Some(Log::of(node, attempt));
            }
        }
        if let Some(log) = &mut log {
            log.send(events).await?;
        }
        let Some(attempt) = attempt else { continue };
        if attempt.ending().is_some() {
            log = None;
        }
        let succeeded = match attempt.verdict().filter(|_| attempt.is_over()) {
            Some(Verdict::Succeeded) => true,
            Some(Verdict::GaveUp | Verdict::Cancelled | Verdict::CapSpent) => false,
            // It runs, or is tried again.
            Some(Verdict::Failed | Verdict::Aborted | Verdict::PlatformFault) | None => continue,
        };
        send_results(node, &function, &key, events).await?;
        let attempt = Some(Box::new(attempt));
        return tell(events, Event::Ended { attempt, succeeded }).await;
    }
}

async fn tell(events: &Events, event: Event) -> Result<(), InvokeError> {
    events
        .send(Ok(event))
        .await
        .map_err(|_gone| InvokeError::CallerGone)
}

/// Whether another node brought the task to its end, which is then told.
async fn look_around(
    node: &Node,
    function: &FunctionName,
    key: &TaskKey,
    events: &Events,
) -> Result<bool, InvokeError> {
    let (store, bucket) = (node.store.as_ref(), function.as_str());
    for (place, succeeded) in [(key.output(), true), (key.failed(), false)] {
        if store.head(bucket, &place).await?.is_some() && store.head(bucket, &key.input()).await?.is_none() {
            send_results(node, function, key, events).await?;
            let attempt = None;
            tell(events, Event::Ended { attempt, succeeded }).await?;
            return Ok(true);
        }
    }
    match store.get(bucket, layout::STATUS_ERROR, PROBLEM_BYTES_MAX).await? {
        Some(problem) => Err(InvokeError::Waits {
            problem: String::from_utf8_lossy(&problem.body).into_owned(),
        }),
        None => Ok(false),
    }
}

/// The log of a running attempt, and how far it was sent.
struct Log {
    path: PathBuf,
    file: Option<File>,
}

impl Log {
    fn of(node: &Node, attempt: &Attempt) -> Self {
        Self {
            path: node.spool(attempt.session).log(),
            file: None,
        }
    }

    /// Sends what was written since.
    async fn send(&mut self, events: &Events) -> Result<(), InvokeError> {
        if self.file.is_none() {
            match File::open(&self.path).await {
                Ok(file) => self.file = Some(file),
                Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(err) => return Err(unreadable(&self.path)(err)),
            }
        }
        while let Some(file) = &mut self.file {
            let chunk = read_chunk(file).await.map_err(unreadable(&self.path))?;
            if chunk.is_empty() {
                break;
            }
            tell(events, Event::Log(chunk)).await?;
        }
        Ok(())
    }
}

async fn send_results(
    node: &Node,
    function: &FunctionName,
    key: &TaskKey,
    events: &Events,
) -> Result<(), InvokeError> {
    let (store, bucket, prefix) = (node.store.as_ref(), function.as_str(), key.result(""));
    let folder = &node.config.state_dir;
    let mut after = None::<String>;
    loop {
        let listed = store.list(bucket, &prefix, after.as_deref(), PAGE).await?;
        let Some(last) = listed.last() else { return Ok(()) };
        after = Some(last.key.clone());
        for object in &listed {
            let name = object.key.strip_prefix(&prefix).unwrap_or(&object.key);
            let copy = tempfile::NamedTempFile::new_in(folder).map_err(unreadable(folder))?;
            let fetched = store.download(bucket, &object.key, copy.path(), u64::MAX).await?;
            if fetched.is_none() {
                continue;
            }
            let mut file = File::open(copy.path()).await.map_err(unreadable(folder))?;
            let mut is_first = true;
            loop {
                let chunk = read_chunk(&mut file).await.map_err(unreadable(folder))?;
                if chunk.is_empty() && !is_first {
                    break;
                }
                is_first = false;
                let name = name.to_owned();
                tell(events, Event::Result { name, chunk }).await?;
            }
        }
    }
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> InvokeError {
    let path = path.to_owned();
    move |err| InvokeError::Disk { path, err }
}

/// Empty at the end.
async fn read_chunk(file: &mut File) -> io::Result<Bytes> {
    let mut chunk = vec![0; CHUNK];
    let read = file.read(&mut chunk).await?;
    chunk.truncate(read);
    Ok(chunk.into())
}
