//! A run, written down line by line: what every container used and was given, who paid, which tasks waited and ran.
//!
//! One JSON object a line, in the order of time. A live node and the laboratory write the same lines, so that whatever reads
//! one reads the other. Times are microseconds since the recording began; counters are the kernel's own, since the
//! container was made.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use units::{
    Amount, Billing, ContainerId, CpuTime, FunctionName, MilliCores, Restriction, Standing, UserName,
};

use crate::cgroup::CpuStat;

/// A container whose limit and restriction stay as they are is told of this often.
const SAMPLE_PAUSE_US: u64 = 100_000;

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

impl Record {
    /// A look at a container.
    pub fn sample(
        container: ContainerId,
        stat: &CpuStat,
        allocation: MilliCores,
        restriction: Restriction,
    ) -> Self {
        Self::Sample {
            container,
            used_us: stat.usage.total,
            nr_periods: stat.nr_periods,
            nr_throttled: stat.nr_throttled,
            throttled_us: stat.throttled().micros(),
            allocation_millicores: allocation,
            restriction,
        }
    }
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

/// What a recording has told last, so that it does not say the same again.
#[derive(Debug, Default)]
pub struct Told {
    samples: BTreeMap<ContainerId, (u64, MilliCores, Restriction)>,
    funds: BTreeMap<UserName, Record>,
    tasks: BTreeMap<FunctionName, Record>,
}

impl Told {
    /// Whether `entry` is news, in which case it now counts as told.
    pub fn is_news(&mut self, entry: &Entry) -> bool {
        let Entry { at_us, record } = entry;
        match record {
            Record::Sample {
                container,
                allocation_millicores,
                restriction,
                ..
            } => {
                let now = (*at_us, *allocation_millicores, *restriction);
                let is_news = self
                    .samples
                    .get(container)
                    .is_none_or(|(at_us, allocation, restriction)| {
                        now.0 >= at_us + SAMPLE_PAUSE_US || (now.1, now.2) != (*allocation, *restriction)
                    });
                if is_news {
                    self.samples.insert(*container, now);
                }
                is_news
            }
            Record::ContainerEnded { container } => {
                self.samples.remove(container);
                true
            }
            Record::Funds { user, .. } => {
                self.funds.insert(user.clone(), record.clone()).as_ref() != Some(record)
            }
            Record::Tasks { function, .. } => {
                self.tasks.insert(function.clone(), record.clone()).as_ref() != Some(record)
            }
            Record::Run { .. }
            | Record::ContainerStarted { .. }
            | Record::TaskStarted { .. }
            | Record::TaskEnded { .. }
            | Record::Deposit { .. } => true,
        }
    }

    /// The last [`Record::Funds`] of a user.
    pub fn funds(&self, user: &UserName) -> Option<&Record> {
        self.funds.get(user)
    }

    /// The last [`Record::Tasks`] of a function.
    pub fn tasks(&self, function: &FunctionName) -> Option<&Record> {
        self.tasks.get(function)
    }
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
    fn a_container_is_told_of_when_it_changes_and_every_tenth_of_a_second() {
        let (a, b) = (ContainerId::new(), ContainerId::new());
        let entry = |at_us, container, millicores, restriction| {
            let allocation = MilliCores::from_millicores(millicores);
            let record = Record::sample(container, &CpuStat::default(), allocation, restriction);
            Entry { at_us, record }
        };
        let (free, throttled) = (Restriction::None, Restriction::Throttle);
        let mut told = Told::default();
        for (entry, is_news) in [
            (entry(0, a, 500, free), true),
            (entry(99_999, a, 500, free), false),
            (entry(99_999, b, 500, free), true),
            (entry(100_000, a, 500, free), true),
            (entry(100_001, a, 501, free), true),
            (entry(100_002, a, 501, throttled), true),
            (entry(200_001, a, 501, throttled), false),
        ] {
            assert_eq!(told.is_news(&entry), is_news, "{entry:?}");
        }
    }

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
