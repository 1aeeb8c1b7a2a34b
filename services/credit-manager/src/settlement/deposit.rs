//! DEPOSIT: coins that arrive at a user's address are credited once, as soon as they are confirmed often enough.
//!
//! Every scan rereads the last blocks, so a deposit is seen again and again; what was credited is known by its transfer.
//! A credited deposit that the chain took back is reversed, and may be credited anew if it returns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use service_kit::{Chain, Clock};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use units::{Amount, Timestamp, UserName};

use super::wallet::{Deposit, Deposits, Wallet, WalletError};
use crate::ledger::{Transfer, TransferId};
use crate::metrics::METRICS;
use crate::writer::{CommandError, Desk, Writer};

/// Brings the ledger up to what the chain shows.
#[derive(Clone)]
pub struct Scanner {
    pub writer: Writer,
    pub wallet: Arc<dyn Wallet>,
    pub clock: Arc<dyn Clock>,
    pub confirmations: u32,
    pub interval: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error(transparent)]
    Wallet(#[from] WalletError),
    #[error(transparent)]
    Ledger(#[from] CommandError),
}

impl Scanner {
    /// Runs until shutdown. Errors if the ledger cannot be written; the wallet's failures are retried.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), CommandError> {
        let mut timer = tokio::time::interval(self.interval);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_reachable = true;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                _ = timer.tick() => {}
            }
            match self.scan().await {
                Ok(()) if !was_reachable => {
                    info!("the wallet answers again");
                    was_reachable = true;
                }
                Ok(()) => {}
                Err(ScanError::Ledger(err)) => return Err(err),
                // Once, not at every scan.
                Err(ScanError::Wallet(err)) if was_reachable => {
                    warn!(error = %Chain(&err), "cannot look for deposits, will retry");
                    was_reachable = false;
                }
                Err(ScanError::Wallet(err)) => debug!(error = %Chain(&err), "cannot look for deposits"),
            }
        }
    }

    /// One look at the chain.
    pub async fn scan(&self) -> Result<(), ScanError> {
        let cursor = self.writer.call(|desk| Ok(desk.bank.cursor().cloned())).await?;
        let found = self.wallet.deposits(cursor.as_ref(), self.confirmations).await?;
        let (confirmations, now) = (i64::from(self.confirmations), self.clock.now());
        self.writer
            .call(move |desk| take(desk, found, confirmations, now))
            .await?;
        Ok(())
    }
}

/// Takes one scan's result into the ledger.
fn take(desk: &mut Desk, found: Deposits, confirmations: i64, now: Timestamp) -> Result<(), CommandError> {
    let mut pending: BTreeMap<UserName, Amount> = BTreeMap::new();
    for deposit in &found.deposits {
        let Some(user) = desk.bank.owner(&deposit.id.address).cloned() else {
            debug!(txid = deposit.id.txid, "coins at an address that is no user's");
            continue;
        };
        if deposit.confirmations >= confirmations {
            credit(desk, deposit, &user, now)?;
        } else if deposit.confirmations < 0 {
            take_back(desk, deposit, &user, now)?;
        } else if standing_credit(desk, deposit)?.is_err() {
            let sum = pending.entry(user).or_default();
            *sum = sum.saturating_add(deposit.id.amount);
        }
    }
    desk.bank.on_scanned(&pending, found.cursor);
    Ok(())
}

fn credit(desk: &mut Desk, deposit: &Deposit, user: &UserName, now: Timestamp) -> Result<(), CommandError> {
    if let Err(round) = standing_credit(desk, deposit)? {
        let transfer = Transfer::deposit(&deposit.id, round, user, now);
        desk.bank.move_deposit(transfer, user)?;
        let amount_halfords = deposit.id.amount.halfords();
        info!(%user, amount_halfords, txid = deposit.id.txid, "deposit credited");
        METRICS.deposits.with_label_values(&["credited"]).inc();
    }
    Ok(())
}

fn take_back(
    desk: &mut Desk,
    deposit: &Deposit,
    user: &UserName,
    now: Timestamp,
) -> Result<(), CommandError> {
    if let Ok(credit) = standing_credit(desk, deposit)? {
        desk.bank.move_deposit(Transfer::reversal(&credit, now), user)?;
        let amount_halfords = deposit.id.amount.halfords();
        error!(%user, amount_halfords, txid = deposit.id.txid, "a credited deposit left the chain, taken back");
        METRICS.deposits.with_label_values(&["taken-back"]).inc();
    }
    Ok(())
}

/// The credit of a deposit that is in force, or the round in which it would be credited.
fn standing_credit(desk: &Desk, deposit: &Deposit) -> Result<Result<Transfer, u32>, CommandError> {
    let mut round = 0;
    while let Some(credit) = desk.transfer(&TransferId::deposit(&deposit.id, round))? {
        if desk.transfer(&TransferId::reversal(&credit.id))?.is_none() {
            return Ok(Ok(credit));
        }
        round += 1;
    }
    Ok(Err(round))
}
