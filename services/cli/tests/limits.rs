//! The limits that users set themselves, on real containers: runway, shortage, spending, alerts, withdrawals.
//!
//! Needs root, Apptainer, and the image that `images/build.sh base` makes.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use common::{Stack, halfords, has_begun};
use serde_json::Value;

const BURN: &str = "while :; do :; done";
/// Somebody else's address on the development chain.
const FOREIGN: &str = "mfiy9sc2QEZZCK3WMUMZjNfrdRA6gXzRhr";

/// The function's task, once it is in this state.
fn task_in(stack: &Stack, state: &str, function: &str) -> Value {
    task_when(stack, function, state, |task| task["state"] == state)
}

/// The function's task, once it is as wanted.
fn task_when(stack: &Stack, function: &str, wanted: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
    let ps = ["ps", "--function", function];
    let answer = stack.until(wanted, &ps, |ps| is_wanted(&ps["tasks"][0]));
    answer["tasks"][0].clone()
}

fn running(stack: &Stack, function: &str, attempts: usize) {
    let task = task_when(stack, function, "a script that runs", has_begun);
    assert_eq!(task["attempts"].as_array().unwrap().len(), attempts, "{task}");
}

fn sent_away(stack: &Stack, function: &str) {
    let task = task_in(stack, "queued", function);
    let reason = task["attempts"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("does not last"), "{task}");
}

#[test]
fn the_newest_goes_first_also_after_a_crash_and_comes_back_when_the_balance_lasts() {
    let Some(mut stack) = Stack::start() else {
        return;
    };
    stack.text(&["user", "add", "alice"]);
    // 6000 core-seconds: with half a core each, three tasks last 4000 s, two 6000 s, one 12000 s.
    stack.text(&["user", "fund", "alice", "10", "--mine", "--wait"]);
    stack.text(&["user", "set", "alice", "--on-shortage", "newest-first"]);
    let file = stack.file("task", "x");
    for function in ["one", "two", "three"] {
        stack.function(function, "alice", BURN);
        stack.put_object(function, "utils/function.toml", "cpu_max_millicores = 500");
        stack.text(&["submit", function, &file]);
        running(&stack, function, 1);
    }
    stack.crash_and_restart();
    stack.text(&["user", "set", "alice", "--min-runway", "5000"]);
    sent_away(&stack, "three");
    running(&stack, "two", 1);
    stack.text(&["user", "set", "alice", "--min-runway", "8000"]);
    sent_away(&stack, "two");
    running(&stack, "one", 1);
    // Nobody comes back while the balance would not last for it, the crash of everything included.
    stack.crash_and_restart();
    for function in ["two", "three"] {
        let listed = stack.json(&["ps", "--function", function]);
        assert_eq!(listed["tasks"][0]["state"], "queued", "{listed}");
    }

    stack.text(&["user", "set", "alice", "--min-runway", "0"]);
    running(&stack, "two", 2);
    running(&stack, "three", 2);
    running(&stack, "one", 1);
    assert_eq!(stack.json(&["audit"])["ok"], true);
}

#[test]
fn a_spending_limit_is_what_a_container_gets() {
    let Some(stack) = Stack::start() else {
        return;
    };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "10", "--mine", "--wait"]);
    // A core costs 6 GRC an hour.
    stack.text(&["user", "set", "alice", "--max-spend", "3"]);
    stack.function("burn", "alice", BURN);
    stack.text(&["submit", "burn", &stack.file("task", "x")]);
    // How near the limit it comes is for a quiet machine to show; above it is never right. What was spent before a lower
    // limit leaves the average within 10 s.
    let spends = |millicores: u32, limit: i64| {
        move |alice: &Value| {
            let burn = halfords(&alice["burn_per_hour"]);
            alice["millicores"] == millicores && 0 < burn && burn <= limit + limit / 500
        }
    };
    let balance = ["balance", "alice"];
    stack.until("the pace", &balance, spends(500, 300_000_000));
    stack.text(&["function", "set", "burn", "--max-spend", "1.2"]);
    stack.until("the lower pace", &balance, spends(200, 120_000_000));
    stack.text(&["function", "set", "burn", "--max-spend", "off"]);
    stack.until("the user's pace", &balance, spends(500, 300_000_000));
}

/// A web server that keeps what is posted to it.
fn webhook() -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/alert", listener.local_addr().unwrap());
    let calls = Arc::new(Mutex::new(Vec::new()));
    let heard = calls.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            for line in stream.by_ref().lines() {
                let line = line.unwrap().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            heard.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.get_mut().write_all(answer).unwrap();
        }
    });
    (url, calls)
}

#[test]
fn a_withdrawal_leaves_once_and_the_low_balance_is_told_once() {
    let Some(mut stack) = Stack::start() else {
        return;
    };
    let (url, calls) = webhook();
    stack.text(&["user", "add", "alice"]);
    stack.function("idle", "alice", "true");
    stack.text(&["user", "fund", "alice", "5", "--mine", "--wait"]);
    let alert = ["--alert-at", "2", "--alert-webhook", &url];
    stack.text(&[&["user", "set", "alice"][..], &alert].concat());

    let own = stack.json(&["user", "address", "alice"])["deposit_address"].clone();
    let refused = stack.error(&["withdraw", "alice", own.as_str().unwrap(), "1"]);
    assert!(refused.contains("own"), "{refused}");
    let refused = stack.error(&["withdraw", "alice", FOREIGN, "6"]);
    assert!(refused.contains("5.0"), "{refused}");

    let id = "0190d3a0-0000-7000-8000-000000000001";
    let withdraw = ["withdraw", "alice", FOREIGN, "4", "--id", id];
    stack.text(&withdraw);
    let balance = |stack: &Stack| halfords(&stack.json(&["balance", "alice"])["balance"]);
    let left = balance(&stack);
    assert!(left < 100_000_000, "{left}: the fee is on top");
    let told = stack.until_object("idle", "status/alert.json");
    assert_eq!(told["user"], "alice", "{told}");

    // The crash forgets neither that it was sent nor that it was told.
    stack.crash_and_restart();
    stack.text(&withdraw);
    assert_eq!(balance(&stack), left, "asked for again, sent once");
    let withdrawals = stack.json(&["user", "withdrawals", "alice"]);
    assert_eq!(withdrawals.as_array().unwrap().len(), 1, "{withdrawals}");

    stack.text(&["user", "fund", "alice", "5", "--mine", "--wait"]);
    let started = std::time::Instant::now();
    while stack.object("idle", "status/alert.json").is_some() {
        assert!(started.elapsed() < common::DEADLINE, "{}", stack.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    stack.text(&["withdraw", "alice", FOREIGN, "5"]);
    stack.until_object("idle", "status/alert.json");
    let started = std::time::Instant::now();
    while calls.lock().unwrap().len() < 2 {
        assert!(started.elapsed() < common::DEADLINE, "{}", stack.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    assert_eq!(stack.json(&["audit"])["ok"], true);
}
