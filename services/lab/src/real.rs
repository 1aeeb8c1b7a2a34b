//! An experiment for real: how it fits this machine and a shorter time, and what of a node's recording belongs to it.
//!
//! A run that is compressed takes a fraction of the time described, and one on a smaller machine a fraction of the cores.
//! CPU time shrinks by both, so one GRC buys less of it by both: balances are the described run's at every moment.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use container_manager::recording::{Entry, Record};
use container_manager::scaler::{GuardianRules, RuleError, ScalerConfig};
use units::{Amount, CpuTime, FunctionName, MilliCores, UserName};

use crate::experiment::{Experiment, Kind, Phase, Profile, Task};

/// Tasks wait for nothing but the machine, so three times what they take alone is time enough.
const PATIENCE: u32 = 3;
/// Starts, deposits and hand-backs, on a machine that is busy with other things.
const OVERHEAD: Duration = Duration::from_secs(120);

/// How a run differs from the one described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Seconds described that pass in a second; at least 1.
    pub speed: u32,
    /// Cores here for each core described, as a decimal number of at most three digits behind the point.
    pub cores: MilliCores,
}

impl Scale {
    /// As described.
    pub const FULL: Self = Self {
        speed: 1,
        cores: MilliCores::ONE_CORE,
    };

    /// With as many cores as `capacity` has, if the function asks for more.
    pub fn that_fits(speed: u32, capacity: MilliCores, max: MilliCores) -> Self {
        let thousandths = u64::from(capacity.millicores()) * 1000 / u64::from(max.millicores().max(1));
        let cores = u32::try_from(thousandths.clamp(1, 1000)).unwrap_or(1000);
        Self {
            speed: speed.max(1),
            cores: MilliCores::from_millicores(cores),
        }
    }

    fn time(self, described: Duration) -> Duration {
        described / self.speed.max(1)
    }

    fn cores(self, described: MilliCores) -> MilliCores {
        let thousandths = u64::from(described.millicores()) * u64::from(self.cores.millicores()) / 1000;
        MilliCores::from_millicores(u32::try_from(thousandths).unwrap_or(u32::MAX))
    }

    fn cpu_time(self, described: CpuTime) -> CpuTime {
        let shrunk = u128::from(described.micros()) * u128::from(self.cores.millicores())
            / (1000 * u128::from(self.speed.max(1)));
        CpuTime::from_micros(u64::try_from(shrunk).unwrap_or(u64::MAX))
    }

    /// What a title says of it; empty for a run as described.
    pub fn note(self) -> String {
        let mut notes = Vec::new();
        if self.speed > 1 {
            notes.push(format!("{} times faster", self.speed));
        }
        if self.cores != MilliCores::ONE_CORE {
            let cores = format!(
                "{}.{:03}",
                self.cores.millicores() / 1000,
                self.cores.millicores() % 1000
            );
            let cores = cores.trim_end_matches('0').trim_end_matches('.');
            notes.push(format!("on {cores} of its cores"));
        }
        notes.join(", ")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("it drops no files, so there is nothing to run for real (hint: use --mode virtual)")]
    NoTasks,
    #[error(
        "`{0}` cannot be run for real: it burns in more than one phase, and has no file under `real.inputs`"
    )]
    NoInput(String),
    #[error(
        "`{0}` is a file of its own, which takes the time it takes, so it cannot be compressed (hint: use --mode real)"
    )]
    NotCompressible(String),
    #[error("`{0}` asks for less CPU than can be measured out (hint: use a lower speed)")]
    TooSmall(String),
    #[error("the guardian's rules do not work at this speed")]
    Rules(#[from] RuleError),
}

/// What is set up and done, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For titles: the experiment's name and how it was scaled.
    pub name: String,
    pub scale: Scale,
    /// What the containers share.
    pub capacity: MilliCores,
    pub cpu_time_per_grc: CpuTime,
    pub hold: Duration,
    /// Whole seconds, which is what `utils/timeout.txt` takes.
    pub idle_timeout_s: u64,
    /// `utils/function.toml`.
    pub function_toml: String,
    pub scaler: ScalerConfig,
    /// In the order of time.
    pub steps: Vec<Step>,
    /// A run that takes longer is stuck.
    pub deadline: Duration,
}

/// What is done at one moment after the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub at: Duration,
    pub deposit: Option<Amount>,
    pub tasks: Vec<Dropped>,
}

/// A task file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub name: String,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The name says all.
    Empty,
    /// That of a file below the folder of the experiment's image.
    File(String),
    /// Phases of work, a line each.
    Phases(String),
}

impl Plan {
    /// Errors if the experiment cannot be run like this.
    pub fn of(experiment: &Experiment, name: &str, scale: Scale) -> Result<Self, PlanError> {
        let Experiment { funds, function, .. } = experiment;
        let boundary = scale.cores(function.boundary_millicores);
        let max = scale.cores(function.cpu_max_millicores);
        let note = scale.note();
        let mut tasks = VecDeque::from(experiment.tasks());
        let mut alone = Duration::ZERO;
        let mut steps = Vec::new();
        for event in &experiment.events {
            let due = tasks.drain(..event.tasks.len().min(tasks.len()));
            let mut dropped = Vec::new();
            for task in due {
                alone += length(&task.profile);
                dropped.push(drop_of(experiment, &task, scale)?);
            }
            steps.push(Step {
                at: scale.time(Duration::from_secs(event.at_s.into())),
                deposit: event.deposit,
                tasks: dropped,
            });
        }
        if alone.is_zero() {
            return Err(PlanError::NoTasks);
        }
        steps.sort_by_key(|step| step.at);
        let last = steps.last().map_or(Duration::ZERO, |step| step.at);
        let hold = Duration::from_secs(funds.hold_s.into());
        let idle = Duration::from_secs(function.idle_timeout_s.into());
        Ok(Self {
            name: if note.is_empty() {
                name.to_owned()
            } else {
                format!("{name} ({note})")
            },
            scale,
            capacity: max,
            // Files take the CPU time they take, on any number of cores.
            cpu_time_per_grc: if experiment.real.inputs.is_empty() {
                scale.cpu_time(funds.price().cpu_time_per_grc())
            } else {
                funds.price().cpu_time_per_grc()
            },
            hold: scale.time(hold),
            idle_timeout_s: scale
                .time(idle)
                .as_millis()
                .div_ceil(1000)
                .try_into()
                .unwrap_or(u64::MAX),
            function_toml: format!(
                "policy = \"{}\"\ncpu_min_millicores = {}\ncpu_max_millicores = {}\nboundary_millicores = {}\n",
                function.policy,
                scale.cores(function.cpu_min_millicores).millicores(),
                max.millicores(),
                boundary.millicores(),
            ),
            scaler: ScalerConfig::new(function.policy, boundary, rules(function.guardian, scale))?,
            deadline: last + scale.time(alone * PATIENCE + hold + idle) + OVERHEAD,
            steps,
        })
    }
}

/// The guardian's windows shrink with time, its amounts with the cores.
fn rules(described: GuardianRules, scale: Scale) -> GuardianRules {
    let speed = u64::from(scale.speed.max(1));
    GuardianRules {
        window_ms: described.window_ms / speed,
        event_timeout_ms: described.event_timeout_ms / speed,
        raise_millicores: scale.cores(described.raise_millicores),
        ..described
    }
}

/// How long a task takes alone and with all the CPU it wants.
fn length(profile: &Profile) -> Duration {
    let once: Duration = profile.phases.iter().map(|phase| phase.lasts).sum();
    once * profile.repeat
}

fn drop_of(experiment: &Experiment, task: &Task, scale: Scale) -> Result<Dropped, PlanError> {
    let (number, described) = task.name.split_once('.').unwrap_or(("", &task.name));
    if let Some(input) = experiment.real.inputs.get(described) {
        if scale.speed > 1 {
            return Err(PlanError::NotCompressible(described.to_owned()));
        }
        let file = input.rsplit('/').next().unwrap_or(input);
        // A sample is numbered as a task is; this run's number takes the place of its own.
        let file = match file.split_once('.') {
            Some((digits, rest)) if digits.bytes().all(|b| b.is_ascii_digit()) => rest,
            _ => file,
        };
        return Ok(Dropped {
            name: format!("{number}.{file}"),
            content: Content::File(input.clone()),
        });
    }
    let scaled = |phase: &Phase| {
        let scaled = Phase {
            cores: scale.cores(phase.cores),
            lasts: scale.time(phase.lasts),
        };
        // The image burns hundredths of a core for thousandths of a second.
        let is_pause = phase.cores == MilliCores::ZERO;
        if (!is_pause && scaled.cores.millicores() < 10) || scaled.lasts.as_millis() == 0 {
            return Err(PlanError::TooSmall(described.to_owned()));
        }
        Ok(scaled)
    };
    let profile = &task.profile;
    match (profile.kind, &*profile.phases, profile.repeat) {
        (Kind::Burn, [phase], 1) => Ok(Dropped {
            name: format!("{number}.{}.txt", scaled(phase)?),
            content: Content::Empty,
        }),
        (Kind::Burn, ..) => Err(PlanError::NoInput(described.to_owned())),
        (Kind::Work, phases, repeat) => {
            let lines: Vec<String> = phases
                .iter()
                .map(|phase| Ok(format!("{}\n", scaled(phase)?)))
                .collect::<Result<_, PlanError>>()?;
            let repeat = usize::try_from(repeat).unwrap_or(usize::MAX);
            Ok(Dropped {
                name: format!("{}.txt", task.name),
                content: Content::Phases(lines.concat().repeat(repeat)),
            })
        }
    }
}

/// A deposit, at the moment since the beginning when it was credited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deposited {
    pub at: Duration,
    pub user: UserName,
    pub amount: Amount,
}

/// What of a node's recording is the run: its beginning is `began_us` into the recording. What was so by then is told as
/// of the beginning; deposits, which a node does not see, are added.
pub fn cut(plan: &Plan, recorded: Vec<Entry>, began_us: u64, deposits: &[Deposited]) -> Vec<Entry> {
    let mut before = Before::default();
    let mut entries = Vec::new();
    for Entry { at_us, record } in recorded {
        match at_us.checked_sub(began_us) {
            Some(at_us) => entries.push(Entry { at_us, record }),
            None => before.keep(record),
        }
    }
    entries.extend(deposits.iter().map(|deposit| Entry {
        at_us: u64::try_from(deposit.at.as_micros()).unwrap_or(u64::MAX),
        record: Record::Deposit {
            user: deposit.user.clone(),
            amount: deposit.amount,
        },
    }));
    entries.retain(|entry| !matches!(entry.record, Record::Run { .. }));
    entries.sort_by_key(|entry| entry.at_us);
    let run = Record::Run {
        name: plan.name.clone(),
        speed: plan.scale.speed,
        capacity_millicores: plan.capacity,
    };
    let beginning = [run]
        .into_iter()
        .chain(before.funds.into_values())
        .chain(before.tasks.into_values());
    let mut whole: Vec<Entry> = beginning.map(|record| Entry { at_us: 0, record }).collect();
    whole.append(&mut entries);
    whole
}

/// Gives a recording another name, for its title.
pub fn rename(entries: &mut [Entry], to: &str) {
    for entry in entries {
        if let Record::Run { name, .. } = &mut entry.record {
            to.clone_into(name);
        }
    }
}

/// A compressed recording in the time of the run described: moments, CPU time and throttled time. Its cores stay those of
/// the machine it ran on.
pub fn stretched(entries: &[Entry]) -> Vec<Entry> {
    let mut factor = 1;
    let mut stretched = entries.to_vec();
    for Entry { at_us, record } in &mut stretched {
        if let Record::Run { speed, .. } = record {
            factor = u64::from(std::mem::replace(speed, 1).max(1));
        }
        *at_us = at_us.saturating_mul(factor);
        let longer = |time: &mut CpuTime| *time = CpuTime::from_micros(time.micros().saturating_mul(factor));
        match record {
            Record::Sample {
                used_us,
                throttled_us,
                ..
            } => {
                longer(used_us);
                *throttled_us = throttled_us.saturating_mul(factor);
            }
            Record::TaskEnded { used_us, .. } => longer(used_us),
            _ => {}
        }
    }
    stretched
}

/// What was so when the run began.
#[derive(Default)]
struct Before {
    funds: BTreeMap<UserName, Record>,
    tasks: BTreeMap<FunctionName, Record>,
}

impl Before {
    fn keep(&mut self, record: Record) {
        match &record {
            Record::Funds { user, .. } => drop(self.funds.insert(user.clone(), record)),
            Record::Tasks { function, .. } => drop(self.tasks.insert(function.clone(), record)),
            _ => {}
        }
    }
}
