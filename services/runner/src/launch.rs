//! The launcher: becomes the container program, on prepared ground.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use runner::{LaunchPlan, WorkTmpfs};
use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::sys;

/// More connections than any container has slots.
const BACKLOG: i32 = 1024;

pub(crate) fn launch(plan: &str) -> anyhow::Result<Infallible> {
    let plan: LaunchPlan = serde_json::from_str(plan).context("failed to read the launch plan")?;
    for procs in &plan.cgroup_procs {
        // 0 means the writer.
        fs::write(procs, "0").with_context(|| format!("failed to join `{}`", procs.display()))?;
    }
    // A signal for the manager's session or process group must not reach the container.
    rustix::process::setsid().context("failed to begin a session")?;
    // Standard input is the host's listening socket. Listening once more makes this process its owner: the manager finds
    // the launcher of a container it did not start itself by the peer credentials of a connection.
    rustix::net::listen(std::io::stdin(), BACKLOG).context("failed to listen on standard input")?;
    mount_work(&plan.work).with_context(|| format!("failed to mount `{}`", plan.work.path.display()))?;
    sys::close_on_exec_from(3).context("failed to close descriptors")?;

    let [program, args @ ..] = plan.command.as_slice() else {
        anyhow::bail!("the launch plan has no command");
    };
    let err = Command::new(program)
        .args(args)
        .current_dir("/")
        .env_clear()
        .exec();
    Err(err).with_context(|| format!("failed to run `{program}`"))
}

/// Mounts in a mount namespace of its own, from which nothing spreads: when the last process of the container is gone, so
/// are its mounts.
fn mount_work(work: &WorkTmpfs) -> anyhow::Result<()> {
    sys::unshare_mounts().context("failed to leave the host's mount namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("failed to make mounts private")?;
    let options = format!("mode=755,size={},nr_inodes={}", work.bytes_max, work.inodes_max);
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", &work.path, "tmpfs", flags, &*CString::new(options)?)?;
    for folder in &work.folders {
        make_folder(&work.path.join(folder), work.uid)
            .with_context(|| format!("failed to make `{folder}`"))?;
    }
    Ok(())
}

fn make_folder(path: &Path, owner: u32) -> std::io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    chown(path, Some(owner), Some(owner))
}
