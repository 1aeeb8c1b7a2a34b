//! LOW BALANCE: a user is told once for each time the balance falls to a threshold.
//!
//! ```text
//! Quiet ──above──► Armed ──at or below──► Raised ──above──► Armed
//! ```
//! A new user is quiet: the balance never was above. The state is in the journal, so a restart tells nothing twice. The
//! nodes read what is raised with their functions and leave it in the buckets; a webhook is called from here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use service_kit::{Chain, Clock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use units::{Amount, Timestamp, UserName};

use crate::writer::{CommandError, Writer};

/// Webhooks called at once; the next wait for the next look.
const CALLS_MAX: usize = 32;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// With a pause that grows from one second to a minute, about an hour.
const TRIES: usize = 64;
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Whether a user is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Alarm {
    #[default]
    Quiet,
    Armed,
    Raised(Alert),
}

/// A balance that fell to its threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    pub threshold: Amount,
    /// What it was when that was seen.
    pub balance: Amount,
    pub raised_at: Timestamp,
    /// Whether the webhook was called, or given up.
    pub is_told: bool,
}

impl Alert {
    /// The same for every telling of one alert.
    pub fn id(&self, user: &UserName) -> String {
        format!("{user}-{}", self.raised_at.unix_ms())
    }
}

impl Alarm {
    /// The next state, if this balance changes it.
    pub fn next(&self, balance: Amount, threshold: Amount, now: Timestamp) -> Option<Self> {
        match self {
            Self::Armed if balance <= threshold => Some(Self::Raised(Alert {
                threshold,
                balance,
                raised_at: now,
                is_told: false,
            })),
            Self::Quiet | Self::Armed | Self::Raised(_) => self.armed(balance, threshold),
        }
    }

    /// The next state, if this balance is above and arms it.
    pub fn armed(&self, balance: Amount, threshold: Amount) -> Option<Self> {
        (*self != Self::Armed && balance > threshold).then_some(Self::Armed)
    }

    pub fn raised(&self) -> Option<&Alert> {
        match self {
            Self::Raised(alert) => Some(alert),
            Self::Quiet | Self::Armed => None,
        }
    }
}

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Notice {
    pub user: UserName,
    pub url: Webhook,
    pub alert: Alert,
}

/// Where alerts are posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook(http::Uri);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a web address such as https://example.org/alert")]
pub struct WebhookError(String);

impl std::str::FromStr for Webhook {
    type Err = WebhookError;

    fn from_str(text: &str) -> Result<Self, WebhookError> {
        let refuse = || WebhookError(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| refuse())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        if known && uri.host().is_some_and(|host| !host.is_empty()) {
            Ok(Self(uri))
        } else {
            Err(refuse())
        }
    }
}

impl std::fmt::Display for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("this machine has no certificates to check others by")]
    Certificates(#[source] std::io::Error),
    #[error("the webhook cannot be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("the webhook did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Late,
    #[error("the webhook answered {0}")]
    Refused(http::StatusCode),
}

/// Looks for balances that crossed their threshold, and calls the webhooks.
#[derive(Clone)]
pub struct Alerts {
    pub writer: Writer,
    pub clock: Arc<dyn Clock>,
    pub interval: Duration,
}

impl Alerts {
    /// Goes on until shutdown. A call that is cut off by it is made by the next start.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), CommandError> {
        let mut timer = tokio::time::interval(self.interval);
        let mut calls = JoinSet::new();
        let mut under_way = BTreeSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                _ = timer.tick() => {}
                Some(Ok(told)) = calls.join_next() => {
                    let (user, raised_at): (UserName, Timestamp) = told;
                    under_way.remove(&(user.clone(), raised_at));
                    self.writer.call(move |desk| {
                        desk.bank.on_told(&user, raised_at);
                        Ok(())
                    }).await?;
                    continue;
                }
            }
            let now = self.clock.now();
            let notices = self
                .writer
                .call(move |desk| Ok(desk.bank.judge_alarms(now)))
                .await?;
            for notice in notices {
                let key = (notice.user.clone(), notice.alert.raised_at);
                if under_way.len() < CALLS_MAX && under_way.insert(key.clone()) {
                    calls.spawn(async move {
                        tell(&notice).await;
                        key
                    });
                }
            }
        }
    }
}

/// Calls a webhook until it takes the alert, for about an hour.
async fn tell(notice: &Notice) {
    let retries = ExponentialBuilder::default()
        .with_min_delay(PAUSE.0)
        .with_max_delay(PAUSE.1)
        .with_max_times(TRIES);
    let call = || call(notice);
    match call.retry(retries).await {
        Ok(()) => info!(user = %notice.user, "low balance told"),
        Err(err) => {
            warn!(user = %notice.user, error = %Chain(&err), "low balance not told, webhook given up")
        }
    }
}

async fn call(notice: &Notice) -> Result<(), CallError> {
    let Notice { user, url, alert } = notice;
    let document = json!({
        "id": alert.id(user),
        "alert": "low balance",
        "user": user,
        "balance_grc": alert.balance,
        "threshold_grc": alert.threshold,
        "raised_at_ms": alert.raised_at,
    });
    let mut request = http::Request::new(Full::new(Bytes::from(document.to_string())));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = url.0.clone();
    let json = http::HeaderValue::from_static("application/json");
    request.headers_mut().insert(http::header::CONTENT_TYPE, json);
    let answer = client()?.request(request);
    let answer = tokio::time::timeout(CALL_TIMEOUT, answer)
        .await
        .map_err(|_| CallError::Late)?
        .map_err(CallError::Unreachable)?;
    if answer.status().is_success() {
        Ok(())
    } else {
        Err(CallError::Refused(answer.status()))
    }
}

/// A client for one call: alerts are rare.
fn client() -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, CallError> {
    let connector = HttpsConnectorBuilder::new()
        .with_native_roots()
        .map_err(CallError::Certificates)?
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_raised_once_for_each_fall_and_not_for_a_beginning_at_nothing() {
        let (threshold, now) = (Amount::from_halfords(100), Timestamp::from_unix_ms(7));
        let mut alarm = Alarm::default();
        let mut raised = Vec::new();
        for balance in [0, 100, 101, 150, 100, 50, -5, 100, 101, 99] {
            if let Some(next) = alarm.next(Amount::from_halfords(balance), threshold, now) {
                raised.extend(next.raised().map(|alert| alert.balance.halfords()));
                alarm = next;
            }
        }
        assert_eq!(raised, [100, 99]);
    }

    #[test]
    fn a_webhook_is_a_whole_web_address() {
        for text in ["http://127.0.0.1:8080/x", "https://example.org"] {
            assert!(text.parse::<Webhook>().is_ok(), "{text}");
        }
        for text in [
            "",
            "example.org",
            "ftp://example.org",
            "http://",
            "/x",
            "https:///x",
        ] {
            assert!(text.parse::<Webhook>().is_err(), "{text}");
        }
    }
}
