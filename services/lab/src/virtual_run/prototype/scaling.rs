//! From points of a time series to a limit: guardian, scaler and what is between them.

use std::time::Duration;

use container_manager::cgroup::{Burst, CpuStat, CpuUsage};
use container_manager::scaler::Sample;
use units::{CpuTime, MilliCores};

use super::Platform;
use super::delays::{GUARDIAN_US, QUOTA_LOSS, WINDOW_DELAY_US, WINDOW_US};

impl Platform<'_> {
    /// A point of the time series that everybody else reads.
    pub(super) fn collect(&mut self, now: u64) {
        if let Some(container) = &self.container {
            let used = container.cpu.used();
            let usage = used.saturating_sub(std::mem::replace(&mut self.counted, used));
            let usage = MilliCores::that_delivers(usage, Duration::from_secs(1));
            self.points.push_back((now, usage));
        }
        let oldest = now.saturating_sub(2 * (WINDOW_US + WINDOW_DELAY_US));
        while self.points.pop_front_if(|(at, _)| *at < oldest).is_some() {}
    }

    /// The average over a window that ended a delay ago, of those points that there are.
    pub(super) fn window(&self, now: u64) -> Option<MilliCores> {
        let end = now.checked_sub(WINDOW_DELAY_US)?;
        let inside = |at: u64| at <= end && at + WINDOW_US > end;
        let points: Vec<u32> = self
            .points
            .iter()
            .filter(|(at, _)| inside(*at))
            .map(|(_, usage)| usage.millicores())
            .collect();
        let count = u32::try_from(points.len()).ok()?;
        let mean = points.iter().sum::<u32>().checked_div(count)?;
        Some(MilliCores::from_millicores(mean))
    }

    pub(super) fn guard(&mut self, now: u64) {
        let usage = self.window(now);
        let Some(container) = self.container.as_mut().filter(|container| container.guarded) else {
            return;
        };
        let Some(usage) = usage else { return };
        let known = container.known;
        let mut look = |at: u64, told: CpuTime| {
            let total = CpuUsage {
                total: told,
                ..CpuUsage::default()
            };
            let stat = CpuStat {
                usage: total,
                ..CpuStat::default()
            };
            container.scaler.on_sample(&Sample {
                at: self.began + Duration::from_micros(at),
                stat,
                allocation: known,
            })
        };
        let before = now.saturating_sub(GUARDIAN_US);
        if container.guarded_at.is_none_or(|at| at < before) {
            look(before, container.told);
        }
        container.told = container
            .told
            .saturating_add(usage.over(Duration::from_micros(now - before)));
        let desired = look(now, container.told);
        container.guarded_at = Some(now);
        if desired != known {
            self.request = Some(difference(known, desired));
        }
    }

    /// Carries out the newest request, unless it would lead out of the limits.
    pub(super) fn rescale(&mut self) {
        let Some(amount) = self.request.take() else { return };
        let Some(container) = &mut self.container else {
            return;
        };
        let wanted = i64::from(container.limit.millicores()) + amount;
        let limits = self.function.limits;
        let Ok(wanted) = u32::try_from(wanted).map(MilliCores::from_millicores) else {
            return;
        };
        if wanted >= limits.min && wanted <= limits.max {
            container.limit = wanted;
            container
                .cpu
                .set_quota(wanted.saturating_sub(QUOTA_LOSS), Burst::None);
        }
    }
}

/// What to ask the scaler for.
pub(super) fn difference(from: MilliCores, to: MilliCores) -> i64 {
    i64::from(to.millicores()) - i64::from(from.millicores())
}
