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
use serde_json::json;
use service_kit::{Chain, Clock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use units::{Amount, Timestamp, UserName};

use crate::webhook::{CallError, Reach, Webhook};
use crate::writer::{CommandError, Writer};

/// Webhooks called at once; the next wait for the next look.
const CALLS_MAX: usize = 32;
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

/// Looks for balances that crossed their threshold, and calls the webhooks.
#[derive(Clone)]
pub struct Alerts {
    pub writer: Writer,
    pub clock: Arc<dyn Clock>,
    pub interval: Duration,
    pub reach: Reach,
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
                    let reach = self.reach;
                    calls.spawn(async move {
                        tell(&notice, reach).await;
                        key
                    });
                }
            }
        }
    }
}

/// Calls a webhook until it takes the alert, for about an hour.
async fn tell(notice: &Notice, reach: Reach) {
    let retries = ExponentialBuilder::default()
        .with_min_delay(PAUSE.0)
        .with_max_delay(PAUSE.1)
        .with_max_times(TRIES);
    let document = document(notice);
    let call = || notice.url.post(&document, reach);
    match call.retry(retries).when(CallError::is_transient).await {
        Ok(()) => info!(user = %notice.user, "low balance told"),
        Err(err) => {
            warn!(user = %notice.user, error = %Chain(&err), "low balance not told, webhook given up")
        }
    }
}

fn document(notice: &Notice) -> serde_json::Value {
    let Notice { user, alert, .. } = notice;
    json!({
        "id": alert.id(user),
        "alert": "low balance",
        "user": user,
        "balance_grc": alert.balance,
        "threshold_grc": alert.threshold,
        "raised_at_ms": alert.raised_at,
    })
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
}
