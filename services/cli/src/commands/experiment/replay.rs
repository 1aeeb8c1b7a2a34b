//! `gridfaas experiment replay` and `fidelity`: what was recorded or published, again in virtual time.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use container_manager::scaler::PolicyName;
use lab::experiment::Kind;
use serde::Serialize;
use units::{CpuPrice, CpuTime};

use super::compare::{Row, Rows};
use super::run::write;
use super::{FOLDER, policy, read};
use crate::output::{Output, Show};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tasks {
    /// They filled a time: under another limit they end when they did, and use more or less
    Burn,
    /// They did work: under another limit it takes more or less time
    Work,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// JSON lines, of a run or of `gridfaas up --record`
    recording: PathBuf,
    /// How containers are scaled this time: tracking, guardian or fixed
    #[arg(long, value_parser = policy, default_value = "tracking")]
    policy: PolicyName,
    /// What one GRC buys this time; of a compressed recording, in the time described
    #[arg(long, value_name = "N", default_value = "600", value_parser = clap::value_parser!(u32).range(1..))]
    core_seconds_per_grc: u32,
    /// What the tasks did, which a recording does not tell
    #[arg(long, value_enum, default_value = "work")]
    tasks: Tasks,
    /// Where the files go [default: `replay` beside the recording]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct FidelityArgs {
    /// Where experiments are
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    experiments: PathBuf,
}

/// Replays a recording, and shows it below what was recorded.
pub(super) fn replay(args: &ReplayArgs, output: Output) -> anyhow::Result<()> {
    let recorded = read(&args.recording)?;
    let price = CpuPrice::from_cpu_time_per_grc(CpuTime::from_secs(args.core_seconds_per_grc.into()))?;
    let kind = match args.tasks {
        Tasks::Burn => Kind::Burn,
        Tasks::Work => Kind::Work,
    };
    let replayed = lab::replay::replay(&recorded, args.policy, price, kind)?;
    let beside = || args.recording.parent().unwrap_or(Path::new(".")).join("replay");
    let into = args.into.clone().unwrap_or_else(beside);
    write(&replayed, &into)?;
    output.say(format!("written to {}", into.display()));
    output.show(&Rows(vec![Row::of(&recorded), Row::of(&replayed)]))
}

/// The table of `docs/fidelity.md`.
#[derive(Serialize)]
struct Fidelity {
    figures: Vec<Published>,
    #[serde(skip)]
    table: String,
}

#[derive(Serialize)]
struct Published {
    run: &'static str,
    published: String,
    replayed: String,
    is_within: bool,
    why: Option<&'static str>,
    ours: String,
}

impl Show for Fidelity {
    fn text(&self) -> String {
        self.table.clone()
    }
}

pub(super) fn fidelity(args: &FidelityArgs, output: Output) -> anyhow::Result<()> {
    let figures = lab::fidelity::rows(&args.experiments)?
        .into_iter()
        .map(|row| Published {
            run: row.run,
            published: row.published,
            replayed: row.replayed,
            is_within: row.is_within,
            why: row.why,
            ours: row.ours,
        });
    output.show(&Fidelity {
        figures: figures.collect(),
        table: lab::fidelity::table(&args.experiments)?,
    })
}
