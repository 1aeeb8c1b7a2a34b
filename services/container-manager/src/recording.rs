//! A run, written down line by line: what every container used and was given, who paid, which tasks waited and ran.
//!
//! One JSON object a line, in the order of time. A live node and the laboratory write the same lines, so that whatever reads
//! one reads the other. Times are microseconds since the recording began; counters are the kernel's own, since the
//! container was made.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use units::{
    Amount, Billing, ContainerId, CpuTime, FunctionName, MilliCores, Restriction, Standing, UserName,
};

/// One line: what was so, or happened, at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub at_us: u64,
    #[serde(flatten)]
    pub record: Record,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The first line.
    Run {
        /// Which experiment, or which node.
        name: String,
        /// Seconds of the described run that pass in one second of this recording; 1 unless it was compressed.
        speed: u32,
        /// What the containers share.
        capacity_millicores: MilliCores,
    },
    ContainerStarted {
        container: ContainerId,
        function: FunctionName,
        user: UserName,
        policy: String,
        min_millicores: MilliCores,
        max_millicores: MilliCores,
        boundary_millicores: MilliCores,
    },
    ContainerEnded {
        container: ContainerId,
    },
    /// A look at a container: its counters, and the limit that is in force from now on.
    Sample {
        container: ContainerId,
        used_us: CpuTime,
        nr_periods: u64,
        nr_throttled: u64,
        throttled_us: u64,
        allocation_millicores: MilliCores,
        restriction: Restriction,
    },
    Funds {
        user: UserName,
        balance: Amount,
        debt_limit: Amount,
        standing: Standing,
        billing: Billing,
    },
    /// How many tasks of a function wait and run.
    Tasks {
        function: FunctionName,
        pending: u32,
        running: u32,
    },
    TaskStarted {
        function: FunctionName,
        task: String,
        attempt: u32,
        container: ContainerId,
    },
    TaskEnded {
        function: FunctionName,
        task: String,
        attempt: u32,
        used_us: CpuTime,
        outcome: TaskOutcome,
    },
    Deposit {
        user: UserName,
        amount: Amount,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskOutcome {
    Succeeded,
    Failed,
    /// Stopped at the debt limit, or by a fault of ours; it is in the queue again.
    Returned,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("failed to read the recording")]
    Read(#[source] io::Error),
    #[error("line {line} of the recording is not a record")]
    Line {
        line: usize,
        #[source]
        err: serde_json::Error,
    },
}

/// Writes one line.
pub fn write(mut to: impl Write, entry: &Entry) -> io::Result<()> {
    serde_json::to_writer(&mut to, entry)?;
    to.write_all(b"\n")
}

/// Reads every line; a last one cut off by a crash is an error like any other.
pub fn read(from: impl BufRead) -> impl Iterator<Item = Result<Entry, RecordingError>> {
    from.lines().enumerate().map(|(number, line)| {
        let line = line.map_err(RecordingError::Read)?;
        serde_json::from_str(&line).map_err(|err| RecordingError::Line {
            line: number + 1,
            err,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let container = ContainerId::new();
        let entries = [
            Entry {
                at_us: 0,
                record: Record::Run {
                    name: "normal".to_owned(),
                    speed: 20,
                    capacity_millicores: MilliCores::from_cores(2),
                },
            },
            Entry {
                at_us: 50_000,
                record: Record::Sample {
                    container,
                    used_us: CpuTime::from_micros(49_000),
                    nr_periods: 3,
                    nr_throttled: 1,
                    throttled_us: 700,
                    allocation_millicores: MilliCores::from_millicores(1375),
                    restriction: Restriction::None,
                },
            },
            Entry {
                at_us: 60_000,
                record: Record::Funds {
                    user: "alice".parse().unwrap(),
                    balance: Amount::from_halfords(-5),
                    debt_limit: Amount::from_halfords(50_000_000),
                    standing: Standing::InDebt,
                    billing: Billing::Used,
                },
            },
        ];
        let mut text = Vec::new();
        for entry in &entries {
            write(&mut text, entry).unwrap();
        }
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), entries.len());
        let back: Vec<Entry> = read(&*text).map(Result::unwrap).collect();
        assert_eq!(back, entries);
        assert!(read(&b"{\"at_us\":1"[..]).next().unwrap().is_err());
    }
}
