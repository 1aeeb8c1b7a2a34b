//! Metrics for Prometheus: one recorder per process, and a page that shows it.
//!
//! Whoever measures uses the macros of the `metrics` crate. Names begin with `gridfaas_` and end in base unit and kind.
//! Without a page to show them on, nothing is recorded.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::Chain;

/// How often observations of histograms are folded together, so that they do not pile up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error("failed to listen for metrics on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        err: std::io::Error,
    },
    #[error("failed to set up the metrics' recorder")]
    Recorder(#[source] metrics_exporter_prometheus::BuildError),
}

/// Shows the process's metrics at `http://ADDRESS/metrics` until `shutdown`. `None`: does nothing.
///
/// Services that share a process share its metrics. The address that is listened on, which tells the port if any was
/// asked for.
pub async fn start(
    address: Option<SocketAddr>,
    shutdown: CancellationToken,
) -> Result<Option<SocketAddr>, MetricsError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let recorder = recorder()?;
    let on_listen = |err| MetricsError::Listen { address, err };
    let listener = TcpListener::bind(address).await.map_err(on_listen)?;
    let address = listener.local_addr().map_err(on_listen)?;
    info!(%address, "metrics");
    tokio::spawn(upkeep(recorder.clone(), shutdown.clone()));
    tokio::spawn(serve(listener, recorder, shutdown));
    Ok(Some(address))
}

fn recorder() -> Result<PrometheusHandle, MetricsError> {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(recorder) = RECORDER.get() {
        return Ok(recorder.clone());
    }
    match PrometheusBuilder::new().install_recorder() {
        Ok(recorder) => Ok(RECORDER.get_or_init(|| recorder).clone()),
        // Another thread was quicker.
        Err(err) => RECORDER.get().cloned().ok_or(MetricsError::Recorder(err)),
    }
}

async fn upkeep(recorder: PrometheusHandle, shutdown: CancellationToken) {
    let mut timer = tokio::time::interval(UPKEEP);
    while shutdown.run_until_cancelled(timer.tick()).await.is_some() {
        recorder.run_upkeep();
    }
}

fn serve(
    listener: TcpListener,
    recorder: PrometheusHandle,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send {
    let page = get(move || std::future::ready(recorder.render()));
    let app = Router::new().route("/metrics", page);
    let served = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned());
    async move {
        if let Err(err) = served.await {
            error!(error = %Chain(&err), "metrics are not shown any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    async fn page(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    }

    #[tokio::test]
    async fn services_of_one_process_show_the_same_metrics() {
        let shutdown = CancellationToken::new();
        let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let first = start(any, shutdown.clone()).await.unwrap().unwrap();
        let second = start(any, shutdown.clone()).await.unwrap().unwrap();
        metrics::counter!("gridfaas_tests_total", "result" => "made").increment(2);
        for address in [first, second] {
            let page = page(address).await;
            assert!(page.starts_with("HTTP/1.1 200"), "{page}");
            assert!(page.contains("gridfaas_tests_total{result=\"made\"} 2"), "{page}");
        }
        assert_eq!(start(None, shutdown.clone()).await.unwrap(), None);
        shutdown.cancel();
    }
}
