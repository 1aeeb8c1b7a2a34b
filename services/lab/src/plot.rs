//! The three figures of a run, as the published prototype's: funds, CPU and tasks.
//!
//! ```text
//! recording ──► figures ──► chart ──► SVG ──► PNG
//! ```
//!
//! Times are those of the run described: a recording that was compressed is stretched to its full length again. Colours
//! are those of Okabe and Ito, which colour-blind people tell apart; in print without colour the dashes do.

mod chart;
mod figures;
mod png;
mod ticks;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use container_manager::recording::Entry;

use chart::Chart;
pub use png::PngError;

/// One picture of a run.
#[derive(Clone, Debug)]
pub struct Figure {
    /// `funds`, `cpu` or `tasks`.
    pub name: &'static str,
    pub svg: String,
}

#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    #[error("failed to draw the figure `{name}`")]
    Draw {
        name: &'static str,
        #[source]
        err: PngError,
    },
    #[error("failed to write `{path}`")]
    Write {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

/// Draws what a recording holds. An empty one gives empty charts.
pub fn figures(entries: &[Entry]) -> [Figure; 3] {
    let draw = |name, chart: Chart| Figure {
        name,
        svg: chart.svg(),
    };
    [
        draw("funds", figures::funds(entries)),
        draw("cpu", figures::cpu(entries)),
        draw("tasks", figures::tasks(entries)),
    ]
}

impl Figure {
    /// The SVG as pixels, twice as many as its own size says.
    pub fn png(&self) -> Result<Vec<u8>, PngError> {
        png::png(&self.svg)
    }
}

/// Writes `funds.svg`, `funds.png` and so on to a folder that exists, and returns their paths.
pub fn write(entries: &[Entry], folder: &Path) -> Result<Vec<PathBuf>, PlotError> {
    let mut written = Vec::new();
    for figure in figures(entries) {
        let name = figure.name;
        let png = figure.png().map_err(|err| PlotError::Draw { name, err })?;
        for (extension, bytes) in [("svg", figure.svg.as_bytes()), ("png", &png)] {
            let path = folder.join(name).with_extension(extension);
            fs::write(&path, bytes).map_err(|err| PlotError::Write {
                path: path.clone(),
                err,
            })?;
            written.push(path);
        }
    }
    Ok(written)
}
