//! Control groups in memory, with counters set by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Pid;
use units::{ContainerId, CpuTime, MilliCores, SessionId};

use super::{
    Burst, CgroupError, ContainerGroup, ContainerLimits, CpuController, CpuStat, CpuUsage, LimitEvents,
    TaskGroup, TaskLimits, Weight,
};

/// A stand-in for the kernel. Clones share their groups, so a test keeps one and hands out another; a new manager
/// given the same clone finds what its predecessor left, as after a restart.
#[derive(Clone, Default)]
pub struct FakeCpuController(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    containers: BTreeMap<ContainerId, FakeContainer>,
    failures: u32,
    quota_most: MilliCores,
}

impl State {
    /// Looks at what all may have together now.
    fn sum_up(&mut self) {
        let sum = self.containers.values().map(|container| container.quota).sum();
        self.quota_most = self.quota_most.max(sum);
    }
}

/// What a test may look at or set in one container.
#[derive(Clone, Debug, Default)]
pub struct FakeContainer {
    pub limits: Option<ContainerLimits>,
    pub quota: MilliCores,
    pub burst: Burst,
    pub weight: Option<Weight>,
    pub frozen: bool,
    /// Counters of the launcher, the runner and the tasks already removed.
    pub stat: CpuStat,
    pub tasks: BTreeMap<SessionId, FakeTask>,
}

/// What a test may look at or set in one task.
#[derive(Clone, Debug, Default)]
pub struct FakeTask {
    pub limits: Option<TaskLimits>,
    pub usage: CpuUsage,
    pub events: LimitEvents,
    pub memory_bytes: u64,
    pub frozen: bool,
    /// The processes placed here and not killed yet.
    pub pids: Vec<Pid>,
    /// Killing does not help, as with a process in an uninterruptible sleep.
    pub unkillable: bool,
}

impl FakeCpuController {
    /// Looks at a container, or sets something in it. `None` if there is none.
    pub fn container<T>(&self, id: ContainerId, look: impl FnOnce(&mut FakeContainer) -> T) -> Option<T> {
        self.lock().containers.get_mut(&id).map(look)
    }

    /// Looks at a task in whichever container it is, or sets something in it. `None` if there is none.
    pub fn task<T>(&self, session: SessionId, look: impl FnOnce(&mut FakeTask) -> T) -> Option<T> {
        self.lock()
            .containers
            .values_mut()
            .find_map(|c| c.tasks.get_mut(&session))
            .map(look)
    }

    /// Sets a task's meter, all of it user time.
    pub fn set_cpu_time(&self, session: SessionId, total: CpuTime) {
        let usage = CpuUsage {
            total,
            user: total,
            system: CpuTime::ZERO,
        };
        self.task(session, |task| task.usage = usage)
            .expect("the task has a group");
    }

    /// The most that all containers together were allowed at any moment.
    pub fn quota_most(&self) -> MilliCores {
        self.lock().quota_most
    }

    /// Takes a container's groups away, as somebody else on the machine might.
    pub fn vanish(&self, id: ContainerId) {
        self.lock()
            .containers
            .remove(&id)
            .expect("the container has a group");
    }

    /// Lets the next `count` calls fail with an I/O error.
    pub fn fail_next(&self, count: u32) {
        self.lock().failures = count;
    }

    /// Panics if a group is left, or a failure that was asked for has not happened.
    pub fn assert_quiet(&self) {
        let state = self.lock();
        assert!(
            state.containers.is_empty(),
            "groups are left: {:?}",
            state.containers
        );
        assert_eq!(state.failures, 0, "failures are left");
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(&self, act: impl FnOnce(&mut State) -> Result<T, CgroupError>) -> Result<T, CgroupError> {
        let mut state = self.lock();
        if state.failures > 0 {
            state.failures -= 1;
            let err = io::Error::other("asked to fail");
            return Err(CgroupError::Io {
                action: "use",
                path: "fake".into(),
                err,
            });
        }
        act(&mut state)
    }
}

fn gone(id: impl ToString) -> CgroupError {
    CgroupError::Gone {
        path: id.to_string().into(),
    }
}

fn populated(id: impl ToString) -> CgroupError {
    CgroupError::Populated {
        path: id.to_string().into(),
    }
}

impl FakeContainer {
    fn kill(&mut self) -> bool {
        for task in self.tasks.values_mut() {
            task.kill();
        }
        self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.tasks.values().all(|task| task.pids.is_empty())
    }

    fn stat(&self) -> CpuStat {
        let mut stat = self.stat;
        stat.usage = self
            .tasks
            .values()
            .fold(stat.usage, |sum, task| add(sum, task.usage));
        stat
    }
}

impl FakeTask {
    fn kill(&mut self) -> bool {
        if !self.unkillable {
            self.pids.clear();
        }
        self.pids.is_empty()
    }
}

fn add(a: CpuUsage, b: CpuUsage) -> CpuUsage {
    CpuUsage {
        total: a.total.saturating_add(b.total),
        user: a.user.saturating_add(b.user),
        system: a.system.saturating_add(b.system),
    }
}

#[async_trait]
impl CpuController for FakeCpuController {
    async fn check(&self) -> Result<(), CgroupError> {
        self.call(|_state| Ok(()))
    }

    fn create_container(
        &self,
        id: ContainerId,
        limits: ContainerLimits,
    ) -> Result<Arc<dyn ContainerGroup>, CgroupError> {
        self.call(|state| {
            let container = state.containers.entry(id).or_default();
            container.limits = Some(limits);
            container.quota = limits.cpu;
            state.sum_up();
            Ok(())
        })?;
        Ok(Arc::new(ContainerHandle {
            id,
            kernel: self.clone(),
        }))
    }

    fn expect_place(&self) {}

    fn open_container(&self, id: ContainerId) -> Result<Arc<dyn ContainerGroup>, CgroupError> {
        self.call(|state| {
            state
                .containers
                .contains_key(&id)
                .then_some(())
                .ok_or_else(|| gone(id))
        })?;
        Ok(Arc::new(ContainerHandle {
            id,
            kernel: self.clone(),
        }))
    }

    fn containers(&self) -> Result<BTreeSet<ContainerId>, CgroupError> {
        self.call(|state| Ok(state.containers.keys().copied().collect()))
    }

    async fn destroy_container(&self, id: ContainerId, _timeout: Duration) -> Result<(), CgroupError> {
        self.call(
            |state| match state.containers.get_mut(&id).map(FakeContainer::kill) {
                Some(false) => Err(populated(id)),
                Some(true) | None => {
                    state.containers.remove(&id);
                    Ok(())
                }
            },
        )
    }
}

struct ContainerHandle {
    id: ContainerId,
    kernel: FakeCpuController,
}

impl ContainerHandle {
    fn call<T>(
        &self,
        act: impl FnOnce(&mut FakeContainer) -> Result<T, CgroupError>,
    ) -> Result<T, CgroupError> {
        self.kernel
            .call(|state| act(state.containers.get_mut(&self.id).ok_or_else(|| gone(self.id))?))
    }

    fn task(&self, session: SessionId) -> Arc<dyn TaskGroup> {
        Arc::new(TaskHandle {
            container: self.id,
            session,
            kernel: self.kernel.clone(),
        })
    }
}

#[async_trait]
impl ContainerGroup for ContainerHandle {
    fn id(&self) -> ContainerId {
        self.id
    }

    fn launcher_procs(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn set_quota(&self, cpu: MilliCores, burst: Burst) -> Result<(), CgroupError> {
        self.kernel.call(|state| {
            let container = state.containers.get_mut(&self.id);
            let container = container.ok_or_else(|| gone(self.id))?;
            (container.quota, container.burst) = (cpu, burst);
            state.sum_up();
            Ok(())
        })
    }

    fn quota(&self) -> Result<MilliCores, CgroupError> {
        self.call(|container| Ok(container.quota))
    }

    fn set_weight(&self, weight: Weight) -> Result<(), CgroupError> {
        self.call(|container| {
            container.weight = Some(weight);
            Ok(())
        })
    }

    fn set_memory_max(&self, bytes_max: u64) -> Result<(), CgroupError> {
        self.call(|container| {
            if let Some(limits) = &mut container.limits {
                limits.memory_bytes_max = bytes_max;
            }
            Ok(())
        })
    }

    fn memory_used(&self) -> Result<u64, CgroupError> {
        self.call(|container| Ok(container.tasks.values().map(|task| task.memory_bytes).sum()))
    }

    fn create_task(&self, session: SessionId, limits: TaskLimits) -> Result<Arc<dyn TaskGroup>, CgroupError> {
        self.call(|container| {
            container.tasks.entry(session).or_default().limits = Some(limits);
            Ok(())
        })?;
        Ok(self.task(session))
    }

    fn open_task(&self, session: SessionId) -> Result<Arc<dyn TaskGroup>, CgroupError> {
        self.call(|container| {
            container
                .tasks
                .contains_key(&session)
                .then_some(())
                .ok_or_else(|| gone(session))
        })?;
        Ok(self.task(session))
    }

    fn tasks(&self) -> Result<BTreeSet<SessionId>, CgroupError> {
        self.call(|container| Ok(container.tasks.keys().copied().collect()))
    }

    fn cpu_stat(&self) -> Result<CpuStat, CgroupError> {
        self.call(|container| Ok(container.stat()))
    }

    fn cpu_total(&self) -> Result<CpuTime, CgroupError> {
        self.cpu_stat().map(|stat| stat.usage.total)
    }

    async fn freeze(&self) -> Result<(), CgroupError> {
        self.call(|container| {
            container.frozen = true;
            Ok(())
        })
    }

    fn thaw(&self) -> Result<(), CgroupError> {
        self.call(|container| {
            container.frozen = false;
            Ok(())
        })
    }

    async fn kill_all(&self, _timeout: Duration) -> Result<(), CgroupError> {
        self.call(|container| container.kill().then_some(()).ok_or_else(|| populated(self.id)))
    }

    fn is_empty(&self) -> Result<bool, CgroupError> {
        self.call(|container| Ok(container.is_empty()))
    }

    async fn remove(&self) -> Result<(), CgroupError> {
        self.kernel.call(|state| match state.containers.get(&self.id) {
            Some(container) if !container.is_empty() => Err(populated(self.id)),
            _ => {
                state.containers.remove(&self.id);
                Ok(())
            }
        })
    }
}

struct TaskHandle {
    container: ContainerId,
    session: SessionId,
    kernel: FakeCpuController,
}

impl TaskHandle {
    fn call<T>(&self, act: impl FnOnce(&mut FakeTask) -> Result<T, CgroupError>) -> Result<T, CgroupError> {
        self.kernel.call(|state| {
            let container = state.containers.get_mut(&self.container);
            let task = container.and_then(|container| container.tasks.get_mut(&self.session));
            act(task.ok_or_else(|| gone(self.session))?)
        })
    }
}

#[async_trait]
impl TaskGroup for TaskHandle {
    fn session(&self) -> SessionId {
        self.session
    }

    fn place(&self, pid: Pid) -> Result<(), CgroupError> {
        self.call(|task| {
            task.pids.push(pid);
            Ok(())
        })
    }

    fn cpu_time(&self) -> Result<CpuTime, CgroupError> {
        self.cpu_usage().map(|usage| usage.total)
    }

    fn cpu_usage(&self) -> Result<CpuUsage, CgroupError> {
        self.call(|task| Ok(task.usage))
    }

    fn events(&self) -> Result<LimitEvents, CgroupError> {
        self.call(|task| Ok(task.events))
    }

    fn memory_bytes(&self) -> Result<u64, CgroupError> {
        self.call(|task| Ok(task.memory_bytes))
    }

    async fn freeze(&self) -> Result<(), CgroupError> {
        self.call(|task| {
            task.frozen = true;
            Ok(())
        })
    }

    fn thaw(&self) -> Result<(), CgroupError> {
        self.call(|task| {
            task.frozen = false;
            Ok(())
        })
    }

    async fn kill_and_wait_empty(&self, _timeout: Duration) -> Result<(), CgroupError> {
        self.call(|task| task.kill().then_some(()).ok_or_else(|| populated(self.session)))
    }

    fn populated(&self) -> Result<bool, CgroupError> {
        self.call(|task| Ok(!task.pids.is_empty()))
    }

    async fn remove(&self) -> Result<(), CgroupError> {
        self.kernel.call(|state| {
            let Some(container) = state.containers.get_mut(&self.container) else {
                return Ok(());
            };
            match container.tasks.get(&self.session) {
                Some(task) if !task.pids.is_empty() => Err(populated(self.session)),
                Some(task) => {
                    container.stat.usage = add(container.stat.usage, task.usage);
                    container.tasks.remove(&self.session);
                    Ok(())
                }
                None => Ok(()),
            }
        })
    }
}
