//! A credit-manager in memory, for tests: licenses, remembers, and says what the test wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use access::{Caller, TokenHash};
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use units::{
    Amount, Billing, CpuPrice, CpuTime, FunctionName, Grant, MilliCores, Restriction, SessionId, Standing,
    TaskId, UserName,
};

use super::{
    Account, Alert, Credit, CreditError, FunctionEntry, OpenSession, Opened, Push, Quote, Refusal,
    SessionState, Usage,
};
use crate::layout::TaskKey;
use crate::task::{Bill, Licence, Verdict};

/// Pushes kept for a watcher that is slow.
const PUSHES_MAX: usize = 64;

pub struct FakeCredit {
    inner: Mutex<Inner>,
    pushes: broadcast::Sender<Push>,
}

struct Inner {
    functions: BTreeMap<FunctionName, UserName>,
    sessions: BTreeMap<SessionId, Session>,
    attempts: BTreeMap<TaskId, (u32, u32)>,
    /// What each task has cost so far.
    amounts: BTreeMap<TaskId, Amount>,
    grant: Grant,
    restriction: Restriction,
    may_start: bool,
    revision: u64,
    ceiling: Option<MilliCores>,
    dismissed: BTreeSet<SessionId>,
    alert: Option<Alert>,
    tokens: BTreeMap<TokenHash, Caller>,
    is_down: bool,
    /// Why every session is refused, if it is.
    refusal: Option<Refusal>,
}

struct Session {
    key: (FunctionName, TaskKey),
    licence: Licence,
    total: CpuTime,
    closed: Option<Verdict>,
    /// To its lease.
    is_lost: bool,
}

impl FakeCredit {
    /// One that grants without limit.
    pub fn new() -> Self {
        let inner = Inner {
            functions: BTreeMap::new(),
            sessions: BTreeMap::new(),
            attempts: BTreeMap::new(),
            amounts: BTreeMap::new(),
            grant: Grant::UNLIMITED,
            restriction: Restriction::None,
            may_start: true,
            revision: 1,
            ceiling: None,
            dismissed: BTreeSet::new(),
            alert: None,
            tokens: BTreeMap::new(),
            is_down: false,
            refusal: None,
        };
        Self {
            inner: Mutex::new(inner),
            pushes: broadcast::channel(PUSHES_MAX).0,
        }
    }

    pub fn add_function(&self, function: &FunctionName, user: &UserName) {
        self.lock().functions.insert(function.clone(), user.clone());
    }

    pub fn remove_function(&self, function: &FunctionName) {
        self.lock().functions.remove(function);
    }

    /// What every session is told from now on, pushed at once.
    pub fn say(&self, grant: Grant, restriction: Restriction, may_start: bool) {
        let mut inner = self.lock();
        (inner.grant, inner.restriction, inner.may_start) = (grant, restriction, may_start);
        inner.revision += 1;
        let live = inner
            .sessions
            .iter()
            .filter(|(_, session)| session.closed.is_none());
        let states = live.map(|(session, _)| inner.state(*session)).collect();
        let gates = inner
            .functions
            .values()
            .map(|user| (user.clone(), may_start))
            .collect();
        let _nobody_watches = self.pushes.send(Push { states, gates });
    }

    /// The ceiling that every session is told with its next report.
    pub fn limit(&self, ceiling: Option<MilliCores>) {
        self.lock().ceiling = ceiling;
    }

    /// A session that is told with its next report to go.
    pub fn dismiss(&self, session: SessionId) {
        self.lock().dismissed.insert(session);
    }

    /// Ends a session as if its node had been silent for a lease.
    pub fn lose(&self, session: SessionId) {
        if let Some(session) = self.lock().sessions.get_mut(&session) {
            (session.closed, session.is_lost) = (Some(Verdict::PlatformFault), true);
        }
    }

    /// The alert of every user from now on.
    pub fn alert(&self, alert: Option<Alert>) {
        self.lock().alert = alert;
    }

    /// Makes a text somebody's token, or takes it back.
    pub fn set_token(&self, token: &str, caller: Option<Caller>) {
        let (mut inner, hash) = (self.lock(), TokenHash::of(token));
        match caller {
            Some(caller) => inner.tokens.insert(hash, caller),
            None => inner.tokens.remove(&hash),
        };
    }

    /// Whether calls fail as those of an unreachable credit-manager do.
    pub fn set_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    /// The totals told of live sessions.
    pub fn reported(&self) -> Vec<CpuTime> {
        let inner = self.lock();
        let live = inner.sessions.values().filter(|session| session.closed.is_none());
        live.map(|session| session.total).collect()
    }

    fn reach(&self) -> Result<MutexGuard<'_, Inner>, CreditError> {
        let inner = self.lock();
        if inner.is_down {
            let url = "fake".to_owned();
            let err = "it is down".into();
            return Err(CreditError::Unreachable { url, err });
        }
        Ok(inner)
    }

    /// Refuses every session from now on, or no longer.
    pub fn refuse(&self, refusal: Option<Refusal>) {
        self.lock().refusal = refusal;
    }

    /// How the sessions ended, oldest first, with their totals.
    pub fn closed(&self) -> Vec<(Verdict, CpuTime)> {
        let inner = self.lock();
        inner
            .sessions
            .values()
            .filter_map(|session| Some((session.closed?, session.total)))
            .collect()
    }

    pub fn live(&self) -> usize {
        self.live_sessions().len()
    }

    pub fn live_sessions(&self) -> Vec<SessionId> {
        let inner = self.lock();
        let live = inner
            .sessions
            .iter()
            .filter(|(_, session)| session.closed.is_none());
        live.map(|(id, _)| *id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for FakeCredit {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn state(&self, session: SessionId) -> SessionState {
        SessionState {
            session,
            standing: Standing::Good,
            restriction: self.restriction,
            may_start: self.may_start,
            grant: self.grant,
            balance: Amount::ZERO,
            revision: self.revision,
            ceiling: self.ceiling,
            dismissed: self.dismissed.contains(&session),
        }
    }
}

fn refused(refusal: Refusal) -> Opened {
    Opened::Refused {
        refusal,
        message: format!("{refusal:?}"),
    }
}

#[async_trait]
impl Credit for FakeCredit {
    async fn open(&self, request: &OpenSession) -> Result<Opened, CreditError> {
        let mut inner = self.reach()?;
        let Some(user) = inner.functions.get(&request.function).cloned() else {
            return Ok(refused(Refusal::UnknownFunction));
        };
        let no_funds = (!inner.may_start).then_some(Refusal::NoFunds);
        if let Some(refusal) = inner.refusal.or(no_funds) {
            return Ok(refused(refusal));
        }
        let key = (request.function.clone(), request.key.clone());
        if inner
            .sessions
            .values()
            .any(|session| session.key == key && session.closed.is_none())
        {
            return Ok(refused(Refusal::AlreadyRunning));
        }
        let newest = inner.sessions.values().rfind(|session| session.key == key);
        if request.is_left_behind && newest.is_some_and(|session| !session.is_lost) {
            return Ok(refused(Refusal::AlreadyRunning));
        }
        let task = request.task.unwrap_or_else(TaskId::new);
        let spent = inner.amounts.get(&task).copied().unwrap_or_default();
        let cap = request.max_amount.map(|cap| cap.saturating_sub(spent));
        if cap.is_some_and(|cap| !cap.is_positive()) {
            return Ok(refused(Refusal::CapSpent));
        }
        let (attempt, failures) = inner.attempts.get(&task).copied().unwrap_or_default();
        let attempt = attempt + 1;
        inner.attempts.insert(task, (attempt, failures));
        let licence = Licence {
            root: request.parent.unwrap_or(task),
            lineage_cap: request.max_amount,
            task,
            user,
            attempt,
            failures,
            price: CpuPrice::DEFAULT,
            billing: Billing::Used,
            cap_at: cap.map(|cap| CpuPrice::DEFAULT.affordable(cap)),
        };
        let session = Session {
            key,
            licence: licence.clone(),
            total: CpuTime::ZERO,
            closed: None,
            is_lost: false,
        };
        inner.sessions.insert(request.session, session);
        Ok(Opened::Licensed {
            licence,
            state: inner.state(request.session),
        })
    }

    async fn report(&self, usages: &[Usage]) -> Result<Vec<SessionState>, CreditError> {
        let mut inner = self.reach()?;
        let mut states = Vec::new();
        for usage in usages {
            let state = inner.state(usage.session);
            let Some(session) = inner.sessions.get_mut(&usage.session) else {
                continue;
            };
            if session.closed.is_none() {
                session.total = session.total.max(usage.total);
                states.push(state);
            }
        }
        Ok(states)
    }

    async fn close(&self, session: SessionId, total: CpuTime, verdict: Verdict) -> Result<Bill, CreditError> {
        let mut inner = self.reach()?;
        let Some(closed) = inner.sessions.get_mut(&session) else {
            return Err(CreditError::Refused {
                message: format!("no session {session}"),
            });
        };
        if closed.is_lost {
            let message = format!("session {session} was lost");
            return Err(CreditError::Refused { message });
        }
        closed.total = total;
        closed.closed = Some(verdict);
        let (task, price) = (closed.licence.task, closed.licence.price);
        if verdict == Verdict::Failed
            && let Some((_, failures)) = inner.attempts.get_mut(&task)
        {
            *failures += 1;
        }
        let amount = if verdict == Verdict::PlatformFault {
            None
        } else {
            price.cost(total)
        };
        let amount = amount.unwrap_or_default();
        let spent = inner.amounts.entry(task).or_default();
        *spent = spent.saturating_add(amount);
        Ok(Bill {
            amount,
            ..Bill::default()
        })
    }

    async fn quote(&self, function: &FunctionName, _input_bytes: u64) -> Result<Quote, CreditError> {
        let inner = self.lock();
        let user = inner.functions.get(function).cloned();
        Ok(Quote {
            user: user.ok_or_else(|| CreditError::Refused {
                message: format!("no function {function}"),
            })?,
            price: CpuPrice::DEFAULT,
            estimate: None,
        })
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<Push, CreditError>>, CreditError> {
        let pushes = BroadcastStream::new(self.pushes.subscribe());
        Ok(pushes
            .filter_map(|push| std::future::ready(push.ok().map(Ok)))
            .boxed())
    }

    async fn functions(&self) -> Result<Vec<FunctionEntry>, CreditError> {
        let inner = self.lock();
        let entry = |(name, user): (&FunctionName, &UserName)| FunctionEntry {
            name: name.clone(),
            user: user.clone(),
            may_start: inner.may_start,
            alert: inner.alert.clone(),
        };
        Ok(inner.functions.iter().map(entry).collect())
    }

    /// One GRC, and a GRC an hour for each live session.
    async fn account(&self, _user: &UserName) -> Result<Account, CreditError> {
        let burn: Amount = self
            .live_sessions()
            .iter()
            .map(|_| Amount::from_halfords(100_000_000))
            .sum();
        Ok(Account {
            balance: Amount::from_halfords(100_000_000),
            standing: Standing::Good,
            debt_limit: Amount::ZERO,
            billing: Billing::Used,
            burn,
            runway: burn.is_positive().then_some(Duration::from_secs(3600)),
        })
    }

    async fn identify(&self, token: &TokenHash) -> Result<Option<Caller>, CreditError> {
        Ok(self.reach()?.tokens.get(token).cloned())
    }
}
