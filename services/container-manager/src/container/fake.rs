//! A container runtime without containers: scripts run as children of this process, in the container's folder.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use runner::layout;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use units::ContainerId;

use super::{
    Container, ContainerError, ContainerRuntime, ContainerSpec, ExitRecord, Inbox, LogBytes, Outcome, Place,
    RunRequest, RunningTask,
};

/// Holds the script back until its process is placed, then becomes it, with an empty standard input.
const GATE: &str = r#"read -r _ && exec bash "$@" </dev/null"#;

#[derive(Default)]
pub struct FakeRuntime {
    containers: Mutex<HashMap<ContainerId, Arc<FakeContainer>>>,
    refusal: Mutex<Option<String>>,
}

impl FakeRuntime {
    /// The next start fails as if the container program had said this.
    pub fn refuse_next_start(&self, said: &str) {
        *lock(&self.refusal) = Some(said.to_owned());
    }

    /// Nothing is refused any more.
    pub fn accept_starts(&self) {
        *lock(&self.refusal) = None;
    }

    /// The containers that are alive.
    pub fn containers(&self) -> Vec<Arc<FakeContainer>> {
        lock(&self.containers)
            .values()
            .filter(|container| container.is_alive())
            .cloned()
            .collect()
    }

    /// Panics if a script still runs.
    pub fn assert_quiet(&self) {
        for container in lock(&self.containers).values() {
            let running = lock(&container.running).len();
            assert_eq!(running, 0, "scripts running in container {}", container.spec.id);
        }
    }
}

#[async_trait]
impl ContainerRuntime for FakeRuntime {
    async fn check(&self) -> Result<(), ContainerError> {
        match lock(&self.refusal).clone() {
            Some(said) => Err(ContainerError::NotStarted { said }),
            None => Ok(()),
        }
    }

    async fn start(&self, spec: ContainerSpec) -> Result<Arc<dyn Container>, ContainerError> {
        if let Some(said) = lock(&self.refusal).take() {
            return Err(ContainerError::NotStarted { said });
        }
        let made = std::fs::create_dir_all(spec.folder.join("in"));
        made.map_err(|err| ContainerError::Disk {
            path: spec.folder.clone(),
            err,
        })?;
        let container = Arc::new(FakeContainer {
            spec,
            alive: watch::Sender::new(true),
            running: Arc::default(),
        });
        lock(&self.containers).insert(container.spec.id, container.clone());
        Ok(container)
    }

    async fn adopt(
        &self,
        id: ContainerId,
        _folder: &Path,
    ) -> Result<Option<Arc<dyn Container>>, ContainerError> {
        let container = lock(&self.containers)
            .get(&id)
            .filter(|container| container.is_alive())
            .cloned();
        Ok(container.map(|container| container as Arc<dyn Container>))
    }
}

pub struct FakeContainer {
    spec: ContainerSpec,
    alive: watch::Sender<bool>,
    /// Process groups of the scripts.
    running: Arc<Mutex<Vec<Pid>>>,
}

impl FakeContainer {
    pub fn spec(&self) -> &ContainerSpec {
        &self.spec
    }

    async fn spawn(&self, request: &RunRequest, place: Place<'_>) -> io::Result<(Child, Pid)> {
        let (folder, slot) = (&self.spec.folder, request.slot);
        let (results, scratch) = (layout::results(folder, slot), layout::scratch(folder, slot));
        match std::fs::remove_dir_all(folder.join(format!("work/{slot}"))) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            _ => {}
        }
        std::fs::create_dir_all(&results)?;
        std::fs::create_dir_all(&scratch)?;
        let log = OpenOptions::new().append(true).create(true).open(&request.log)?;
        let mut child = Command::new("bash")
            .args(["-c", GATE, "bash"])
            .arg(layout::script(folder, slot))
            .arg(layout::task_dir(folder, slot).join(&request.task_file))
            .arg(&results)
            .current_dir(&scratch)
            .envs(request.env.iter().cloned())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        place(pid)?;
        let mut gate = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        gate.write_all(b"go\n").await?;
        Ok((child, pid))
    }
}

#[async_trait]
impl Container for FakeContainer {
    fn id(&self) -> ContainerId {
        self.spec.id
    }

    async fn run(
        &self,
        request: RunRequest,
        place: Place<'_>,
    ) -> Result<Box<dyn RunningTask>, ContainerError> {
        if !self.is_alive() {
            return Err(ContainerError::Ended);
        }
        let record_path = request.exit_record.clone();
        let begun = OpenOptions::new().write(true).create_new(true).open(&record_path);
        let begun = begun.and_then(|mut file| file.write_all(b"\n").map(|()| file));
        let record_file = begun.map_err(|err| ContainerError::Disk {
            path: record_path,
            err,
        })?;
        let (mut child, pid) = self
            .spawn(&request, place)
            .await
            .map_err(|err| ContainerError::Place { err })?;
        lock(&self.running).push(pid);
        let (end, ended) = oneshot::channel();
        let (log, running) = (request.log, self.running.clone());
        // As in a real container, the record is written whether anybody waits for it or not.
        tokio::spawn(async move {
            let Ok(status) = child.wait().await else { return };
            {
                let mut running = lock(&running);
                // Where the container was killed, its supervisors went with it.
                let Some(own) = running.iter().position(|&group| group == pid) else {
                    return;
                };
                running.swap_remove(own);
            }
            let record = record(status, std::fs::metadata(log).map_or(0, |log| log.len()));
            if serde_json::to_writer(record_file, &record).is_ok() {
                // Nobody has to be waiting.
                let _ = end.send(record);
            }
        });
        Ok(Box::new(FakeTask { ended }))
    }

    async fn results(&self, slot: u32) -> Result<OwnedFd, ContainerError> {
        let path = layout::results(&self.spec.folder, slot);
        let opened = std::fs::File::open(&path).map(OwnedFd::from);
        opened.map_err(|err| ContainerError::NoResults {
            said: err.to_string(),
        })
    }

    fn clear_inbox(&self, slot: u32) -> io::Result<Inbox> {
        Inbox::clear(&self.spec.folder, slot)
    }

    fn is_alive(&self) -> bool {
        *self.alive.borrow()
    }

    async fn reassure(&self) {}

    async fn ended(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.alive.subscribe().wait_for(|alive| !alive).await;
    }

    fn kill(&self) -> io::Result<()> {
        self.alive.send_replace(false);
        for group in lock(&self.running).drain(..) {
            match kill_process_group(group, Signal::KILL) {
                Err(rustix::io::Errno::SRCH) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

struct FakeTask {
    ended: oneshot::Receiver<ExitRecord>,
}

#[async_trait]
impl RunningTask for FakeTask {
    async fn wait(&mut self) -> Option<ExitRecord> {
        (&mut self.ended).await.ok()
    }
}

fn record(status: ExitStatus, log_bytes: u64) -> ExitRecord {
    let outcome = match status.code() {
        Some(code) => Outcome::Exited { code },
        None => Outcome::Killed {
            signal: status.signal().unwrap_or_default(),
        },
    };
    ExitRecord {
        outcome,
        user_us: 0,
        system_us: 0,
        log: LogBytes {
            written: log_bytes,
            cut: 0,
        },
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::RunLimits;
    use crate::results;

    fn spec(folder: &Path) -> ContainerSpec {
        ContainerSpec {
            id: ContainerId::new(),
            folder: folder.join("container"),
            image: "/image".into(),
            staging: None,
            uid: 1,
            work_bytes_max: 0,
            orphan: std::time::Duration::MAX,
            launcher_procs: Vec::new(),
        }
    }

    async fn begin(container: &dyn Container, folder: &Path, script: &str) -> Box<dyn RunningTask> {
        let inbox = container.clear_inbox(0).unwrap();
        inbox.write_script(script.as_bytes()).unwrap();
        std::fs::write(inbox.task("task"), "").unwrap();
        let request = RunRequest {
            slot: 0,
            alone: true,
            task_file: "task".to_owned(),
            env: Vec::new(),
            log: folder.join("log"),
            exit_record: folder.join("exit.json"),
            limits: RunLimits {
                log_bytes_max: 1 << 20,
            },
        };
        let placed = Mutex::new(None);
        let place = |pid| {
            *lock(&placed) = Some(pid);
            Ok(())
        };
        let task = container.run(request, &place).await.unwrap();
        assert!(lock(&placed).is_some());
        task
    }

    #[tokio::test]
    async fn a_script_runs_as_its_contract_says() {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), FakeRuntime::default());
        let container = runtime.start(spec(folder.path())).await.unwrap();
        let script = "echo $# $(basename $1) $(wc -c); echo x > $2/file; exit 3";
        let mut task = begin(&*container, folder.path(), script).await;
        let record = task.wait().await.unwrap();
        assert_eq!(record.outcome, Outcome::Exited { code: 3 });
        assert_eq!(
            std::fs::read_to_string(folder.path().join("log")).unwrap(),
            "2 task 0\n"
        );
        let results = results::collect(container.results(0).await.unwrap(), &results::Caps::default());
        assert_eq!(results.files.len(), 1);
        runtime.assert_quiet();
    }

    #[tokio::test]
    async fn a_killed_container_takes_its_scripts_along() {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), FakeRuntime::default());
        let container = runtime.start(spec(folder.path())).await.unwrap();
        let mut task = begin(&*container, folder.path(), "sleep 1000").await;
        runtime.containers()[0].kill().unwrap();
        container.ended().await;
        assert_eq!(
            task.wait().await,
            None,
            "the container took its supervisors along"
        );
        assert!(runtime.containers().is_empty());
        runtime.assert_quiet();
        assert!(
            runtime
                .adopt(container.id(), folder.path())
                .await
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test]
    async fn a_start_fails_on_request_once() {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), FakeRuntime::default());
        runtime.refuse_next_start("no such image");
        let refused = runtime.start(spec(folder.path())).await.err().unwrap();
        assert_eq!(refused.to_string(), "the container did not start: no such image");
        runtime.start(spec(folder.path())).await.unwrap();
    }
}
