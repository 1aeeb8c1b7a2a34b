//! What the limit keeps from a task, by the receipt, the tables and the kernel.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::Stack;

/// The `cpu.stat` that counts what the container's quota keeps from it.
fn cpu_stat(stack: &Stack, container: &str) -> PathBuf {
    let id = fs::read_to_string(stack.path("id")).unwrap();
    let below = format!("gridfaas-{}/{container}/cpu.stat", id.trim());
    let trees = [
        "/sys/fs/cgroup/cpu",
        "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup",
    ];
    let mut paths = trees.iter().map(|tree| PathBuf::from(tree).join(&below));
    paths.find(|path| path.exists()).unwrap()
}

/// What the kernel says, in microseconds.
fn throttled_us(stack: &Stack, container: &str) -> u64 {
    let text = fs::read_to_string(cpu_stat(stack, container)).unwrap();
    let field = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map(|number| number.trim().parse::<u64>().unwrap())
    };
    let nanos = field("throttled_time ").map(|nanos| nanos / 1000);
    nanos.or_else(|| field("throttled_usec ")).unwrap()
}

#[test]
fn a_receipt_says_what_the_kernel_counted_while_the_task_ran() {
    let Some(stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "1", "--mine", "--wait"]);
    let spin = "for n in 1 2; do (for i in {1..60000}; do :; done) & done; wait\n";
    stack.function("spin", "alice", spin);
    stack.put_object(
        "spin",
        "utils/function.toml",
        "policy = 'fixed'\ncpu_max_millicores = 100",
    );
    let run = |name: &str| {
        let file = stack.file(name, "x");
        stack.text(&["submit", "spin", &file, "--wait"]);
    };
    // The first task's container waits, idle, for the second.
    run("first");
    let containers = stack.json(&["node", "containers"]);
    let container = containers[0]["container_id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&containers[0]["policy"], &containers[0]["allocated"]),
        (&"fixed".into(), &100.into())
    );
    let before = throttled_us(&stack, &container);
    run("second");
    let counted = throttled_us(&stack, &container) - before;
    assert!(
        counted > 100_000,
        "two processes that spin, on a tenth of a core: {counted}"
    );

    let receipt = stack.until_object("spin", "results/second/receipt.json");
    let told = receipt["throttled_us"].as_u64().unwrap();
    // The runner's own few instructions, before and after the task, may wait for a period on either CPU.
    assert!(counted.abs_diff(told) <= 40_000, "{told} told, {counted} counted");
    let listed = stack.json(&["ps"]);
    let listed = listed["tasks"].as_array().unwrap();
    let second = listed.iter().find(|task| task["task"] == "second").unwrap();
    assert_eq!(second["throttled_us"], receipt["throttled_us"]);
    stack.until("the kernel's count", &["node", "containers"], |containers| {
        containers[0]["throttled_us"] == throttled_us(&stack, &container)
    });
    eprintln!("{told} us told, {counted} us counted");
}
