//! Our own policy: follow demand.
//!
//! The kernel counts for how long each CPU was kept from a container that wanted to run on it. That and what the container
//! used add up to its demand, so a container whose quota ran out in half or more of its periods gets in one look what it
//! would have used, and a little more; one that is short for the third look running gets twice what it has, as threads
//! that wait for each other hide a part of what they want. A container that is not short shows its demand in its usage. Its
//! limit then is the highest half-second average of the last second and a little more, and it sinks there only after a
//! second without shortage. If shortage is back soon after that, these were bursts, and the next wait is twice as long,
//! so nothing swings. A container that works keeps its floor, half a core; one that was idle for a second sinks to its
//! minimum, and is given its floor again before the next task starts in it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use units::{CpuTime, MilliCores};

use super::{CpuLimits, Policy, Sample, average};
use crate::cgroup::CpuStat;

/// Looks come no closer than this; a caller that samples more often is answered from the last look. Below it a look
/// holds too few periods of 20 ms to tell shortage from a hiccup.
const LOOK_MIN: Duration = Duration::from_millis(90);
/// Usage is averaged over this: the kernel's counter moves in steps of up to 8 ms, less than 2 % here.
const AVERAGE: Duration = Duration::from_millis(500);
/// How long peaks are remembered, and how long a first shortage forbids to sink.
const HOLD: Duration = Duration::from_secs(1);
/// The longest that shortage after shortage forbids it.
const HOLD_MAX: Duration = Duration::from_secs(16);
/// Room above usage: a fiftieth, and for small usage a hundredth of a core. A container that uses all it wants stays
/// clear of its quota, and 97 % of what a busy core is given is used.
const ROOM_PART: u32 = 50;
const ROOM_LEAST: MilliCores = MilliCores::from_millicores(10);
/// A container that uses less, which is what its resident runner may need, is idle.
const IDLE: MilliCores = MilliCores::from_millicores(5);
/// So many short looks in a row, and what is measured is not all that is wanted.
const LOOKS_TRUSTED: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct Tracking {
    /// Looks of the last second and a half, oldest first.
    looks: VecDeque<(Instant, CpuStat)>,
    desired: MilliCores,
    shortage: Option<Shortage>,
    /// Short looks up to now, without another between them.
    short_looks: u32,
    /// When a task was last about to start.
    task_at: Option<Instant>,
}

/// The latest shortage of CPU.
#[derive(Clone, Copy, Debug)]
struct Shortage {
    last: Instant,
    /// How long after `last` the limit may not sink.
    hold: Duration,
}

impl Shortage {
    fn holds(&self, at: Instant) -> bool {
        at.saturating_duration_since(self.last) < self.hold
    }

    /// The shortage seen at `at`, given the one before it.
    fn seen(before: Option<Self>, at: Instant) -> Self {
        match before {
            Some(same) if same.holds(at) => Self { last: at, ..same },
            Some(last) if at.saturating_duration_since(last.last) < last.hold * 2 => Self {
                last: at,
                hold: (last.hold * 2).min(HOLD_MAX),
            },
            _ => Self { last: at, hold: HOLD },
        }
    }
}

/// Whether the quota ran out in half or more of the periods between two looks.
fn is_short(before: &CpuStat, now: &CpuStat) -> bool {
    let periods = now.nr_periods.saturating_sub(before.nr_periods);
    let throttled = now.nr_throttled.saturating_sub(before.nr_throttled);
    throttled > 0 && throttled.saturating_mul(2) >= periods
}

/// What would have been used between two looks without a limit.
fn demand(before: &CpuStat, now: &CpuStat, wall: Duration) -> MilliCores {
    let used = now.usage.total.saturating_sub(before.usage.total);
    let kept_from = now.throttled().saturating_sub(before.throttled());
    average(used.saturating_add(kept_from), wall)
}

impl Tracking {
    /// The limit for a container that is short.
    fn relief(&self, demand: MilliCores, allocation: MilliCores) -> MilliCores {
        let least = if self.short_looks > LOOKS_TRUSTED {
            allocation.saturating_add(allocation)
        } else {
            a_tenth_more(allocation)
        };
        with_room(demand).max(least).max(self.desired)
    }

    /// The limit for a container that is not short, by what it used of late.
    fn target(&self, at: Instant, limits: &CpuLimits) -> MilliCores {
        let Some(peak) = self.peak() else {
            return self.desired;
        };
        let expects = self
            .task_at
            .is_some_and(|task_at| at.saturating_duration_since(task_at) < HOLD);
        if peak < IDLE && !expects {
            limits.min
        } else {
            with_room(peak).max(limits.floor())
        }
    }

    /// The highest average that ended within the last second. `None` before there was a whole one.
    fn peak(&self) -> Option<MilliCores> {
        let ends = self.looks.iter().rev();
        ends.filter_map(|(end, stat)| {
            let mut starts = self
                .looks
                .iter()
                .rev()
                .skip_while(|(start, _)| end.saturating_duration_since(*start) < AVERAGE);
            let (start, before) = starts.next()?;
            let used: CpuTime = stat.usage.total.saturating_sub(before.usage.total);
            Some(average(used, end.saturating_duration_since(*start)))
        })
        .max()
    }

    fn forget_before(&mut self, now: Instant) {
        // One look older than needed stays, so that the oldest average has a start.
        while self
            .looks
            .get(1)
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= AVERAGE + HOLD)
        {
            self.looks.pop_front();
        }
    }
}

fn with_room(usage: MilliCores) -> MilliCores {
    let room = MilliCores::from_millicores(usage.millicores() / ROOM_PART);
    usage.saturating_add(room).saturating_add(ROOM_LEAST)
}

fn a_tenth_more(allocation: MilliCores) -> MilliCores {
    allocation.saturating_add(MilliCores::from_millicores(allocation.millicores() / 10))
}

impl Policy for Tracking {
    fn initial(&self, limits: &CpuLimits) -> MilliCores {
        limits.max
    }

    fn on_sample(&mut self, sample: &Sample, limits: &CpuLimits) -> MilliCores {
        let Some((last, before)) = self.looks.back() else {
            self.looks.push_back((sample.at, sample.stat));
            self.desired = if sample.allocation == MilliCores::ZERO {
                self.initial(limits)
            } else {
                sample.allocation
            };
            return self.desired;
        };
        if sample.at.saturating_duration_since(*last) < LOOK_MIN {
            return self.desired;
        }
        let short = is_short(before, &sample.stat);
        let wall = sample.at.saturating_duration_since(*last);
        let demand = demand(before, &sample.stat, wall);
        self.short_looks = if short {
            self.short_looks.saturating_add(1)
        } else {
            0
        };
        self.looks.push_back((sample.at, sample.stat));
        self.forget_before(sample.at);

        let target = self.target(sample.at, limits);
        let desired = if short {
            self.shortage = Some(Shortage::seen(self.shortage, sample.at));
            self.relief(demand, sample.allocation)
        } else if self.shortage.is_some_and(|shortage| shortage.holds(sample.at)) {
            self.desired.max(target)
        } else {
            target
        };
        self.desired = limits.clamp(desired);
        self.desired
    }

    fn on_task(&mut self, at: Instant, limits: &CpuLimits) {
        self.task_at = Some(at);
        self.desired = self.desired.max(limits.floor());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD_MS: u64 = 20;
    const LOOK_MS: u64 = 100;

    fn limits() -> CpuLimits {
        CpuLimits {
            min: MilliCores::ZERO,
            max: MilliCores::from_cores(4),
            boundary: MilliCores::from_millicores(250),
        }
    }

    /// A container that uses what it wants or what it may, whichever is less, in periods of the kernel.
    struct Simulated {
        tracking: Tracking,
        start: Instant,
        stat: CpuStat,
        allocation: MilliCores,
        used_us: u64,
        given_us: u64,
        /// Work put off by throttling, done before anything new.
        backlog_us: u64,
        /// What it could not do is not put off, as with a process that only burns time.
        burns: bool,
        changes: Vec<MilliCores>,
    }

    impl Simulated {
        fn new() -> Self {
            let mut tracking = Tracking::default();
            let (start, stat) = (Instant::now(), CpuStat::default());
            let first = Sample {
                at: start,
                stat,
                allocation: MilliCores::ZERO,
            };
            let allocation = tracking.on_sample(&first, &limits());
            Self {
                tracking,
                start,
                stat,
                allocation,
                used_us: 0,
                given_us: 0,
                backlog_us: 0,
                burns: false,
                changes: Vec::new(),
            }
        }

        /// Runs from one millisecond to another; `demand` is in millicores at a millisecond.
        fn run(&mut self, from_ms: u64, to_ms: u64, demand: impl Fn(u64) -> u32) {
            for ms in (from_ms..to_ms).step_by(usize::try_from(PERIOD_MS).unwrap()) {
                let period = Duration::from_millis(PERIOD_MS);
                let wanted = MilliCores::from_millicores(demand(ms)).over(period).micros() + self.backlog_us;
                let quota = self.allocation.over(period).micros();
                let used = wanted.min(quota);
                self.backlog_us = if self.burns { 0 } else { wanted - used };
                self.used_us += used;
                self.given_us += quota;
                let total = self.stat.usage.total.saturating_add(CpuTime::from_micros(used));
                self.stat.usage.total = total;
                self.stat.nr_periods += u64::from(wanted > 0);
                self.stat.nr_throttled += u64::from(wanted > quota);
                let could = wanted.min(limits().max.over(period).micros());
                self.stat.throttled_time += Duration::from_micros(could - used);
                let end_ms = ms + PERIOD_MS;
                if end_ms.is_multiple_of(LOOK_MS) {
                    let at = self.start + Duration::from_millis(end_ms);
                    let sample = Sample {
                        at,
                        stat: self.stat,
                        allocation: self.allocation,
                    };
                    let desired = self.tracking.on_sample(&sample, &limits());
                    if desired != self.allocation {
                        self.changes.push(desired);
                    }
                    self.allocation = desired;
                }
            }
        }

        fn allocated(&self) -> u32 {
            self.allocation.millicores()
        }

        /// Used ÷ given, in percent, since the last call.
        fn utilisation(&mut self) -> u64 {
            let percent = self.used_us * 100 / self.given_us.max(1);
            (self.used_us, self.given_us) = (0, 0);
            percent
        }
    }

    #[test]
    fn an_idle_container_sinks_to_its_minimum_and_stays() {
        let mut container = Simulated::new();
        container.run(0, 2_000, |_| 0);
        assert_eq!(container.allocation, limits().min);
        container.changes.clear();
        container.run(2_000, 60_000, |_| 0);
        assert!(container.changes.is_empty());
    }

    #[test]
    fn one_that_works_a_little_keeps_its_floor() {
        let mut container = Simulated::new();
        container.run(0, 60_000, |_| 20);
        assert_eq!(container.allocation, limits().floor());
    }

    #[test]
    fn before_a_task_starts_an_idle_container_has_its_floor_again() {
        let mut container = Simulated::new();
        container.run(0, 5_000, |_| 0);
        let at = container.start + Duration::from_secs(5);
        container.tracking.on_task(at, &limits());
        let asked_at_once = Sample {
            at,
            stat: container.stat,
            allocation: container.allocation,
        };
        assert_eq!(
            container.tracking.on_sample(&asked_at_once, &limits()),
            limits().floor()
        );
        container.run(5_000, 5_900, |_| 0);
        assert_eq!(container.allocation, limits().floor(), "it waits for the task");
        container.run(5_900, 8_000, |_| 0);
        assert_eq!(container.allocation, limits().min, "no task came");
    }

    #[test]
    fn a_step_is_granted_as_it_is_and_not_as_all_there_is() {
        let mut container = Simulated::new();
        container.burns = true;
        let step = |ms| if ms < 10_000 { 1000 } else { 2000 };
        container.run(0, 10_000, step);
        container.run(10_000, 10_500, step);
        let most = container.allocated();
        assert!((2000..2500).contains(&most), "{most}");
    }

    #[test]
    fn threads_that_hide_what_they_want_still_get_it() {
        // The count says that next to nothing was kept from it.
        let mut tracking = Tracking::default();
        let (mut at, mut stat, mut allocation) = (Instant::now(), CpuStat::default(), limits().floor());
        for _ in 0..8 {
            let sample = Sample { at, stat, allocation };
            allocation = tracking.on_sample(&sample, &limits());
            at += Duration::from_millis(LOOK_MS);
            stat.nr_periods += 5;
            stat.nr_throttled += 5;
            let used = allocation.over(Duration::from_millis(LOOK_MS));
            stat.usage.total = stat.usage.total.saturating_add(used);
        }
        assert_eq!(allocation, limits().max);
    }

    #[test]
    fn nine_tenths_of_any_step_are_granted_within_300_ms_wherever_it_falls() {
        for (low, high) in [
            (0, 1000),
            (0, 4000),
            (200, 3000),
            (1000, 2000),
            (1000, 4000),
            (3000, 4000),
        ] {
            for offset in (0..LOOK_MS).step_by(20) {
                let mut container = Simulated::new();
                let step = 10_000 + offset;
                let demand = |ms| if ms < step { low } else { high };
                container.run(0, step, demand);
                assert!(
                    container.allocated()
                        <= with_room(MilliCores::from_millicores(low)).millicores().max(500)
                );
                container.run(step, step + 300, demand);
                let granted = container.allocated();
                assert!(
                    granted * 10 >= high * 9,
                    "{low} to {high} at +{offset} ms: {granted}"
                );
            }
        }
    }

    #[test]
    fn a_step_down_is_followed_and_a_steady_load_neither_starves_nor_wastes() {
        let mut container = Simulated::new();
        for (i, load) in [1000, 3000, 2000, 4000, 1000].into_iter().enumerate() {
            let start = u64::try_from(i).unwrap() * 100_000;
            container.run(start, start + 100_000, |_| load);
            // Of the 100 s, at most a fiftieth came late: a load of `max` can never make up for its first looks.
            assert!(
                container.backlog_us <= u64::from(load) * 2_000,
                "load {load}: {} us",
                container.backlog_us
            );
            let granted = container.allocated();
            assert!(granted <= load * 103 / 100 + 10, "load {load}: {granted}");
        }
        assert!(container.utilisation() >= 95);
    }

    #[test]
    fn a_steady_load_is_left_alone() {
        let mut container = Simulated::new();
        container.run(0, 10_000, |_| 1700);
        container.changes.clear();
        container.run(10_000, 100_000, |_| 1700);
        assert!(container.changes.is_empty(), "{:?}", container.changes);
    }

    #[test]
    fn bursts_keep_the_room_of_their_peaks() {
        for period_ms in [200, 400, 1000] {
            let square = move |ms: u64| if ms % period_ms < period_ms / 2 { 3000 } else { 500 };
            let mut container = Simulated::new();
            container.run(0, 10_000, square);
            container.changes.clear();
            let throttled = container.stat.nr_throttled;
            container.run(10_000, 40_000, square);
            let (periods, throttled) = (30_000 / PERIOD_MS, container.stat.nr_throttled - throttled);
            assert!(
                throttled * 100 <= periods * 5,
                "period {period_ms} ms: throttled in {throttled} of {periods}"
            );
            assert!(
                container.changes.len() <= 60,
                "period {period_ms} ms: {} changes",
                container.changes.len()
            );
        }
    }

    #[test]
    fn a_ramp_is_followed_up_and_down() {
        let ramp = |ms: u64| u32::try_from(if ms < 20_000 { ms / 5 } else { (40_000 - ms) / 5 }).unwrap();
        let mut container = Simulated::new();
        container.run(0, 40_000, ramp);
        assert!(container.allocated() <= limits().floor().millicores());
        assert!(container.utilisation() >= 80);
    }

    #[test]
    fn noise_does_not_make_it_swing() {
        let noise = |ms: u64| 2000 + u32::try_from(ms / PERIOD_MS * 7919 % 200).unwrap();
        let mut container = Simulated::new();
        container.run(0, 10_000, noise);
        container.utilisation();
        container.run(10_000, 60_000, noise);
        assert!(container.utilisation() >= 85);
        assert_eq!(container.backlog_us, 0);
    }

    #[test]
    fn samples_too_close_together_are_answered_from_the_last_look() {
        let mut tracking = Tracking::default();
        let start = Instant::now();
        let mut stat = CpuStat::default();
        let mut at = |ms, throttled| {
            stat.nr_periods += 1;
            stat.nr_throttled += throttled;
            let sample = Sample {
                at: start + Duration::from_millis(ms),
                stat,
                allocation: MilliCores::from_cores(1),
            };
            tracking.on_sample(&sample, &limits())
        };
        let first = at(0, 0);
        for ms in [5, 10, 50, 89] {
            assert_eq!(at(ms, 1), first);
        }
    }
}
