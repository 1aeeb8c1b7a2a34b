//! The kernel's part of a virtual run: what tasks get of the CPU under a quota.
//!
//! As the fair scheduler does it: every 20 ms a container's quota is new; when it has run out, nothing of the container
//! runs until the next period. Tasks that run share what there is in proportion to what they want. All in integers:
//! CPU time in millicores × microseconds.

use std::sync::Arc;

use container_manager::cgroup::{CpuStat, CpuUsage};
use units::{CpuTime, MilliCores};

use crate::experiment::{Kind, Phase, Profile};

/// The quota's period, as `container_manager::cgroup` sets it.
const PERIOD_US: u64 = 20_000;

/// What a task still wants.
#[derive(Clone, Debug)]
pub(super) struct Work {
    profile: Arc<Profile>,
    phase: usize,
    left: Left,
    used: u64,
    frozen: bool,
}

#[derive(Clone, Copy, Debug)]
enum Left {
    /// The phase ends at this moment.
    Until(u64),
    /// The phase ends when so much CPU time was used.
    Cpu(u64),
    Nothing,
}

impl Work {
    pub(super) fn new(profile: Arc<Profile>, now_us: u64) -> Self {
        let mut work = Self {
            profile,
            phase: 0,
            left: Left::Nothing,
            used: 0,
            frozen: false,
        };
        work.begin(now_us);
        work
    }

    pub(super) fn used(&self) -> CpuTime {
        CpuTime::from_micros(self.used / 1000)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.left, Left::Nothing) && !self.frozen
    }

    pub(super) fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    fn current(&self) -> Option<Phase> {
        let phases = &self.profile.phases;
        let count = phases
            .len()
            .checked_mul(usize::try_from(self.profile.repeat).ok()?)?;
        (self.phase < count)
            .then(|| phases.get(self.phase % phases.len()).copied())
            .flatten()
    }

    /// Begins the phase that is next at `now`.
    fn begin(&mut self, now_us: u64) {
        self.left = match self.current() {
            None => Left::Nothing,
            Some(phase) => {
                let lasts = micros(phase.lasts);
                match self.profile.kind {
                    // A pause is a pause, whatever was done before it.
                    Kind::Work if phase.cores > MilliCores::ZERO => {
                        Left::Cpu(u64::from(phase.cores.millicores()) * lasts)
                    }
                    Kind::Burn | Kind::Work => Left::Until(now_us + lasts),
                }
            }
        };
    }

    /// Takes up the next phase if this one is over.
    fn proceed(&mut self, now_us: u64) {
        loop {
            match self.left {
                Left::Until(end) if end <= now_us => {
                    self.phase += 1;
                    self.begin(end);
                }
                Left::Cpu(0) => {
                    self.phase += 1;
                    self.begin(now_us);
                }
                Left::Until(_) | Left::Cpu(_) | Left::Nothing => return,
            }
        }
    }

    /// In millicores.
    fn demand(&self) -> u64 {
        match self.left {
            Left::Nothing => 0,
            Left::Until(_) | Left::Cpu(_) if self.frozen => 0,
            Left::Until(_) | Left::Cpu(_) => self
                .current()
                .map_or(0, |phase| u64::from(phase.cores.millicores())),
        }
    }

    /// The earliest that it may want something else.
    fn changes_at(&self, now_us: u64) -> u64 {
        match self.left {
            Left::Until(end) => end,
            Left::Cpu(left) if !self.frozen => now_us + left.div_ceil(self.demand().max(1)),
            Left::Cpu(_) | Left::Nothing => u64::MAX,
        }
    }

    fn run(&mut self, used: u64) {
        if let Left::Cpu(left) = &mut self.left {
            *left = left.saturating_sub(used);
        }
        self.used += used;
    }
}

pub(super) fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A container's quota and counters.
#[derive(Debug)]
pub(super) struct Cpu {
    now_us: u64,
    /// Since the beginning.
    period: u64,
    quota: MilliCores,
    /// From the next period on.
    next_quota: MilliCores,
    /// Of this period's quota.
    spent: u64,
    wanted: bool,
    ran_out: bool,
    used: u64,
    throttled: u64,
    nr_periods: u64,
    nr_throttled: u64,
}

impl Cpu {
    pub(super) fn new(now_us: u64, quota: MilliCores) -> Self {
        Self {
            now_us,
            period: now_us / PERIOD_US,
            quota,
            next_quota: quota,
            spent: 0,
            wanted: false,
            ran_out: false,
            used: 0,
            throttled: 0,
            nr_periods: 0,
            nr_throttled: 0,
        }
    }

    pub(super) fn set_quota(&mut self, quota: MilliCores) {
        self.next_quota = quota;
    }

    pub(super) fn used(&self) -> CpuTime {
        CpuTime::from_micros(self.used / 1000)
    }

    pub(super) fn stat(&self) -> CpuStat {
        let total = self.used();
        CpuStat {
            usage: CpuUsage {
                total,
                user: total,
                system: CpuTime::ZERO,
            },
            nr_periods: self.nr_periods,
            nr_throttled: self.nr_throttled,
            throttled_time: std::time::Duration::from_micros(self.throttled / 1000),
        }
    }

    /// The earliest that one of the tasks may be over, or want something else.
    pub(super) fn changes_at<'a>(&self, tasks: impl Iterator<Item = &'a Work>) -> u64 {
        let from_us = if self.ran_out {
            (self.period + 1) * PERIOD_US
        } else {
            self.now_us
        };
        tasks
            .map(|task| task.changes_at(from_us))
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Runs until `to`. A task that is over earlier stays idle from then on.
    pub(super) fn advance<'a>(
        &mut self,
        tasks: impl Iterator<Item = &'a mut Work>,
        to_us: u64,
        capacity: MilliCores,
    ) {
        let mut tasks: Vec<&mut Work> = tasks.collect();
        while self.now_us < to_us {
            self.step(&mut tasks, to_us, capacity);
            for task in &mut tasks {
                task.proceed(self.now_us);
            }
        }
    }

    /// Runs as long as nothing changes.
    fn step(&mut self, tasks: &mut [&mut Work], to_us: u64, capacity: MilliCores) {
        let period = self.now_us / PERIOD_US;
        if period != self.period {
            self.period = period;
            self.quota = self.next_quota;
            (self.spent, self.wanted, self.ran_out) = (0, false, false);
        }
        let wanted: u64 = tasks.iter().map(|task| task.demand()).sum();
        let demand = wanted.min(u64::from(capacity.millicores()));
        let period_end = (period + 1) * PERIOD_US;
        let change = tasks.iter().map(|task| task.changes_at(self.now_us)).min();
        let mut end = to_us.min(period_end).min(change.unwrap_or(u64::MAX));
        if demand == 0 {
            // Nothing happens for however many periods.
            end = to_us.min(change.unwrap_or(u64::MAX)).max(end);
            self.now_us = end;
            return;
        }
        if !self.wanted {
            self.wanted = true;
            self.nr_periods += 1;
        }
        let budget = (u64::from(self.quota.millicores()) * PERIOD_US).saturating_sub(self.spent);
        if budget == 0 {
            if !self.ran_out {
                self.ran_out = true;
                self.nr_throttled += 1;
            }
            self.throttled += demand * (end - self.now_us);
        } else {
            end = end.min(self.now_us + budget.div_ceil(demand));
            let used = (demand * (end - self.now_us)).min(budget);
            self.spent += used;
            self.used += used;
            for task in tasks {
                task.run(used * task.demand() / wanted);
            }
        }
        self.now_us = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: u64 = 1_000_000;

    fn work(kind: Kind, phases: &[&str]) -> Work {
        let profile = Profile {
            kind,
            phases: phases.iter().map(|text| text.parse().unwrap()).collect(),
            repeat: 1,
        };
        Work::new(Arc::new(profile), 0)
    }

    /// Runs one task under a quota; says when it ended, in milliseconds, and what it used, in milliseconds.
    fn run(mut work: Work, quota: u32) -> (u64, u64, CpuStat) {
        let mut cpu = Cpu::new(0, MilliCores::from_millicores(quota));
        let mut end = 0;
        while !work.is_over() {
            end = cpu.changes_at([&work].into_iter());
            assert!(end < 1000 * SECOND_US);
            cpu.advance([&mut work].into_iter(), end, MilliCores::from_cores(8));
        }
        assert_eq!(cpu.used(), work.used());
        (end / 1000, work.used().micros() / 1000, cpu.stat())
    }

    #[test]
    fn a_burner_ends_at_the_same_moment_under_any_limit_and_uses_less() {
        for (quota, used) in [(4000, 20_000), (2000, 20_000), (1000, 10_000), (500, 5_000)] {
            let (end, found, stat) = run(work(Kind::Burn, &["2-10"]), quota);
            assert_eq!((end, found), (10_000, used), "quota {quota}");
            let waited = u64::try_from(stat.throttled_time.as_millis()).unwrap();
            assert_eq!(
                found + waited,
                20_000,
                "what it wanted and did not get is throttled time"
            );
            assert_eq!(stat.nr_periods, 500);
            assert_eq!(stat.nr_throttled, if quota < 2000 { 500 } else { 0 });
        }
    }

    #[test]
    fn work_takes_longer_under_a_limit_and_uses_the_same() {
        for (quota, end) in [(4000, 10_000), (2000, 10_000), (1000, 20_000)] {
            let (found, used, _) = run(work(Kind::Work, &["2-10"]), quota);
            assert_eq!(used, 20_000);
            assert!((end - 20..=end).contains(&found), "quota {quota}: {found}");
        }
    }

    #[test]
    fn phases_follow_each_other_and_a_pause_is_one() {
        let (end, used, stat) = run(work(Kind::Work, &["1-1", "0-3", "2-0.5"]), 4000);
        assert_eq!((end, used), (4500, 2000));
        assert_eq!(stat.nr_periods, 75, "in a pause no period is counted");
    }

    #[test]
    fn a_new_quota_acts_from_the_next_period_on() {
        let mut burner = work(Kind::Burn, &["2-10"]);
        let mut cpu = Cpu::new(0, MilliCores::from_cores(2));
        let mut until = |cpu: &mut Cpu, ms: u64| {
            cpu.advance([&mut burner].into_iter(), ms * 1000, MilliCores::from_cores(2));
            cpu.used().micros()
        };
        assert_eq!(until(&mut cpu, 30), 60_000);
        cpu.set_quota(MilliCores::from_millicores(500));
        assert_eq!(until(&mut cpu, 40), 80_000);
        assert_eq!(until(&mut cpu, 60), 90_000);
    }
}
