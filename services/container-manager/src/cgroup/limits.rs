//! Limits of a group, set by cgroups-rs.

use std::io;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController as CpuKnobs;
use cgroups_rs::fs::memory::MemController as MemoryKnobs;
use cgroups_rs::fs::pid::PidController as PidKnobs;
use units::MilliCores;

use super::group::Group;
use super::hierarchy::Home;
use super::reader::{number, read_once, write};
use super::{Burst, CgroupError, Weight, is_no_device};

/// [`QUOTA_PERIOD`](super::QUOTA_PERIOD).
const PERIOD_US: u64 = 20_000;
const QUOTA_US_MIN: u32 = 1_000;
/// Millicores to quota: a core is the whole period.
const QUOTA_US_PER_MILLICORE: u32 = 20;

/// What a core weighs, which is the kernel's default, the least and the most: v1 shares and v2 weight.
const SHARES: (u64, u64, u64) = (1024, 2, 262_144);
const WEIGHT: (u64, u64, u64) = (100, 1, 10_000);

impl Group {
    /// Setting the limits is left to cgroups-rs, controller by controller: as a whole it takes a machine with any
    /// v1 mount for v1 only, and looks for v2 in one fixed place.
    fn cpu_knobs(&self) -> CpuKnobs {
        let home = &self.hierarchies.cpu;
        CpuKnobs::new(self.dir(home), home.mount_point().to_owned(), home.is_v2())
    }

    pub(super) fn set_period(&self) -> Result<(), CgroupError> {
        self.limited(&self.hierarchies.cpu, self.cpu_knobs().set_cfs_period(PERIOD_US))
    }

    pub(super) fn set_quota(&self, cpu: MilliCores, burst: Burst) -> Result<(), CgroupError> {
        let quota_us = cpu
            .millicores()
            .saturating_mul(QUOTA_US_PER_MILLICORE)
            .max(QUOTA_US_MIN);
        // The kernel refuses a quota that is less than what may be saved.
        self.set_burst(0)?;
        self.limited(
            &self.hierarchies.cpu,
            self.cpu_knobs().set_cfs_quota(quota_us.into()),
        )?;
        match burst {
            Burst::None => Ok(()),
            Burst::Quota => self.set_burst(quota_us),
        }
    }

    /// cgroups-rs does not know it.
    fn set_burst(&self, burst_us: u32) -> Result<(), CgroupError> {
        let name = if self.hierarchies.cpu.is_v2() {
            "cpu.max.burst"
        } else {
            "cpu.cfs_burst_us"
        };
        let file = self.cpu_dir().join(name);
        if file.exists() {
            write(&file, &burst_us.to_string())?;
        }
        Ok(())
    }

    /// Read by ourselves, as cgroups-rs turns what it cannot read into 0. A group without a cap has all there is.
    pub(super) fn quota(&self) -> Result<MilliCores, CgroupError> {
        let dir = self.cpu_dir();
        let (quota_us, period_us) = if self.hierarchies.cpu.is_v2() {
            read_once(&dir.join("cpu.max"), |text| {
                let (quota, period) = text.trim().split_once(' ').ok_or("cpu.max")?;
                Ok((quota.parse().ok(), number(period, "cpu.max")?))
            })?
        } else {
            let quota = read_once(&dir.join("cpu.cfs_quota_us"), |text| Ok(text.trim().parse().ok()))?;
            let period = read_once(&dir.join("cpu.cfs_period_us"), |text| {
                number(text, "cpu.cfs_period_us")
            })?;
            (quota, period)
        };
        let millicores = |quota: u64| quota.saturating_mul(1000).checked_div(period_us);
        let millicores = quota_us.and_then(millicores).unwrap_or(u64::MAX);
        Ok(MilliCores::from_millicores(
            u32::try_from(millicores).unwrap_or(u32::MAX),
        ))
    }

    pub(super) fn set_weight(&self, weight: Weight) -> Result<(), CgroupError> {
        let home = &self.hierarchies.cpu;
        let (core, least, most) = if home.is_v2() { WEIGHT } else { SHARES };
        let value = match weight {
            Weight::Of(cpu) => (u64::from(cpu.millicores()) * core / 1000).clamp(least, most),
            Weight::Lowest => least,
        };
        self.limited(home, self.cpu_knobs().set_shares(value))
    }

    pub(super) fn set_pids_max(&self, pids_max: u32) -> Result<(), CgroupError> {
        let home = &self.hierarchies.pids;
        let knobs = PidKnobs::new(self.dir(home), home.mount_point().to_owned(), home.is_v2());
        self.limited(home, knobs.set_pid_max(MaxValue::Value(pids_max.into())))
    }

    /// Swap is closed as well, where the kernel counts it: swapping would turn a memory limit into a slow disk.
    pub(super) fn set_memory_max(&self, bytes_max: u64) -> Result<(), CgroupError> {
        let home = &self.hierarchies.memory;
        let dir = self.dir(home);
        let knobs = MemoryKnobs::new(dir.clone(), home.mount_point().to_owned(), home.is_v2());
        let limit = i64::try_from(bytes_max).unwrap_or(i64::MAX);
        let set_memory = || self.limited(home, knobs.set_limit(limit)).map(drop);
        // v1 limits memory and swap together, v2 swap alone.
        let (swap_file, swap_limit) = if home.is_v2() {
            ("memory.swap.max", 0)
        } else {
            ("memory.memsw.limit_in_bytes", limit)
        };
        if !dir.join(swap_file).exists() {
            return set_memory();
        }
        let set_swap = || self.limited(home, knobs.set_memswap_limit(swap_limit)).map(drop);
        // Together they may not be less than memory alone at any moment.
        if set_memory().is_err() {
            set_swap()?;
            return set_memory();
        }
        set_swap()
    }

    fn limited<T>(&self, home: &Home, result: cgroups_rs::fs::error::Result<T>) -> Result<T, CgroupError> {
        result.map_err(|err| {
            let path = self.dir(home);
            let cause = std::error::Error::source(&err).and_then(|cause| cause.downcast_ref::<io::Error>());
            if cause.is_some_and(is_no_device) || !path.is_dir() {
                CgroupError::Gone { path }
            } else {
                CgroupError::Limit { path, err }
            }
        })
    }
}
