//! What a node offers, what of it containers have, what is promised, and what is free.
//!
//! Nothing of it is kept: `allocated` is what containers have now, so a container that grows takes from what is free, and
//! `reserved` is what holds at this moment. All of a reading is of one moment: nothing is allocated or promised meanwhile.

use std::path::Path;

use rustix::fs::statvfs;
use serde::Serialize;
use service_kit::Chain;
use tracing::warn;
use units::UserName;
use uuid::Uuid;

use crate::node::Node;
use crate::reservation::{Reservation, ReservationError, Resources, Wanted};

const MIB: u64 = 1 << 20;

/// A node at one moment. `registered` is `allocated`, `reserved` and `free` together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the operator offers.
    pub registered: Resources,
    /// What containers may use; of the disk, what is in use whoever uses it.
    pub allocated: Resources,
    /// Of containers that are starting.
    starting: Resources,
    /// To those who asked for it.
    promised: Resources,
}

/// What is neither allocated nor reserved; negative where the operator offers less than what is in use already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Free {
    pub cpu_millicores: i64,
    pub memory_mib: i64,
    pub disk_mib: i64,
}

impl Reading {
    pub fn reserved(&self) -> Resources {
        self.starting.saturating_add(self.promised)
    }

    pub fn free(&self) -> Free {
        let taken = self.allocated.saturating_add(self.reserved());
        let left = |of: u64, taken: u64| {
            let signed = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
            signed(of) - signed(taken)
        };
        Free {
            cpu_millicores: left(
                self.registered.cpu.millicores().into(),
                taken.cpu.millicores().into(),
            ),
            memory_mib: left(self.registered.memory_mib, taken.memory_mib),
            disk_mib: left(self.registered.disk_mib, taken.disk_mib),
        }
    }

    fn unallocated(&self) -> Resources {
        self.registered
            .saturating_sub(self.allocated.saturating_add(self.starting))
    }
}

impl Node {
    pub fn capacity(&self) -> Reading {
        self.at_one_moment(|reading| reading)
    }

    /// Promises a part of what is free; on disk when this returns. If that fails, asking again makes up for it.
    pub fn reserve(&self, wanted: Wanted) -> Result<Reservation, ReservationError> {
        let reserved =
            self.at_one_moment(|reading| self.reservations.reserve(wanted, reading.unallocated()))?;
        self.reservations.save()?;
        Ok(reserved)
    }

    /// Takes a promise back; on disk when this returns.
    pub fn release(&self, id: Uuid, owner: &UserName) -> Result<(), ReservationError> {
        let released = self.reservations.release(id, owner);
        self.memory.call_next();
        released
    }

    /// Writes down what is left after a container started on one. If that fails, a crash brings it back until it expires.
    pub(crate) async fn keep_reservations(&self) {
        let reservations = self.reservations.clone();
        let saved = tokio::task::spawn_blocking(move || reservations.save()).await;
        if let Ok(Err(err)) = saved {
            warn!(error = %Chain(&err), "reservations not written down");
        }
    }

    /// The order of the locks is the meter's, the memory's, the reservations', here as everywhere.
    fn at_one_moment<T>(&self, act: impl FnOnce(Reading) -> T) -> T {
        let memory_registered = self.memory.capacity_mib();
        let (disk_total, disk_used) = disk_mib(&self.config.state_dir).unwrap_or_default();
        self.meter.while_allocated(|allocatable, allocated| {
            self.memory.while_held(|held_mib, starting_mib| {
                act(Reading {
                    registered: Resources {
                        cpu: allocatable,
                        memory_mib: memory_registered,
                        disk_mib: disk_total,
                    },
                    allocated: Resources {
                        cpu: allocated,
                        memory_mib: held_mib,
                        disk_mib: disk_used,
                    },
                    starting: Resources {
                        memory_mib: starting_mib,
                        ..Resources::default()
                    },
                    promised: self.reservations.reserved(),
                })
            })
        })
    }
}

/// What the disk with a folder on it has, and what of that is in use; `None` if it cannot be looked at.
fn disk_mib(folder: &Path) -> Option<(u64, u64)> {
    let stat = statvfs(folder).ok()?;
    let mib = |blocks: u64| blocks.saturating_mul(stat.f_frsize) / MIB;
    let total = mib(stat.f_blocks);
    Some((total, total.saturating_sub(mib(stat.f_bavail))))
}
