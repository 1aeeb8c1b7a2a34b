//! The published figures, replayed.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Three numbers are beyond a window, for reasons the table gives; all others have to be within.
#[test]
fn the_published_figures_are_met_within_a_window_of_the_guardian() {
    let rows = lab::fidelity::rows(&root().join("experiments")).expect("experiments with rules that act");
    let missed: Vec<_> = rows
        .iter()
        .filter(|row| !row.is_within && row.why.is_none())
        .collect();
    assert!(missed.is_empty(), "{missed:#?}");
    let explained = rows.iter().filter(|row| !row.is_within).count();
    assert_eq!((rows.len(), explained), (32, 3));
}

#[test]
fn the_table_in_the_docs_is_the_one_that_is_replayed() {
    let table = lab::fidelity::table(&root().join("experiments")).expect("experiments with rules that act");
    let docs = std::fs::read_to_string(root().join("docs/fidelity.md")).expect("docs/fidelity.md");
    assert!(
        docs.contains(&table),
        "docs/fidelity.md lacks this table:\n{table}"
    );
}
