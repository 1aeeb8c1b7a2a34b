//! Transfers: every way in which money moves, and the name each movement has for ever.

use std::fmt;

use units::{Amount, ReceiverName, SessionId, Timestamp, UserName};

use super::Account;
use crate::settlement::wallet::{DepositId, PaymentId};

/// What a transfer is named by: made from its cause, so that a cause heard of twice is posted once (I3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransferId(String);

impl TransferId {
    /// An id as the journal has it.
    pub fn restored(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The `sequence`th charge of a session.
    pub fn charge(session: SessionId, sequence: usize) -> Self {
        Self(format!("charge:{session}:{sequence}"))
    }

    /// The credit of one received output; `round` counts how often it was taken back before.
    pub fn deposit(deposit: &DepositId, round: u32) -> Self {
        Self(format!("{}:{round}", Self::deposit_without_round(deposit)))
    }

    /// What the credits of one received output have in common.
    pub fn deposit_without_round(deposit: &DepositId) -> String {
        let DepositId {
            txid,
            address,
            amount,
            ordinal,
        } = deposit;
        format!("deposit:{txid}:{address}:{}:{ordinal}", amount.halfords())
    }

    /// The id of a deposit's credit up to its round.
    pub fn without_round(&self) -> &str {
        self.0.rsplit_once(':').map_or(&self.0, |(id, _)| id)
    }

    /// The one reversal a transfer can have.
    pub fn reversal(original: &Self) -> Self {
        Self(format!("reversal:{original}"))
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why money moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Deposit,
    Charge,
    Reversal,
    Settlement,
    Withdrawal,
    Payout,
    Fee,
    Change,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Deposit,
        Self::Charge,
        Self::Reversal,
        Self::Settlement,
        Self::Withdrawal,
        Self::Payout,
        Self::Fee,
        Self::Change,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deposit => "deposit",
            Self::Charge => "charge",
            Self::Reversal => "reversal",
            Self::Settlement => "settlement",
            Self::Withdrawal => "withdrawal",
            Self::Payout => "payout",
            Self::Fee => "fee",
            Self::Change => "change",
        }
    }
}

/// One debit and one credit of the same amount. Never changed: a correction is a reversal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub id: TransferId,
    pub debit: Account,
    pub credit: Account,
    /// Always positive.
    pub amount: Amount,
    pub kind: Kind,
    /// What it is for: a session id, a transaction id, a payment id.
    pub reference: String,
    pub posted_at: Timestamp,
    pub reverses: Option<TransferId>,
}

impl Transfer {
    pub fn charge(
        session: SessionId,
        sequence: usize,
        user: &UserName,
        amount: Amount,
        now: Timestamp,
    ) -> Self {
        Self {
            id: TransferId::charge(session, sequence),
            debit: Account::User(user.clone()),
            credit: Account::Due(user.clone()),
            amount,
            kind: Kind::Charge,
            reference: session.to_string(),
            posted_at: now,
            reverses: None,
        }
    }

    pub fn deposit(deposit: &DepositId, round: u32, user: &UserName, now: Timestamp) -> Self {
        Self {
            id: TransferId::deposit(deposit, round),
            debit: Account::Chain,
            credit: Account::User(user.clone()),
            amount: deposit.amount,
            kind: Kind::Deposit,
            reference: deposit.txid.clone(),
            posted_at: now,
            reverses: None,
        }
    }

    /// What was due of a user now is a receiver's. The reference is the payment that moved the coins, or where nothing
    /// has to move, what was settled together.
    pub fn settlement(
        reference: &PaymentId,
        user: &UserName,
        receiver: &ReceiverName,
        amount: Amount,
        now: Timestamp,
    ) -> Self {
        Self {
            id: TransferId(format!("settlement:{reference}:{user}:{receiver}")),
            debit: Account::Due(user.clone()),
            credit: Account::Earnings(receiver.clone()),
            amount,
            kind: Kind::Settlement,
            reference: reference.to_string(),
            posted_at: now,
            reverses: None,
        }
    }

    /// A user's coins that are about to leave, with what is kept back for the fee.
    pub fn withdrawal(payment: &PaymentId, user: &UserName, amount: Amount, now: Timestamp) -> Self {
        Self {
            id: TransferId(format!("withdrawal:{payment}")),
            debit: Account::User(user.clone()),
            credit: Account::Outbox,
            amount,
            kind: Kind::Withdrawal,
            reference: payment.to_string(),
            posted_at: now,
            reverses: None,
        }
    }

    /// Coins that left for the chain.
    pub fn payout(payment: &PaymentId, from: &Account, amount: Amount, now: Timestamp) -> Self {
        Self {
            id: TransferId(format!("payout:{payment}")),
            debit: from.clone(),
            credit: Account::Chain,
            amount,
            kind: Kind::Payout,
            reference: payment.to_string(),
            posted_at: now,
            reverses: None,
        }
    }

    /// What the chain took for carrying a payment, or the part of it that one account pays.
    pub fn fee(payment: &PaymentId, from: &Account, amount: Amount, now: Timestamp) -> Self {
        Self {
            id: TransferId(format!("fee:{payment}:{from}")),
            kind: Kind::Fee,
            ..Self::payout(payment, from, amount, now)
        }
    }

    /// What was kept back for a fee and was not needed.
    pub fn change(payment: &PaymentId, user: &UserName, amount: Amount, now: Timestamp) -> Self {
        Self {
            id: TransferId(format!("change:{payment}")),
            debit: Account::Outbox,
            credit: Account::User(user.clone()),
            amount,
            kind: Kind::Change,
            reference: payment.to_string(),
            posted_at: now,
            reverses: None,
        }
    }

    /// Undoes a transfer, naming it.
    pub fn reversal(original: &Self, now: Timestamp) -> Self {
        Self {
            id: TransferId::reversal(&original.id),
            debit: original.credit.clone(),
            credit: original.debit.clone(),
            amount: original.amount,
            kind: Kind::Reversal,
            reference: original.reference.clone(),
            posted_at: now,
            reverses: Some(original.id.clone()),
        }
    }
}
