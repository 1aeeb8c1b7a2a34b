//! What is peculiar to cgroup v1: one directory per controller, times in nanoseconds, and a freezer that SIGKILL does
//! not get through.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use units::CpuTime;

use super::reader::{KernelFile, field, number, read_once, subtree, write};
use super::{CgroupError, CpuUsage};

/// The cpuacct counters of one group.
#[derive(Debug)]
pub(super) struct Meter {
    usage: KernelFile,
    user: KernelFile,
    system: KernelFile,
}

impl Meter {
    pub(super) fn open(dir: &Path) -> Result<Self, CgroupError> {
        let open = |name| KernelFile::open(dir.join(name));
        Ok(Self {
            usage: open("cpuacct.usage")?,
            user: open("cpuacct.usage_user")?,
            system: open("cpuacct.usage_sys")?,
        })
    }

    pub(super) fn total(&self) -> Result<CpuTime, CgroupError> {
        let nanos = self.usage.read(|text| number(text, "usage"))?;
        Ok(CpuTime::from_micros(nanos / 1000))
    }

    pub(super) fn usage(&self) -> Result<CpuUsage, CgroupError> {
        let user = self.user.read(|text| number(text, "usage_user"))?;
        let system = self.system.read(|text| number(text, "usage_sys"))?;
        Ok(split(self.total()?, user, system))
    }
}

/// Divides the exact total in the proportion of the two sampled parts, as the kernel does for v2. The samples are
/// taken at clock ticks, so alone they miss whatever runs between two of them.
fn split(total: CpuTime, user: u64, system: u64) -> CpuUsage {
    let sampled = u128::from(user) + u128::from(system);
    let system = (u128::from(total.micros()) * u128::from(system))
        .checked_div(sampled)
        .and_then(|micros| u64::try_from(micros).ok())
        .map_or(CpuTime::ZERO, CpuTime::from_micros);
    CpuUsage {
        total,
        user: total.saturating_sub(system),
        system,
    }
}

/// `throttled_time` of `cpu.stat`, the one key whose unit differs from v2.
pub(super) fn throttled_time(cpu_stat: &str) -> Result<Duration, &'static str> {
    field(cpu_stat, "throttled_time").map(Duration::from_nanos)
}

pub(super) fn oom_kills(memory: &Path) -> Result<u64, CgroupError> {
    read_once(&memory.join("memory.oom_control"), |text| field(text, "oom_kill"))
}

pub(super) fn freeze(freezer: &Path) -> Result<(), CgroupError> {
    write(&freezer.join("freezer.state"), "FROZEN")
}

pub(super) fn is_frozen(freezer: &Path) -> Result<bool, CgroupError> {
    read_once(&freezer.join("freezer.state"), |text| Ok(text.trim() == "FROZEN"))
}

pub(super) fn thaw(freezer: &Path) -> Result<(), CgroupError> {
    write(&freezer.join("freezer.state"), "THAWED")
}

/// Thaws the group and all below it: a child frozen by itself would sit on its SIGKILL for ever.
pub(super) fn thaw_subtree(freezer: &Path) -> Result<(), CgroupError> {
    for group in subtree(freezer)? {
        match thaw(&group) {
            Ok(()) | Err(CgroupError::Gone { .. }) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

/// The processes in the group and all below it. Those outside our PID namespace (listed as 0) are left out.
pub(super) fn pids(dir: &Path) -> Result<Vec<Pid>, CgroupError> {
    let mut pids = Vec::new();
    for group in subtree(dir)? {
        let path = group.join("cgroup.procs");
        match fs::read_to_string(&path).map_err(|err| CgroupError::at("read", &path, err)) {
            Ok(text) => pids.extend(
                text.lines()
                    .filter_map(|line| line.parse().ok())
                    .filter_map(Pid::from_raw),
            ),
            Err(CgroupError::Gone { .. }) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(pids)
}

/// Sends SIGKILL to everything in the group. To be called while it is frozen: nothing can end then, so no number read
/// here can have passed to a stranger.
pub(super) fn kill_frozen(freezer: &Path) -> Result<(), CgroupError> {
    for pid in pids(freezer)? {
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(err) => {
                return Err(CgroupError::Io {
                    action: "kill a process of",
                    path: freezer.to_owned(),
                    err: err.into(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_sampled_counts_as_user_time() {
        let total = CpuTime::from_micros(700);
        assert_eq!(
            split(total, 0, 0),
            CpuUsage {
                total,
                user: total,
                system: CpuTime::ZERO
            }
        );
    }

    #[test]
    fn throttled_time_is_in_nanoseconds() {
        let text = "nr_periods 10\nnr_throttled 4\nthrottled_time 1500\nnr_bursts 0\n";
        assert_eq!(throttled_time(text), Ok(Duration::from_nanos(1500)));
        assert_eq!(throttled_time("nr_periods 10\n"), Err("throttled_time"));
    }

    proptest! {
        #[test]
        fn the_parts_add_up_to_the_total(total: u64, user: u64, system: u64) {
            let usage = split(CpuTime::from_micros(total), user, system);
            prop_assert_eq!(usage.user.checked_add(usage.system), Some(usage.total));
        }
    }
}
