//! Recent usage of a container → how much CPU it should have. Pure: time comes in with each sample.
//!
//! ```text
//! sample ──► Scaler (one per container: guardian or tracking) ──► desired ──► headroom (one per node) ──► changes
//! ```
//!
//! The `guardian` policy keeps the rules of the published prototype; `tracking` follows demand within a fraction of a
//! second; `fixed` does not scale at all. None knows of money: whoever asks caps what a restricted container gets at
//! [`CpuLimits::floor`].

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use units::{CpuTime, MilliCores};

use crate::cgroup::CpuStat;

mod events;
mod guardian;
pub mod headroom;
mod memory;
mod tracking;

pub use guardian::{GuardianRules, Raise};
pub use memory::{MemoryRules, MemoryScaler};

use guardian::Guardian;
use tracking::Tracking;

/// A quarter of a core: 25 of the prototype's shares.
const DEFAULT_BOUNDARY: MilliCores = MilliCores::from_millicores(250);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("`{0}` must not be 0")]
    Zero(String),
    #[error("`overprovisioning_percent` must be from 100 to 1000, and is {0}")]
    Overprovisioning(u32),
    #[error(
        "`event_timeout_ms` is {timeout_ms}, but {events} events take {needed_ms} ms, so the rule could never act"
    )]
    NeverActs {
        timeout_ms: u64,
        events: u32,
        needed_ms: u64,
    },
}

/// What a container may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuLimits {
    pub min: MilliCores,
    pub max: MilliCores,
    /// The distance kept from usage.
    pub boundary: MilliCores,
}

impl CpuLimits {
    /// What is left to a container whose account is in debt: `min + 2 × boundary`, 500 millicores by default.
    pub fn floor(&self) -> MilliCores {
        self.min
            .saturating_add(self.boundary)
            .saturating_add(self.boundary)
            .min(self.max)
    }

    fn clamp(&self, desired: MilliCores) -> MilliCores {
        desired.max(self.min).min(self.max)
    }
}

/// What a function asks for its container; where it says nothing, the node decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    pub min: MilliCores,
    pub max: MilliCores,
    pub policy: Option<PolicyName>,
    pub boundary: Option<MilliCores>,
}

/// A container's counters at one moment, and the limit that was in force up to then.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Instant,
    pub stat: CpuStat,
    /// Zero while no limit was set yet.
    pub allocation: MilliCores,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    Guardian,
    #[default]
    Tracking,
    /// Always `max`: what a container does when nothing is scaled.
    Fixed,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Guardian => "guardian",
            Self::Tracking => "tracking",
            Self::Fixed => "fixed",
        })
    }
}

/// How containers are scaled. Holds only rules that can act.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct ScalerConfig {
    policy: PolicyName,
    boundary: MilliCores,
    overprovisioning_percent: u32,
    guardian: GuardianRules,
    memory: MemoryRules,
}

impl ScalerConfig {
    /// Errors if a rule could never act, or would act on nothing.
    pub fn new(policy: PolicyName, boundary: MilliCores, guardian: GuardianRules) -> Result<Self, RuleError> {
        if boundary == MilliCores::ZERO {
            return Err(RuleError::Zero("boundary_millicores".to_owned()));
        }
        guardian.check()?;
        Ok(Self {
            policy,
            boundary,
            guardian,
            ..Self::default()
        })
    }

    /// Lets containers have more together than the node has, so that what some leave unused is not lost to others.
    pub fn with_overprovisioning(self, percent: u32) -> Result<Self, RuleError> {
        if !(100..=1000).contains(&percent) {
            return Err(RuleError::Overprovisioning(percent));
        }
        Ok(Self {
            overprovisioning_percent: percent,
            ..self
        })
    }

    /// With these rules for memory. Errors if they could never act.
    pub fn with_memory(self, memory: MemoryRules) -> Result<Self, RuleError> {
        memory.check()?;
        Ok(Self { memory, ..self })
    }

    pub fn memory(&self) -> &MemoryRules {
        &self.memory
    }

    /// What the containers of a node with this capacity may have together.
    pub fn allocatable(&self, capacity: MilliCores) -> MilliCores {
        let millicores = u64::from(capacity.millicores()) * u64::from(self.overprovisioning_percent) / 100;
        MilliCores::from_millicores(u32::try_from(millicores).unwrap_or(u32::MAX))
    }

    pub fn policy(&self) -> PolicyName {
        self.policy
    }

    pub fn boundary(&self) -> MilliCores {
        self.boundary
    }

    /// The scaler of a container whose function asks for `wishes`.
    pub fn scaler(&self, wishes: &Wishes) -> Scaler {
        let config = Self {
            policy: wishes.policy.unwrap_or(self.policy),
            boundary: wishes.boundary.unwrap_or(self.boundary),
            // No business of what scales the CPU, which is to go on as it was when they change.
            memory: MemoryRules::default(),
            ..self.clone()
        };
        let limits = CpuLimits {
            min: wishes.min,
            max: wishes.max,
            boundary: config.boundary,
        };
        Scaler::new(&config, limits)
    }
}

impl Default for ScalerConfig {
    fn default() -> Self {
        Self {
            policy: PolicyName::default(),
            boundary: DEFAULT_BOUNDARY,
            overprovisioning_percent: 100,
            guardian: GuardianRules::default(),
            memory: MemoryRules::default(),
        }
    }
}

/// The keys as they are written in a file.
#[derive(Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    policy: PolicyName,
    boundary_millicores: MilliCores,
    overprovisioning_percent: u32,
    guardian: GuardianRules,
    memory: MemoryRules,
}

impl Default for Keys {
    fn default() -> Self {
        ScalerConfig::default().into()
    }
}

impl From<ScalerConfig> for Keys {
    fn from(config: ScalerConfig) -> Self {
        Self {
            policy: config.policy,
            boundary_millicores: config.boundary,
            overprovisioning_percent: config.overprovisioning_percent,
            guardian: config.guardian,
            memory: config.memory,
        }
    }
}

impl TryFrom<Keys> for ScalerConfig {
    type Error = RuleError;

    fn try_from(keys: Keys) -> Result<Self, RuleError> {
        Self::new(keys.policy, keys.boundary_millicores, keys.guardian)?
            .with_overprovisioning(keys.overprovisioning_percent)?
            .with_memory(keys.memory)
    }
}

/// Decides for one container. The same samples give the same decisions, so a recorded run can be replayed.
trait Policy: Send {
    /// What a container gets before anything is known about it.
    fn initial(&self, limits: &CpuLimits) -> MilliCores;

    /// What it should have from now on. Samples may come at any distance.
    fn on_sample(&mut self, sample: &Sample, limits: &CpuLimits) -> MilliCores;

    /// A task is about to start in it.
    fn on_task(&mut self, _at: Instant, _limits: &CpuLimits) {}
}

/// Everything the container may have, at all times.
struct Fixed;

impl Policy for Fixed {
    fn initial(&self, limits: &CpuLimits) -> MilliCores {
        limits.max
    }

    fn on_sample(&mut self, _sample: &Sample, limits: &CpuLimits) -> MilliCores {
        limits.max
    }
}

/// The scaler of one container.
pub struct Scaler {
    config: ScalerConfig,
    policy: Box<dyn Policy>,
    limits: CpuLimits,
    has_begun: bool,
}

impl Scaler {
    pub fn new(config: &ScalerConfig, limits: CpuLimits) -> Self {
        let policy: Box<dyn Policy> = match config.policy {
            PolicyName::Guardian => Box::new(Guardian::new(config.guardian)),
            PolicyName::Tracking => Box::new(Tracking::default()),
            PolicyName::Fixed => Box::new(Fixed),
        };
        Self {
            config: config.clone(),
            policy,
            limits,
            has_begun: false,
        }
    }

    pub fn policy(&self) -> PolicyName {
        self.config.policy
    }

    /// The rules it goes by.
    pub fn config(&self) -> &ScalerConfig {
        &self.config
    }

    pub fn limits(&self) -> &CpuLimits {
        &self.limits
    }

    /// A task is about to start in the container; the next sample is answered accordingly.
    pub fn on_task(&mut self, at: Instant) {
        self.policy.on_task(at, &self.limits);
    }

    /// What the container should have from now on, from `min` to `max`.
    pub fn on_sample(&mut self, sample: &Sample) -> MilliCores {
        let mut sample = *sample;
        // Later on zero says that it was idle and has sunk to nothing.
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if is_first && sample.allocation == MilliCores::ZERO {
            sample.allocation = self.policy.initial(&self.limits);
        }
        self.limits.clamp(self.policy.on_sample(&sample, &self.limits))
    }
}

/// The average usage over `wall`, rounded down, so that next to nothing counts as idle.
fn average(used: CpuTime, wall: Duration) -> MilliCores {
    let millicores = (u128::from(used.micros()) * 1000)
        .checked_div(wall.as_micros())
        .unwrap_or(0);
    MilliCores::from_millicores(u32::try_from(millicores).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(min: u32, max: u32) -> CpuLimits {
        CpuLimits {
            min: MilliCores::from_millicores(min),
            max: MilliCores::from_millicores(max),
            boundary: DEFAULT_BOUNDARY,
        }
    }

    #[test]
    fn the_floor_is_min_and_two_boundaries_but_never_above_max() {
        for (min, max, floor) in [(0, 4000, 500), (1000, 4000, 1500), (0, 300, 300)] {
            assert_eq!(limits(min, max).floor().millicores(), floor);
        }
    }

    #[test]
    fn a_new_container_starts_at_half_under_guardian_and_at_max_under_tracking() {
        let sample = Sample {
            at: Instant::now(),
            stat: CpuStat::default(),
            allocation: MilliCores::ZERO,
        };
        for (policy, expected) in [
            (PolicyName::Guardian, 2000),
            (PolicyName::Tracking, 4000),
            (PolicyName::Fixed, 4000),
        ] {
            let config = ScalerConfig::new(policy, DEFAULT_BOUNDARY, GuardianRules::default()).unwrap();
            let desired = Scaler::new(&config, limits(0, 4000)).on_sample(&sample);
            assert_eq!(desired.millicores(), expected, "{policy:?}");
        }
    }

    #[test]
    fn an_idle_container_that_sank_to_nothing_stays_there() {
        let mut scaler = Scaler::new(&ScalerConfig::default(), limits(0, 4000));
        let (start, mut allocation) = (Instant::now(), MilliCores::ZERO);
        let mut given = Vec::new();
        for look in 0..50 {
            let sample = Sample {
                at: start + Duration::from_millis(100 * look),
                stat: CpuStat::default(),
                allocation,
            };
            allocation = scaler.on_sample(&sample);
            given.push(allocation.millicores());
        }
        assert_eq!((given.first(), given.last()), (Some(&4000), Some(&0)));
        given.dedup();
        assert_eq!(given, [4000, 500, 0], "first to its floor");
    }

    #[test]
    fn a_function_decides_for_itself_and_the_node_where_it_says_nothing() {
        let node = ScalerConfig::default();
        let wishes = Wishes {
            max: MilliCores::from_cores(2),
            ..Wishes::default()
        };
        let silent = node.scaler(&wishes);
        assert_eq!(
            (silent.policy(), silent.limits().boundary),
            (PolicyName::Tracking, DEFAULT_BOUNDARY)
        );
        let mut told = node.scaler(&Wishes {
            policy: Some(PolicyName::Fixed),
            boundary: Some(MilliCores::from_millicores(50)),
            ..wishes
        });
        assert_eq!(told.limits().floor().millicores(), 100);
        let mut at = Instant::now();
        for _ in 0..100 {
            at += Duration::from_millis(100);
            let idle = Sample {
                at,
                stat: CpuStat::default(),
                allocation: MilliCores::from_cores(2),
            };
            assert_eq!(told.on_sample(&idle), MilliCores::from_cores(2));
        }
    }

    #[test]
    fn configuration_is_read_checked_and_has_defaults() {
        let read = |text: &str| toml::from_str::<ScalerConfig>(text).map_err(|err| err.to_string());
        assert_eq!(read(""), Ok(ScalerConfig::default()));
        let guardian =
            read("policy = 'guardian'\n[guardian]\nraise = 'amount'\nraise_millicores = 500").unwrap();
        assert_eq!(guardian.policy, PolicyName::Guardian);
        assert_eq!(guardian.guardian.raise, Raise::Amount);
        for (text, named) in [
            ("boundary_millicores = 0", "`boundary_millicores`"),
            ("overprovisioning_percent = 99", "`overprovisioning_percent`"),
            ("policy = 'magic'", "`magic`"),
            ("speed = 1", "`speed`"),
            ("[guardian]\nwindow_ms = 0", "`guardian.window_ms`"),
            ("[guardian]\nraise_ups = 0", "`guardian.raise_ups`"),
            ("[guardian]\nlower_downs = 0", "`guardian.lower_downs`"),
            ("[memory]\nraise_mib = 0", "`memory.raise_mib`"),
            ("[guardian]\nraise_millicores = 0", "`guardian.raise_millicores`"),
            ("[guardian]\nevent_timeout_ms = 40000", "6 events take 50000 ms"),
        ] {
            let err = read(text).unwrap_err();
            assert!(err.contains(named), "{text}: {err}");
        }
    }
}
