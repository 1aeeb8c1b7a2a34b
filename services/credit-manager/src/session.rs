//! Charging sessions: one task attempt's licence to run and to charge its user's account.
//!
//! ```text
//!              open                                 close, by its node
//! (refused) ◄──────── asked for ────────► live ─────────────────────────► closed: succeeded, failed, gave up, aborted,
//!                                          │                                      cancelled, cap spent, platform fault
//!                                          └─────────────────────────────► closed: lost
//!                                              its node was silent for a lease     ▲
//!                                                          succeeded ──────────────┘
//!                                              its node went before the results were there
//! ```
//!
//! A platform fault and a lost node are ours to pay: what was posted is reversed (I8).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use units::{
    Amount, Billing, CpuPrice, CpuTime, FunctionName, Grant, MilliCores, NodeId, Restriction, SessionId,
    Standing, TaskId, Timestamp, UserName,
};

use crate::governor;
use crate::grant::Holding;
use crate::ledger::TransferId;
use crate::pace::Pace;
use crate::rating::Meter;

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: SessionId,
    pub user: UserName,
    pub node: NodeId,
    /// As it was when this session opened, this attempt included.
    pub task: Task,
    /// The most that all attempts of the task may cost.
    pub task_cap: Option<Amount>,
    pub billing: Billing,
    pub price: CpuPrice,
    pub opened_at: Timestamp,
    pub capacity: MilliCores,
    pub meter: Meter,
    pub holding: Holding,
    /// Kept in memory only: after a restart it is learnt anew.
    pub pace: Pace,
}

impl Session {
    /// What the newest grant would still cost.
    pub fn promised(&self) -> Amount {
        let at_stop = self.meter.cost_of(self.holding.newest().stop_at);
        at_stop.saturating_sub(self.meter.cost()).or_zero()
    }

    /// What its capacity costs an hour; nothing where it is never billed.
    pub fn hourly(&self) -> Amount {
        self.meter
            .price()
            .map_or(Amount::ZERO, |price| governor::hourly(price, self.capacity))
    }

    /// What this session alone may cost.
    pub fn cap(&self) -> Option<Amount> {
        self.task_cap.map(|cap| cap.saturating_sub(self.task.amount))
    }

    /// The total of its meter at which that is spent.
    pub fn cap_at(&self) -> Option<CpuTime> {
        Some(self.meter.price()?.affordable(self.cap()?))
    }
}

/// One input object over all its attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub id: TaskId,
    pub function: FunctionName,
    /// Below `input/`, as the object store has it.
    pub key: String,
    /// Size of the newest attempt's input.
    pub input_bytes: u64,
    /// Sessions opened so far; the newest one's number is its fencing token.
    pub attempts: u32,
    /// Those of them that failed by the user's own doing.
    pub failures: u32,
    /// What the closed ones of them cost.
    pub amount: Amount,
    pub is_over: bool,
    /// The first of its lineage: itself, unless a chained function put its input there.
    pub root: TaskId,
    /// Chained functions between the root and it.
    pub depth: u32,
}

impl Task {
    pub fn new(id: TaskId, function: FunctionName, key: String) -> Self {
        Self {
            id,
            function,
            key,
            input_bytes: 0,
            attempts: 0,
            failures: 0,
            amount: Amount::ZERO,
            is_over: false,
            root: id,
            depth: 0,
        }
    }

    /// A task whose input is a result of `parent`.
    pub fn chained(id: TaskId, parent: &Self, function: FunctionName, key: String) -> Self {
        Self {
            root: parent.root,
            depth: parent.depth.saturating_add(1),
            ..Self::new(id, function, key)
        }
    }

    /// Whether another attempt at this object belongs to this task. If not, the object was dropped anew.
    pub fn continues_with(&self, function: &FunctionName, key: &str) -> bool {
        !self.is_over && self.function == *function && self.key == key
    }

    /// The task after an attempt that ended so, and cost so much.
    pub fn after(&self, outcome: Outcome, amount: Amount) -> Self {
        let failed = matches!(outcome, Outcome::Failed | Outcome::GaveUp);
        Self {
            failures: self.failures.saturating_add(u32::from(failed)),
            amount: self.amount.saturating_add(amount),
            is_over: outcome.is_final(),
            ..self.clone()
        }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed,
    GaveUp,
    Aborted,
    Cancelled,
    /// The task's own cap is spent.
    CapSpent,
    PlatformFault,
    /// Its node was silent for longer than a lease.
    Lost,
}

impl Outcome {
    pub const ALL: [Self; 8] = [
        Self::Succeeded,
        Self::Failed,
        Self::GaveUp,
        Self::Aborted,
        Self::Cancelled,
        Self::CapSpent,
        Self::PlatformFault,
        Self::Lost,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::GaveUp => "gave-up",
            Self::Aborted => "aborted",
            Self::Cancelled => "cancelled",
            Self::CapSpent => "cap-spent",
            Self::PlatformFault => "platform-fault",
            Self::Lost => "lost",
        }
    }

    /// Whether the user pays for it.
    pub const fn is_charged(self) -> bool {
        match self {
            Self::Succeeded
            | Self::Failed
            | Self::GaveUp
            | Self::Aborted
            | Self::Cancelled
            | Self::CapSpent => true,
            Self::PlatformFault | Self::Lost => false,
        }
    }

    /// Whether the task is over with it.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Succeeded | Self::GaveUp | Self::Cancelled | Self::CapSpent => true,
            Self::Failed | Self::Aborted | Self::PlatformFault | Self::Lost => false,
        }
    }
}

/// The whole current state of a live session, as its node is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    pub id: SessionId,
    pub standing: Standing,
    /// The harder one of what the standing and what the session's own grant says.
    pub restriction: Restriction,
    pub may_start: bool,
    pub grant: Grant,
    pub balance: Amount,
    pub revision: u64,
    /// The most CPU it may have, where a spending limit covers it.
    pub ceiling: Option<MilliCores>,
    /// The user's funds do not last for it beside older work.
    pub dismissed: bool,
}

/// A session that ended, as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    pub id: SessionId,
    pub user: UserName,
    pub node: NodeId,
    pub task: TaskId,
    pub total: CpuTime,
    pub outcome: Outcome,
    /// What it cost in the end.
    pub amount: Amount,
}

/// What is to become of a task whose object lies where its newest session left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftBehind {
    /// Its node will bring it to where it belongs.
    No,
    /// Nobody will, and it may run again.
    Yes,
    /// Nobody will, and it came to this end.
    Over(Outcome),
}

/// What an ended session's node is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    pub closed: Closed,
    /// What all sessions of the task have cost so far.
    pub task_amount: Amount,
    /// The session's transfers, oldest first.
    pub transfers: Vec<TransferId>,
}

/// What one ended attempt of a task used and cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptCost {
    pub session: SessionId,
    pub attempt: u32,
    pub outcome: Outcome,
    pub total: CpuTime,
    /// In the end.
    pub amount: Amount,
    /// What was posted and reversed.
    pub refunded: Amount,
    /// The first of its transfers, oldest first.
    pub transfers: Vec<TransferId>,
    /// How many there are.
    pub transfers_count: u32,
}

/// When each live session was last heard of. Kept in memory only: after a restart every node has a whole lease to
/// report again.
#[derive(Clone, Debug, Default)]
pub struct Leases(BTreeMap<SessionId, Instant>);

impl Leases {
    pub fn renew(&mut self, session: SessionId, now: Instant) {
        self.0.insert(session, now);
    }

    pub fn end(&mut self, session: SessionId) {
        self.0.remove(&session);
    }

    /// The sessions not heard of for longer than `lease`.
    pub fn expired(&self, now: Instant, lease: Duration) -> Vec<SessionId> {
        let is_over = |heard: &Instant| now.saturating_duration_since(*heard) > lease;
        self.0
            .iter()
            .filter(|(_, heard)| is_over(heard))
            .map(|(session, _)| *session)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        let function = "stress".parse().unwrap();
        Task::new(TaskId::new(), function, "a.txt".to_owned())
    }

    #[test]
    fn only_the_users_own_failures_count_and_only_ends_are_ends() {
        for (outcome, failures, is_over) in [
            (Outcome::Succeeded, 0, true),
            (Outcome::Failed, 1, false),
            (Outcome::GaveUp, 1, true),
            (Outcome::Aborted, 0, false),
            (Outcome::Cancelled, 0, true),
            (Outcome::CapSpent, 0, true),
            (Outcome::PlatformFault, 0, false),
            (Outcome::Lost, 0, false),
        ] {
            let after = task().after(outcome, Amount::from_halfords(5));
            assert_eq!(
                (after.failures, after.is_over),
                (failures, is_over),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn a_task_goes_on_for_its_own_object_until_it_is_over() {
        let task = task();
        let other = "other".parse().unwrap();
        assert!(task.continues_with(&task.function, "a.txt"));
        assert!(!task.continues_with(&task.function, "b.txt"));
        assert!(!task.continues_with(&other, "a.txt"));
        let over = task.after(Outcome::Succeeded, Amount::ZERO);
        assert!(!over.continues_with(&task.function, "a.txt"));
    }

    #[test]
    fn a_lease_is_over_only_when_it_was_exceeded() {
        let (mut leases, session, start) = (Leases::default(), SessionId::new(), Instant::now());
        let lease = Duration::from_secs(60);
        leases.renew(session, start);
        assert!(leases.expired(start + lease, lease).is_empty());
        let late = start + lease + Duration::from_millis(1);
        assert_eq!(leases.expired(late, lease), [session]);
        leases.renew(session, late);
        assert!(leases.expired(late, lease).is_empty());
    }
}
