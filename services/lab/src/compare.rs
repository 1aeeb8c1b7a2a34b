//! Policies and variants of an experiment side by side.

use std::fmt::Write as _;

use container_manager::scaler::{PolicyName, RuleError};

use crate::experiment::Experiment;
use crate::summary::Summary;
use crate::virtual_run::{self, Options};

/// One run of the comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub workload: String,
    /// A policy, or a variant of the experiment.
    pub run: String,
    pub summary: Summary,
}

/// Every experiment under every policy, in virtual time.
pub fn policies(
    experiments: &[(String, Experiment)],
    policies: &[PolicyName],
) -> Result<Vec<Row>, RuleError> {
    let mut rows = Vec::new();
    for (workload, experiment) in experiments {
        for policy in policies {
            let options = Options {
                policy: Some(*policy),
                ..Options::default()
            };
            let entries = virtual_run::run(experiment, &options)?;
            rows.push(Row {
                workload: workload.clone(),
                run: policy.to_string(),
                summary: Summary::of(&entries),
            });
        }
    }
    Ok(rows)
}

/// Every variant of an experiment, in virtual time; the experiment itself if it has none.
pub fn variants(workload: &str, experiment: &Experiment) -> Result<Vec<Row>, RuleError> {
    let run = |(name, variant): (String, Experiment)| {
        let entries = virtual_run::run(&variant, &Options::default())?;
        Ok(Row {
            workload: workload.to_owned(),
            run: name,
            summary: Summary::of(&entries),
        })
    };
    experiment.variants().into_iter().map(run).collect()
}

/// The rows as a Markdown table.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| Workload | Run | Utilisation | Slowdown | Reaction, mean (worst) | Core-seconds used | Allocated | Bill (GRC) | Done after |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for Row {
        workload,
        run,
        summary,
    } in rows
    {
        let seconds =
            |time: std::time::Duration| format!("{}.{} s", time.as_secs(), time.subsec_millis() / 100);
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            text,
            "| {workload} | {run} | {} | {} | {} ({}) | {} | {} | {} | {} |",
            summary.utilisation,
            summary.slowdown,
            seconds(summary.reaction),
            seconds(summary.reaction_max),
            summary.used.micros() / 1_000_000,
            summary.allocated.micros() / 1_000_000,
            summary.bill,
            seconds(summary.makespan),
        );
    }
    text
}
