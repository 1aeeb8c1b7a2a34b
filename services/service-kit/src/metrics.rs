//! Metrics for Prometheus, and the page that shows them.
//!
//! Each service has a [`Catalogue`] of what it measures: names begin with `gridfaas_` and end in base unit and kind, and
//! `docs/metrics.md` lists every one of them. Measuring costs an atomic addition, whether or not a page is shown.

mod catalogue;
mod parts;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use prometheus::core::{GenericCounter, GenericCounterVec, GenericGauge, GenericGaugeVec};
use prometheus::{TEXT_FORMAT, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::Chain;

pub use catalogue::{Catalogue, Label};
pub use parts::{AtomicParts, Parts};
pub use prometheus::Histogram;
pub use prometheus::proto::MetricFamily;

/// A total that only grows, of parts of which `PER` make one base unit.
pub type Counter<const PER: u32 = 1> = GenericCounter<AtomicParts<PER>>;
pub type CounterVec<const PER: u32 = 1> = GenericCounterVec<AtomicParts<PER>>;
/// A number that goes up and down.
pub type Gauge<const PER: u32 = 1> = GenericGauge<AtomicParts<PER>>;
pub type GaugeVec<const PER: u32 = 1> = GenericGaugeVec<AtomicParts<PER>>;

/// What every service measures.
pub struct Common {
    pub catalogue: Catalogue,
    pub(crate) log_lines: CounterVec,
    pub(crate) database_commits: CounterVec,
}

pub static COMMON: LazyLock<Common> = LazyLock::new(|| {
    let catalogue = Catalogue::default();
    Common {
        log_lines: catalogue.counter_vec(
            "gridfaas_log_lines_total",
            "Lines in the log that somebody should look at.",
            &[("level", &["warn", "error"])],
        ),
        database_commits: catalogue.counter_vec(
            "gridfaas_database_commits_total",
            "Commits of the node's journal and of the embedded store, each of all changes that waited.",
            &[("database", &["journal", "store-index"])],
        ),
        catalogue,
    }
});

/// The catalogues of the services in this process, by the services' names.
static SERVICES: Mutex<BTreeMap<&str, Catalogue>> = Mutex::new(BTreeMap::new());

#[derive(Debug, thiserror::Error)]
#[error("failed to listen for metrics on {address}")]
pub struct MetricsError {
    address: SocketAddr,
    #[source]
    err: std::io::Error,
}

/// Shows the process's metrics at `http://ADDRESS/metrics` until `shutdown`. `None`: shows no page.
///
/// Services that share a process share its metrics, and any page shows those of all. The address that is listened on, which
/// tells the port if any was asked for.
pub async fn start(
    address: Option<SocketAddr>,
    service: &'static str,
    catalogue: &Catalogue,
    shutdown: CancellationToken,
) -> Result<Option<SocketAddr>, MetricsError> {
    services().insert(service, catalogue.clone());
    let Some(address) = address else {
        return Ok(None);
    };
    let on_listen = |err| MetricsError { address, err };
    let listener = TcpListener::bind(address).await.map_err(on_listen)?;
    let address = listener.local_addr().map_err(on_listen)?;
    info!(%address, "metrics");
    tokio::spawn(serve(listener, shutdown));
    Ok(Some(address))
}

fn services() -> MutexGuard<'static, BTreeMap<&'static str, Catalogue>> {
    // A map that is added to is whole.
    SERVICES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The page, in Prometheus's text format.
fn page() -> Result<String, prometheus::Error> {
    let services = services();
    let catalogues = services.values().chain([&COMMON.catalogue]);
    let families: Vec<MetricFamily> = catalogues.flat_map(Catalogue::gather).collect();
    TextEncoder::new().encode_to_string(&families)
}

fn serve(listener: TcpListener, shutdown: CancellationToken) -> impl Future<Output = ()> + Send {
    let answer = async || {
        page()
            .map(|page| ([(CONTENT_TYPE, TEXT_FORMAT)], page))
            .map_err(|err| {
                error!(error = %Chain(&err), "metrics cannot be shown");
                StatusCode::INTERNAL_SERVER_ERROR
            })
    };
    let app = Router::new().route("/metrics", get(answer));
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
    async fn services_of_one_process_show_the_same_metrics_once() {
        let shutdown = CancellationToken::new();
        let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let tests = Catalogue::default();
        let made: CounterVec = tests.counter_vec("gridfaas_tests_total", "Tests.", &[("result", &["made"])]);
        let first = start(any, "tests", &tests, shutdown.clone())
            .await
            .unwrap()
            .unwrap();
        let second = start(any, "tests", &tests, shutdown.clone())
            .await
            .unwrap()
            .unwrap();
        made.with_label_values(&["made"]).inc_by(Parts::new(2));
        for address in [first, second] {
            let page = page(address).await;
            assert!(page.starts_with("HTTP/1.1 200"), "{page}");
            assert!(page.contains("gridfaas_tests_total{result=\"made\"} 2"), "{page}");
            assert_eq!(
                page.matches("# TYPE gridfaas_tests_total counter").count(),
                1,
                "{page}"
            );
        }
        assert_eq!(
            start(None, "tests", &tests, shutdown.clone()).await.unwrap(),
            None
        );
        shutdown.cancel();
    }
}
