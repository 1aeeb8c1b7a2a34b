//! The experiments of the repository, in virtual time.

use std::path::Path;

use container_manager::recording::Record;
use container_manager::scaler::PolicyName;
use lab::experiment::Experiment;
use lab::summary::{PerMille, Summary};
use lab::virtual_run::{self, Options};
use units::{Amount, Restriction};

fn experiment(name: &str) -> Experiment {
    let experiments = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
    Experiment::read(&experiments.join(name).join("experiment.toml")).expect("an experiment")
}

fn run(name: &str, policy: PolicyName) -> (Vec<container_manager::recording::Entry>, Summary) {
    let options = Options {
        policy: Some(policy),
        ..Options::default()
    };
    let entries = virtual_run::run(&experiment(name), &options).expect("rules that act");
    let summary = Summary::of(&entries);
    (entries, summary)
}

#[test]
fn every_core_second_of_the_normal_run_is_used_and_paid_for() {
    let (entries, summary) = run("normal", PolicyName::Tracking);
    assert_eq!(summary.tasks_succeeded, 9);
    // 1900 and 1000 core-seconds, less what a limit that follows demand kept from the burners.
    assert!(
        (2_895..=2_900).contains(&(summary.used.micros() / 1_000_000)),
        "{summary:?}"
    );
    let price = experiment("normal").funds.price();
    let cost = price.cost(summary.used).unwrap();
    // Each of the nine sessions is rounded down to the halford.
    let rounding = cost.saturating_sub(summary.bill);
    assert!((0..=9).contains(&rounding.halfords()), "{cost} {}", summary.bill);
    assert!(entries.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us));
}

#[test]
fn the_same_experiment_gives_the_same_recording() {
    assert_eq!(
        run("debt", PolicyName::Guardian).0,
        run("debt", PolicyName::Guardian).0
    );
}

#[test]
fn tracking_uses_what_it_is_given_and_slows_nothing_down() {
    let (_, tracking) = run("normal", PolicyName::Tracking);
    let (_, guardian) = run("normal", PolicyName::Guardian);
    assert!(tracking.utilisation >= PerMille(950), "{tracking:?}");
    assert!(tracking.slowdown <= PerMille(20), "{tracking:?}");
    assert!(tracking.utilisation > guardian.utilisation && tracking.slowdown < guardian.slowdown);
    assert!(tracking.reaction_max.as_millis() <= 300 && tracking.reaction < guardian.reaction);
}

#[test]
fn in_debt_a_task_goes_on_throttled_and_the_next_wait_for_a_deposit() {
    let (entries, summary) = run("debt", PolicyName::Tracking);
    assert!(summary.lowest_balance.is_negative());
    assert!(summary.lowest_balance > experiment("debt").funds.debt_limit.checked_neg().unwrap());
    let throttled = entries.iter().filter(|entry| {
        matches!(entry.record, Record::Sample { restriction: Restriction::Throttle, allocation_millicores, .. }
            if allocation_millicores.millicores() > 500)
    });
    assert_eq!(throttled.count(), 0, "throttled is at the floor at most");
    assert_eq!(summary.attempts_returned, 0);
}

#[test]
fn a_task_is_stopped_at_the_debt_limit_to_the_last_millisecond_and_waits() {
    let (entries, summary) = run("aborted-strict", PolicyName::Tracking);
    assert_eq!(
        (
            summary.tasks_succeeded,
            summary.attempts_returned,
            summary.tasks_pending
        ),
        (0, 1, 1)
    );
    // 5 ms at half a core, the meter's shortest look-ahead, cost 416 halfords.
    let overspent = Amount::from_halfords(-50_000_000).saturating_sub(summary.lowest_balance);
    assert!((0..=500).contains(&overspent.halfords()), "overspent {overspent}");
    let starts = entries
        .iter()
        .filter(|entry| matches!(entry.record, Record::ContainerStarted { .. }));
    assert_eq!(starts.count(), 1, "nothing starts again without money");
}
