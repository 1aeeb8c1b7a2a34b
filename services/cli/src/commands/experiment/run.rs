//! `gridfaas experiment run`

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use container_manager::recording::{self, Entry};
use container_manager::scaler::PolicyName;
use lab::experiment::Experiment;
use lab::plot;
use lab::real::{Plan, Scale};
use lab::virtual_run::{self, Options};
use units::MilliCores;

use super::compare::{Row, Rows};
use super::{FOLDER, RECORDING, Source, policy, real};
use crate::output::Output;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// The services' own scaling and money code on a clock of its own: seconds for an hour
    Virtual,
    /// Real containers, `--speed` times faster, on the cores there are; prices rise so that balances stay the same
    Compressed,
    /// Real containers at full length
    Real,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// An experiment's name, or its file
    #[arg(value_name = "NAME|FILE")]
    experiment: PathBuf,
    /// How its time passes
    #[arg(long, value_enum, default_value = "virtual")]
    mode: Mode,
    /// How its containers are scaled, if not as it says itself: tracking, guardian or fixed
    #[arg(long, value_parser = policy)]
    policy: Option<PolicyName>,
    /// Seconds described that pass in one second of a compressed run
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..=1000))]
    speed: u32,
    /// How often each of its profiles is repeated, if not as often as it says: fewer make it shorter
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repeats: Option<u32>,
    /// Cores for each core described, of a real run [default: as many as the machine has, 1 at most]
    #[arg(long, value_name = "FACTOR")]
    cores_factor: Option<MilliCores>,
    /// The container image [default: the experiment's own in target/images]
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Where the files go [default: target/experiments/NAME]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Where experiments are
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    experiments: PathBuf,
}

/// Runs an experiment, or each of its variants in turn, and shows what it came to.
pub(super) async fn run(args: RunArgs, output: Output) -> anyhow::Result<()> {
    let source = Source::find(&args.experiment, &args.experiments)?;
    let experiment = Experiment::read(&source.path)?;
    let into = match &args.into {
        Some(into) => into.clone(),
        None => Path::new("target/experiments").join(&source.name),
    };
    let mut rows = Vec::new();
    for (variant, mut experiment) in experiment.variants() {
        if let Some(policy) = args.policy {
            experiment.function.policy = policy;
        }
        if let Some(repeats) = args.repeats {
            experiment = experiment.repeated(repeats);
        }
        let (name, into) = if variant.is_empty() {
            (source.name.clone(), into.clone())
        } else {
            (
                format!("{}, {variant}", source.name),
                into.join(folder_name(&variant)),
            )
        };
        let entries = match args.mode {
            Mode::Virtual => {
                let mut entries = virtual_run::run(&experiment, &Options::default())?;
                lab::real::rename(&mut entries, &name);
                entries
            }
            Mode::Compressed | Mode::Real => run_for_real(&args, &experiment, &name, output).await?,
        };
        write(&entries, &into)?;
        output.say(format!("written to {}", into.display()));
        rows.push(Row::of(&entries));
    }
    output.show(&Rows(rows))
}

/// `fixed, no accounting` as `fixed-no-accounting`.
fn folder_name(variant: &str) -> String {
    let words = variant
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

async fn run_for_real(
    args: &RunArgs,
    experiment: &Experiment,
    name: &str,
    output: Output,
) -> anyhow::Result<Vec<Entry>> {
    let files = real::Files::find(experiment, args.image.clone())?;
    let plan = Plan::of(experiment, name, scale(args, experiment)?)?;
    output.say(format!("running {} on a stack of its own", plan.name));
    real::run(&plan, experiment, &files, output).await
}

fn scale(args: &RunArgs, experiment: &Experiment) -> anyhow::Result<Scale> {
    let cores = std::thread::available_parallelism().context("the number of cores is not known")?;
    let machine = MilliCores::from_cores(u32::try_from(cores.get())?);
    let speed = match args.mode {
        Mode::Compressed => args.speed,
        Mode::Virtual | Mode::Real => 1,
    };
    let fits = Scale::that_fits(speed, machine, experiment.function.cpu_max_millicores);
    let cores = args.cores_factor.unwrap_or(fits.cores);
    ensure!(
        cores > MilliCores::ZERO && cores <= MilliCores::ONE_CORE,
        "a factor for the cores is more than 0 and at most 1"
    );
    Ok(Scale { cores, ..fits })
}

/// Everything that is kept of a run: the recording as it was, and CSV and plots in the time described.
pub(super) fn write(entries: &[Entry], into: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(into).with_context(|| format!("failed to make `{}`", into.display()))?;
    let path = into.join(RECORDING);
    let failed = || format!("failed to write `{}`", path.display());
    let mut file = BufWriter::new(File::create(&path).with_context(failed)?);
    for entry in entries {
        recording::write(&mut file, entry).with_context(failed)?;
    }
    file.flush().with_context(failed)?;
    lab::csv::write(&lab::real::stretched(entries), into)?;
    plot::write(entries, into)?;
    Ok(())
}
