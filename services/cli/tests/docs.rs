//! What the documentation points at is there.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every file below `folder` whose name ends so, build output left out.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let (mut open, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name == "target" || name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if name.ends_with(end) {
                files.push(path);
            }
        }
    }
    files
}

/// What stands between `open` and `close`, each time.
fn between<'a>(text: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
    text.split(open)
        .skip(1)
        .filter_map(move |rest| Some(rest.split_once(close)?.0))
}

/// Whether a heading of a page is linked to by this name: lower case, `-` for a space, no punctuation.
fn has_section(page: &Path, section: &str) -> bool {
    let text = std::fs::read_to_string(page).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let mut names = headings.map(|heading| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
    });
    names.any(|name| name == section)
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let pages = files(&root(), ".md");
    assert!(pages.len() > 20, "{pages:?}");
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in between(&text, "](", ')') {
            if link.contains("://") {
                continue;
            }
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            let is_there = target.exists() && (section.is_empty() || has_section(&target, section));
            assert!(is_there, "{}: `{link}` leads nowhere", page.display());
        }
    }
}

#[test]
fn the_book_has_every_page() {
    let docs = root().join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let chapters: BTreeSet<PathBuf> = between(&summary, "](", ')').map(|link| docs.join(link)).collect();
    for page in files(&docs, ".md") {
        let is_there = chapters.contains(&page) || page.ends_with("SUMMARY.md");
        assert!(is_there, "docs/SUMMARY.md has no {}", page.display());
    }
}

#[test]
fn every_test_that_the_specification_names_exists() {
    let mut tests = BTreeSet::new();
    for file in files(&root().join("services"), ".rs") {
        let text = std::fs::read_to_string(file).unwrap();
        tests.extend(between(&text, "fn ", '(').map(str::to_owned));
    }
    let page = std::fs::read_to_string(root().join("docs/specification.md")).unwrap();
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut count = 0;
    for row in rows {
        let watched_by = row.trim_end_matches(['|', ' ']).rsplit_once(" | ").unwrap().1;
        for (number, name) in watched_by.split('`').enumerate() {
            if number % 2 == 0 {
                continue;
            }
            let exists = if name.contains('/') {
                // A command may have arguments.
                root().join(name.split(' ').next().unwrap()).exists()
            } else {
                tests.contains(name)
            };
            assert!(exists, "`{name}` watches nothing: {row}");
            count += 1;
        }
    }
    assert!(count > 50, "{count} tests are named");
}
