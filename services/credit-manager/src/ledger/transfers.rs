//! Transfers: every way in which money moves, and the name each movement has for ever.

use std::fmt;

use units::{Amount, SessionId, Timestamp, UserName};

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
    Fee,
    Withdrawal,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Deposit,
        Self::Charge,
        Self::Reversal,
        Self::Settlement,
        Self::Fee,
        Self::Withdrawal,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deposit => "deposit",
            Self::Charge => "charge",
            Self::Reversal => "reversal",
            Self::Settlement => "settlement",
            Self::Fee => "fee",
            Self::Withdrawal => "withdrawal",
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

    /// What was due of a user now is the provider's, by this payment.
    pub fn settlement(payment: &PaymentId, user: &UserName, amount: Amount, now: Timestamp) -> Self {
        Self {
            id: TransferId(format!("settlement:{payment}:{user}")),
            debit: Account::Due(user.clone()),
            credit: Account::Earnings,
            amount,
            kind: Kind::Settlement,
            reference: payment.to_string(),
            posted_at: now,
            reverses: None,
        }
    }

    /// Earnings that left for the chain.
    pub fn withdrawal(payment: &PaymentId, amount: Amount, now: Timestamp) -> Self {
        Self {
            id: TransferId(format!("withdrawal:{payment}")),
            debit: Account::Earnings,
            credit: Account::Chain,
            amount,
            kind: Kind::Withdrawal,
            reference: payment.to_string(),
            posted_at: now,
            reverses: None,
        }
    }

    /// What the chain took for carrying a payment.
    pub fn fee(payment: &PaymentId, amount: Amount, now: Timestamp) -> Self {
        Self {
            id: TransferId(format!("fee:{payment}")),
            kind: Kind::Fee,
            ..Self::withdrawal(payment, amount, now)
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
