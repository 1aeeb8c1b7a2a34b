//! TASK CLAIMED: `input/` → `processing/`, under a session, one winner.
//!
//! The session is the claim: credit-manager has at most one live for a function and key. The object's move only follows
//! it, pinned to the version that was seen, so the store is never asked to decide a race.

use std::time::Duration;

use backon::{ConstantBuilder, Retryable as _};
use service_kit::Chain;
use tracing::{debug, warn};
use units::{Amount, CpuTime, FunctionName, MilliCores, SessionId, TaskId, Timestamp};

use crate::chain::{META_MAX_GRC, META_PARENT};
use crate::credit::{Credit, CreditError, OpenSession, Opened, Refusal, SessionState};
use crate::journal::{Journal, JournalError};
use crate::layout::TaskKey;
use crate::park;
use crate::publish::META_TASK;
use crate::store::{Copied, Head, Metadata, ObjectStore, StoreError};
use crate::task::{Attempt, State, Verdict};

/// Between the tries to open a session, of which there are three.
const OPEN_PAUSE: Duration = Duration::from_millis(200);

pub enum Claim {
    Won {
        attempt: Box<Attempt>,
        state: SessionState,
    },
    /// The session is ours, but the store failed while the object was moved: to be given back like any attempt of ours
    /// that failed.
    Cut { attempt: Box<Attempt>, err: StoreError },
    /// It may never run, and was put into `failed/` with this reason.
    Parked { reason: String },
    /// The object went elsewhere meanwhile: deleted, replaced, or another node's.
    Lost,
    /// Not now; for the reason given.
    Refused { refusal: Refusal, message: String },
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
    /// Tries to make the object at `key`, in the version it has now, this node's task.
    pub async fn claim(&self, key: &TaskKey, now: Timestamp) -> Result<Claim, ClaimError> {
        let bucket = self.function.as_str();
        let Some(mut head) = self.store.head(bucket, &key.input()).await? else {
            return Ok(Claim::Lost);
        };
        if let Some(reason) = key.problem().or_else(|| self.too_large(&head)) {
            return self.park(key, &head, reason, now).await;
        }
        let mut attempt = Attempt {
            session: SessionId::new(),
            function: self.function.clone(),
            key: key.clone(),
            etag: head.etag.clone(),
            claimed_at: now,
            state: State::Claimed,
        };
        let max_amount = match max_amount(&head.metadata) {
            Ok(max_amount) => max_amount,
            Err(reason) => return self.park(key, &head, reason, now).await,
        };
        let request = OpenSession {
            session: attempt.session,
            function: self.function.clone(),
            key: key.clone(),
            task: task_id(&head.metadata, META_TASK),
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
                    return self.park(key, &head, message, now).await;
                }
                return Ok(Claim::Refused { refusal, message });
            }
            Err(err) => {
                // It may have been opened all the same.
                self.withdraw(&attempt).await?;
                return Err(err.into());
            }
        };
        head.metadata
            .insert(META_TASK.to_owned(), licence.task.to_string());
        attempt.state = State::Licensed { licence };
        self.journal.record(&attempt).await?;
        let attempt = Box::new(attempt);
        match self.fetch(key, &head).await {
            Ok(Copied::Done) => Ok(Claim::Won { attempt, state }),
            Ok(Copied::SourceChanged) => {
                debug!(%key, "the object changed while it was claimed");
                self.withdraw(&attempt).await?;
                Ok(Claim::Lost)
            }
            Err(err) => Ok(Claim::Cut { attempt, err }),
        }
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

    /// Moves the object to `processing/`, if it is still the version that was seen.
    async fn fetch(&self, key: &TaskKey, seen: &Head) -> Result<Copied, StoreError> {
        let bucket = self.function.as_str();
        let copied = self
            .store
            .copy(bucket, &key.input(), &key.processing(), seen)
            .await?;
        if copied == Copied::Done {
            self.store.delete(bucket, &key.input(), Some(&seen.etag)).await?;
        }
        Ok(copied)
    }

    async fn park(
        &self,
        key: &TaskKey,
        seen: &Head,
        reason: String,
        now: Timestamp,
    ) -> Result<Claim, ClaimError> {
        park::park(self.store, self.function, key, seen, &reason, now).await?;
        Ok(Claim::Parked { reason })
    }

    /// Gives a session back that came to nothing.
    async fn withdraw(&self, attempt: &Attempt) -> Result<(), ClaimError> {
        if let Err(err) = self
            .credit
            .close(attempt.session, CpuTime::ZERO, Verdict::PlatformFault)
            .await
        {
            warn!(error = %Chain(&err), "session not given back, its lease will end it");
        }
        Ok(self.journal.forget(attempt.session).await?)
    }
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
