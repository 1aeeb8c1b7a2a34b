//! A stack that `gridfaas up` started, with real containers, for the tests beside.
//!
//! Needs root, Apptainer, and the image that `images/build.sh base` makes.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "each test program uses its part"
)]

pub mod browser;
pub mod console;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use dev_stack::{Endpoints, S3Credentials};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub const DEADLINE: Duration = Duration::from_secs(300);

/// A running stack on a folder of its own; stopped when dropped.
pub struct Stack {
    folder: TempDir,
    /// What `gridfaas up` is told.
    arguments: Vec<String>,
    up: Option<Child>,
}

fn gridfaas(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gridfaas"));
    command.env("GRIDFAAS_DATA_DIR", data_dir);
    command
}

/// `gridfaas up` on any ports.
pub fn up(data_dir: &Path) -> Command {
    let mut command = gridfaas(data_dir);
    command.arg("up");
    for port in [
        "--s3-port",
        "--container-port",
        "--credit-port",
        "--chain-port",
        "--dashboard-port",
        "--node-port",
    ] {
        command.args([port, "0"]);
    }
    command
}

impl Stack {
    /// `None`, said aloud, for whoever may not make containers.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    pub fn start_with(arguments: &[&str]) -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: containers need root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut stack = Self {
            folder,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            up: None,
        };
        stack.serve();
        Some(stack)
    }

    /// A stack that somebody else runs on a folder.
    pub fn of(folder: TempDir) -> Self {
        Self {
            folder,
            arguments: Vec::new(),
            up: None,
        }
    }

    /// Runs `gridfaas up` on the folder as it is.
    fn serve(&mut self) {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.path("up.log"))
            .unwrap();
        let _last_run = fs::remove_file(self.path("endpoints.json"));
        self.up = Some(
            up(self.folder())
                .args(&self.arguments)
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
        let started = Instant::now();
        while !self.path("endpoints.json").exists() {
            let ended = self.up.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < DEADLINE,
                "no stack: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the stack's process as a crash would, and starts another on what it left.
    pub fn crash_and_restart(&mut self) {
        let mut up = self.up.take().unwrap();
        up.kill().unwrap();
        up.wait().unwrap();
        self.serve();
    }

    /// Asks again and again until the answer is right.
    pub fn until(&self, what: &str, arguments: &[&str], right: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let answer = self.json(arguments);
            if right(&answer) {
                return answer;
            }
            assert!(
                started.elapsed() < DEADLINE,
                "{what} does not come: {answer:#}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A function whose script is `script`, on the base image.
    pub fn function(&self, name: &str, user: &str, script: &str) {
        let script = self.file(&format!("{name}.sh"), script);
        self.text(&[
            "function",
            "create",
            name,
            "--user",
            user,
            "--image",
            &base_image(),
            "--script",
            &script,
        ]);
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command that finds this stack.
    pub fn gridfaas(&self) -> Command {
        gridfaas(self.folder())
    }

    /// Where its parts are.
    pub fn endpoints(&self) -> Endpoints {
        Endpoints::read(self.folder()).unwrap().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("up.log")).unwrap_or_default()
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.gridfaas().args(arguments).output().unwrap()
    }

    /// What a command that succeeds prints.
    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {output:?}\n{}",
            self.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[&["--output", "json"], arguments].concat())).unwrap()
    }

    /// What a command that fails says.
    pub fn error(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, b"", "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// A file with this content, for a command's argument.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// One call of the store.
    pub fn s3<T>(&self, call: impl AsyncFnOnce(Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let client = s3(self.folder()).expect("a running stack");
        runtime.unwrap().block_on(call(client))
    }

    pub fn put_object(&self, bucket: &str, key: &str, body: &str) {
        let body = body.as_bytes().to_vec();
        self.s3(async |s3| {
            s3.put_object()
                .bucket(bucket)
                .key(key)
                .body(body.into())
                .send()
                .await
                .map(drop)
        })
        .unwrap();
    }

    /// An object's JSON; `None` if there is no such object.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Value> {
        self.s3(async |s3| {
            let object = s3.get_object().bucket(bucket).key(key).send().await.ok()?;
            let body = object.body.collect().await.unwrap();
            Some(serde_json::from_slice(&body.into_bytes()).unwrap())
        })
    }

    /// Waits for an object of JSON.
    pub fn until_object(&self, bucket: &str, key: &str) -> Value {
        let started = Instant::now();
        loop {
            if let Some(object) = self.object(bucket, key) {
                return object;
            }
            assert!(started.elapsed() < DEADLINE, "no `{key}`: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The physical memory of the stack's process.
    pub fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The CPU time that the stack's process has used.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        // After the name, which may hold anything: user and system ticks of 10 ms.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = [11, 12].map(|at| fields[at].parse::<u64>().unwrap()).iter().sum();
        Duration::from_millis(ticks * 10)
    }

    fn proc(&self, file: &str) -> PathBuf {
        let up = self.up.as_ref().unwrap();
        Path::new("/proc").join(up.id().to_string()).join(file)
    }

    /// The keys of a bucket.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let page = self.s3(async |s3| s3.list_objects_v2().bucket(bucket).send().await.unwrap());
        let objects = page.contents.unwrap_or_default();
        objects.into_iter().filter_map(|object| object.key).collect()
    }

    /// Interrupts the stack; its exit status.
    pub fn stop(&mut self) -> Option<i32> {
        let mut up = self.up.take()?;
        kill_process(Pid::from_child(&up), Signal::TERM).unwrap();
        up.wait().unwrap().code()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A client of the store that runs now; `None` while none does.
pub fn s3(data_dir: &Path) -> Option<Client> {
    let endpoints = Endpoints::read(data_dir).unwrap()?;
    let credentials = S3Credentials::read(&endpoints.s3_credentials_file).unwrap();
    Some(client(&endpoints.s3_url, &credentials))
}

/// A client of a store with this key.
pub fn client(url: &str, credentials: &S3Credentials) -> Client {
    Client::from_conf(credentials.client_config(url).build())
}

/// Whether the task's script runs: a crash before it began is no attempt of the task's.
pub fn has_begun(task: &Value) -> bool {
    task["state"] == "running" && task["cpu_time_us"].as_u64() > Some(0)
}

/// An amount as the CLI prints it, in halfords.
pub fn halfords(amount: &Value) -> i64 {
    amount.as_str().unwrap().replace('.', "").parse().unwrap()
}

pub fn base_image() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images/base.sif");
    let found = path
        .canonicalize()
        .expect("no test image; hint: run `images/build.sh base`");
    found.to_str().unwrap().to_owned()
}
