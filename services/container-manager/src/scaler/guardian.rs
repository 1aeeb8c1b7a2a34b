//! The rules of the published prototype.
//!
//! Usage is averaged over windows of 10 s and compared with two lines below the limit in force:
//!
//! ```text
//! limit ─────────────────────────────
//!            boundary                   usage above upper: an up event
//! upper ─────────────────────────────
//!            boundary                   in between: all is well
//! lower ─────────────────────────────
//!                                       0 < usage below lower: a down event
//! ```
//!
//! Two ups with at most two downs among the events of the last 80 s raise the limit; six downs without an up lower it
//! to fit usage. Either way the events have done their work and are forgotten. An idle container is not lowered.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use units::{CpuTime, MilliCores};

use super::events::{Event, Events, Thresholds, check_not_zero};
use super::{CpuLimits, Policy, RuleError, Sample, average};

/// How much a raise gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Raise {
    /// The whole amount.
    Amount,
    /// The part of the amount that usage has used up of the boundary. The published figures were made with this one.
    #[default]
    Proportional,
}

/// The prototype's constants, all adjustable. Its amounts are in shares, 100 a core; ours in millicores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardianRules {
    pub window_ms: u64,
    /// How long an event counts.
    pub event_timeout_ms: u64,
    /// So many ups raise the limit…
    pub raise_ups: u32,
    /// …with no more downs than this.
    pub raise_downs_max: u32,
    /// So many downs lower it…
    pub lower_downs: u32,
    /// …with no more ups than this.
    pub lower_ups_max: u32,
    pub raise: Raise,
    pub raise_millicores: MilliCores,
}

impl Default for GuardianRules {
    fn default() -> Self {
        Self {
            window_ms: 10_000,
            event_timeout_ms: 80_000,
            raise_ups: 2,
            raise_downs_max: 2,
            lower_downs: 6,
            lower_ups_max: 0,
            raise: Raise::Proportional,
            raise_millicores: MilliCores::ONE_CORE,
        }
    }
}

impl GuardianRules {
    pub(super) fn check(&self) -> Result<(), RuleError> {
        check_not_zero(
            "guardian",
            "raise_millicores",
            self.raise_millicores == MilliCores::ZERO,
        )?;
        self.thresholds().check("guardian")
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds {
            window: Duration::from_millis(self.window_ms),
            timeout: Duration::from_millis(self.event_timeout_ms),
            raise_ups: self.raise_ups,
            raise_downs_max: self.raise_downs_max,
            lower_downs: self.lower_downs,
            lower_ups_max: self.lower_ups_max,
        }
    }
}

#[derive(Debug)]
pub(super) struct Guardian {
    rules: GuardianRules,
    window: Option<(Instant, CpuTime)>,
    events: Events,
}

impl Guardian {
    pub(super) fn new(rules: GuardianRules) -> Self {
        Self {
            rules,
            window: None,
            events: Events::default(),
        }
    }

    /// The average usage of a window that ends with this sample.
    fn finished_window(&mut self, sample: &Sample) -> Option<MilliCores> {
        let total = sample.stat.usage.total;
        let (start, before) = *self.window.get_or_insert((sample.at, total));
        let wall = sample.at.saturating_duration_since(start);
        if wall < self.rules.thresholds().window {
            return None;
        }
        self.window = Some((sample.at, total));
        Some(average(total.saturating_sub(before), wall))
    }

    fn raise(&self, usage: MilliCores, lines: &Lines) -> MilliCores {
        let whole = self.rules.raise_millicores;
        match self.rules.raise {
            Raise::Amount => whole,
            Raise::Proportional => {
                let above = u64::from(usage.saturating_sub(lines.upper).millicores());
                let room = u64::from(lines.current.saturating_sub(lines.upper).millicores());
                let part = (u64::from(whole.millicores()) * above.min(room)).checked_div(room);
                part.and_then(|part| u32::try_from(part).ok())
                    .map_or(whole, MilliCores::from_millicores)
            }
        }
    }
}

/// The limit in force and the two lines below it.
struct Lines {
    current: MilliCores,
    upper: MilliCores,
    lower: MilliCores,
}

impl Lines {
    fn below(current: MilliCores, limits: &CpuLimits) -> Self {
        let upper = current.saturating_sub(limits.boundary);
        Self {
            current,
            upper,
            lower: upper.saturating_sub(limits.boundary),
        }
    }

    fn event(&self, usage: MilliCores, limits: &CpuLimits) -> Option<Event> {
        let may_rise = self.upper < limits.max && self.current < limits.max;
        let may_sink = self.lower > limits.min;
        if usage > self.upper && may_rise {
            Some(Event::Up)
        } else if usage > MilliCores::ZERO && usage < self.lower && may_sink {
            Some(Event::Down)
        } else {
            None
        }
    }
}

/// A boundary and a half above usage: the middle between the two lines is then where usage is. Trimmed so that the
/// lower line does not go below `min`.
fn fit(usage: MilliCores, limits: &CpuLimits) -> MilliCores {
    let half = MilliCores::from_millicores(limits.boundary.millicores() / 2);
    usage
        .saturating_add(half)
        .saturating_add(limits.boundary)
        .max(limits.floor())
}

impl Policy for Guardian {
    fn initial(&self, limits: &CpuLimits) -> MilliCores {
        MilliCores::from_millicores(limits.max.millicores() / 2)
    }

    fn on_sample(&mut self, sample: &Sample, limits: &CpuLimits) -> MilliCores {
        let current = sample.allocation;
        let Some(usage) = self.finished_window(sample) else {
            return current;
        };
        let lines = Lines::below(current, limits);
        let event = lines.event(usage, limits);
        match self.events.on_window(sample.at, event, &self.rules.thresholds()) {
            Some(Event::Up) => current.saturating_add(self.raise(usage, &lines)),
            Some(Event::Down) => fit(usage, limits).min(current),
            None => current,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cgroup::CpuStat;

    /// The stress set of the published figures: max 400 shares, boundary 25, min 0.
    fn limits() -> CpuLimits {
        CpuLimits {
            min: MilliCores::ZERO,
            max: MilliCores::from_cores(4),
            boundary: MilliCores::from_millicores(250),
        }
    }

    /// A container whose usage is a function of its limit, sampled once a second. All in the prototype's shares.
    struct Run {
        guardian: Guardian,
        stat: CpuStat,
        at: Instant,
        shares: u32,
    }

    impl Run {
        fn new(rules: GuardianRules, shares: u32) -> Self {
            let mut run = Self {
                guardian: Guardian::new(rules),
                stat: CpuStat::default(),
                at: Instant::now(),
                shares,
            };
            run.second(0);
            run
        }

        fn second(&mut self, used_millicores: u32) -> u32 {
            let used = MilliCores::from_millicores(used_millicores).over(Duration::from_secs(1));
            self.stat.usage.total = self.stat.usage.total.saturating_add(used);
            let allocation = MilliCores::from_millicores(self.shares * 10);
            let desired = self.guardian.on_sample(
                &Sample {
                    at: self.at,
                    stat: self.stat,
                    allocation,
                },
                &limits(),
            );
            self.at += Duration::from_secs(1);
            self.shares = desired.min(limits().max).millicores().div_ceil(10);
            self.shares
        }

        /// Uses what `usage` says of the limit, in shares, until the limit changes. Returns the seconds that took
        /// and the new limit, in shares, rounded up as the published plots seem to be.
        fn until_changed(&mut self, usage: impl Fn(u32) -> u32) -> Option<(u32, u32)> {
            let before = self.shares;
            (1..=600).find_map(|second| {
                let now = self.second(usage(before) * 10);
                (now != before).then_some((second, now))
            })
        }
    }

    /// The figures were made by a container that used one share less than it was given: with all of it, the raises
    /// would be whole hundreds. (200 − 1 − 175) / 25 of 100 shares are 96.
    fn saturated(limit: u32) -> u32 {
        limit - 1
    }

    #[test]
    fn a_saturated_container_goes_from_200_to_296_to_392() {
        let mut run = Run::new(GuardianRules::default(), 200);
        assert_eq!(run.until_changed(saturated), Some((20, 296)));
        assert_eq!(run.until_changed(saturated), Some((20, 392)));
        assert_eq!(run.until_changed(saturated), Some((20, 400)), "capped at max");
        assert_eq!(run.until_changed(saturated), None);
    }

    #[test]
    fn the_published_limits_follow_from_the_usage() {
        for (limit, usage, expected) in [
            // Down to usage + 12.5 + 25, half a share rounded up: 137.5, 237.5, 337.5.
            (200, 100, 138),
            (334, 200, 238),
            (392, 300, 338),
            // Up from there, saturated.
            (138, 137, 234),
            (234, 234, 334),
        ] {
            let changed = Run::new(GuardianRules::default(), limit).until_changed(|_| usage);
            assert_eq!(
                changed.map(|(_, limit)| limit),
                Some(expected),
                "limit {limit}, usage {usage}"
            );
        }
    }

    #[test]
    fn fitting_usage_is_exact_in_millicores() {
        let usage = MilliCores::from_millicores(1000);
        assert_eq!(fit(usage, &limits()).millicores(), 1375);
        // Less than floor would put the lower line below min.
        assert_eq!(fit(MilliCores::from_millicores(10), &limits()).millicores(), 500);
    }

    #[test]
    fn lowering_takes_six_windows_and_raising_two() {
        assert_eq!(
            Run::new(GuardianRules::default(), 200)
                .until_changed(|_| 100)
                .map(|(s, _)| s),
            Some(60)
        );
        assert_eq!(
            Run::new(GuardianRules::default(), 200)
                .until_changed(|_| 199)
                .map(|(s, _)| s),
            Some(20)
        );
    }

    #[test]
    fn the_whole_amount_is_given_by_the_other_policy() {
        let rules = GuardianRules {
            raise: Raise::Amount,
            ..GuardianRules::default()
        };
        assert_eq!(Run::new(rules, 200).until_changed(|_| 180), Some((20, 300)));
        assert_eq!(
            Run::new(GuardianRules::default(), 200).until_changed(|_| 180),
            Some((20, 220))
        );
    }

    #[test]
    fn an_idle_container_and_one_in_between_are_left_alone() {
        for usage in [0, 150, 160, 175] {
            assert_eq!(
                Run::new(GuardianRules::default(), 200).until_changed(|_| usage),
                None,
                "usage {usage}"
            );
        }
    }

    #[test]
    fn one_up_keeps_a_container_from_being_lowered_until_it_expires() {
        let mut run = Run::new(GuardianRules::default(), 200);
        for _ in 0..10 {
            run.second(1990);
        }
        // The up happened at 10 s and counts until 90 s; then the downs, there since long, act.
        assert_eq!(run.until_changed(|_| 100), Some((90, 138)));
    }

    proptest! {
        #[test]
        fn no_usage_leads_out_of_the_limits(usages in proptest::collection::vec(0_u32..5000, 1..400)) {
            let mut run = Run::new(GuardianRules::default(), 200);
            for usage in usages {
                let limit = run.shares * 10;
                let shares = run.second(usage.min(limit));
                prop_assert!(shares <= 400);
                prop_assert!(shares * 10 >= limits().floor().millicores());
            }
        }
    }
}
