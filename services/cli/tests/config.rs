//! A node's settings, changed while it runs.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use common::Stack;
use serde_json::Value;

fn value(settings: &Value, key: &str) -> Value {
    let settings = settings.as_array().unwrap();
    let found = settings.iter().find(|setting| setting["key"] == key);
    found.unwrap()["value"].clone()
}

#[test]
fn a_setting_is_changed_while_the_node_runs_and_survives_a_crash() {
    let Some(mut stack) = Stack::start() else { return };
    assert_eq!(
        value(&stack.json(&["config", "show"]), "scaler.policy"),
        "tracking"
    );
    let set = stack.text(&["config", "set", "scaler.policy", "guardian"]);
    assert_eq!(set.trim(), "scaler.policy = guardian");
    let log = stack.log();
    let line = log.lines().find(|line| line.contains("setting changed")).unwrap();
    for part in ["scaler.policy", "tracking", "guardian"] {
        assert!(line.contains(part), "{line}");
    }

    assert!(!stack.log().contains(" DEBUG "), "nobody asked for it");
    stack.text(&["config", "set", "log", "debug"]);
    stack.text(&["node", "containers"]);
    assert!(stack.log().contains(" DEBUG "), "the log of the running node");

    let refused = stack.error(&["config", "set", "scaler.guardian.event_timeout_ms", "40000"]);
    assert!(refused.contains("the rule could never act"), "{refused}");
    let unknown = stack.error(&["config", "set", "scaler.speed", "9"]);
    assert!(unknown.contains("hint: `gridfaas config show`"), "{unknown}");

    stack.crash_and_restart();
    assert_eq!(
        value(&stack.json(&["config", "show"]), "scaler.policy"),
        "guardian"
    );
    stack.text(&["config", "reset", "scaler.policy"]);
    assert_eq!(
        value(&stack.json(&["config", "show"]), "scaler.policy"),
        "tracking"
    );
}
