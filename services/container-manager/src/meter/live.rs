//! One container and its tasks, as the meter last saw them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use service_kit::Chain;
use service_kit::metrics::Parts;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use units::{Billing, CpuTime, Grant, MilliCores, Restriction, SessionId};

use super::memory::LiveMemory;
use super::{ContainerInfo, Signal};
use crate::cgroup::{CgroupError, ContainerGroup, CpuStat, TaskGroup, Weight};
use crate::credit::SessionState;
use crate::metrics::METRICS;
use crate::recording::Record;
use crate::restriction;
use crate::scaler::{MemoryRules, Sample, Scaler, ScalerConfig, Wishes};

/// What is shown as a container's use is averaged over this long.
const USED_OVER: Duration = Duration::from_secs(1);

pub(super) struct LiveContainer {
    pub(super) info: ContainerInfo,
    pub(super) group: Arc<dyn ContainerGroup>,
    wishes: Wishes,
    pub(super) scaler: Scaler,
    pub(super) allocation: MilliCores,
    pub(super) restriction: Restriction,
    /// The average over the last whole [`USED_OVER`].
    pub(super) used: MilliCores,
    pub(super) used_since: Option<(Instant, CpuTime)>,
    pub(super) read_at: Option<Instant>,
    pub(super) tasks: BTreeMap<SessionId, LiveTask>,
    pub(super) memory: Option<LiveMemory>,
    /// As last read.
    pub(super) stat: CpuStat,
}

pub(super) struct LiveTask {
    pub(super) group: Arc<dyn TaskGroup>,
    pub(super) billing: Billing,
    pub(super) cap_at: Option<CpuTime>,
    pub(super) state: SessionState,
    /// The most that a crash of the manager would bring back.
    pub(super) booked: Grant,
    /// CPU time used, by the last reading.
    pub(super) used: CpuTime,
    /// Millicores × microseconds since the session began, for `current` billing.
    pub(super) reserved: u128,
    /// When another node may have the task, unless credit-manager is told of it before.
    pub(super) void_at: Instant,
    pub(super) signal: watch::Sender<Signal>,
}

impl LiveTask {
    /// What credit-manager is told.
    pub(super) fn billed(&self) -> CpuTime {
        match self.billing {
            Billing::Used => self.used,
            Billing::Current => CpuTime::from_micros(u64::try_from(self.reserved / 1000).unwrap_or(u64::MAX)),
        }
    }
}

impl LiveContainer {
    pub(super) fn new(
        info: ContainerInfo,
        group: Arc<dyn ContainerGroup>,
        wishes: Wishes,
        rules: &ScalerConfig,
    ) -> Self {
        Self {
            info,
            group,
            wishes,
            scaler: rules.scaler(&wishes),
            allocation: MilliCores::ZERO,
            restriction: Restriction::None,
            used: MilliCores::ZERO,
            used_since: None,
            read_at: None,
            tasks: BTreeMap::new(),
            memory: None,
            stat: CpuStat::default(),
        }
    }

    /// Goes on by other rules; what they leave as it is remembers what it saw.
    pub(super) fn rescale(&mut self, rules: &ScalerConfig) {
        let scaler = rules.scaler(&self.wishes);
        if scaler.config() != self.scaler.config() {
            self.scaler = scaler;
        }
    }

    /// What the recording says of its beginning.
    pub(super) fn started(&self) -> Record {
        let limits = self.scaler.limits();
        Record::ContainerStarted {
            container: self.group.id(),
            function: self.info.function.clone(),
            user: self.info.user.clone(),
            policy: self.scaler.policy().to_string(),
            min_millicores: limits.min,
            max_millicores: limits.max,
            boundary_millicores: limits.boundary,
        }
    }

    /// What the recording says of it now.
    pub(super) fn sample(&self) -> Record {
        Record::sample(self.group.id(), &self.stat, self.allocation, self.restriction)
    }

    pub(super) fn read(&mut self, now: Instant) -> Result<(), CgroupError> {
        for task in self.tasks.values_mut() {
            task.used = task.used.max(task.group.cpu_time()?);
        }
        if let Some(before) = self.read_at.replace(now) {
            let share = u128::try_from(self.tasks.len()).unwrap_or(1).max(1);
            let reserved = u128::from(self.allocation.millicores()) * (now - before).as_micros() / share;
            for task in self.tasks.values_mut() {
                task.reserved += reserved;
            }
        }
        let total = self.group.cpu_total()?;
        let (since, before) = *self.used_since.get_or_insert((now, total));
        if now - since >= USED_OVER {
            self.used = MilliCores::that_delivers(total.saturating_sub(before), now - since);
            self.used_since = Some((now, total));
        }
        Ok(())
    }

    /// Takes in a new reading, for the metrics as well.
    pub(super) fn count(&mut self, stat: CpuStat) {
        let before = std::mem::replace(&mut self.stat, stat);
        for (metric, before, now) in [
            (&METRICS.cpu, before.usage.total, stat.usage.total),
            (&METRICS.throttled, before.throttled(), stat.throttled()),
        ] {
            metric.inc_by(Parts::new(now.saturating_sub(before).micros()));
        }
    }

    /// Tells every task what it may do. Returns whether a restriction changed.
    pub(super) fn enforce(&mut self, now: Instant) -> bool {
        let mut hardest = Restriction::None;
        for (session, task) in &mut self.tasks {
            let restriction = restriction::effective(&task.state, task.billed());
            hardest = hardest.max(restriction);
            let signal = if now >= task.void_at {
                Signal::Lost
            } else if task.cap_at.is_some_and(|cap| task.billed() >= cap) {
                Signal::CapSpent
            } else if task.state.dismissed {
                Signal::Dismissed
            } else if restriction == Restriction::Stop {
                Signal::Freeze
            } else {
                Signal::Run
            };
            task.signal.send_if_modified(|told| {
                let news = !told.is_final() && *told != signal;
                if news {
                    *told = signal;
                }
                if news && signal == Signal::Lost {
                    warn!(%session, "credit-manager was told nothing of the session for too long, its task is stopped");
                }
                news
            });
        }
        let changed = hardest != self.restriction;
        if changed {
            info!(container_id = %self.group.id(), from = %self.restriction, to = %hardest, "restriction");
            self.restriction = hardest;
            self.weigh();
            if let Err(err) = self.group.set_quota(self.allocation, restriction::burst(hardest)) {
                warn!(error = %Chain(&err), "burst not changed");
            }
        }
        changed
    }

    /// Caps it, and gives it as much weight, so that what is short between two looks is shared in the same proportions.
    pub(super) fn allocate(&mut self, to: MilliCores) -> Result<(), CgroupError> {
        self.group.set_quota(to, restriction::burst(self.restriction))?;
        debug!(container_id = %self.group.id(), from = %self.allocation, %to, "allocation");
        self.allocation = to;
        if self.restriction == Restriction::None {
            self.weigh();
        }
        Ok(())
    }

    fn weigh(&self) {
        let weight = match self.restriction {
            Restriction::None => Weight::Of(self.allocation),
            Restriction::Throttle | Restriction::Stop => Weight::Lowest,
        };
        if let Err(err) = self.group.set_weight(weight) {
            warn!(error = %Chain(&err), "weight not changed");
        }
    }

    pub(super) fn scale_memory(&mut self, now: Instant, rules: &MemoryRules) {
        if let Some(memory) = &mut self.memory
            && let Err(err) = memory.look(self.group.as_ref(), now, rules)
        {
            warn!(container_id = %self.group.id(), error = %Chain(&err), "memory not scaled");
        }
    }

    /// Each task's part of the allocation.
    pub(super) fn allocation_each(&self) -> MilliCores {
        let tasks = u32::try_from(self.tasks.len()).unwrap_or(u32::MAX).max(1);
        MilliCores::from_millicores(self.allocation.millicores() / tasks)
    }

    /// What spending limits leave to its tasks together; `None` where none covers them.
    fn ceiling(&self) -> Option<MilliCores> {
        let ceilings = self.tasks.values().map(|task| task.state.ceiling);
        ceilings
            .sum::<Option<MilliCores>>()
            .filter(|_| !self.tasks.is_empty())
    }

    pub(super) fn until_next_mark(&self) -> Option<Duration> {
        let of = |task: &LiveTask| {
            restriction::until_next_mark(&task.state, task.cap_at, task.billed(), self.allocation)
        };
        let until = self.tasks.values().filter_map(of).min()?;
        Some(until.saturating_sub(restriction::burst(self.restriction).head_start()))
    }

    pub(super) fn desired(&mut self, now: Instant) -> MilliCores {
        let desired = match self.group.cpu_stat() {
            Ok(stat) => {
                self.count(stat);
                self.scaler.on_sample(&Sample {
                    at: now,
                    stat,
                    allocation: self.allocation,
                })
            }
            Err(_) => self.allocation,
        };
        let desired = self.ceiling().map_or(desired, |ceiling| desired.min(ceiling));
        match self.restriction {
            Restriction::None => desired,
            Restriction::Throttle | Restriction::Stop => {
                let landing = |task: &LiveTask| restriction::landing(&task.state, task.cap_at, task.billed());
                let landing = self.tasks.values().filter_map(landing).min();
                desired
                    .min(self.scaler.limits().floor())
                    .min(landing.unwrap_or(desired))
            }
        }
    }
}
