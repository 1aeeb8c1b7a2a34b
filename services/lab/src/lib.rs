//! Runs experiments, in virtual time or for real, and writes down and draws what happened.
//!
//! ```text
//! experiments/NAME/experiment.toml ──► experiment ──► virtual run or real run ──► recording ──► CSV, plots
//! ```

pub mod compare;
pub mod csv;
pub mod deposits;
pub mod experiment;
pub mod fidelity;
pub mod plot;
pub mod real;
pub mod replay;
pub mod summary;
pub mod virtual_run;

mod scenario;
