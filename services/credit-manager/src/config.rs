//! credit-manager's configuration. `deployment/config/credit-manager.toml` shows every key.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use access::tls::{self, TlsError, TlsFiles};
use serde::Deserialize;
use service_kit::telemetry::{LogFilter, LogFormat};
use units::{Amount, Billing, CpuPrice, CpuTime, OnShortage, Policy, ReceiverName};

use crate::settlement::gridcoin::Mode;
use crate::settlement::outbox::Rules;
use crate::settlement::split::{Receiver, Receivers, ReceiversError};
use crate::settlement::wallet::Address;
use crate::users::Settings;
use crate::webhook::Reach;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port of the gRPC service.
    pub listen: SocketAddr,
    /// The SQLite file that holds the ledger. Made if it does not exist. Tokens are kept beside it.
    pub database: PathBuf,
    /// Certificates for the gRPC service. Absent: no TLS, which is refused where other machines could hear.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// A file with the secret that users' keys to the embedded object store follow from. Absent: there is none.
    #[serde(default)]
    pub s3_master_key_file: Option<PathBuf>,
    pub wallet: WalletConfig,
    #[serde(default)]
    pub defaults: UserDefaults,
    /// How deep in the chain a deposit has to be to be credited.
    #[serde(default = "ten")]
    pub confirmations: u32,
    /// How often the wallet is asked for deposits.
    #[serde(default = "one_second_ms")]
    pub deposit_poll_ms: u64,
    /// How often the outbox is looked at without being woken.
    #[serde(default = "five_seconds_ms")]
    pub payout_poll_ms: u64,
    /// After a payment whose outcome is unclear, how long the wallet may still carry it out.
    #[serde(default = "one_minute_ms")]
    pub payout_late_ms: u64,
    /// How often the wallet is compared with the ledger.
    #[serde(default = "one_minute_ms")]
    pub reconcile_ms: u64,
    /// Charges are settled when at least this much has come together.
    #[serde(default = "coin_movement")]
    pub min_coin_movement: Amount,
    /// Who earns what users are charged, and in which proportion.
    #[serde(default = "one_receiver")]
    pub receivers: Vec<ReceiverConfig>,
    /// How often balances are compared with their alert thresholds.
    #[serde(default = "one_second_ms")]
    pub alert_poll_ms: u64,
    /// Whether webhooks may lead to loopback, private and link-local addresses.
    #[serde(default)]
    pub alert_webhook_private: bool,
    /// A session whose node does not report it for this long is closed, free of charge, and its task may run again.
    #[serde(default = "five_minutes_ms")]
    pub lease_ms: u64,
    /// How many chained functions may follow each other where the first task has no cap: it ends loops.
    #[serde(default = "sixteen")]
    pub chain_depth_max: u32,
    /// How long running calls have to finish at shutdown.
    #[serde(default = "five_seconds_ms")]
    pub grace_ms: u64,
    /// Address and port of the page for Prometheus, `/metrics`. Absent: no metrics.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Whether clients may ask for the service's protos.
    #[serde(default)]
    pub reflection: bool,
    #[serde(default)]
    pub log: LogFilter,
    #[serde(default)]
    pub log_format: LogFormat,
}

/// The Gridcoin daemon.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalletConfig {
    pub url: String,
    pub user: String,
    /// A file whose first line is the password.
    pub password_file: PathBuf,
    pub mode: Mode,
    #[serde(default = "ten_seconds_ms")]
    pub request_timeout_ms: u64,
}

/// Somebody who earns.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverConfig {
    pub name: ReceiverName,
    /// Of the sum of all shares.
    pub share: u32,
    /// In `addresses` mode, where the earnings are sent; absent, they stay in the wallet. In `accounts` mode, an address
    /// that the receiver's account of the wallet has to have.
    #[serde(default)]
    pub address: Option<Address>,
}

/// What a new user starts with.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserDefaults {
    /// At or below this balance a user is low on funds, in GRC.
    pub min_balance: Amount,
    /// How far below zero a balance may go, in GRC.
    pub debt_limit: Amount,
    pub policy: Policy,
    pub billing: Billing,
    /// The tariff: core-seconds that one GRC buys.
    pub cpu_core_seconds_per_grc: u64,
}

impl Default for UserDefaults {
    fn default() -> Self {
        let two = Amount::from_halfords(200_000_000);
        Self {
            min_balance: two,
            debt_limit: two,
            policy: Policy::Greedy,
            billing: Billing::Used,
            cpu_core_seconds_per_grc: 600,
        }
    }
}

/// A value that parses and makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    #[error("`defaults.debt_limit` is negative (hint: 2 lets a balance go down to -2)")]
    DebtLimit,
    #[error("`defaults.cpu_core_seconds_per_grc` is 0, so one GRC would buy nothing")]
    Price,
    #[error("`confirmations` is 0 (hint: coins seen only in the memory pool may never come; 10 is usual)")]
    Confirmations,
    #[error("`min_coin_movement` is not positive")]
    CoinMovement,
    #[error("`{0}` is 0")]
    ZeroInterval(&'static str),
    #[error("`listen`")]
    Listen(#[source] TlsError),
    #[error("`receivers`")]
    Receivers(#[source] ReceiversError),
    #[error("`min_coin_movement` is less than the {0} GRC that the shares of the receivers can divide")]
    CoinMovementTooSmall(Amount),
}

impl Config {
    /// Refuses values that parse and make no sense.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        self.settings()?;
        self.rules()?;
        tls::check_listen(self.listen, self.tls.as_ref()).map_err(InvalidConfig::Listen)?;
        if self.confirmations == 0 {
            return Err(InvalidConfig::Confirmations);
        }
        for (key, ms) in [
            ("deposit_poll_ms", self.deposit_poll_ms),
            ("payout_poll_ms", self.payout_poll_ms),
            ("alert_poll_ms", self.alert_poll_ms),
            ("reconcile_ms", self.reconcile_ms),
            ("lease_ms", self.lease_ms),
            ("wallet.request_timeout_ms", self.wallet.request_timeout_ms),
        ] {
            if ms == 0 {
                return Err(InvalidConfig::ZeroInterval(key));
            }
        }
        Ok(())
    }

    /// The settings of a new user.
    pub fn settings(&self) -> Result<Settings, InvalidConfig> {
        let defaults = &self.defaults;
        if defaults.debt_limit.is_negative() {
            return Err(InvalidConfig::DebtLimit);
        }
        let per_grc = CpuTime::from_secs(defaults.cpu_core_seconds_per_grc);
        Ok(Settings {
            min_balance: defaults.min_balance,
            debt_limit: defaults.debt_limit,
            policy: defaults.policy,
            billing: defaults.billing,
            price: CpuPrice::from_cpu_time_per_grc(per_grc).map_err(|_| InvalidConfig::Price)?,
            accounting: true,
            min_runway: Duration::ZERO,
            on_shortage: OnShortage::Together,
            max_spend: None,
            alert_at: None,
            alert_webhook: None,
        })
    }

    /// How settled money leaves.
    pub fn rules(&self) -> Result<Rules, InvalidConfig> {
        let min = self.min_coin_movement;
        if !min.is_positive() {
            return Err(InvalidConfig::CoinMovement);
        }
        let receivers = self.receivers.iter().map(|receiver| Receiver {
            name: receiver.name.clone(),
            share: receiver.share,
            address: receiver.address.clone(),
        });
        let receivers = Receivers::new(receivers.collect()).map_err(InvalidConfig::Receivers)?;
        if min < receivers.amount_min() {
            return Err(InvalidConfig::CoinMovementTooSmall(receivers.amount_min()));
        }
        Ok(Rules {
            mode: self.wallet.mode,
            receivers,
            min,
        })
    }

    pub fn deposit_poll(&self) -> Duration {
        Duration::from_millis(self.deposit_poll_ms)
    }

    pub fn payout_poll(&self) -> Duration {
        Duration::from_millis(self.payout_poll_ms)
    }

    pub fn payout_late(&self) -> Duration {
        Duration::from_millis(self.payout_late_ms)
    }

    pub fn alert_poll(&self) -> Duration {
        Duration::from_millis(self.alert_poll_ms)
    }

    pub fn reconcile(&self) -> Duration {
        Duration::from_millis(self.reconcile_ms)
    }

    pub fn webhook_reach(&self) -> Reach {
        if self.alert_webhook_private {
            Reach::Any
        } else {
            Reach::Public
        }
    }

    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
}

fn sixteen() -> u32 {
    16
}

fn ten() -> u32 {
    10
}

fn one_second_ms() -> u64 {
    1_000
}

fn five_seconds_ms() -> u64 {
    5_000
}

fn ten_seconds_ms() -> u64 {
    10_000
}

fn one_minute_ms() -> u64 {
    60_000
}

fn five_minutes_ms() -> u64 {
    300_000
}

/// The published prototype's block of 0.05 GRC.
fn coin_movement() -> Amount {
    Amount::from_halfords(5_000_000)
}

fn one_receiver() -> Vec<ReceiverConfig> {
    let name = "gridfaas".parse().expect("a receiver's name");
    vec![ReceiverConfig {
        name,
        share: 1,
        address: None,
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        let text = format!(
            r#"
            listen = "127.0.0.1:0"
            database = "credit.db"
            {more}
            [wallet]
            url = "http://127.0.0.1:9332"
            user = "gridfaas"
            password_file = "password"
            mode = "addresses"
            "#
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn a_new_user_starts_with_the_prototypes_values() {
        let settings = config("").settings().unwrap();
        assert_eq!(settings.price, CpuPrice::DEFAULT);
        assert_eq!(settings.debt_limit.to_string(), "2.00000000");
        let rules = config("").rules().unwrap();
        assert_eq!(rules.receivers.iter().count(), 1);
    }

    #[test]
    fn the_example_shows_every_key_with_its_default() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deployment/config/credit-manager.toml"
        );
        let text = std::fs::read_to_string(path).unwrap();
        let example: Config = toml::from_str(&text).unwrap();
        example.validate().unwrap();
        // What is left of it has no default; the rest is as if it were absent.
        let bare = format!(
            "listen = \"{}\"\ndatabase = {:?}\n[wallet]\nurl = {:?}\nuser = {:?}\npassword_file = {:?}\nmode = \"addresses\"",
            example.listen,
            example.database,
            example.wallet.url,
            example.wallet.user,
            example.wallet.password_file,
        );
        let bare: Config = toml::from_str(&bare).unwrap();
        assert_eq!(format!("{example:?}"), format!("{bare:?}"));
        for key in ["[[receivers]]", "lease_ms", "metrics_listen", "reflection"] {
            assert!(text.contains(key), "{key}");
        }
    }

    #[test]
    fn other_machines_are_not_spoken_to_without_tls() {
        for (listen, is_open) in [
            ("0.0.0.0:7402", true),
            ("[::]:7402", true),
            ("192.0.2.1:7402", true),
            ("[::1]:7402", false),
        ] {
            let mut config = config("");
            config.listen = listen.parse().unwrap();
            let refusal = config
                .validate()
                .err()
                .map(|err| format!("{:#}", anyhow::Error::from(err)));
            assert_eq!(refusal.is_some(), is_open, "{listen}");
            assert!(refusal.is_none_or(|text| text.contains("gridfaas pki init")));
            config.tls = Some(TlsFiles {
                identity_file: "identity.pem".into(),
                ca_file: "ca.pem".into(),
            });
            config.validate().unwrap();
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_name() {
        for (line, key) in [
            ("defaults.debt_limit = \"-2\"", "debt_limit"),
            (
                "defaults.cpu_core_seconds_per_grc = 0",
                "cpu_core_seconds_per_grc",
            ),
            ("confirmations = 0", "confirmations"),
            ("min_coin_movement = \"0\"", "min_coin_movement"),
            ("lease_ms = 0", "lease_ms"),
            ("receivers = []", "receivers"),
            (
                "min_coin_movement = \"0.00000001\"\nreceivers = [{ name = \"a\", share = 2 }]",
                "min_coin_movement",
            ),
        ] {
            let err = config(line).validate().unwrap_err();
            assert!(err.to_string().contains(key), "{line}: {err}");
        }
    }
}
