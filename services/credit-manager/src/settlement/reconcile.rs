//! RECONCILIATION: on a timer, proves that the wallet agrees with the ledger, raises an alarm when it does not, and makes
//! whole what can be made whole without a doubt.
//!
//! A wallet that was restored from an older copy has forgotten its last moves. A move is nothing but the wallet's own
//! bookkeeping, found by its id or not there, so a forgotten one is made again under the same id. A send is a matter of
//! the chain: the coins may well have left although this wallet does not know it, so it is never made again by itself.

use std::sync::Arc;
use std::time::Duration;

use service_kit::metrics::Parts;
use service_kit::{Chain, Clock};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};
use units::{Amount, UserName};

use super::audit::{AuditError, Auditor, Mirror};
use super::outbox::Payout;
use crate::metrics::METRICS;
use crate::writer::CommandError;

/// How many moves of a user to look back; each is asked for apart.
const MOVES_MAX: u32 = 1000;

#[derive(Clone)]
pub struct Reconciler {
    pub auditor: Auditor,
    pub clock: Arc<dyn Clock>,
    pub interval: Duration,
    /// Wakes the outbox.
    pub wake: Arc<Notify>,
}

impl Reconciler {
    /// Runs until shutdown. Errors if the ledger cannot be read or written.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), AuditError> {
        let mut timer = tokio::time::interval(self.interval);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_right = true;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                _ = timer.tick() => {}
            }
            was_right = self.reconcile(was_right).await?;
        }
    }

    /// One comparison; whether the two agree. A wallet that cannot be asked proves nothing, so nothing changes then.
    async fn reconcile(&self, was_right: bool) -> Result<bool, AuditError> {
        let started = Instant::now();
        let Mirror { checks, excess } = match self.auditor.mirror().await? {
            Ok(mirror) => mirror,
            Err(err) => {
                debug!(error = %Chain(&err), "the wallet cannot be compared with the ledger");
                METRICS.reconciliations.with_label_values(&["unknown"]).inc();
                return Ok(was_right);
            }
        };
        let wrong: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
        let is_right = wrong.is_empty();
        for check in &wrong {
            error!(
                check = check.name,
                detail = check.detail,
                "the wallet does not agree with the ledger"
            );
        }
        if is_right && !was_right {
            info!("the wallet agrees with the ledger again");
        }
        let result = if is_right { "agrees" } else { "disagrees" };
        METRICS.reconciliations.with_label_values(&[result]).inc();
        METRICS.reconciliation_ok.set(Parts::new(u32::from(is_right)));
        METRICS
            .reconciliation_time
            .set(Parts::new(self.clock.now().unix_ms()));
        METRICS
            .reconciliation_duration
            .observe(started.elapsed().as_secs_f64());
        for (user, excess) in excess {
            self.make_forgotten_moves_again(user, excess).await?;
        }
        Ok(is_right)
    }

    /// Looks back through the moves of a user until those that the wallet has forgotten explain what it has too much.
    async fn make_forgotten_moves_again(&self, user: UserName, excess: Amount) -> Result<(), AuditError> {
        let mut forgotten: Vec<Payout> = Vec::new();
        let mut explained = Amount::ZERO;
        for payout in self.auditor.reader.made_moves(user, MOVES_MAX).await? {
            if explained >= excess {
                break;
            }
            match self.auditor.wallet.find_payment(&payout.payment).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    explained = explained.saturating_add(payout.payment.amount);
                    forgotten.push(payout);
                }
                Err(err) => {
                    debug!(error = %Chain(&err), "cannot look for moves, will try again");
                    return Ok(());
                }
            }
        }
        for payout in &forgotten {
            error!(payment_id = %payout.payment.id, "the wallet has forgotten a move, which is made again");
        }
        let now = self.clock.now();
        let again = self.auditor.writer.call(move |desk| {
            for payout in forgotten {
                desk.bank.make_again(payout, now);
            }
            Ok::<_, CommandError>(())
        });
        again.await?;
        self.wake.notify_one();
        Ok(())
    }
}
