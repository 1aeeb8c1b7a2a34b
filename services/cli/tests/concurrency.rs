//! Several tasks at once in one container, and one that is waited for, with real containers.
//!
//! Needs root, Apptainer, and the image that `images/build.sh base` makes.

mod common;

use std::collections::BTreeSet;

use common::Stack;
use serde_json::Value;

/// Ends only if all four run at once; then the first uses little CPU time, the second ten times as much, and the third more
/// memory than a task may have.
const FOUR: &str = r#"
name=$(basename "$1")
: >"/tmp/$name"
until [ -e /tmp/1 ] && [ -e /tmp/2 ] && [ -e /tmp/3 ] && [ -e /tmp/4 ]; do sleep 0.01; done
case $name in
1) for i in {1..20000}; do :; done ;;
2) for i in {1..200000}; do :; done ;;
3) head -c 200M /dev/zero | tail ;;
esac
"#;

#[test]
fn four_tasks_overlap_in_one_container_metered_and_limited_apart() {
    let Some(stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "1", "--mine", "--wait"]);
    stack.function("four", "alice", FOUR);
    let settings = "concurrency = 4\nmemory_mib = 64\nmax_attempts = 1";
    stack.put_object("four", "utils/function.toml", settings);
    for task in ["1", "2", "3", "4"] {
        stack.put_object("four", &format!("input/{task}"), "x");
    }
    let is_over = |ps: &Value| {
        let tasks = ps["tasks"].as_array().unwrap();
        let is_over = |task: &Value| ["succeeded", "failed"].contains(&task["state"].as_str().unwrap());
        tasks.len() == 4 && tasks.iter().all(is_over)
    };
    let ps = stack.until("four ends", &["ps", "--function", "four"], is_over);
    let mut tasks = ps["tasks"].as_array().unwrap().clone();
    tasks.sort_by_key(|task| task["task"].to_string());
    let attempt = |task: &Value| task["attempts"][0].clone();
    let containers: BTreeSet<String> = tasks
        .iter()
        .map(|task| attempt(task)["container_id"].to_string())
        .collect();
    assert_eq!(containers.len(), 1, "{ps:#}");
    let used = |number: usize| attempt(&tasks[number])["cpu_time_us"].as_u64().unwrap();
    assert!(used(1) > 3 * used(0), "{ps:#}");
    let states: Vec<&str> = tasks.iter().map(|task| task["state"].as_str().unwrap()).collect();
    assert_eq!(
        states,
        ["succeeded", "succeeded", "failed", "succeeded"],
        "{ps:#}"
    );
    let reason = attempt(&tasks[2])["reason"].to_string();
    assert!(reason.contains("memory_mib"), "{reason}");
    assert_eq!(stack.json(&["audit"])["ok"], true);
}

#[test]
fn an_invoked_task_streams_its_log_leaves_its_results_here_and_is_billed() {
    let Some(stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "1", "--mine", "--wait"]);
    let script =
        r#"for i in 1 2 3; do echo "line $i"; sleep 0.1; done; tr a-z A-Z <"$1" >"$2/upper"; [ -s "$1" ]"#;
    stack.function("upper", "alice", script);
    stack.put_object("upper", "utils/function.toml", "max_attempts = 1");
    let (input, results) = (stack.file("input", "hello"), stack.path("results"));
    let results = results.to_str().unwrap();
    let log = stack.text(&["invoke", "upper", &input, "--name", "a", "--to", results]);
    assert_eq!(log, "line 1\nline 2\nline 3\n");
    assert_eq!(
        std::fs::read_to_string(stack.path("results/upper")).unwrap(),
        "HELLO"
    );
    let receipt = std::fs::read(stack.path("results/receipt.json")).unwrap();
    let receipt: Value = serde_json::from_slice(&receipt).unwrap();
    let ps = stack.json(&["ps", "--function", "upper"]);
    let task = &ps["tasks"][0];
    assert_eq!(
        (&task["task"], &task["state"], &task["task_id"]),
        (&"a".into(), &"succeeded".into(), &receipt["task_id"])
    );
    assert_eq!(task["cpu_time_us"], receipt["cpu_time_us"]);
    assert!(stack.keys("upper").contains(&"output/a".to_owned()));

    let empty = stack.file("empty", "");
    let failed = stack.run(&["--output", "json", "invoke", "upper", &empty]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let failed: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(
        (&failed["state"], &failed["log"]),
        (&"failed".into(), &log.as_str().into())
    );

    stack.put_object("upper", "input/b", "b");
    assert_eq!(stack.text(&["function", "notify", "upper"]), "");
    stack.until_object("upper", "results/b/receipt.json");
}
