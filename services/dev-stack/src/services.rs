//! Services that need each other, stopped in the order that lets each finish its work.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Running services, in the order they were started: each may need those before it, so the last is stopped first.
#[derive(Default)]
pub(crate) struct Services {
    started: Vec<Service>,
}

struct Service {
    name: &'static str,
    stop: CancellationToken,
    /// Taken when its end was seen.
    ended: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Services {
    /// Starts a service. It has to end soon after its token is cancelled; ending earlier is a failure.
    pub(crate) fn spawn<F>(&mut self, name: &'static str, start: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let ended = tokio::spawn(start(stop.clone()));
        self.started.push(Service {
            name,
            stop,
            ended: Some(ended),
        });
    }

    /// Waits until a service ends by itself, and says why. Can be called again.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let ends = self.started.iter_mut().map(|service| {
            Box::pin(async move {
                let result = match &mut service.ended {
                    Some(ended) => ended.await,
                    None => std::future::pending().await,
                };
                service.ended = None;
                (service.name, result)
            })
        });
        let (name, result) = futures::future::select_all(ends).await.0;
        match flatten(result) {
            Ok(()) => anyhow!("{name} ended by itself"),
            Err(err) => err.context(format!("{name} failed")),
        }
    }

    /// Stops every service, the last started first, and gives each `grace` to end.
    pub(crate) async fn stop(self, grace: Duration) {
        for Service { name, stop, ended } in self.started.into_iter().rev() {
            let Some(mut ended) = ended else { continue };
            stop.cancel();
            match tokio::time::timeout(grace, &mut ended).await {
                Ok(result) => match flatten(result) {
                    Ok(()) => info!(service = name, "stopped"),
                    Err(err) => error!(
                        service = name,
                        error = format!("{err:#}"),
                        "failed while stopping"
                    ),
                },
                Err(_) => {
                    warn!(service = name, "did not stop in time, left behind");
                    ended.abort();
                }
            }
        }
    }
}

/// A panic as an error beside the service's own.
fn flatten(result: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    result.context("a defect stopped it")?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A service that notes its name when it was told to stop.
    fn noting(services: &mut Services, name: &'static str, stopped: &Arc<Mutex<Vec<&'static str>>>) {
        let stopped = stopped.clone();
        services.spawn(name, |stop| async move {
            stop.cancelled().await;
            stopped.lock().unwrap().push(name);
            Ok(())
        });
    }

    #[tokio::test]
    async fn the_last_started_is_stopped_first() {
        let stopped = Arc::default();
        let mut services = Services::default();
        for name in ["store", "credit-manager", "container-manager"] {
            noting(&mut services, name, &stopped);
        }
        services.stop(Duration::from_secs(5)).await;
        assert_eq!(
            *stopped.lock().unwrap(),
            ["container-manager", "credit-manager", "store"]
        );
    }

    #[tokio::test]
    async fn a_failure_is_told_and_the_rest_still_stops() {
        let stopped = Arc::default();
        let mut services = Services::default();
        noting(&mut services, "store", &stopped);
        services.spawn("chain", |_| async { Err(anyhow!("disk full")) });
        assert_eq!(
            format!("{:#}", services.failed().await),
            "chain failed: disk full"
        );
        services.stop(Duration::from_secs(5)).await;
        assert_eq!(*stopped.lock().unwrap(), ["store"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_stop_is_left_behind() {
        let stopped = Arc::default();
        let mut services = Services::default();
        noting(&mut services, "store", &stopped);
        services.spawn("stuck", |_| std::future::pending());
        services.stop(Duration::from_secs(5)).await;
        assert_eq!(*stopped.lock().unwrap(), ["store"]);
    }
}
