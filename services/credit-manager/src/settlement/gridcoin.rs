//! The wallet behind a Gridcoin daemon's JSON-RPC.
//!
//! What the daemon does was measured with version 5.5.1.0. A call that the daemon may have carried out although no
//! answer came is [`WalletError::Unclear`], never a plain failure; payments carry their id as the comment, by which they
//! are found again.

mod cursor;
mod failure;
mod reply;
mod v1_compat;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONNECTION};
use http::{HeaderMap, HeaderValue, Uri};
use jsonrpsee::core::client::ClientT;
use jsonrpsee::core::middleware::RpcServiceBuilder;
use jsonrpsee::core::params::ArrayParams;
use jsonrpsee::http_client::transport::HttpBackend;
use jsonrpsee::http_client::{HttpClient, HttpClientBuilder, RpcService};
use jsonrpsee::rpc_params;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use service_kit::Secret;
use tokio::sync::Mutex;
use tower::ServiceBuilder;
use tower::layer::layer_fn;
use units::{Amount, UserName};

use super::wallet::{
    Address, AddressError, AddressFacts, Cursor, Deposit, DepositId, Deposits, Payment, Receipt, Route,
    Wallet, WalletError,
};
use cursor::ScanState;
use reply::{AddressInfo, Entry, Since, Transaction, WalletInfo};
use v1_compat::V1Compat;

/// The daemon serves as many connections as it has threads, 4 unless configured, and lets all others wait; ours must not
/// take them all.
const CALLS_MAX: usize = 3;
/// Entries of the wallet's history to read at once when looking for a payment.
const PAGE: usize = 500;
/// A credited deposit is watched for this many more blocks; coins that were mined mature as long, for the same reason.
const REORG_DEPTH_MAX: u32 = 100;
/// The daemon reads amounts through a double, which was seen to be exact up to about this many GRC.
const EXACT_MAX: Amount = match Amount::from_grc(30_000_000) {
    Some(amount) => amount,
    None => Amount::MAX,
};

/// The daemon's code for a transaction it does not know.
const UNKNOWN: i32 = -5;

/// How the daemon is set up, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The wallet keeps an account per user (`enableaccounts=1`, `staking=0`); settling is moving between accounts.
    Accounts,
    /// The wallet only knows addresses; settling is a matter of the ledger, and earnings are sent.
    Addresses,
}

#[derive(Clone, Debug)]
pub struct GridcoinConfig {
    /// `http://127.0.0.1:15715/`, without user name and password.
    pub url: String,
    pub user: String,
    pub password: Secret,
    pub mode: Mode,
    /// After this long without an answer the outcome of a call counts as unclear.
    pub request_timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum GridcoinConfigError {
    #[error("the wallet's url is not of the form `http://host:port/`, without user name and password")]
    Url,
    #[error("failed to set up a client for the wallet at {url}")]
    Client {
        url: String,
        #[source]
        err: jsonrpsee::core::ClientError,
    },
}

/// A Gridcoin daemon's wallet.
pub struct Gridcoin {
    client: HttpClient<RpcService<V1Compat<HttpBackend>>>,
    url: String,
    mode: Mode,
    /// Held while an address is made, lest two calls make two.
    making_address: Mutex<()>,
}

impl Gridcoin {
    /// Errors if the url is unusable. Connects to nothing yet; [`Wallet::check`] does.
    pub fn new(config: GridcoinConfig) -> Result<Self, GridcoinConfigError> {
        let uri: Uri = config.url.parse().map_err(|_| GridcoinConfigError::Url)?;
        let plain_http = uri.scheme_str() == Some("http");
        if !plain_http
            || uri
                .authority()
                .is_none_or(|authority| authority.as_str().contains('@'))
        {
            return Err(GridcoinConfigError::Url);
        }
        let login = STANDARD.encode(format!("{}:{}", config.user, config.password.expose()));
        let mut authorization =
            HeaderValue::from_str(&format!("Basic {login}")).expect("base64 is legal in a header");
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization);
        // An idle connection keeps a thread of the daemon from everybody else.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let client = HttpClientBuilder::default()
            .set_headers(headers)
            .max_concurrent_requests(CALLS_MAX)
            .request_timeout(config.request_timeout)
            .set_http_middleware(ServiceBuilder::new().layer(layer_fn(V1Compat::new)))
            .set_rpc_middleware(RpcServiceBuilder::new())
            .build(&config.url)
            .map_err(|err| GridcoinConfigError::Client {
                url: config.url.clone(),
                err,
            })?;
        Ok(Self {
            client,
            url: config.url,
            mode: config.mode,
            making_address: Mutex::new(()),
        })
    }

    async fn call<R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: ArrayParams,
    ) -> Result<R, WalletError> {
        let result = self.client.request(method, params).await;
        result.map_err(|err| failure::classify(&self.url, method, err))
    }

    async fn transaction(&self, txid: &str) -> Result<Transaction, WalletError> {
        self.call("gettransaction", rpc_params![txid]).await
    }

    async fn send(
        &self,
        payment: &Payment,
        from: Option<&str>,
        to: &Address,
    ) -> Result<Receipt, WalletError> {
        let impossible = |problem| WalletError::Impossible {
            id: payment.id.clone(),
            problem,
        };
        match self.address_facts(to).await? {
            AddressFacts::Invalid => {
                return Err(impossible(format!(
                    "`{to}` is not an address of the wallet's network"
                )));
            }
            AddressFacts::Own { .. } => {
                return Err(impossible(format!("`{to}` belongs to the wallet itself")));
            }
            AddressFacts::Foreign { .. } => {}
        }
        let (to, amount, id) = (to.as_str(), number(payment.amount), payment.id.as_str());
        let txid: String = match from {
            Some(from) => {
                self.call("sendfrom", rpc_params![from, to, amount, 1, id])
                    .await?
            }
            None => self.call("sendtoaddress", rpc_params![to, amount, id]).await?,
        };
        // The coins are on their way: whatever goes wrong from here on leaves the outcome to be asked for.
        match self.transaction(&txid).await {
            Ok(transaction) => Ok(Receipt {
                txid: Some(txid),
                fee: transaction.fee(),
            }),
            Err(err) => Err(WalletError::Unclear {
                method: "gettransaction",
                err: err.into(),
            }),
        }
    }

    /// Deposits that were seen before and are not listed any more: sunk too deep for the list, or gone.
    async fn gone(&self, missing: BTreeSet<String>) -> Result<Vec<Deposit>, WalletError> {
        let mut gone = Vec::new();
        for txid in missing {
            let transaction = self.transaction(&txid).await?;
            if transaction.confirmations < 0 {
                gone.extend(numbered(transaction.outputs(&txid), |_| {
                    transaction.confirmations
                }));
            }
        }
        Ok(gone)
    }
}

#[async_trait]
impl Wallet for Gridcoin {
    async fn check(&self) -> Result<(), WalletError> {
        match self.mode {
            Mode::Accounts => self.call::<Box<RawValue>>("listaccounts", rpc_params![]).await?,
            Mode::Addresses => self.call("getblockcount", rpc_params![]).await?,
        };
        Ok(())
    }

    async fn deposit_address(&self, user: &UserName) -> Result<Address, WalletError> {
        let _making = self.making_address.lock().await;
        let known: Vec<String> = self
            .call("getaddressesbyaccount", rpc_params![user.as_str()])
            .await?;
        let address = match known.into_iter().min() {
            Some(address) => address,
            None => self.call("getnewaddress", rpc_params![user.as_str()]).await?,
        };
        address
            .parse()
            .map_err(|err: AddressError| WalletError::Nonsense {
                method: "getnewaddress",
                problem: err.to_string(),
            })
    }

    async fn deposits(&self, cursor: Option<&Cursor>, confirmations: u32) -> Result<Deposits, WalletError> {
        let last = cursor.map(ScanState::parse).unwrap_or_default();
        let target = confirmations.max(1).saturating_add(REORG_DEPTH_MAX);
        let since: Since = self
            .call("listsinceblock", rpc_params![&last.block, target])
            .await?;
        let received: Vec<&Entry> = since
            .transactions
            .iter()
            .filter(|entry| entry.is_deposit())
            .collect();
        let depths: BTreeMap<&str, i64> = received
            .iter()
            .filter_map(|entry| Some((entry.txid()?, entry.confirmations)))
            .collect();
        let listed = received.iter().filter_map(|entry| entry.output());
        let mut deposits = numbered(listed, |txid| depths.get(txid).copied().unwrap_or(0));

        let seen: BTreeSet<String> = depths.keys().map(|txid| (*txid).to_owned()).collect();
        deposits.extend(self.gone(&last.seen - &seen).await?);
        let cursor = ScanState {
            block: since.lastblock,
            seen,
        }
        .to_cursor();
        Ok(Deposits { deposits, cursor })
    }

    async fn pay(&self, payment: &Payment) -> Result<Receipt, WalletError> {
        if !payment.amount.is_positive() || payment.amount > EXACT_MAX {
            return Err(WalletError::Impossible {
                id: payment.id.clone(),
                problem: format!("{} GRC is not above 0 and at most {EXACT_MAX}", payment.amount),
            });
        }
        match &payment.route {
            Route::Send { from, to } => self.send(payment, from.as_deref(), to).await,
            Route::Move { from, to } => {
                let amount = number(payment.amount);
                let params = rpc_params![from, to, amount, 1, payment.id.as_str()];
                match self.call("move", params).await? {
                    true => Ok(Receipt {
                        txid: None,
                        fee: Amount::ZERO,
                    }),
                    false => Err(WalletError::Nonsense {
                        method: "move",
                        problem: "it said `false`".to_owned(),
                    }),
                }
            }
        }
    }

    async fn find_payment(&self, payment: &Payment) -> Result<Option<Receipt>, WalletError> {
        let account = match &payment.route {
            Route::Move { from, .. } => from.as_str(),
            Route::Send { .. } => "*",
        };
        // Newest first. Entries that are added meanwhile push the rest further back, so some are seen twice, none never.
        for page in 0.. {
            let entries: Vec<Entry> = self
                .call("listtransactions", rpc_params![account, PAGE, page * PAGE])
                .await?;
            match entries.iter().find(|entry| entry.is_payment(payment)) {
                Some(entry) if entry.matches(payment) => return Ok(Some(entry.receipt())),
                Some(_) => {
                    return Err(WalletError::Nonsense {
                        method: "listtransactions",
                        problem: format!("payment {} was made with other content", payment.id),
                    });
                }
                None if entries.len() < PAGE => break,
                None => {}
            }
        }
        Ok(None)
    }

    async fn address_facts(&self, address: &Address) -> Result<AddressFacts, WalletError> {
        let info: AddressInfo = self
            .call("validateaddress", rpc_params![address.as_str()])
            .await?;
        Ok(match info {
            AddressInfo { isvalid: false, .. } => AddressFacts::Invalid,
            AddressInfo {
                ismine: true,
                account,
                ..
            } => AddressFacts::Own {
                account: account.unwrap_or_default(),
            },
            AddressInfo { account: label, .. } => AddressFacts::Foreign { label },
        })
    }

    async fn addresses_of(&self, label: &str) -> Result<Vec<Address>, WalletError> {
        let known: Vec<String> = self.call("getaddressesbyaccount", rpc_params![label]).await?;
        let parsed = known.iter().map(|address| address.parse());
        parsed
            .collect::<Result<_, AddressError>>()
            .map_err(|err| WalletError::Nonsense {
                method: "getaddressesbyaccount",
                problem: err.to_string(),
            })
    }

    async fn account_balances(
        &self,
        confirmations: u32,
    ) -> Result<Option<BTreeMap<String, Amount>>, WalletError> {
        if self.mode == Mode::Addresses {
            return Ok(None);
        }
        let accounts: BTreeMap<String, reply::Grc> =
            self.call("listaccounts", rpc_params![confirmations]).await?;
        let balances = accounts.into_iter().map(|(name, balance)| (name, balance.0));
        Ok(Some(balances.collect()))
    }

    async fn has_transaction(&self, txid: &str) -> Result<bool, WalletError> {
        match self.transaction(txid).await {
            Ok(transaction) => Ok(transaction.confirmations >= 0),
            Err(WalletError::Refused { code: UNKNOWN, .. }) => Ok(false),
            Err(err) => Err(err),
        }
    }

    async fn check_unlocked(&self) -> Result<(), WalletError> {
        let info: WalletInfo = self.call("getwalletinfo", rpc_params![]).await?;
        match info.unlocked_until {
            // The daemon says so as long as it is locked.
            Some(0) => Err(WalletError::Locked),
            Some(_) | None => Ok(()),
        }
    }

    async fn balance(&self, confirmations: u32) -> Result<Amount, WalletError> {
        let balance: reply::Grc = self.call("getbalance", rpc_params!["*", confirmations]).await?;
        Ok(balance.0)
    }
}

/// Numbers outputs that are alike among themselves.
fn numbered(
    outputs: impl IntoIterator<Item = (String, Address, Amount)>,
    confirmations: impl Fn(&str) -> i64,
) -> Vec<Deposit> {
    let mut alike: BTreeMap<(String, Address, Amount), u32> = BTreeMap::new();
    let number = |output: (String, Address, Amount)| {
        let next = alike.entry(output.clone()).or_default();
        let ordinal = *next;
        *next += 1;
        let (txid, address, amount) = output;
        Deposit {
            confirmations: confirmations(&txid),
            id: DepositId {
                txid,
                address,
                amount,
                ordinal,
            },
        }
    };
    outputs.into_iter().map(number).collect()
}

/// An amount as a JSON number with eight decimals.
fn number(amount: Amount) -> Box<RawValue> {
    RawValue::from_string(amount.to_string()).expect("a decimal number is JSON")
}
