//! Measures the way of a task through a whole stack, in turn with the floors under it: what a bare `bash` and a bare
//! `apptainer exec` take. `deployment/scripts/bench.sh` runs it.
//!
//! Prints a table and writes `summary.json` into the folder that `BENCH_FOLDER` names. Milliseconds of wall time unless the
//! key says otherwise.

#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing to tell")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use common::Stack;
use serde_json::{Value, json};

/// Repetitions of what is quick, and of what starts a container.
const QUICK: usize = 100;
const SLOW: usize = 20;
/// Tasks that wait at once when throughput is measured, and the slots that take them.
const QUEUED: usize = 1000;
const SLOTS: u32 = 8;
/// Between two looks for an object.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// Long enough for a container with an idle timeout of 0 to be gone.
const IDLE: Duration = Duration::from_secs(3);
/// Seconds since the epoch, with microseconds, at the script's first instruction.
const START_TIME: &str = "echo $EPOCHREALTIME >\"$2/start\"";

#[tokio::main]
async fn main() {
    let folder = PathBuf::from(std::env::var("BENCH_FOLDER").unwrap_or_else(|_| "target/bench".to_owned()));
    let Some(mut stack) = Stack::start() else { return };
    let mut figures = Figures::default();
    figures.number("manager_rss_mib_idle", stack.memory_kib() as f64 / 1024.0);
    stack.text(&["user", "add", "bench"]);
    stack.text(&["user", "fund", "bench", "1000", "--mine", "--wait"]);
    let s3 = common::s3(stack.folder()).unwrap();
    latencies(&stack, &s3, &mut figures).await;
    throughput(&stack, &s3, &mut figures).await;
    restart(&mut stack, &mut figures);
    assert_eq!(stack.json(&["audit"])["ok"], true, "{}", stack.log());
    figures.show();
    fs::create_dir_all(&folder).unwrap();
    let summary = serde_json::to_string_pretty(&figures.0).unwrap();
    fs::write(folder.join("summary.json"), summary + "\n").unwrap();
}

/// One task at a time, in a warm container and in one that has to start, beside the floors.
async fn latencies(stack: &Stack, s3: &Client, figures: &mut Figures) {
    stack.function("warm", "bench", START_TIME);
    stack.function("cold", "bench", START_TIME);
    put(s3, "cold", "utils/timeout.txt", "0").await;
    let (mut bash, mut apptainer) = (Samples::default(), Samples::default());
    let (mut start, mut result) = (Samples::default(), Samples::default());
    let mut cold = Samples::default();
    drop_task(s3, "warm", "first").await;
    for number in 0..QUICK {
        bash.time(|| run(Command::new("bash").args(["-c", "true"])));
        let (to_start, to_result) = drop_task(s3, "warm", &format!("{number:04}")).await;
        start.add(to_start);
        result.add(to_result);
    }
    for number in 0..SLOW {
        apptainer.time(|| {
            let image = common::base_image();
            // As root without CAP_SYS_RESOURCE, which machines in the cloud lack.
            run(Command::new("apptainer").args(["exec", "--no-privs", &image, "true"]));
        });
        cold.add(drop_task(s3, "cold", &format!("{number:04}")).await.1);
        tokio::time::sleep(IDLE).await;
    }
    let attempts = stack.json(&["ps", "--function", "cold"])["tasks"].clone();
    let of = |task: &Value| task["attempts"][0]["container_id"].to_string();
    let containers: BTreeSet<String> = attempts.as_array().unwrap().iter().map(of).collect();
    assert_eq!(containers.len(), SLOW, "each task started a container");
    figures.samples("bash_ms", bash);
    figures.samples("apptainer_exec_ms", apptainer);
    figures.samples("warm_drop_to_start_ms", start);
    figures.samples("warm_drop_to_result_ms", result);
    figures.samples("cold_drop_to_result_ms", cold);
}

/// Many tasks at once: tasks a minute, and CPU time for each.
async fn throughput(stack: &Stack, s3: &Client, figures: &mut Figures) {
    for (function, slots) in [("one", 1), ("many", SLOTS)] {
        stack.function(function, "bench", "true");
        put(
            s3,
            function,
            "utils/function.toml",
            &format!("concurrency = {slots}"),
        )
        .await;
        drop_task(s3, function, "0").await;
        let cpu = stack.cpu();
        let began = Instant::now();
        let keys: Vec<String> = (1..=QUEUED).map(|number| format!("input/{number:05}")).collect();
        futures::future::join_all(keys.iter().map(|key| put(s3, function, key, "x"))).await;
        while count(s3, function, "output/").await <= QUEUED {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        figures.number(
            &format!("noop_tasks_per_minute_{slots}_slots"),
            QUEUED as f64 / minutes,
        );
        let overhead = (stack.cpu() - cpu).as_secs_f64() * 1000.0 / QUEUED as f64;
        figures.number(&format!("platform_cpu_ms_per_task_{slots}_slots"), overhead);
    }
}

/// A crash of everything, until it serves again.
fn restart(stack: &mut Stack, figures: &mut Figures) {
    let mut samples = Samples::default();
    for _ in 0..5 {
        samples.time(|| stack.crash_and_restart());
    }
    figures.samples("restart_to_serving_ms", samples);
}

/// Drops a task; milliseconds until its first instruction, and until its object is in `output/`.
async fn drop_task(s3: &Client, function: &str, task: &str) -> (f64, f64) {
    let dropped_at = unix_ms();
    let dropped = Instant::now();
    put(s3, function, &format!("input/{task}"), "x").await;
    let output = format!("output/{task}");
    while s3
        .head_object()
        .bucket(function)
        .key(&output)
        .send()
        .await
        .is_err()
    {
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    let to_result = dropped.elapsed().as_secs_f64() * 1000.0;
    let result = format!("results/{task}/start");
    let start = s3.get_object().bucket(function).key(result).send().await;
    let Ok(start) = start else {
        return (0.0, to_result);
    };
    let start = start.body.collect().await.unwrap().to_vec();
    let start: f64 = String::from_utf8(start).unwrap().trim().parse().unwrap();
    (start * 1000.0 - dropped_at, to_result)
}

#[expect(
    clippy::disallowed_methods,
    reason = "compared with what a script reads of the same clock"
)]
fn unix_ms() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs_f64() * 1000.0
}

async fn put(s3: &Client, bucket: &str, key: &str, body: &str) {
    let body = body.as_bytes().to_vec().into();
    let put = s3.put_object().bucket(bucket).key(key).body(body);
    put.send().await.unwrap();
}

async fn count(s3: &Client, bucket: &str, prefix: &str) -> usize {
    let mut pages = s3
        .list_objects_v2()
        .bucket(bucket)
        .prefix(prefix)
        .into_paginator()
        .send();
    let mut count = 0;
    while let Some(page) = pages.next().await {
        count += page.unwrap().contents().len();
    }
    count
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    assert!(status.unwrap().success(), "{command:?}");
}

/// Milliseconds.
#[derive(Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn add(&mut self, ms: f64) {
        self.0.push(ms);
    }

    fn time(&mut self, work: impl FnOnce()) {
        let began = Instant::now();
        work();
        self.add(began.elapsed().as_secs_f64() * 1000.0);
    }

    fn percentile(&self, percent: usize) -> f64 {
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)]
    }
}

#[derive(Default)]
struct Figures(BTreeMap<String, Value>);

impl Figures {
    fn number(&mut self, key: &str, number: f64) {
        self.0.insert(key.to_owned(), json!(tenths(number)));
    }

    fn samples(&mut self, key: &str, mut samples: Samples) {
        samples.0.sort_by(f64::total_cmp);
        let figures = json!({
            "p50": tenths(samples.percentile(50)),
            "p90": tenths(samples.percentile(90)),
            "n": samples.0.len(),
        });
        self.0.insert(key.to_owned(), figures);
    }

    fn show(&self) {
        println!("{:40} {:>10} {:>10} {:>6}", "", "p50", "p90", "n");
        for (key, value) in &self.0 {
            match value {
                Value::Object(of) => println!("{key:40} {:>10} {:>10} {:>6}", of["p50"], of["p90"], of["n"]),
                number => println!("{key:40} {number:>10}"),
            }
        }
    }
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
