//! `gridfaas experiment`, in virtual time and with real containers.
//!
//! The latter need root, Apptainer, and the image that `images/build.sh stress` makes.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The JSON that `gridfaas experiment …` prints.
fn experiment(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_gridfaas"))
        .args(["--output", "json", "experiment"])
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_experiment_in_virtual_time_leaves_its_recording_tables_and_plots() {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().to_str().unwrap();
    let names: Vec<Value> = experiment(&["list"])
        .as_array()
        .unwrap()
        .iter()
        .map(|found| found["name"].clone())
        .collect();
    assert!(names.contains(&"aborted-strict".into()), "{names:?}");

    let ran = experiment(&["run", "aborted-strict", "--policy", "tracking", "--into", into]);
    assert_eq!(ran[0]["name"], "aborted-strict");
    assert_eq!(ran[0]["policy"], "tracking");
    assert_eq!(ran[0]["attempts_returned"], 1, "{ran:#}");
    assert_eq!(ran[0]["tasks_pending"], 1, "{ran:#}");

    let recording = folder.path().join("recording.jsonl");
    let again = folder.path().join("again");
    let (recording, again) = (recording.to_str().unwrap(), again.to_str().unwrap());
    assert_eq!(
        experiment(&["compare", recording]),
        ran,
        "what is recorded says the same"
    );
    experiment(&["plot", recording, "--into", again]);
    let replayed = experiment(&["replay", recording, "--policy", "guardian", "--tasks", "burn"]);
    assert_eq!(
        (&replayed[0], &replayed[1]["policy"]),
        (&ran[0], &"guardian".into()),
        "{replayed:#}"
    );
    assert!(folder.path().join("replay/cpu.svg").exists());
    for name in ["funds", "cpu", "tasks"] {
        assert!(folder.path().join(name).with_extension("csv").exists(), "{name}");
        for extension in ["svg", "png"] {
            let file = |folder: &Path| fs::read(folder.join(name).with_extension(extension)).unwrap();
            assert_eq!(file(folder.path()), file(Path::new(again)), "{name}.{extension}");
        }
    }
}

#[test]
fn an_experiment_for_real_runs_every_task_and_its_money_adds_up() {
    if !geteuid().is_root() {
        return eprintln!("SKIPPED: containers need root");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small/experiment.toml");
    fs::create_dir(file.parent().unwrap()).unwrap();
    let text = r#"
        title = "Two small tasks and a deposit"
        [funds]
        start = "1"
        min_balance = "0"
        debt_limit = "0.5"
        core_seconds_per_grc = 600
        billing = "used"
        hold_s = 20
        [function]
        policy = "tracking"
        cpu_min_millicores = 0
        cpu_max_millicores = 2000
        boundary_millicores = 250
        idle_timeout_s = 20
        [[events]]
        at_s = 0
        tasks = ["1-20", "0.5-10"]
        [[events]]
        at_s = 20
        deposit = "0.5"
    "#;
    fs::write(&file, text).unwrap();
    let into = folder.path().join("ran");
    let ran = experiment(&[
        "run",
        file.to_str().unwrap(),
        "--mode",
        "compressed",
        "--speed",
        "10",
        "--cores-factor",
        "0.5",
        "--into",
        into.to_str().unwrap(),
    ]);
    let row = &ran[0];
    assert_eq!(row["name"], "small (10 times faster, on 0.5 of its cores)");
    assert_eq!(
        (&row["tasks_succeeded"], &row["tasks_pending"]),
        (&2.into(), &0.into()),
        "{row:#}"
    );
    let halfords = |name: &str| -> i64 { row[name].as_str().unwrap().replace('.', "").parse().unwrap() };
    assert!(halfords("bill") > 0, "{row:#}");
    assert_eq!(halfords("end_balance"), 150_000_000 - halfords("bill"));
    let recording = fs::read_to_string(into.join("recording.jsonl")).unwrap();
    for record in [
        "run",
        "container_started",
        "task_ended",
        "deposit",
        "container_ended",
    ] {
        let tag = format!("\"record\":\"{record}\"");
        assert!(
            recording.lines().any(|line| line.contains(&tag)),
            "no {record}: {recording}"
        );
    }
}
