//! How an experiment is made to fit a machine and a shorter time, and what is kept of the recording.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::path::Path;
use std::time::Duration;

use container_manager::recording::{Entry, Record};
use lab::experiment::Experiment;
use lab::real::{self, Content, Deposited, Plan, PlanError, Scale};
use units::{Amount, Billing, ContainerId, CpuTime, MilliCores, Restriction, Standing};

fn experiment(name: &str) -> Experiment {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
    Experiment::read(&folder.join(name).join("experiment.toml")).unwrap()
}

fn half_the_cores(speed: u32) -> Scale {
    Scale::that_fits(speed, MilliCores::from_cores(2), MilliCores::from_cores(4))
}

#[test]
fn as_described_nothing_is_changed() {
    let plan = Plan::of(&experiment("normal"), "normal", Scale::FULL).unwrap();
    assert_eq!(plan.name, "normal");
    assert_eq!(plan.cpu_time_per_grc, CpuTime::from_secs(600));
    assert_eq!(
        (plan.capacity, plan.idle_timeout_s),
        (MilliCores::from_cores(4), 60)
    );
    assert!(
        plan.function_toml.contains("boundary_millicores = 250\n"),
        "{}",
        plan.function_toml
    );
    let names: Vec<&str> = plan.steps[0]
        .tasks
        .iter()
        .map(|task| task.name.as_str())
        .collect();
    assert_eq!(names[..2], ["100.1-150.txt", "101.2-100.txt"]);
}

#[test]
fn time_cores_and_money_shrink_together() {
    let plan = Plan::of(&experiment("normal"), "normal", half_the_cores(20)).unwrap();
    assert_eq!(plan.name, "normal (20 times faster, on 0.5 of its cores)");
    assert_eq!(plan.capacity, MilliCores::from_cores(2));
    assert_eq!((plan.hold, plan.idle_timeout_s), (Duration::from_secs(60), 3));
    // 3 cores for 250 s cost 1.25 GRC; so do 1.5 cores for 12.5 s.
    assert_eq!(plan.cpu_time_per_grc, CpuTime::from_secs(15));
    let moments: Vec<Duration> = plan.steps.iter().map(|step| step.at).collect();
    assert_eq!(moments, [0, 60, 65].map(Duration::from_secs));
    let names: Vec<&str> = plan.steps[0]
        .tasks
        .iter()
        .map(|task| task.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "100.0.5-7.5.txt",
            "101.1-5.txt",
            "102.1.5-12.5.txt",
            "103.1-10.txt",
            "104.0.5-20.txt"
        ]
    );
    assert_eq!(plan.steps[1].deposit, Some(Amount::from_grc(2).unwrap()));
}

#[test]
fn a_machine_with_more_cores_gives_no_more_than_described() {
    let scale = Scale::that_fits(1, MilliCores::from_cores(64), MilliCores::from_cores(4));
    assert_eq!(scale, Scale::FULL);
}

#[test]
fn a_file_takes_its_time_and_its_price() {
    let mut experiment = experiment("aborted");
    let input = "sample-input/107.clip.lavfi".to_owned();
    experiment.real.inputs.insert("3-1000".to_owned(), input.clone());
    let plan = Plan::of(&experiment, "aborted", half_the_cores(1)).unwrap();
    let task = &plan.steps[0].tasks[0];
    assert_eq!(
        (task.name.as_str(), &task.content),
        ("100.clip.lavfi", &Content::File(input))
    );
    assert_eq!(plan.cpu_time_per_grc, CpuTime::from_secs(600));
    let faster = Plan::of(&experiment, "aborted", half_the_cores(20));
    assert!(matches!(faster, Err(PlanError::NotCompressible(_))), "{faster:?}");
}

#[test]
fn a_task_too_small_to_be_measured_out_is_refused() {
    let scale = Scale {
        speed: 1000,
        cores: MilliCores::from_millicores(1),
    };
    let plan = Plan::of(&experiment("normal"), "normal", scale);
    assert!(
        matches!(plan, Err(PlanError::TooSmall(_) | PlanError::Rules(_))),
        "{plan:?}"
    );
}

fn entry(at_us: u64, record: Record) -> Entry {
    Entry { at_us, record }
}

fn funds(halfords: i64) -> Record {
    Record::Funds {
        user: "alice".parse().unwrap(),
        balance: Amount::from_halfords(halfords),
        debt_limit: Amount::ZERO,
        standing: Standing::Good,
        billing: Billing::Used,
    }
}

fn run(name: &str, speed: u32) -> Record {
    Record::Run {
        name: name.to_owned(),
        speed,
        capacity_millicores: MilliCores::from_cores(2),
    }
}

#[test]
fn what_was_before_the_run_is_told_once_and_deposits_come_in_between() {
    let plan = Plan::of(&experiment("aborted"), "aborted", half_the_cores(20)).unwrap();
    let container = ContainerId::new();
    let recorded = vec![
        entry(0, run("local", 1)),
        entry(10, funds(1)),
        entry(20, Record::ContainerEnded { container }),
        entry(30, funds(2)),
        entry(130, funds(3)),
        entry(150, funds(4)),
    ];
    let deposit = Deposited {
        at: Duration::from_micros(40),
        user: "alice".parse().unwrap(),
        amount: Amount::from_halfords(7),
    };
    let deposited = Record::Deposit {
        user: deposit.user.clone(),
        amount: deposit.amount,
    };
    assert_eq!(
        real::cut(&plan, recorded, 100, &[deposit]),
        [
            entry(0, run("aborted (20 times faster, on 0.5 of its cores)", 20)),
            entry(0, funds(2)),
            entry(30, funds(3)),
            entry(40, deposited),
            entry(50, funds(4)),
        ]
    );
}

#[test]
fn a_compressed_recording_is_stretched_to_the_time_described() {
    let container = ContainerId::new();
    let sample = |at_us, used_us, throttled_us| {
        let record = Record::Sample {
            container,
            used_us: CpuTime::from_micros(used_us),
            nr_periods: 3,
            nr_throttled: 2,
            throttled_us,
            allocation_millicores: MilliCores::ONE_CORE,
            restriction: Restriction::None,
        };
        entry(at_us, record)
    };
    let stretched = real::stretched(&[entry(0, run("r", 20)), sample(50, 40, 3)]);
    assert_eq!(stretched, [entry(0, run("r", 1)), sample(1000, 800, 60)]);
    assert_eq!(real::stretched(&stretched), stretched, "once is enough");
}
