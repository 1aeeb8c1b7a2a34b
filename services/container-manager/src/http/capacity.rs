//! What a node gives to containers, and what of it is free, as others count it.

use serde::Serialize;

use crate::capacity::{Free, Reading};
use crate::reservation::Resources;

/// A compute unit is a core with so much memory.
const UNIT_MILLICORES: u64 = 1000;
const UNIT_MEMORY_MIB: u64 = 2048;

/// `registered` is `allocated`, `reserved` and `free` together.
#[derive(Debug, Serialize)]
pub(super) struct Capacity {
    /// What the operator offers.
    registered: Resources,
    /// What containers may use now; of the disk, what is in use.
    allocated: Resources,
    /// Promised, to containers that are starting and to those who asked.
    reserved: Resources,
    /// Negative where the operator offers less than is in use already.
    free: Free,
    compute_units: ComputeUnits,
    /// Disk that comes with no compute unit.
    extra_storage_mib: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct ComputeUnits {
    registered: u64,
    free: u64,
}

impl From<Reading> for Capacity {
    fn from(reading: Reading) -> Self {
        let (registered, free) = (reading.registered, reading.free());
        let some = |amount: i64| u64::try_from(amount).unwrap_or(0);
        Self {
            registered,
            allocated: reading.allocated,
            reserved: reading.reserved(),
            compute_units: ComputeUnits {
                registered: compute_units(registered.cpu.millicores().into(), registered.memory_mib),
                free: compute_units(some(free.cpu_millicores), some(free.memory_mib)),
            },
            extra_storage_mib: some(free.disk_mib),
            free,
        }
    }
}

/// Whole ones only.
fn compute_units(millicores: u64, memory_mib: u64) -> u64 {
    (millicores / UNIT_MILLICORES).min(memory_mib / UNIT_MEMORY_MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compute_unit_is_a_whole_core_with_its_memory() {
        for (millicores, memory_mib, units) in [
            (4000, 8192, 4),
            (3999, 8192, 3),
            (4000, 8191, 3),
            (500, 100_000, 0),
            (0, 0, 0),
        ] {
            assert_eq!(compute_units(millicores, memory_mib), units);
        }
    }
}
