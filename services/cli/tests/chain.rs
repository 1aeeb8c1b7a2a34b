//! Chained functions, with real containers, a real ledger and a crash in between.
//!
//! Needs root, Apptainer, and the image that `images/build.sh base` makes.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::collections::BTreeSet;
use std::time::Instant;

use common::{DEADLINE, Stack, halfords};
use serde_json::Value;

/// The price of 0.05 core-seconds at 600 core-seconds per GRC.
const OVERSPEND_MAX: i64 = 8_334;

/// A function of alice whose results go to `to`.
fn chained(stack: &Stack, name: &str, script: &str, to: &str) {
    stack.function(name, "alice", script);
    stack.put_object(name, "utils/function.toml", &format!("[chain]\nto = \"{to}\"\n"));
}

fn tasks(answer: &Value) -> &Vec<Value> {
    answer["tasks"].as_array().unwrap()
}

#[test]
fn a_loop_between_two_functions_ends_when_the_cap_of_its_root_is_spent() {
    let Some(stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "1", "--mine", "--wait"]);
    let script = r#"for i in {1..50000}; do :; done; cp "$1" "$2/again""#;
    chained(&stack, "ping", script, "pong");
    chained(&stack, "pong", script, "ping");
    let file = stack.file("ball", "x");
    // 0.6 core-seconds.
    stack.text(&["submit", "ping", &file, "--max-grc", "0.001"]);
    let all = stack.until("the end of the loop", &["ps"], |ps| {
        tasks(ps).iter().any(|task| task["state"] == "failed")
            || ["ping", "pong"]
                .iter()
                .any(|name| stack.keys(name).iter().any(|key| key.starts_with("failed/")))
    });
    let failed: Vec<(&str, String)> = ["ping", "pong"]
        .iter()
        .flat_map(|name| stack.keys(name).into_iter().map(move |key| (*name, key)))
        .filter(|(_, key)| key.starts_with("failed/") && key.ends_with(".reason.json"))
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    let reason = stack.object(failed[0].0, &failed[0].1).unwrap();
    assert!(
        reason["reason"].as_str().unwrap().contains("max-grc"),
        "{reason:#}"
    );

    let succeeded: Vec<&Value> = tasks(&all)
        .iter()
        .filter(|task| task["state"] == "succeeded")
        .collect();
    assert!(succeeded.len() >= 2, "it went round: {all:#}");
    let spent = 100_000_000 - halfords(&stack.json(&["balance", "alice"])["balance"]);
    assert!(
        (100_000..=100_000 + OVERSPEND_MAX).contains(&spent),
        "{spent} halfords"
    );
    let roots: BTreeSet<String> = succeeded
        .iter()
        .map(|task| {
            let key = format!("results/{}/receipt.json", task["task"].as_str().unwrap());
            let receipt = stack.object(task["function"].as_str().unwrap(), &key).unwrap();
            receipt["root_task_id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(roots.len(), 1, "one lineage");
    for name in ["ping", "pong"] {
        let left = stack
            .keys(name)
            .into_iter()
            .filter(|key| key.starts_with("input/") || key.starts_with("processing/"));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
    }
    assert_eq!(stack.json(&["audit"])["ok"], true);
}

#[test]
fn a_crash_while_results_are_chained_loses_and_doubles_none() {
    let Some(mut stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "1", "--mine", "--wait"]);
    stack.function("count", "alice", r#"cat "$1""#);
    chained(
        &stack,
        "split",
        r#"for i in {10..39}; do echo $i >"$2/$i"; done"#,
        "count",
    );
    let file = stack.file("all", "x");
    stack.text(&["submit", "split", &file]);
    let started = Instant::now();
    while !stack.keys("count").iter().any(|key| key.contains("/split/")) {
        assert!(
            started.elapsed() < DEADLINE,
            "nothing is chained: {}",
            stack.log()
        );
    }
    stack.crash_and_restart();
    let done = stack.until("thirty ends", &["ps", "--function", "count"], |ps| {
        tasks(ps)
            .iter()
            .filter(|task| task["state"] == "succeeded")
            .count()
            == 30
    });
    stack.until("the end of the first", &["ps", "--function", "split"], |ps| {
        ps["tasks"][0]["state"] == "succeeded"
    });
    let names: BTreeSet<&str> = tasks(&done)
        .iter()
        .map(|task| task["task"].as_str().unwrap())
        .collect();
    assert_eq!((tasks(&done).len(), names.len()), (30, 30), "each is one task");
    let keys = stack.keys("count");
    let count = |prefix: &str| keys.iter().filter(|key| key.starts_with(prefix)).count();
    assert_eq!(
        (count("output/"), count("input/"), count("failed/")),
        (30, 0, 0),
        "{keys:?}"
    );
}
