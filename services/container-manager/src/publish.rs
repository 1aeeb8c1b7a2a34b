//! What an attempt leaves in the bucket: results, receipt, log, and the task object in its next place.
//!
//! Every step can be repeated, and the order is the promise: whoever sees an object in `output/` finds its results,
//! receipt and log, and the next function has what is chained to it; whoever sees it in `failed/` finds the reason.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use crate::chain;
use crate::documents::Settled;
use crate::layout::{RECEIPT, TaskKey};
use crate::spool::Spool;
use crate::store::{Copied, Head, Metadata, ObjectStore, StoreError};
use crate::task::Verdict;

/// The key of the task's id in its object's metadata, by which attempts of one task find together.
pub const META_TASK: &str = "gridfaas-task";
/// Of one attempt's results: enough to hide the store's latency, few enough to leave it to others as well.
const UPLOADS_AT_ONCE: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Store(#[from] StoreError),
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
            Self::Store(_) | Self::Spool { .. } => true,
        }
    }
}

/// Brings the bucket to where the verdict wants it. `object` is the task's object in `processing/`, where that is known.
pub async fn publish(
    store: &dyn ObjectStore,
    spool: &Spool,
    settled: &Settled<'_>,
    object: Option<&Head>,
) -> Result<(), PublishError> {
    let (bucket, key) = (settled.attempt.function.as_str(), &settled.attempt.key);
    let to = match settled.verdict {
        Verdict::Succeeded => {
            let log_key = key.log();
            tokio::try_join!(
                upload_results(store, bucket, key, spool),
                upload_log(store, bucket, &log_key, spool),
                chain_and_receipt(store, spool, settled),
            )?;
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

/// The receipt says what became of the results in the next function.
async fn chain_and_receipt(
    store: &dyn ObjectStore,
    spool: &Spool,
    settled: &Settled<'_>,
) -> Result<(), PublishError> {
    let chained = chain::put_results(store, spool, settled).await?;
    let (bucket, key) = (settled.attempt.function.as_str(), settled.attempt.key.receipt());
    Ok(put_json(store, bucket, &key, settled.receipt(chained.as_ref())).await?)
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
    let after = |mut head: Head| {
        if settled.verdict == Verdict::Succeeded {
            head.metadata.remove(META_TASK);
        }
        head
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
