//! Runs experiments, in virtual time or for real, and writes down and draws what happened.
//!
//! ```text
//! experiments/NAME/experiment.toml ──► experiment ──► virtual run or real run ──► recording ──► CSV, plots
//! ```

pub mod csv;
pub mod experiment;
pub mod plot;
pub mod real;
pub mod summary;
pub mod virtual_run;

mod scenario;
