//! Sessions: opened, reported, closed, lost.

use std::collections::BTreeMap;
use std::time::Duration;

use units::{
    Amount, CpuTime, FunctionName, Grant, MilliCores, NodeId, SessionId, TaskId, Timestamp, UserName,
};

use super::grants::Cause;
use super::{Bank, BankError, Change, Now};
use crate::grant::Holding;
use crate::ledger::{Transfer, TransferId};
use crate::lineage::{self, Lineage, LiveLineage};
use crate::pace::Pace;
use crate::rating::Meter;
use crate::session::{Bill, Closed, Outcome, Session, SessionState, Task};

/// A node asks to run an object.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    pub session: SessionId,
    pub node: NodeId,
    pub function: FunctionName,
    pub key: String,
    /// The most that all attempts of the task may cost.
    pub cap: Option<Amount>,
    pub capacity: MilliCores,
    pub input_bytes: u64,
    pub descent: Descent,
}

/// Where a task's input came from, as the journal knows it.
#[derive(Clone, Debug, Default)]
pub struct Descent {
    /// The task that a result of which it is said to be.
    pub parent: Option<Task>,
    /// The task it became when it was first put there, if that was asked for before.
    pub child: Option<Task>,
    /// Whether an earlier attempt left the id of a task on the object: then it was not just put there by a node.
    pub is_marked: bool,
    /// The lineage of the task that goes on, or else of the parent.
    pub lineage: Option<Lineage>,
    /// Without a cap, a task may be chained this deep.
    pub depth_max: u32,
}

/// The answer to an [`OpenRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    Licensed {
        session: Box<Session>,
        state: SessionState,
    },
    Refused {
        refusal: Refusal,
        /// For people; names the user and the figures.
        message: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    UnknownFunction,
    AlreadyRunning,
    NoFunds,
    CapSpent,
    Runway,
    SpendLimit,
    CapHeld,
    TooDeep,
    AlreadyDone,
}

/// One session's running totals.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub session: SessionId,
    /// The whole total so far, not the part since the last report.
    pub total: CpuTime,
    pub capacity: MilliCores,
    /// The newest revision that the node enforces.
    pub revision: u64,
}

impl Bank {
    /// Opens a session, or says why not. `earlier` is the task whose id the request gave, if there is one; `fresh` is
    /// the id of a new task. The same request again gets the same session, with its present state.
    pub fn open(
        &mut self,
        request: OpenRequest,
        earlier: Option<Task>,
        fresh: TaskId,
        now: Now,
    ) -> Result<Opened, BankError> {
        if let Some(live) = self.sessions.get(&request.session) {
            let task = &live.task;
            if live.node != request.node || task.function != request.function || task.key != request.key {
                return Err(BankError::OpenedDifferently(request.session));
            }
            self.leases.renew(request.session, now.instant);
            return self.licensed(request.session);
        }
        let Ok(name) = self
            .function(&request.function)
            .map(|function| function.user.clone())
        else {
            let message = format!("function {} is not registered", request.function);
            return Ok(refused(Refusal::UnknownFunction, message));
        };
        let object = (request.function.clone(), request.key.clone());
        if let Some(running) = self.objects.get(&object) {
            let message = format!(
                "session {running} runs {} of {} already",
                request.key, request.function
            );
            return Ok(refused(Refusal::AlreadyRunning, message));
        }
        let user = self.user(&name)?;
        let settings = &user.user.settings;
        if let Err(message) = settings.may_start(&name, self.balance(user)) {
            return Ok(refused(Refusal::NoFunds, message));
        }
        if let Err((refusal, message)) = self.admit(&request, user) {
            return Ok(refused(refusal, message));
        }
        let billed = settings.accounting.then_some(settings.price);
        let (billing, price) = (settings.billing, settings.price);
        let task = match earlier.filter(|task| task.continues_with(&request.function, &request.key)) {
            Some(task) => task,
            None => match self.descended(&request, &name, fresh) {
                Ok(task) => task,
                Err(done) => {
                    let message = format!(
                        "{} was chained into {} before, as task {}, which is over (hint: to run it again, drop it without the metadata of a chained object)",
                        request.key, request.function, done.id
                    );
                    return Ok(refused(Refusal::AlreadyDone, message));
                }
            },
        };
        if let Some(cap) = request.cap.filter(|cap| task.amount >= *cap) {
            let message = format!(
                "task {} of {name} has cost {} GRC, its cap is {cap}",
                task.id, task.amount
            );
            return Ok(refused(Refusal::CapSpent, message));
        }
        let lineage = self.lineage_of(&task, &request);
        if let Some((refusal, message)) = self.lineage_refusal(&task, &lineage, &request, billed.is_some()) {
            return Ok(refused(refusal, message));
        }
        // What the lineage has left bounds this session like the task's own cap.
        let left = lineage.left().map(|left| task.amount.saturating_add(left));
        let task_cap = match (request.cap, left) {
            (Some(cap), Some(left)) => Some(cap.min(left)),
            (cap, left) => cap.or(left),
        };
        let task = Task {
            input_bytes: request.input_bytes,
            attempts: task.attempts.saturating_add(1),
            ..task
        };
        let session = Session {
            id: request.session,
            user: name.clone(),
            node: request.node,
            task: task.clone(),
            task_cap,
            billing,
            price,
            opened_at: now.wall,
            capacity: request.capacity,
            meter: Meter::new(billed),
            holding: Holding::new(if billed.is_some() {
                Grant::default()
            } else {
                Grant::UNLIMITED
            }),
            pace: Pace::default(),
        };
        self.effects.changes.push(Change::Task(task));
        self.effects.changes.push(Change::Lineage(lineage.clone()));
        self.restore_lineage(lineage);
        self.effects
            .changes
            .push(Change::Opened(Box::new(session.clone())));
        self.leases.renew(request.session, now.instant);
        self.insert_session(session);
        self.share_out(&name, &Cause::Asked(&[request.session]));
        self.licensed(request.session)
    }

    /// The task of an object that no earlier one goes on with: a chained one if its parent is the same user's, whatever
    /// the object's metadata says. `Err`: it is over already, and a node that crashed put its input there once more.
    fn descended(&self, request: &OpenRequest, user: &UserName, fresh: TaskId) -> Result<Task, Box<Task>> {
        let (function, key) = (request.function.clone(), request.key.clone());
        let descent = &request.descent;
        let parent = descent.parent.as_ref().filter(|parent| {
            self.functions
                .get(&parent.function)
                .is_some_and(|known| known.user == *user)
        });
        let Some(parent) = parent else {
            return Ok(Task::new(fresh, function, key));
        };
        match &descent.child {
            // Somebody wants it once more.
            _ if descent.is_marked => Ok(Task::chained(fresh, parent, function, key)),
            Some(done) if done.is_over => Err(Box::new(done.clone())),
            Some(child) => Ok(child.clone()),
            None => {
                let id = lineage::chained_id(parent.id, &function, &key);
                Ok(Task::chained(id, parent, function, key))
            }
        }
    }

    /// The lineage of a task as it is now. A root's cap is that of its first attempt.
    fn lineage_of(&self, task: &Task, request: &OpenRequest) -> Lineage {
        let live = self.lineages.get(&task.root).map(|live| &live.lineage);
        let known = live.or(request.descent.lineage.as_ref());
        known
            .filter(|lineage| lineage.root == task.root)
            .cloned()
            .unwrap_or_else(|| Lineage::new(task.root, request.cap))
    }

    /// Why a task cannot run for what became of its lineage.
    fn lineage_refusal(
        &self,
        task: &Task,
        lineage: &Lineage,
        request: &OpenRequest,
        is_billed: bool,
    ) -> Option<(Refusal, String)> {
        let depth_max = request.descent.depth_max;
        if task.depth > depth_max && !(is_billed && lineage.cap.is_some()) {
            let message = format!(
                "it was chained {} functions deep, and without a cap {depth_max} are allowed (hint: give the first task a cap with the metadata max-grc)",
                task.depth
            );
            return Some((Refusal::TooDeep, message));
        }
        let cap = lineage.cap.filter(|_| is_billed)?;
        if lineage.closed >= cap {
            let message = format!(
                "task {} and what came of it have cost {} GRC, its cap max-grc is {cap}",
                task.root, lineage.closed
            );
            return Some((Refusal::CapSpent, message));
        }
        let is_held = self.lineages.get(&task.root).is_some_and(LiveLineage::is_held);
        is_held.then(|| {
            let message = format!(
                "what is left of the cap of task {} is held by others of it that run",
                task.root
            );
            (Refusal::CapHeld, message)
        })
    }

    /// What the lineage of a live session may cost in all.
    pub fn lineage_cap(&self, id: SessionId) -> Option<Amount> {
        let root = self.sessions.get(&id)?.task.root;
        self.lineages.get(&root)?.lineage.cap
    }

    fn licensed(&self, id: SessionId) -> Result<Opened, BankError> {
        let unknown = || BankError::UnknownSession(id);
        Ok(Opened::Licensed {
            session: Box::new(self.sessions.get(&id).ok_or_else(unknown)?.clone()),
            state: self.state(id).ok_or_else(unknown)?,
        })
    }

    /// Takes the running totals of any number of one node's sessions. Those that are unknown, closed or another node's
    /// are left out of the answer. One absurd total refuses the whole report.
    pub fn report(
        &mut self,
        node: &NodeId,
        usages: &[Usage],
        now: Now,
    ) -> Result<Vec<SessionState>, BankError> {
        let is_ours = |usage: &&Usage| {
            let session = self.sessions.get(&usage.session);
            session.is_some_and(|session| session.node == *node)
        };
        let usages: Vec<Usage> = usages.iter().filter(is_ours).copied().collect();
        let mut reported: BTreeMap<UserName, Vec<SessionId>> = BTreeMap::new();
        for usage in &usages {
            let id = usage.session;
            let session = self.sessions.get(&id).ok_or(BankError::UnknownSession(id))?;
            session
                .meter
                .check(usage.total)
                .map_err(|err| BankError::Total { session: id, err })?;
            reported.entry(session.user.clone()).or_default().push(id);
        }
        for usage in &usages {
            let id = usage.session;
            self.leases.renew(id, now.instant);
            self.observe(id, usage.total)?;
            self.amend(id, |session| {
                session.capacity = usage.capacity;
                session.holding.acknowledge(usage.revision);
                let (total, price) = (session.meter.total(), session.meter.price());
                session.pace.observe(total, price, now.instant);
            });
            self.charge(id, now.wall, Meter::due)?;
        }
        for (user, ids) in &reported {
            self.share_out(user, &Cause::Asked(ids));
        }
        Ok(usages
            .iter()
            .filter_map(|usage| self.state(usage.session))
            .collect())
    }

    fn observe(&mut self, id: SessionId, total: CpuTime) -> Result<(), BankError> {
        let observed = self.amend(id, |session| session.meter.observe(total));
        match observed {
            None => Err(BankError::UnknownSession(id)),
            Some(Err(err)) => Err(BankError::Total { session: id, err }),
            Some(Ok(_)) => Ok(()),
        }
    }

    /// Posts what `due` says is to be posted for a session.
    fn charge(
        &mut self,
        id: SessionId,
        now: Timestamp,
        due: impl FnOnce(&Meter) -> Option<Amount>,
    ) -> Result<(), BankError> {
        let session = self.sessions.get(&id).ok_or(BankError::UnknownSession(id))?;
        let Some(amount) = due(&session.meter) else {
            return Ok(());
        };
        let sequence = session.meter.postings().len();
        let transfer = Transfer::charge(id, sequence, &session.user, amount, now);
        self.post(transfer)?;
        self.amend(id, |session| session.meter.on_posted(amount));
        Ok(())
    }

    /// Closes a live session at `total`, or at its highest reported total where that is larger. Charges it, or reverses
    /// all its charges where the end is our fault.
    pub fn close(
        &mut self,
        id: SessionId,
        total: CpuTime,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<Bill, BankError> {
        if !self.sessions.contains_key(&id) {
            return Err(BankError::UnknownSession(id));
        }
        self.observe(id, total)?;
        if outcome.is_charged() {
            self.charge(id, now, Meter::due_at_close)?;
        } else {
            self.reverse(id, now)?;
        }
        let session = self.sessions.get(&id).ok_or(BankError::UnknownSession(id))?;
        let amount = if outcome.is_charged() {
            session.meter.cost()
        } else {
            Amount::ZERO
        };
        let (user, node) = (session.user.clone(), session.node.clone());
        let task = session.task.after(outcome, amount);
        let transfers = transfers(session, outcome);
        let closed = Closed {
            id,
            user: user.clone(),
            node,
            task: task.id,
            total: session.meter.total(),
            outcome,
            amount,
        };
        if let Some(live) = self.lineages.get_mut(&task.root)
            && amount.is_positive()
        {
            live.lineage.closed = live.lineage.closed.saturating_add(amount);
            self.effects.changes.push(Change::Lineage(live.lineage.clone()));
        }
        self.remove_session(id);
        self.effects.stale.remove(&id);
        let task_amount = task.amount;
        self.effects.changes.push(Change::Task(task));
        self.effects.changes.push(Change::Closed(closed.clone(), now));
        self.share_out(&user, &Cause::Freed);
        Ok(Bill {
            closed,
            task_amount,
            transfers,
        })
    }

    fn reverse(&mut self, id: SessionId, now: Timestamp) -> Result<(), BankError> {
        let session = self.sessions.get(&id).ok_or(BankError::UnknownSession(id))?;
        let user = session.user.clone();
        let postings = session.meter.postings().to_vec();
        for (sequence, amount) in postings.into_iter().enumerate() {
            let charge = Transfer::charge(id, sequence, &user, amount, now);
            self.post(Transfer::reversal(&charge, now))?;
        }
        Ok(())
    }

    /// Takes back the end of a session of which nobody will ever see the results: reverses its `charges`, and its task goes
    /// on. `lineage` is the task's, as the journal has it.
    pub fn take_back(
        &mut self,
        closed: Closed,
        charges: &[Transfer],
        task: Task,
        lineage: Option<Lineage>,
        now: Timestamp,
    ) -> Result<(), BankError> {
        for charge in charges {
            self.post(Transfer::reversal(charge, now))?;
        }
        let live = self.lineages.get_mut(&task.root).map(|live| &mut live.lineage);
        let mut lineage = lineage;
        if let Some(lineage) = live.or(lineage.as_mut()) {
            lineage.closed = lineage.closed.saturating_sub(closed.amount);
            self.effects.changes.push(Change::Lineage(lineage.clone()));
        }
        let task = Task {
            amount: task.amount.saturating_sub(closed.amount),
            is_over: false,
            ..task
        };
        let user = closed.user.clone();
        let closed = Closed {
            outcome: Outcome::Lost,
            amount: Amount::ZERO,
            ..closed
        };
        self.effects.changes.push(Change::Task(task));
        self.effects.changes.push(Change::Closed(closed, now));
        self.share_out(&user, &Cause::Freed);
        Ok(())
    }

    /// Closes every session that was not heard of for longer than `lease`, at its last total and free of charge.
    pub fn expire(&mut self, lease: Duration, now: Now) -> Result<Vec<Bill>, BankError> {
        self.leases
            .expired(now.instant, lease)
            .into_iter()
            .map(|id| self.close(id, CpuTime::ZERO, Outcome::Lost, now.wall))
            .collect()
    }
}

/// Every transfer of an ended session: its charges, and their reversals where it is not charged.
fn transfers(session: &Session, outcome: Outcome) -> Vec<TransferId> {
    let charges = 0..session.meter.postings().len();
    let mut ids: Vec<TransferId> = charges
        .map(|sequence| TransferId::charge(session.id, sequence))
        .collect();
    if !outcome.is_charged() {
        let reversals: Vec<TransferId> = ids.iter().map(TransferId::reversal).collect();
        ids.extend(reversals);
    }
    ids
}

fn refused(refusal: Refusal, message: String) -> Opened {
    Opened::Refused { refusal, message }
}
