//! A container and its attempts in a virtual run, as `container_manager::meter` sees them.

use container_manager::credit::SessionState;
use container_manager::restriction;
use container_manager::scaler::{Sample, Scaler};
use tokio::time::Instant;
use units::{Billing, ContainerId, CpuTime, MilliCores, Restriction};

use super::kernel::{Cpu, Work, micros};
use crate::scenario::{Drop, Function};

/// From a task that waits to a container that can take it: measured, 68 to 89 ms.
const CONTAINER_START_US: u64 = 80_000;

/// A task file that waits.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) drop: Drop,
    pub(super) attempts: u32,
}

pub(super) struct Attempt {
    pub(super) task: Pending,
    pub(super) state: SessionState,
    pub(super) work: Work,
    pub(super) billing: Billing,
    /// Millicores × microseconds, for `current` billing.
    pub(super) reserved: u64,
    pub(super) frozen_at: Option<u64>,
}

impl Attempt {
    pub(super) fn billed(&self) -> CpuTime {
        match self.billing {
            Billing::Used => self.work.used(),
            Billing::Current => CpuTime::from_micros(self.reserved / 1000),
        }
    }

    fn restriction(&self) -> Restriction {
        restriction::effective(&self.state, self.billed())
    }
}

pub(super) struct Container {
    pub(super) id: ContainerId,
    pub(super) ready_at: u64,
    pub(super) cpu: Cpu,
    pub(super) scaler: Scaler,
    pub(super) allocation: MilliCores,
    pub(super) restriction: Restriction,
    pub(super) read_at: u64,
    pub(super) attempts: Vec<Attempt>,
    /// Nothing begins before.
    pub(super) free_at: u64,
    pub(super) idle_since: u64,
}

impl Container {
    pub(super) fn new(function: &Function, id: ContainerId, now: u64) -> Self {
        let ready_at = now + CONTAINER_START_US;
        Self {
            id,
            ready_at,
            cpu: Cpu::new(ready_at, function.limits.max),
            scaler: Scaler::new(&function.scaler, function.limits),
            allocation: MilliCores::ZERO,
            restriction: Restriction::None,
            read_at: ready_at,
            attempts: Vec::new(),
            free_at: ready_at,
            idle_since: ready_at,
        }
    }

    /// Counts what is reserved; enforces every grant. Says whether that changed anything.
    pub(super) fn look(&mut self, now: u64) -> bool {
        let share = u64::try_from(self.attempts.len()).unwrap_or(1).max(1);
        let reserved = u64::from(self.allocation.millicores()) * (now - self.read_at) / share;
        self.read_at = now;
        let mut hardest = Restriction::None;
        for attempt in &mut self.attempts {
            attempt.reserved += reserved;
            let restriction = attempt.restriction();
            hardest = hardest.max(restriction);
            let freeze = restriction == Restriction::Stop;
            attempt.work.freeze(freeze);
            attempt.frozen_at = freeze.then(|| attempt.frozen_at.unwrap_or(now));
        }
        let changed = std::mem::replace(&mut self.restriction, hardest) != hardest;
        if changed {
            self.allocate(self.allocation);
        }
        changed
    }

    pub(super) fn until_next_mark(&self) -> Option<u64> {
        let until = |attempt: &Attempt| {
            restriction::until_next_mark(&attempt.state, None, attempt.billed(), self.allocation)
        };
        let until = self.attempts.iter().filter_map(until).min()?;
        let head_start = restriction::burst(self.restriction).head_start();
        Some(micros(until.saturating_sub(head_start)))
    }

    pub(super) fn allocate(&mut self, to: MilliCores) {
        self.allocation = to;
        self.cpu.set_quota(to, restriction::burst(self.restriction));
    }

    pub(super) fn desired(&mut self, at: Instant) -> MilliCores {
        let desired = self.scaler.on_sample(&Sample {
            at,
            stat: self.cpu.stat(),
            allocation: self.allocation,
        });
        match self.restriction {
            Restriction::None => desired,
            Restriction::Throttle | Restriction::Stop => {
                let landing =
                    |attempt: &Attempt| restriction::landing(&attempt.state, None, attempt.billed());
                let landing = self.attempts.iter().filter_map(landing).min();
                desired
                    .min(self.scaler.limits().floor())
                    .min(landing.unwrap_or(desired))
            }
        }
    }
}
