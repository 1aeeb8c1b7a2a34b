//! What the command says and how it ends, where no stack is needed for that.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn gridfaas(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gridfaas"));
    command.arg("--data-dir").arg(data_dir).args(arguments);
    // The tests' own surroundings must not point to a stack.
    for variable in [
        "GRIDFAAS_CREDIT_URL",
        "GRIDFAAS_CONTAINER_URL",
        "GRIDFAAS_S3_URL",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    command.output().unwrap()
}

/// Standard error, after checks that the command failed with this status and wrote nothing to standard output.
fn failure(output: &Output, status: i32) -> String {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert_eq!(output.stdout, b"", "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn without_a_stack_every_command_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("task.txt");
    fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    for arguments in [
        &["user", "list"][..],
        &["user", "fund", "alice", "1"],
        &["function", "create", "stress", "--user", "alice"],
        &["submit", "stress", file],
        &["ps"],
        &["logs", "stress", "task"],
        &["results", "stress", "task"],
        &["balance", "alice"],
        &["audit"],
        &["statement", "alice"],
        &["ledger", "show"],
        &["ledger", "backup", "copy.db"],
    ] {
        let text = failure(&gridfaas(folder.path(), arguments), 1);
        let expected = format!(
            "error: no stack is running in `{}`\nhint: start one with `gridfaas up`",
            folder.path().display()
        );
        assert!(text.starts_with(&expected), "{arguments:?}: {text}");
    }
}

#[test]
fn a_stack_that_was_killed_is_told_from_one_never_started() {
    let folder = tempfile::tempdir().unwrap();
    // A port that was free a moment ago, as a killed stack leaves it.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let endpoints = format!(
        r#"{{"data_dir": "/x", "s3_url": "http://{free}", "s3_credentials_file": "/x", "credit_url": "http://{free}",
            "container_url": "http://{free}", "operator_token_file": "/x", "dev_chain": null}}"#
    );
    fs::write(folder.path().join("endpoints.json"), endpoints).unwrap();
    let text = failure(&gridfaas(folder.path(), &["balance", "alice"]), 1);
    let expected = format!("error: credit-manager at http://{free} does not answer");
    assert!(text.starts_with(&expected), "{text}");
    assert!(
        text.contains("\nhint: is `gridfaas up` still running?\n"),
        "{text}"
    );
}

#[test]
fn files_that_cannot_be_deployed_are_refused_before_a_stack_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("empty.sh"), "").unwrap();
    fs::create_dir(path("folder.sh")).unwrap();
    fs::write(path("text.sif"), "no image").unwrap();
    for (option, file, problem) in [
        ("--script", "empty.sh", "empty.sh` is empty"),
        ("--script", "folder.sh", "folder.sh` is a folder"),
        ("--script", "missing.sh", "missing.sh`: No such file"),
        ("--image", "text.sif", "text.sif` is not an Apptainer image"),
        ("--image", "empty.sh", "empty.sh` is neither a .sif image nor"),
    ] {
        let arguments = [
            "function",
            "create",
            "stress",
            "--user",
            "alice",
            option,
            &path(file),
        ];
        let text = failure(&gridfaas(folder.path(), &arguments), 1);
        assert!(text.contains(problem), "{file}: {text}");
    }
    let text = failure(
        &gridfaas(folder.path(), &["submit", "stress", &path("missing.txt")]),
        1,
    );
    assert!(text.contains("missing.txt`: No such file"), "{text}");
}

#[test]
fn wrong_usage_ends_with_status_2_and_help() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, said) in [
        (&["submit", "stress"][..], "--help"),
        (&["user", "fund", "alice", "-1"], "the amount must be more than 0"),
        (
            &["function", "create", "Stress", "--user", "alice"],
            "is not a function name",
        ),
        (&["user", "set", "alice"], "--debt-limit"),
        (&["--output", "xml", "ps"], "table, json, jsonl"),
        (&["blance", "alice"], "'balance'"),
        (&[], "Usage: gridfaas"),
    ] {
        let text = failure(&gridfaas(folder.path(), arguments), 2);
        assert!(text.contains(said), "{arguments:?}: {text}");
        assert!(!text.contains('\u{1b}'), "colours in a pipe: {text}");
    }
}

#[test]
fn json_is_one_value_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let output = gridfaas(folder.path(), &["version", "--output", "json"]);
    assert!(output.status.success());
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_configuration_file_is_checked_as_its_service_would() {
    let folder = tempfile::tempdir().unwrap();
    let deployment = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deployment/config");
    for service in ["container-manager", "credit-manager"] {
        let file = deployment.join(format!("{service}.toml"));
        let file = file.to_str().unwrap();
        let output = gridfaas(
            folder.path(),
            &["config", "check", service, file, "--output", "json"],
        );
        assert!(output.status.success(), "{output:?}");
        let given: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let listen = given
            .as_array()
            .unwrap()
            .iter()
            .find(|given| given["key"] == "listen");
        assert_eq!(listen.unwrap()["origin"], "file");

        let wrong = folder.path().join("wrong.toml");
        fs::write(
            &wrong,
            fs::read_to_string(file)
                .unwrap()
                .replace("\nlisten =", "\nlissten ="),
        )
        .unwrap();
        let wrong = wrong.to_str().unwrap();
        let text = failure(&gridfaas(folder.path(), &["config", "check", service, wrong]), 1);
        assert!(text.contains("hint: did you mean `listen`?"), "{text}");
    }
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let output = gridfaas(folder.path(), &["man"]);
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains(".TH gridfaas 1")
    );
    let pages = folder.path().join("man1");
    let output = gridfaas(folder.path(), &["man", "--to", pages.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    for page in ["gridfaas.1", "gridfaas-submit.1", "gridfaas-task-retry.1"] {
        assert!(pages.join(page).exists(), "{page}");
    }
}

#[test]
fn completions_know_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = gridfaas(folder.path(), &["completions", shell]);
        assert!(output.status.success());
        assert!(
            String::from_utf8(output.stdout).unwrap().contains("submit"),
            "{shell}"
        );
    }
}
