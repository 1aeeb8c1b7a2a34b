//! What somebody who watches the bucket finds there, with real containers.
//!
//! Needs root, Apptainer, and the image that `images/build.sh base` makes.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use common::{DEADLINE, Stack, s3};

/// Files that each task leaves.
const RESULTS: usize = 5;

/// The keys below a prefix; `None` from a store that does not answer.
async fn list(s3: &Client, bucket: &str, prefix: &str) -> Option<Vec<String>> {
    let page = s3
        .list_objects_v2()
        .bucket(bucket)
        .prefix(prefix)
        .send()
        .await
        .ok()?;
    let objects = page.contents.unwrap_or_default();
    Some(objects.into_iter().filter_map(|object| object.key).collect())
}

/// Whether an object is there; `None` from a store that does not answer.
async fn is_there(s3: &Client, bucket: &str, key: &str) -> Option<bool> {
    match s3.head_object().bucket(bucket).key(key).send().await {
        Ok(_) => Some(true),
        Err(err) if err.code() == Some("NotFound") => Some(false),
        Err(_) => None,
    }
}

/// What the task `name` must have left by the time its object is in `output/`.
fn promised(name: &str) -> Vec<String> {
    let results = (0..RESULTS).map(|number| format!("results/{name}/{number}.bin"));
    results
        .chain([
            format!("results/{name}/receipt.json"),
            format!("logs/out-task-{name}.txt"),
        ])
        .collect()
}

/// Lists `output/` without a pause until it has seen `tasks` objects there, through crashes of the store, and fails at
/// the first object that came before its results.
async fn watch_output(data_dir: PathBuf, bucket: &str, tasks: usize, seen: Arc<Mutex<BTreeSet<String>>>) {
    let started = Instant::now();
    let mut s3_now = None;
    while seen.lock().unwrap().len() < tasks {
        assert!(started.elapsed() < DEADLINE, "only these came out: {seen:?}");
        let Some(client) = s3_now.clone().or_else(|| s3(&data_dir)) else {
            continue;
        };
        let Some(keys) = list(&client, bucket, "output/").await else {
            // The store is down, and may come back at another address.
            s3_now = None;
            continue;
        };
        'tasks: for key in keys {
            let name = key.strip_prefix("output/").unwrap();
            if seen.lock().unwrap().contains(name) {
                continue;
            }
            for promise in promised(name) {
                match is_there(&client, bucket, &promise).await {
                    Some(there) => assert!(there, "`{key}` came before `{promise}`"),
                    None => continue 'tasks,
                }
            }
            seen.lock().unwrap().insert(name.to_owned());
        }
        s3_now = Some(client);
    }
}

#[test]
fn whoever_sees_a_task_in_output_finds_its_results_also_across_a_crash() {
    let Some(mut stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "1", "--mine", "--wait"]);
    let script = format!(
        "for i in {{0..{}}}; do head -c 100000 /dev/zero >\"$2/$i.bin\"; done; sleep 0.1",
        RESULTS - 1
    );
    stack.function("leaves", "alice", &script);
    let files: Vec<String> = (0..12)
        .map(|number| stack.file(&number.to_string(), "x"))
        .collect();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let (data_dir, watched) = (stack.folder().to_owned(), seen.clone());
    let watcher = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .unwrap()
            .block_on(watch_output(data_dir, "leaves", 12, watched));
    });
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    stack.text(&[&["submit", "leaves"][..], &files].concat());
    while seen.lock().unwrap().len() < 4 && !watcher.is_finished() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    stack.crash_and_restart();
    watcher.join().unwrap();
    let tasks = stack.until("twelve ends", &["ps", "--function", "leaves"], |ps| {
        ps["tasks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|task| task["state"] == "succeeded")
    });
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 12);
}

#[test]
fn a_file_is_quoted_by_what_its_like_used_and_never_run() {
    let Some(stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "1", "--mine", "--wait"]);
    stack.function("work", "alice", "for i in {1..20000}; do :; done");
    stack.put_object("work", "quote/dir/first", "12345");
    let unknown = stack.until_object("work", "quotes/dir/first.json");
    assert_eq!(
        (&unknown["estimate"], &unknown["samples"]),
        (&"no data".into(), &0.into())
    );

    let files: Vec<String> = (0..3)
        .map(|number| stack.file(&number.to_string(), "12345"))
        .collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    stack.text(&[&["submit", "work"][..], &files, &["--wait"]].concat());
    let before = (stack.json(&["ps"]), stack.json(&["balance", "alice"]));
    let used = |task: &serde_json::Value| task["cpu_time_us"].as_u64().unwrap();
    let mut totals: Vec<u64> = before.0["tasks"].as_array().unwrap().iter().map(used).collect();
    totals.sort_unstable();

    stack.put_object("work", "quote/next", "123456");
    let quote = stack.until_object("work", "quotes/next.json");
    assert_eq!(
        (&quote["samples"], &quote["input_bytes"]),
        (&3.into(), &6.into()),
        "{quote:#}"
    );
    assert_eq!(
        (&quote["sample_bytes_min"], &quote["sample_bytes_max"]),
        (&5.into(), &5.into())
    );
    let (p50, p90) = (&quote["estimate"]["p50"], &quote["estimate"]["p90"]);
    assert_eq!((used(p50), used(p90)), (totals[1], totals[2]), "{quote:#}");
    // 600 core-seconds per GRC, rounded down to the halford.
    assert_eq!(
        common::halfords(&p90["amount_grc"]),
        i64::try_from(totals[2]).unwrap() * 100 / 600
    );
    let by_command = stack.json(&["quote", "work", files[0]]);
    assert_eq!(
        (&by_command["samples"], &by_command["estimate"]["p90"]),
        (&3.into(), p90)
    );

    stack.until("the question's removal", &["ps"], |_| {
        !stack.keys("work").iter().any(|key| key.starts_with("quote/"))
    });
    assert_eq!(
        (stack.json(&["ps"]), stack.json(&["balance", "alice"])),
        before,
        "nothing ran, nothing was charged"
    );
}
