//! The ledger as accountants get it: shown, exported, stated, copied and proven.

mod common;

use common::Stack;
use serde_json::Value;

#[test]
fn history_is_exported_stated_copied_and_proven_offline() {
    let Some(stack) = Stack::start() else { return };
    for user in ["alice", "bob"] {
        stack.text(&["user", "add", user]);
        stack.text(&["user", "fund", user, "1.25", "--mine", "--wait"]);
        stack.text(&["user", "fund", user, "0.5", "--mine", "--wait"]);
    }

    let shown = stack.json(&["ledger", "show", "--user", "alice", "--kind", "deposit"]);
    let amounts: Vec<&str> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|transfer| transfer["amount"].as_str().unwrap())
        .collect();
    assert_eq!(amounts, ["0.50000000", "1.25000000"], "the newest first");

    let lines = stack.path("bob.jsonl");
    let to_lines = ["ledger", "export", "--user", "bob", "--format", "json-lines"];
    let written = stack.json(&[&to_lines[..], &[lines.to_str().unwrap()]].concat());
    assert_eq!(written["transfers"], 2);
    let text = std::fs::read_to_string(&lines).unwrap();
    let exported: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(exported[0]["credit_account"], "user:bob");
    let posted_at = exported[0]["posted_at"].as_str().unwrap();
    assert!(posted_at.ends_with('Z') && posted_at.contains('T'), "{posted_at}");
    let csv = stack.text(&["ledger", "export", "--from", "2020-01-01", "--to", posted_at, "-"]);
    let heading = csv.lines().next().unwrap();
    assert_eq!(
        heading,
        "id,posted_at,kind,debit_account,credit_account,amount,reference,reverses"
    );
    assert_eq!(
        csv.lines().count(),
        3,
        "alice's two came before bob's first: {csv}"
    );

    let statement = stack.json(&["statement", "bob", "--from", posted_at]);
    assert_eq!(statement["opening"], "0.00000000");
    assert_eq!(statement["closing"], "1.75000000");
    assert_eq!(statement["entries"][1]["balance"], "1.75000000");
    let later = stack.json(&[
        "statement",
        "bob",
        "--from",
        exported[1]["posted_at"].as_str().unwrap(),
    ]);
    assert_eq!(later["opening"], "1.25000000");

    let copy = stack.path("copy.db");
    let copy = copy.to_str().unwrap();
    stack.text(&["ledger", "backup", copy]);
    let proof = stack.json(&["ledger", "verify", copy]);
    assert_eq!(
        (&proof["ok"], proof["checks"].as_array().unwrap().len()),
        (&Value::Bool(true), 4)
    );
}
