//! The published prototype's figures beside the same runs in virtual time: with its mechanics, and with ours.
//!
//! The published figures are plots; the numbers here are read off them. Their time axis begins with the container's first
//! point, and so does the axis of a replay.

mod published;
mod run;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use container_manager::scaler::{PolicyName, RuleError};

use crate::experiment::{Experiment, ExperimentError};
use crate::virtual_run::{self, Mechanics, Options};
use published::{Figure, Published, RUNS};
use run::Run;

/// A replay is as good as the prototype's own grid of time: one window of its guardian.
const TOLERANCE_S: i64 = 10;

#[derive(Debug, thiserror::Error)]
pub enum FidelityError {
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    #[error(transparent)]
    Rules(#[from] RuleError),
}

/// One published number, replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub run: &'static str,
    pub published: String,
    /// What the replay with the prototype's mechanics shows.
    pub replayed: String,
    pub is_within: bool,
    /// Why it is not, if it is known.
    pub why: Option<&'static str>,
    /// What ours has at the published moment.
    pub ours: String,
}

/// Every published number, from the experiments in `folder`.
pub fn rows(folder: &Path) -> Result<Vec<Row>, FidelityError> {
    let mut rows = Vec::new();
    for published in RUNS {
        let path: PathBuf = folder.join(published.name).join("experiment.toml");
        let experiment = Experiment::read(&path)?;
        let prototype = Options {
            policy: Some(PolicyName::Guardian),
            mechanics: Mechanics::Prototype(published.phases),
            ..Options::default()
        };
        let ours = Options {
            policy: Some(PolicyName::Tracking),
            ..Options::default()
        };
        let replay = Run::of(&virtual_run::run(&experiment, &prototype)?, published.axis);
        let ours = Run::of(&virtual_run::run(&experiment, &ours)?, published.axis);
        rows.extend(
            published
                .figures
                .iter()
                .map(|figure| row(published, figure, &replay, &ours)),
        );
    }
    Ok(rows)
}

fn row(published: &Published, figure: &Figure, replay: &Run, ours: &Run) -> Row {
    let (replayed, is_within) = match figure.what.find(replay, figure.at_s) {
        Some(found) => {
            let off = found.at_s - figure.at_s;
            let when = if found.holds {
                format!("{} at {} s", found.value, figure.at_s)
            } else {
                format!("{} at {} s ({off:+} s)", found.value, found.at_s)
            };
            (when, found.fits && off.abs() <= TOLERANCE_S)
        }
        None => ("never".to_owned(), false),
    };
    Row {
        run: published.name,
        published: format!("{} at {} s", figure.what, figure.at_s),
        replayed,
        is_within,
        why: figure.why,
        ours: figure.what.state(ours, figure.at_s),
    }
}

/// The table of `docs/fidelity.md`, as Markdown.
pub fn table(folder: &Path) -> Result<String, FidelityError> {
    let mut text = String::from(
        "| Run | Published | Replayed with the prototype's mechanics | Within 10 s | Ours at that moment |\n|---|---|---|---|---|\n",
    );
    let mut notes: Vec<&str> = Vec::new();
    for row in rows(folder)? {
        let within = match (row.is_within, row.why) {
            (true, _) => "yes".to_owned(),
            (false, None) => "no".to_owned(),
            (false, Some(why)) => {
                let number = notes.iter().position(|note| *note == why).unwrap_or_else(|| {
                    notes.push(why);
                    notes.len() - 1
                });
                format!("no ({})", number + 1)
            }
        };
        let Row {
            run,
            published,
            replayed,
            ours,
            ..
        } = row;
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "| {run} | {published} | {replayed} | {within} | {ours} |");
    }
    for (number, note) in notes.iter().enumerate() {
        let _ = write!(text, "\n{}. {note}", number + 1);
    }
    text.push('\n');
    Ok(text)
}
