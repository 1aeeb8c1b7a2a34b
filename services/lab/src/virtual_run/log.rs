//! Writes the recording of a virtual run.

use container_manager::cgroup::CpuStat;
use container_manager::recording::{Entry, Record, Told};
use units::{Amount, Billing, ContainerId, FunctionName, MilliCores, Restriction, Standing, UserName};

#[derive(Debug, Default)]
pub(super) struct Log {
    entries: Vec<Entry>,
    told: Told,
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
        let entry = Entry { at_us, record };
        if self.told.is_news(&entry) {
            self.entries.push(entry);
        }
    }

    pub(super) fn sample(
        &mut self,
        at_us: u64,
        container: ContainerId,
        stat: &CpuStat,
        allocation: MilliCores,
        restriction: Restriction,
    ) {
        self.note(at_us, Record::sample(container, stat, allocation, restriction));
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
        let record = Record::Funds {
            user: user.clone(),
            balance,
            debt_limit,
            standing,
            billing,
        };
        self.note(at_us, record);
    }

    pub(super) fn tasks(&mut self, at_us: u64, function: &FunctionName, pending: usize, running: usize) {
        let count = |tasks: usize| u32::try_from(tasks).unwrap_or(u32::MAX);
        let record = Record::Tasks {
            function: function.clone(),
            pending: count(pending),
            running: count(running),
        };
        self.note(at_us, record);
    }

    /// In the order of time.
    pub(super) fn finish(self) -> Vec<Entry> {
        self.entries
    }
}
