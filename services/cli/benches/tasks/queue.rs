//! A long queue and many functions: memory, what being idle costs, and whether tasks start in order.

use std::path::Path;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;

use crate::bucket::{count, drop_task, put, put_tasks};
use crate::common::{Stack, base_image, s3};
use crate::figures::Figures;

const QUEUED: usize = 100_000;
/// Of which so many are run.
const RUN: usize = 2000;
const FUNCTIONS: usize = 1000;
/// How long idle functions are watched, after time to come to rest.
const SETTLE: Duration = Duration::from_secs(60);
const WATCH: Duration = Duration::from_secs(30);

pub(crate) async fn measure(figures: &mut Figures, path: &Path) {
    let Some((stack, s3)) = start() else { return };
    queue(&stack, &s3, figures).await;
    figures.write(path);
    drop(stack);
    let Some((stack, s3)) = start() else { return };
    functions(&stack, &s3, figures).await;
}

fn start() -> Option<(Stack, Client)> {
    let stack = Stack::start()?;
    crate::fund(&stack);
    let s3 = s3(stack.folder()).unwrap();
    Some((stack, s3))
}

async fn queue(stack: &Stack, s3: &Client, figures: &mut Figures) {
    stack.function("queue", "bench", "true");
    put(
        s3,
        "queue",
        "utils/function.toml",
        "concurrency = 8\nmemory_mib = 64",
    )
    .await;
    // Nothing runs before all are there: without its script the function waits.
    s3.delete_object()
        .bucket("queue")
        .key("utils/process_task.sh")
        .send()
        .await
        .unwrap();
    put_tasks(s3, "queue", 0..QUEUED).await;
    put(s3, "queue", "utils/process_task.sh", "true").await;
    let began = Instant::now();
    let mut most = 0;
    while count(s3, "queue", "output/", "").await < RUN {
        most = most.max(stack.memory_kib());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    figures.number("noop_tasks_per_minute_100k_queued", RUN as f64 / minutes);
    figures.number("manager_rss_mib_100k_queued", most as f64 / 1024.0);
}

/// The part of a core that everything takes while nothing happens.
async fn idle_percent(stack: &Stack) -> f64 {
    tokio::time::sleep(SETTLE).await;
    let before = stack.cpu();
    tokio::time::sleep(WATCH).await;
    (stack.cpu() - before).as_secs_f64() / WATCH.as_secs_f64() * 100.0
}

async fn functions(stack: &Stack, s3: &Client, figures: &mut Figures) {
    let idle = idle_percent(stack).await;
    figures.number("idle_cpu_percent", idle);
    for number in 0..FUNCTIONS {
        stack.text(&[
            "function",
            "create",
            &format!("idle{number:04}"),
            "--user",
            "bench",
        ]);
    }
    figures.number(
        "idle_1000_functions_cpu_percent",
        idle_percent(stack).await - idle,
    );
    figures.number(
        "manager_rss_mib_1000_functions",
        stack.memory_kib() as f64 / 1024.0,
    );
    // One after the other in as many containers as there is memory for. They share one image, built from this once.
    let definition = format!("Bootstrap: localimage\nFrom: {}\n", base_image());
    let began = Instant::now();
    for number in 0..FUNCTIONS {
        let bucket = format!("idle{number:04}");
        put(s3, &bucket, "utils/base.def", &definition).await;
        put(s3, &bucket, "utils/process_task.sh", "true").await;
        put(s3, &bucket, "input/a", "").await;
    }
    for number in 0..FUNCTIONS {
        let bucket = format!("idle{number:04}");
        while count(s3, &bucket, "output/", "").await == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    figures.number(
        "one_task_of_each_of_1000_functions_s",
        began.elapsed().as_secs_f64(),
    );
    stack.function("awake", "bench", crate::bucket::START_TIME);
    let (to_start, _) = drop_task(s3, "awake", "a").await;
    figures.number("drop_to_start_ms_beside_1000_functions_cold", to_start);
}
