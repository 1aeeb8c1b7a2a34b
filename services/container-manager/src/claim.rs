//! TASK CLAIMED: `input/` → `processing/`, under a session, one winner.
//!
//! The session is the claim: credit-manager has at most one live for a function and key. The object's move only follows
//! it, pinned to the version that was seen, so the store is never asked to decide a race.

use service_kit::Chain;
use tracing::{debug, warn};
use units::{CpuTime, FunctionName, MilliCores, SessionId, Timestamp};

use crate::credit::{Credit, CreditError, OpenSession, Opened, Refusal, SessionState};
use crate::journal::{Journal, JournalError};
use crate::layout::TaskKey;
use crate::publish::META_TASK;
use crate::store::{Copied, ObjectStore, StoreError};
use crate::task::{Attempt, State, Verdict};

/// The key of a task's own money cap in its object's metadata, in GRC.
const META_MAX_GRC: &str = "max-grc";

pub enum Claim {
    Won {
        attempt: Box<Attempt>,
        state: SessionState,
    },
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
}

impl Claimer<'_> {
    /// Tries to make the object at `key`, in the version it has now, this node's task.
    pub async fn claim(&self, key: &TaskKey, now: Timestamp) -> Result<Claim, ClaimError> {
        let bucket = self.function.as_str();
        let Some(mut head) = self.store.head(bucket, &key.input()).await? else {
            return Ok(Claim::Lost);
        };
        let mut attempt = Attempt {
            session: SessionId::new(),
            function: self.function.clone(),
            key: key.clone(),
            etag: head.etag.clone(),
            claimed_at: now,
            state: State::Claimed,
        };
        let cap = head.metadata.get(META_MAX_GRC);
        let request = OpenSession {
            session: attempt.session,
            function: self.function.clone(),
            key: key.clone(),
            task: head.metadata.get(META_TASK).and_then(|task| task.parse().ok()),
            max_amount: cap.and_then(|text| text.parse().ok()),
            capacity: self.capacity,
        };
        self.journal.record(&attempt).await?;
        let (licence, state) = match self.credit.open(&request).await? {
            Opened::Licensed { licence, state } => (licence, state),
            Opened::Refused { refusal, message } => {
                self.journal.forget(attempt.session).await?;
                return Ok(Claim::Refused { refusal, message });
            }
        };
        head.metadata
            .insert(META_TASK.to_owned(), licence.task.to_string());
        attempt.state = State::Licensed { licence };
        self.journal.record(&attempt).await?;
        match self
            .store
            .copy(bucket, &key.input(), &key.processing(), &head)
            .await?
        {
            Copied::Done => {
                self.store.delete(bucket, &key.input(), Some(&head.etag)).await?;
                Ok(Claim::Won {
                    attempt: Box::new(attempt),
                    state,
                })
            }
            Copied::SourceChanged => {
                debug!(%key, "the object changed while it was claimed");
                self.withdraw(&attempt).await?;
                Ok(Claim::Lost)
            }
        }
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
