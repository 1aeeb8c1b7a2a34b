//! A recorded run, again, with another policy and another tariff.
//!
//! What the tasks wanted is in the recording: what they used, and what throttling kept from them. So the same demand can be
//! put under another limit. What the recording does not tell is taken as it is by default: funds are spent to the last
//! (no minimum balance), and at the debt limit work waits for twenty minutes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use container_manager::recording::{Entry, Record, TaskOutcome};
use container_manager::scaler::{CpuLimits, GuardianRules, PolicyName, RuleError, ScalerConfig};
use credit_manager::users::Settings;
use units::{Amount, ContainerId, CpuPrice, CpuTime, FunctionName, MilliCores, UserName};

use crate::experiment::{Kind, Phase, Profile};
use crate::scenario::{self, Deposit, Drop, Function, Scenario, User};
use crate::virtual_run::{self, Mechanics};

/// container-manager's `hold_ms`, and the idle timeout of a function that sets none.
const HOLD: Duration = Duration::from_secs(1200);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Demands closer than this are one phase.
const SAME: u32 = 10;

/// Replays a recording. `kind` tells whether its tasks had a time to fill or work to do: the recording cannot. Errors if the
/// containers' boundary was 0, with which nothing can be scaled.
pub fn replay(
    entries: &[Entry],
    policy: PolicyName,
    tariff: CpuPrice,
    kind: Kind,
) -> Result<Vec<Entry>, RuleError> {
    let mut reader = Reader::default();
    for entry in entries {
        reader.read(entry);
    }
    let scenario = reader.scenario(policy, tariff, kind)?;
    Ok(virtual_run::run_scenario(&scenario, Mechanics::Ours))
}

/// One attempt at a task.
#[derive(Debug)]
struct Attempt {
    container: ContainerId,
    ended: bool,
    /// Wanted and used, for so long.
    stretches: Vec<(MilliCores, CpuTime, Duration)>,
}

#[derive(Debug, Default)]
struct Tasks {
    /// In the order they were started first.
    order: Vec<String>,
    attempts: BTreeMap<String, Vec<Attempt>>,
    /// When the so manieth object was there.
    arrivals: Vec<u64>,
    over: usize,
    running: usize,
    running_max: usize,
}

#[derive(Debug)]
struct Container {
    function: FunctionName,
    last: Option<(u64, CpuTime, u64)>,
    idle_since: u64,
}

#[derive(Debug, Default)]
struct Reader {
    name: String,
    speed: u32,
    capacity: MilliCores,
    users: BTreeMap<UserName, (Amount, Settings)>,
    owners: BTreeMap<FunctionName, (UserName, CpuLimits)>,
    containers: BTreeMap<ContainerId, Container>,
    tasks: BTreeMap<FunctionName, Tasks>,
    deposits: Vec<(u64, UserName, Amount)>,
    idle: BTreeMap<FunctionName, u64>,
}

impl Reader {
    fn read(&mut self, entry: &Entry) {
        let at = entry.at_us;
        match &entry.record {
            Record::Run {
                name,
                speed,
                capacity_millicores,
            } => {
                self.name.clone_from(name);
                self.speed = *speed;
                self.capacity = *capacity_millicores;
            }
            Record::ContainerStarted {
                container,
                function,
                user,
                min_millicores,
                max_millicores,
                boundary_millicores,
                ..
            } => {
                let limits = CpuLimits {
                    min: *min_millicores,
                    max: *max_millicores,
                    boundary: *boundary_millicores,
                };
                self.owners.insert(function.clone(), (user.clone(), limits));
                let fresh = Container {
                    function: function.clone(),
                    last: None,
                    idle_since: at,
                };
                self.containers.insert(*container, fresh);
            }
            Record::ContainerEnded { container } => {
                if let Some(ended) = self.containers.remove(container) {
                    let idle = self.idle.entry(ended.function).or_default();
                    *idle = (*idle).max(at.saturating_sub(ended.idle_since));
                }
            }
            Record::Sample {
                container,
                used_us,
                throttled_us,
                ..
            } => self.sample(at, *container, *used_us, *throttled_us),
            Record::Funds {
                user,
                balance,
                debt_limit,
                billing,
                ..
            } => {
                let settings = || Settings {
                    debt_limit: *debt_limit,
                    billing: *billing,
                    ..scenario::settings(CpuPrice::DEFAULT)
                };
                self.users
                    .entry(user.clone())
                    .or_insert_with(|| (*balance, settings()));
            }
            Record::Tasks {
                function,
                pending,
                running,
            } => {
                let tasks = self.tasks.entry(function.clone()).or_default();
                let known = tasks.over + usize::try_from(*pending + *running).unwrap_or(0);
                while tasks.arrivals.len() < known {
                    tasks.arrivals.push(at);
                }
            }
            Record::TaskStarted {
                function,
                task,
                container,
                ..
            } => self.started(function, task, *container),
            Record::TaskEnded {
                function,
                task,
                outcome,
                ..
            } => self.ended(at, function, task, *outcome),
            Record::Deposit { user, amount } => self.deposits.push((at, user.clone(), *amount)),
        }
    }

    fn started(&mut self, function: &FunctionName, task: &str, container: ContainerId) {
        let tasks = self.tasks.entry(function.clone()).or_default();
        tasks.running += 1;
        tasks.running_max = tasks.running_max.max(tasks.running);
        if !tasks.attempts.contains_key(task) {
            tasks.order.push(task.to_owned());
        }
        let attempts = tasks.attempts.entry(task.to_owned()).or_default();
        attempts.push(Attempt {
            container,
            ended: false,
            stretches: Vec::new(),
        });
    }

    fn ended(&mut self, at: u64, function: &FunctionName, task: &str, outcome: TaskOutcome) {
        let tasks = self.tasks.entry(function.clone()).or_default();
        tasks.running = tasks.running.saturating_sub(1);
        tasks.over += usize::from(outcome == TaskOutcome::Succeeded);
        let attempt = tasks
            .attempts
            .get_mut(task)
            .and_then(|attempts| attempts.last_mut());
        if let Some(attempt) = attempt {
            attempt.ended = true;
            if let Some(container) = self.containers.get_mut(&attempt.container) {
                container.idle_since = at;
            }
        }
    }

    /// What a container used and wanted since the last look was its running tasks', in equal parts.
    fn sample(&mut self, at: u64, id: ContainerId, used: CpuTime, throttled_us: u64) {
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let Some((before, used_before, throttled_before)) = container.last.replace((at, used, throttled_us))
        else {
            return;
        };
        let Some(tasks) = self.tasks.get_mut(&container.function) else {
            return;
        };
        let wall = Duration::from_micros(at.saturating_sub(before));
        let used = used.saturating_sub(used_before);
        let wanted = used.saturating_add(CpuTime::from_micros(
            throttled_us.saturating_sub(throttled_before),
        ));
        let running = tasks
            .attempts
            .values_mut()
            .filter_map(|attempts| attempts.last_mut());
        let mut running: Vec<&mut Attempt> = running
            .filter(|attempt| !attempt.ended && attempt.container == id)
            .collect();
        let count = u64::try_from(running.len()).unwrap_or(1).max(1);
        let part = |time: CpuTime| CpuTime::from_micros(time.micros() / count);
        let cores = MilliCores::that_delivers(part(wanted), wall);
        for attempt in &mut running {
            match attempt.stretches.last_mut() {
                Some((last, sum, lasts)) if last.millicores().abs_diff(cores.millicores()) <= SAME => {
                    (*sum, *lasts) = (sum.saturating_add(part(used)), *lasts + wall);
                }
                _ => attempt.stretches.push((cores, part(used), wall)),
            }
        }
    }

    fn scenario(self, policy: PolicyName, tariff: CpuPrice, kind: Kind) -> Result<Scenario, RuleError> {
        let speed = self.speed.max(1);
        let moment = |at: u64| Duration::from_micros(at) * speed;
        let names: Vec<UserName> = self.users.keys().cloned().collect();
        let number = |user: &UserName| names.iter().position(|name| name == user);
        let (mut functions, mut drops) = (Vec::new(), Vec::new());
        for (name, (user, limits)) in self.owners {
            let Some(user) = number(&user) else { continue };
            let tasks = self.tasks.get(&name);
            let idle = self.idle.get(&name).map(|idle| moment(*idle));
            let mut arrivals: VecDeque<u64> =
                tasks.map_or_else(VecDeque::new, |tasks| tasks.arrivals.iter().copied().collect());
            for task in tasks.into_iter().flat_map(|tasks| &tasks.order) {
                let at = arrivals.pop_front().unwrap_or(0);
                let attempts = tasks
                    .and_then(|tasks| tasks.attempts.get(task))
                    .into_iter()
                    .flatten();
                let used = |attempt: &&Attempt| {
                    attempt
                        .stretches
                        .iter()
                        .map(|(_, used, _)| *used)
                        .sum::<CpuTime>()
                };
                let Some(longest) = attempts.max_by_key(used) else {
                    continue;
                };
                drops.push(Drop {
                    at: moment(at),
                    function: functions.len(),
                    task: task.clone(),
                    profile: Arc::new(profile(&longest.stretches, kind, speed)),
                });
            }
            functions.push(Function {
                name,
                user,
                scaler: ScalerConfig::new(policy, limits.boundary, GuardianRules::default())?,
                limits,
                idle_timeout: idle.unwrap_or(IDLE_TIMEOUT),
                concurrency: tasks.map_or(1, |tasks| tasks.running_max.max(1)),
            });
        }
        drops.sort_by_key(|drop| drop.at);
        let deposit = |(at, user, amount): (u64, UserName, Amount)| {
            Some(Deposit {
                at: moment(at),
                user: number(&user)?,
                amount,
            })
        };
        Ok(Scenario {
            name: self.name,
            capacity: self.capacity,
            hold: HOLD,
            deposits: self.deposits.into_iter().filter_map(deposit).collect(),
            users: self
                .users
                .into_iter()
                .map(|(name, (start, settings))| User {
                    name,
                    start,
                    settings: Settings {
                        price: tariff,
                        ..settings
                    },
                })
                .collect(),
            functions,
            drops,
        })
    }
}

/// Burners want what they wanted for as long as they did; work is over when as much was used.
fn profile(stretches: &[(MilliCores, CpuTime, Duration)], kind: Kind, speed: u32) -> Profile {
    let phase = |(cores, used, wall): &(MilliCores, CpuTime, Duration)| {
        let lasts = match kind {
            Kind::Burn => *wall,
            Kind::Work => cores.time_to_deliver(*used).unwrap_or(*wall),
        };
        Phase {
            cores: *cores,
            lasts: lasts * speed,
        }
    };
    Profile {
        kind,
        phases: stretches.iter().map(phase).collect(),
        repeat: 1,
    }
}
