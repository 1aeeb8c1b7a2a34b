//! One recorded run as one row of a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use container_manager::recording::{Entry, Record, TaskOutcome};
use units::{Amount, ContainerId, CpuTime, FunctionName, MilliCores, Restriction, UserName};

/// A part of something, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PerMille(pub u64);

impl PerMille {
    /// Rounded to the nearest; 0 of nothing.
    fn of(part: u128, whole: u128) -> Self {
        let rounded = (part * 1000 + whole / 2).checked_div(whole).unwrap_or(0);
        Self(u64::try_from(rounded).unwrap_or(u64::MAX))
    }
}

/// As percent with one decimal.
impl fmt::Display for PerMille {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{} %", self.0 / 10, self.0 % 10))
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// CPU time that was used, of the CPU time that was allocated while containers lived.
    pub utilisation: PerMille,
    /// By how much longer the work took than with all it wanted, as far as scaling is to blame: time under a restriction
    /// does not count. What burners did not get counts as if they had to do it.
    pub slowdown: PerMille,
    /// From the moment a container got less than 90 % of what it wanted to the moment it got that: mean and worst. Not
    /// counted: at the container's maximum, and under a restriction.
    pub reaction: Duration,
    pub reaction_max: Duration,
    pub used: CpuTime,
    pub allocated: CpuTime,
    /// What everybody paid for it.
    pub bill: Amount,
    pub end_balance: Amount,
    pub lowest_balance: Amount,
    pub tasks_succeeded: u32,
    /// Attempts that were stopped and went back to the queue.
    pub attempts_returned: u32,
    pub tasks_pending: u32,
    /// When the last task ended.
    pub makespan: Duration,
}

/// A container as it was looked at last.
#[derive(Clone, Copy, Debug)]
struct Look {
    at_us: u64,
    used: CpuTime,
    throttled_us: u64,
    allocation: MilliCores,
    restriction: Restriction,
}

#[derive(Debug, Default)]
struct Sums {
    looks: BTreeMap<ContainerId, Look>,
    max: BTreeMap<ContainerId, MilliCores>,
    /// Since when a container is short.
    short_since: BTreeMap<ContainerId, u64>,
    reactions: Vec<u64>,
    used: u128,
    /// Millicores × microseconds.
    allocated: u128,
    /// Microseconds in which something wanted to run.
    busy: u128,
    /// The part of them that throttling cost.
    lost: u128,
    balances: BTreeMap<UserName, (Amount, Amount)>,
    deposits: Amount,
    pending: BTreeMap<FunctionName, u32>,
}

impl Sums {
    fn look(&mut self, container: ContainerId, look: Look) {
        if let Some(before) = self.looks.insert(container, look) {
            let wall = look.at_us.saturating_sub(before.at_us);
            let used = look.used.saturating_sub(before.used).micros();
            let throttled = look.throttled_us.saturating_sub(before.throttled_us);
            self.used += u128::from(used);
            self.allocated += u128::from(before.allocation.millicores()) * u128::from(wall);
            let wanted = used + throttled;
            let is_free = before.restriction == Restriction::None;
            if is_free
                && let Some(lost) = (u128::from(wall) * u128::from(throttled)).checked_div(wanted.into())
            {
                self.busy += u128::from(wall);
                self.lost += lost;
            }
            let at_max = self
                .max
                .get(&container)
                .is_some_and(|max| before.allocation >= *max);
            if is_free && !at_max && used * 10 < wanted * 9 {
                self.short_since.entry(container).or_insert(before.at_us);
            } else if let Some(since) = self.short_since.remove(&container) {
                self.reactions.push(before.at_us - since);
            }
        }
    }

    /// A container that ended had its last allocation until then.
    fn end(&mut self, container: ContainerId, at_us: u64) {
        if let Some(last) = self.looks.remove(&container) {
            let wall = at_us.saturating_sub(last.at_us);
            self.allocated += u128::from(last.allocation.millicores()) * u128::from(wall);
        }
        self.short_since.remove(&container);
    }
}

impl Summary {
    /// Sums up a recording. Of money it knows the balances: what was paid is what they lost, deposits put back in.
    pub fn of(entries: &[Entry]) -> Self {
        let (mut summary, mut sums) = (Self::default(), Sums::default());
        summary.lowest_balance = Amount::MAX;
        for entry in entries {
            match &entry.record {
                Record::Run { .. } | Record::TaskStarted { .. } => {}
                Record::ContainerStarted {
                    container,
                    max_millicores,
                    ..
                } => {
                    sums.max.insert(*container, *max_millicores);
                }
                Record::ContainerEnded { container } => sums.end(*container, entry.at_us),
                Record::Sample {
                    container,
                    used_us,
                    throttled_us,
                    allocation_millicores,
                    restriction,
                    ..
                } => sums.look(
                    *container,
                    Look {
                        at_us: entry.at_us,
                        used: *used_us,
                        throttled_us: *throttled_us,
                        allocation: *allocation_millicores,
                        restriction: *restriction,
                    },
                ),
                Record::Funds { user, balance, .. } => {
                    summary.lowest_balance = summary.lowest_balance.min(*balance);
                    let (_, last) = sums.balances.entry(user.clone()).or_insert((*balance, *balance));
                    *last = *balance;
                }
                Record::Tasks {
                    function, pending, ..
                } => {
                    sums.pending.insert(function.clone(), *pending);
                }
                Record::TaskEnded { outcome, .. } => {
                    summary.makespan = Duration::from_micros(entry.at_us);
                    match outcome {
                        TaskOutcome::Succeeded => summary.tasks_succeeded += 1,
                        TaskOutcome::Returned => summary.attempts_returned += 1,
                        TaskOutcome::Failed => {}
                    }
                }
                Record::Deposit { amount, .. } => {
                    sums.deposits = sums.deposits.saturating_add(*amount);
                }
            }
        }
        if let Some(last) = entries.last() {
            for container in sums.looks.keys().copied().collect::<Vec<_>>() {
                sums.end(container, last.at_us);
            }
        }
        summary.take(sums)
    }

    fn take(self, sums: Sums) -> Self {
        let first: Amount = sums.balances.values().map(|(first, _)| *first).sum();
        let last: Amount = sums.balances.values().map(|(_, last)| *last).sum();
        let micros = |time: u128| CpuTime::from_micros(u64::try_from(time).unwrap_or(u64::MAX));
        let reactions = &sums.reactions;
        let mean = reactions
            .iter()
            .sum::<u64>()
            .checked_div(u64::try_from(reactions.len()).unwrap_or(u64::MAX));
        Self {
            utilisation: PerMille::of(sums.used * 1000, sums.allocated),
            slowdown: PerMille::of(sums.lost, sums.busy.saturating_sub(sums.lost)),
            reaction: Duration::from_micros(mean.unwrap_or(0)),
            reaction_max: Duration::from_micros(reactions.iter().copied().max().unwrap_or(0)),
            used: micros(sums.used),
            allocated: micros(sums.allocated / 1000),
            bill: first.saturating_add(sums.deposits).saturating_sub(last),
            end_balance: last,
            tasks_pending: sums.pending.values().sum(),
            ..self
        }
    }
}
