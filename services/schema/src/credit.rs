//! Users, functions and money.

use proto::credit::v1 as credit;
use serde::Serialize;
use units::{Amount, CpuTime, MilliCores, Timestamp};

use crate::{Rfc3339, word};

/// One debit and one credit of the same amount.
#[derive(Clone, Debug, Serialize)]
pub struct Transfer {
    pub id: String,
    pub posted_at: Rfc3339,
    pub kind: String,
    pub debit_account: String,
    pub credit_account: String,
    pub amount: Amount,
    pub reference: String,
    pub reverses: String,
}

impl From<credit::Transfer> for Transfer {
    fn from(transfer: credit::Transfer) -> Self {
        Self {
            id: transfer.id,
            posted_at: Rfc3339(Timestamp::from_unix_ms(transfer.posted_at_ms)),
            kind: transfer.kind,
            debit_account: transfer.debit_account,
            credit_account: transfer.credit_account,
            amount: Amount::from_halfords(transfer.amount_halfords),
            reference: transfer.reference,
            reverses: transfer.reverses,
        }
    }
}

/// A line of a user's statement: what a transfer was to the user's account.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub id: String,
    pub posted_at: Rfc3339,
    pub kind: String,
    pub reference: String,
    /// Negative where the user pays.
    pub amount: Amount,
    /// After it.
    pub balance: Amount,
}

impl Entry {
    /// What a transfer puts into a user's account, or takes from it; `None` if it does neither, as between what the user
    /// owes and the provider.
    pub fn amount_of(transfer: &Transfer, user: &str) -> Option<Amount> {
        let is_users = |account: &str| account.strip_prefix("user:") == Some(user);
        match (
            is_users(&transfer.credit_account),
            is_users(&transfer.debit_account),
        ) {
            (true, _) => Some(transfer.amount),
            (_, true) => Some(Amount::ZERO.saturating_sub(transfer.amount)),
            (false, false) => None,
        }
    }

    /// The line, where `amount` is what the transfer was to the account.
    pub fn new(transfer: Transfer, amount: Amount, balance: Amount) -> Self {
        Self {
            id: transfer.id,
            posted_at: transfer.posted_at,
            kind: transfer.kind,
            reference: transfer.reference,
            amount,
            balance,
        }
    }
}

/// What one attempt used and cost, on whichever node.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    pub session_id: String,
    pub task_id: String,
    pub user: String,
    pub function: String,
    /// The object's key below `input/`.
    pub task: String,
    pub node: String,
    pub attempt: u32,
    /// What is billed.
    pub cpu_time_us: CpuTime,
    pub amount: Amount,
    pub opened_at_ms: Timestamp,
    /// Absent while it is live.
    pub closed_at_ms: Option<Timestamp>,
    /// live, succeeded, failed, gave-up, aborted, cancelled, platform-fault, cap-spent
    pub outcome: String,
    pub cpu_time_us_per_grc: u64,
}

impl From<credit::Session> for Session {
    fn from(session: credit::Session) -> Self {
        let closed = session.closed_at_ms != 0;
        let outcome = word(session.outcome().as_str_name(), "OUTCOME_");
        Self {
            outcome: if closed { outcome } else { "live".to_owned() },
            session_id: session.session_id,
            task_id: session.task_id,
            user: session.user,
            function: session.function,
            task: session.object_key,
            node: session.node_id,
            attempt: session.attempt,
            cpu_time_us: CpuTime::from_micros(session.cpu_time_us),
            amount: Amount::from_halfords(session.amount_halfords),
            opened_at_ms: Timestamp::from_unix_ms(session.opened_at_ms),
            closed_at_ms: closed.then(|| Timestamp::from_unix_ms(session.closed_at_ms)),
            cpu_time_us_per_grc: session.cpu_time_us_per_grc,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct User {
    pub name: String,
    pub balance: Amount,
    pub pending_deposit: Amount,
    pub granted: Amount,
    pub standing: String,
    pub accounting: bool,
    pub min_balance: Amount,
    pub debt_limit: Amount,
    pub policy: String,
    pub billing: String,
    /// What one GRC buys.
    pub cpu_time_us_per_grc: u64,
    /// Allocated to running tasks now.
    pub millicores: MilliCores,
    pub running_tasks: u32,
    /// Seconds that the balance has to last for new tasks to start.
    pub min_runway_s: u64,
    pub on_shortage: String,
    /// The most that all tasks may cost an hour.
    pub max_spend_per_hour: Option<Amount>,
    /// The balance at which an alert is raised.
    pub alert_at: Amount,
    /// Where alerts are posted to; empty: nowhere.
    pub alert_webhook: String,
    /// What running tasks cost an hour at their present pace.
    pub burn_per_hour: Amount,
    /// How long the balance lasts at that; null while nothing is used up.
    pub runway_ms: Option<u64>,
    pub deposit_address: String,
}

impl From<credit::User> for User {
    fn from(user: credit::User) -> Self {
        let amount = Amount::from_halfords;
        Self {
            standing: word(user.standing().as_str_name(), "STANDING_"),
            policy: word(user.policy().as_str_name(), "POLICY_"),
            billing: word(user.billing().as_str_name(), "BILLING_"),
            on_shortage: word(user.on_shortage().as_str_name(), "ON_SHORTAGE_"),
            name: user.name,
            balance: amount(user.balance_halfords),
            pending_deposit: amount(user.pending_deposit_halfords),
            granted: amount(user.granted_halfords),
            accounting: user.accounting,
            min_balance: amount(user.min_balance_halfords),
            debt_limit: amount(user.debt_limit_halfords),
            cpu_time_us_per_grc: user.cpu_time_us_per_grc,
            millicores: MilliCores::from_millicores(user.millicores),
            running_tasks: user.live_sessions,
            min_runway_s: user.min_runway_s,
            max_spend_per_hour: user.max_spend_halfords_per_hour.map(amount),
            burn_per_hour: amount(user.burn_halfords_per_hour),
            alert_at: amount(user.alert_at_halfords),
            alert_webhook: user.alert_webhook,
            runway_ms: user.runway_ms,
            deposit_address: user.deposit_address,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Withdrawal {
    pub id: String,
    pub user: String,
    pub address: String,
    /// What arrives.
    pub amount: Amount,
    /// What the chain took on top; 0 until it is done.
    pub fee: Amount,
    /// under-way, done, failed
    pub state: String,
    pub txid: String,
    /// Why it failed; empty if it did not.
    pub failure: String,
    pub created_at_ms: i64,
    pub changed_at_ms: i64,
}

impl From<credit::Withdrawal> for Withdrawal {
    fn from(withdrawal: credit::Withdrawal) -> Self {
        Self {
            state: word(withdrawal.state().as_str_name(), "WITHDRAWAL_STATE_"),
            id: withdrawal.withdrawal_id,
            user: withdrawal.user,
            address: withdrawal.address,
            amount: Amount::from_halfords(withdrawal.amount_halfords),
            fee: Amount::from_halfords(withdrawal.fee_halfords),
            txid: withdrawal.txid,
            failure: withdrawal.failure,
            created_at_ms: withdrawal.created_at_ms,
            changed_at_ms: withdrawal.changed_at_ms,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Function {
    pub name: String,
    pub user: String,
    /// Whether its user's standing lets it start new work.
    pub may_start: bool,
    /// Why not; empty if it may.
    pub refusal: String,
    /// The most that its tasks may cost an hour.
    pub max_spend_per_hour: Option<Amount>,
}

impl From<credit::Function> for Function {
    fn from(function: credit::Function) -> Self {
        Self {
            name: function.name,
            user: function.user,
            may_start: function.may_start,
            refusal: function.refusal,
            max_spend_per_hour: function.max_spend_halfords_per_hour.map(Amount::from_halfords),
        }
    }
}
