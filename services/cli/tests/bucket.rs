//! What somebody who watches the bucket finds there, with real containers.
//!
//! Needs root, Apptainer, and the image that `images/build.sh base` makes.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_smithy_http_client::tls;
use common::{DEADLINE, Stack};
use dev_stack::{Endpoints, S3Credentials};

/// Files that each task leaves.
const RESULTS: usize = 5;

/// A client of the store that runs now.
fn s3(data_dir: &Path) -> Option<Client> {
    let endpoints = Endpoints::read(data_dir).unwrap()?;
    let credentials = S3Credentials::read(&endpoints.s3_credentials_file).unwrap();
    let http_client = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http_client)
        .endpoint_url(endpoints.s3_url)
        .force_path_style(true)
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new(
            credentials.access_key,
            credentials.secret_key.expose(),
            None,
            None,
            "test",
        ));
    Some(Client::from_conf(config.build()))
}

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
