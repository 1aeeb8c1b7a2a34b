//! The published prototype in virtual time: its loops, its windows and its delays, one by one.
//!
//! ```text
//! usage ──points, 1 s──► guardian (10.05 s, looks 20 s back) ──request──► scaler (5 s) ──► limit ──snapshoter (10 s)──► known limit
//!   └──► refeeder (10 s, looks 20 s back) ──► credit manager (10.3 s, bills 10 s of it) ──0.05 GRC──► coins
//! coins ──► credit manager: throttle below zero      coins ──► container manager (5.6 s): start, next task, stop
//! ```
//!
//! What is known of it comes from its sources (the names below are theirs); what is not, when in its first period each
//! loop happens to fire, is in [`Phases`]. The guardian itself is ours: the rules are the same.

mod billing;
mod delays;
mod scaling;

use std::collections::VecDeque;
use std::sync::Arc;

use container_manager::cgroup::CpuStat;
use container_manager::recording::{Entry, Record, TaskOutcome};
use container_manager::scaler::{Sample, Scaler};
use credit_manager::standing;
use tokio::time::Instant;
use units::{Amount, ContainerId, CpuTime, MilliCores, Restriction, Standing};
use uuid::Uuid;

use super::kernel::{Cpu, Work, micros};
use super::log::Log;
use crate::scenario::{Deposit, Drop, Function, Scenario, User};
use delays::{
    AFTERMATH_US, CONTAINER_START_US, CREDIT_US, GUARDIAN_US, MANAGER_US, QUOTA_LOSS, REFEEDER_US, SCALER_US,
    SECOND_US, SNAPSHOTER_US, TASK_START_US, Timer,
};

pub use delays::Phases;

pub(super) fn run(scenario: &Scenario, phases: &Phases) -> Vec<Entry> {
    let (Some(user), Some(function)) = (scenario.users.first(), scenario.functions.first()) else {
        return Vec::new();
    };
    let mut platform = Platform::new(scenario, user, function, phases);
    platform.run();
    platform.log.finish()
}

struct Running {
    drop: Drop,
    attempts: u32,
    /// Absent until the script has been started.
    work: Option<Work>,
    begins_at: u64,
}

struct Container {
    id: ContainerId,
    cpu: Cpu,
    scaler: Scaler,
    /// The limit in force, and the one the database knows.
    limit: MilliCores,
    known: MilliCores,
    /// Whether the guardian looks after it.
    guarded: bool,
    /// What the guardian was told it has used.
    told: CpuTime,
    guarded_at: Option<u64>,
    task: Option<Running>,
    idle_since: u64,
}

struct Platform<'a> {
    scenario: &'a Scenario,
    user: &'a User,
    function: &'a Function,
    began: Instant,
    log: Log,
    drops: VecDeque<Drop>,
    deposits: VecDeque<Deposit>,
    queue: VecDeque<(Drop, u32)>,
    container: Option<Container>,
    starting_until: Option<u64>,
    containers: u128,
    ended_at: u64,
    /// Time, and what was used in the second before it.
    points: VecDeque<(u64, MilliCores)>,
    counted: CpuTime,
    /// To raise or lower the limit by, in millicores.
    request: Option<i64>,
    /// As the refeeder wrote it down.
    used: MilliCores,
    /// Used and not yet paid for.
    pending: CpuTime,
    coins: Amount,
    restricted: bool,
    point: Timer,
    manager: Timer,
    guardian: Timer,
    rescaler: Timer,
    snapshoter: Timer,
    refeeder: Timer,
    credit: Timer,
}

impl<'a> Platform<'a> {
    fn new(scenario: &'a Scenario, user: &'a User, function: &'a Function, phases: &Phases) -> Self {
        Self {
            scenario,
            user,
            function,
            began: Instant::now(),
            log: Log::new(&scenario.name, scenario.capacity),
            drops: scenario.drops.iter().cloned().collect(),
            deposits: scenario.deposits.iter().cloned().collect(),
            queue: VecDeque::new(),
            container: None,
            starting_until: None,
            containers: 0,
            ended_at: 0,
            points: VecDeque::new(),
            counted: CpuTime::ZERO,
            request: None,
            used: MilliCores::ZERO,
            pending: CpuTime::ZERO,
            coins: user.start,
            restricted: false,
            point: Timer::new(0, SECOND_US),
            manager: Timer::new(phases.manager_ms, MANAGER_US),
            guardian: Timer::new(phases.guardian_ms, GUARDIAN_US),
            rescaler: Timer::new(phases.scaler_ms, SCALER_US),
            snapshoter: Timer::new(phases.snapshoter_ms, SNAPSHOTER_US),
            refeeder: Timer::new(phases.refeeder_ms, REFEEDER_US),
            credit: Timer::new(phases.credit_ms, CREDIT_US),
        }
    }

    fn run(&mut self) {
        let mut now = 0;
        loop {
            self.act(now);
            self.note(now);
            if self.is_over(now) {
                return;
            }
            now = self.next(now);
            if let Some(container) = &mut self.container {
                let work = container.task.as_mut().and_then(|task| task.work.as_mut());
                container
                    .cpu
                    .advance(work.into_iter(), now, self.scenario.capacity);
            }
        }
    }

    fn is_over(&self, now: u64) -> bool {
        let waits = !self.queue.is_empty() && self.coins.is_positive();
        self.drops.is_empty()
            && self.deposits.is_empty()
            && self.container.is_none()
            && self.starting_until.is_none()
            && !waits
            && now >= self.ended_at + AFTERMATH_US
    }

    fn next(&self, now: u64) -> u64 {
        let timers = [
            self.point,
            self.manager,
            self.guardian,
            self.rescaler,
            self.snapshoter,
            self.refeeder,
            self.credit,
        ];
        let mut next = timers.iter().map(|timer| timer.next).min().unwrap_or(now);
        if let Some(container) = &self.container
            && let Some(task) = &container.task
        {
            let moment = match &task.work {
                None => task.begins_at,
                Some(work) => container.cpu.changes_at([work].into_iter()),
            };
            next = next.min(moment);
        }
        let dropped = self.drops.front().map(|drop| micros(drop.at));
        let deposited = self.deposits.front().map(|deposit| micros(deposit.at));
        let moments = [dropped, deposited, self.starting_until];
        next.min(moments.into_iter().flatten().min().unwrap_or(u64::MAX))
            .max(now + 1)
    }

    fn act(&mut self, now: u64) {
        while let Some(drop) = self.drops.pop_front_if(|drop| micros(drop.at) <= now) {
            self.queue.push_back((drop, 0));
        }
        while let Some(deposit) = self.deposits.pop_front_if(|deposit| micros(deposit.at) <= now) {
            self.coins = self.coins.saturating_add(deposit.amount);
            let record = Record::Deposit {
                user: self.user.name.clone(),
                amount: deposit.amount,
            };
            self.log.note(now, record);
        }
        self.run_task(now);
        if self.point.fires(now) {
            self.collect(now);
        }
        if self.starting_until.is_some_and(|until| until <= now) {
            self.starting_until = None;
            self.container = Some(self.start_container(now));
            self.start_task(now);
        }
        if self.manager.fires(now) && self.starting_until.is_none() {
            self.manage(now);
        }
        if self.refeeder.fires(now) {
            self.used = self.window(now).unwrap_or(MilliCores::ZERO);
        }
        if self.credit.fires(now) {
            self.bill();
        }
        if self.guardian.fires(now) {
            self.guard(now);
        }
        if self.rescaler.fires(now) {
            self.rescale();
        }
        if self.snapshoter.fires(now)
            && let Some(container) = &mut self.container
        {
            container.known = container.limit;
        }
    }

    fn start_container(&mut self, now: u64) -> Container {
        self.containers += 1;
        let id = ContainerId::from_uuid(Uuid::from_u128(self.containers));
        let limits = self.function.limits;
        let mut scaler = Scaler::new(&self.function.scaler, limits);
        let limit = scaler.on_sample(&Sample {
            at: self.began,
            stat: CpuStat::default(),
            allocation: MilliCores::ZERO,
        });
        let record = Record::ContainerStarted {
            container: id,
            function: self.function.name.clone(),
            user: self.user.name.clone(),
            policy: scaler.policy().to_string(),
            min_millicores: limits.min,
            max_millicores: limits.max,
            boundary_millicores: limits.boundary,
        };
        self.log.note(now, record);
        self.counted = CpuTime::ZERO;
        Container {
            id,
            cpu: Cpu::new(now, limit.saturating_sub(QUOTA_LOSS)),
            scaler: Scaler::new(&self.function.scaler, limits),
            limit,
            known: limit,
            guarded: !self.restricted,
            told: CpuTime::ZERO,
            guarded_at: None,
            task: None,
            idle_since: now,
        }
    }

    fn start_task(&mut self, now: u64) {
        if let Some(container) = &mut self.container
            && let Some((drop, attempts)) = self.queue.pop_front()
        {
            container.task = Some(Running {
                drop,
                attempts: attempts + 1,
                work: None,
                begins_at: now + TASK_START_US,
            });
        }
    }

    /// Begins and ends the task that runs.
    fn run_task(&mut self, now: u64) {
        let Some(container) = &mut self.container else {
            return;
        };
        let Some(task) = &mut container.task else { return };
        let function = &self.function.name;
        match &task.work {
            None if task.begins_at <= now => {
                task.work = Some(Work::new(Arc::clone(&task.drop.profile), now));
                let record = Record::TaskStarted {
                    function: function.clone(),
                    task: task.drop.task.clone(),
                    attempt: task.attempts,
                    container: container.id,
                };
                self.log.note(now, record);
            }
            Some(work) if work.is_over() => {
                self.log.note(now, ended(function, task, TaskOutcome::Succeeded));
                container.task = None;
                container.idle_since = now;
            }
            None | Some(_) => {}
        }
    }

    /// One round of the container manager.
    fn manage(&mut self, now: u64) {
        let settings = &self.user.settings;
        let standing = settings.standing(self.coins);
        let may_start = standing::may_start(standing, settings.policy);
        let Some(container) = &mut self.container else {
            if may_start && !self.queue.is_empty() {
                self.starting_until = Some(now + CONTAINER_START_US);
            }
            return;
        };
        let idle = now.saturating_sub(container.idle_since);
        if standing == Standing::Exhausted {
            self.stop_container(now);
        } else if container.task.is_some() {
        } else if may_start && !self.queue.is_empty() {
            self.start_task(now);
        } else if idle > micros(self.function.idle_timeout) {
            self.stop_container(now);
        }
    }

    /// Whatever runs in it goes back to the queue.
    fn stop_container(&mut self, now: u64) {
        let Some(container) = self.container.take() else {
            return;
        };
        if let Some(task) = container.task {
            let record = ended(&self.function.name, &task, TaskOutcome::Returned);
            self.log.note(now, record);
            self.queue.push_front((task.drop, task.attempts));
        }
        let record = Record::ContainerEnded {
            container: container.id,
        };
        self.log.note(now, record);
        self.request = None;
        self.ended_at = now;
    }

    fn note(&mut self, now: u64) {
        let settings = &self.user.settings;
        let standing = settings.standing(self.coins);
        self.log.funds(
            now,
            &self.user.name,
            self.coins,
            settings.debt_limit,
            standing,
            settings.billing,
        );
        let running = self.container.as_ref().is_some_and(|c| c.task.is_some());
        self.log
            .tasks(now, &self.function.name, self.queue.len(), usize::from(running));
        if let Some(container) = &self.container {
            let restriction = if self.restricted {
                Restriction::Throttle
            } else {
                Restriction::None
            };
            let stat = container.cpu.stat();
            self.log
                .sample(now, container.id, &stat, container.limit, restriction);
        }
    }
}

fn ended(function: &units::FunctionName, task: &Running, outcome: TaskOutcome) -> Record {
    Record::TaskEnded {
        function: function.clone(),
        task: task.drop.task.clone(),
        attempt: task.attempts,
        used_us: task.work.as_ref().map_or(CpuTime::ZERO, Work::used),
        outcome,
    }
}
