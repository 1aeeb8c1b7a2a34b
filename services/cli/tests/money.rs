//! What money does to running tasks, with real containers and the kernel's own counters.
//!
//! Needs root, Apptainer, and the image that `images/build.sh base` makes.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use common::{Stack, halfords, has_begun};
use serde_json::Value;

/// Burns one core.
const BURN: &str = "while :; do :; done";
/// What a container gets in debt, in millicores.
const FLOOR: u64 = 500;
/// The price of 0.05 core-seconds at 600 core-seconds per GRC, which is the most a container may run past its limit.
const OVERSPEND_MAX: i64 = 8_334;
/// What may be left where several share the end: 10 ms of two cores.
const CRUMBS: i64 = 3_334;

fn fund(stack: &Stack, user: &str, amount: &str) {
    stack.text(&["user", "fund", user, amount, "--mine", "--wait"]);
}

fn allocation(account: &Value) -> u64 {
    account["millicores"].as_u64().unwrap()
}

fn receipt(stack: &Stack, function: &str, task: &str) -> Value {
    let folder = stack.path(&format!("{function}-{task}"));
    stack.text(&["results", function, task, "--to", folder.to_str().unwrap()]);
    serde_json::from_slice(&std::fs::read(folder.join("receipt.json")).unwrap()).unwrap()
}

#[test]
fn debt_throttles_a_deposit_lifts_and_the_limit_returns_the_task() {
    let Some(stack) = Stack::start_with(&["--hold", "0"]) else {
        return;
    };
    for user in ["alice", "bob"] {
        stack.text(&["user", "add", user]);
        stack.text(&["user", "set", user, "--min-balance", "0", "--debt-limit", "0.008"]);
    }
    fund(&stack, "alice", "1");
    fund(&stack, "bob", "0.003");
    stack.function("burn", "bob", BURN);
    stack.function("count", "alice", "for i in {1..200000}; do :; done");
    let (endless, finite) = (stack.file("endless", "x"), stack.file("finite", "x"));
    stack.text(&["submit", "burn", &endless]);

    let bob = ["balance", "bob"];
    stack.until("the throttle", &bob, |bob| {
        bob["standing"] == "in-debt" && allocation(bob) == FLOOR
    });
    fund(&stack, "bob", "0.005");
    stack.until("the lift", &bob, |bob| {
        bob["standing"] != "in-debt" && allocation(bob) > FLOOR
    });

    // Somebody else's debt is not alice's.
    stack.text(&["submit", "count", &finite, "--wait"]);
    assert_eq!(receipt(&stack, "count", "finite")["attempt"], 1);

    let ps = ["ps", "--function", "burn"];
    let tasks = stack.until("the stop", &ps, |ps| {
        ps["tasks"][0]["state"] == "queued" && ps["waiting"][0]["tasks"] == 1
    });
    let task = &tasks["tasks"][0];
    let reason = task["attempts"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("debt limit"), "{task}");
    let account = stack.json(&bob);
    assert_eq!(
        (&account["standing"], allocation(&account)),
        (&"exhausted".into(), 0)
    );
    let (balance, charged) = (halfords(&account["balance"]), halfords(&task["amount"]));
    assert_eq!(
        balance,
        800_000 - charged,
        "the ledger's balance is the deposits less the charge"
    );
    assert!(
        (-800_000 - OVERSPEND_MAX..=-800_000).contains(&balance),
        "{balance} halfords at the limit"
    );
    let functions = stack.json(&["function", "list"]);
    let burn = functions
        .as_array()
        .unwrap()
        .iter()
        .find(|function| function["name"] == "burn")
        .unwrap();
    assert_eq!(burn["may_start"], false);
    assert_eq!(stack.json(&["audit"])["ok"], true);
}

#[test]
fn a_task_stops_at_its_own_cap_and_containers_together_at_the_debt_limit() {
    let Some(stack) = Stack::start_with(&["--hold", "0"]) else {
        return;
    };
    stack.text(&["user", "add", "alice"]);
    stack.text(&[
        "user",
        "set",
        "alice",
        "--min-balance",
        "0",
        "--debt-limit",
        "0.001",
    ]);
    fund(&stack, "alice", "0.005");
    let file = stack.file("task", "x");

    // 0.002 GRC are 1.2 core-seconds.
    stack.function("capped", "alice", BURN);
    stack.text(&["submit", "capped", &file, "--max-grc", "0.002"]);
    let ps = ["ps", "--function", "capped"];
    let tasks = stack.until("the cap", &ps, |ps| ps["tasks"][0]["state"] == "failed");
    let task = &tasks["tasks"][0];
    let reason = task["attempts"][0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("max-grc") && task["attempts"].as_array().unwrap().len() == 1,
        "{task}"
    );
    let charged = halfords(&task["amount"]);
    assert!(
        (200_000..=200_000 + OVERSPEND_MAX).contains(&charged),
        "{charged} halfords"
    );
    assert_eq!(tasks["waiting"][0]["tasks"], 0);

    // What is left is for two, and both come to the limit. They begin when both are there.
    let pair = ["left", "right"];
    for function in pair {
        stack.function(function, "alice", &format!("sleep 3; {BURN}"));
    }
    for function in pair {
        stack.text(&["submit", function, &file]);
    }
    for function in pair {
        let ps = ["ps", "--function", function];
        stack.until("the stop", &ps, |ps| ps["tasks"][0]["state"] == "queued");
    }
    let balance = halfords(&stack.json(&["balance", "alice"])["balance"]);
    assert!(
        (-100_000 - 2 * OVERSPEND_MAX..=-100_000 + CRUMBS).contains(&balance),
        "{balance} halfords at the limit"
    );
    assert_eq!(stack.json(&["audit"])["ok"], true);
}

/// The CPU time of a task's control group, in microseconds, as the kernel has it.
fn counter(container: &str, session: &str) -> u64 {
    let roots = || {
        std::fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
    };
    let trees = roots().chain(
        roots()
            .filter_map(|root| Some(std::fs::read_dir(root).ok()?.flatten().map(|entry| entry.path())))
            .flatten(),
    );
    let stat = trees
        .filter_map(|tree| std::fs::read_to_string(tree.join(container).join(session).join("cpu.stat")).ok())
        .find(|stat| stat.contains("usage_usec"));
    let stat = stat.expect("the task's group");
    stat.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_task_frozen_at_the_limit_uses_nothing_and_a_deposit_lets_it_end_in_its_first_attempt() {
    let Some(stack) = Stack::start_with(&["--hold", "600"]) else {
        return;
    };
    stack.text(&["user", "add", "alice"]);
    let terms = ["--min-balance", "0", "--debt-limit", "0.0005"];
    stack.text(&[&["user", "set", "alice"][..], &terms].concat());
    // 0.9 core-seconds, the debt included.
    fund(&stack, "alice", "0.001");
    stack.function(
        "count",
        "alice",
        "for ((i = 0; i < 2000000; i++)); do :; done; echo $i >\"$2/i\"",
    );
    let file = stack.file("task", "x");
    stack.text(&["submit", "count", &file]);
    let ps = ["ps", "--function", "count"];
    let tasks = stack.until("the frost", &ps, |ps| ps["tasks"][0]["state"] == "frozen");
    let attempt = &tasks["tasks"][0]["attempts"][0];
    let used = || {
        counter(
            attempt["container_id"].as_str().unwrap(),
            attempt["session_id"].as_str().unwrap(),
        )
    };
    // Frozen is said a moment before the last process stands still.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = used();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(used(), before, "frozen work uses no CPU");
    let balance = halfords(&stack.json(&["balance", "alice"])["balance"]);
    assert!(
        (-50_000 - OVERSPEND_MAX..=-50_000).contains(&balance),
        "{balance} halfords at the limit"
    );

    fund(&stack, "alice", "1");
    let tasks = stack.until("the end", &ps, |ps| ps["tasks"][0]["state"] == "succeeded");
    let attempts = tasks["tasks"][0]["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{tasks:#}");
    let receipt = receipt(&stack, "count", "task");
    assert!(receipt["frozen_ms"].as_u64().unwrap() >= 1500, "{receipt}");
    assert_eq!(stack.json(&["audit"])["ok"], true);
}

#[test]
fn a_crash_of_everything_costs_no_second_attempt_and_no_second_charge() {
    let Some(mut stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    fund(&stack, "alice", "1");

    stack.function(
        "tick",
        "alice",
        "for i in {1..40}; do echo tick $i; sleep 0.1; done; echo done >\"$2/end\"",
    );
    let file = stack.file("task", "x");
    stack.text(&["submit", "tick", &file]);
    let ps = ["ps", "--function", "tick"];
    stack.until("the start", &ps, |ps| has_begun(&ps["tasks"][0]));
    stack.crash_and_restart();
    let tasks = stack.until("the end", &ps, |ps| ps["tasks"][0]["state"] == "succeeded");
    assert_eq!(
        tasks["tasks"][0]["attempts"].as_array().unwrap().len(),
        1,
        "{tasks:#}"
    );
    let log = stack.text(&["logs", "tick", "task"]);
    assert_eq!(log.lines().count(), 40, "one run from beginning to end: {log}");
    let receipt = receipt(&stack, "tick", "task");
    assert_eq!(receipt["billed_us"], receipt["cpu_time_us"]);
    let (left, charged) = (
        halfords(&stack.json(&["balance", "alice"])["balance"]),
        halfords(&receipt["amount_grc"]),
    );
    assert_eq!(left, 100_000_000 - charged);
    // 600 core-seconds per GRC, rounded down to the halford.
    assert_eq!(charged, receipt["cpu_time_us"].as_i64().unwrap() * 100 / 600);
    assert_eq!(stack.json(&["audit"])["ok"], true);
}
