//! A container of the real Apptainer, for the tests that need one.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "each test program uses its part"
)]

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use container_manager::container::{
    ApptainerRuntime, ApptainerTool, Container, ContainerError, ContainerRuntime, ContainerSpec, ExitRecord,
    Outcome, RunLimits, RunRequest, RunningTask,
};
use tempfile::TempDir;
use units::ContainerId;

pub const DEADLINE: Duration = Duration::from_secs(60);
pub const WORK_BYTES: u64 = 32 << 20;
/// Each container gets a user id of its own, as in the service, also beside another test program.
fn fresh_uid() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1_900_000_000 + std::process::id() % 1_000_000 * 64 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A runtime with one container.
pub struct Stage {
    pub folder: TempDir,
    pub runtime: ApptainerRuntime,
    pub spec: ContainerSpec,
    pub container: Arc<dyn Container>,
}

pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: containers need root");
    }
    root
}

pub fn image(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/images")
        .join(name);
    let found = path.canonicalize();
    found.unwrap_or_else(|_| {
        panic!("no test image `target/images/{name}`; hint: run `images/build.sh base target/images/{name}`")
    })
}

pub async fn tool() -> ApptainerTool {
    ApptainerTool::find(None)
        .await
        .unwrap_or_else(|err| panic!("{err}; hint: {}", err.hint().unwrap_or_default()))
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("it should not have taken a minute")
}

pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Stage {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await.unwrap()
    }

    pub async fn start_with(change: impl FnOnce(&mut ContainerSpec)) -> Result<Self, ContainerError> {
        let folder = tempfile::tempdir().unwrap();
        let runtime = ApptainerRuntime::new(tool().await, &folder.path().join("runtime")).unwrap();
        let staging = folder.path().join("staging, with \"quotes\"");
        fs::create_dir(&staging).unwrap();
        fs::write(staging.join("reference"), "reference data").unwrap();
        let id = ContainerId::new();
        let mut spec = ContainerSpec {
            id,
            folder: folder.path().join("containers").join(id.to_string()),
            image: image("base.dir"),
            staging: Some(staging),
            uid: fresh_uid(),
            orphan: DEADLINE,
            work_bytes_max: WORK_BYTES,
            launcher_procs: Vec::new(),
        };
        change(&mut spec);
        let container = within(runtime.start(spec.clone())).await?;
        Ok(Self {
            folder,
            runtime,
            spec,
            container,
        })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A request for `script`, whose log and record are called `name`.
    pub fn request(&self, name: &str, slot: u32, script: &str) -> RunRequest {
        let inbox = self.container.clear_inbox(slot).unwrap();
        inbox.write_script(script.as_bytes()).unwrap();
        fs::write(inbox.task("a task.txt"), "task content").unwrap();
        RunRequest {
            slot,
            alone: slot == 0,
            task_file: "a task.txt".to_owned(),
            env: vec![("GRIDFAAS_TASK".to_owned(), "dir/a task.txt".to_owned())],
            log: self.file(&format!("{name}.log")),
            exit_record: self.file(&format!("{name}.json")),
            limits: RunLimits {
                log_bytes_max: 1 << 20,
            },
        }
    }

    pub async fn begin(&self, request: RunRequest) -> Box<dyn RunningTask> {
        within(self.container.run(request, &|_| Ok(()))).await.unwrap()
    }

    /// Runs `script` to its end; its record and its log.
    pub async fn run(&self, name: &str, script: &str) -> (ExitRecord, String) {
        let request = self.request(name, 0, script);
        let (log, record_path) = (request.log.clone(), request.exit_record.clone());
        let mut task = self.begin(request).await;
        let record = within(task.wait()).await.expect("the run has an end");
        assert_eq!(
            record_in(&record_path).as_ref(),
            Some(&record),
            "the file says what the connection said"
        );
        (record, fs::read_to_string(log).unwrap())
    }

    /// Runs `script`, which has to succeed; its log.
    pub async fn run_well(&self, name: &str, script: &str) -> String {
        let (record, log) = self.run(name, &format!("set -eu\n{script}")).await;
        assert_eq!(record.outcome, Outcome::Exited { code: 0 }, "{log}");
        log
    }

    /// Lets a script go on that waits for `$(dirname "$0")/go`.
    pub fn go(&self, slot: u32) {
        fs::write(self.spec.folder.join(format!("in/{slot}/go")), "").unwrap();
    }

    pub fn processes(&self) -> usize {
        self.pids().len()
    }

    /// The pids on the host of all that runs as the container's user.
    pub fn pids(&self) -> Vec<String> {
        let uid = format!("Uid:\t{}\t", self.spec.uid);
        let is_ours =
            |path: PathBuf| fs::read_to_string(path.join("status")).is_ok_and(|status| status.contains(&uid));
        fs::read_dir("/proc")
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| is_ours(entry.path()))
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.container.kill().unwrap();
    }
}

pub fn record_in(path: &Path) -> Option<ExitRecord> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
