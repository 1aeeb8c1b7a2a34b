//! What a node gives to containers, and what of it is free.

use serde::Serialize;
use units::MilliCores;

use super::machine::Disk;
use crate::node::Node;

const MIB: u64 = 1 << 20;
/// A compute unit is a core with so much memory.
const UNIT_MEMORY_MIB: u64 = 2048;

/// `registered` is `allocated` and `free` together, unless more is allocated than there is; then nothing is free.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Capacity {
    /// What the operator offers.
    registered: Resources,
    /// What containers may use now, and what others have taken of the disk.
    allocated: Resources,
    free: Resources,
    compute_units: ComputeUnits,
    /// Disk that comes with no compute unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_storage_mib: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Resources {
    cpu_millicores: MilliCores,
    memory_mib: u64,
    /// Absent where the disk cannot be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_mib: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct ComputeUnits {
    registered: u64,
    free: u64,
}

impl Capacity {
    pub(super) fn of(node: &Node) -> Self {
        let disk = Disk::read(&node.config.state_dir);
        let allocations = node.meter.containers();
        let registered = Resources {
            cpu_millicores: node.meter.capacity(),
            memory_mib: node.memory.capacity_mib(),
            disk_mib: disk.map(|disk| disk.total_bytes / MIB),
        };
        let allocated = Resources {
            cpu_millicores: allocations.iter().map(|container| container.allocation).sum(),
            memory_mib: node.memory.reserved_mib(),
            disk_mib: disk.map(|disk| disk.total_bytes / MIB - disk.available_bytes / MIB),
        };
        Self::new(registered, allocated)
    }

    fn new(registered: Resources, allocated: Resources) -> Self {
        let free = registered.without(allocated);
        Self {
            compute_units: ComputeUnits {
                registered: registered.compute_units(),
                free: free.compute_units(),
            },
            extra_storage_mib: free.disk_mib,
            registered,
            allocated,
            free,
        }
    }
}

impl Resources {
    fn without(self, other: Self) -> Self {
        Self {
            cpu_millicores: self.cpu_millicores.saturating_sub(other.cpu_millicores),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            disk_mib: self
                .disk_mib
                .zip(other.disk_mib)
                .map(|(of, taken)| of.saturating_sub(taken)),
        }
    }

    fn compute_units(self) -> u64 {
        let cores = self.cpu_millicores.millicores() / MilliCores::ONE_CORE.millicores();
        u64::from(cores).min(self.memory_mib / UNIT_MEMORY_MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(millicores: u32, memory_mib: u64, disk_mib: u64) -> Resources {
        Resources {
            cpu_millicores: MilliCores::from_millicores(millicores),
            memory_mib,
            disk_mib: Some(disk_mib),
        }
    }

    #[test]
    fn a_compute_unit_is_a_whole_core_with_its_memory() {
        for (millicores, memory_mib, units) in [
            (4000, 8192, 4),
            (3999, 8192, 3),
            (4000, 8191, 3),
            (500, 100_000, 0),
            (0, 0, 0),
        ] {
            assert_eq!(resources(millicores, memory_mib, 0).compute_units(), units);
        }
    }

    #[test]
    fn what_is_not_allocated_is_free() {
        let told = Capacity::new(resources(4000, 8192, 1000), resources(1500, 4096, 400));
        assert_eq!(told.free, resources(2500, 4096, 600));
        assert_eq!((told.compute_units.registered, told.compute_units.free), (4, 2));
        assert_eq!(told.extra_storage_mib, Some(600));
        let beyond = Capacity::new(resources(4000, 8192, 1000), resources(5000, 9000, 1001));
        assert_eq!(beyond.free, resources(0, 0, 0));
    }

    #[test]
    fn a_disk_that_cannot_be_looked_at_is_left_out() {
        let unknown = Resources {
            disk_mib: None,
            ..resources(4000, 8192, 0)
        };
        let told = serde_json::to_string(&Capacity::new(unknown, unknown)).unwrap();
        assert!(
            !told.contains("disk") && !told.contains("null") && !told.contains("storage"),
            "{told}"
        );
    }
}
