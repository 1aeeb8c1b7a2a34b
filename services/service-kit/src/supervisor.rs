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

/// Owns a service's background tasks.
///
/// A task that returns or panics before shutdown is handled as its [`OnExit`] says. Dropped, it ends all of them.
pub struct Supervisor {
    shutdown: CancellationToken,
    tasks: JoinSet<&'static str>,
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
                    return name;
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
                        return name;
                    }
                    OnExit::Restart { backoff } => {
                        warn!(task = name, reason, "a background task ended, starting it again");
                        tokio::select! {
                            () = tokio::time::sleep(backoff) => {}
                            () = shutdown.cancelled() => return name,
                        }
                    }
                }
            }
        });
    }

    /// Waits for shutdown, then for every task to end, at most for `grace`; says which did not.
    pub async fn drain(mut self, grace: Duration) {
        self.shutdown.cancelled().await;
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        match tokio::time::timeout(grace, all_ended).await {
            Ok(()) => info!("stopped"),
            Err(_) => warn!(left = self.tasks.len(), "stopped with tasks still running"),
        }
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
        supervisor.drain(Duration::from_secs(1)).await;
        assert_eq!(starts.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn the_end_of_an_essential_task_ends_the_service() {
        let shutdown = CancellationToken::new();
        let mut supervisor = Supervisor::new(shutdown.clone());
        supervisor.spawn("ledger", OnExit::Shutdown, |_| async { Err("disk full") });
        supervisor.drain(Duration::from_secs(5)).await;
        assert!(shutdown.is_cancelled());
    }
}
