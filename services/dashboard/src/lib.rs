//! What runs, what it costs and who pays, in a browser.
//!
//! ```text
//!  credit-manager ──┐            every second           ┌── GET /api/…        JSON: what a page shows
//!                   ├─ gRPC ──► look ──► board ─────────┼── GET /api/…/live   the same once a second, as events
//!  container-manager┘                   (last look,     ├── GET /api/…/history
//!                                        an hour before)└── GET /             pages, embedded in the binary
//! ```
//!
//! It only reads. Everything it shows is what the services answer at the moment, by the schema that the command line has;
//! nothing is stored, and the hour that its plots begin with is kept in bounded memory.

mod assets;
mod board;
mod history;
mod http;
mod key;
mod look;
mod pages;
mod services;

use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::board::Board;
use crate::key::Door;

pub use crate::key::Key;
pub use crate::services::Services;

/// Serves the dashboard until `shutdown`.
///
/// Whoever has the key may read everything that is shown, and keys travel in the open: errors if the listener is not on the
/// loopback interface.
pub async fn serve(
    listener: TcpListener,
    services: Services,
    key: &Key,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the dashboard does not listen")?;
    anyhow::ensure!(
        address.ip().is_loopback(),
        "the dashboard shows everybody's work and money, so it listens on the loopback interface only, not on {address}"
    );
    let board = Arc::new(Board::default());
    let looking = tokio::spawn(board::keep(board.clone(), services.clone(), shutdown.clone()));
    info!(%address, "dashboard");
    let app = http::router(board, services, Door::new(key, address.port()), shutdown.clone());
    let served = axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await;
    looking.abort();
    served.context("the dashboard's server failed")
}
