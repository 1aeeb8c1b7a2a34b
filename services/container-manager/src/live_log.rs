//! The log of a running task in its bucket.

use std::time::Duration;

use service_kit::Chain;
use tracing::warn;

use crate::node::Node;
use crate::publish;
use crate::task::Attempt;

/// Uploads the log of a running task now and then, if it grew. Stops when dropped.
pub(crate) struct LogUploads(tokio::task::JoinHandle<()>);

impl LogUploads {
    pub(crate) fn start(node: &Node, attempt: &Attempt) -> Self {
        let (store, spool) = (node.store.clone(), node.spool(attempt.session));
        let (bucket, key) = (attempt.function.to_string(), attempt.key.log());
        let pause = Duration::from_millis(node.config.log_upload_ms);
        Self(tokio::spawn(async move {
            let mut uploaded = 0;
            loop {
                tokio::time::sleep(pause).await;
                let size = std::fs::metadata(spool.log()).map_or(0, |log| log.len());
                if size == uploaded {
                    continue;
                }
                match publish::upload_log(store.as_ref(), &bucket, &key, &spool).await {
                    Ok(()) => uploaded = size,
                    Err(err) => warn!(error = %Chain(&err), "live log not uploaded, will retry"),
                }
            }
        }))
    }
}

impl Drop for LogUploads {
    fn drop(&mut self) {
        self.0.abort();
    }
}
