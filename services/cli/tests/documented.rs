//! The commands of the documentation do what they are said to do.
//!
//! Every block of a page whose info string is `console` is run by a shell of its own, in the order of the page. What another
//! machine, a real daemon or somebody else's id is needed for is a block of `console not-run`, which looks the same to
//! readers.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::{Stack, console};
use tempfile::TempDir;

/// In the order in which a new user reads them: each may use what those before have made.
const GUIDE: [&str; 7] = [
    "docs/quickstart.md",
    "docs/cli.md",
    "docs/money.md",
    "docs/access.md",
    "docs/operations.md",
    "docs/laboratory.md",
    "docs/deployment.md",
];
/// What a test has done already.
const SET_UP: [&str; 3] = ["cargo build", "gridfaas up", "gridfaas --verbose up"];
/// Where the pages say that a stack's parts are.
const S3_URL: &str = "http://127.0.0.1:9000";
const DATA_DIR: &str = "/root/.local/share/gridfaas";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The blocks of a page with this info string.
fn blocks(page: &str, info: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let opening = format!("```{info}\n");
    let blocks = text.split(&opening).skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

/// A clone to work in, as far as the pages use it.
fn clone() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["README.md", "LICENSE"] {
        fs::copy(root().join(name), folder.path().join(name)).unwrap();
    }
    // What the pages make in `target` goes with the clone.
    fs::create_dir(folder.path().join("target")).unwrap();
    for name in ["deployment", "experiments", "images", "target/images"] {
        symlink(
            root().canonicalize().unwrap().join(name),
            folder.path().join(name),
        )
        .unwrap();
    }
    folder
}

/// What is typed, and what is then read.
fn typed_and_read(block: &str) -> (String, String) {
    let (mut typed, mut read, mut goes_on) = (String::new(), String::new(), false);
    for line in block.lines() {
        let command = line.strip_prefix("# ").or_else(|| line.strip_prefix("$ "));
        let command = if goes_on { Some(line) } else { command };
        let Some(command) = command else {
            read.push_str(line);
            read.push('\n');
            continue;
        };
        goes_on = command.ends_with('\\');
        if !SET_UP.iter().any(|done| command.starts_with(done)) {
            typed.push_str(command);
            typed.push('\n');
        }
    }
    (typed, read)
}

fn run(pages: &[&str], stack: &Stack) {
    let folder = clone();
    let place = |text: String| {
        text.replace(S3_URL, &stack.endpoints().s3_url)
            .replace(DATA_DIR, stack.folder().to_str().unwrap())
            .replace("/etc/gridfaas", folder.path().join("etc").to_str().unwrap())
    };
    for page in pages {
        for block in blocks(page, "console") {
            let (typed, read) = typed_and_read(&place(block));
            let script = format!("set -euo pipefail\nexec 2>&1\n{typed}");
            let mut shell = console::shell(folder.path(), stack.folder());
            let output = shell.args(["-c", &script]).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            let is_refused = read.starts_with("error: ");
            assert_eq!(
                output.status.success(),
                !is_refused,
                "{page}:\n{typed}\n{said}\n{}",
                stack.log()
            );
            // Lines are broken to fit the page.
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert!(
                read.is_empty() || words(&read) == words(&said),
                "{page}:\n{typed}\n{said}"
            );
        }
    }
}

#[test]
fn the_readme_can_be_typed_in() {
    let Some(stack) = Stack::start() else { return };
    run(&["README.md"], &stack);
}

#[test]
fn the_guide_can_be_typed_in() {
    let Some(stack) = Stack::start() else { return };
    run(&GUIDE, &stack);
}

/// A new block is run, or it is decided here that it cannot be.
#[test]
fn every_block_of_commands_is_run_or_known_not_to_be() {
    let pages = fs::read_dir(root().join("docs")).unwrap();
    let pages = pages.map(|page| format!("docs/{}", page.unwrap().file_name().to_str().unwrap()));
    let pages = pages
        .filter(|page| page.ends_with(".md"))
        .chain(["README.md".to_owned()]);
    let (mut run, mut not_run) = (0, 0);
    for page in pages {
        let of_page = blocks(&page, "console").len();
        let is_run = page == "README.md" || GUIDE.contains(&page.as_str());
        assert!(is_run || of_page == 0, "{page} has commands that no test runs");
        run += of_page;
        not_run += blocks(&page, "console not-run").len();
    }
    assert_eq!((run, not_run), (21, 26), "blocks that are run, and that are not");
}
