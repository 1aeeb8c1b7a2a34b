//! `gridfaas experiment`: the laboratory.

mod real;

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use container_manager::recording::{self, Entry};
use container_manager::scaler::PolicyName;
use lab::experiment::Experiment;
use lab::plot;
use lab::real::{Plan, Scale};
use serde::Serialize;
use units::MilliCores;

use crate::output::{Output, Show, columns};

/// Below the folder the command is run in, or the root of the file system.
const FOLDER: &str = "experiments";
const FILE: &str = "experiment.toml";
const RECORDING: &str = "recording.jsonl";

#[derive(Debug, Subcommand)]
pub(crate) enum ExperimentCommand {
    /// List the experiments there are
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Run one, in virtual time or for real; leaves recording, CSV, plots and summary
    Run(RunArgs),
    /// Draw a recording: funds, CPU and tasks, each as SVG and PNG
    Plot(PlotArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Where experiments are
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    experiments: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
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
    #[arg(long, value_enum)]
    mode: Mode,
    /// How its containers are scaled, if not as it says itself: tracking, guardian or fixed
    #[arg(long, value_parser = policy)]
    policy: Option<PolicyName>,
    /// Seconds described that pass in one second of a compressed run
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..=1000))]
    speed: u32,
    /// Cores for each core described [default: as many as the machine has, 1 at most]
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

#[derive(Debug, Args)]
pub(crate) struct PlotArgs {
    /// JSON lines, of a run or of `gridfaas up --record`
    recording: PathBuf,
    /// Where the plots go [default: beside the recording]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

fn policy(text: &str) -> anyhow::Result<PolicyName> {
    [PolicyName::Tracking, PolicyName::Guardian, PolicyName::Fixed]
        .into_iter()
        .find(|policy| policy.to_string() == text)
        .context("there are tracking, guardian and fixed")
}

#[derive(Serialize)]
#[serde(transparent)]
struct Experiments(Vec<Found>);

#[derive(Serialize)]
struct Found {
    name: String,
    title: String,
    tasks: usize,
}

impl Show for Experiments {
    fn text(&self) -> String {
        columns(
            ["NAME", "TASKS", "TITLE"],
            self.0
                .iter()
                .map(|found| [found.name.clone(), found.tasks.to_string(), found.title.clone()]),
        )
    }
}

/// Files that were written.
#[derive(Serialize)]
struct Written {
    files: Vec<PathBuf>,
}

impl Show for Written {
    fn text(&self) -> String {
        columns(
            ["FILE"],
            self.files.iter().map(|path| [path.display().to_string()]),
        )
    }
}

pub(crate) async fn run(command: ExperimentCommand, output: Output) -> anyhow::Result<()> {
    match command {
        ExperimentCommand::List(args) => list(&args, output),
        ExperimentCommand::Run(args) => run_one(args, output).await,
        ExperimentCommand::Plot(args) => draw(&args, output),
    }
}

fn list(args: &ListArgs, output: Output) -> anyhow::Result<()> {
    let failed = || format!("failed to list `{}`", args.experiments.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(&args.experiments).with_context(failed)? {
        let folder = entry.with_context(failed)?;
        let path = folder.path().join(FILE);
        if path.is_file() {
            let experiment = Experiment::read(&path)?;
            found.push(Found {
                name: folder.file_name().to_string_lossy().into_owned(),
                tasks: experiment.tasks().len(),
                title: experiment.title,
            });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    output.show(&Experiments(found))
}

/// An experiment's file, its name, and the folder with `images` and `target` beside it.
struct Source {
    path: PathBuf,
    name: String,
    root: PathBuf,
}

impl Source {
    fn find(experiment: &Path, experiments: &Path) -> anyhow::Result<Self> {
        let path = if experiment.is_file() {
            experiment.to_owned()
        } else {
            experiments.join(experiment).join(FILE)
        };
        ensure!(
            path.is_file(),
            "no experiment `{}` (hint: `gridfaas experiment list` shows those below `{}`)",
            experiment.display(),
            experiments.display()
        );
        let path = std::path::absolute(&path)?;
        let folder = path.parent().and_then(Path::file_name);
        let name = folder.map_or_else(
            || "experiment".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
        let root = path.ancestors().nth(3).unwrap_or(&path).to_owned();
        Ok(Self { path, name, root })
    }
}

async fn run_one(args: RunArgs, output: Output) -> anyhow::Result<()> {
    let source = Source::find(&args.experiment, &args.experiments)?;
    let mut experiment = Experiment::read(&source.path)?;
    if let Some(policy) = args.policy {
        experiment.function.policy = policy;
    }
    let into = args.into.clone();
    let into = into.unwrap_or_else(|| Path::new("target/experiments").join(&source.name));
    let plan = plan(&args, &experiment, &source.name)?;
    let files = real::Files::find(&source.root, &experiment, args.image)?;
    output.say(format!("running {} on a stack of its own", plan.name));
    let entries = real::run(&plan, &experiment, &files, output).await?;
    output.show(&Written {
        files: write(&entries, &into)?,
    })
}

fn plan(args: &RunArgs, experiment: &Experiment, name: &str) -> anyhow::Result<Plan> {
    let cores = std::thread::available_parallelism().context("the number of cores is not known")?;
    let machine = MilliCores::from_cores(u32::try_from(cores.get())?);
    let speed = match args.mode {
        Mode::Compressed => args.speed,
        Mode::Real => 1,
    };
    let fits = Scale::that_fits(speed, machine, experiment.function.cpu_max_millicores);
    let cores = args.cores_factor.unwrap_or(fits.cores);
    if cores == MilliCores::ZERO || cores > MilliCores::ONE_CORE {
        bail!("a factor for the cores is more than 0 and at most 1");
    }
    Ok(Plan::of(experiment, name, Scale { cores, ..fits })?)
}

/// Everything that is kept of a run.
fn write(entries: &[Entry], into: &Path) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(into).with_context(|| format!("failed to make `{}`", into.display()))?;
    let path = into.join(RECORDING);
    let failed = || format!("failed to write `{}`", path.display());
    let mut file = BufWriter::new(File::create(&path).with_context(failed)?);
    for entry in entries {
        recording::write(&mut file, entry).with_context(failed)?;
    }
    file.flush().with_context(failed)?;
    let mut files = vec![path];
    files.extend(plot::write(entries, into)?);
    Ok(files)
}

fn draw(args: &PlotArgs, output: Output) -> anyhow::Result<()> {
    let entries = read(&args.recording)?;
    let beside = args
        .recording
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_owned);
    let into = args.into.clone().unwrap_or(beside);
    fs::create_dir_all(&into).with_context(|| format!("failed to make `{}`", into.display()))?;
    output.show(&Written {
        files: plot::write(&entries, &into)?,
    })
}

fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let failed = || format!("failed to read `{}`", path.display());
    let file = File::open(path).with_context(failed)?;
    recording::read(BufReader::new(file))
        .collect::<Result<_, _>>()
        .with_context(failed)
}
