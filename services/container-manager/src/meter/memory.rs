//! A container's memory limit, which follows what it uses if the rules say so.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::info;

use crate::cgroup::{CgroupError, ContainerGroup};
use crate::memory::MemoryLease;
use crate::scaler::{MemoryRules, MemoryScaler};

const MIB_BITS: u32 = 20;

pub(super) struct LiveMemory {
    /// As much as the kernel allows, or more while that changes.
    reservation: Arc<MemoryLease>,
    scaler: MemoryScaler,
}

impl LiveMemory {
    pub(super) fn new(reservation: Arc<MemoryLease>) -> Self {
        Self {
            scaler: MemoryScaler::new(reservation.mib()),
            reservation,
        }
    }

    /// Gives the container what it should have. A raise for which the node has no memory waits.
    pub(super) fn look(
        &mut self,
        group: &dyn ContainerGroup,
        now: Instant,
        rules: &MemoryRules,
    ) -> Result<(), CgroupError> {
        let limit = self.reservation.mib();
        let desired = if !rules.scale {
            self.scaler.max()
        } else if self.scaler.is_due(now, rules) {
            let used = group.memory_used()? >> MIB_BITS;
            self.scaler.on_window(now, used, limit, rules)
        } else {
            limit
        };
        if desired == limit || (desired > limit && self.reservation.resize(desired).is_err()) {
            return Ok(());
        }
        let set = group.set_memory_max(desired << MIB_BITS);
        let in_force = if set.is_ok() { desired } else { limit };
        self.reservation
            .resize(in_force)
            .expect("it holds as much already");
        info!(container_id = %group.id(), from_mib = limit, to_mib = in_force, "memory");
        set
    }
}
