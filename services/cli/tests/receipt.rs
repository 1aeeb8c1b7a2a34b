//! Receipts and refunds of real tasks.
//!
//! Needs root, Apptainer, and the image that `images/build.sh base` makes.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Stack, base_image, halfords};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Never ends at the first attempt, and soon at the second.
const SCRIPT: &str = r#"[ "$GRIDFAAS_ATTEMPT" = 1 ] && while :; do :; done
for i in {1..100000}; do :; done
cp "$1" "$2/copy"
"#;

/// Kills the launcher and the resident runner of a container, and nothing of its task, as a crash of either would.
fn kill_runner(container: &str) {
    let found = Command::new("find")
        .args([
            "/sys/fs/cgroup",
            "-path",
            &format!("*/{container}/runner/cgroup.procs"),
        ])
        .output()
        .unwrap();
    let files = String::from_utf8(found.stdout).unwrap();
    let pids: BTreeSet<i32> = files
        .lines()
        .flat_map(|file| {
            fs::read_to_string(file)
                .unwrap()
                .lines()
                .map(|pid| pid.parse().unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(!pids.is_empty(), "no runner of {container}");
    for pid in pids {
        let _gone_with_another = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
}

fn sha256(path: &str) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

/// Whether a receipt is true, by the exit status of the command.
fn verifies(stack: &Stack, receipt: &Path, key: &str) -> bool {
    let output = stack.run(&[
        "--output",
        "json",
        "receipt",
        "verify",
        receipt.to_str().unwrap(),
        "--key",
        key,
    ]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["valid"], output.status.success(), "{output:?}");
    assert_eq!(told["problem"].is_null(), output.status.success(), "{output:?}");
    output.status.success()
}

#[test]
fn what_the_platform_breaks_is_refunded_and_the_signed_receipt_says_so() {
    let Some(mut stack) = Stack::start() else { return };
    stack.text(&["user", "add", "alice"]);
    // Dear enough that charges are posted while the task runs: one for every 0.06 core-seconds.
    stack.text(&["user", "set", "alice", "--core-seconds-per-grc", "6"]);
    stack.text(&["user", "fund", "alice", "10", "--mine", "--wait"]);
    stack.function("work", "alice", SCRIPT);
    let input = stack.file("task", "some input");
    stack.text(&["submit", "work", &input]);
    let ps = ["ps", "--function", "work"];
    let running = stack.until("two core-seconds", &ps, |ps| {
        ps["tasks"][0]["attempts"][0]["cpu_time_us"]
            .as_u64()
            .is_some_and(|used| used > 2_000_000)
    });
    kill_runner(
        running["tasks"][0]["attempts"][0]["container_id"]
            .as_str()
            .unwrap(),
    );
    stack.until("the second attempt's end", &ps, |ps| {
        ps["tasks"][0]["state"] == "succeeded"
    });

    let notice = stack.object("work", "logs/task.aborted.json");
    let notice = notice.unwrap_or_else(|| panic!("no notice: {}", stack.log()));
    assert_eq!(
        (&notice["stopped_by"], &notice["outcome"]),
        (&"platform".into(), &"platform-fault".into()),
        "{notice:#}"
    );
    assert_eq!(halfords(&notice["amount_grc"]), 0);
    let folder = stack.path("results");
    stack.text(&["results", "work", "task", "--to", folder.to_str().unwrap()]);
    let file = folder.join("receipt.json");
    let receipt: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let attempts = receipt["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{receipt:#}");
    let (first, second) = (&attempts[0], &attempts[1]);

    // The platform's attempt: charged while it ran, all of it given back.
    assert_eq!(
        (&first["attempt"], &first["stopped_by"]),
        (&1.into(), &"platform".into()),
        "{first:#}"
    );
    assert_eq!(halfords(&first["amount_grc"]), 0, "{first:#}");
    assert!(halfords(&first["refunded_grc"]) >= 1_000_000, "{first:#}");
    assert_eq!(first["refunded_grc"], notice["history"][0]["refunded_grc"]);
    let ids: Vec<&str> = first["transfers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    let (reversals, charges): (Vec<&str>, Vec<&str>) = ids.iter().partition(|id| id.starts_with("reversal:"));
    assert!(
        !charges.is_empty() && first["transfers_count"] == ids.len(),
        "{first:#}"
    );
    let reversed: Vec<String> = charges.iter().map(|id| format!("reversal:{id}")).collect();
    assert_eq!(reversals, reversed, "each charge has its reversal");

    // The user's own: charged by the kernel's counter, at 6 core-seconds per GRC.
    assert_eq!(
        (&second["stopped_by"], &receipt["attempt"]),
        (&Value::Null, &2.into()),
        "{second:#}"
    );
    let charged = halfords(&second["amount_grc"]);
    assert_eq!(charged, receipt["cpu_time_us"].as_i64().unwrap() * 100 / 6);
    assert_eq!(
        (&receipt["amount_grc"], &receipt["task_amount_grc"]),
        (&second["amount_grc"], &second["amount_grc"])
    );
    assert_eq!(receipt["transfers"], second["transfers"]);
    assert_eq!(
        halfords(&stack.json(&["balance", "alice"])["balance"]),
        1_000_000_000 - charged
    );
    assert_eq!(stack.json(&["audit"])["ok"], true);

    let script = stack.path("work.sh");
    for (what, path) in [
        ("input", &*input),
        ("script", script.to_str().unwrap()),
        ("image", &*base_image()),
    ] {
        assert_eq!(receipt["sha256"][what], sha256(path), "{what}");
    }
    let split = receipt["cpu_user_us"].as_i64().unwrap() + receipt["cpu_system_us"].as_i64().unwrap();
    assert!(
        split > 0 && receipt["wall_ms"].as_i64().unwrap() > 0,
        "{receipt:#}"
    );

    // The key is fetched while the node is there; all that follows works without it.
    let key = stack.text(&["node", "key"]);
    let key = stack.file("node.pem", &key);
    assert_eq!(stack.json(&["node", "key"])["key_id"], receipt["key_id"]);
    assert_eq!(stack.stop(), Some(0), "{}", stack.log());
    assert!(verifies(&stack, &file, &key));
    let text = fs::read(&file).unwrap();
    let forged = folder.join("forged.json");
    // Here and there, the first byte and the last; every byte of one is the turn of the unit tests.
    for at in (0..text.len()).step_by(text.len() / 10).chain([text.len() - 1]) {
        let mut changed = text.clone();
        changed[at] ^= 1;
        fs::write(&forged, changed).unwrap();
        assert!(!verifies(&stack, &forged, &key), "byte {at}");
    }
}
