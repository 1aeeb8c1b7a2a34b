//! The services in virtual time: the same scaler, the same sharing of a node, the same bank and grants; only what they
//! stand on is simulated. Messages arrive at once.
//!
//! What the node does is what `container_manager::meter` does: it looks at every container each 25 ms, or when a mark of
//! a grant can be reached; enforces the grant; scales; shares; reports every second, and at once at a mark.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use container_manager::recording::{Entry, Record, TaskOutcome};
use container_manager::scaler::headroom::{self, Demand};
use credit_manager::bank::Usage;
use credit_manager::session::Outcome;
use tokio::time::Instant;
use units::{ContainerId, MilliCores, Restriction};

use super::container::{Attempt, Container, Pending};
use super::kernel::{Work, micros};
use super::log::Log;
use super::money::{Funds, Money, MoneyError};
use crate::scenario::{Deposit, Drop, Scenario};

/// From the end of a task to the next one's first instruction: one listing of a busy bucket.
const TASK_GAP_US: u64 = 50_000;
/// container-manager's `sample_ms`, `report_ms`, its pause between reports and its shortest look-ahead.
const SAMPLE_US: u64 = 25_000;
const REPORT_US: u64 = 1_000_000;
const REPORT_PAUSE_US: u64 = 100_000;
const LOOK_MIN_US: u64 = 5_000;

pub(super) fn run(scenario: &Scenario) -> Vec<Entry> {
    let mut node = match Node::new(scenario) {
        Ok(node) => node,
        Err(err) => unreachable!("names are unique and amounts fit: {err}"),
    };
    node.run().expect("every session that is named is live");
    node.log.finish()
}

struct Node<'a> {
    scenario: &'a Scenario,
    began: Instant,
    money: Money,
    log: Log,
    drops: VecDeque<Drop>,
    deposits: VecDeque<Deposit>,
    /// By function.
    queues: Vec<VecDeque<Pending>>,
    containers: Vec<Option<Container>>,
    next_look: u64,
    reported_at: u64,
    report_soon: bool,
}

impl<'a> Node<'a> {
    fn new(scenario: &'a Scenario) -> Result<Self, MoneyError> {
        let began = Instant::now();
        let functions = scenario.functions.len();
        Ok(Self {
            scenario,
            began,
            money: Money::new(scenario, began)?,
            log: Log::new(&scenario.name, scenario.capacity),
            drops: scenario.drops.iter().cloned().collect(),
            deposits: scenario.deposits.iter().cloned().collect(),
            queues: vec![VecDeque::new(); functions],
            containers: std::iter::repeat_with(|| None).take(functions).collect(),
            next_look: 0,
            reported_at: 0,
            report_soon: false,
        })
    }

    fn run(&mut self) -> Result<(), MoneyError> {
        self.note_funds(0)?;
        let mut now = 0;
        while let Some(next) = self.next(now) {
            now = next;
            for container in self.containers.iter_mut().flatten() {
                let tasks = container.attempts.iter_mut().map(|attempt| &mut attempt.work);
                if container.ready_at <= now {
                    container.cpu.advance(tasks, now, self.scenario.capacity);
                }
            }
            self.act(now)?;
        }
        Ok(())
    }

    /// When something happens next; `None` if nothing can any more.
    fn next(&self, now: u64) -> Option<u64> {
        let drop = self.drops.front().map(|drop| micros(drop.at));
        let deposit = self.deposits.front().map(|deposit| micros(deposit.at));
        let mut next = drop.into_iter().chain(deposit).min();
        let hold = micros(self.scenario.hold);
        for (container, (queue, function)) in self
            .containers
            .iter()
            .zip(self.queues.iter().zip(&self.scenario.functions))
        {
            let Some(container) = container else { continue };
            let mut moments = vec![container.ready_at];
            if container.ready_at <= now {
                let works = container.attempts.iter().map(|attempt| &attempt.work);
                let frozen = container.attempts.iter().filter_map(|attempt| attempt.frozen_at);
                moments.extend(frozen.map(|at| at + hold));
                moments.extend([container.cpu.changes_at(works), self.next_look, container.free_at]);
                if !container.attempts.is_empty() {
                    moments.push(self.report_at());
                } else if queue.is_empty() {
                    moments.push(container.idle_since + micros(function.idle_timeout) + 1);
                }
            }
            next = next
                .into_iter()
                .chain(moments.into_iter().filter(|at| *at > now))
                .min();
        }
        next.map(|next| next.max(now + 1))
    }

    fn report_at(&self) -> u64 {
        self.reported_at
            + if self.report_soon {
                REPORT_PAUSE_US
            } else {
                REPORT_US
            }
    }

    fn act(&mut self, now: u64) -> Result<(), MoneyError> {
        while let Some(drop) = self.drops.pop_front_if(|drop| micros(drop.at) <= now) {
            let queue = &mut self.queues[drop.function];
            queue.push_back(Pending { drop, attempts: 0 });
        }
        let mut is_woken = false;
        while let Some(deposit) = self.deposits.pop_front_if(|deposit| micros(deposit.at) <= now) {
            self.money.deposit(now, deposit.user, deposit.amount)?;
            let record = Record::Deposit {
                user: self.scenario.users[deposit.user].name.clone(),
                amount: deposit.amount,
            };
            self.log.note(now, record);
            self.note_funds(now)?;
            self.refresh();
            is_woken = true;
        }
        for function in 0..self.containers.len() {
            self.end_tasks(now, function)?;
            self.start(now, function)?;
        }
        if now >= self.next_look || is_woken {
            self.look(now);
        }
        let has_sessions = self.containers.iter().flatten().any(|c| !c.attempts.is_empty());
        if has_sessions && now >= self.report_at() {
            self.report(now)?;
            self.look(now);
        }
        self.note_tasks(now);
        Ok(())
    }

    /// Takes in what credit-manager tells unasked.
    fn refresh(&mut self) {
        for container in self.containers.iter_mut().flatten() {
            for attempt in &mut container.attempts {
                if let Some(state) = self.money.state(attempt.state.session) {
                    attempt.state = state;
                }
            }
        }
        self.report_soon = true;
    }

    fn look(&mut self, now: u64) {
        self.next_look = now + SAMPLE_US;
        let at = self.began + Duration::from_micros(now);
        let (mut demands, mut owners) = (Vec::new(), Vec::new());
        for (number, container) in self.containers.iter_mut().enumerate() {
            let Some(container) = container.as_mut().filter(|c| c.ready_at <= now) else {
                continue;
            };
            self.report_soon |= container.look(now);
            if let Some(until) = container.until_next_mark() {
                self.next_look = self.next_look.min(now.saturating_add(until.max(LOOK_MIN_US)));
                self.report_soon |= until < 2 * REPORT_US;
            }
            demands.push(Demand {
                container: container.id,
                current: container.allocation,
                desired: container.desired(at),
                min: container.scaler.limits().min,
                restricted: container.restriction > Restriction::None,
            });
            owners.push(number);
        }
        for change in headroom::plan(self.scenario.capacity, &demands) {
            let changed = self.containers.iter_mut().flatten();
            if let Some(container) = changed.into_iter().find(|c| c.id == change.container) {
                container.allocate(change.to);
            }
        }
        for number in owners {
            if let Some(container) = &self.containers[number] {
                let stat = container.cpu.stat();
                self.log.sample(
                    now,
                    container.id,
                    &stat,
                    container.allocation,
                    container.restriction,
                );
            }
        }
    }

    fn report(&mut self, now: u64) -> Result<(), MoneyError> {
        let usages: Vec<Usage> = self
            .containers
            .iter()
            .flatten()
            .flat_map(|container| {
                let each = u32::try_from(container.attempts.len()).unwrap_or(1).max(1);
                let each = MilliCores::from_millicores(container.allocation.millicores() / each);
                container.attempts.iter().map(move |attempt| Usage {
                    session: attempt.state.session,
                    total: attempt.billed(),
                    capacity: each,
                    revision: attempt.state.revision,
                })
            })
            .collect();
        (self.reported_at, self.report_soon) = (now, false);
        for state in self.money.report(now, &usages)? {
            let mut attempts = self.containers.iter_mut().flatten().flat_map(|c| &mut c.attempts);
            if let Some(attempt) = attempts.find(|attempt| attempt.state.session == state.session) {
                attempt.state = state;
            }
        }
        self.note_funds(now)
    }

    /// Closes the sessions of tasks that are over, or that waited long enough for money.
    fn end_tasks(&mut self, now: u64, number: usize) -> Result<(), MoneyError> {
        let hold = micros(self.scenario.hold);
        let Some(container) = self.containers[number].as_mut().filter(|c| c.ready_at <= now) else {
            return Ok(());
        };
        let is_over = |attempt: &mut Attempt| {
            attempt.work.is_over() || attempt.frozen_at.is_some_and(|at| now >= at + hold)
        };
        let over: Vec<Attempt> = container.attempts.extract_if(.., is_over).collect();
        if over.is_empty() {
            return Ok(());
        }
        (container.free_at, container.idle_since) = (now + TASK_GAP_US, now);
        for attempt in over {
            let (outcome, told) = if attempt.work.is_over() {
                (Outcome::Succeeded, TaskOutcome::Succeeded)
            } else {
                (Outcome::Aborted, TaskOutcome::Returned)
            };
            self.money
                .close(now, attempt.state.session, attempt.billed(), outcome)?;
            let record = Record::TaskEnded {
                function: self.scenario.functions[number].name.clone(),
                task: attempt.task.drop.task.clone(),
                attempt: attempt.task.attempts,
                used_us: attempt.work.used(),
                outcome: told,
            };
            self.log.note(now, record);
            if told == TaskOutcome::Returned {
                self.queues[number].push_front(attempt.task);
            }
        }
        self.note_funds(now)?;
        self.refresh();
        Ok(())
    }

    /// Starts and stops the container of a function, and starts tasks in it.
    fn start(&mut self, now: u64, number: usize) -> Result<(), MoneyError> {
        let function = &self.scenario.functions[number];
        let may_start = self.queues[number].is_empty() || self.money.funds(function)?.may_start;
        let Some(container) = &mut self.containers[number] else {
            if !self.queues[number].is_empty() && may_start {
                let id = ContainerId::from_uuid(self.money.id());
                self.containers[number] = Some(Container::new(function, id, now));
            }
            return Ok(());
        };
        if container.ready_at == now {
            let limits = container.scaler.limits();
            let record = Record::ContainerStarted {
                container: container.id,
                function: function.name.clone(),
                user: self.scenario.users[function.user].name.clone(),
                policy: container.scaler.policy().to_string(),
                min_millicores: limits.min,
                max_millicores: limits.max,
                boundary_millicores: limits.boundary,
            };
            self.log.note(now, record);
            self.next_look = now;
        }
        if container.ready_at > now {
            return Ok(());
        }
        while may_start && container.free_at <= now && container.attempts.len() < function.concurrency {
            let Some(mut task) = self.queues[number].pop_front() else {
                break;
            };
            let opened = self
                .money
                .open(now, function, &task.drop.task, function.limits.max)?;
            let Some(state) = opened else {
                self.queues[number].push_front(task);
                break;
            };
            task.attempts += 1;
            container.scaler.on_task(self.began + Duration::from_micros(now));
            let record = Record::TaskStarted {
                function: function.name.clone(),
                task: task.drop.task.clone(),
                attempt: task.attempts,
                container: container.id,
            };
            self.log.note(now, record);
            container.attempts.push(Attempt {
                work: Work::new(Arc::clone(&task.drop.profile), now),
                billing: self.scenario.users[function.user].settings.billing,
                task,
                state,
                reserved: 0,
                frozen_at: None,
            });
            self.next_look = now;
        }
        let idle = now.saturating_sub(container.idle_since);
        let is_idle = idle > micros(function.idle_timeout) && self.queues[number].is_empty();
        if container.attempts.is_empty() && (is_idle || !may_start) {
            let record = Record::ContainerEnded {
                container: container.id,
            };
            self.log.note(now, record);
            self.containers[number] = None;
        }
        Ok(())
    }

    fn note_funds(&mut self, now: u64) -> Result<(), MoneyError> {
        for function in &self.scenario.functions {
            let user = &self.scenario.users[function.user];
            let funds = self.money.funds(function)?;
            let billing = user.settings.billing;
            let Funds {
                balance,
                debt_limit,
                standing,
                ..
            } = funds;
            self.log
                .funds(now, &user.name, balance, debt_limit, standing, billing);
        }
        Ok(())
    }

    fn note_tasks(&mut self, now: u64) {
        for (number, function) in self.scenario.functions.iter().enumerate() {
            let running = self.containers[number]
                .as_ref()
                .map_or(0, |container| container.attempts.len());
            self.log
                .tasks(now, &function.name, self.queues[number].len(), running);
        }
    }
}
