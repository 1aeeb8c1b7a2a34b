//! TASK CLAIMED: `input/` → `processing/`, under a session, one winner.
//!
//! A task that a node left in `processing/` when it went for good is claimed there, and stays there.
//!
//! The session is the claim: credit-manager has at most one live for a function and key. The object's move only follows
//! it ([`crate::attempt`]), pinned to the version that was seen, so the store is never asked to decide a race.

use std::time::Duration;

use backon::{ConstantBuilder, Retryable as _};
use bytes::Bytes;
use service_kit::Chain;
use tempfile::{NamedTempFile, TempPath};
use tracing::warn;
use units::{Amount, CpuTime, FunctionName, MilliCores, SessionId, TaskId, Timestamp};

use crate::chain::{META_MAX_GRC, META_PARENT};
use crate::credit::{Credit, CreditError, OpenSession, Opened, Refusal, SessionState};
use crate::journal::{Journal, JournalError};
use crate::layout::{Source, TaskKey};
use crate::node::Node;
use crate::park;
use crate::publish::{self, META_TASK};
use crate::queue::Waiting;
use crate::store::{Head, Metadata, Object, ObjectStore, StoreError};
use crate::task::{Attempt, State, Verdict};

/// Between the tries to open a session, of which there are three.
const OPEN_PAUSE: Duration = Duration::from_millis(200);
/// The largest object that is read before its session is asked for, in bytes.
const READ_MAX: u64 = 1 << 20;

/// A task's object, as it is before it is claimed.
pub struct Input {
    pub source: Source,
    pub head: Head,
    pub content: Content,
}

/// What is here of a task's file.
pub enum Content {
    /// Nothing yet.
    Remote,
    /// All of it, which is little.
    Bytes(Bytes),
    /// All of it, read ahead.
    File {
        path: TempPath,
        /// In hex.
        sha256: String,
    },
}

/// The session is ours. The object is still to be moved.
pub struct Won {
    /// Licensed, and journalled as claimed.
    pub attempt: Attempt,
    pub state: SessionState,
    /// With the task's id among the metadata.
    pub input: Input,
}

pub enum Claim {
    Won(Box<Won>),
    /// It may never run, and was put into `failed/` with this reason.
    Parked {
        reason: String,
    },
    /// It is not what was looked at any more.
    Changed,
    /// Not now; for the reason given.
    Refused {
        refusal: Refusal,
        message: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Credit(#[from] CreditError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Looks at a task's object, and reads a small one whole: that saves a request, and the time for it once the session is
/// open. `None` if it is gone: deleted, or another node's.
pub async fn look(
    store: &dyn ObjectStore,
    function: &FunctionName,
    waiting: &Waiting,
) -> Result<Option<Input>, StoreError> {
    let (bucket, source) = (function.as_str(), waiting.source);
    let key = source.key(&waiting.key);
    if waiting.size <= READ_MAX {
        match store.get(bucket, &key, READ_MAX).await {
            // It was replaced by a larger one.
            Err(StoreError::TooLarge { .. }) => {}
            read => {
                return Ok(read?.map(|Object { head, body }| Input {
                    source,
                    head,
                    content: Content::Bytes(body),
                }));
            }
        }
    }
    let head = store.head(bucket, &key).await?;
    Ok(head.map(|head| Input {
        source,
        head,
        content: Content::Remote,
    }))
}

/// Looks, and reads a large object into a file, if this node takes files so large.
pub async fn read(
    node: &Node,
    function: &FunctionName,
    waiting: &Waiting,
) -> Result<Option<Input>, StoreError> {
    let (store, bytes_max) = (node.store.as_ref(), node.config.fetch_bytes_max());
    let Some(mut input) = look(store, function, waiting).await? else {
        return Ok(None);
    };
    if matches!(input.content, Content::Remote) && input.head.size <= bytes_max {
        // A disk without room is told of when the task starts.
        let folder = node.ahead_root();
        let file = std::fs::create_dir_all(&folder).and_then(|()| NamedTempFile::new_in(folder));
        let Ok(file) = file else {
            return Ok(Some(input));
        };
        let (path, key) = (file.into_temp_path(), waiting.source.key(&waiting.key));
        let fetched = store.download(function.as_str(), &key, &path, bytes_max).await?;
        if let Some(fetched) = fetched.filter(|fetched| fetched.etag == input.head.etag) {
            let sha256 = fetched.sha256;
            input.content = Content::File { path, sha256 };
        }
    }
    Ok(Some(input))
}

pub struct Claimer<'a> {
    pub store: &'a dyn ObjectStore,
    pub credit: &'a dyn Credit,
    pub journal: &'a Journal,
    pub function: &'a FunctionName,
    pub capacity: MilliCores,
    /// The largest file that may be a task here.
    pub bytes_max: u64,
}

impl Claimer<'_> {
    /// Tries to make the object at `key`, in the version that was seen, this node's task.
    pub async fn claim(&self, key: &TaskKey, mut input: Input, now: Timestamp) -> Result<Claim, ClaimError> {
        let (source, head) = (input.source, &input.head);
        if let Some(reason) = key.problem().or_else(|| self.too_large(head)) {
            return match source {
                Source::Input => self.park((source, key), head, reason, now).await,
                // Its node took it.
                Source::Processing => Ok(Claim::Changed),
            };
        }
        let task = task_id(&head.metadata, META_TASK);
        if source == Source::Processing {
            let Some(task) = task else {
                // No node put it there.
                return Ok(Claim::Changed);
            };
            if publish::conclude_for_another(self.store, self.function, key, task, head).await? {
                return Ok(Claim::Changed);
            }
        }
        let mut attempt = Attempt {
            session: SessionId::new(),
            function: self.function.clone(),
            key: key.clone(),
            etag: head.etag.clone(),
            source,
            claimed_at: now,
            state: State::Claimed,
        };
        let max_amount = match max_amount(&head.metadata) {
            Ok(max_amount) => max_amount,
            Err(reason) => return self.park((source, key), head, reason, now).await,
        };
        let request = OpenSession {
            session: attempt.session,
            function: self.function.clone(),
            key: key.clone(),
            task,
            is_left_behind: source == Source::Processing,
            parent: task_id(&head.metadata, META_PARENT),
            max_amount,
            capacity: self.capacity,
            input_bytes: head.size,
        };
        self.journal.record(&attempt).await?;
        let open = || self.credit.open(&request);
        let opened = open
            .retry(ConstantBuilder::default().with_delay(OPEN_PAUSE))
            .when(CreditError::is_transient)
            .await;
        let (licence, state) = match opened {
            Ok(Opened::Licensed { licence, state }) => (licence, state),
            Ok(Opened::Refused { refusal, message }) => {
                self.journal.forget(attempt.session).await?;
                if refusal.is_final() {
                    return self.park((source, key), head, message, now).await;
                }
                return Ok(Claim::Refused { refusal, message });
            }
            Err(err) => {
                // It may have been opened all the same.
                withdraw(self.credit, self.journal, &attempt).await?;
                return Err(err.into());
            }
        };
        if request.task.is_none() || request.is_left_behind {
            // Another session may have begun and ended since the look: then the object is back and carries that one's task, or is
            // where that one's end put it.
            let now = self.store.head(self.function.as_str(), &source.key(key)).await;
            let is_same = |now: &Head| task_id(&now.metadata, META_TASK) == request.task;
            if !now.as_ref().is_ok_and(|now| now.as_ref().is_some_and(is_same)) {
                withdraw(self.credit, self.journal, &attempt).await?;
                return Ok(now.map(|_| Claim::Changed)?);
            }
        }
        input
            .head
            .metadata
            .insert(META_TASK.to_owned(), licence.task.to_string());
        attempt.state = State::Licensed { licence };
        Ok(Claim::Won(Box::new(Won {
            attempt,
            state,
            input,
        })))
    }

    fn too_large(&self, head: &Head) -> Option<String> {
        let bytes_max = self.bytes_max;
        (head.size > bytes_max).then(|| {
            format!(
                "the file has {} bytes, and this node takes at most {bytes_max}",
                head.size
            )
        })
    }

    async fn park(
        &self,
        from: (Source, &TaskKey),
        seen: &Head,
        reason: String,
        now: Timestamp,
    ) -> Result<Claim, ClaimError> {
        park::park(self.store, self.function, from, seen, &reason, now).await?;
        Ok(Claim::Parked { reason })
    }
}

/// Gives a session back that came to nothing. One for a task that was left behind is left to its lease: a session that its node
/// closes says that the node brings the object to where it belongs.
pub async fn withdraw(credit: &dyn Credit, journal: &Journal, attempt: &Attempt) -> Result<(), JournalError> {
    let session = attempt.session;
    if attempt.source == Source::Input
        && let Err(err) = credit.close(session, CpuTime::ZERO, Verdict::PlatformFault).await
    {
        warn!(error = %Chain(&err), "session not given back, its lease will end it");
    }
    journal.forget(session).await
}

fn task_id(metadata: &Metadata, key: &str) -> Option<TaskId> {
    metadata.get(key).and_then(|task| task.parse().ok())
}

/// The task's own money cap; if it makes no sense, why, for people.
fn max_amount(metadata: &Metadata) -> Result<Option<Amount>, String> {
    let Some(text) = metadata.get(META_MAX_GRC) else {
        return Ok(None);
    };
    match text.trim().parse::<Amount>() {
        Ok(cap) if cap.is_positive() => Ok(Some(cap)),
        Ok(_) => Err(format!(
            "the object's metadata `{META_MAX_GRC}` is `{text}`, which is not above 0"
        )),
        Err(err) => Err(format!("the object's metadata `{META_MAX_GRC}`: {err}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credit::fake::FakeCredit;
    use crate::store::fake::FakeStore;

    #[tokio::test]
    async fn an_object_that_another_node_put_back_since_the_look_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let (store, credit) = (FakeStore::default(), FakeCredit::new());
        let journal = Journal::open(&folder.path().join("journal.db")).unwrap();
        let function: FunctionName = "count".parse().unwrap();
        let key = TaskKey::from_name("a.txt").unwrap();
        credit.add_function(&function, &"alice".parse().unwrap());
        store.create_bucket("count");
        store.drop_object("count", &key.input(), "1");
        let waiting = Waiting {
            key: key.clone(),
            source: Source::Input,
            etag: String::new(),
            size: 1,
        };
        let seen = look(&store, &function, &waiting).await.unwrap().unwrap();

        let task = Metadata::from([(META_TASK.to_owned(), TaskId::new().to_string())]);
        store.drop_with_metadata("count", &key.input(), "1", task);
        let claimer = Claimer {
            store: &store,
            credit: &credit,
            journal: &journal,
            function: &function,
            capacity: MilliCores::ONE_CORE,
            bytes_max: READ_MAX,
        };
        let now = Timestamp::from_unix_ms(0);
        assert!(matches!(claimer.claim(&key, seen, now).await, Ok(Claim::Changed)));
        assert_eq!(credit.closed(), [(Verdict::PlatformFault, CpuTime::ZERO)]);

        let seen = look(&store, &function, &waiting).await.unwrap().unwrap();
        assert!(matches!(claimer.claim(&key, seen, now).await, Ok(Claim::Won(_))));
    }

    #[test]
    fn a_cap_is_an_amount_above_zero_and_anything_else_is_refused_by_name() {
        let read = |text: &str| max_amount(&Metadata::from([(META_MAX_GRC.to_owned(), text.to_owned())]));
        assert_eq!(max_amount(&Metadata::new()), Ok(None));
        assert_eq!(read(" 0.05 "), Ok(Some(Amount::from_halfords(5_000_000))));
        for text in [
            "",
            "0",
            "-1",
            "five",
            "1e3",
            "NaN",
            "0.000000001",
            "99999999999999999999",
        ] {
            let err = read(text).unwrap_err();
            assert!(err.contains("`max-grc`"), "{text}: {err}");
        }
    }
}
