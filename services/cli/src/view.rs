//! What the services answered, for people: as tables. The JSON of it is in the crate `schema`.

use std::fmt;

use proto::container::v1::Queue;
use schema::{Container, Function, Problem, Task, User, Withdrawal};
use serde::Serialize;
use serde_json::Value;
use units::{Amount, CpuTime, Timestamp};

use crate::output::{Show, columns, pairs, printable};

/// What standing there is where nobody counts.
fn standing_shown(user: &User) -> String {
    if user.accounting {
        user.standing.clone()
    } else {
        "not billed".to_owned()
    }
}

fn runway_shown(user: &User) -> String {
    match user.runway_ms {
        Some(ms) => format!("{} at {} GRC an hour", span(ms / 1000), user.burn_per_hour),
        None => "nothing is being spent".to_owned(),
    }
}

/// What there is of a spending limit, in the word that takes it away.
pub(crate) fn limit_shown(limit: Option<Amount>) -> String {
    limit.map_or_else(|| "off".to_owned(), |limit| format!("{limit} GRC/h"))
}

impl Show for User {
    fn text(&self) -> String {
        pairs([
            ("name", self.name.clone()),
            ("balance", format!("{} GRC", self.balance)),
            ("pending deposit", format!("{} GRC", self.pending_deposit)),
            ("standing", standing_shown(self)),
            ("lasts", runway_shown(self)),
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
                    "off".to_owned()
                } else {
                    self.alert_webhook.clone()
                },
            ),
            (
                "one GRC buys",
                format!("{} of CPU time", CpuTime::from_micros(self.cpu_time_us_per_grc)),
            ),
            (
                "running tasks",
                match self.running_tasks {
                    0 => "0".to_owned(),
                    tasks => format!("{tasks} on {}", self.millicores),
                },
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
                    standing_shown(user),
                    user.running_tasks.to_string(),
                    user.deposit_address.clone(),
                ]
            }),
        )
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

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Functions(pub(crate) Vec<FunctionNow>);

/// A function, and what keeps it from running on the node that was asked.
#[derive(Debug, Serialize)]
pub(crate) struct FunctionNow {
    #[serde(flatten)]
    pub(crate) function: Function,
    pub(crate) problem: Option<Problem>,
}

impl FunctionNow {
    fn starts(&self) -> String {
        match &self.problem {
            _ if !self.function.may_start => format!("no: {}", self.function.refusal),
            Some(problem) => format!("no: {}", problem_shown(problem)),
            None => "yes".to_owned(),
        }
    }
}

impl Show for Functions {
    fn text(&self) -> String {
        columns(
            ["NAME", "USER", "MAX SPEND", "STARTS TASKS"],
            self.0.iter().map(|now| {
                [
                    now.function.name.clone(),
                    now.function.user.clone(),
                    limit_shown(now.function.max_spend_per_hour),
                    now.starts(),
                ]
            }),
        )
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

/// Wall time from the first start to the last end, or to `now` while it runs.
fn wall(task: &Task, now: Timestamp) -> String {
    let started = task.attempts.iter().find_map(|attempt| attempt.started_at_ms);
    let ended = task.attempts.last().and_then(|attempt| attempt.ended_at_ms);
    match started {
        Some(started) => seconds(ended.unwrap_or(now).ms_since(started)),
        None => "-".to_owned(),
    }
}

fn reason(task: &Task) -> String {
    task.attempts
        .last()
        .map(|attempt| printable(&attempt.reason))
        .unwrap_or_default()
}

/// Seconds in the two largest units that they fill.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
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
    /// As far as they were counted; `None` if the store did not tell.
    pub(crate) tasks: Option<u32>,
    /// There are more than were counted.
    pub(crate) has_more: bool,
    /// What keeps the function from running, if anything does.
    pub(crate) problem: Option<Problem>,
}

impl From<Queue> for Waiting {
    fn from(queue: Queue) -> Self {
        Self {
            problem: problem(&queue),
            function: queue.function,
            tasks: queue.waiting,
            has_more: queue.has_more,
        }
    }
}

/// What keeps a function from running, as the node has it.
pub(crate) fn problem(queue: &Queue) -> Option<Problem> {
    (!queue.problem.is_empty()).then(|| Problem {
        error: queue.problem.clone(),
        hint: queue.hint.clone(),
    })
}

/// What is wrong, and how to mend it.
pub(crate) fn problem_shown(problem: &Problem) -> String {
    format!("{}; {}", printable(&problem.error), printable(&problem.hint))
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tasks {
            Some(tasks) if self.has_more => write!(f, "{tasks} or more")?,
            Some(tasks) => write!(f, "{tasks}")?,
            None => write!(f, "nobody knows how many")?,
        }
        write!(f, " waiting in {}", self.function)?;
        match &self.problem {
            Some(problem) => write!(f, ": {}", problem_shown(problem)),
            None => Ok(()),
        }
    }
}

impl Show for Tasks {
    fn rows(&self) -> serde_json::Result<Vec<Value>> {
        self.tasks.iter().map(serde_json::to_value).collect()
    }

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
                    wall(task, self.now),
                    cpu_seconds(task.cpu_time_us),
                    cpu_seconds(task.throttled_us),
                    task.amount.to_string(),
                    reason(task),
                ]
            }),
        );
        let waiting: String = self
            .waiting
            .iter()
            .filter(|waiting| waiting.tasks != Some(0))
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
mod tests;
