//! What a node needs of its machine.

use std::path::Path;
use std::process::Command;

use anyhow::anyhow;
use container_manager::cgroup::hierarchy::{Hierarchies, HierarchyError};
use container_manager::container::{ApptainerTool, ContainerError};
use rustix::fs::{StatVfsMountFlags, statvfs};
use service_kit::Chain;

use super::Finding;

const GIB: u64 = 1 << 30;
/// Unpacking one image and the results of a few tasks.
const DISK_MIN: u64 = GIB;
const DISK_LOW: u64 = 10 * GIB;
/// The first kernel with Landlock's scopes, which fence tasks from each other.
const KERNEL_FENCES: (u32, u32) = (6, 12);
/// The first kernel whose quotas may be saved for a burst.
const KERNEL_BURSTS: (u32, u32) = (5, 14);

/// Looks at everything. The disk is that of `data_dir`, or of where it would be made.
pub(super) async fn look(data_dir: &Path) -> Vec<Finding> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        user(rustix::process::geteuid().is_root()),
        kernel(release.trim()),
        cgroups(&Hierarchies::of_this_machine()),
        apptainer(ApptainerTool::find(None).await),
        unsquashfs(Command::new("unsquashfs").arg("-version").output().is_ok()),
        clock(is_clock_set()),
        disk(data_dir),
    ]
}

fn user(is_root: bool) -> Finding {
    if is_root {
        Finding::ok("user", "root")
    } else {
        let found = "not root, which is enough for a client; a node makes control groups and containers";
        Finding::warn("user", found, "run `gridfaas up` and container-manager as root")
    }
}

/// Major and minor version of a release such as `6.12.9-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(release: &str) -> Finding {
    let found = format!("Linux {release}");
    let hint = "update to Linux 6.12 or newer; Debian 13 has it";
    match version(release) {
        Some(version) if version >= KERNEL_FENCES => Finding::ok("kernel", found),
        Some(version) if version >= KERNEL_BURSTS => {
            let found =
                format!("{found}: a task can end its container, and what it used is then free of charge");
            Finding::warn("kernel", found, hint)
        }
        Some(_) => {
            let found = format!(
                "{found}: tasks are not fenced from each other, and a container saves no quota for a burst"
            );
            Finding::warn("kernel", found, hint)
        }
        None => Finding::warn("kernel", format!("{found}: its version cannot be read"), hint),
    }
}

fn cgroups(found: &Result<Hierarchies, HierarchyError>) -> Finding {
    let homes = match found {
        Ok(hierarchies) => hierarchies.homes(),
        Err(err) => {
            let hint = "mount cgroup2 at /sys/fs/cgroup; in a container of its own, give gridfaas the host's control groups";
            return Finding::fail("cgroups", Chain(err).to_string(), hint);
        }
    };
    let is_read_only =
        |path: &Path| statvfs(path).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    if let Some(home) = homes.iter().find(|home| is_read_only(home.mount_point())) {
        let found = format!("`{}` is read-only", home.mount_point().display());
        return Finding::fail(
            "cgroups",
            found,
            "mount it for writing, as a container with all privileges has it",
        );
    }
    let kinds = match (
        homes.iter().any(|home| home.is_v2()),
        homes.iter().all(|home| home.is_v2()),
    ) {
        (_, true) => "v2",
        (true, false) => "v1 and v2 side by side",
        (false, false) => "v1",
    };
    Finding::ok("cgroups", kinds)
}

fn apptainer(found: Result<ApptainerTool, ContainerError>) -> Finding {
    match found {
        Ok(tool) => Finding::ok("apptainer", tool.path().display().to_string()),
        Err(err) => {
            let hint = err
                .hint()
                .map(|hint| format!(" (hint: {hint})"))
                .unwrap_or_default();
            Finding::failed("apptainer", &anyhow!("{}{hint}", Chain(&err)))
        }
    }
}

fn unsquashfs(is_there: bool) -> Finding {
    if is_there {
        Finding::ok("unsquashfs", "found")
    } else {
        let found = "not found, so no image can be unpacked";
        Finding::fail("unsquashfs", found, "install squashfs-tools")
    }
}

/// Whether something keeps the clock right; `None` if nothing here tells.
fn is_clock_set() -> Option<bool> {
    let arguments = ["show", "--property=NTPSynchronized", "--value"];
    let output = Command::new("timedatectl").args(arguments).output().ok()?;
    match output.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

fn clock(is_set: Option<bool>) -> Finding {
    let hint = "run chrony or systemd-timesyncd: a store refuses whoever is off by 15 minutes";
    match is_set {
        Some(true) => Finding::ok("clock", "kept right over the network"),
        Some(false) => Finding::warn("clock", "not kept right over the network", hint),
        None => Finding::warn("clock", "nothing tells whether it is kept right", hint),
    }
}

fn disk(data_dir: &Path) -> Finding {
    let there = data_dir.ancestors().find(|folder| folder.exists());
    let folder = there.unwrap_or(Path::new("/"));
    match statvfs(folder) {
        Ok(stat) => space(
            folder,
            stat.f_bavail.saturating_mul(stat.f_frsize),
            // Some file systems count no files.
            (stat.f_files > 0).then_some(stat.f_favail),
        ),
        Err(err) => Finding::failed(
            "disk",
            &anyhow!(err).context(format!("failed to look at `{}`", folder.display())),
        ),
    }
}

fn space(folder: &Path, free_bytes: u64, free_files: Option<u64>) -> Finding {
    let tenths = free_bytes.saturating_mul(10) / GIB;
    let found = format!(
        "{}.{} GiB free at `{}`",
        tenths / 10,
        tenths % 10,
        folder.display()
    );
    let hint = "free some, or choose another folder with --data-dir; `images_max_mib` bounds unpacked images";
    if free_files.is_some_and(|files| files < 10_000) {
        Finding::fail(
            "disk",
            format!("{found}, and hardly any room for more files"),
            hint,
        )
    } else if free_bytes < DISK_MIN {
        Finding::fail("disk", found, hint)
    } else if free_bytes < DISK_LOW {
        Finding::warn("disk", found, hint)
    } else {
        Finding::ok("disk", found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_kernel_is_as_good_as_what_it_keeps_tasks_from() {
        for (release, verdict, about) in [
            ("6.12.9-amd64", Verdict::Ok, "6.12.9-amd64"),
            ("7.0-rc1", Verdict::Ok, "7.0"),
            ("6.1.0-28-amd64", Verdict::Warn, "free of charge"),
            ("5.4.0", Verdict::Warn, "burst"),
            ("", Verdict::Warn, "cannot be read"),
        ] {
            let finding = kernel(release);
            assert_eq!(finding.verdict, verdict, "{release}");
            assert!(finding.found.contains(about), "{finding:?}");
        }
    }

    #[test]
    fn little_room_is_a_warning_and_hardly_any_a_failure() {
        for (bytes, files, verdict) in [
            (100 * GIB, Some(1_000_000), Verdict::Ok),
            (100 * GIB, None, Verdict::Ok),
            (9 * GIB, None, Verdict::Warn),
            (GIB - 1, None, Verdict::Fail),
            (100 * GIB, Some(9), Verdict::Fail),
        ] {
            let finding = space(Path::new("/data"), bytes, files);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
        }
        assert_eq!(
            space(Path::new("/"), 3 * GIB / 2, None).found,
            "1.5 GiB free at `/`"
        );
    }

    #[test]
    fn what_is_missing_fails_with_advice() {
        let missing = HierarchyError::Missing("cpu");
        for finding in [cgroups(&Err(missing)), unsquashfs(false)] {
            assert_eq!(finding.verdict, Verdict::Fail);
            assert!(finding.hint.is_some(), "{finding:?}");
        }
        for finding in [user(false), clock(None), clock(Some(false))] {
            assert_eq!(finding.verdict, Verdict::Warn);
            assert!(finding.hint.is_some(), "{finding:?}");
        }
    }

    #[tokio::test]
    async fn an_apptainer_that_is_not_there_fails_with_advice() {
        let finding = apptainer(ApptainerTool::find(Some(Path::new("/nowhere/apptainer"))).await);
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.hint.is_some(), "{finding:?}");
    }
}
