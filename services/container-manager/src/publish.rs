//! What an attempt leaves in the bucket: results, receipt, log, and the task object in its next place.
//!
//! Every step can be repeated, and the order is the promise: whoever sees an object in `output/` finds its results,
//! receipt and log, and the next function has what is chained to it; whoever sees it in `failed/` finds the reason. A receipt of
//! success comes after all the rest, so that any node that finds one can bring the object to where it belongs.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use serde::Deserialize;
use units::{FunctionName, TaskId};

use crate::chain::{self, Chained};
use crate::credit::CreditError;
use crate::documents::Settled;
use crate::layout::{RECEIPT, TaskKey};
use crate::spool::Spool;
use crate::store::{Copied, Head, Metadata, ObjectStore, StoreError};
use crate::task::Verdict;

/// The key of the task's id in its object's metadata, by which attempts of one task find together.
pub const META_TASK: &str = "gridfaas-task";
/// A receipt of a task with as many attempts and results as there may be is a fraction of this.
pub const RECEIPT_BYTES_MAX: u64 = 1 << 20;
/// Of one attempt's results: enough to hide the store's latency, few enough to leave it to others as well.
const UPLOADS_AT_ONCE: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Credit(#[from] CreditError),
    #[error("failed to read what the attempt left at `{path}`")]
    Spool {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

impl PublishError {
    /// Whether trying again can help: not for a bucket that its user deleted. Denied access is mended by operators.
    pub fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Store(StoreError::NoSuchBucket { .. } | StoreError::TooLarge { .. }) => false,
            Self::Credit(err) => err.is_transient(),
            Self::Store(_) | Self::Spool { .. } => true,
        }
    }
}

/// Uploads what a successful attempt made beside its log, which may take long. Returns what became of the results in the
/// next function.
pub async fn upload(
    store: &dyn ObjectStore,
    spool: &Spool,
    settled: &Settled<'_>,
) -> Result<Option<Chained>, PublishError> {
    if settled.verdict != Verdict::Succeeded {
        return Ok(None);
    }
    let (bucket, key) = (settled.attempt.function.as_str(), &settled.attempt.key);
    let ((), chained) = tokio::try_join!(
        upload_results(store, bucket, key, spool),
        chain::put_results(store, spool, settled),
    )?;
    Ok(chained)
}

/// Brings the bucket to where the verdict wants it, all results being there. `object` is the task's object in `processing/`,
/// where that is known.
pub async fn conclude(
    store: &dyn ObjectStore,
    spool: &Spool,
    settled: &Settled<'_>,
    chained: Option<&Chained>,
    object: Option<&Head>,
) -> Result<(), PublishError> {
    let (bucket, key) = (settled.attempt.function.as_str(), &settled.attempt.key);
    let to = match settled.verdict {
        Verdict::Succeeded => {
            put_json(store, bucket, &key.receipt(), settled.receipt(chained)).await?;
            key.output()
        }
        Verdict::Failed => {
            keep_error_log(store, bucket, key, spool).await?;
            key.input()
        }
        Verdict::GaveUp | Verdict::Cancelled | Verdict::CapSpent => {
            keep_error_log(store, bucket, key, spool).await?;
            put_json(store, bucket, &key.receipt(), settled.receipt(None)).await?;
            put_json(store, bucket, &key.failed_reason(), settled.notice()).await?;
            key.failed()
        }
        Verdict::Aborted => {
            keep_error_log(store, bucket, key, spool).await?;
            put_json(store, bucket, &key.aborted(), settled.notice()).await?;
            key.input()
        }
        Verdict::PlatformFault => {
            // What never came to a start has nothing to tell.
            if settled.run.is_some() {
                put_json(store, bucket, &key.aborted(), settled.notice()).await?;
            }
            key.input()
        }
    };
    move_task(store, settled, &to, object).await
}

/// Brings the object of a task to `output/` if there is a receipt of its success: its node went for good just before that.
/// Returns whether it was so.
pub async fn conclude_for_another(
    store: &dyn ObjectStore,
    function: &FunctionName,
    key: &TaskKey,
    task: TaskId,
    object: &Head,
) -> Result<bool, StoreError> {
    #[derive(Deserialize)]
    struct Receipt {
        task_id: TaskId,
        outcome: Verdict,
    }
    let bucket = function.as_str();
    let receipt = match store.get(bucket, &key.receipt(), RECEIPT_BYTES_MAX).await {
        // None of ours is.
        Err(StoreError::TooLarge { .. }) => None,
        read => read?.and_then(|receipt| serde_json::from_slice::<Receipt>(&receipt.body).ok()),
    };
    let is_done =
        receipt.is_some_and(|receipt| receipt.task_id == task && receipt.outcome == Verdict::Succeeded);
    if is_done {
        let (from, object) = (key.processing(), without_task(object.clone()));
        if store.copy(bucket, &from, &key.output(), &object).await? != Copied::SourceChanged {
            store.delete(bucket, &from, Some(&object.etag)).await?;
        }
    }
    Ok(is_done)
}

/// Whoever drops the object once more wants a new task.
fn without_task(mut object: Head) -> Head {
    object.metadata.remove(META_TASK);
    object
}

/// Uploads a failed attempt's log under its own key, in place of what was uploaded while it ran.
async fn keep_error_log(
    store: &dyn ObjectStore,
    bucket: &str,
    key: &TaskKey,
    spool: &Spool,
) -> Result<(), PublishError> {
    upload_log(store, bucket, &key.error_log(), spool).await?;
    Ok(store.delete(bucket, &key.log(), None).await?)
}

/// Uploads the log as it is now.
pub async fn upload_log(
    store: &dyn ObjectStore,
    bucket: &str,
    key: &str,
    spool: &Spool,
) -> Result<(), PublishError> {
    match File::open(spool.log()) {
        Ok(log) => Ok(store.upload(bucket, key, log, &Metadata::new()).await?),
        // It never came to a start.
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(PublishError::Spool {
            path: spool.log(),
            err,
        }),
    }
}

async fn upload_results(
    store: &dyn ObjectStore,
    bucket: &str,
    key: &TaskKey,
    spool: &Spool,
) -> Result<(), PublishError> {
    let names: Vec<(usize, String)> = spool.read_names()?.into_iter().enumerate().collect();
    for some in names.chunks(UPLOADS_AT_ONCE) {
        let uploads = some
            .iter()
            .map(|(number, name)| upload_result(store, bucket, key.result(name), spool, *number));
        futures::future::try_join_all(uploads).await?;
    }
    Ok(())
}

async fn upload_result(
    store: &dyn ObjectStore,
    bucket: &str,
    key: String,
    spool: &Spool,
    number: usize,
) -> Result<(), PublishError> {
    let path = spool.results().join(number.to_string());
    let file = File::open(&path).map_err(|err| PublishError::Spool { path, err })?;
    Ok(store.upload(bucket, &key, file, &Metadata::new()).await?)
}

/// Moves the task object out of `processing/`. Done before: the source is gone, which is what was wanted.
async fn move_task(
    store: &dyn ObjectStore,
    settled: &Settled<'_>,
    to: &str,
    known: Option<&Head>,
) -> Result<(), PublishError> {
    let (bucket, from) = (
        settled.attempt.function.as_str(),
        settled.attempt.key.processing(),
    );
    if to == settled.attempt.key.input() && is_replaced(store, bucket, to).await? {
        // The user dropped a newer version meanwhile; that one is the task now.
        return Ok(store.delete(bucket, &from, None).await?);
    }
    let after = |head: Head| match settled.verdict {
        Verdict::Succeeded => without_task(head),
        _ => head,
    };
    let moved = match known {
        Some(head) => store.copy(bucket, &from, to, &after(head.clone())).await?,
        None => Copied::SourceChanged,
    };
    if moved == Copied::SourceChanged {
        let Some(head) = store.head(bucket, &from).await? else {
            return Ok(());
        };
        if store.copy(bucket, &from, to, &after(head)).await? == Copied::SourceChanged {
            return Ok(());
        }
    }
    Ok(store.delete(bucket, &from, None).await?)
}

async fn is_replaced(store: &dyn ObjectStore, bucket: &str, input: &str) -> Result<bool, StoreError> {
    Ok(store
        .head(bucket, input)
        .await?
        .is_some_and(|head: Head| !head.metadata.contains_key(META_TASK)))
}

async fn put_json(
    store: &dyn ObjectStore,
    bucket: &str,
    key: &str,
    document: String,
) -> Result<(), StoreError> {
    store
        .put(bucket, key, Bytes::from(document), "application/json")
        .await
}

/// Whether a result's name is one that the platform writes itself.
pub fn is_reserved(name: &str) -> bool {
    name == RECEIPT
}
