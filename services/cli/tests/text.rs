//! What the command tells people, word for word: transcripts that are run again.
//!
//! To add a command, write its line, `$ gridfaas …`, into a transcript, and run `SNAPSHOTS=overwrite cargo test --test text`;
//! then read what it wrote.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::fs;
use std::path::Path;

use common::{Stack, console};
use snapbox::assert::DEFAULT_ACTION_ENV;
use snapbox::{Assert, Data};

/// Runs the commands of a transcript in a folder, and compares.
fn check(name: &str, folder: &Path, data_dir: &Path) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/text")
        .join(name);
    let now = console::retell(&fs::read_to_string(&path).unwrap(), folder, data_dir);
    let expected = Data::read_from(&path, None).raw();
    Assert::new().action_env(DEFAULT_ACTION_ENV).eq(now, expected);
}

#[test]
fn errors_without_a_stack_say_what_is_wrong_and_how_to_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.sh"), "").unwrap();
    fs::write(folder.path().join("task.txt"), "x").unwrap();
    check("errors.txt", folder.path(), &folder.path().join("data"));
}

/// From the first user to the audit, with what goes wrong on the way. A node's own words come after `submit --wait`: `task wait`
/// looks into the bucket, where a task is over a moment before its node has written that down.
#[test]
fn a_stack_is_spoken_with_in_tables_and_hints() {
    let Some(stack) = Stack::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(common::base_image(), folder.path().join("base.sif")).unwrap();
    fs::write(
        folder.path().join("wc.sh"),
        "echo counting; wc -w <\"$1\" >\"$2/words.txt\"\n",
    )
    .unwrap();
    fs::write(folder.path().join("fails.sh"), "echo no >&2; exit 3\n").unwrap();
    fs::write(folder.path().join("poem.txt"), "drop a file\n").unwrap();
    check("stack.txt", folder.path(), stack.folder());
}
