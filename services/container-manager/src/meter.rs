//! USAGE: reads every running task's counter, enforces its grant, scales its container, reports its total.
//!
//! Enforcement is local: a grant names the totals at which to throttle and to stop, and the next look is due when the
//! first of them can be reached at the present allocation, a quota and what was saved being used at once. credit-manager being away changes nothing but the size of
//! the next grant.

mod live;
mod memory;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use service_kit::Chain;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use units::{
    ContainerId, CpuTime, FunctionName, Grant, MilliCores, Restriction, SessionId, Timestamp, UserName,
};

use crate::cgroup::{CgroupError, ContainerGroup, CpuStat, TaskGroup};
use crate::credit::{Credit, CreditError, SessionState, Usage};
use crate::journal::JournalError;
use crate::memory::MemoryLease;
use crate::metrics::METRICS;
use crate::recorder::Recorder;
use crate::recording::Record;
use crate::reservation::Reservations;
use crate::scaler::headroom::{self, Demand};
use crate::scaler::{PolicyName, ScalerConfig, Wishes};
use crate::task::Licence;

use live::{LiveContainer, LiveTask};
use memory::LiveMemory;

/// Reports are not sent faster than this, whatever asks for them: each is a durable write at the other end.
const REPORT_PAUSE: Duration = Duration::from_millis(100);
/// The shortest look-ahead: the kernel's counter moves in steps of up to 8 ms while a process runs.
const LOOK_MIN: Duration = Duration::from_millis(5);

/// What a running task is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Run,
    /// The grant is spent: freeze, and wait for money as long as the hold lasts.
    Freeze,
    /// The task's own cap is spent.
    CapSpent,
    /// The user's funds do not last for it beside older work.
    Dismissed,
    /// Somebody wants it stopped for good.
    Cancelled,
    /// credit-manager does not know the session any more, or was told nothing of it for too long: another node may have the
    /// task.
    Lost,
}

impl Signal {
    /// Whether nothing takes it back.
    const fn is_final(self) -> bool {
        match self {
            Self::Cancelled | Self::Lost => true,
            Self::Run | Self::Freeze | Self::CapSpent | Self::Dismissed => false,
        }
    }
}

/// What a container is, for those who look at it.
#[derive(Clone, Debug)]
pub struct ContainerInfo {
    pub function: FunctionName,
    pub user: UserName,
    pub image_digest: String,
    pub started_at: Timestamp,
}

/// A container as it is now.
#[derive(Clone, Debug)]
pub struct ContainerView {
    pub id: ContainerId,
    pub info: ContainerInfo,
    pub allocation: MilliCores,
    pub max: MilliCores,
    pub policy: PolicyName,
    pub used: MilliCores,
    pub stat: CpuStat,
    pub running_tasks: u32,
    pub restriction: Restriction,
}

/// What a running session has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub billed: CpuTime,
    /// Since its container was made.
    pub container_throttled: CpuTime,
}

/// Keeps grants through a crash of the manager.
///
/// A report says which grant the node enforces, and with it gives back what an older one allowed beyond. So a smaller grant
/// is on disk before it is reported: the next manager must not go on with one that is given back.
#[async_trait]
pub trait GrantBook: Send + Sync {
    /// From now on no more than these grants is taken up after a crash.
    async fn lower(&self, grants: Vec<(SessionId, Grant)>) -> Result<(), JournalError>;
}

/// One report, and the grants to book before it.
#[derive(Default)]
struct Due {
    usages: Vec<Usage>,
    lowered: Vec<(SessionId, Grant)>,
}

#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Credit(#[from] CreditError),
}

/// How a node meters.
#[derive(Clone, Debug)]
pub struct MeterConfig {
    pub capacity: MilliCores,
    /// At the start; see [`Meter::rescale`].
    pub scaler: ScalerConfig,
    /// How often everything is looked at.
    pub sample: Duration,
    /// How often usage is reported while nothing happens.
    pub report: Duration,
    /// How long a task goes on without a report that credit-manager took.
    pub orphan: Duration,
}

/// Everything that runs on this node.
pub struct Meter {
    credit: Arc<dyn Credit>,
    book: Arc<dyn GrantBook>,
    recorder: Recorder,
    capacity: MilliCores,
    sample: Duration,
    report: Duration,
    orphan: Duration,
    scaler: Mutex<ScalerConfig>,
    live: Mutex<BTreeMap<ContainerId, LiveContainer>>,
    reservations: OnceLock<Arc<Reservations>>,
    wake: Notify,
    report_now: Notify,
}

impl Meter {
    pub fn new(
        credit: Arc<dyn Credit>,
        book: Arc<dyn GrantBook>,
        recorder: Recorder,
        MeterConfig {
            capacity,
            scaler,
            sample,
            report,
            orphan,
        }: MeterConfig,
    ) -> Arc<Self> {
        Arc::new(Self {
            credit,
            book,
            recorder,
            capacity,
            sample,
            report,
            orphan,
            scaler: Mutex::new(scaler),
            live: Mutex::default(),
            reservations: OnceLock::new(),
            wake: Notify::new(),
            report_now: Notify::new(),
        })
    }

    /// The node's capacity.
    pub fn capacity(&self) -> MilliCores {
        self.capacity
    }

    /// Lets containers have no CPU that is promised to others.
    pub fn honour(&self, reservations: Arc<Reservations>) {
        let _once = self.reservations.set(reservations);
    }

    /// What containers may have together, and what they have, while neither changes.
    pub fn while_allocated<T>(&self, act: impl FnOnce(MilliCores, MilliCores) -> T) -> T {
        let live = self.live();
        let allocatable = self.scaler().allocatable(self.capacity);
        act(
            allocatable,
            live.values().map(|container| container.allocation).sum(),
        )
    }

    /// Takes charge of a new container, in which nothing may run before. When this returns it has its part of the node, and
    /// others have given way.
    pub fn add_container(&self, info: ContainerInfo, group: Arc<dyn ContainerGroup>, wishes: Wishes) {
        self.add(info, group, wishes, MilliCores::ZERO, CpuStat::default());
        let _told_by_the_next_look = self.look(Instant::now());
    }

    /// Takes charge of a container that an earlier manager started. Its cap is the one it has, and what it did until now is
    /// not counted again.
    pub fn adopt_container(
        &self,
        info: ContainerInfo,
        group: Arc<dyn ContainerGroup>,
        wishes: Wishes,
    ) -> Result<(), CgroupError> {
        let stat = group.cpu_stat()?;
        let quota = group.quota()?;
        self.add(info, group, wishes, quota, stat);
        Ok(())
    }

    fn add(
        &self,
        info: ContainerInfo,
        group: Arc<dyn ContainerGroup>,
        wishes: Wishes,
        allocation: MilliCores,
        stat: CpuStat,
    ) {
        let mut live = self.live();
        let mut container = LiveContainer::new(info, group, wishes, &self.scaler());
        container.allocation = allocation;
        container.stat = stat;
        self.recorder.record(container.started());
        live.insert(container.group.id(), container);
        self.wake.notify_one();
    }

    /// Lets a container's memory follow what it uses, where the rules say so, up to what is set aside for it now.
    pub fn lend_memory(&self, container: ContainerId, reservation: Arc<MemoryLease>) {
        if let Some(container) = self.live().get_mut(&container) {
            container.memory = Some(LiveMemory::new(reservation));
        }
    }

    /// Scales by other rules from now on, also what runs; whatever they do not change goes on as it was.
    pub fn rescale(&self, scaler: ScalerConfig) {
        let mut live = self.live();
        for container in live.values_mut() {
            container.rescale(&scaler);
        }
        *self.scaler() = scaler;
        self.wake.notify_one();
    }

    /// Lets go of a container in which nothing runs any more.
    pub fn remove_container(&self, id: ContainerId) {
        let mut live = self.live();
        if let Some(mut container) = live.remove(&id) {
            if let Ok(stat) = container.group.cpu_stat() {
                container.count(stat);
            }
            self.recorder.record(Record::ContainerEnded { container: id });
        }
        self.wake.notify_one();
    }

    /// Makes room for a task that is about to start, so that the first it does is not to wait.
    pub fn expect_task(&self, container: ContainerId) {
        let now = Instant::now();
        if let Some(container) = self.live().get_mut(&container) {
            container.scaler.on_task(now);
        }
        let _told_by_the_next_look = self.look(now);
        // Whoever was raised comes to its mark the sooner.
        self.wake.notify_one();
    }

    /// Begins metering a task, which is lost at `void_at` unless credit-manager is told of it before. The receiver tells what it
    /// may do.
    pub fn add_task(
        &self,
        container: ContainerId,
        group: Arc<dyn TaskGroup>,
        licence: &Licence,
        state: SessionState,
        void_at: Instant,
    ) -> watch::Receiver<Signal> {
        let (signal, receiver) = watch::channel(Signal::Run);
        let task = LiveTask {
            group,
            billing: licence.billing,
            cap_at: licence.cap_at,
            booked: state.grant,
            state,
            used: CpuTime::ZERO,
            reserved: 0,
            void_at,
            signal,
        };
        if let Some(container) = self.live().get_mut(&container) {
            self.recorder
                .balance(&container.info.user, task.state.balance, task.state.standing);
            container.tasks.insert(task.state.session, task);
        }
        self.wake.notify_one();
        receiver
    }

    /// Ends metering a task and returns the reserved total, which is what `current` billing charges; the used total is
    /// read from the empty cgroup by the caller.
    pub fn remove_task(&self, container: ContainerId, session: SessionId) -> CpuTime {
        let mut live = self.live();
        let task = live
            .get_mut(&container)
            .and_then(|container| container.tasks.remove(&session));
        task.map_or(CpuTime::ZERO, |task| {
            CpuTime::from_micros(u64::try_from(task.reserved / 1000).unwrap_or(u64::MAX))
        })
    }

    pub fn containers(&self) -> Vec<ContainerView> {
        let view = |(id, container): (&ContainerId, &LiveContainer)| ContainerView {
            id: *id,
            info: container.info.clone(),
            allocation: container.allocation,
            max: container.scaler.limits().max,
            policy: container.scaler.policy(),
            used: container.used,
            stat: container.stat,
            running_tasks: u32::try_from(container.tasks.len()).unwrap_or(u32::MAX),
            restriction: container.restriction,
        };
        self.live().iter().map(view).collect()
    }

    /// Whether a container may go on for `orphan` without us: credit-manager was told of its tasks within the quarter of that by
    /// which a lease is longer.
    pub fn may_outlive_us(&self, container: ContainerId) -> bool {
        let void_after = Instant::now() + self.orphan * 3 / 4;
        let live = self.live();
        let container = live.get(&container);
        container.is_none_or(|container| container.tasks.values().all(|task| task.void_at >= void_after))
    }

    /// Reports without waiting for the next turn.
    pub fn report_soon(&self) {
        self.report_now.notify_one();
    }

    /// Whether a running session is held still at its limit.
    pub fn is_frozen(&self, session: SessionId) -> bool {
        let live = self.live();
        let task = live.values().find_map(|container| container.tasks.get(&session));
        task.is_some_and(|task| *task.signal.borrow() == Signal::Freeze)
    }

    /// Has a running session's task stopped for good. `false` if it does not run here.
    pub fn cancel(&self, session: SessionId) -> bool {
        let live = self.live();
        let task = live.values().find_map(|container| container.tasks.get(&session));
        if let Some(task) = task {
            task.signal.send_if_modified(|told| {
                let is_news = !told.is_final();
                if is_news {
                    *told = Signal::Cancelled;
                }
                is_news
            });
        }
        task.is_some()
    }

    /// What a running session has come to by now; `None` if it does not run here.
    pub fn progress(&self, session: SessionId) -> Option<Progress> {
        self.live().values().find_map(|container| {
            container.tasks.get(&session).map(|task| Progress {
                billed: task.billed(),
                container_throttled: container.stat.throttled(),
            })
        })
    }

    /// Meters until shutdown.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        loop {
            let (usage_crossed, next_look) = self.look(Instant::now());
            if usage_crossed {
                self.report_now.notify_one();
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(next_look) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Reports totals until shutdown: regularly, and at once when a mark was crossed or is near.
    pub async fn report(
        self: Arc<Self>,
        shutdown: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        loop {
            let due = self.due(Instant::now());
            if !due.usages.is_empty() {
                let sent = self.send(due).await.inspect_err(
                    |err| warn!(error = %Chain(err), "usage not reported, will be with the next report"),
                );
                let result = if sent.is_ok() { "taken" } else { "failed" };
                METRICS.reports.with_label_values(&[result]).inc();
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(REPORT_PAUSE) => {}
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.report.saturating_sub(REPORT_PAUSE)) => {}
                () = self.report_now.notified() => {}
            }
        }
    }

    /// Books the grants that are smaller than what a crash would bring back, then reports that they are enforced.
    async fn send(&self, due: Due) -> Result<(), ReportError> {
        if !due.lowered.is_empty() {
            self.book.lower(due.lowered.clone()).await?;
            let mut live = self.live();
            for (session, grant) in due.lowered {
                if let Some(task) = task_of(&mut live, session) {
                    task.booked = grant;
                }
            }
        }
        let sent_at = Instant::now();
        let states = self.credit.report(&due.usages).await?;
        self.on_report(&due.usages, states, sent_at);
        Ok(())
    }

    /// Takes in what credit-manager tells unasked. `on_gate` hears who may start work.
    pub async fn listen(
        self: Arc<Self>,
        on_gate: impl Fn(&UserName, bool) + Send,
        shutdown: CancellationToken,
    ) -> Result<(), crate::credit::CreditError> {
        let mut pushes = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            pushes = self.credit.watch() => pushes?,
        };
        loop {
            let push = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                push = pushes.next() => push,
            };
            let Some(push) = push.transpose()? else {
                return Ok(());
            };
            for state in push.states {
                self.on_state(state);
            }
            // A new grant counts as taken only when a report says so.
            self.report_now.notify_one();
            for (user, may_start) in &push.gates {
                on_gate(user, *may_start);
            }
        }
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<ContainerId, LiveContainer>> {
        // A panic between two field writes leaves readings stale at worst; the next look renews them.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken after [`Self::live`] where both are.
    fn scaler(&self) -> MutexGuard<'_, ScalerConfig> {
        // Replaced whole.
        self.scaler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be reported now. A grant may have come since the last look: the report says that it is enforced, so it
    /// is, and what was used until then is told with it.
    fn due(&self, now: Instant) -> Due {
        let mut live = self.live();
        enforce(&mut live, now);
        let mut due = Due::default();
        for container in live.values() {
            for (session, task) in &container.tasks {
                due.usages.push(Usage {
                    session: *session,
                    total: task.billed(),
                    capacity: container.allocation_each(),
                    revision: task.state.revision,
                });
                let lowered = task.booked.tighter(task.state.grant);
                if lowered != task.booked {
                    due.lowered.push((*session, lowered));
                }
            }
        }
        due
    }

    /// A lease is renewed when a report arrives, which is after `sent_at`.
    fn on_report(&self, sent: &[Usage], states: Vec<SessionState>, sent_at: Instant) {
        let answered: Vec<SessionId> = states.iter().map(|state| state.session).collect();
        for state in states {
            self.on_state(state);
        }
        let mut live = self.live();
        for container in live.values_mut() {
            for (session, task) in &mut container.tasks {
                if !sent.iter().any(|usage| usage.session == *session) {
                    continue;
                }
                if answered.contains(session) {
                    task.void_at = sent_at + self.orphan;
                } else {
                    warn!(%session, "credit-manager does not know the session, its task is stopped");
                    task.signal.send_replace(Signal::Lost);
                }
            }
        }
    }

    fn on_state(&self, state: SessionState) {
        let mut live = self.live();
        let task = live.values_mut().find_map(|container| {
            let task = container.tasks.get_mut(&state.session)?;
            Some((&container.info.user, task))
        });
        if let Some((user, task)) = task
            && state.revision >= task.state.revision
        {
            self.recorder.balance(user, state.balance, state.standing);
            debug!(session = %state.session, standing = %state.standing, "session state");
            task.state = state;
            self.wake.notify_one();
        }
    }

    /// Reads all meters, enforces and scales. Returns whether a report is due now, and when to look again.
    fn look(&self, now: Instant) -> (bool, Duration) {
        let mut live = self.live();
        let mut report_due = enforce(&mut live, now);
        self.share(&mut live, now);
        let memory_rules = *self.scaler().memory();
        for container in live.values_mut() {
            container.scale_memory(now, &memory_rules);
        }
        // At what the containers may use from now on: who was just raised comes to its mark the sooner.
        let until_mark = live.values().filter_map(LiveContainer::until_next_mark).min();
        report_due |= until_mark.is_some_and(|until| until < self.report * 2);
        let next_look = until_mark.map_or(self.sample, |until| self.sample.min(until.max(LOOK_MIN)));
        (report_due, next_look)
    }

    /// Shares the node's capacity between the containers, downs before ups.
    fn share(&self, live: &mut BTreeMap<ContainerId, LiveContainer>, now: Instant) {
        let demands: Vec<Demand> = live
            .iter_mut()
            .map(|(id, container)| Demand {
                container: *id,
                current: container.allocation,
                desired: container.desired(now),
                min: container.scaler.limits().min,
                restricted: container.restriction > Restriction::None,
            })
            .collect();
        let promised = self.reservations.get();
        let promised = promised.map_or(MilliCores::ZERO, |promised| promised.reserved().cpu);
        let allocatable = self.scaler().allocatable(self.capacity).saturating_sub(promised);
        for change in headroom::plan(allocatable, &demands) {
            let Some(container) = live.get_mut(&change.container) else {
                continue;
            };
            match container.allocate(change.to) {
                // At once, so that a recording tells downs before ups as well.
                Ok(()) => self.recorder.record(container.sample()),
                // It has nothing any more, and whoever ran it will say so.
                Err(CgroupError::Gone { .. }) => container.allocation = MilliCores::ZERO,
                Err(err) => {
                    // A raise that follows could overdraw the node, so it waits for the next look.
                    warn!(container_id = %change.container, error = %Chain(&err), "allocation not changed");
                    break;
                }
            }
        }
        for container in live.values() {
            self.recorder.record(container.sample());
        }
    }
}

fn task_of(live: &mut BTreeMap<ContainerId, LiveContainer>, session: SessionId) -> Option<&mut LiveTask> {
    let mut containers = live.values_mut();
    containers.find_map(|container| container.tasks.get_mut(&session))
}

/// Reads all meters and tells every task what it may do. Returns whether a restriction changed.
fn enforce(live: &mut BTreeMap<ContainerId, LiveContainer>, now: Instant) -> bool {
    let mut changed = false;
    for container in live.values_mut() {
        match container.read(now) {
            Ok(()) => {}
            // The task or container has ended under us; whoever ran it will say so.
            Err(err) => debug!(error = %Chain(&err), "meter not read"),
        }
        changed |= container.enforce(now);
    }
    changed
}

#[cfg(test)]
mod tests;
