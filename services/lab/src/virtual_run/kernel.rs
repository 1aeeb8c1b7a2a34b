//! The kernel's part of a virtual run: what tasks get of the CPU under a quota.
//!
//! As the fair scheduler does it: every 20 ms a container's quota is new; when it has run out, nothing of the container
//! runs until the next period, or until somebody sets another quota. Tasks that run share what there is in proportion to what they want. All in integers:
//! CPU time in millicores × microseconds.

use std::sync::Arc;

use container_manager::cgroup::{Burst, CpuStat, CpuUsage};
use units::{CpuTime, MilliCores};

use crate::experiment::{Kind, Phase, Profile};

/// The quota's period, as `container_manager::cgroup` sets it, and the kernel's least quota of 1 ms in it.
const PERIOD_US: u64 = 20_000;
const QUOTA_MIN: u32 = 50;
/// The counter of CPU time moves in such steps while something runs.
const COUNTER_STEP_US: u64 = 8_000;

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
    quota: MilliCores,
    burst: Burst,
    /// Of the quota and of what was saved.
    budget: u64,
    /// Whether something wanted to run in this period, and whether it waits for the next.
    wanted: bool,
    waits: bool,
    used: u64,
    /// As the counter tells it.
    counted: u64,
    throttled: u64,
    /// Counted once the wait is over.
    waited: u64,
    nr_periods: u64,
    nr_throttled: u64,
}

impl Cpu {
    pub(super) fn new(now_us: u64, quota: MilliCores) -> Self {
        let mut cpu = Self {
            now_us,
            quota,
            burst: Burst::None,
            budget: 0,
            wanted: false,
            waits: false,
            used: 0,
            counted: 0,
            throttled: 0,
            waited: 0,
            nr_periods: 0,
            nr_throttled: 0,
        };
        cpu.refill(1);
        cpu
    }

    /// Acts at once. Each write to one of the kernel's files gives a new period's quota, and there is one for the quota and
    /// one for the burst.
    pub(super) fn set_quota(&mut self, quota: MilliCores, burst: Burst) {
        (self.quota, self.burst) = (quota, burst);
        self.refill(2);
    }

    fn refill(&mut self, periods: u64) {
        let quota = u64::from(self.quota.millicores().max(QUOTA_MIN)) * PERIOD_US;
        let most = match self.burst {
            Burst::None => quota,
            Burst::Quota => 2 * quota,
        };
        self.budget = quota
            .saturating_mul(periods)
            .saturating_add(self.budget)
            .min(most);
        self.waits = false;
        self.throttled += std::mem::take(&mut self.waited);
    }

    pub(super) fn used(&self) -> CpuTime {
        CpuTime::from_micros(self.used / 1000)
    }

    pub(super) fn stat(&self) -> CpuStat {
        let total = CpuTime::from_micros(self.counted / 1000);
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
        let from_us = if self.waits {
            next_multiple(self.now_us, PERIOD_US)
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
        let began_us = self.now_us;
        let wanted: u64 = tasks.iter().map(|task| task.demand()).sum();
        let demand = wanted.min(u64::from(capacity.millicores()));
        let change = tasks.iter().map(|task| task.changes_at(began_us)).min();
        let mut end = to_us.min(change.unwrap_or(u64::MAX));
        if demand == 0 {
            // Nothing happens for however many periods.
            self.counted = self.used;
        } else {
            end = end.min(next_multiple(began_us, PERIOD_US));
            self.wanted = true;
            if self.budget > 0 {
                end = end.min(began_us + self.budget.div_ceil(demand));
                let used = (demand * (end - began_us)).min(self.budget);
                let step_us = end / COUNTER_STEP_US * COUNTER_STEP_US;
                if step_us >= began_us {
                    self.counted = self.used + (demand * (step_us - began_us)).min(used);
                }
                self.budget -= used;
                self.used += used;
                for task in tasks {
                    task.run(used * task.demand() / wanted);
                }
            } else {
                // What does not run has been counted.
                self.counted = self.used;
                self.waits = true;
                self.waited += demand * (end - began_us);
            }
        }
        self.now_us = end;
        let periods = end / PERIOD_US - began_us / PERIOD_US;
        if periods > 0 {
            self.nr_periods += u64::from(std::mem::take(&mut self.wanted));
            self.nr_throttled += u64::from(self.waits);
            self.refill(periods);
        }
    }
}

fn next_multiple(after: u64, of: u64) -> u64 {
    (after / of + 1) * of
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
    fn a_new_quota_acts_at_once_and_is_whole() {
        let mut burner = work(Kind::Burn, &["2-10"]);
        let mut cpu = Cpu::new(0, MilliCores::from_cores(2));
        let mut until = |cpu: &mut Cpu, ms: u64| {
            cpu.advance([&mut burner].into_iter(), ms * 1000, MilliCores::from_cores(2));
            cpu.used().micros()
        };
        assert_eq!(until(&mut cpu, 30), 60_000);
        cpu.set_quota(MilliCores::from_millicores(500), Burst::None);
        assert_eq!(until(&mut cpu, 40), 70_000);
        assert_eq!(until(&mut cpu, 60), 80_000);
    }

    #[test]
    fn what_a_period_leaves_can_be_saved_up_to_one_quota() {
        for (burst, used_ms) in [(Burst::None, 40), (Burst::Quota, 50)] {
            // Half a core may be used, nothing for 100 ms, and then for 80 ms as much as there is: 10 ms a period, and 10
            // more that were saved.
            let mut bursting = work(Kind::Burn, &["0-0.1", "4-0.08"]);
            let mut cpu = Cpu::new(0, MilliCores::from_millicores(500));
            cpu.set_quota(MilliCores::from_millicores(500), burst);
            cpu.advance([&mut bursting].into_iter(), 180_000, MilliCores::from_cores(8));
            assert_eq!(cpu.used().micros(), used_ms * 1000, "{burst:?}");
        }
    }

    #[test]
    fn the_counter_moves_in_steps_while_something_runs() {
        let mut burner = work(Kind::Burn, &["1-0.05"]);
        let mut cpu = Cpu::new(0, MilliCores::from_cores(2));
        for (ms, counted_ms) in [(7, 0), (8, 8), (30, 24), (50, 48), (60, 50)] {
            cpu.advance([&mut burner].into_iter(), ms * 1000, MilliCores::from_cores(2));
            assert_eq!(cpu.stat().usage.total.micros(), counted_ms * 1000, "at {ms} ms");
        }
    }
}
