//! A recorded run against other policies and tariffs.

use std::path::Path;

use container_manager::recording::Entry;
use container_manager::scaler::PolicyName;
use lab::experiment::{Experiment, Kind};
use lab::replay::replay;
use lab::summary::Summary;
use lab::virtual_run::{self, Options};
use units::{CpuPrice, CpuTime};

/// *normal*, recorded under the guardian.
fn recorded() -> Vec<Entry> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/normal/experiment.toml");
    let experiment = Experiment::read(&path).expect("an experiment");
    virtual_run::run(&experiment, &Options::default()).expect("rules that act")
}

fn again(recording: &[Entry], policy: PolicyName, price: CpuPrice, kind: Kind) -> Summary {
    Summary::of(&replay(recording, policy, price, kind).expect("rules that act"))
}

/// In thousandths of the first.
fn apart(a: u64, b: u64) -> u64 {
    a.abs_diff(b) * 1000 / a
}

#[test]
fn the_same_policy_and_tariff_give_the_same_run_again() {
    let recording = recorded();
    let first = Summary::of(&recording);
    for kind in [Kind::Burn, Kind::Work] {
        let replayed = again(&recording, PolicyName::Guardian, CpuPrice::DEFAULT, kind);
        assert_eq!(replayed.tasks_succeeded, first.tasks_succeeded);
        assert!(
            apart(first.used.micros(), replayed.used.micros()) <= 1,
            "{replayed:?}"
        );
        assert!(
            apart(first.allocated.micros(), replayed.allocated.micros()) <= 1,
            "{replayed:?}"
        );
        let bills = [first.bill, replayed.bill].map(|bill| bill.halfords().unsigned_abs());
        assert!(apart(bills[0], bills[1]) <= 1, "{replayed:?}");
    }
}

#[test]
fn another_policy_gets_the_demand_that_was_throttled_away() {
    let recording = recorded();
    let first = Summary::of(&recording);
    let burners = again(&recording, PolicyName::Tracking, CpuPrice::DEFAULT, Kind::Burn);
    // 2900 core-seconds were wanted.
    assert!(apart(2_900_000_000, burners.used.micros()) <= 1, "{burners:?}");
    assert!(burners.utilisation > first.utilisation);
    let work = again(&recording, PolicyName::Tracking, CpuPrice::DEFAULT, Kind::Work);
    assert!(apart(first.used.micros(), work.used.micros()) <= 1, "{work:?}");
    assert!(work.makespan < first.makespan);
}

#[test]
fn another_tariff_changes_the_bill_and_who_is_stopped() {
    let recording = recorded();
    let first = Summary::of(&recording);
    let half = CpuPrice::from_cpu_time_per_grc(CpuTime::from_secs(1200)).expect("a price");
    let cheap = again(&recording, PolicyName::Guardian, half, Kind::Burn);
    let bills = [first.bill, cheap.bill].map(|bill| bill.halfords().unsigned_abs());
    assert!(apart(bills[0], bills[1] * 2) <= 1, "{cheap:?}");
    let double = CpuPrice::from_cpu_time_per_grc(CpuTime::from_secs(300)).expect("a price");
    let dear = again(&recording, PolicyName::Guardian, double, Kind::Burn);
    assert!(dear.lowest_balance.is_negative() && dear.tasks_succeeded < first.tasks_succeeded);
}
