//! A recording, asked what was so at a moment of the published axis.

use container_manager::recording::{Entry, Record};
use units::{Amount, MilliCores};

/// What happened, each with its second on the axis.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// `None`: there was no container.
    limits: Vec<(i64, Option<MilliCores>)>,
    balances: Vec<(i64, Amount)>,
    pub(super) ends: Vec<i64>,
    pending: Vec<(i64, u32)>,
    returned: Vec<i64>,
}

impl Run {
    /// The axis begins with the first container, and so much later with its first point.
    pub(super) fn of(entries: &[Entry], axis_s: i64) -> Self {
        let started = |entry: &&Entry| matches!(entry.record, Record::ContainerStarted { .. });
        let start = entries.iter().find(started).map_or(0, |entry| entry.at_us);
        let second = |at_us: u64| {
            let seconds = |us: u64| i64::try_from((us + 500_000) / 1_000_000).unwrap_or(i64::MAX);
            if at_us >= start {
                seconds(at_us - start) - axis_s
            } else {
                -seconds(start - at_us) - axis_s
            }
        };
        let mut run = Self::default();
        for entry in entries {
            let at = second(entry.at_us);
            match &entry.record {
                Record::Sample {
                    allocation_millicores,
                    ..
                } => run.limit(at, Some(*allocation_millicores)),
                Record::ContainerEnded { .. } => run.limit(at, None),
                Record::Funds { balance, .. } => run.balances.push((at, *balance)),
                Record::TaskEnded { outcome, .. } => {
                    if *outcome == container_manager::recording::TaskOutcome::Succeeded {
                        run.ends.push(at);
                    } else {
                        run.returned.push(at);
                    }
                }
                Record::Tasks { pending, .. } => run.pending.push((at, *pending)),
                Record::Run { .. }
                | Record::ContainerStarted { .. }
                | Record::TaskStarted { .. }
                | Record::Deposit { .. } => {}
            }
        }
        run
    }

    fn limit(&mut self, at: i64, limit: Option<MilliCores>) {
        if self.limits.last().map(|(_, last)| *last) != Some(limit) {
            self.limits.push((at, limit));
        }
    }

    pub(super) fn limit_at(&self, at_s: i64) -> Option<MilliCores> {
        last(&self.limits, at_s).flatten()
    }

    pub(super) fn balance_at(&self, at_s: i64) -> Option<Amount> {
        last(&self.balances, at_s)
    }

    pub(super) fn pending_at(&self, at_s: i64) -> Option<u32> {
        last(&self.pending, at_s)
    }

    /// Every change of the limit.
    pub(super) fn limits(&self) -> impl Iterator<Item = (i64, Option<MilliCores>)> {
        self.limits.iter().copied()
    }

    /// Every stretch with one balance: from, until before, and how much.
    pub(super) fn balances(&self) -> impl Iterator<Item = (i64, i64, Amount)> {
        let ends = self.balances.iter().skip(1).map(|(at, _)| *at);
        let stretches = self.balances.iter().zip(ends.chain([i64::MAX]));
        stretches.map(|((from, balance), until)| (*from, until, *balance))
    }

    /// When an attempt was stopped and went back to the queue.
    pub(super) fn returned(&self) -> impl Iterator<Item = i64> {
        self.returned.iter().copied()
    }
}

fn last<T: Copy>(series: &[(i64, T)], at_s: i64) -> Option<T> {
    let before = series.iter().take_while(|(at, _)| *at <= at_s);
    before.last().map(|(_, value)| *value)
}
