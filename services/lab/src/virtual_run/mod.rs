//! An experiment in virtual time: seconds for an hour.
//!
//! ```text
//! experiment ──► scenario ──► ours: the services' own pure code  ──┐
//!                        └──► prototype: its mechanism and delays ─┴──► recording
//! ```
//!
//! Nothing here reads a clock or a file: the same experiment gives the same recording.

mod container;
mod kernel;
mod log;
mod money;
mod ours;
mod prototype;

use container_manager::recording::Entry;
use container_manager::scaler::{PolicyName, RuleError};
use units::CpuPrice;

use crate::experiment::Experiment;
use crate::scenario::Scenario;

pub use prototype::Phases;

/// Whose way of running, metering and billing it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mechanics {
    /// The services' own code: exact billing, enforced at the crossing.
    #[default]
    Ours,
    /// The published prototype's loops and delays. It knows one user and one function.
    Prototype(Phases),
}

/// What is to be otherwise than the experiment says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub policy: Option<PolicyName>,
    pub tariff: Option<CpuPrice>,
    pub mechanics: Mechanics,
}

/// Runs an experiment until nothing is left that could happen. Errors if its scaling rules could never act.
pub fn run(experiment: &Experiment, options: &Options) -> Result<Vec<Entry>, RuleError> {
    let scenario = Scenario::of(experiment, options)?;
    Ok(run_scenario(&scenario, options.mechanics))
}

pub(crate) fn run_scenario(scenario: &Scenario, mechanics: Mechanics) -> Vec<Entry> {
    match mechanics {
        Mechanics::Ours => ours::run(scenario),
        Mechanics::Prototype(phases) => prototype::run(scenario, &phases),
    }
}
