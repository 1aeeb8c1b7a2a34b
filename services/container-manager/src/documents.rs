//! What the user reads about an attempt that is over: its receipt, and the notice of why it did not succeed. Pure.

use receipt::SigningKey;
use serde_json::{Value, json};
use units::NodeId;

use crate::chain::Chained;
use crate::task::{Attempt, AttemptCost, Bill, Ending, Licence, Run, Verdict};

/// Everything that is known of an attempt that has been settled.
pub struct Settled<'a> {
    pub node: &'a NodeId,
    pub key: &'a SigningKey,
    pub attempt: &'a Attempt,
    pub licence: &'a Licence,
    pub run: Option<&'a Run>,
    pub ending: &'a Ending,
    pub bill: &'a Bill,
    pub verdict: Verdict,
}

impl Settled<'_> {
    /// What the task used and cost and what it was made from, signed. Numbers without another word are this attempt's.
    pub fn receipt(&self, chained: Option<&Chained>) -> String {
        let Self {
            attempt,
            licence,
            run,
            ending,
            bill,
            ..
        } = self;
        let usage = ending.usage;
        let document = json!({
            "node": self.node,
            "task": attempt.key.as_str(),
            "task_id": licence.task,
            "root_task_id": licence.root,
            "chain": chained,
            "function": attempt.function,
            "user": licence.user,
            "attempt": licence.attempt,
            "session_id": attempt.session,
            "exit_code": ending.how.exit_code(),
            "outcome": self.verdict,
            "stopped_by": self.verdict.stopped_by(),
            "reason": ending.how.reason(),
            "cpu_time_us": usage.total,
            "cpu_user_us": usage.user,
            "cpu_system_us": usage.system,
            "billed_us": usage.billed,
            "billing": licence.billing,
            "throttled_us": usage.throttled,
            "frozen_ms": ending.frozen_ms,
            "started_at_ms": run.map(|run| run.started_at),
            "ended_at_ms": ending.at,
            "wall_ms": run.map(|run| ending.at.ms_since(run.started_at)),
            "cpu_time_us_per_grc": licence.price.cpu_time_per_grc(),
            "amount_grc": bill.amount,
            "task_amount_grc": bill.task_amount,
            "transfers": bill.transfers,
            "attempts": attempts(bill),
            "sha256": run.map(|run| json!({
                "input": run.digests.input, "script": run.digests.script, "image": run.digests.image,
            })),
            // The counter is read after the last process has ended, when it is exact.
            "meter_error_bound_us": 0,
            "notes": ending.notes,
        });
        receipt::sign(document, self.key)
    }

    /// Why a task was stopped, given up or given back; its amounts equal the ledger's.
    pub fn notice(&self) -> String {
        let Self {
            attempt,
            licence,
            ending,
            bill,
            ..
        } = self;
        let document = json!({
            "node": self.node,
            "task": attempt.key.as_str(),
            "task_id": licence.task,
            "user": licence.user,
            "attempts": licence.attempt,
            "outcome": self.verdict,
            "stopped_by": self.verdict.stopped_by(),
            "reason": ending.how.reason(),
            "exit_code": ending.how.exit_code(),
            "at_ms": ending.at,
            "cpu_time_us": ending.usage.total,
            "amount_grc": bill.amount,
            "task_amount_grc": bill.task_amount,
            "balance_grc": bill.balance,
            "debt_limit_grc": bill.debt_limit,
            "history": attempts(bill),
            "log": attempt.key.error_log(),
        });
        format!("{document:#}\n")
    }
}

/// What each attempt of the task cost, and what was given back for it.
fn attempts(bill: &Bill) -> Vec<Value> {
    let attempt = |cost: &AttemptCost| {
        json!({
            "attempt": cost.attempt,
            "session_id": cost.session,
            "outcome": cost.verdict,
            "stopped_by": cost.verdict.stopped_by(),
            "billed_us": cost.billed,
            "amount_grc": cost.amount,
            "refunded_grc": cost.refunded,
            "transfers": cost.transfers,
            "transfers_count": cost.transfers_count,
        })
    };
    bill.attempts.iter().map(attempt).collect()
}
