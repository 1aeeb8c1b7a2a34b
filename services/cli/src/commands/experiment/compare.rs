//! `gridfaas experiment compare`, and the table in which every run is shown.

use std::path::PathBuf;

use clap::Args;
use container_manager::recording::{Entry, Record};
use container_manager::scaler::PolicyName;
use lab::experiment::Experiment;
use lab::real::stretched;
use lab::summary::{PerMille, Summary};
use lab::virtual_run::{self, Options};
use serde::Serialize;
use units::{Amount, CpuTime};

use super::{FOLDER, Source, all, policy, read};
use crate::output::{Output, Show, columns};

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Experiments, which run in virtual time under each policy, and recordings (.jsonl) [default: every experiment]
    #[arg(value_name = "NAME|FILE")]
    runs: Vec<PathBuf>,
    /// How containers are scaled: tracking, guardian or fixed; can be repeated
    #[arg(long, value_parser = policy, default_values = ["guardian", "tracking"])]
    policy: Vec<PolicyName>,
    /// Where experiments are
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    experiments: PathBuf,
}

/// What a run came to. Times and CPU time are those of the run described.
#[derive(Serialize)]
pub(super) struct Row {
    name: String,
    policy: String,
    utilisation_per_mille: u64,
    slowdown_per_mille: u64,
    reaction_ms: u128,
    reaction_max_ms: u128,
    cpu_time_us: CpuTime,
    allocated_us: CpuTime,
    bill: Amount,
    end_balance: Amount,
    lowest_balance: Amount,
    tasks_succeeded: u32,
    attempts_returned: u32,
    tasks_pending: u32,
    makespan_ms: u128,
}

impl Row {
    /// Of a recording, which says itself what it is of.
    pub(super) fn of(entries: &[Entry]) -> Self {
        let name = entries.iter().find_map(|entry| match &entry.record {
            Record::Run { name, .. } => Some(name.clone()),
            _ => None,
        });
        let policy = entries.iter().find_map(|entry| match &entry.record {
            Record::ContainerStarted { policy, .. } => Some(policy.clone()),
            _ => None,
        });
        let summary = Summary::of(&stretched(entries));
        Self {
            name: name.unwrap_or_default(),
            policy: policy.unwrap_or_default(),
            utilisation_per_mille: summary.utilisation.0,
            slowdown_per_mille: summary.slowdown.0,
            reaction_ms: summary.reaction.as_millis(),
            reaction_max_ms: summary.reaction_max.as_millis(),
            cpu_time_us: summary.used,
            allocated_us: summary.allocated,
            bill: summary.bill,
            end_balance: summary.end_balance,
            lowest_balance: summary.lowest_balance,
            tasks_succeeded: summary.tasks_succeeded,
            attempts_returned: summary.attempts_returned,
            tasks_pending: summary.tasks_pending,
            makespan_ms: summary.makespan.as_millis(),
        }
    }
}

#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Rows(pub(super) Vec<Row>);

impl Show for Rows {
    fn text(&self) -> String {
        columns(
            [
                "RUN",
                "POLICY",
                "UTILISATION",
                "SLOWDOWN",
                "REACTION (S)",
                "WORST (S)",
                "CPU TIME (S)",
                "BILL (GRC)",
                "BALANCE (GRC)",
                "DONE",
                "STOPPED",
                "PENDING",
                "LAST END (S)",
            ],
            self.0.iter().map(|row| {
                [
                    row.name.clone(),
                    row.policy.clone(),
                    PerMille(row.utilisation_per_mille).to_string(),
                    PerMille(row.slowdown_per_mille).to_string(),
                    seconds(row.reaction_ms),
                    seconds(row.reaction_max_ms),
                    seconds(row.cpu_time_us.as_duration().as_millis()),
                    row.bill.to_string(),
                    row.end_balance.to_string(),
                    row.tasks_succeeded.to_string(),
                    row.attempts_returned.to_string(),
                    row.tasks_pending.to_string(),
                    seconds(row.makespan_ms),
                ]
            }),
        )
    }
}

/// Milliseconds as seconds with one decimal.
fn seconds(ms: u128) -> String {
    format!("{}.{}", ms / 1000, ms % 1000 / 100)
}

pub(super) fn run(args: &CompareArgs, output: Output) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    if args.runs.is_empty() {
        for (name, experiment) in all(&args.experiments)? {
            run_virtually(args, &name, &experiment, &mut rows)?;
        }
    }
    for path in &args.runs {
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            rows.push(Row::of(&read(path)?));
        } else {
            let Source { path, name } = Source::find(path, &args.experiments)?;
            run_virtually(args, &name, &Experiment::read(&path)?, &mut rows)?;
        }
    }
    output.show(&Rows(rows))
}

fn run_virtually(
    args: &CompareArgs,
    name: &str,
    experiment: &Experiment,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    for (variant, experiment) in experiment.variants() {
        // A variant says itself how it is scaled.
        let policies = if variant.is_empty() {
            args.policy.as_slice()
        } else {
            &[experiment.function.policy]
        };
        let name = if variant.is_empty() {
            name.to_owned()
        } else {
            format!("{name}, {variant}")
        };
        for policy in policies {
            let options = Options {
                policy: Some(*policy),
                ..Options::default()
            };
            let mut entries = virtual_run::run(&experiment, &options)?;
            lab::real::rename(&mut entries, &name);
            rows.push(Row::of(&entries));
        }
    }
    Ok(())
}
