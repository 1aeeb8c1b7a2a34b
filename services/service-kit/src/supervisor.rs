//! Background tasks, and what their end means.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

/// What the end of a background task means for its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// The service cannot do its work without it: shut down.
    Shutdown,
    /// Start it again after a pause, however it ended.
    Restart { backoff: Duration },
}

/// A task that a service cannot do its work without ended before the shutdown.
#[derive(Debug, thiserror::Error)]
#[error("the task `{task}` ended: {reason}")]
pub struct EssentialTaskEnded {
    task: &'static str,
    reason: String,
}

/// Owns a service's background tasks.
///
/// A task that returns or panics before shutdown is handled as its [`OnExit`] says. Dropped, it ends all of them.
pub struct Supervisor {
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), EssentialTaskEnded>>,
}

impl Supervisor {
    /// `shutdown` stops every task; an essential task's end cancels it.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            shutdown,
            tasks: JoinSet::new(),
        }
    }

    pub fn spawn<F, Fut, E>(&mut self, name: &'static str, on_exit: OnExit, mut start: F)
    where
        F: FnMut(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            loop {
                let ended = AbortOnDropHandle::new(tokio::spawn(start(shutdown.clone()))).await;
                if shutdown.is_cancelled() {
                    return Ok(());
                }
                let reason = match ended {
                    Ok(Ok(())) => "returned".to_owned(),
                    Ok(Err(err)) => format!("{err:#}"),
                    Err(panic) => panic.to_string(),
                };
                match on_exit {
                    OnExit::Shutdown => {
                        error!(task = name, reason, "an essential task ended, shutting down");
                        shutdown.cancel();
                        return Err(EssentialTaskEnded { task: name, reason });
                    }
                    OnExit::Restart { backoff } => {
                        warn!(task = name, reason, "a background task ended, starting it again");
                        tokio::select! {
                            () = tokio::time::sleep(backoff) => {}
                            () = shutdown.cancelled() => return Ok(()),
                        }
                    }
                }
            }
        });
    }

    /// Waits for shutdown, then for every task to end, at most for `grace`; says how many did not. Errors if it was the
    /// end of an essential task that made the shutdown.
    pub async fn drain(mut self, grace: Duration) -> Result<(), EssentialTaskEnded> {
        self.shutdown.cancelled().await;
        let mut outcome = Ok(());
        let all_ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok(Err(ended)) = ended {
                    outcome = Err(ended);
                }
            }
        };
        match tokio::time::timeout(grace, all_ended).await {
            Ok(()) => info!("stopped"),
            Err(_) => warn!(left = self.tasks.len(), "stopped with tasks still running"),
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_restarted_task_survives_errors_and_panics() {
        let shutdown = CancellationToken::new();
        let mut supervisor = Supervisor::new(shutdown.clone());
        let starts = Arc::new(AtomicU32::new(0));
        let counted = starts.clone();
        supervisor.spawn(
            "flaky",
            OnExit::Restart {
                backoff: Duration::from_secs(1),
            },
            move |shutdown| {
                let start = counted.fetch_add(1, Ordering::SeqCst);
                async move {
                    match start {
                        0 => Err("broken"),
                        1 => panic!("worse"),
                        _ => {
                            shutdown.cancel();
                            Ok(())
                        }
                    }
                }
            },
        );
        supervisor.drain(Duration::from_secs(1)).await.unwrap();
        assert_eq!(starts.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn the_end_of_an_essential_task_ends_the_service() {
        let shutdown = CancellationToken::new();
        let mut supervisor = Supervisor::new(shutdown.clone());
        supervisor.spawn("ledger", OnExit::Shutdown, |_| async { Err("disk full") });
        let ended = supervisor.drain(Duration::from_secs(5)).await;
        assert!(shutdown.is_cancelled());
        assert_eq!(
            ended.unwrap_err().to_string(),
            "the task `ledger` ended: disk full"
        );
    }
}
