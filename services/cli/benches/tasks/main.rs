//! Measures the way of a task through a whole stack, in turn with the floors under it: what a bare `bash` and a bare
//! `apptainer exec` take. `deployment/scripts/bench.sh` runs it.
//!
//! ```text
//! tasks          all but the next; a few minutes
//! tasks queue    100,000 tasks in one bucket, and 1,000 functions; more minutes
//! ```
//! Prints a table and writes `summary.json` into the folder that `BENCH_FOLDER` names. Milliseconds of wall time unless the
//! key says otherwise.

#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing to tell")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../../tests/common/mod.rs"]
mod common;

mod bucket;
mod control;
mod crash;
mod figures;
mod latency;
mod queue;
mod throughput;

use std::path::{Path, PathBuf};

use common::Stack;
use figures::Figures;
use tokio::task::block_in_place;

#[tokio::main]
async fn main() {
    let folder = PathBuf::from(std::env::var("BENCH_FOLDER").unwrap_or_else(|_| "target/bench".to_owned()));
    let path = folder.join("summary.json");
    let mut figures = Figures::read(&path);
    if std::env::args().any(|argument| argument == "queue") {
        queue::measure(&mut figures, &path).await;
    } else {
        tasks(&mut figures, &path).await;
    }
    figures.show();
    figures.write(&path);
}

/// What was measured is written after each part, so that one that fails takes nothing else with it.
async fn tasks(figures: &mut Figures, path: &Path) {
    let Some(mut stack) = Stack::start() else { return };
    figures.number("manager_rss_mib_idle", stack.memory_kib() as f64 / 1024.0);
    fund(&stack);
    let s3 = common::s3(stack.folder()).unwrap();
    latency::measure(&stack, &s3, figures).await;
    figures.write(path);
    throughput::measure(&stack, &s3, figures).await;
    figures.write(path);
    latency::measure_cold(&stack, &s3, figures).await;
    figures.write(path);
    assert_eq!(stack.json(&["audit"])["ok"], true, "{}", stack.log());
    // What is not asynchronous has calls of the store that block.
    block_in_place(|| crash::measure(&mut stack, figures));
    figures.write(path);
    drop(stack);

    let Some(polled) = Stack::start_with(&["--no-notify"]) else {
        return;
    };
    fund(&polled);
    let s3 = common::s3(polled.folder()).unwrap();
    latency::measure_polled(&polled, &s3, figures).await;
    figures.write(path);
    drop(polled);
    block_in_place(|| control::measure(figures));
    scaling(figures);
}

fn fund(stack: &Stack) {
    stack.text(&["user", "add", "bench"]);
    stack.text(&["user", "fund", "bench", "1000", "--mine", "--wait"]);
}

/// The published normal run, in virtual time.
fn scaling(figures: &mut Figures) {
    let experiments = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
    let compared = std::process::Command::new(env!("CARGO_BIN_EXE_gridfaas"))
        .args([
            "--output",
            "json",
            "experiment",
            "compare",
            "normal",
            "--policy",
            "tracking",
            "--experiments",
        ])
        .arg(experiments)
        .output();
    let rows: serde_json::Value = serde_json::from_slice(&compared.unwrap().stdout).unwrap();
    for key in ["utilisation", "slowdown"] {
        let per_mille = rows[0][format!("{key}_per_mille")].as_f64().unwrap();
        figures.number(key, per_mille / 1000.0);
    }
}
