//! Every command against a stack that `gridfaas up` started, with real containers.
//!
//! Needs root, Apptainer, and the image that `images/build.sh base` makes.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{DEADLINE, Stack, base_image, halfords, up};
use serde_json::Value;

/// A page of the node.
fn page(stack: &Stack, path: &str, token: &str) -> Value {
    let url = stack.endpoints().node_url.unwrap();
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    // The older version, in which a body comes in one piece.
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{path}: {reply}");
    serde_json::from_str(body).unwrap()
}

#[test]
fn a_user_finds_the_way_from_a_file_to_a_charge() {
    let Some(mut stack) = Stack::start() else { return };
    let address = stack.json(&["user", "add", "alice"])["deposit_address"].clone();
    assert_eq!(stack.text(&["user", "address", "alice"]).trim(), address);
    let funded = stack.json(&["user", "fund", "alice", "1.5", "--mine", "--wait"]);
    assert_eq!(funded["balance"], "1.50000000");
    stack.text(&[
        "user",
        "set",
        "alice",
        "--min-balance",
        "0",
        "--core-seconds-per-grc",
        "60",
    ]);

    // Says what it did on both streams, leaves one result, and takes its time by the size of its task.
    let script = stack.file(
        "count.sh",
        "echo counting; echo $# arguments >&2\nwc -c <\"$1\" >\"$2/bytes.txt\"\nfor i in {1..20000}; do :; done\n",
    );
    let create = [
        "function",
        "create",
        "count",
        "--user",
        "alice",
        "--image",
        &base_image(),
        "--script",
        &script,
    ];
    assert_eq!(
        stack.json(&create)["uploaded"],
        serde_json::json!(["utils/base.sif", "utils/process_task.sh"])
    );
    assert_eq!(stack.json(&["function", "list"])[0]["may_start"], true);

    let files = [stack.file("a.txt", "12345"), stack.file("b c.txt", "123")];
    let waited = stack.json(&["submit", "count", &files[0], &files[1], "--wait"]);
    assert_eq!(waited["tasks"].as_array().unwrap().len(), 2);
    let tasks = stack.json(&["ps", "--function", "count"]);
    assert_eq!(tasks["waiting"][0]["tasks"], 0);
    for task in tasks["tasks"].as_array().unwrap() {
        assert_eq!(
            (&task["state"], &task["user"]),
            (&"succeeded".into(), &"alice".into()),
            "{task}"
        );
        assert!(task["cpu_time_us"].as_u64().unwrap() > 0, "{task}");
    }

    let fetched = stack.path("fetched");
    stack.text(&["results", "count", "b c.txt", "--to", fetched.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(fetched.join("bytes.txt")).unwrap().trim(), "3");
    let receipt: Value =
        serde_json::from_str(&fs::read_to_string(fetched.join("receipt.json")).unwrap()).unwrap();
    assert_eq!(receipt["task"], "b c.txt");
    for follow in [&[][..], &["--follow"]] {
        let log = stack.text(&[&["logs", "count", "a.txt"], follow].concat());
        assert_eq!(log, "counting\n2 arguments\n");
    }

    // A task that waits for its script is told so, and is followed from before its start.
    let image = base_image();
    let create = ["function", "create", "late", "--user", "alice", "--image", &image];
    stack.text(&create);
    stack.text(&["submit", "late", &files[0]]);
    let started = Instant::now();
    while stack.json(&["ps", "--function", "late"])["waiting"][0]["problem"].is_null() {
        assert!(started.elapsed() < DEADLINE, "nobody misses the script");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut follow = stack.gridfaas();
    follow
        .args(["logs", "late", "a.txt", "--follow"])
        .stdout(Stdio::piped());
    let follow = follow.spawn().unwrap();
    stack.text(&[&create[..], &["--script", &script]].concat());
    assert_eq!(
        follow.wait_with_output().unwrap().stdout,
        b"counting\n2 arguments\n"
    );

    let tasks = stack.json(&["ps"]);
    let charged: i64 = tasks["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| halfords(&task["amount"]))
        .sum();
    assert!(charged > 0);
    assert_eq!(
        halfords(&stack.json(&["balance", "alice"])["balance"]),
        150_000_000 - charged
    );
    assert_eq!(stack.json(&["audit"])["ok"], true);

    let probes = [
        "kernel",
        "cgroups",
        "apptainer",
        "store",
        "credit-manager",
        "disk",
    ];
    let works = serde_json::json!({ "works": probes });
    assert_eq!(page(&stack, "/status/check/host", ""), works);
    let token = fs::read_to_string(stack.endpoints().operator_token_file).unwrap();
    assert_eq!(
        page(&stack, "/about/executions", token.trim()),
        serde_json::json!([])
    );
    let records = page(&stack, "/about/executions/records", "");
    assert_eq!(records.as_array().unwrap().len(), 3, "{records}");

    assert_eq!(stack.stop(), Some(0), "{}", stack.log());
    assert!(!stack.path("endpoints.json").exists());
    let id = fs::read_to_string(stack.path("id")).unwrap();
    let cgroups = Command::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "2", "-name"])
        .arg(format!("gridfaas-{}", id.trim()))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(cgroups.stdout).unwrap(),
        "",
        "control groups are left"
    );
}

#[test]
fn what_is_not_there_is_named_with_a_way_out() {
    let Some(stack) = Stack::start() else { return };
    let file = stack.file("task.txt", "x");
    stack.text(&["user", "add", "alice"]);
    stack.text(&["function", "create", "empty", "--user", "alice"]);
    for (arguments, problem) in [
        (&["user", "add", "alice"][..], "`alice`"),
        (&["balance", "bob"], "`bob`"),
        (&["user", "fund", "bob", "1"], "`bob`"),
        (&["function", "create", "orphan", "--user", "bob"], "`bob`"),
        (&["submit", "nothing", &file], "no function `nothing`"),
        (
            &["results", "nothing", "task"],
            "the bucket `nothing`: there is no such bucket",
        ),
        (&["results", "empty", "task"], "no results of a task `task`"),
        (&["logs", "empty", "task"], "no log of a task `task`"),
    ] {
        let text = stack.error(arguments);
        assert!(
            text.starts_with("error: ") && text.contains(problem),
            "{arguments:?}: {text}"
        );
    }

    // Without money and without a script the task waits, and both reasons are told.
    let warned = stack.run(&["submit", "empty", &file]);
    assert!(warned.status.success());
    assert!(
        String::from_utf8(warned.stderr)
            .unwrap()
            .contains("warning: tasks of `empty` do not start now")
    );
    assert_eq!(stack.json(&["ps"])["waiting"][0]["tasks"], 1);
}

#[test]
fn a_data_folder_has_one_stack() {
    let Some(stack) = Stack::start() else { return };
    let second = up(stack.folder()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(
        text.contains("is running on") && text.contains("\nhint: "),
        "{text}"
    );
    assert_eq!(
        stack.json(&["user", "list"]),
        serde_json::json!([]),
        "the first goes on"
    );
}
