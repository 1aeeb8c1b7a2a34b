//! How much memory a container may have, by the rules of the published prototype. Pure; all amounts in MiB.
//!
//! As with [`guardian`](super::GuardianRules) there are two lines below the limit, a boundary apart, and windows in which usage is
//! above the upper or below the lower one are events. Two ups with at most six downs give a fixed amount more; eight downs
//! without an up lower the limit to usage and a boundary and a half. Usage is what the kernel cannot take back.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::RuleError;
use super::events::{Event, Events, Thresholds, check_not_zero};

/// The prototype's constants; its boundary is set for each container, so the default is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryRules {
    /// Off: every container has what its function asks for.
    pub scale: bool,
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
    pub raise_mib: u64,
    pub boundary_mib: u64,
}

impl Default for MemoryRules {
    fn default() -> Self {
        Self {
            scale: false,
            window_ms: 10_000,
            event_timeout_ms: 80_000,
            raise_ups: 2,
            raise_downs_max: 6,
            lower_downs: 8,
            lower_ups_max: 0,
            raise_mib: 256,
            boundary_mib: 64,
        }
    }
}

impl MemoryRules {
    pub(super) fn check(&self) -> Result<(), RuleError> {
        check_not_zero("memory", "raise_mib", self.raise_mib == 0)?;
        check_not_zero("memory", "boundary_mib", self.boundary_mib == 0)?;
        self.thresholds().check("memory")
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

/// The memory scaler of one container.
#[derive(Debug)]
pub struct MemoryScaler {
    /// What the function asks for.
    max: u64,
    window_from: Option<Instant>,
    events: Events,
}

impl MemoryScaler {
    pub fn new(max: u64) -> Self {
        Self {
            max,
            window_from: None,
            events: Events::default(),
        }
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    /// Whether a window has ended, and with it usage has to be looked at.
    pub fn is_due(&mut self, at: Instant, rules: &MemoryRules) -> bool {
        let from = *self.window_from.get_or_insert(at);
        let is_due = at.saturating_duration_since(from) >= rules.thresholds().window;
        if is_due {
            self.window_from = Some(at);
        }
        is_due
    }

    /// What the container should have after a window at whose end it used so much of its limit.
    pub fn on_window(&mut self, at: Instant, used: u64, limit: u64, rules: &MemoryRules) -> u64 {
        let upper = limit.saturating_sub(rules.boundary_mib);
        let lower = upper.saturating_sub(rules.boundary_mib);
        let event = if used > upper && limit < self.max {
            Some(Event::Up)
        } else if used > 0 && used < lower {
            Some(Event::Down)
        } else {
            None
        };
        match self.events.on_window(at, event, &rules.thresholds()) {
            Some(Event::Up) => limit.saturating_add(rules.raise_mib).min(self.max),
            Some(Event::Down) => used
                .saturating_add(rules.boundary_mib / 2)
                .saturating_add(rules.boundary_mib)
                .min(limit),
            None => limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at the end of each window while so much is used; when the limit changed, and to what.
    fn until_changed(max: u64, limit: u64, used: &[u64]) -> Option<(usize, u64)> {
        let rules = MemoryRules::default();
        let (mut scaler, mut at) = (MemoryScaler::new(max), Instant::now());
        assert!(!scaler.is_due(at, &rules), "the first window begins");
        for (window, used) in (1..=30).zip(used.iter().cycle()) {
            at += rules.thresholds().window - Duration::from_millis(1);
            assert!(!scaler.is_due(at, &rules));
            at += Duration::from_millis(1);
            assert!(scaler.is_due(at, &rules));
            let now = scaler.on_window(at, *used, limit, &rules);
            if now != limit {
                return Some((window, now));
            }
        }
        None
    }

    #[test]
    fn two_windows_above_the_upper_line_raise_and_eight_below_the_lower_fit_to_usage() {
        for (max, limit, used, expected) in [
            // Lines at 448 and 384 of 512.
            (1024, 512, &[449][..], Some((2, 768))),
            (1024, 512, &[448], None),
            (1024, 512, &[384], None),
            (1024, 512, &[383], Some((8, 383 + 96))),
            (1024, 512, &[100], Some((8, 196))),
            // No further than what was asked for, and not beyond.
            (600, 512, &[500], Some((2, 600))),
            (512, 512, &[512], None),
            // Nothing used is no event, as with the CPU.
            (1024, 512, &[0], None),
            // Ups between downs: six downs are no reason against a raise, and one up is one against sinking.
            (1024, 512, &[100, 100, 449, 100, 100, 449], Some((6, 768))),
        ] {
            assert_eq!(
                until_changed(max, limit, used),
                expected,
                "{used:?} of {limit}, max {max}"
            );
        }
    }

    #[test]
    fn rules_that_never_act_are_refused() {
        for (rules, named) in [
            (
                MemoryRules {
                    window_ms: 0,
                    ..MemoryRules::default()
                },
                "`memory.window_ms`",
            ),
            (
                MemoryRules {
                    boundary_mib: 0,
                    ..MemoryRules::default()
                },
                "`memory.boundary_mib`",
            ),
            (
                MemoryRules {
                    event_timeout_ms: 60_000,
                    ..MemoryRules::default()
                },
                "8 events take 70000 ms",
            ),
        ] {
            let err = rules.check().unwrap_err().to_string();
            assert!(err.contains(named), "{err}");
        }
        assert_eq!(MemoryRules::default().check(), Ok(()));
    }
}
