//! Containers by Apptainer: one `apptainer exec` each, whose program is our resident runner.
//!
//! The flags are a recipe that was attacked as a whole; none of them is there for tidiness. Apptainer's own limit flags
//! are not among them: they would move the container out of the cgroups that are metered.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runner::{Event, LaunchPlan, Request, Run, WorkTmpfs, layout};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use service_kit::file;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use units::ContainerId;

use super::connection::{self, Connection, Dialled};
use super::{
    ApptainerTool, Container, ContainerError, ContainerRuntime, ContainerSpec, ExitRecord, Inbox, Place,
    RunRequest, RunningTask, set_mode,
};

/// The static program of `services/runner`, built by `build.rs`.
const RUNNER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runner"));
const SECCOMP: &str = include_str!("../../../../deployment/apptainer/seccomp.json");

/// A start takes 0.1 s; a slow disk with a cold cache takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long what ran before the runner may take to be gone.
const SETTLING_TIMEOUT: Duration = Duration::from_secs(5);
/// Apptainer's init and our runner.
const RESIDENTS: usize = 2;
/// The fewest bytes of the writable folders that go with one inode; small files must not eat the host's memory.
const BYTES_PER_INODE: u64 = 4096;
/// How much of the launch log an error message quotes.
const QUOTE_BYTES_MAX: u64 = 2000;
/// The folders of the work tmpfs, and where each is inside.
const WRITABLE: [(&str, &str); 4] = [
    ("slots", layout::WORK),
    ("tmp", layout::SHARED[0]),
    ("var-tmp", layout::SHARED[1]),
    ("shm", layout::SHARED[2]),
];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub struct ApptainerRuntime {
    tool: ApptainerTool,
    runner: PathBuf,
    seccomp: PathBuf,
}

impl ApptainerRuntime {
    /// Keeps the runner and the seccomp profile in `folder`, which must allow programs to run.
    pub fn new(tool: ApptainerTool, folder: &Path) -> Result<Self, ContainerError> {
        let (runner, seccomp) = (folder.join("runner"), folder.join("seccomp.json"));
        for (path, content, mode) in [(&runner, RUNNER, 0o755), (&seccomp, SECCOMP.as_bytes(), 0o644)] {
            install(path, content, mode).map_err(|err| ContainerError::Disk {
                path: path.clone(),
                err,
            })?;
        }
        Ok(Self {
            tool,
            runner,
            seccomp,
        })
    }

    /// Whether this kernel keeps a task from ending its container, which it could pass off as a fault of ours.
    pub fn fences_tasks(&self) -> bool {
        let asked = std::process::Command::new(&self.runner).arg("can-fence").status();
        asked.is_ok_and(|status| status.success())
    }

    fn plan(&self, spec: &ContainerSpec) -> Result<LaunchPlan, ContainerError> {
        let work = spec.folder.join("work");
        let mut mounts = vec![
            mount(&spec.folder.join("in"), layout::INPUT, Access::Read)?,
            mount(&self.runner, layout::RUNNER, Access::Read)?,
        ];
        for (folder, destination) in WRITABLE {
            mounts.push(mount(&work.join(folder), destination, Access::Write)?);
        }
        if let Some(staging) = &spec.staging {
            mounts.push(mount(staging, layout::STAGING, Access::Read)?);
        }
        let security = [
            format!("uid:{}", spec.uid),
            format!("gid:{}", spec.uid),
            format!("seccomp:{}", text(&self.seccomp)?),
        ];

        let mut command = vec![text(self.tool.path())?];
        let flags = "-q exec --containall --no-privs --no-eval --no-mount sys,bind-paths,home --net --network none --cwd /work";
        command.extend(flags.split(' ').map(str::to_owned));
        command.extend(
            security
                .into_iter()
                .flat_map(|value| ["--security".to_owned(), value]),
        );
        command.extend(mounts.into_iter().flat_map(|value| ["--mount".to_owned(), value]));
        let orphan_ms = spec.orphan.as_millis().to_string();
        command.extend([
            text(&spec.image)?,
            layout::RUNNER.to_owned(),
            "serve".to_owned(),
            orphan_ms,
        ]);
        Ok(LaunchPlan {
            cgroup_procs: spec.launcher_procs.clone(),
            work: WorkTmpfs {
                path: work,
                bytes_max: spec.work_bytes_max,
                inodes_max: spec.work_bytes_max / BYTES_PER_INODE,
                folders: WRITABLE.map(|(folder, _)| folder.to_owned()).to_vec(),
                uid: spec.uid,
            },
            command,
        })
    }

    /// Starts the launcher, which becomes Apptainer.
    async fn launch(&self, plan: &LaunchPlan, listener: OwnedFd, log: &File) -> io::Result<Child> {
        let mut command = Command::new(&self.runner);
        command
            .arg("launch")
            .arg(serde_json::to_string(plan)?)
            .current_dir("/")
            .env_clear()
            .stdin(Stdio::from(listener))
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?);
        loop {
            match command.spawn() {
                // Another thread forked while the runner's file was being written, and its child has not come to its
                // `exec` yet, which closes that descriptor.
                Err(err) if err.kind() == io::ErrorKind::ExecutableFileBusy => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                other => return other,
            }
        }
    }
}

#[async_trait]
impl ContainerRuntime for ApptainerRuntime {
    async fn check(&self) -> Result<(), ContainerError> {
        ApptainerTool::find(Some(self.tool.path())).await.map(|_tool| ())
    }

    async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, ContainerError> {
        let disk = |path: &Path| {
            let path = path.to_owned();
            |err| ContainerError::Disk { path, err }
        };
        let plan = self.plan(&spec)?;
        make_folders(&spec.folder).map_err(disk(&spec.folder))?;
        let listener = connection::listen(&spec.folder).map_err(|err| ContainerError::Connection { err })?;
        let log_path = spec.folder.join("launch.log");
        let log = File::create(&log_path).map_err(disk(&log_path))?;
        let launched = self.launch(&plan, listener, &log).await;
        let launch_failed = |err| ContainerError::Launch {
            path: self.runner.clone(),
            err,
        };
        let child = launched.map_err(launch_failed)?;
        // tokio waits for the child also after `child` is dropped. Until then its pid cannot be another's.
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        let pid = pid.ok_or(ContainerError::Ended)?;
        let container = ApptainerContainer::new(spec.id, spec.folder.clone(), pid).map_err(launch_failed)?;

        let started = async {
            Connection::open(&container.folder).await?;
            nothing_of_the_image_runs(&spec).await
        };
        let error = match tokio::time::timeout(START_TIMEOUT, started).await {
            Ok(Ok(())) => return Ok(Arc::new(container)),
            Ok(Err(ContainerError::Ended)) => ContainerError::NotStarted {
                said: tail(&log_path),
            },
            Ok(Err(err)) => err,
            Err(_elapsed) => ContainerError::NoAnswer { limit: START_TIMEOUT },
        };
        container.kill().map_err(launch_failed)?;
        container.ended().await;
        Err(error)
    }

    async fn adopt(
        &self,
        id: ContainerId,
        folder: &Path,
    ) -> Result<Option<Arc<dyn Container>>, ContainerError> {
        let adopt = async {
            let dialled = Dialled::dial(folder)?;
            let launcher = dialled
                .launcher()
                .map_err(|err| ContainerError::Connection { err })?;
            let container = match ApptainerContainer::new(id, folder.to_owned(), launcher) {
                Err(err) if err.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                    return Err(ContainerError::Ended);
                }
                other => other.map_err(|err| ContainerError::Connection { err })?,
            };
            // A container that answers now has a launcher that was alive a moment ago, when its pid was looked up; but a
            // runner may greet once more while its launcher is dead already.
            dialled.greeted().await?;
            if container.is_alive() {
                Ok(container)
            } else {
                Err(ContainerError::Ended)
            }
        };
        match tokio::time::timeout(START_TIMEOUT, adopt).await {
            Ok(Ok(container)) => Ok(Some(Arc::new(container))),
            Ok(Err(ContainerError::Ended)) => Ok(None),
            Ok(Err(err)) => Err(err),
            Err(_elapsed) => Err(ContainerError::NoAnswer { limit: START_TIMEOUT }),
        }
    }
}

struct ApptainerContainer {
    id: ContainerId,
    folder: PathBuf,
    /// Readable once Apptainer has ended, and with it all of the container.
    launcher: AsyncFd<OwnedFd>,
}

impl ApptainerContainer {
    fn new(id: ContainerId, folder: PathBuf, launcher: Pid) -> io::Result<Self> {
        let launcher = connection::watched(pidfd_open(launcher, PidfdFlags::empty())?)?;
        Ok(Self { id, folder, launcher })
    }

    fn files(&self, request: &RunRequest) -> Result<[OwnedFd; 2], ContainerError> {
        let open = |path: &Path, options: &mut OpenOptions| {
            let opened = options.mode(0o600).open(path);
            opened.map(OwnedFd::from).map_err(|err| ContainerError::Disk {
                path: path.to_owned(),
                err,
            })
        };
        Ok([
            open(&request.log, OpenOptions::new().append(true).create(true))?,
            open(
                &request.exit_record,
                OpenOptions::new().write(true).create_new(true),
            )?,
        ])
    }
}

#[async_trait]
impl Container for ApptainerContainer {
    fn id(&self) -> ContainerId {
        self.id
    }

    async fn run(
        &self,
        request: RunRequest,
        place: Place<'_>,
    ) -> Result<Box<dyn RunningTask>, ContainerError> {
        let inbox = Inbox::at(&self.folder, request.slot);
        inbox
            .publish(&request.task_file)
            .map_err(|err| ContainerError::Disk {
                path: inbox.task(&request.task_file),
                err,
            })?;
        let connection = Connection::open(&self.folder).await?;
        let supervisor = connection.supervisor;
        let placed = pidfd_open(supervisor, PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|pidfd| {
                place(supervisor)?;
                // Had it ended in between, the pid could have been another's.
                if has_ended(&pidfd) {
                    Err(io::ErrorKind::NotFound.into())
                } else {
                    Ok(())
                }
            });
        placed.map_err(|err| ContainerError::Place { err })?;

        let [log, record] = self.files(&request)?;
        let sent = connection
            .send(&Request::Run(run(&request)), &[log.as_fd(), record.as_fd()])
            .await;
        if let Err(err) = sent {
            // No run will write it, and one that is tried again needs the name.
            let _ = std::fs::remove_file(&request.exit_record);
            return Err(err);
        }
        let received = connection.receive().await?.ok_or(ContainerError::Ended)?;
        match received.message {
            Event::Started => Ok(Box::new(Running {
                connection,
                record: None,
            })),
            Event::Ended(record) => Ok(Box::new(Running {
                connection,
                record: Some(record),
            })),
            other => Err(ContainerError::Protocol {
                said: format!("`{other}` to a run"),
            }),
        }
    }

    async fn results(&self, slot: u32) -> Result<OwnedFd, ContainerError> {
        let connection = Connection::open(&self.folder).await?;
        connection.send(&Request::OpenResults { slot }, &[]).await?;
        let mut received = connection.receive().await?.ok_or(ContainerError::Ended)?;
        match (received.message, received.fds.pop()) {
            (Event::Results, Some(results)) => Ok(results),
            (Event::Refused { reason }, _) => Err(ContainerError::NoResults { said: reason }),
            (other, _) => Err(ContainerError::Protocol {
                said: format!("`{other}` for results"),
            }),
        }
    }

    fn clear_inbox(&self, slot: u32) -> io::Result<Inbox> {
        Inbox::clear(&self.folder, slot)
    }

    fn is_alive(&self) -> bool {
        !has_ended(self.launcher.get_ref())
    }

    async fn reassure(&self) {
        // A connection that asks for nothing is enough.
        let _ = Connection::open(&self.folder).await;
    }

    async fn ended(&self) {
        // Stays readable for ever; an error would mean that the runtime shuts down.
        let _ = self.launcher.readable().await;
    }

    fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.launcher, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }
}

struct Running {
    connection: Connection,
    /// Known already where the script did not start.
    record: Option<ExitRecord>,
}

#[async_trait]
impl RunningTask for Running {
    async fn wait(&mut self) -> Option<ExitRecord> {
        if let Some(record) = self.record.take() {
            return Some(record);
        }
        match self.connection.receive().await.ok()??.message {
            Event::Ended(record) => Some(record),
            _ => None,
        }
    }
}

/// Waits until of the container's user only its init and the runner are left. What an image starts before the runner would
/// be in no task's cgroup, so nobody would pay for it.
async fn nothing_of_the_image_runs(spec: &ContainerSpec) -> Result<(), ContainerError> {
    let Some(procs) = spec.launcher_procs.first() else {
        return Ok(());
    };
    let uid = format!("Uid:\t{}\t", spec.uid);
    let is_the_users = |pid: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains(&uid))
    };
    // The supervisor that greeted us needs a moment to end.
    let settling = async {
        loop {
            let pids = std::fs::read_to_string(procs).map_err(|err| ContainerError::Disk {
                path: procs.clone(),
                err,
            })?;
            if pids.lines().filter(|pid| is_the_users(pid)).count() <= RESIDENTS {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let over = tokio::time::timeout(SETTLING_TIMEOUT, settling).await;
    over.unwrap_or_else(|_| {
        Err(ContainerError::NotStarted {
            said: "the image starts programs of its own, which no task would pay for".to_owned(),
        })
    })
}

/// The script contract: `bash process_task.sh TASK_FILE RESULTS_DIR`.
fn run(request: &RunRequest) -> Run {
    let (inside, slot) = (Path::new("/"), request.slot);
    let [script, task_dir, results, scratch] =
        [layout::script, layout::task_dir, layout::results, layout::scratch]
            .map(|place| place(inside, slot).display().to_string());
    let defaults = [("PATH", PATH), ("HOME", &*scratch), ("TMPDIR", &*scratch)];
    let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Run {
        slot,
        alone: request.alone,
        argv: vec![
            "bash".to_owned(),
            script,
            format!("{task_dir}/{}", request.task_file),
            results,
        ],
        env: defaults.into_iter().chain(request.env.iter().cloned()).collect(),
        limits: request.limits,
    }
}

enum Access {
    Read,
    Write,
}

/// The value of a `--mount` flag. It is a line of CSV, so a comma in a path would begin another option.
fn mount(source: &Path, destination: &str, access: Access) -> Result<String, ContainerError> {
    let source = format!("source={}", text(source)?).replace('"', "\"\"");
    let read_only = match access {
        Access::Read => ",ro",
        Access::Write => "",
    };
    Ok(format!(
        "type=bind,\"{source}\",destination={destination}{read_only}"
    ))
}

fn text(path: &Path) -> Result<String, ContainerError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| ContainerError::Disk {
            path: path.to_owned(),
            err: io::Error::new(io::ErrorKind::InvalidFilename, "not UTF-8"),
        })
}

/// Puts a file in place as a whole. Running containers keep the one they have.
fn install(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    file::replace(path, mode, content)
}

fn make_folders(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for name in ["in", "work"] {
        let path = folder.join(name);
        DirBuilder::new().recursive(true).create(&path)?;
        set_mode(&path, 0o755)?;
    }
    Ok(())
}

fn has_ended(pidfd: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// The last lines of a log, on one line.
fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(QUOTE_BYTES_MAX)))?;
        let mut bytes = Vec::new();
        file.take(QUOTE_BYTES_MAX).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    super::tool::last_words(&read().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_add_options_to_its_mount() {
        let mount = |path: &str| mount(Path::new(path), "/in", Access::Read).unwrap();
        assert_eq!(mount("/a b"), r#"type=bind,"source=/a b",destination=/in,ro"#);
        assert_eq!(
            mount("/a,ro\"x"),
            r#"type=bind,"source=/a,ro""x",destination=/in,ro"#
        );
    }
}
