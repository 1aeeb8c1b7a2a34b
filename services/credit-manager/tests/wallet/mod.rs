//! A development chain behind the client of the real daemon.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chain::{Chain, ChainConfig};
use credit_manager::settlement::gridcoin::{Gridcoin, GridcoinConfig, Mode};
use credit_manager::settlement::wallet::{Payment, Route};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
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

    /// The daemon's own words about its accounts.
    pub(crate) async fn accounts(&self) -> BTreeMap<String, Amount> {
        let accounts: BTreeMap<String, Box<RawValue>> = self.rpc("listaccounts", "[]").await;
        accounts
            .into_iter()
            .map(|(name, balance)| (name, grc(balance.get())))
            .collect()
    }

    /// Asks the daemon past the client under test. Amounts are to be taken as raw values, lest they pass through a float.
    pub(crate) async fn rpc<T: DeserializeOwned>(&self, method: &str, params: &str) -> T {
        #[derive(Deserialize)]
        struct Reply<T> {
            result: T,
        }
        let client =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
        let request = http::Request::post(&self.url)
            .header("authorization", "Basic Z3JpZGNvaW5ycGM6dGVzdA==")
            .body(format!(r#"{{"method":"{method}","params":{params},"id":1}}"#))
            .unwrap();
        let reply = client.request(request).await.unwrap();
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice::<Reply<T>>(&body).unwrap().result
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
