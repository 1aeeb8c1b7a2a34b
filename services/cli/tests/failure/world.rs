//! Services in processes of their own, for one test after the other.

#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "the other test programs use the rest"
)]
#[path = "../common/processes/mod.rs"]
pub(crate) mod processes;

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{DEADLINE, Stack, halfords};
use processes::network::Network;
use processes::roles::{self, Process, Role, Terms};

/// Leases as short as a busy machine can keep.
const TERMS: Terms = Terms {
    lease_ms: 5_000,
    node: "orphan_ms = 4000\nreport_ms = 200\npoll_idle_ms = 200",
};
/// What a process is to be, and on which folder.
const ROLE: &str = "GRIDFAAS_TEST_ROLE";
const FOLDER: &str = "GRIDFAAS_TEST_FOLDER";
pub(crate) const FUNDS: i64 = 500_000_000;

/// They share user ids, and the machine is small.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs the service that this process is to be, if it is to be one, until its end.
pub(crate) fn is_a_service() -> bool {
    let (Ok(role), Some(folder)) = (std::env::var(ROLE), std::env::var_os(FOLDER)) else {
        return false;
    };
    roles::run(role.parse().unwrap(), Path::new(&folder));
    true
}

fn program(role: Role, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role.name()).env(FOLDER, folder);
    command
}

/// Every service, with `alice`, who has some money.
pub(crate) struct World {
    stack: Stack,
    pub(crate) processes: Vec<Process>,
    /// Outlives a disk.
    _logs: TempDir,
    is_disk: bool,
    _turn: MutexGuard<'static, ()>,
}

impl Deref for World {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl World {
    /// `None`, said aloud, for whoever may not make containers. With a disk of its own of a size, if that is given as an option
    /// of tmpfs.
    pub(crate) fn start(nodes: usize, disk: Option<&CStr>) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: containers need root");
            return None;
        }
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (folder, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        if let Some(size) = disk {
            mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), size).unwrap();
        }
        let log = logs.path().join("log");
        symlink(&log, folder.path().join("up.log")).unwrap();
        let log = Arc::new(fs::File::options().append(true).create(true).open(log).unwrap());
        roles::configure(folder.path(), &Network::start().direct(), &TERMS);
        let process = |role| Process::new(role, folder.path(), log.clone(), program);
        let mut world = Self {
            processes: Role::all(nodes).map(process).collect(),
            stack: Stack::of(folder),
            _logs: logs,
            is_disk: disk.is_some(),
            _turn: turn,
        };
        for process in &mut world.processes {
            process.start();
        }
        world.until_served();
        world.text(&["user", "add", "alice"]);
        world.text(&["user", "fund", "alice", "5", "--mine", "--wait"]);
        Some(world)
    }

    fn until_served(&mut self) {
        let started = Instant::now();
        while [&["ps"], &["audit"]]
            .into_iter()
            .any(|asked| !self.run(asked).status.success())
        {
            assert!(started.elapsed() < DEADLINE, "no services: {}", self.log());
            // Each may have been started before one that it needs.
            for process in &mut self.processes {
                process.restart_if_due();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for process in &mut self.processes {
            process.ended = 0;
        }
    }

    pub(crate) fn process(&mut self, role: Role) -> &mut Process {
        self.processes
            .iter_mut()
            .find(|process| process.role == role)
            .unwrap()
    }

    /// As a crash would, and for good.
    pub(crate) fn kill(&mut self, role: Role) {
        self.process(role).kill(Duration::ZERO);
    }

    /// Also waits until the first node answers.
    pub(crate) fn start_again(&mut self, role: Role) {
        self.process(role).start();
        let started = Instant::now();
        while !self.run(&["ps"]).status.success() {
            assert!(started.elapsed() < DEADLINE, "it does not serve: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is said to keep a function from running: by the list of tasks and by the list of functions.
    pub(crate) fn until_problem(&self, function: &str, what: &str) {
        let is_said = |problem: &Value| {
            problem["error"]
                .as_str()
                .is_some_and(|error| error.contains(what))
        };
        self.until(what, &["ps", "--function", function], |tasks| {
            is_said(&tasks["waiting"][0]["problem"])
        });
        let functions = self.json(&["function", "list"]);
        let mut functions = functions.as_array().unwrap().iter();
        let listed = functions.find(|listed| listed["name"] == function).unwrap();
        assert!(is_said(&listed["problem"]), "{listed:#}");
    }

    /// Waits until so many files have succeeded and nothing keeps their function from running. One that could not even be
    /// moved is another task the next time.
    pub(crate) fn until_done(&self, function: &str, count: usize) -> Value {
        let is_done = |answer: &Value| {
            let mut newest = BTreeMap::new();
            for task in answer["tasks"].as_array().unwrap() {
                newest.entry(task["task"].to_string()).or_insert(&task["state"]);
            }
            let all = newest.len() == count && newest.values().all(|state| *state == "succeeded");
            all && answer["waiting"][0]["problem"].is_null()
        };
        self.until("the end of all tasks", &["ps", "--function", function], is_done)
    }

    /// Everything adds up, nobody was started again, and everybody stops in order and leaves nothing.
    pub(crate) fn end(mut self) {
        // The wallet follows in a moment.
        let started = Instant::now();
        while !self.run(&["audit"]).status.success() {
            assert!(
                started.elapsed() < DEADLINE,
                "{}\n{}",
                self.text(&["audit"]),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        let tasks = self.json(&["ps", "--limit", "1000"])["tasks"].clone();
        let charged: i64 = tasks
            .as_array()
            .unwrap()
            .iter()
            .map(|task| halfords(&task["amount"]))
            .sum();
        let balance = halfords(&self.json(&["balance", "alice"])["balance"]);
        assert_eq!(balance, FUNDS - charged, "{tasks:#}");
        let log = self.log();
        for process in self.processes.iter_mut().rev() {
            if !process.runs() {
                assert_eq!(process.ended, 0, "{} ended by itself: {log}", process.role.name());
                continue;
            }
            assert_eq!(process.stop(), Some(0), "{}: {log}", process.role.name());
        }
        let started = Instant::now();
        while !roles::contained().is_empty() {
            assert!(
                started.elapsed() < DEADLINE,
                "processes are left: {:?}",
                roles::contained()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.kill(Duration::ZERO);
        }
        roles::remove_containers();
        if self.is_disk {
            // Whoever still holds a file of it keeps it for that long.
            while unmount(self.folder(), UnmountFlags::DETACH).is_ok() {}
        }
    }
}
