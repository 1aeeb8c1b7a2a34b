//! Money that comes from the chain and goes there.

use std::collections::{BTreeMap, BTreeSet};

use units::{Amount, Timestamp, UserName};

use super::grants::Cause;
use super::{Bank, BankError, Change};
use crate::ledger::{Account, Transfer};
use crate::settlement::gridcoin::Mode;
use crate::settlement::outbox::{Payout, PayoutState, Purpose, Rules};
use crate::settlement::split::{Receiver, label_of};
use crate::settlement::wallet::{Address, Cursor, Payment, PaymentId, Receipt, Route};

/// Kept back from what is sent over the chain, for the fee, which is known only afterwards: ten times the least fee.
pub const FEE_RESERVE: Amount = Amount::from_halfords(1_000_000);

/// What a user asks to have sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithdrawalOrder {
    pub id: PaymentId,
    pub user: UserName,
    pub to: Address,
    pub sum: Sum,
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// What arrives; the fee comes on top.
    Exactly(Amount),
    /// All that is free, less the fee.
    All,
}

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
        self.arm(user);
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

    /// Puts payments of everything that is worth settling now into the outbox. `fresh` makes an id that tells whose
    /// payment it is.
    pub fn plan_payouts(
        &mut self,
        rules: &Rules,
        mut fresh: impl FnMut(&str) -> PaymentId,
        now: Timestamp,
    ) -> Result<(), BankError> {
        match rules.mode {
            Mode::Accounts => self.plan_moves(rules, &mut fresh, now),
            Mode::Addresses => {
                self.settle(rules, &mut fresh, now)?;
                self.plan_sends(rules, &mut fresh, now);
            }
        }
        Ok(())
    }

    /// Each user's charges move to the receivers' accounts of the same wallet, when the last ones of that user have.
    fn plan_moves(&mut self, rules: &Rules, fresh: &mut impl FnMut(&str) -> PaymentId, now: Timestamp) {
        let busy: BTreeSet<UserName> = self
            .payouts
            .values()
            .filter_map(|payout| match &payout.purpose {
                Purpose::Settlement { user, .. } => Some(user.clone()),
                Purpose::Earnings { .. } | Purpose::Withdrawal { .. } => None,
            })
            .collect();
        let idle = self.users.keys().filter(|name| !busy.contains(*name));
        let ripe: Vec<(UserName, Amount)> = idle
            .map(|name| (name.clone(), self.payable(name)))
            .filter(|(_, amount)| *amount >= rules.min)
            .collect();
        for (user, amount) in ripe {
            for (Receiver { name, .. }, part) in rules.receivers.split(self.settled, amount) {
                let payment = Payment {
                    id: fresh(user.as_str()),
                    amount: part,
                    route: Route::Move {
                        from: user.to_string(),
                        to: label_of(name),
                    },
                };
                let purpose = Purpose::Settlement {
                    user: user.clone(),
                    receiver: name.clone(),
                };
                self.enter(payment, purpose, now);
            }
            self.settled = self.settled.saturating_add(amount);
        }
    }

    /// Where the wallet keeps no accounts, charges become the receivers' in the ledger alone.
    fn settle(
        &mut self,
        rules: &Rules,
        fresh: &mut impl FnMut(&str) -> PaymentId,
        now: Timestamp,
    ) -> Result<(), BankError> {
        let payable: Vec<(UserName, Amount)> = self
            .users
            .keys()
            .map(|name| (name.clone(), self.payable(name)))
            .filter(|(_, amount)| *amount >= rules.receivers.amount_min())
            .collect();
        if payable.iter().map(|(_, amount)| *amount).sum::<Amount>() < rules.min {
            return Ok(());
        }
        let id = fresh("settlement");
        for (user, amount) in payable {
            for (receiver, part) in rules.receivers.split(self.settled, amount) {
                self.post(Transfer::settlement(&id, &user, &receiver.name, part, now))?;
            }
            self.settled = self.settled.saturating_add(amount);
        }
        Ok(())
    }

    /// What a receiver with an address has earned is sent there, when the last payment has.
    fn plan_sends(&mut self, rules: &Rules, fresh: &mut impl FnMut(&str) -> PaymentId, now: Timestamp) {
        for Receiver { name, address, .. } in rules.receivers.iter() {
            let Some(to) = address else { continue };
            let purpose = Purpose::Earnings {
                receiver: name.clone(),
            };
            let earned = self.balances.of(&Account::Earnings(name.clone()));
            let amount = earned.saturating_sub(FEE_RESERVE);
            if amount < rules.min || self.payouts.values().any(|payout| payout.purpose == purpose) {
                continue;
            }
            let payment = Payment {
                id: fresh(name.as_str()),
                amount,
                route: Route::Send {
                    from: None,
                    to: to.clone(),
                },
            };
            self.enter(payment, purpose, now);
        }
    }

    /// What a user could withdraw now, the fee included: the balance, less what running sessions may still spend, and
    /// nothing of the debt room.
    pub fn free(&self, name: &UserName) -> Result<Amount, BankError> {
        let state = self.user(name)?;
        let free = self.balance(state).saturating_sub(state.purse.granted());
        Ok(free.or_zero())
    }

    /// Takes coins of a user out of the balance and puts their payment into the outbox. The caller knows that the id is
    /// new, and the address somebody else's.
    pub fn withdraw(
        &mut self,
        order: WithdrawalOrder,
        mode: Mode,
        now: Timestamp,
    ) -> Result<Payout, BankError> {
        let WithdrawalOrder { id, user, to, sum } = order;
        let free = self.free(&user)?;
        let most = free.saturating_sub(FEE_RESERVE);
        let amount = match sum {
            Sum::Exactly(amount) => amount,
            Sum::All => most,
        };
        if !amount.is_positive() || amount > most {
            let view = self.view(&user)?;
            return Err(BankError::NotFree {
                user,
                asked: match sum {
                    Sum::Exactly(amount) => Some(amount),
                    Sum::All => None,
                },
                most: most.or_zero(),
                balance: view.balance,
                granted: view.granted,
            });
        }
        self.post(Transfer::withdrawal(
            &id,
            &user,
            amount.saturating_add(FEE_RESERVE),
            now,
        ))?;
        let from = match mode {
            Mode::Accounts => Some(user.to_string()),
            Mode::Addresses => None,
        };
        let payment = Payment {
            id,
            amount,
            route: Route::Send { from, to },
        };
        let payout = self.enter(payment, Purpose::Withdrawal { user: user.clone() }, now);
        self.share_out(&user, &Cause::Funds);
        Ok(payout)
    }

    fn enter(&mut self, payment: Payment, purpose: Purpose, now: Timestamp) -> Payout {
        let payout = Payout {
            payment,
            purpose,
            state: PayoutState::Unsent,
            is_booked: false,
            created_at: now,
            changed_at: now,
        };
        self.put_payout(payout.clone());
        payout
    }

    fn put_payout(&mut self, payout: Payout) {
        self.effects.changes.push(Change::Payout(payout.clone()));
        if payout.state.is_over() {
            self.payouts.remove(&payout.payment.id);
        } else {
            self.payouts.insert(payout.payment.id.clone(), payout);
        }
    }

    /// Puts a payment into the outbox again that was made, and that the wallet has forgotten. The ledger has it already.
    pub fn make_again(&mut self, payout: Payout, now: Timestamp) {
        self.put_payout(Payout {
            state: PayoutState::Unsent,
            is_booked: true,
            changed_at: now,
            ..payout
        });
    }

    /// The unfinished payouts.
    pub fn payouts(&self) -> impl Iterator<Item = &Payout> {
        self.payouts.values()
    }

    /// Moves an unfinished payout to `state`; once it is over, the ledger follows.
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
        match &state {
            PayoutState::Done(receipt) if !payout.is_booked => self.book(&payout, receipt, now)?,
            PayoutState::Failed(_) if !payout.is_booked => self.give_up(&payout, now)?,
            PayoutState::Done(_)
            | PayoutState::Failed(_)
            | PayoutState::Unsent
            | PayoutState::InFlight
            | PayoutState::Unclear => {}
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
        match &payout.purpose {
            Purpose::Settlement { user, receiver } => {
                self.post(Transfer::settlement(id, user, receiver, *amount, now))?;
            }
            Purpose::Earnings { receiver } => {
                let from = Account::Earnings(receiver.clone());
                self.post(Transfer::payout(id, &from, *amount, now))?;
                if receipt.fee.is_positive() {
                    self.post(Transfer::fee(id, &from, receipt.fee, now))?;
                }
            }
            Purpose::Withdrawal { user } => {
                self.post(Transfer::payout(id, &Account::Outbox, *amount, now))?;
                let reserved = receipt.fee.min(FEE_RESERVE);
                for (from, part) in [
                    (Account::Outbox, reserved),
                    (Account::User(user.clone()), receipt.fee.saturating_sub(reserved)),
                ] {
                    if part.is_positive() {
                        self.post(Transfer::fee(id, &from, part, now))?;
                    }
                }
                let change = FEE_RESERVE.saturating_sub(reserved);
                if change.is_positive() {
                    self.post(Transfer::change(id, user, change, now))?;
                }
                self.share_out(user, &Cause::Funds);
            }
        }
        Ok(())
    }

    fn give_up(&mut self, payout: &Payout, now: Timestamp) -> Result<(), BankError> {
        let Payment { id, amount, .. } = &payout.payment;
        match &payout.purpose {
            Purpose::Settlement { .. } | Purpose::Earnings { .. } => {}
            Purpose::Withdrawal { user } => {
                let taken = amount.saturating_add(FEE_RESERVE);
                let withdrawal = Transfer::withdrawal(id, user, taken, payout.created_at);
                self.post(Transfer::reversal(&withdrawal, now))?;
                self.share_out(user, &Cause::Funds);
            }
        }
        Ok(())
    }
}
