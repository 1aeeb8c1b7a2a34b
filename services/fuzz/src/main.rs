//! `fuzz [--seconds N] [TARGET...]`: mutates the corpus until something breaks.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use fuzz::{TARGETS, Target, mutate};

/// Mutates the corpus of each target until the time is over. What breaks one is left in the corpus.
#[derive(Parser)]
struct Args {
    /// For each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Chooses the mutations
    #[arg(long)]
    seed: Option<u64>,
    /// All of them, unless named
    targets: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let chosen =
        |target: &&Target| args.targets.is_empty() || args.targets.iter().any(|name| name == target.name);
    let mut broken = 0;
    for target in TARGETS.iter().filter(chosen) {
        let (inputs, found) = run(target, Duration::from_secs(args.seconds), seed);
        match found {
            None => println!("{:>16} {inputs} inputs, seed {seed}", target.name),
            Some(path) => {
                broken += 1;
                println!("{:>16} broken by input {inputs}: {}", target.name, path.display());
            }
        }
    }
    if broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// How many inputs were tried, and where the one is that broke it.
fn run(target: &Target, duration: Duration, seed: u64) -> (u64, Option<PathBuf>) {
    let mut pool: Vec<Vec<u8>> = target.corpus().into_iter().map(|(_, bytes)| bytes).collect();
    let mut dice = fastrand::Rng::with_seed(seed);
    let (end, mut inputs) = (Instant::now() + duration, 0);
    while Instant::now() < end {
        let (one, other) = (dice.usize(..pool.len()), dice.usize(..pool.len()));
        let input = mutate(&pool[one], &pool[other], &mut dice);
        inputs += 1;
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            return (inputs, Some(save(target, seed, inputs, &input)));
        }
        // Some go on from where others ended.
        if dice.u32(0..1000) == 0 {
            pool.push(input);
        }
    }
    (inputs, None)
}

fn save(target: &Target, seed: u64, number: u64, input: &[u8]) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name);
    let path = folder.join(format!("found-{seed:x}-{number}"));
    let written = std::fs::File::create(&path).and_then(|mut file| file.write_all(input));
    if let Err(err) = written {
        eprintln!("not kept: {err}: {input:?}");
    }
    path
}
