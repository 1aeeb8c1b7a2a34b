//! Building an image from a user's definition, which is a program: its `%setup` runs beside the host's files as the
//! building user, its `%post` as root of the new image.
//!
//! So the building user is nobody. Apptainer runs in a user namespace whose root is an unused id of the host, in a pid
//! namespace that ends with it. What is left to a definition is what any stranger's login could do: read what is
//! readable for all, and use the network, of which it needs some to fetch packages.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::tool::{last_words, remove_tree};
use super::{ApptainerTool, ContainerError};

/// The first of the ids that builds run under: above those of people, of their subordinate ranges and of containers.
const HOST_ID: u32 = 2_000_000_000;
/// As many as a Debian system uses.
const IDS: u32 = 65_536;
/// Holds Apptainer back until its ids are mapped; the program it then becomes gets the namespace's capabilities.
const GATE: &str = r#"read -r _ && exec "$@" </dev/null"#;

impl ApptainerTool {
    /// Builds `sif` from `definition`, within `limit`. Nothing of the build is left but the image.
    pub async fn build(&self, definition: &Path, sif: &Path, limit: Duration) -> Result<(), ContainerError> {
        let work = env::temp_dir().join(format!("gridfaas-build-{}", Uuid::now_v7()));
        let built = self.build_in(&work, definition, sif, limit).await;
        let removed = remove_tree(&work);
        built.and(removed)
    }

    async fn build_in(
        &self,
        work: &Path,
        definition: &Path,
        sif: &Path,
        limit: Duration,
    ) -> Result<(), ContainerError> {
        let what = "the definition cannot be built".to_owned();
        let disk = |path: &Path| {
            let path = path.to_owned();
            |err| ContainerError::Disk { path, err }
        };
        let own_definition = prepare(work, definition).map_err(disk(work))?;
        let built = work.join("image.sif");
        let mut command = Command::new("unshare");
        command
            .args([
                "--user",
                "--mount",
                "--pid",
                "--ipc",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["sh", "-c", GATE, "sh"])
            .arg(self.path())
            .arg("build")
            .args([&built, &own_definition])
            .uid(HOST_ID)
            .gid(HOST_ID)
            .current_dir(work)
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .envs(["HOME", "TMPDIR", "APPTAINER_TMPDIR", "APPTAINER_CACHEDIR"].map(|name| (name, work)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let failed = |err: io::Error| ContainerError::ToolFailed {
            what: what.clone(),
            said: err.to_string(),
        };
        let child = command.spawn().map_err(failed)?;
        let output = match tokio::time::timeout(limit, run_mapped(child)).await {
            Ok(finished) => finished.map_err(failed)?,
            Err(_elapsed) => return Err(ContainerError::ToolTooSlow { what, limit }),
        };
        if !output.status.success() {
            let said = last_words(&[output.stdout, output.stderr].concat());
            return Err(ContainerError::ToolFailed { what, said });
        }
        // Not a rename: the two may be on different file systems.
        let mut image = open_plain_file(&built).map_err(disk(&built))?;
        let mut copy = File::create(sif).map_err(disk(sif))?;
        io::copy(&mut image, &mut copy).map_err(disk(sif))?;
        Ok(())
    }
}

/// Opens what the build left, which could be a link to what only root may read, or a FIFO that nobody writes to.
fn open_plain_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// A folder of the building user's own, with the definition in it: the state directory is closed to it.
fn prepare(work: &Path, definition: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().mode(0o700).create(work)?;
    let own_definition = work.join("image.def");
    fs::copy(definition, &own_definition)?;
    for path in [work, &own_definition] {
        chown(path, Some(HOST_ID), Some(HOST_ID))?;
    }
    Ok(own_definition)
}

/// Maps the ids of the namespace that `child` makes, opens the gate and waits for the end.
async fn run_mapped(mut child: Child) -> io::Result<Output> {
    let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
    let unfinished = Unfinished(pid);
    let namespace = |process: String| fs::read_link(format!("/proc/{process}/ns/user"));
    let ours = namespace("self".to_owned())?;
    // There is no event for it, and it takes a millisecond.
    while namespace(pid.to_string())? == ours {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), format!("0 {HOST_ID} {IDS}"))?;
    }
    let mut gate = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    gate.write_all(b"go\n").await?;
    drop(gate);
    let output = child.wait_with_output().await;
    std::mem::forget(unfinished);
    output
}

/// The process group of a build, killed when the build is given up.
///
/// `unshare` and the init of the pid namespace are in it, so everything in the namespace ends. A parent-death signal
/// would not do: the kernel drops it when Apptainer gets its capabilities.
struct Unfinished(u32);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(group) = self.0.try_into().ok().and_then(Pid::from_raw) {
            // A group that is gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
