//! Many tasks at once: tasks a minute, CPU time for each, and whether the bill says what the kernel counted.

use std::process::Command;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use serde_json::Value;

use crate::bucket::{count, drop_task, get, put, put_tasks};
use crate::common::Stack;
use crate::figures::Figures;
use crate::latency::run;

/// Tasks that wait at once, and the slots that take them.
const QUEUED: usize = 2000;
const SLOTS: [u32; 2] = [1, 8];
/// Receipts that are compared with their charges.
const RECEIPTS: usize = 200;
/// Bare processes whose CPU time is taken.
const BARE: u32 = 300;

pub(crate) async fn measure(stack: &Stack, s3: &Client, figures: &mut Figures) {
    let bare = bare_cpu_ms();
    figures.number("bash_cpu_ms", bare);
    for slots in SLOTS {
        let function = &format!("noop{slots}");
        stack.function(function, "bench", "true");
        let settings = format!("concurrency = {slots}\nmemory_mib = 64");
        put(s3, function, "utils/function.toml", &settings).await;
        drop_task(s3, function, "000000").await;
        // They wait until all are there.
        let before = (stack.cpu(), container_cpu_us(stack, function));
        let began = Instant::now();
        let (all, half) = (QUEUED, QUEUED / 2);
        put_tasks(s3, function, 1..all + 1).await;
        let put_all = began.elapsed();
        let at_put = count(s3, function, "output/", "").await;
        while count(s3, function, "output/", &format!("output/{half:06}")).await < half {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while count(s3, function, "output/", "").await <= all {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The node had the machine for itself only after the last was put.
        let minutes = (began.elapsed() - put_all).as_secs_f64() / 60.0;
        let after_put = (all + 1 - at_put) as f64;
        figures.number(
            &format!("noop_tasks_per_minute_{slots}_slots"),
            after_put / minutes,
        );
        let platform = (stack.cpu() - before.0).as_secs_f64() * 1000.0 / QUEUED as f64;
        figures.number(&format!("platform_cpu_ms_per_task_{slots}_slots"), platform);
        if slots > 1 {
            figures.number("noop_tasks_per_minute", after_put / minutes);
            let container = (container_cpu_us(stack, function) - before.1) / 1000.0 / QUEUED as f64;
            figures.number("task_cpu_ms", container);
            figures.number("task_cpu_overhead_ms", container - bare);
            figures.number("billing_error_us_max", billing_error_us(s3, function).await);
        }
    }
}

/// CPU milliseconds of `bash -c true`.
fn bare_cpu_ms() -> f64 {
    let ticks = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // User and system ticks, of 10 ms, of children that were waited for.
        [13, 14]
            .map(|at| fields[at].parse::<f64>().unwrap())
            .iter()
            .sum::<f64>()
    };
    let before = ticks();
    for _ in 0..BARE {
        run(Command::new("bash").args(["-c", "true"]));
    }
    (ticks() - before) * 10.0 / f64::from(BARE)
}

fn container_cpu_us(stack: &Stack, function: &str) -> f64 {
    let containers = stack.json(&["node", "containers"]);
    let containers = containers.as_array().unwrap();
    let found = containers
        .iter()
        .find(|container| container["function"] == function);
    found.unwrap()["cpu_time_us"].as_f64().unwrap()
}

/// The largest distance between what the kernel counted for a task and what its charge pays for.
async fn billing_error_us(s3: &Client, function: &str) -> f64 {
    let mut worst = 0;
    for number in 1..=RECEIPTS {
        let receipt = get(s3, function, &format!("results/{number:06}/receipt.json")).await;
        let receipt: Value = serde_json::from_str(&receipt.unwrap()).unwrap();
        let us = |key: &str| receipt[key].as_u64().unwrap();
        let amount = receipt["amount_grc"].as_str().unwrap().replace('.', "");
        // A charge is rounded down to the halford, which pays for so much.
        let expected = us("billed_us") * 100_000_000 / us("cpu_time_us_per_grc");
        assert_eq!(amount.parse::<u64>().unwrap(), expected, "{receipt:#}");
        worst = worst.max(us("billed_us").abs_diff(us("cpu_time_us")));
    }
    worst as f64
}
