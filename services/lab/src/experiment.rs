//! What an experiment is: funds, a function, and what happens when.

use serde::Deserialize;
use units::{Amount, Billing, MilliCores};

use container_manager::scaler::PolicyName;

/// The file `experiment.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// One sentence: what it is to show.
    pub title: String,
    pub funds: Funds,
    pub function: Function,
    #[serde(default)]
    pub events: Vec<Event>,
}

/// The user's money at the start. Amounts are decimal strings of GRC.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Funds {
    pub start: Amount,
    pub min_balance: Amount,
    pub debt_limit: Amount,
    pub core_seconds_per_grc: u32,
    pub billing: Billing,
}

/// The function that runs every task.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    #[serde(default)]
    pub policy: PolicyName,
    pub cpu_min_millicores: MilliCores,
    pub cpu_max_millicores: MilliCores,
    pub boundary_millicores: MilliCores,
    pub idle_timeout_s: u32,
}

/// What happens at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    pub at_s: u32,
    pub deposit: Option<Amount>,
    /// Tasks dropped in this order, each `CORES-SECONDS`.
    #[serde(default)]
    pub tasks: Vec<String>,
}
