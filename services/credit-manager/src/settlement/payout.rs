//! PAYOUT: moves the outbox towards empty. Which state follows which is in [`outbox`](super::outbox).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use service_kit::metrics::Parts;
use service_kit::{Chain, Clock};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::outbox::{AfterSending, Payout, PayoutState, Rules, after_looking, after_refusal, after_sending};
use super::wallet::{Payment, PaymentId, Receipt, Wallet, WalletError};
use crate::metrics::METRICS;
use crate::writer::{CommandError, Writer};

/// The longest rest after payments of earnings were refused.
const REST_MAX: Duration = Duration::from_secs(3600);

/// What this life of the process knows of a payment it tried.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: Instant,
    unclear_since: Option<Instant>,
}

/// What became of a payment.
struct Advance {
    state: PayoutState,
    /// By the wallet, for good.
    was_refused: bool,
}

/// A pause in settling after the wallet refused it for good: the same again would be refused as well, until somebody
/// mends the wallet. Twice as long each time, and forgotten after a success.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    length: Duration,
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
    /// Cancelled when the receivers' addresses are known to be right: nothing is sent before.
    pub receivers_checked: CancellationToken,
}

impl Payouts {
    /// Runs until shutdown. Errors if the ledger cannot be written; the wallet's failures are retried.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), CommandError> {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            () = self.receivers_checked.cancelled() => {}
        }
        let mut attempts: HashMap<PaymentId, Attempt> = HashMap::new();
        let mut rest: Option<Rest> = None;
        let mut timer = tokio::time::interval(self.interval);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                _ = timer.tick() => {}
                () = self.wake.notified() => {}
            }
            let rests = |rest: Option<Rest>| rest.is_some_and(|rest| Instant::now() < rest.until);
            let payouts = self.plan(!rests(rest)).await?;
            count(&payouts);
            for payout in payouts {
                if shutdown.is_cancelled() {
                    return Ok(());
                }
                let id = payout.payment.id.clone();
                let attempt = attempts.get(&id).copied();
                // A wallet that is down is not asked again for every charge that wakes us.
                if attempt.is_some_and(|attempt| attempt.at.elapsed() < self.interval / 2) {
                    continue;
                }
                let is_users = payout.purpose.is_of_a_user();
                if payout.state == PayoutState::Unsent && !is_users && rests(rest) {
                    continue;
                }
                let at = Instant::now();
                let Advance { state, was_refused } = self.advance(&payout, attempt).await?;
                if was_refused && !is_users {
                    rest = Some(self.longer(rest));
                } else if matches!(state, PayoutState::Done(_)) {
                    rest = None;
                }
                if state.is_over() {
                    attempts.remove(&id);
                } else {
                    let since = attempt.and_then(|attempt| attempt.unclear_since).unwrap_or(at);
                    let unclear_since = (state != PayoutState::Unsent).then_some(since);
                    attempts.insert(id, Attempt { at, unclear_since });
                }
            }
        }
    }

    fn longer(&self, rest: Option<Rest>) -> Rest {
        let length = rest.map_or(self.interval, |rest| (rest.length * 2).min(REST_MAX));
        Rest {
            until: Instant::now() + length,
            length,
        }
    }

    /// Fills the outbox, unless that rests, and reads all of it.
    async fn plan(&self, fill: bool) -> Result<Vec<Payout>, CommandError> {
        let (rules, now) = (self.rules.clone(), self.clock.now());
        self.writer
            .call(move |desk| {
                if fill {
                    desk.bank.plan_payouts(&rules, fresh_id, now)?;
                }
                Ok(desk.bank.payouts().cloned().collect())
            })
            .await
    }

    /// Makes or looks for one payment, and writes down what became of it.
    async fn advance(&self, payout: &Payout, last: Option<Attempt>) -> Result<Advance, CommandError> {
        let payment = &payout.payment;
        let mut was_refused = false;
        let state = match &payout.state {
            PayoutState::Unsent => {
                self.set(&payment.id, PayoutState::InFlight).await?;
                let sent = self.wallet.pay(payment).await;
                note_sent(payment, &sent, last.is_none());
                match after_sending(sent) {
                    AfterSending::Become(state) => state,
                    AfterSending::Look(reason) => {
                        was_refused = true;
                        after_refusal(&payout.purpose, self.find(payment).await, reason)
                    }
                }
            }
            PayoutState::InFlight | PayoutState::Unclear => {
                // A payment in flight at the last end of the process may still be carried out, as from now.
                let unclear_since = last.and_then(|attempt| attempt.unclear_since);
                let waited = unclear_since.map_or(Duration::ZERO, |since| since.elapsed());
                after_looking(self.find(payment).await, waited >= self.late_execution)
            }
            over @ (PayoutState::Done(_) | PayoutState::Failed(_)) => over.clone(),
        };
        note(payout, &state);
        self.set(&payment.id, state.clone()).await?;
        Ok(Advance { state, was_refused })
    }

    async fn find(&self, payment: &Payment) -> Result<Option<Receipt>, WalletError> {
        let found = self.wallet.find_payment(payment).await;
        if let Err(err) = &found {
            warn!(payment_id = %payment.id, error = %Chain(err), "cannot ask the wallet for a payment, will retry");
        }
        found
    }

    async fn set(&self, id: &PaymentId, state: PayoutState) -> Result<(), CommandError> {
        let (id, now) = (id.clone(), self.clock.now());
        self.writer
            .call(move |desk| desk.bank.move_payout(&id, state, now).map_err(CommandError::from))
            .await
    }
}

/// Tells how many payments wait, by how far they came.
fn count(payouts: &[Payout]) {
    for state in [PayoutState::Unsent, PayoutState::InFlight, PayoutState::Unclear] {
        let waiting = payouts.iter().filter(|payout| payout.state == state).count();
        METRICS
            .outbox
            .with_label_values(&[state.as_str()])
            .set(Parts::new(waiting));
    }
}

/// `whose`: a user's name, or what else the payment is for.
fn fresh_id(whose: &str) -> PaymentId {
    format!("gridfaas:{whose}:{}", Uuid::now_v7())
        .parse()
        .expect("a name and a UUID are plain text")
}

/// Tells of a payment that could not be sent; only of the first try where the next may go the same way.
fn note_sent(payment: &Payment, sent: &Result<Receipt, WalletError>, is_first: bool) {
    let id = &payment.id;
    match sent {
        Ok(_) => {}
        Err(err) if err.is_unclear() => {
            warn!(payment_id = %id, error = %Chain(err), "the outcome of a payment is unclear, will ask the wallet");
        }
        Err(err) if err.is_final() => {
            warn!(payment_id = %id, error = %Chain(err), "the wallet refuses a payment");
        }
        Err(err) if !is_first => debug!(payment_id = %id, error = %Chain(err), "payment not sent"),
        Err(err) if err.is_transient() => {
            warn!(payment_id = %id, error = %Chain(err), "payment not sent, will retry");
        }
        Err(err) => {
            error!(payment_id = %id, error = %Chain(err), "the wallet lets us make no payment, will retry")
        }
    }
}

/// Tells what became of a payment, and counts it.
fn note(payout: &Payout, next: &PayoutState) {
    let Payment { id, amount, .. } = &payout.payment;
    let purpose = payout.purpose.as_str();
    let was_lost = payout.state != PayoutState::Unsent;
    match next {
        PayoutState::Done(_) => {
            let amount_halfords = amount.halfords();
            info!(payment_id = %id, purpose, amount_halfords, was_lost, "payment settled");
        }
        PayoutState::Failed(reason) if payout.purpose.is_of_a_user() => {
            warn!(payment_id = %id, purpose, reason, "payment refused, the coins are the user's again");
        }
        PayoutState::Failed(reason) => {
            error!(payment_id = %id, purpose, reason, "payment refused, another will be tried after a rest");
        }
        PayoutState::Unsent if was_lost => {
            info!(payment_id = %id, "an unclear payment was not made, will be sent again");
        }
        PayoutState::Unsent | PayoutState::InFlight | PayoutState::Unclear => {}
    }
    METRICS.payouts.with_label_values(&[purpose, next.as_str()]).inc();
}
