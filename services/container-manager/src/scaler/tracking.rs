//! Our own policy: follow demand.
//!
//! The kernel counts for how long each CPU was kept from a container that wanted to run on it. That and what the container
//! used add up to its demand. At each look its limit becomes its average demand since that last changed, over a tenth of a
//! second at least and a whole one at most, and a fiftieth more. If its quota has run out since the last look, it gets at
//! least a quarter more than it has, as threads that wait for each other hide a part of what they want. What comes and goes
//! between two looks the kernel evens out ([`Burst`](crate::cgroup::Burst)). A container that works keeps its floor, half a
//! core; one that was idle for a second sinks to its minimum, and is given its floor again before the next task starts in
//! it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use units::MilliCores;

use super::{CpuLimits, Policy, Sample, average};
use crate::cgroup::CpuStat;

/// Looks come no closer than this; a caller that samples more often is answered from the last look. It is
/// the period of the quota.
const LOOK_MIN: Duration = Duration::from_millis(20);
/// The shortest average: the kernel's counter moves in steps of up to 8 ms, less than a tenth of this.
const AVERAGE_MIN: Duration = Duration::from_millis(100);
/// The longest, in which those steps do not show any more.
const AVERAGE_MAX: Duration = Duration::from_secs(1);
/// A demand has changed when it differs by more than this part, and [`ROOM_LEAST`].
const CHANGE_PART: u32 = 10;
/// Room above demand: a fiftieth, and for a small one a hundredth of a core. A container that uses all it wants stays
/// clear of its quota.
const ROOM_PART: u32 = 50;
const ROOM_LEAST: MilliCores = MilliCores::from_millicores(10);
/// A container that is short gets at least this part more.
const RELIEF_PART: u32 = 4;
/// A container that wants less, which is what its resident runner may need, is idle.
const IDLE: MilliCores = MilliCores::from_millicores(5);

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    stat: CpuStat,
}

impl Look {
    /// What would have been used since `before` without a limit.
    fn demand_since(&self, before: &Self) -> MilliCores {
        let used = self.stat.usage.total.saturating_sub(before.stat.usage.total);
        let kept_from = self.stat.throttled().saturating_sub(before.stat.throttled());
        average(used.saturating_add(kept_from), self.at - before.at)
    }
}

#[derive(Debug, Default)]
pub(super) struct Tracking {
    /// Since demand last changed, and not much longer than [`AVERAGE_MAX`]; oldest first.
    looks: VecDeque<Look>,
    desired: MilliCores,
    /// When a task was last about to start.
    task_at: Option<Instant>,
}

impl Tracking {
    /// Remembers a look, and forgets those that tell nothing of the present demand.
    fn remember(&mut self, look: Look) {
        self.looks.push_back(look);
        self.forget_beyond(AVERAGE_MAX);
        let (recent, whole) = (self.demand(AVERAGE_MIN), self.demand(AVERAGE_MAX));
        let slack = part(whole, CHANGE_PART).saturating_add(ROOM_LEAST);
        if recent.max(whole).saturating_sub(recent.min(whole)) > slack {
            self.forget_beyond(AVERAGE_MIN);
        }
    }

    /// The looks of so long stay, and one for the average to begin with.
    fn forget_beyond(&mut self, long: Duration) {
        while self.age(1).is_some_and(|age| age >= long) {
            self.looks.pop_front();
        }
    }

    /// How long before the last look the one with this number was.
    fn age(&self, number: usize) -> Option<Duration> {
        let (look, last) = (self.looks.get(number)?, self.looks.back()?);
        Some(last.at - look.at)
    }

    /// The average over the last `long`, or over as much as is remembered.
    fn demand(&self, long: Duration) -> MilliCores {
        let Some(last) = self.looks.back() else {
            return MilliCores::ZERO;
        };
        let is_within = |look: &&Look| last.at - look.at < long;
        let newer = self.looks.iter().rev().take_while(is_within).count();
        let first = self.looks.iter().rev().nth(newer).or(self.looks.front());
        first.map_or(MilliCores::ZERO, |first| last.demand_since(first))
    }

    /// Whether nothing was wanted for the longest time that is remembered, and no task is about to start.
    fn is_idle(&self, at: Instant) -> bool {
        let expects = self.task_at.is_some_and(|task_at| at - task_at < AVERAGE_MAX);
        let is_known = self.age(0).is_some_and(|age| age >= AVERAGE_MAX);
        is_known && !expects && self.demand(AVERAGE_MAX) < IDLE
    }
}

fn part(of: MilliCores, divisor: u32) -> MilliCores {
    MilliCores::from_millicores(of.millicores() / divisor)
}

fn with_room(demand: MilliCores) -> MilliCores {
    demand
        .saturating_add(part(demand, ROOM_PART))
        .saturating_add(ROOM_LEAST)
}

impl Policy for Tracking {
    fn initial(&self, limits: &CpuLimits) -> MilliCores {
        limits.max
    }

    fn on_sample(&mut self, sample: &Sample, limits: &CpuLimits) -> MilliCores {
        let look = Look {
            at: sample.at,
            stat: sample.stat,
        };
        let Some(last) = self.looks.back().copied() else {
            self.desired = sample.allocation;
            self.looks.push_back(look);
            return self.desired;
        };
        if look.at - last.at < LOOK_MIN {
            return self.desired;
        }
        let is_short = look.stat.nr_throttled > last.stat.nr_throttled;
        self.remember(look);

        let demand = self.demand(AVERAGE_MAX);
        let target = with_room(demand).max(limits.floor());
        let desired = if is_short {
            let more = sample
                .allocation
                .saturating_add(part(sample.allocation, RELIEF_PART));
            target.max(with_room(look.demand_since(&last))).max(more)
        } else if self.is_idle(look.at) {
            limits.min
        } else if demand <= self.desired && self.desired <= with_room(target) {
            // Each change costs the kernel some work, and gives the container a fresh quota.
            self.desired
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
mod tests;
