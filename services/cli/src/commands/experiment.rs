//! `gridfaas experiment`: the laboratory.

mod compare;
mod real;
mod replay;
mod run;

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use container_manager::recording::{self, Entry};
use container_manager::scaler::PolicyName;
use lab::experiment::Experiment;
use lab::plot;
use serde::Serialize;
use service_kit::spelling;

use crate::output::{Output, Show, columns};

/// Below the folder the command is run in.
const FOLDER: &str = "experiments";
const FILE: &str = "experiment.toml";
const RECORDING: &str = "recording.jsonl";

#[derive(Debug, Subcommand)]
pub(crate) enum ExperimentCommand {
    /// List the experiments there are
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Run one, in virtual time or for real; leaves recording, CSV, plots and summary
    Run(run::RunArgs),
    /// Compare experiments and recordings: how well each used what it was given, and what it cost
    Compare(compare::CompareArgs),
    /// Run a recording again in virtual time, under another policy or at another price
    Replay(replay::ReplayArgs),
    /// Show how far the published prototype's figures come out again, beside ours
    Fidelity(replay::FidelityArgs),
    /// Draw a recording: funds, CPU and tasks, each as SVG and PNG
    Plot(PlotArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
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
        ExperimentCommand::Run(args) => run::run(args, output).await,
        ExperimentCommand::Compare(args) => compare::run(&args, output),
        ExperimentCommand::Replay(args) => replay::replay(&args, output),
        ExperimentCommand::Fidelity(args) => replay::fidelity(&args, output),
        ExperimentCommand::Plot(args) => draw(&args, output),
    }
}

fn list(args: &ListArgs, output: Output) -> anyhow::Result<()> {
    let experiments = all(&args.experiments)?
        .into_iter()
        .map(|(name, experiment)| Found {
            name,
            tasks: experiment.tasks().len(),
            title: experiment.title,
        });
    output.show(&Experiments(experiments.collect()))
}

/// Every experiment of a folder with its name, in the order of names.
fn all(experiments: &Path) -> anyhow::Result<Vec<(String, Experiment)>> {
    let names = names(experiments).with_context(|| format!("failed to list `{}`", experiments.display()))?;
    let read = |name: String| {
        let experiment = Experiment::read(&experiments.join(&name).join(FILE))?;
        Ok((name, experiment))
    };
    names.into_iter().map(read).collect()
}

/// The names of a folder's experiments, in order.
fn names(experiments: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(experiments)? {
        let folder = entry?;
        if folder.path().join(FILE).is_file() {
            names.push(folder.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// An experiment's file, and its name: that of its folder.
struct Source {
    path: PathBuf,
    name: String,
}

impl Source {
    fn find(experiment: &Path, experiments: &Path) -> anyhow::Result<Self> {
        let path = if experiment.is_file() {
            experiment.to_owned()
        } else {
            experiments.join(experiment).join(FILE)
        };
        if !path.is_file() {
            let wrong = experiment.to_string_lossy();
            let list = format!(
                "`gridfaas experiment list` shows those below `{}`",
                experiments.display()
            );
            let names = names(experiments).unwrap_or_default();
            let advice = spelling::advice(&wrong, names.iter().map(String::as_str), &list);
            bail!("there is no experiment `{wrong}` (hint: {advice})");
        }
        let path = std::path::absolute(&path)?;
        let folder = path.parent().and_then(Path::file_name);
        let name = folder.map_or_else(
            || "experiment".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
        Ok(Self { path, name })
    }
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
