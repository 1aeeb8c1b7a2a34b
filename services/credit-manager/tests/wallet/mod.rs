//! A development chain behind the client of the real daemon.

use std::sync::Arc;
use std::time::Duration;

use chain::{Chain, ChainConfig};
use credit_manager::settlement::gridcoin::{Gridcoin, GridcoinConfig, Mode};
use credit_manager::settlement::wallet::{Payment, Route};
use service_kit::Secret;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use units::{Amount, UserName};

/// An address that is nobody's in a test.
pub(crate) const FOREIGN: &str = "mfiy9sc2QEZZCK3WMUMZjNfrdRA6gXzRhr";

/// A chain that is served until this is dropped, and its wallet.
pub(crate) struct DaemonWorld {
    pub(crate) chain: Chain,
    pub(crate) wallet: Arc<Gridcoin>,
    pub(crate) url: String,
    shutdown: CancellationToken,
}

impl DaemonWorld {
    pub(crate) async fn start(mode: Mode) -> Self {
        let enable_accounts = mode == Mode::Accounts;
        Self::start_with(
            mode,
            ChainConfig {
                enable_accounts,
                ..ChainConfig::default()
            },
        )
        .await
    }

    pub(crate) async fn start_with(mode: Mode, config: ChainConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let chain = Chain::open(config).unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(chain::serve(chain.clone(), listener, shutdown.clone()));
        let wallet = Arc::new(client(url.clone(), mode, "test"));
        Self {
            chain,
            wallet,
            url,
            shutdown,
        }
    }
}

impl Drop for DaemonWorld {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) fn client(url: String, mode: Mode, password: &str) -> Gridcoin {
    Gridcoin::new(GridcoinConfig {
        url,
        user: "gridcoinrpc".to_owned(),
        password: Secret::new(password),
        mode,
        // Long enough for a loaded machine; tests of timeouts make the daemon slower than this.
        request_timeout: Duration::from_secs(20),
    })
    .unwrap()
}

pub(crate) fn grc(text: &str) -> Amount {
    text.parse().unwrap()
}

pub(crate) fn user(name: &str) -> UserName {
    name.parse().unwrap()
}

pub(crate) fn payment(id: &str, amount: &str, route: &Route) -> Payment {
    Payment {
        id: id.parse().unwrap(),
        amount: grc(amount),
        route: route.clone(),
    }
}
