//! What a user does with a bucket.

use std::time::{Duration, Instant};

use aws_sdk_s3::Client;

use crate::figures::ms_since;

/// Between two looks for an object.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// Objects that are put at once.
const PUTS: usize = 32;
/// Writes the seconds since the epoch, with microseconds, at the script's first instruction.
pub(crate) const START_TIME: &str = "echo $EPOCHREALTIME >\"$2/start\"";

/// Drops a task; milliseconds until its first instruction, and until its object is in `output/`.
pub(crate) async fn drop_task(s3: &Client, function: &str, task: &str) -> (f64, f64) {
    let dropped_at = unix_ms();
    let dropped = Instant::now();
    put(s3, function, &format!("input/{task}"), "x").await;
    until_there(s3, function, &format!("output/{task}")).await;
    let to_result = ms_since(dropped);
    let start = get(s3, function, &format!("results/{task}/start")).await;
    let start = start.map_or(dropped_at, |text| text.trim().parse::<f64>().unwrap() * 1000.0);
    (start - dropped_at, to_result)
}

pub(crate) async fn until_there(s3: &Client, bucket: &str, key: &str) {
    let head = || s3.head_object().bucket(bucket).key(key).send();
    while head().await.is_err() {
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "compared with what a script reads of the same clock"
)]
fn unix_ms() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs_f64() * 1000.0
}

pub(crate) async fn put(s3: &Client, bucket: &str, key: &str, body: &str) {
    let body = body.as_bytes().to_vec().into();
    let put = s3.put_object().bucket(bucket).key(key).body(body);
    put.send().await.unwrap();
}

/// Drops many tasks, named by five digits.
pub(crate) async fn put_tasks(s3: &Client, bucket: &str, numbers: std::ops::Range<usize>) {
    use futures::StreamExt as _;
    let puts = numbers.map(|number| {
        let key = format!("input/{number:06}");
        async move { put(s3, bucket, &key, "x").await }
    });
    futures::stream::iter(puts)
        .buffer_unordered(PUTS)
        .collect::<()>()
        .await;
}

pub(crate) async fn get(s3: &Client, bucket: &str, key: &str) -> Option<String> {
    let object = s3.get_object().bucket(bucket).key(key).send().await.ok()?;
    let body = object.body.collect().await.unwrap().to_vec();
    Some(String::from_utf8(body).unwrap())
}

/// How many objects are below a prefix, after a key.
pub(crate) async fn count(s3: &Client, bucket: &str, prefix: &str, after: &str) -> usize {
    let list = s3
        .list_objects_v2()
        .bucket(bucket)
        .prefix(prefix)
        .start_after(after);
    let mut pages = list.into_paginator().send();
    let mut count = 0;
    while let Some(page) = pages.next().await {
        count += page.unwrap().contents().len();
    }
    count
}
