//! PAYOUT: the outbox. A payment is written down before the wallet hears of it, and never made twice.
//!
//! ```text
//!             about to be sent             the wallet said done
//! unsent ──────────────────► in flight ───────────────────────► done
//!    ▲                        │     │                             ▲
//!    │     it was not made    │     │ nobody knows, or a restart  │ the wallet has it
//!    ├────────────────────────┘     ▼                             │
//!    └─────────────────────────── unclear ────────────────────────┘
//!      the wallet does not have it, and it is too late for the lost request to be carried out still
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use service_kit::{Chain, Clock};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use units::{Amount, Timestamp, UserName};
use uuid::Uuid;

use super::wallet::{Address, Payment, PaymentId, Receipt, Wallet, WalletError};
use crate::writer::{CommandError, Writer};

/// One row of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payout {
    pub payment: Payment,
    /// Whose charges it settles; none for earnings that leave for the provider's own address.
    pub user: Option<UserName>,
    pub state: PayoutState,
    pub changed_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayoutState {
    Unsent,
    InFlight,
    Unclear,
    Done(Receipt),
}

impl PayoutState {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::InFlight => "in-flight",
            Self::Unclear => "unclear",
            Self::Done(_) => "done",
        }
    }

    pub fn receipt(&self) -> Option<&Receipt> {
        match self {
            Self::Unsent | Self::InFlight | Self::Unclear => None,
            Self::Done(receipt) => Some(receipt),
        }
    }

    /// A state as the journal has it.
    pub fn restored(word: &str, receipt: Option<Receipt>) -> Option<Self> {
        match (word, receipt) {
            ("unsent", None) => Some(Self::Unsent),
            ("in-flight", None) => Some(Self::InFlight),
            ("unclear", None) => Some(Self::Unclear),
            ("done", Some(receipt)) => Some(Self::Done(receipt)),
            _ => None,
        }
    }
}

/// Where settled money goes, and in what blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Each user's charges move to the provider's account of the same wallet.
    Move { provider: String, min: Amount },
    /// What all users were charged is sent to the provider's address, in one payment.
    Send { receiver: Address, min: Amount },
    /// Earnings stay in the wallet.
    Keep,
}

/// What this life of the process knows of a payment it tried.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: Instant,
    unclear_since: Option<Instant>,
}

/// Moves the outbox towards empty.
#[derive(Clone)]
pub struct Payouts {
    pub writer: Writer,
    pub wallet: Arc<dyn Wallet>,
    pub clock: Arc<dyn Clock>,
    pub rules: Rules,
    /// How often to look without being woken.
    pub interval: Duration,
    /// After an unclear outcome, how long the lost request may still be carried out.
    pub late_execution: Duration,
    pub wake: Arc<Notify>,
}

impl Payouts {
    /// Runs until shutdown. Errors if the ledger cannot be written; the wallet's failures are retried.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), CommandError> {
        let mut attempts: HashMap<PaymentId, Attempt> = HashMap::new();
        let mut timer = tokio::time::interval(self.interval);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                _ = timer.tick() => {}
                () = self.wake.notified() => {}
            }
            for payout in self.plan().await? {
                if shutdown.is_cancelled() {
                    return Ok(());
                }
                let attempt = attempts.get(&payout.payment.id).copied();
                // A wallet that is down is not asked again for every charge that wakes us.
                if attempt.is_some_and(|attempt| attempt.at.elapsed() < self.interval / 2) {
                    continue;
                }
                let id = payout.payment.id.clone();
                match self.advance(payout, attempt).await? {
                    Some(attempt) => attempts.insert(id, attempt),
                    None => attempts.remove(&id),
                };
            }
        }
    }

    /// Fills the outbox, and reads all of it.
    async fn plan(&self) -> Result<Vec<Payout>, CommandError> {
        let (rules, now) = (self.rules.clone(), self.clock.now());
        self.writer
            .call(move |desk| {
                desk.bank.plan_payouts(&rules, fresh_id, now)?;
                Ok(desk.bank.payouts().cloned().collect())
            })
            .await
    }

    /// Makes or looks for one payment. What is left to remember of it, unless it is done.
    async fn advance(&self, payout: Payout, last: Option<Attempt>) -> Result<Option<Attempt>, CommandError> {
        let payment = payout.payment;
        let at = Instant::now();
        // A payment in flight at the last end of the process may still be carried out, as from now.
        let unclear_since = last.and_then(|attempt| attempt.unclear_since).unwrap_or(at);
        let next = match payout.state {
            PayoutState::Done(_) => return Ok(None),
            PayoutState::Unsent => {
                self.set(&payment.id, PayoutState::InFlight).await?;
                after_sending(&payment, self.wallet.pay(&payment).await)
            }
            PayoutState::InFlight | PayoutState::Unclear => {
                let is_late = unclear_since.elapsed() >= self.late_execution;
                after_looking(&payment, self.wallet.find_payment(&payment).await, is_late)
            }
        };
        let remembered = match &next {
            PayoutState::Done(_) => None,
            PayoutState::Unsent => Some(None),
            PayoutState::InFlight | PayoutState::Unclear => Some(Some(unclear_since)),
        };
        self.set(&payment.id, next).await?;
        Ok(remembered.map(|unclear_since| Attempt { at, unclear_since }))
    }

    async fn set(&self, id: &PaymentId, state: PayoutState) -> Result<(), CommandError> {
        let (id, now) = (id.clone(), self.clock.now());
        self.writer
            .call(move |desk| desk.bank.move_payout(&id, state, now).map_err(CommandError::from))
            .await
    }
}

fn fresh_id(user: Option<&UserName>) -> PaymentId {
    let what = user.map_or("earnings", UserName::as_str);
    format!("gridfaas:{what}:{}", Uuid::now_v7())
        .parse()
        .expect("a user name and a UUID are plain text")
}

fn after_sending(payment: &Payment, sent: Result<Receipt, WalletError>) -> PayoutState {
    let Payment { id, amount, .. } = payment;
    match sent {
        Ok(receipt) => {
            info!(payment_id = %id, amount_halfords = amount.halfords(), "payment settled");
            PayoutState::Done(receipt)
        }
        Err(err) if err.is_unclear() => {
            warn!(payment_id = %id, error = %Chain(&err), "the outcome of a payment is unclear, will ask the wallet");
            PayoutState::Unclear
        }
        Err(err) if err.is_transient() => {
            warn!(payment_id = %id, error = %Chain(&err), "payment not sent, will retry");
            PayoutState::Unsent
        }
        Err(err) => {
            error!(payment_id = %id, error = %Chain(&err), "the wallet refuses a payment, will retry");
            PayoutState::Unsent
        }
    }
}

fn after_looking(
    payment: &Payment,
    found: Result<Option<Receipt>, WalletError>,
    resend: bool,
) -> PayoutState {
    let id = &payment.id;
    match found {
        Ok(Some(receipt)) => {
            info!(payment_id = %id, amount_halfords = payment.amount.halfords(), "an unclear payment was made");
            PayoutState::Done(receipt)
        }
        Ok(None) if resend => {
            info!(payment_id = %id, "an unclear payment was not made, will be sent again");
            PayoutState::Unsent
        }
        Ok(None) => PayoutState::Unclear,
        Err(err) => {
            warn!(payment_id = %id, error = %Chain(&err), "cannot ask the wallet for a payment, will retry");
            PayoutState::Unclear
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settlement::wallet::Route;

    fn payment() -> Payment {
        Payment {
            id: "payment-1".parse().unwrap(),
            amount: Amount::from_halfords(5),
            route: Route::Move {
                from: "alice".to_owned(),
                to: "gridfaas".to_owned(),
            },
        }
    }

    fn receipt() -> Receipt {
        Receipt {
            txid: None,
            fee: Amount::ZERO,
        }
    }

    fn unclear() -> WalletError {
        WalletError::Unclear {
            method: "move",
            err: "reset".into(),
        }
    }

    fn refused() -> WalletError {
        WalletError::Refused {
            method: "move",
            code: -3,
            message: "Invalid amount".to_owned(),
        }
    }

    #[test]
    fn only_what_was_surely_not_made_is_sent_again() {
        for (sent, next) in [
            (Ok(receipt()), PayoutState::Done(receipt())),
            (Err(unclear()), PayoutState::Unclear),
            (Err(refused()), PayoutState::Unsent),
        ] {
            assert_eq!(after_sending(&payment(), sent), next);
        }
        for (found, resend, next) in [
            (Ok(Some(receipt())), false, PayoutState::Done(receipt())),
            (Ok(Some(receipt())), true, PayoutState::Done(receipt())),
            (Ok(None), false, PayoutState::Unclear),
            (Ok(None), true, PayoutState::Unsent),
            (Err(refused()), true, PayoutState::Unclear),
        ] {
            assert_eq!(after_looking(&payment(), found, resend), next);
        }
    }

    #[test]
    fn states_are_read_back() {
        for state in [
            PayoutState::Unsent,
            PayoutState::InFlight,
            PayoutState::Unclear,
            PayoutState::Done(receipt()),
        ] {
            let restored = PayoutState::restored(state.as_str(), state.receipt().cloned());
            assert_eq!(restored, Some(state));
        }
        assert_eq!(PayoutState::restored("done", None), None);
    }
}
