//! Money that comes from the chain and goes there.

use std::collections::{BTreeMap, BTreeSet};

use units::{Amount, Timestamp, UserName};

use super::grants::Cause;
use super::{Bank, BankError, Change};
use crate::ledger::{Account, Transfer};
use crate::settlement::payout::{Payout, PayoutState, Rules};
use crate::settlement::wallet::{Address, Cursor, Payment, PaymentId, Receipt, Route};

/// Kept back from payouts of earnings, so that the chain's fee is covered by what the provider earned.
pub const FEE_RESERVE: Amount = Amount::from_halfords(1_000_000);

impl Bank {
    /// The user whose deposit address this is.
    pub fn owner(&self, address: &Address) -> Option<&UserName> {
        self.addresses.get(address)
    }

    /// Posts a deposit, or the reversal of one that the chain took back. The caller knows that it was not posted before.
    pub fn move_deposit(&mut self, transfer: Transfer, user: &UserName) -> Result<(), BankError> {
        self.user(user)?;
        self.post(transfer)?;
        self.share_out(user, &Cause::Funds);
        Ok(())
    }

    /// Notes what a scan of the chain found: deposits not yet deep enough, and where to go on.
    pub fn on_scanned(&mut self, pending: &BTreeMap<UserName, Amount>, cursor: Cursor) {
        for (name, state) in &mut self.users {
            state.pending = pending.get(name).copied().unwrap_or_default();
        }
        if self.cursor.as_ref() != Some(&cursor) {
            self.cursor = Some(cursor.clone());
            self.effects.changes.push(Change::Scanned(cursor));
        }
    }

    /// What of a user's unsettled charges is covered by coins: the part owed on credit is not settled before a deposit
    /// covers it, so that the wallet's own accounts never go below zero.
    fn payable(&self, name: &UserName) -> Amount {
        let due = self.balances.of(&Account::Due(name.clone()));
        let owed = self.balances.of(&Account::User(name.clone())).min(Amount::ZERO);
        due.saturating_add(owed).or_zero()
    }

    /// Puts payments of everything that is worth settling now into the outbox. At most one is unfinished per account.
    pub fn plan_payouts(
        &mut self,
        rules: &Rules,
        mut fresh: impl FnMut(Option<&UserName>) -> PaymentId,
        now: Timestamp,
    ) -> Result<(), BankError> {
        match rules {
            Rules::Move { provider, min } => {
                let busy: BTreeSet<UserName> = self
                    .payouts
                    .values()
                    .filter_map(|payout| payout.user.clone())
                    .collect();
                let idle = self.users.keys().filter(|name| !busy.contains(*name));
                let ripe: Vec<(UserName, Amount)> = idle
                    .map(|name| (name.clone(), self.payable(name)))
                    .filter(|(_, amount)| *amount >= *min)
                    .collect();
                for (name, amount) in ripe {
                    let route = Route::Move {
                        from: name.to_string(),
                        to: provider.clone(),
                    };
                    let id = fresh(Some(&name));
                    self.put_payout(Payout {
                        payment: Payment { id, amount, route },
                        user: Some(name),
                        state: PayoutState::Unsent,
                        changed_at: now,
                    });
                }
            }
            Rules::Send { receiver, min } => {
                let payable = self.users.keys().map(|name| self.payable(name)).sum::<Amount>();
                let earned = self.balances.of(&Account::Earnings).saturating_add(payable);
                let amount = earned.saturating_sub(FEE_RESERVE);
                if amount < *min || self.payouts.values().any(|payout| payout.user.is_none()) {
                    return Ok(());
                }
                let id = fresh(None);
                let names: Vec<UserName> = self.users.keys().cloned().collect();
                for name in names {
                    let amount = self.payable(&name);
                    if amount.is_positive() {
                        self.post(Transfer::settlement(&id, &name, amount, now))?;
                    }
                }
                let route = Route::Send { to: receiver.clone() };
                self.put_payout(Payout {
                    payment: Payment { id, amount, route },
                    user: None,
                    state: PayoutState::Unsent,
                    changed_at: now,
                });
            }
            Rules::Keep => {}
        }
        Ok(())
    }

    fn put_payout(&mut self, payout: Payout) {
        self.effects.changes.push(Change::Payout(payout.clone()));
        match payout.state {
            PayoutState::Done(_) => self.payouts.remove(&payout.payment.id),
            PayoutState::Unsent | PayoutState::InFlight | PayoutState::Unclear => {
                self.payouts.insert(payout.payment.id.clone(), payout)
            }
        };
    }

    /// The unfinished payouts.
    pub fn payouts(&self) -> impl Iterator<Item = &Payout> {
        self.payouts.values()
    }

    /// Moves an unfinished payout to `state`; once it is done, the ledger follows.
    pub fn move_payout(
        &mut self,
        id: &PaymentId,
        state: PayoutState,
        now: Timestamp,
    ) -> Result<(), BankError> {
        let payout = self
            .payouts
            .get(id)
            .ok_or_else(|| BankError::UnknownPayment(id.clone()))?
            .clone();
        if let PayoutState::Done(receipt) = &state {
            self.book(&payout, receipt, now)?;
        }
        self.put_payout(Payout {
            state,
            changed_at: now,
            ..payout
        });
        Ok(())
    }

    fn book(&mut self, payout: &Payout, receipt: &Receipt, now: Timestamp) -> Result<(), BankError> {
        let Payment { id, amount, .. } = &payout.payment;
        match &payout.user {
            Some(user) => self.post(Transfer::settlement(id, user, *amount, now))?,
            None => self.post(Transfer::withdrawal(id, *amount, now))?,
        }
        if receipt.fee.is_positive() {
            self.post(Transfer::fee(id, receipt.fee, now))?;
        }
        Ok(())
    }
}
