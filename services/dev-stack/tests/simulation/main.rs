//! credit-manager, several nodes, a bad network and a lying wallet, in virtual time and from one seed.
//!
//! The real service, its ledger on disk, the nodes' real meters and clients run on one thread; what is not real is the
//! network between them, the wallet, the CPU time and the clock. The invariants of money are judged after every commit,
//! from outside. After a time of chaos nothing fails any more, and everything has to come to rest and to add up.
//!
//! `SIMULATION_SEEDS=10000` runs more seeds, `SIMULATION_FIRST=77` begins with another; `deployment/scripts/simulate.sh`
//! sets both.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic is how a failure is reported"
)]

mod cpu;
mod dice;
mod laws;
mod network;
mod node;
mod process;
mod wallet;
mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use world::Outcome;

const SEEDS: u64 = 500;

thread_local! {
    /// The first panic of this thread's run: most happen in a task that nobody waits for.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Ends a run in which a task has panicked.
fn assert_no_panic() {
    let panicked = PANIC.with_borrow(Option::is_some);
    assert!(!panicked, "a task panicked");
}

fn remember_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            PANIC.with_borrow_mut(|panic| {
                panic.get_or_insert_with(|| info.to_string());
            });
            usual(info);
        }));
    });
}

/// In memory where the system has it: the process ends in these runs, never the machine.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

fn run(seed: u64) -> Result<Outcome, String> {
    remember_panics();
    PANIC.set(None);
    let folder = folder();
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(world::run(seed, folder.path()))
    }));
    match (ran, PANIC.take()) {
        (Ok(outcome), None) => Ok(outcome),
        (_, panic) => Err(format!("seed {seed}: {}", panic.unwrap_or_default())),
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn money_stays_right_whatever_fails() {
    let first = number("SIMULATION_FIRST", 0);
    let end = first + number("SIMULATION_SEEDS", SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, failures) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let (commits, crashes) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    match run(seed) {
                        Ok(outcome) => {
                            commits.fetch_add(outcome.commits, Ordering::Relaxed);
                            crashes.fetch_add(outcome.crashes, Ordering::Relaxed);
                        }
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "seeds {first} to {}: {commits:?} commits judged, {crashes:?} crashes of credit-manager, {seconds:.1} s",
        end - 1
    );
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn a_seed_is_always_the_same_run() {
    let seed = 4;
    let (first, second) = (run(seed).unwrap(), run(seed).unwrap());
    assert!(first.commits > 100, "{} commits", first.commits);
    assert_eq!(first, second);
}
