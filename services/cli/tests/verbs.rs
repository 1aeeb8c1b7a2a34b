//! What people do with tasks and functions by name, and how they look at a stack, on a real one.

mod common;

use common::{Stack, base_image};

/// A function from a template, its tasks waited for, cancelled and retried.
#[test]
fn tasks_are_described_waited_for_cancelled_and_retried() {
    let Some(stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "1", "--mine", "--wait"]);
    let folder = stack.path("mine");
    let folder = folder.to_str().unwrap();
    stack.text(&["function", "init", folder]);
    let image = base_image();
    let create = [
        "function", "deploy", "mine", "--user", "alice", "--from", folder, "--image", &image,
    ];
    stack.text(&create);
    let described = stack.json(&["function", "describe", "mine"]);
    assert_eq!(described["user"], "alice");
    let utils = described["utils"].to_string();
    for name in ["process_task.sh", "function.toml", "base.sif"] {
        assert!(utils.contains(name), "{utils}");
    }

    let pattern = format!("{folder}/sample-input/*.txt");
    stack.text(&["task", "submit", "mine", &pattern]);
    let over = stack.json(&["task", "wait", "mine", "hello.txt"]);
    assert_eq!(over["tasks"][0]["place"], "output", "{over}");
    let known = stack.json(&["task", "describe", "mine", "hello.txt"]);
    assert_eq!(known["place"], "output");
    assert_eq!(known["known"]["attempts"][0]["exit_code"], 0, "{known}");

    // One task at a time: the first is cancelled while it runs, the second while it waits.
    let slow = stack.file("slow.sh", "sleep 600\n");
    stack.text(&["function", "create", "mine", "--user", "alice", "--script", &slow]);
    for name in ["1", "2"] {
        stack.text(&["submit", "mine", &stack.file(name, name)]);
    }
    stack.until("a running task", &["task", "list"], |tasks| {
        tasks["tasks"][0]["state"] == "running"
    });
    stack.text(&["task", "cancel", "mine", "2", "1"]);
    let waited = stack.run(&["task", "wait", "mine", "1", "2"]);
    assert_eq!(waited.status.code(), Some(1), "{waited:?}");
    let text = String::from_utf8(waited.stdout).unwrap();
    assert!(text.contains("the task was cancelled\n"), "{text}");
    assert!(
        text.contains("the task was cancelled before it started\n"),
        "{text}"
    );
    assert!(
        stack
            .error(&["task", "cancel", "mine", "1"])
            .contains("is over already")
    );

    let quick = stack.file("quick.sh", "cp $1 $2/copy\n");
    stack.text(&[
        "function", "create", "mine", "--user", "alice", "--script", &quick,
    ]);
    let retried = stack.json(&["task", "retry", "mine", "--all"]);
    assert_eq!(retried["tasks"].as_array().unwrap().len(), 2, "{retried}");
    stack.text(&["task", "wait", "mine", "1", "2"]);
    let left: Vec<String> = stack
        .keys("mine")
        .into_iter()
        .filter(|key| !key.contains("results/"))
        .collect();
    assert!(
        !left
            .iter()
            .any(|key| key.starts_with("failed/") || key.starts_with("retry/")),
        "{left:?}"
    );
    assert!(
        stack
            .error(&["task", "retry", "mine", "1"])
            .contains("was given up")
    );
    assert!(
        stack
            .error(&["task", "wait", "mine", "nobody"])
            .contains("no task `nobody`")
    );
}

#[test]
fn a_function_is_stopped_started_and_deleted() {
    let Some(stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    stack.text(&["user", "fund", "alice", "1", "--mine", "--wait"]);
    stack.function("mine", "alice", "true");
    stack.text(&["function", "stop", "mine"]);
    stack.text(&["submit", "mine", &stack.file("a", "a")]);
    let described = ["function", "describe", "mine"];
    stack.until("why it waits", &described, |described| {
        described["problem"].to_string().contains("stopped") && described["waiting"] == 1
    });
    stack.text(&["function", "start", "mine"]);
    stack.text(&["task", "wait", "mine", "a"]);

    stack.text(&["function", "delete", "mine", "--bucket"]);
    assert!(stack.error(&described).contains("no function `mine`"));
    assert!(
        stack
            .error(&["function", "delete", "mine"])
            .contains("no function `mine`")
    );
    stack.function("mine", "alice", "true");
    stack.text(&["submit", "mine", &stack.file("b", "b"), "--wait"]);
    assert!(
        !stack.keys("mine").contains(&"output/a".to_owned()),
        "a bucket of its own"
    );
    stack.text(&["audit"]);
}

#[test]
fn a_stack_is_looked_at_as_a_whole_and_found_well() {
    let Some(mut stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    let seen = stack.json(&["top", "--once"]);
    assert_eq!(seen["users"][0]["name"], "alice");
    assert!(
        stack.text(&["top"]).contains("there are"),
        "printed once where nobody watches"
    );
    let rows = stack.text(&["--output", "jsonl", "user", "list"]);
    assert_eq!(rows.lines().count(), 1, "{rows}");

    let diagnosis = stack.json(&["doctor"]);
    assert_eq!(diagnosis["ok"], true, "{diagnosis:#}");
    let verdict = |check: &str| {
        let checks = diagnosis["checks"].as_array().unwrap();
        let finding = checks.iter().find(|finding| finding["check"] == check);
        finding.unwrap_or_else(|| panic!("no check of {check}"))["verdict"].clone()
    };
    for check in ["cgroups", "apptainer", "node", "store", "accounts", "wallet"] {
        assert_eq!(verdict(check), "ok", "{check}");
    }
    // The addresses stay told, and nobody is there any more.
    let url = stack.endpoints().container_url;
    stack.stop();
    let output = stack.run(&["doctor", "--container-url", &url, "--credit-url", &url]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("fail  node") && text.contains("does not answer"),
        "{text}"
    );
    let alone = stack.run(&["doctor"]);
    assert_eq!(alone.status.code(), Some(0), "no stack is no failure: {alone:?}");
}
