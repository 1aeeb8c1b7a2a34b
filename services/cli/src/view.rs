//! What the services answered, as the commands show it.
//!
//! These are the command line's stable schema: JSON keys are never renamed or reused, only added. Amounts are decimal
//! strings of GRC, CPU time is in microseconds, instants in milliseconds since 1970.

use std::fmt;

use proto::container::v1 as container;
use proto::credit::v1 as credit;
use serde::{Deserialize, Serialize};
use units::{Amount, CpuTime, MilliCores, Timestamp};

use crate::output::{Show, columns, pairs, printable};
use crate::time::Rfc3339;

/// A generated enum's word, in the lower case it has in JSON and tables: `TASK_STATE_RUNNING` is `running`.
fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix)
        .unwrap_or(name)
        .to_lowercase()
        .replace('_', "-")
}

/// One debit and one credit of the same amount.
#[derive(Serialize)]
pub(crate) struct Transfer {
    pub(crate) id: String,
    pub(crate) posted_at: Rfc3339,
    pub(crate) kind: String,
    pub(crate) debit_account: String,
    pub(crate) credit_account: String,
    pub(crate) amount: Amount,
    pub(crate) reference: String,
    pub(crate) reverses: String,
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

#[derive(Clone, Debug, Serialize)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) balance: Amount,
    pub(crate) pending_deposit: Amount,
    pub(crate) granted: Amount,
    pub(crate) standing: String,
    pub(crate) accounting: bool,
    pub(crate) min_balance: Amount,
    pub(crate) debt_limit: Amount,
    pub(crate) policy: String,
    pub(crate) billing: String,
    /// What one GRC buys.
    pub(crate) cpu_time_us_per_grc: u64,
    /// Allocated to running tasks now.
    pub(crate) millicores: MilliCores,
    pub(crate) running_tasks: u32,
    /// Seconds that the balance has to last for new tasks to start.
    pub(crate) min_runway_s: u64,
    pub(crate) on_shortage: String,
    /// The most that all tasks may cost an hour.
    pub(crate) max_spend_per_hour: Option<Amount>,
    /// The balance at which an alert is raised.
    pub(crate) alert_at: Amount,
    /// Where alerts are posted to; empty: nowhere.
    pub(crate) alert_webhook: String,
    /// What running tasks cost an hour at their present pace.
    pub(crate) burn_per_hour: Amount,
    /// How long the balance lasts at that; null while nothing is used up.
    pub(crate) runway_ms: Option<u64>,
    pub(crate) deposit_address: String,
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

impl User {
    /// What standing there is where nobody counts.
    fn standing_shown(&self) -> String {
        if self.accounting {
            self.standing.clone()
        } else {
            "not billed".to_owned()
        }
    }

    fn runway_shown(&self) -> String {
        match self.runway_ms {
            Some(ms) => format!("{} s at {} GRC an hour", ms / 1000, self.burn_per_hour),
            None => "nothing is used up".to_owned(),
        }
    }
}

/// What there is of a spending limit.
fn limit_shown(limit: Option<Amount>) -> String {
    limit.map_or_else(|| "-".to_owned(), |limit| format!("{limit} GRC/h"))
}

impl Show for User {
    fn text(&self) -> String {
        pairs([
            ("name", self.name.clone()),
            ("balance", format!("{} GRC", self.balance)),
            ("pending deposit", format!("{} GRC", self.pending_deposit)),
            ("standing", self.standing_shown()),
            ("lasts", self.runway_shown()),
            ("min balance", format!("{} GRC", self.min_balance)),
            ("debt limit", format!("{} GRC", self.debt_limit)),
            ("policy", self.policy.clone()),
            ("billing", self.billing.clone()),
            ("min runway", format!("{} s", self.min_runway_s)),
            ("on shortage", self.on_shortage.clone()),
            ("max spend", limit_shown(self.max_spend_per_hour)),
            ("alert at", format!("{} GRC", self.alert_at)),
            (
                "alert webhook",
                if self.alert_webhook.is_empty() {
                    "-".to_owned()
                } else {
                    self.alert_webhook.clone()
                },
            ),
            (
                "one GRC buys",
                CpuTime::from_micros(self.cpu_time_us_per_grc).to_string(),
            ),
            (
                "running tasks",
                format!("{} on {}", self.running_tasks, self.millicores),
            ),
            ("deposit address", self.deposit_address.clone()),
        ])
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Users(pub(crate) Vec<User>);

impl Show for Users {
    fn text(&self) -> String {
        columns(
            [
                "NAME",
                "BALANCE",
                "PENDING",
                "STANDING",
                "RUNNING",
                "DEPOSIT ADDRESS",
            ],
            self.0.iter().map(|user| {
                [
                    user.name.clone(),
                    user.balance.to_string(),
                    user.pending_deposit.to_string(),
                    user.standing_shown(),
                    user.running_tasks.to_string(),
                    user.deposit_address.clone(),
                ]
            }),
        )
    }
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Withdrawal {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) address: String,
    /// What arrives.
    pub(crate) amount: Amount,
    /// What the chain took on top; 0 until it is done.
    pub(crate) fee: Amount,
    /// under-way, done, failed
    pub(crate) state: String,
    pub(crate) txid: String,
    /// Why it failed; empty if it did not.
    pub(crate) failure: String,
    pub(crate) created_at_ms: i64,
    pub(crate) changed_at_ms: i64,
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

impl Show for Withdrawal {
    fn text(&self) -> String {
        pairs([
            ("state", self.state.clone()),
            ("sent", format!("{} GRC to {}", self.amount, self.address)),
            ("fee", format!("{} GRC", self.fee)),
            ("transaction", self.txid.clone()),
        ])
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Withdrawals(pub(crate) Vec<Withdrawal>);

impl Show for Withdrawals {
    fn text(&self) -> String {
        columns(
            ["ID", "STATE", "AMOUNT", "FEE", "ADDRESS", "TRANSACTION OR REASON"],
            self.0.iter().map(|withdrawal| {
                [
                    withdrawal.id.clone(),
                    withdrawal.state.clone(),
                    withdrawal.amount.to_string(),
                    withdrawal.fee.to_string(),
                    withdrawal.address.clone(),
                    printable(&format!("{}{}", withdrawal.txid, withdrawal.failure)),
                ]
            }),
        )
    }
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) user: String,
    /// Whether its user's standing lets it start new work.
    pub(crate) may_start: bool,
    /// Why not; empty if it may.
    pub(crate) refusal: String,
    /// The most that its tasks may cost an hour.
    pub(crate) max_spend_per_hour: Option<Amount>,
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

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Functions(pub(crate) Vec<Function>);

impl Show for Functions {
    fn text(&self) -> String {
        columns(
            ["NAME", "USER", "MAX SPEND", "STARTS TASKS"],
            self.0.iter().map(|function| {
                let starts = if function.may_start {
                    "yes".to_owned()
                } else {
                    format!("no: {}", function.refusal)
                };
                [
                    function.name.clone(),
                    function.user.clone(),
                    limit_shown(function.max_spend_per_hour),
                    starts,
                ]
            }),
        )
    }
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Container {
    container_id: String,
    function: String,
    user: String,
    policy: String,
    /// The limit in force.
    allocated: MilliCores,
    max: MilliCores,
    /// Of late.
    used: MilliCores,
    /// This and the next since the container was made, as the kernel counts them.
    cpu_time_us: CpuTime,
    throttled_us: CpuTime,
    running_tasks: u32,
    restriction: String,
}

impl From<container::Container> for Container {
    fn from(container: container::Container) -> Self {
        Self {
            container_id: container.container_id,
            function: container.function,
            user: container.user,
            policy: container.policy,
            allocated: MilliCores::from_millicores(container.millicores),
            max: MilliCores::from_millicores(container.max_millicores),
            used: MilliCores::from_millicores(container.used_millicores),
            cpu_time_us: CpuTime::from_micros(container.cpu_time_us),
            throttled_us: CpuTime::from_micros(container.throttled_us),
            running_tasks: container.running_tasks,
            restriction: container.restriction,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Containers(pub(crate) Vec<Container>);

impl Show for Containers {
    fn text(&self) -> String {
        columns(
            [
                "CONTAINER",
                "FUNCTION",
                "USER",
                "POLICY",
                "ALLOCATED",
                "MAX",
                "USED",
                "CPU",
                "THROTTLED",
                "TASKS",
                "RESTRICTION",
            ],
            self.0.iter().map(|container| {
                [
                    container.container_id.clone(),
                    container.function.clone(),
                    container.user.clone(),
                    container.policy.clone(),
                    container.allocated.to_string(),
                    container.max.to_string(),
                    container.used.to_string(),
                    cpu_seconds(container.cpu_time_us),
                    cpu_seconds(container.throttled_us),
                    container.running_tasks.to_string(),
                    container.restriction.clone(),
                ]
            }),
        )
    }
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Task {
    pub(crate) function: String,
    /// The object's key below `input/`.
    pub(crate) task: String,
    pub(crate) task_id: String,
    pub(crate) user: String,
    pub(crate) state: String,
    /// Of all attempts together.
    pub(crate) cpu_time_us: CpuTime,
    pub(crate) throttled_us: CpuTime,
    pub(crate) amount: Amount,
    pub(crate) attempts: Vec<Attempt>,
    #[serde(skip)]
    pub(crate) is_over: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Attempt {
    pub(crate) number: u32,
    pub(crate) session_id: String,
    pub(crate) container_id: String,
    pub(crate) claimed_at_ms: Timestamp,
    pub(crate) started_at_ms: Option<Timestamp>,
    pub(crate) ended_at_ms: Option<Timestamp>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) cpu_time_us: CpuTime,
    pub(crate) throttled_us: CpuTime,
    pub(crate) amount: Amount,
    pub(crate) reason: String,
}

impl From<container::Attempt> for Attempt {
    fn from(attempt: container::Attempt) -> Self {
        let instant = |ms: i64| (ms != 0).then(|| Timestamp::from_unix_ms(ms));
        Self {
            number: attempt.number,
            session_id: attempt.session_id,
            container_id: attempt.container_id,
            claimed_at_ms: Timestamp::from_unix_ms(attempt.claimed_at_ms),
            started_at_ms: instant(attempt.started_at_ms),
            ended_at_ms: instant(attempt.ended_at_ms),
            exit_code: attempt.exit_code,
            cpu_time_us: CpuTime::from_micros(attempt.cpu_time_us),
            throttled_us: CpuTime::from_micros(attempt.throttled_us),
            amount: Amount::from_halfords(attempt.amount_halfords),
            reason: attempt.reason,
        }
    }
}

impl From<container::Task> for Task {
    fn from(task: container::Task) -> Self {
        use container::TaskState;
        let state = task.state();
        let attempts: Vec<Attempt> = task.attempts.into_iter().map(Attempt::from).collect();
        Self {
            function: task.function,
            task: task.object_key,
            task_id: task.task_id,
            user: task.user,
            state: word(state.as_str_name(), "TASK_STATE_"),
            cpu_time_us: attempts.iter().map(|attempt| attempt.cpu_time_us).sum(),
            throttled_us: attempts.iter().map(|attempt| attempt.throttled_us).sum(),
            amount: attempts.iter().map(|attempt| attempt.amount).sum(),
            is_over: matches!(state, TaskState::Succeeded | TaskState::Failed),
            attempts,
        }
    }
}

impl Task {
    pub(crate) fn succeeded(&self) -> bool {
        self.state == "succeeded"
    }

    /// Wall time from the first start to the last end, or to `now` while it runs.
    fn wall(&self, now: Timestamp) -> String {
        let started = self.attempts.iter().find_map(|attempt| attempt.started_at_ms);
        let ended = self.attempts.last().and_then(|attempt| attempt.ended_at_ms);
        match started {
            Some(started) => seconds(ended.unwrap_or(now).ms_since(started)),
            None => "-".to_owned(),
        }
    }

    fn reason(&self) -> String {
        self.attempts
            .last()
            .map(|attempt| printable(&attempt.reason))
            .unwrap_or_default()
    }
}

/// Milliseconds as seconds.
fn seconds(ms: i64) -> String {
    let ms = ms.max(0);
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

/// CPU time as seconds with three decimals; receipts and JSON have all six.
fn cpu_seconds(time: CpuTime) -> String {
    let ms = time.micros() / 1000;
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

/// The tasks a node knows, and how many more wait in the buckets.
#[derive(Debug, Serialize)]
pub(crate) struct Tasks {
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) tasks: Vec<Task>,
    #[serde(skip)]
    pub(crate) now: Timestamp,
}

/// Objects under a function's `input/`.
#[derive(Debug, Serialize)]
pub(crate) struct Waiting {
    pub(crate) function: String,
    pub(crate) tasks: usize,
    /// What keeps the function from running, if anything does.
    pub(crate) problem: Option<Problem>,
}

/// What a node wrote to a function's `status/error.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) error: String,
    pub(crate) hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", printable(&self.error), printable(&self.hint))
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waiting in {}", self.tasks, self.function)?;
        match &self.problem {
            Some(problem) => write!(f, ": {problem}"),
            None => Ok(()),
        }
    }
}

impl Show for Tasks {
    fn text(&self) -> String {
        let tasks = columns(
            [
                "FUNCTION",
                "TASK",
                "STATE",
                "ATTEMPTS",
                "WALL",
                "CPU",
                "THROTTLED",
                "CHARGE",
                "REASON",
            ],
            self.tasks.iter().map(|task| {
                [
                    task.function.clone(),
                    printable(&task.task),
                    task.state.clone(),
                    task.attempts.len().to_string(),
                    task.wall(self.now),
                    cpu_seconds(task.cpu_time_us),
                    cpu_seconds(task.throttled_us),
                    task.amount.to_string(),
                    task.reason(),
                ]
            }),
        );
        let waiting: String = self
            .waiting
            .iter()
            .filter(|waiting| waiting.tasks > 0)
            .map(|waiting| format!("{waiting}\n"))
            .collect();
        if waiting.is_empty() {
            tasks
        } else {
            format!("{tasks}\n{waiting}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_one_word_in_every_output() {
        for (name, prefix, shown) in [
            (
                container::TaskState::Running.as_str_name(),
                "TASK_STATE_",
                "running",
            ),
            (credit::Standing::InDebt.as_str_name(), "STANDING_", "in-debt"),
            (credit::Policy::Greedy.as_str_name(), "POLICY_", "greedy"),
        ] {
            assert_eq!(word(name, prefix), shown);
        }
    }

    #[test]
    fn times_are_cut_and_never_negative() {
        assert_eq!(seconds(1999), "1.999 s");
        assert_eq!(seconds(-5), "0.000 s", "the clock went back");
        assert_eq!(cpu_seconds(CpuTime::from_micros(1_999_999)), "1.999 s");
    }

    #[test]
    fn a_task_costs_what_its_attempts_cost() {
        let attempt = |cpu_time_us, amount_halfords| container::Attempt {
            cpu_time_us,
            amount_halfords,
            claimed_at_ms: 1,
            ..Default::default()
        };
        let mut task = container::Task {
            attempts: vec![attempt(600, 100), attempt(1200, 200)],
            ..Default::default()
        };
        task.set_state(container::TaskState::Succeeded);
        let task = Task::from(task);
        assert_eq!(task.amount, Amount::from_halfords(300));
        assert_eq!(task.cpu_time_us, CpuTime::from_micros(1800));
        assert!(task.is_over && task.succeeded());
    }
}
