//! CONTAINER: where the tasks of one function and user run.
//!
//! A container lives in a folder of its own on the host and outlives its manager: whoever has the folder can adopt it.
//! Inside, tasks run in numbered slots. What a script is given comes through the slot's [`Inbox`], what it leaves is
//! read through a descriptor of its results directory, and how it ended is in a file that no task can reach.

mod apptainer;
mod connection;
mod definition;
mod error;
mod fake;
mod tool;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runner::layout;
pub use runner::{ExitRecord, LogBytes, Outcome, RunLimits};
use rustix::process::Pid;
use units::ContainerId;

pub use apptainer::ApptainerRuntime;
pub use error::ContainerError;
pub use fake::{FakeContainer, FakeRuntime};
pub use tool::ApptainerTool;

/// What a container is made of. Nothing in it comes from an object key.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    pub id: ContainerId,
    /// The container's own folder, made if it is missing, for root alone.
    pub folder: PathBuf,
    /// The unpacked image.
    pub image: PathBuf,
    /// Mounted read-only at `/staging`.
    pub staging: Option<PathBuf>,
    /// User and group id inside; no other live container has it, and it is never 0.
    pub uid: u32,
    /// The container ends by itself when no manager has been heard of for this long: see [`Container::reassure`].
    pub orphan: Duration,
    /// Everything the container can write to, in all its slots and shared folders together. It is memory.
    pub work_bytes_max: u64,
    /// `cgroup.procs` files of the group that pays for the launcher and the resident runner.
    pub launcher_procs: Vec<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct RunRequest {
    pub slot: u32,
    /// No other slot is in use, so `/tmp` and its like are emptied first.
    pub alone: bool,
    /// Name of the task file in the slot's inbox.
    pub task_file: String,
    /// Added to a default `PATH`, `HOME` and `TMPDIR`; the last of a name counts.
    pub env: Vec<(String, String)>,
    /// Made if it is missing, else appended to.
    pub log: PathBuf,
    /// Must not exist: one run, one record.
    pub exit_record: PathBuf,
    pub limits: RunLimits,
}

/// Puts a process, named by its pid on the host, into the cgroups of its task.
pub type Place<'a> = &'a (dyn Fn(Pid) -> io::Result<()> + Send + Sync);

#[async_trait]
pub trait ContainerRuntime: Send + Sync + 'static {
    /// Errors unless the program that runs containers is there and can be trusted.
    async fn check(&self) -> Result<(), ContainerError>;

    /// Starts a container. `Ok`: its runner has answered and it outlives this process. `Err`: nothing of it runs, its
    /// folder stays. Given up while starting: what runs is in the cgroup of `launcher_procs`.
    async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, ContainerError>;

    /// Finds the container that an earlier manager started in `folder`; `None` if it does not run any more. `Err`: it
    /// does run, but not for us.
    async fn adopt(
        &self,
        id: ContainerId,
        folder: &Path,
    ) -> Result<Option<Arc<dyn Container>>, ContainerError>;
}

#[async_trait]
pub trait Container: Send + Sync {
    fn id(&self) -> ContainerId;

    /// Runs the slot's script on `request.task_file`. `place` gets the pid that all of the task descends from, before
    /// that process has done anything for the task. `Ok`: the script has started, or the record says why not; it
    /// goes on to its exit record even if this process dies. `Err`: the script has not started.
    async fn run(
        &self,
        request: RunRequest,
        place: Place<'_>,
    ) -> Result<Box<dyn RunningTask>, ContainerError>;

    /// Opens the results directory of `slot`, for [`crate::results::collect`]. The next run in the slot empties it, and
    /// it goes with the container.
    async fn results(&self, slot: u32) -> Result<OwnedFd, ContainerError>;

    /// Makes the slot's inbox empty, for the next task.
    fn clear_inbox(&self, slot: u32) -> io::Result<Inbox>;

    fn is_alive(&self) -> bool;

    /// Tells the container that its manager lives. A container that cannot be told is ending or dead.
    async fn reassure(&self);

    /// Returns once the container has ended, at once if it has.
    async fn ended(&self);

    /// Kills the container with everything in it; without effect on one that has ended.
    fn kill(&self) -> io::Result<()>;
}

#[async_trait]
pub trait RunningTask: Send {
    /// Waits for the script's main process. `None`: the connection was lost, so the exit record's file decides; a file
    /// without a whole record means an unknown end. May be given up and called again until it has returned.
    async fn wait(&mut self) -> Option<ExitRecord>;
}

/// A slot's read-only input, from the host's side.
#[derive(Clone, Debug)]
pub struct Inbox {
    script: PathBuf,
    task_dir: PathBuf,
}

impl Inbox {
    /// Empties the inbox of `slot` in a container's `folder`, but for the script, which is mostly that of the next task as well.
    fn clear(folder: &Path, slot: u32) -> io::Result<Self> {
        let inbox = Self::at(folder, slot);
        std::fs::create_dir_all(&inbox.task_dir)?;
        for folder in [inbox.slot_dir(), &inbox.task_dir] {
            set_mode(folder, 0o755)?;
        }
        for task_file in std::fs::read_dir(&inbox.task_dir)? {
            std::fs::remove_file(task_file?.path())?;
        }
        Ok(inbox)
    }

    fn at(folder: &Path, slot: u32) -> Self {
        Self {
            script: layout::script(folder, slot),
            task_dir: layout::task_dir(folder, slot),
        }
    }

    fn slot_dir(&self) -> &Path {
        self.task_dir.parent().expect("the task folder is in the slot's")
    }

    /// Where the task file belongs, under its own name.
    pub fn task(&self, file_name: &str) -> PathBuf {
        self.task_dir.join(file_name)
    }

    pub fn write_script(&self, body: &[u8]) -> io::Result<()> {
        let is_there = std::fs::read(&self.script).is_ok_and(|there| there == body);
        if is_there {
            Ok(())
        } else {
            std::fs::write(&self.script, body)
        }
    }

    /// Lets the container's user read the inbox, whatever umask it was filled under.
    fn publish(&self, task_file: &str) -> io::Result<()> {
        set_mode(&self.script, 0o644)?;
        set_mode(&self.task(task_file), 0o644)
    }
}

/// Sets the permissions whatever the umask.
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}
