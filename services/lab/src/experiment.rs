//! What an experiment is: funds, a function, and what happens when.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use units::{Amount, Billing, CpuPrice, CpuTime, MilliCores, Policy};

use container_manager::scaler::{GuardianRules, PolicyName};

use crate::deposits::Deposits;

/// The number of the first task file: `100.1-150.txt`.
const TASK_NUMBER_FIRST: usize = 100;

#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    #[error("failed to read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("`{path}` is not an experiment")]
    Syntax {
        path: PathBuf,
        #[source]
        err: Box<toml::de::Error>,
    },
    #[error("`{path}` has no profile `{name}` (hint: a task is CORES-SECONDS or the name of a profile)")]
    NoProfile { path: PathBuf, name: String },
    #[error("`{0}` has a profile that asks for no CPU at all")]
    EmptyProfile(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not CORES-SECONDS (such as 1-150 or 0.5-20)")]
pub struct PhaseError(String);

/// The file `experiment.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// One sentence: what it is to show.
    pub title: String,
    /// What a limit does to a task that is called `CORES-SECONDS`.
    #[serde(default = "burn")]
    pub stress_kind: Kind,
    pub funds: Funds,
    pub function: Function,
    /// Tasks that do more than keep some cores busy for some time, by name.
    #[serde(default)]
    pub profiles: BTreeMap<String, Profile>,
    #[serde(default)]
    pub events: Vec<Event>,
    /// The same again with something else, to be compared.
    #[serde(default)]
    pub variants: Vec<Variant>,
    #[serde(default)]
    pub real: Real,
    /// Sent again and again, and credited when the chain has them.
    pub deposits: Option<Deposits>,
}

const fn burn() -> Kind {
    Kind::Burn
}

/// What runs the tasks when they are run for real.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Real {
    /// A folder under `images/`.
    pub image: String,
    /// The file that is dropped for each profile, below that folder. A `CORES-SECONDS` needs none.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
}

impl Default for Real {
    fn default() -> Self {
        Self {
            image: "stress".to_owned(),
            inputs: BTreeMap::new(),
        }
    }
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
    #[serde(default = "greedy")]
    pub policy: Policy,
    /// Off: never billed, never restricted.
    #[serde(default = "yes")]
    pub accounting: bool,
    /// How long a task stays frozen at the debt limit before it goes back to the queue.
    pub hold_s: u32,
}

const fn greedy() -> Policy {
    Policy::Greedy
}

const fn yes() -> bool {
    true
}

impl Funds {
    pub fn price(&self) -> CpuPrice {
        let per_grc = CpuTime::from_secs(u64::from(self.core_seconds_per_grc.max(1)));
        CpuPrice::from_cpu_time_per_grc(per_grc).unwrap_or(CpuPrice::DEFAULT)
    }
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
    #[serde(default)]
    pub guardian: GuardianRules,
}

/// What a task wants over its time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub kind: Kind,
    /// One after the other.
    pub phases: Vec<Phase>,
    #[serde(default = "once")]
    pub repeat: u32,
}

const fn once() -> u32 {
    1
}

/// What a limit does to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Its phases last as long as they say; under a limit it does less in them.
    Burn,
    /// Its phases last until their CORES × SECONDS of CPU time are used; under a limit they last longer.
    Work,
}

/// `CORES-SECONDS`, the name of a stress task and one phase of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Phase {
    pub cores: MilliCores,
    pub lasts: Duration,
}

impl FromStr for Phase {
    type Err = PhaseError;

    fn from_str(text: &str) -> Result<Self, PhaseError> {
        let refuse = || PhaseError(text.to_owned());
        let (cores, seconds) = text.split_once('-').ok_or_else(refuse)?;
        let (whole, decimals) = seconds.split_once('.').unwrap_or((seconds, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(decimals) || decimals.len() > 3 || cores.ends_with('m') {
            return Err(refuse());
        }
        let secs: u32 = whole.parse().map_err(|_| refuse())?;
        let millis: u32 = format!("{decimals:0<3}").parse().map_err(|_| refuse())?;
        Ok(Self {
            cores: cores.parse().map_err(|_| refuse())?,
            lasts: Duration::from_secs(secs.into()) + Duration::from_millis(millis.into()),
        })
    }
}

impl TryFrom<String> for Phase {
    type Error = PhaseError;

    fn try_from(text: String) -> Result<Self, PhaseError> {
        text.parse()
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thousandths = |whole: u64, rest: u64| {
            let text = format!("{whole}.{rest:03}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        let cores = u64::from(self.cores.millicores());
        let cores = thousandths(cores / 1000, cores % 1000);
        let seconds = thousandths(self.lasts.as_secs(), self.lasts.subsec_millis().into());
        write!(f, "{cores}-{seconds}")
    }
}

/// What happens at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    pub at_s: u32,
    /// Credited at this moment.
    pub deposit: Option<Amount>,
    /// Tasks dropped in this order, each `CORES-SECONDS` or the name of a profile.
    #[serde(default)]
    pub tasks: Vec<String>,
}

/// What a variant does otherwise; what is absent stays.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    pub name: String,
    pub policy: Option<PolicyName>,
    pub billing: Option<Billing>,
    pub accounting: Option<bool>,
}

/// A task file that is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Without `.txt`: `100.1-150`.
    pub name: String,
    pub at: Duration,
    pub profile: Profile,
}

impl Experiment {
    /// Reads `experiment.toml`. Errors if it says what no experiment can be.
    pub fn read(path: &Path) -> Result<Self, ExperimentError> {
        let path = path.to_owned();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(err) => return Err(ExperimentError::Read { path, err }),
        };
        let experiment: Self = match toml::from_str(&text) {
            Ok(experiment) => experiment,
            Err(err) => {
                let err = Box::new(err);
                return Err(ExperimentError::Syntax { path, err });
            }
        };
        let is_empty = |profile: &Profile| {
            let nothing = |phase: &Phase| phase.cores == MilliCores::ZERO || phase.lasts.is_zero();
            profile.repeat == 0 || profile.phases.iter().all(nothing)
        };
        if experiment.profiles.values().any(is_empty) {
            return Err(ExperimentError::EmptyProfile(path));
        }
        let named = experiment.events.iter().flat_map(|event| &event.tasks);
        let unknown = named
            .into_iter()
            .find(|name| experiment.profile(name).is_none())
            .cloned();
        match unknown {
            Some(name) => Err(ExperimentError::NoProfile { path, name }),
            None => Ok(experiment),
        }
    }

    /// Every task file in the order they are dropped, numbered from 100.
    pub fn tasks(&self) -> Vec<Task> {
        let dropped = self.events.iter().flat_map(|event| {
            let at = Duration::from_secs(event.at_s.into());
            event.tasks.iter().map(move |name| (at, name))
        });
        dropped
            .enumerate()
            .filter_map(|(number, (at, name))| {
                Some(Task {
                    name: format!("{}.{name}", TASK_NUMBER_FIRST + number),
                    at,
                    profile: self.profile(name)?,
                })
            })
            .collect()
    }

    /// The experiment itself if it has no variants; else each of them with its name.
    pub fn variants(&self) -> Vec<(String, Self)> {
        let base = Self {
            variants: Vec::new(),
            ..self.clone()
        };
        if self.variants.is_empty() {
            return vec![(String::new(), base)];
        }
        let variant = |variant: &Variant| {
            let mut changed = base.clone();
            changed.function.policy = variant.policy.unwrap_or(base.function.policy);
            changed.funds.billing = variant.billing.unwrap_or(base.funds.billing);
            changed.funds.accounting = variant.accounting.unwrap_or(base.funds.accounting);
            (variant.name.clone(), changed)
        };
        self.variants.iter().map(variant).collect()
    }

    /// The same with other repeats of each profile that has some, which makes it shorter and leaves what it shows.
    pub fn repeated(mut self, times: u32) -> Self {
        for profile in self.profiles.values_mut().filter(|profile| profile.repeat > 1) {
            profile.repeat = times;
        }
        self
    }

    fn profile(&self, name: &str) -> Option<Profile> {
        let burner = |phase| Profile {
            kind: self.stress_kind,
            phases: vec![phase],
            repeat: 1,
        };
        let named = self.profiles.get(name).cloned();
        named.or_else(|| name.parse().ok().map(burner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_read_and_written_as_cores_and_seconds() {
        for (text, millicores, millis) in [
            ("1-150", 1000, 150_000),
            ("0.5-20", 500, 20_000),
            ("5.25-0.4", 5250, 400),
        ] {
            let phase: Phase = text.parse().unwrap();
            assert_eq!(phase.cores.millicores(), millicores);
            assert_eq!(phase.lasts, Duration::from_millis(millis));
            assert_eq!(phase.to_string(), text);
        }
        for text in ["", "1", "1-", "-1", "1-2-3", "1-1.2345", "500m-1", "a-b"] {
            assert!(text.parse::<Phase>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_experiment_of_the_repository_is_one() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
        let mut found = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path().join("experiment.toml");
            if path.exists() {
                let experiment = Experiment::read(&path).unwrap();
                let happens = !experiment.tasks().is_empty() || experiment.deposits.is_some();
                assert!(happens, "{}", path.display());
                found += 1;
            }
        }
        assert!(found >= 4);
    }
}
