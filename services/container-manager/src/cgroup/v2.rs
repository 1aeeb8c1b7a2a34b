//! What is peculiar to cgroup v2: one directory for everything, controllers switched on level by level, and counting,
//! freezing and killing that need no controller. Needs Linux 5.14 for `cgroup.kill`.

use std::path::Path;
use std::time::Duration;

use units::CpuTime;

use super::reader::{KernelFile, field, read_once, write};
use super::{CgroupError, CpuUsage};

/// The `cpu.stat` of one group. There with or without the cpu controller.
#[derive(Debug)]
pub(super) struct Meter(KernelFile);

impl Meter {
    pub(super) fn open(dir: &Path) -> Result<Self, CgroupError> {
        KernelFile::open(dir.join("cpu.stat")).map(Self)
    }

    pub(super) fn total(&self) -> Result<CpuTime, CgroupError> {
        self.0
            .read(|text| field(text, "usage_usec"))
            .map(CpuTime::from_micros)
    }

    pub(super) fn usage(&self) -> Result<CpuUsage, CgroupError> {
        self.0.read(usage)
    }
}

/// The kernel rounds each of the three by itself, so what is not `system_usec` counts as user time.
fn usage(cpu_stat: &str) -> Result<CpuUsage, &'static str> {
    let micros = |key| field(cpu_stat, key).map(CpuTime::from_micros);
    let (total, system) = (micros("usage_usec")?, micros("system_usec")?);
    Ok(CpuUsage {
        total,
        user: total.saturating_sub(system),
        system,
    })
}

/// `throttled_usec` of `cpu.stat`, the one key whose unit differs from v1.
pub(super) fn throttled_time(cpu_stat: &str) -> Result<Duration, &'static str> {
    field(cpu_stat, "throttled_usec").map(Duration::from_micros)
}

pub(super) fn oom_kills(dir: &Path) -> Result<u64, CgroupError> {
    read_once(&dir.join("memory.events"), |text| field(text, "oom_kill"))
}

/// Lets the children of `mount_point/path` use `controllers`, which every level above has to allow as well.
///
/// Fails with `EBUSY` where a level holds processes of its own. Under systemd that is a delegated unit without
/// `DelegateSubgroup=`. systemd cannot take a controller back while we hand it on below.
pub(super) fn enable(
    mount_point: &Path,
    path: &Path,
    controllers: &[&'static str],
) -> Result<(), CgroupError> {
    let mut dir = mount_point.to_owned();
    for level in [Path::new("")].into_iter().chain(path.iter().map(Path::new)) {
        dir.push(level);
        let file = dir.join("cgroup.subtree_control");
        let missing = read_once(&file, |enabled| {
            let is_missing = |name: &&&str| !enabled.split_whitespace().any(|on| on == **name);
            Ok(controllers
                .iter()
                .filter(is_missing)
                .map(|name| format!("+{name}"))
                .collect::<Vec<_>>())
        })?;
        if !missing.is_empty() {
            write(&file, &missing.join(" "))?;
        }
    }
    Ok(())
}

pub(super) fn freeze(dir: &Path) -> Result<(), CgroupError> {
    write(&dir.join("cgroup.freeze"), "1")
}

pub(super) fn is_frozen(dir: &Path) -> Result<bool, CgroupError> {
    read_once(&dir.join("cgroup.events"), |text| field(text, "frozen")).map(|frozen| frozen == 1)
}

pub(super) fn thaw(dir: &Path) -> Result<(), CgroupError> {
    write(&dir.join("cgroup.freeze"), "0")
}

/// Sends SIGKILL to everything in the group and all below it, at once, forks in progress and frozen tasks included.
pub(super) fn kill(dir: &Path) -> Result<(), CgroupError> {
    write(&dir.join("cgroup.kill"), "1")
}

/// Whether a living process is in the group or anywhere below it.
pub(super) fn is_populated(dir: &Path) -> Result<bool, CgroupError> {
    read_once(&dir.join("cgroup.events"), |text| field(text, "populated")).map(|populated| populated == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_stat_is_read_with_and_without_the_controller() {
        let bare = "usage_usec 30\nuser_usec 19\nsystem_usec 10\nnice_usec 0\n";
        let full = format!("{bare}nr_periods 9\nnr_throttled 3\nthrottled_usec 77\n");
        for text in [bare, full.as_str()] {
            let usage = usage(text).unwrap();
            assert_eq!(
                (usage.total.micros(), usage.user.micros(), usage.system.micros()),
                (30, 20, 10)
            );
        }
        assert_eq!(throttled_time(bare), Err("throttled_usec"));
        assert_eq!(throttled_time(&full), Ok(Duration::from_micros(77)));
    }

    #[test]
    fn only_missing_controllers_are_switched_on_at_each_level() {
        let mount = tempfile::tempdir().unwrap();
        let group = mount.path().join("gridfaas");
        std::fs::create_dir(&group).unwrap();
        let control = |dir: &Path| dir.join("cgroup.subtree_control");
        std::fs::write(control(mount.path()), "cpuset cpu io memory pids\n").unwrap();
        std::fs::write(control(&group), "memory\n").unwrap();
        enable(mount.path(), Path::new("gridfaas"), &["cpu", "memory", "pids"]).unwrap();
        let text = |dir| std::fs::read_to_string(control(dir)).unwrap();
        assert_eq!(text(mount.path()), "cpuset cpu io memory pids\n");
        // A plain file is overwritten from its start; the kernel's file takes the words as orders.
        assert_eq!(text(&group), "+cpu +pids");
    }
}
