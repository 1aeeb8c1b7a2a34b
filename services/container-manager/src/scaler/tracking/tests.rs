use super::*;
use units::CpuTime;

const PERIOD_MS: u64 = 20;
const LOOK_MS: u64 = 25;
/// In such steps the counter of CPU time moves.
const STEP_MS: u64 = 8;

fn limits() -> CpuLimits {
    CpuLimits {
        min: MilliCores::ZERO,
        max: MilliCores::from_cores(4),
        boundary: MilliCores::from_millicores(250),
    }
}

/// A container that uses what it wants or what it may, whichever is less, a millisecond at a time.
struct Simulated {
    tracking: Tracking,
    start: Instant,
    stat: CpuStat,
    allocation: MilliCores,
    /// What it may use before the next period.
    budget_us: u64,
    used_us: u64,
    given_us: u64,
    /// Work put off by throttling, done before anything new.
    backlog_us: u64,
    /// What it could not do is not put off, as with a process that only burns time.
    burns: bool,
    waits: bool,
    changes: Vec<MilliCores>,
}

impl Simulated {
    fn new() -> Self {
        let mut simulated = Self {
            tracking: Tracking::default(),
            start: Instant::now(),
            stat: CpuStat::default(),
            allocation: limits().max,
            budget_us: 0,
            used_us: 0,
            given_us: 0,
            backlog_us: 0,
            burns: false,
            waits: false,
            changes: Vec::new(),
        };
        simulated.look(0);
        simulated.refill();
        simulated
    }

    /// What a period gives, and at most as much that was saved.
    fn refill(&mut self) {
        let quota = self.allocation.over(Duration::from_millis(PERIOD_MS)).micros();
        self.budget_us = (self.budget_us + quota).min(2 * quota);
    }

    fn look(&mut self, ms: u64) {
        let sample = Sample {
            at: self.start + Duration::from_millis(ms),
            stat: self.stat,
            allocation: self.allocation,
        };
        let desired = self.tracking.on_sample(&sample, &limits());
        if desired != self.allocation {
            self.changes.push(desired);
            self.allocation = desired;
            self.refill();
        }
    }

    /// Runs from one millisecond to another; `demand` is in millicores at a millisecond.
    fn run(&mut self, from_ms: u64, to_ms: u64, demand: impl Fn(u64) -> u32) {
        for ms in from_ms..to_ms {
            let wanted = u64::from(demand(ms)) + self.backlog_us;
            let could = wanted.min(limits().max.millicores().into());
            let used = could.min(self.budget_us);
            self.budget_us -= used;
            self.backlog_us = if self.burns { 0 } else { wanted - used };
            self.used_us += used;
            self.given_us += u64::from(self.allocation.millicores());
            self.stat.throttled_time += Duration::from_micros(could - used);
            self.waits = used < could;
            let end_ms = ms + 1;
            if self.waits || wanted == 0 || end_ms.is_multiple_of(STEP_MS) {
                self.stat.usage.total = CpuTime::from_micros(self.used_us);
            }
            if end_ms.is_multiple_of(PERIOD_MS) {
                self.stat.nr_periods += u64::from(wanted > 0);
                self.stat.nr_throttled += u64::from(self.waits);
                self.refill();
            }
            if end_ms.is_multiple_of(LOOK_MS) {
                self.look(end_ms);
            }
        }
    }

    fn allocated(&self) -> u32 {
        self.allocation.millicores()
    }
}

/// What a container comes to under a load in a minute, once it has settled.
#[derive(Debug)]
struct Outcome {
    /// Used ÷ given.
    utilisation_percent: u64,
    /// What was kept from it ÷ what it used.
    kept_percent: u64,
    changes: usize,
}

fn outcome(demand: impl Fn(u64) -> u32) -> Outcome {
    let mut container = Simulated::new();
    container.run(0, 6_000, &demand);
    let (used, given, throttled) = (container.used_us, container.given_us, container.stat.throttled());
    container.changes.clear();
    container.run(6_000, 66_000, &demand);
    let used = container.used_us - used;
    let kept = container.stat.throttled().saturating_sub(throttled).micros();
    Outcome {
        utilisation_percent: used * 100 / (container.given_us - given),
        kept_percent: kept * 100 / used,
        changes: container.changes.len(),
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
    assert!((1950..2500).contains(&most), "{most}");
}

#[test]
fn threads_that_hide_what_they_want_still_get_it() {
    // The count says that next to nothing was kept from it.
    let mut tracking = Tracking::default();
    let (mut at, mut stat, mut allocation) = (Instant::now(), CpuStat::default(), limits().floor());
    for _ in 0..14 {
        let sample = Sample { at, stat, allocation };
        allocation = tracking.on_sample(&sample, &limits());
        at += Duration::from_millis(LOOK_MS);
        stat.nr_periods += 1;
        stat.nr_throttled += 1;
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
        for offset in (0..LOOK_MS).step_by(5) {
            let mut container = Simulated::new();
            let step = 10_000 + offset;
            let demand = |ms| if ms < step { low } else { high };
            container.run(0, step, demand);
            assert!(container.allocated() <= (low * 105 / 100 + 20).max(500));
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
        assert!(granted <= load * 105 / 100 + 20, "load {load}: {granted}");
    }
    assert!(container.used_us * 100 >= container.given_us * 95);
}

#[test]
fn a_steady_load_is_left_alone_though_its_counter_moves_in_steps() {
    let Outcome {
        utilisation_percent,
        kept_percent,
        changes,
    } = outcome(|_| 1700);
    assert!(utilisation_percent >= 95, "{utilisation_percent} %");
    assert_eq!((kept_percent, changes), (0, 0));
}

/// Three cores and half a core by turns.
fn square(period_ms: u64) -> Outcome {
    outcome(|ms| if ms % period_ms < period_ms / 2 { 3000 } else { 500 })
}

#[test]
fn what_comes_and_goes_between_two_looks_is_evened_out() {
    for period_ms in [2, 10, 20, 40, 60, 100] {
        let found = square(period_ms);
        assert!(found.utilisation_percent >= 95, "{period_ms} ms: {found:?}");
        assert_eq!(found.kept_percent, 0, "{period_ms} ms: {found:?}");
    }
}

#[test]
fn slower_bursts_are_followed_and_the_slower_the_better() {
    // What changes as fast as the shortest average does it worst.
    for (period_ms, utilisation_min, kept_max) in [
        (200, 70, 15),
        (400, 80, 10),
        (1000, 90, 4),
        (4000, 95, 1),
        (10_000, 95, 1),
    ] {
        let found = square(period_ms);
        assert!(
            found.utilisation_percent >= utilisation_min,
            "{period_ms} ms: {found:?}"
        );
        assert!(found.kept_percent <= kept_max, "{period_ms} ms: {found:?}");
    }
}

#[test]
fn a_ramp_is_followed_up_and_down() {
    let found = outcome(|ms| {
        let ms = ms % 40_000;
        u32::try_from(if ms < 20_000 { ms / 5 } else { (40_000 - ms) / 5 }).unwrap()
    });
    assert!(found.utilisation_percent >= 95, "{found:?}");
    assert_eq!(found.kept_percent, 0, "{found:?}");
}

#[test]
fn noise_within_a_tenth_does_not_move_it() {
    let found = outcome(|ms| 2000 + u32::try_from(ms / PERIOD_MS * 7919 % 200).unwrap());
    assert!(found.utilisation_percent >= 95, "{found:?}");
    assert_eq!((found.kept_percent, found.changes), (0, 0), "{found:?}");
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
    for ms in [5, 10, 15, 19] {
        assert_eq!(at(ms, 1), first);
    }
}
