//! One attempt at a task: its states, and what each way to end means. Pure.
//!
//! ```text
//! Claimed ─► Licensed ─► Running ─► Ended ─► Over
//!    └───────────┴──────────┴── a fault of ours: straight to Ended, free of charge
//! ```
//! Every effect can be repeated, and none is begun before a state is journalled from which it would be. A state holds all
//! that is needed to carry on from it after a crash.

use serde::{Deserialize, Serialize};
use units::{
    Amount, Billing, ContainerId, CpuPrice, CpuTime, FunctionName, SessionId, TaskId, Timestamp, UserName,
};

use crate::credit::SessionState;
use crate::layout::{Source, TaskKey};

/// One attempt, from its claim on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Names the attempt, its session and its cgroup.
    pub session: SessionId,
    pub function: FunctionName,
    pub key: TaskKey,
    /// The version of the object this attempt is pinned to.
    pub etag: String,
    /// Where its object was when it was claimed.
    #[serde(default)]
    pub source: Source,
    pub claimed_at: Timestamp,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// About to ask for a session.
    Claimed,
    /// The session is ours: the object goes to `processing/`, the task is prepared.
    Licensed { licence: Licence },
    /// The script runs, in the cgroup named by the session.
    Running { licence: Licence, run: Run },
    /// The cgroup is empty, its counter final, the results are on this node's disk. What is left is the charge, which is
    /// the same however often the session is closed, and the bucket.
    Ended {
        licence: Licence,
        run: Option<Run>,
        ending: Ending,
    },
    /// Nothing is left to do.
    Over {
        licence: Option<Licence>,
        run: Option<Run>,
        ending: Option<Ending>,
        bill: Option<Bill>,
    },
}

/// What credit-manager answered when the session was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Licence {
    pub task: TaskId,
    pub user: UserName,
    /// 1 for the first attempt of the task.
    pub attempt: u32,
    /// Earlier attempts that failed by the user's own doing.
    pub failures: u32,
    /// The task at the beginning of its lineage: itself, unless it was chained.
    pub root: TaskId,
    /// What that and all that comes of it may cost together.
    pub lineage_cap: Option<Amount>,
    pub price: CpuPrice,
    pub billing: Billing,
    /// The billed total at which the task's own cap is spent.
    pub cap_at: Option<CpuTime>,
}

/// Where and from what the script runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub container: ContainerId,
    pub slot: u32,
    pub started_at: Timestamp,
    pub max_attempts: u32,
    pub timeout_ms: u64,
    /// The function that the results go to.
    pub chain_to: Option<FunctionName>,
    pub digests: Digests,
    /// The session's state at the start. After a crash its grant, or what the journal says is left of it, holds until
    /// credit-manager says more.
    pub session: SessionState,
    /// The container's throttled time at the start.
    pub throttled_before: CpuTime,
}

/// SHA-256 of what was run on what, in hex.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    pub input: String,
    pub script: String,
    pub image: String,
}

/// How an attempt ended and what it used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    pub how: How,
    pub at: Timestamp,
    pub usage: CpuUsage,
    /// Time the task was frozen at the debt limit.
    pub frozen_ms: u64,
    /// What was not kept, and why; for the user.
    pub notes: Vec<String>,
}

/// CPU time of the attempt's cgroup, as the kernel counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuUsage {
    /// What is charged: the cgroup's total, or for `current` billing millicores × time.
    pub billed: CpuTime,
    pub total: CpuTime,
    pub user: CpuTime,
    pub system: CpuTime,
    /// Time the container was held back by its limit while this attempt ran.
    pub throttled: CpuTime,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    Exited {
        code: i32,
    },
    Killed {
        signal: i32,
    },
    OutOfMemory,
    TimedOut,
    /// Stopped at the debt limit.
    Aborted,
    /// Stopped because the user's funds did not last for it beside older work.
    Dismissed,
    Cancelled,
    /// Stopped at the task's own cap.
    CapSpent,
    /// Nothing the user did.
    PlatformFault {
        what: String,
    },
}

/// What an ending means for the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Succeeded,
    /// Failed, to be tried again.
    Failed,
    /// Failed, and no attempt is left.
    GaveUp,
    Aborted,
    Cancelled,
    /// The task's own cap is spent: it is over.
    CapSpent,
    PlatformFault,
}

/// Who brought an attempt to its end, which is who pays for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoppedBy {
    /// The user's script, limits or command.
    User,
    /// The money ran out.
    Funds,
    /// A fault of ours, at our cost.
    Platform,
}

impl Verdict {
    pub const ALL: [Self; 7] = [
        Self::Succeeded,
        Self::Failed,
        Self::GaveUp,
        Self::Aborted,
        Self::Cancelled,
        Self::CapSpent,
        Self::PlatformFault,
    ];

    /// `None` for an attempt that came to its end by itself.
    pub fn stopped_by(self) -> Option<StoppedBy> {
        match self {
            Self::Succeeded => None,
            Self::Failed | Self::GaveUp | Self::CapSpent | Self::Cancelled => Some(StoppedBy::User),
            Self::Aborted => Some(StoppedBy::Funds),
            Self::PlatformFault => Some(StoppedBy::Platform),
        }
    }
}

impl How {
    /// `failures` counts earlier failed attempts, `max_attempts` those that are allowed.
    pub fn verdict(&self, failures: u32, max_attempts: u32) -> Verdict {
        match self {
            Self::Exited { code: 0 } => Verdict::Succeeded,
            Self::Exited { .. } | Self::Killed { .. } | Self::OutOfMemory | Self::TimedOut => {
                if failures.saturating_add(1) < max_attempts {
                    Verdict::Failed
                } else {
                    Verdict::GaveUp
                }
            }
            Self::Aborted | Self::Dismissed => Verdict::Aborted,
            Self::Cancelled => Verdict::Cancelled,
            Self::CapSpent => Verdict::CapSpent,
            Self::PlatformFault { .. } => Verdict::PlatformFault,
        }
    }

    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Exited { code } => Some(*code),
            _ => None,
        }
    }

    /// For people. Empty for success.
    pub fn reason(&self) -> String {
        match self {
            Self::Exited { code: 0 } => String::new(),
            Self::Exited { code } => format!("the script ended with exit status {code}"),
            Self::Killed { signal } => format!("the script was killed by signal {signal}"),
            Self::OutOfMemory => "the task used more memory than memory_mib allows and was killed".to_owned(),
            Self::TimedOut => "the task ran longer than timeout_s allows and was stopped".to_owned(),
            Self::Aborted => "the balance reached the debt limit, so the task was stopped".to_owned(),
            Self::Dismissed => {
                "the balance does not last for it beside older tasks, so it was stopped and waits".to_owned()
            }
            Self::Cancelled => "the task was cancelled".to_owned(),
            Self::CapSpent => "the task's own cap, max-grc, is spent, so it was stopped".to_owned(),
            Self::PlatformFault { what } => format!("the platform failed, at its own cost: {what}"),
        }
    }
}

/// What the attempt cost, by the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    pub amount: Amount,
    pub task_amount: Amount,
    pub transfers: Vec<String>,
    pub balance: Amount,
    pub debt_limit: Amount,
    /// Every ended attempt of the task, on whatever node, this one included; oldest first.
    pub attempts: Vec<AttemptCost>,
}

/// What one attempt of a task cost, by the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptCost {
    pub session: SessionId,
    pub attempt: u32,
    pub verdict: Verdict,
    pub billed: CpuTime,
    /// In the end.
    pub amount: Amount,
    /// What was charged and reversed.
    pub refunded: Amount,
    /// The first of its transfers, oldest first.
    pub transfers: Vec<String>,
    /// How many there are.
    pub transfers_count: u32,
}

impl Attempt {
    pub fn licence(&self) -> Option<&Licence> {
        match &self.state {
            State::Claimed => None,
            State::Licensed { licence } | State::Running { licence, .. } | State::Ended { licence, .. } => {
                Some(licence)
            }
            State::Over { licence, .. } => licence.as_ref(),
        }
    }

    pub fn run(&self) -> Option<&Run> {
        match &self.state {
            State::Claimed | State::Licensed { .. } => None,
            State::Running { run, .. } => Some(run),
            State::Ended { run, .. } | State::Over { run, .. } => run.as_ref(),
        }
    }

    pub fn ending(&self) -> Option<&Ending> {
        match &self.state {
            State::Claimed | State::Licensed { .. } | State::Running { .. } => None,
            State::Ended { ending, .. } => Some(ending),
            State::Over { ending, .. } => ending.as_ref(),
        }
    }

    pub fn bill(&self) -> Option<&Bill> {
        match &self.state {
            State::Over { bill, .. } => bill.as_ref(),
            _ => None,
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over { .. })
    }

    /// The verdict, once the attempt has ended.
    pub fn verdict(&self) -> Option<Verdict> {
        let (licence, ending) = (self.licence()?, self.ending()?);
        Some(ending.how.verdict(
            licence.failures,
            self.run().map_or(u32::MAX, |run| run.max_attempts),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_status_zero_is_success_and_only_the_user_own_failures_count() {
        let fault = How::PlatformFault {
            what: "node lost".to_owned(),
        };
        for (how, failures, verdict) in [
            (How::Exited { code: 0 }, 0, Verdict::Succeeded),
            (How::Exited { code: 0 }, 9, Verdict::Succeeded),
            (How::Exited { code: 1 }, 0, Verdict::Failed),
            (How::Exited { code: 1 }, 1, Verdict::Failed),
            (How::Exited { code: 1 }, 2, Verdict::GaveUp),
            (How::Killed { signal: 9 }, 2, Verdict::GaveUp),
            (How::OutOfMemory, 0, Verdict::Failed),
            (How::TimedOut, 2, Verdict::GaveUp),
            (How::Aborted, 2, Verdict::Aborted),
            (How::Dismissed, 2, Verdict::Aborted),
            (How::Cancelled, 0, Verdict::Cancelled),
            (How::CapSpent, 2, Verdict::CapSpent),
            (fault, 2, Verdict::PlatformFault),
        ] {
            assert_eq!(how.verdict(failures, 3), verdict, "{how:?} after {failures}");
        }
    }

    #[test]
    fn every_ending_but_success_has_a_reason() {
        assert_eq!(How::Exited { code: 0 }.reason(), "");
        assert!(How::Exited { code: 3 }.reason().contains("exit status 3"));
    }
}
