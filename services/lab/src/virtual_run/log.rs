//! Writes the recording of a virtual run.

use std::collections::BTreeMap;

use container_manager::recording::{Entry, Record};
use units::{Amount, Billing, ContainerId, FunctionName, MilliCores, Restriction, Standing, UserName};

/// A container is looked at this often, and whenever its limit changes: as a live node does it.
const SAMPLE_PAUSE_US: u64 = 100_000;

#[derive(Debug, Default)]
pub(super) struct Log {
    entries: Vec<Entry>,
    samples: BTreeMap<ContainerId, (u64, MilliCores, Restriction)>,
    funds: BTreeMap<UserName, (Amount, Standing)>,
    tasks: BTreeMap<FunctionName, (u32, u32)>,
}

impl Log {
    pub(super) fn new(name: &str, capacity: MilliCores) -> Self {
        let mut log = Self::default();
        let run = Record::Run {
            name: name.to_owned(),
            speed: 1,
            capacity_millicores: capacity,
        };
        log.note(0, run);
        log
    }

    pub(super) fn note(&mut self, at_us: u64, record: Record) {
        self.entries.push(Entry { at_us, record });
    }

    pub(super) fn sample(
        &mut self,
        at_us: u64,
        container: ContainerId,
        stat: &container_manager::cgroup::CpuStat,
        allocation: MilliCores,
        restriction: Restriction,
    ) {
        let told = self.samples.get(&container);
        let is_old = |(at, was, restricted): &(u64, MilliCores, Restriction)| {
            at_us >= at + SAMPLE_PAUSE_US || *was != allocation || *restricted != restriction
        };
        if told.is_none_or(is_old) {
            self.samples.insert(container, (at_us, allocation, restriction));
            let record = Record::Sample {
                container,
                used_us: stat.usage.total,
                nr_periods: stat.nr_periods,
                nr_throttled: stat.nr_throttled,
                throttled_us: super::kernel::micros(stat.throttled_time),
                allocation_millicores: allocation,
                restriction,
            };
            self.note(at_us, record);
        }
    }

    pub(super) fn funds(
        &mut self,
        at_us: u64,
        user: &UserName,
        balance: Amount,
        debt_limit: Amount,
        standing: Standing,
        billing: Billing,
    ) {
        if self.funds.get(user) != Some(&(balance, standing)) {
            self.funds.insert(user.clone(), (balance, standing));
            let record = Record::Funds {
                user: user.clone(),
                balance,
                debt_limit,
                standing,
                billing,
            };
            self.note(at_us, record);
        }
    }

    pub(super) fn tasks(&mut self, at_us: u64, function: &FunctionName, pending: usize, running: usize) {
        let count = |tasks: usize| u32::try_from(tasks).unwrap_or(u32::MAX);
        let counts = (count(pending), count(running));
        if self.tasks.get(function) != Some(&counts) {
            self.tasks.insert(function.clone(), counts);
            let record = Record::Tasks {
                function: function.clone(),
                pending: counts.0,
                running: counts.1,
            };
            self.note(at_us, record);
        }
    }

    /// In the order of time.
    pub(super) fn finish(self) -> Vec<Entry> {
        self.entries
    }
}
