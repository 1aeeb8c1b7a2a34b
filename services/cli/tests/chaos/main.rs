//! Chaos: every service in a process of its own, killed at random under load, with real containers.
//!
//! Two nodes share a store and a credit-manager, over a network that stalls and is cut, on a disk that fills up. Every two
//! seconds something is killed. Then everything is left alone, and has to come to rest: the audit proves that each accepted
//! file was done exactly once, that each bill is what the kernel counted, that the money adds up, and that nothing is left
//! behind; or it prints what does not.
//!
//! `CHAOS_SECONDS=600` goes on for longer, `CHAOS_SEED=7` chooses the same misfortunes; `deployment/scripts/chaos.sh` sets
//! the first. Its own `main`, because it is also the program of each of its processes.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

mod audit;
mod load;
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "the other test programs use the rest"
)]
#[path = "../common/processes/mod.rs"]
mod processes;

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use load::Load;
use processes::network::{Network, Weather};
use processes::roles::{self, Process, Role, Terms};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

/// What `cargo test` does of it.
const SECONDS: u64 = 20;
/// Between two misfortunes.
const PAUSE: Duration = Duration::from_secs(2);
/// Unpacked images take most of it.
const DISK: &std::ffi::CStr = c"size=900m,mode=700";
const NODES: usize = 2;
const TERMS: Terms = Terms {
    lease_ms: 10_000,
    node: "orphan_ms = 8000",
};
/// Longer than a lease: another node takes up what it ran.
const GONE: Duration = Duration::from_secs(12);
const HEALING_MAX: Duration = Duration::from_secs(300);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["role", role, folder] => roles::run(role.parse().unwrap(), Path::new(folder)),
        // Run for a filter that is not meant for it, or to list tests.
        [filter, ..] if !filter.starts_with('-') && !filter.contains("chaos") => {}
        ["--list", ..] => {}
        _ if !rustix::process::geteuid().is_root() => eprintln!("SKIPPED: containers need root"),
        _ => chaos(),
    }
}

/// This program runs its processes as well.
fn program(role: Role, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["role", role.name()]).arg(folder);
    command
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn chaos() {
    let seed = number("CHAOS_SEED", fastrand::u64(..));
    let duration = Duration::from_secs(number("CHAOS_SECONDS", SECONDS));
    println!("chaos for {} s, seed {seed}", duration.as_secs());
    let mut world = World::new(seed);
    world.set_up();
    let end = Instant::now() + duration;
    let mut next = Instant::now() + PAUSE;
    while Instant::now() < end {
        world.load.tick(&mut world.dice);
        world.tick();
        if Instant::now() >= next {
            next += PAUSE;
            world.misfortune();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    world.heal();
    let found = audit::audit(&mut world);
    world.report();
    if !found.is_empty() {
        let kept = world.keep();
        panic!(
            "{} broken:\n{}\nlogs: {}",
            found.len(),
            found.join("\n"),
            kept.display()
        );
    }
    println!("chaos ok");
}

pub(crate) struct World {
    dice: fastrand::Rng,
    pub(crate) folder: PathBuf,
    /// Outlives the disk.
    logs: tempfile::TempDir,
    pub(crate) processes: Vec<Process>,
    network: Network,
    pub(crate) load: Load,
    misfortunes: Vec<(&'static str, u64)>,
    /// When what was done to disk, network or a process ends.
    mended_at: Option<Instant>,
}

impl World {
    fn new(seed: u64) -> Self {
        let logs = tempfile::Builder::new()
            .prefix("gridfaas-chaos-")
            .tempdir()
            .unwrap();
        let folder = logs.path().join("disk");
        fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
        mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), DISK).unwrap();
        let network = Network::start();
        roles::configure(&folder, &network, &TERMS);
        let processes = Role::all(NODES).map(|role| {
            let log = fs::File::create(logs.path().join(format!("{}.log", role.name()))).unwrap();
            Process::new(role, &folder, Arc::new(log), program)
        });
        let processes = processes.collect();
        Self {
            dice: fastrand::Rng::with_seed(seed),
            load: Load::new(&folder, network.store),
            folder,
            logs,
            processes,
            network,
            misfortunes: Vec::new(),
            mended_at: None,
        }
    }

    fn set_up(&mut self) {
        for process in &mut self.processes {
            process.start();
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.load.gridfaas(&["ps"]).is_err() || self.load.gridfaas(&["user", "list"]).is_err() {
            assert!(
                Instant::now() < deadline,
                "no stack: {}",
                self.logs.path().display()
            );
            self.tick();
            std::thread::sleep(Duration::from_millis(100));
        }
        self.load.set_up();
    }

    /// Starts again what has ended, as an init system would, and ends what has lasted.
    fn tick(&mut self) {
        for process in &mut self.processes {
            process.restart_if_due();
        }
        if self.mended_at.is_some_and(|at| at <= Instant::now()) {
            self.mend();
        }
    }

    fn mend(&mut self) {
        self.mended_at = None;
        self.network.set(Weather::Fair);
        let _none = fs::remove_file(self.ballast());
        for process in &self.processes {
            process.signal(Signal::CONT);
        }
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    fn misfortune(&mut self) {
        let (dice, count) = (&mut self.dice, self.processes.len());
        let some = dice.usize(..count);
        let lasting = Duration::from_millis(dice.u64(200..4_000));
        let what = match dice.u32(0..100) {
            0..4 => {
                self.processes[count - 1].kill(GONE);
                "node gone"
            }
            4..60 => {
                self.processes[some].kill(lasting);
                self.processes[some].role.name()
            }
            60..66 => {
                for process in &mut self.processes {
                    process.kill(lasting);
                }
                "everything"
            }
            _ if self.mended_at.is_some() => return,
            66..74 => {
                self.network.set(Weather::Cut);
                "network cut"
            }
            74..82 => {
                self.network.set(Weather::Stalled);
                "network stalled"
            }
            82..90 => {
                self.processes[some].signal(Signal::STOP);
                "paused"
            }
            _ => {
                fill(&self.ballast());
                "disk full"
            }
        };
        if !matches!(what, "everything" | "node gone") && !Role::all(NODES).any(|role| role.name() == what) {
            self.mended_at = Some(Instant::now() + lasting);
        }
        match self.misfortunes.iter_mut().find(|(known, _)| *known == what) {
            Some((_, times)) => *times += 1,
            None => self.misfortunes.push((what, 1)),
        }
    }

    fn heal(&mut self) {
        self.mend();
        let deadline = Instant::now() + HEALING_MAX;
        while Instant::now() < deadline {
            self.tick();
            // One that was killed last comes back seconds later, and the audit asks all of them.
            if self.processes.iter_mut().all(Process::runs) && self.load.is_at_rest() {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn report(&self) {
        for (what, times) in &self.misfortunes {
            println!("{what:>20} {times}");
        }
        for process in &self.processes {
            println!(
                "{:>20} ended by itself {} times",
                process.role.name(),
                process.ended
            );
        }
        println!(
            "{:>20} {}, {} more perhaps",
            "accepted",
            self.load.accepted.len(),
            self.load.unclear.len()
        );
    }

    /// Leaves the logs where they are.
    fn keep(mut self) -> PathBuf {
        self.logs.disable_cleanup(true);
        self.logs.path().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.signal(Signal::CONT);
            process.kill(Duration::ZERO);
        }
        roles::remove_containers();
        // Whoever still holds a file of it keeps it for that long.
        let _ = unmount(&self.folder, UnmountFlags::DETACH);
    }
}

/// Takes all the room there is.
fn fill(ballast: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(ballast).unwrap();
    let chunk = vec![0; 1 << 20];
    while file.write_all(&chunk).is_ok() {}
}
