//! The messages, in the order in which a run uses them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Said in [`Event::Hello`]. A manager that finds another version in a running container does not talk to it.
pub const VERSION: u32 = 1;

/// From the host, once per connection.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Comes with two descriptors: the log, opened for appending, and the empty exit record.
    Run(Run),
    /// Answered by [`Event::Results`] with a descriptor of the slot's results directory.
    OpenResults { slot: u32 },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// One of the places in a container where tasks run one after the other.
    pub slot: u32,
    /// No other slot is in use, so what earlier tasks left in the shared folders is removed as well.
    pub alone: bool,
    /// Program, looked up in the `PATH` of `env`, and its arguments.
    pub argv: Vec<String>,
    /// The whole environment of the script.
    pub env: Vec<(String, String)>,
    pub limits: RunLimits,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RunLimits {
    /// Output beyond this is read, counted and thrown away.
    pub log_bytes_max: u64,
}

/// From the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    Hello {
        version: u32,
    },
    Started,
    Ended(ExitRecord),
    /// Comes with an `O_PATH` descriptor.
    Results,
    Refused {
        reason: String,
    },
}

impl fmt::Display for Event {
    /// What kind of event it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello { .. } => "hello",
            Self::Started => "started",
            Self::Ended(_) => "ended",
            Self::Results => "results",
            Self::Refused { .. } => "refused",
        })
    }
}

/// How a run ended. Its file is the truth of a run whose host was away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub outcome: Outcome,
    /// CPU time of the script and of the descendants it waited for, in microseconds. For people: the bill comes from the
    /// cgroup, which also sees detached processes.
    pub user_us: u64,
    pub system_us: u64,
    pub log: LogBytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Exited {
        code: i32,
    },
    Killed {
        signal: i32,
    },
    /// The image has no such program, or it cannot be run.
    ExecFailed {
        program: String,
        error: String,
    },
    /// The slot could not be made ready, so the script did not start.
    SetupFailed {
        error: String,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBytes {
    /// Output in the log file; a closing remark about a cut is not counted.
    pub written: u64,
    /// Output beyond the limit, or beyond what the disk took.
    pub cut: u64,
}
