//! Nodes that are gone: for a moment, for longer than a lease, for good.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{DEADLINE, Stack, halfords, has_begun};
use crate::world::processes::roles::{self, Role};
use crate::world::{FUNDS, World};

const TASKS: usize = 200;
/// Of them, when one of the nodes goes for good.
const HALF: usize = 80;

/// The attempts of the only task that is there.
fn attempts(tasks: &Value) -> usize {
    tasks["tasks"][0]["attempts"].as_array().unwrap().len()
}

pub(crate) fn a_task_outlives_an_outage_of_its_node_below_the_lease_and_is_run_again_after_a_longer_one() {
    let Some(mut world) = World::start(1, None) else {
        return;
    };
    let is_running = |tasks: &Value| has_begun(&tasks["tasks"][0]);
    world.function("long", "alice", "sleep 3; cp \"$1\" \"$2/copy\"");
    let short = world.file("short", "x");
    world.text(&["submit", "long", &short]);
    world.until("a running task", &["ps"], is_running);
    world.kill(Role::Node(0));
    world.start_again(Role::Node(0));
    let tasks = world.until("its end", &["ps"], |tasks| {
        tasks["tasks"][0]["state"] == "succeeded"
    });
    assert_eq!(attempts(&tasks), 1, "{tasks:#}");

    let task = world.file("long", "x");
    world.text(&["submit", "long", &task]);
    world.until("a running task", &["ps"], is_running);
    world.kill(Role::Node(0));
    // Nobody looks after the container, so it ends by itself; and the lease with it.
    let started = Instant::now();
    while !roles::contained().is_empty() || !world.log().contains("lease expired") {
        assert!(
            started.elapsed() < DEADLINE,
            "{:?}: {}",
            roles::contained(),
            world.log()
        );
        thread::sleep(Duration::from_millis(50));
    }
    world.start_again(Role::Node(0));
    let key = "results/long/receipt.json";
    let receipt = world.until_object("long", key);
    assert_eq!(
        (&receipt["attempt"], &receipt["outcome"]),
        (&2.into(), &"succeeded".into())
    );
    assert_eq!(receipt["attempts"][0]["outcome"], "platform-fault", "{receipt:#}");
    world.end();
}

/// Sees tasks that run in two containers at once, by the environments of all processes.
fn watch(stop: &AtomicBool) -> BTreeSet<String> {
    let task_of = |pid: &str| {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let task = variables.find_map(|variable| variable.strip_prefix(b"GRIDFAAS_TASK="))?;
        Some(String::from_utf8_lossy(task).into_owned())
    };
    let mut twice = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let mut seen: BTreeMap<String, (String, u32)> = BTreeMap::new();
        for (pid, uid) in roles::contained() {
            let Some(task) = task_of(&pid) else { continue };
            match seen.get(&task) {
                // Both at this moment, and not one after the other.
                Some((other, other_uid)) if *other_uid != uid && task_of(other).as_ref() == Some(&task) => {
                    twice.insert(task);
                }
                _ => drop(seen.insert(task, (pid, uid))),
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    twice
}

pub(crate) fn three_nodes_share_a_bucket_and_when_one_is_gone_for_good_every_task_still_ends_once() {
    let Some(mut world) = World::start(3, None) else {
        return;
    };
    let script = |seconds: &str| format!("sleep {seconds}; cp \"$1\" \"$2/copy\"");
    world.function("many", "alice", &script("0.3"));
    world.put_object("many", "utils/function.toml", "concurrency = 8\nmemory_mib = 64");
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = thread::spawn({
        let stop = stop.clone();
        move || watch(&stop)
    });
    for task in 0..TASKS {
        world.put_object("many", &format!("input/{task:03}"), &task.to_string());
    }
    let done = |world: &World| {
        let keys = world.keys("many").into_iter();
        keys.filter(|key| key.starts_with("output/")).count()
    };
    let until = |world: &World, count: usize| {
        let started = Instant::now();
        while done(world) < count {
            assert!(
                started.elapsed() < DEADLINE,
                "{:?}\n{}",
                world.keys("many"),
                world.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    };
    until(&world, HALF);
    world.kill(Role::Node(2));
    until(&world, TASKS);
    stop.store(true, Ordering::Relaxed);
    assert_eq!(watcher.join().unwrap(), BTreeSet::new(), "they ran twice at once");

    let (mut nodes, mut again, mut charged) = (BTreeSet::new(), 0, 0);
    for task in 0..TASKS {
        let key = |name: &str| format!("results/{task:03}/{name}");
        assert_eq!(world.object("many", &key("copy")), Some(task.into()));
        let receipt = world.object("many", &key("receipt.json")).unwrap();
        let attempts = receipt["attempts"].as_array().unwrap();
        let succeeded = attempts
            .iter()
            .filter(|attempt| attempt["outcome"] == "succeeded");
        assert_eq!(succeeded.count(), 1, "{receipt:#}");
        again += usize::from(attempts.len() > 1);
        charged += halfords(&receipt["task_amount_grc"]);
        nodes.insert(receipt["node"].to_string());
    }
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    assert!(again > 0, "the node that went had none");
    let balance = halfords(&world.json(&["balance", "alice"])["balance"]);
    assert_eq!(balance, FUNDS - charged);
    let keys = world.keys("many");
    let left = keys
        .iter()
        .filter(|key| key.starts_with("input/") || key.starts_with("processing/"));
    assert_eq!(left.count(), 0, "{keys:?}");
    assert!(world.run(&["audit"]).status.success());
}

pub(crate) fn a_hundred_running_tasks_are_adopted_after_a_crash_and_billed_once() {
    const FUNCTIONS: usize = 2;
    const EACH: usize = 50;
    let Some(mut stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "5", "--mine", "--wait"]);
    let names: Vec<String> = (0..FUNCTIONS).map(|number| format!("sleeps{number}")).collect();
    for name in &names {
        // Long enough for all of them to run at once.
        stack.function(name, "alice", "sleep 15; cp \"$1\" \"$2/copy\"");
        let settings = format!("concurrency = {EACH}\nmemory_mib = 16");
        stack.put_object(name, "utils/function.toml", &settings);
        for task in 0..EACH {
            stack.put_object(name, &format!("input/{task:02}"), "1");
        }
    }
    let list = ["ps", "--limit", "1000"];
    let all_are = |is_right: fn(&Value) -> bool| {
        move |answer: &Value| {
            let tasks = answer["tasks"].as_array().unwrap();
            tasks.len() == FUNCTIONS * EACH && tasks.iter().all(is_right)
        }
    };
    stack.until("a hundred tasks", &list, all_are(has_begun));
    stack.crash_and_restart();
    let tasks = stack.until("their ends", &list, all_are(|task| task["state"] == "succeeded"));
    let mut charged = 0;
    for task in tasks["tasks"].as_array().unwrap() {
        assert_eq!(task["attempts"].as_array().unwrap().len(), 1, "{task:#}");
        let (function, name) = (task["function"].as_str().unwrap(), task["task"].as_str().unwrap());
        assert!(stack.object(function, &format!("results/{name}/copy")).is_some());
        charged += halfords(&task["amount"]);
    }
    let balance = halfords(&stack.json(&["balance", "alice"])["balance"]);
    assert_eq!(balance, FUNDS - charged);
    assert_eq!(stack.json(&["audit"])["ok"], true);
}
