//! A task that may never run: it goes from where it is straight to `failed/`, with the reason, before anything of it ran.

use bytes::Bytes;
use serde_json::json;
use units::{FunctionName, Timestamp};

use crate::layout::{Source, TaskKey};
use crate::store::{Copied, Head, ObjectStore, StoreError};

/// Moves the version that was seen. Can be cut off anywhere and begun again; the reason is there before the object.
pub async fn park(
    store: &dyn ObjectStore,
    function: &FunctionName,
    (source, key): (Source, &TaskKey),
    seen: &Head,
    reason: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let bucket = function.as_str();
    let document = json!({
        "task": key.as_str(),
        "reason": reason,
        "at_ms": now,
    });
    let body = Bytes::from(format!("{document:#}\n"));
    store
        .put(bucket, &key.failed_reason(), body, "application/json")
        .await?;
    let from = source.key(key);
    let copied = store.copy(bucket, &from, &key.failed(), seen).await?;
    if matches!(copied, Copied::Done { .. }) {
        store.delete(bucket, &from, Some(&seen.etag)).await?;
    }
    Ok(())
}
