//! The tables of `experiments/`, made again.

use std::path::{Path, PathBuf};

use container_manager::scaler::PolicyName;
use lab::compare::{self, Row};
use lab::experiment::Experiment;
use lab::summary::PerMille;

/// Those that `experiments/policies/README.md` compares.
const WORKLOADS: [&str; 9] = [
    "policies/stress",
    "policies/step",
    "policies/ramp",
    "policies/square",
    "policies/bursts",
    "policies/noise",
    "policies/sawtooth",
    "transcode",
    "genomics",
];

fn experiments() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments")
}

/// Named after its folder.
fn experiment(path: &str) -> (String, Experiment) {
    let experiment = Experiment::read(&experiments().join(path).join("experiment.toml"));
    let name = path.rsplit('/').next().unwrap_or(path).to_owned();
    (name, experiment.expect("an experiment"))
}

fn assert_page_has(page: &str, table: &str) {
    let text = std::fs::read_to_string(experiments().join(page)).expect("a page");
    assert!(text.contains(table), "{page} lacks this table:\n{table}");
}

fn of<'a>(rows: &'a [Row], workload: &str, run: &str) -> &'a Row {
    rows.iter()
        .find(|row| row.workload == workload && row.run == run)
        .expect("a row")
}

#[test]
fn tracking_is_ahead_of_guardian_on_every_load() {
    let all = WORKLOADS.map(experiment);
    let policies = [PolicyName::Guardian, PolicyName::Tracking, PolicyName::Fixed];
    let rows = compare::policies(&all, &policies).expect("rules that act");
    assert_page_has("policies/README.md", &compare::table(&rows));
    for (workload, _) in &all {
        let [guardian, tracking] = ["guardian", "tracking"].map(|run| &of(&rows, workload, run).summary);
        assert!(tracking.slowdown <= PerMille(20), "{workload}: {tracking:?}");
        assert!(tracking.slowdown < guardian.slowdown, "{workload}");
        assert!(
            tracking.reaction_max.as_millis() <= 300,
            "{workload}: {tracking:?}"
        );
        assert!(tracking.makespan < guardian.makespan, "{workload}");
        // What changes twice a second spends a good part of its time in changing.
        let least = if workload == "bursts" {
            PerMille(900)
        } else {
            PerMille(950)
        };
        assert!(tracking.utilisation >= least, "{workload}: {tracking:?}");
        assert!(tracking.utilisation > guardian.utilisation, "{workload}");
    }
}

#[test]
fn a_fixed_allocation_bills_more_than_serverless_for_the_same_tasks() {
    let rows = compare::variants("normal", &experiment("fourfold").1).expect("rules that act");
    assert_page_has("fourfold/README.md", &compare::table(&rows));
    let [serverless, serverless_free, fixed, fixed_free] = [
        "serverless, accounting",
        "serverless, no accounting",
        "fixed, accounting",
        "fixed, no accounting",
    ]
    .map(|run| &of(&rows, "normal", run).summary);
    assert_eq!(serverless.tasks_succeeded, fixed.tasks_succeeded);
    assert!(fixed.bill > serverless.bill.saturating_add(serverless.bill));
    for (paid, free) in [(serverless, serverless_free), (fixed, fixed_free)] {
        assert_eq!(free.bill, units::Amount::ZERO);
        assert_eq!(
            (free.used, free.allocated, free.makespan),
            (paid.used, paid.allocated, paid.makespan)
        );
    }
}

#[test]
fn the_page_on_deposits_has_what_is_simulated() {
    let deposits = experiment("deposits").1.deposits.expect("deposits");
    assert_page_has("deposits/README.md", &deposits.table());
}
