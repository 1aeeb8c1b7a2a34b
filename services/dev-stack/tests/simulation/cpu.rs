//! A container with one task, whose CPU time is virtual time × what it wants or may have.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use container_manager::cgroup::{
    Burst, CgroupError, ContainerGroup, CpuStat, CpuUsage, LimitEvents, TaskGroup, TaskLimits, Weight,
};
use rustix::process::Pid;
use tokio::time::Instant;
use units::{ContainerId, CpuTime, MilliCores, SessionId};

/// The kernel's least quota: 1 ms in a period of 20.
const QUOTA_MIN: MilliCores = MilliCores::from_millicores(50);

pub(crate) struct Cpu {
    container: ContainerId,
    session: SessionId,
    demand: MilliCores,
    /// What the task needs to finish.
    need: CpuTime,
    counter: Mutex<Counter>,
}

struct Counter {
    used: CpuTime,
    /// Neither frozen nor dead.
    ran: Duration,
    throttled: Duration,
    read_at: Instant,
    quota: MilliCores,
    frozen: bool,
    dead: bool,
}

impl Cpu {
    pub(crate) fn new(
        container: ContainerId,
        session: SessionId,
        demand: MilliCores,
        need: CpuTime,
    ) -> Arc<Self> {
        Arc::new(Self {
            container,
            session,
            demand,
            need,
            counter: Mutex::new(Counter {
                used: CpuTime::ZERO,
                ran: Duration::ZERO,
                throttled: Duration::ZERO,
                read_at: Instant::now(),
                quota: MilliCores::ZERO,
                frozen: false,
                dead: false,
            }),
        })
    }

    /// Brings the counter up to now, then changes what holds from now on.
    fn at_now<T>(&self, change: impl FnOnce(&mut Counter) -> T) -> T {
        let mut counter = self.counter.lock().unwrap();
        let now = Instant::now();
        if !counter.frozen && !counter.dead {
            let passed = now - counter.read_at;
            let used = counter.quota.min(self.demand).over(passed);
            counter.used = counter.used.saturating_add(used).min(self.need);
            counter.ran += passed;
            if counter.quota < self.demand {
                counter.throttled += passed;
            }
        }
        counter.read_at = now;
        change(&mut counter)
    }

    pub(crate) fn used(&self) -> CpuTime {
        self.at_now(|counter| counter.used)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.used() >= self.need
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.at_now(|counter| counter.dead)
    }

    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.at_now(|counter| counter.frozen = frozen);
    }

    /// Nothing uses CPU time here any more.
    pub(crate) fn kill(&self) {
        self.at_now(|counter| counter.dead = true);
    }

    fn usage(&self) -> CpuUsage {
        let total = self.used();
        CpuUsage {
            total,
            user: total,
            system: CpuTime::ZERO,
        }
    }
}

#[async_trait]
impl ContainerGroup for Cpu {
    fn id(&self) -> ContainerId {
        self.container
    }

    fn launcher_procs(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn set_quota(&self, cpu: MilliCores, _burst: Burst) -> Result<(), CgroupError> {
        self.at_now(|counter| counter.quota = cpu.max(QUOTA_MIN));
        Ok(())
    }

    fn quota(&self) -> Result<MilliCores, CgroupError> {
        unreachable!("nothing is adopted by its groups here")
    }

    fn set_weight(&self, _weight: Weight) -> Result<(), CgroupError> {
        Ok(())
    }

    fn set_memory_max(&self, _bytes_max: u64) -> Result<(), CgroupError> {
        unreachable!("memory is not scaled here")
    }

    fn memory_used(&self) -> Result<u64, CgroupError> {
        unreachable!("memory is not scaled here")
    }

    fn create_task(
        &self,
        _session: SessionId,
        _limits: TaskLimits,
    ) -> Result<Arc<dyn TaskGroup>, CgroupError> {
        unreachable!("the task is there from the beginning")
    }

    fn open_task(&self, _session: SessionId) -> Result<Arc<dyn TaskGroup>, CgroupError> {
        unreachable!("the task is at hand")
    }

    fn tasks(&self) -> Result<BTreeSet<SessionId>, CgroupError> {
        Ok(BTreeSet::from([self.session]))
    }

    fn cpu_stat(&self) -> Result<CpuStat, CgroupError> {
        let usage = self.usage();
        Ok(self.at_now(|counter| {
            // A task wants the same in every period, so all of them are alike.
            let periods = |of: Duration| u64::try_from(of.as_millis() / 20).unwrap();
            CpuStat {
                usage,
                nr_periods: periods(counter.ran),
                nr_throttled: periods(counter.throttled),
                throttled_time: counter.throttled,
            }
        }))
    }

    fn cpu_total(&self) -> Result<CpuTime, CgroupError> {
        Ok(self.used())
    }

    async fn freeze(&self) -> Result<(), CgroupError> {
        unreachable!("tasks are frozen, not containers")
    }

    fn thaw(&self) -> Result<(), CgroupError> {
        unreachable!("tasks are frozen, not containers")
    }

    async fn kill_all(&self, _timeout: Duration) -> Result<(), CgroupError> {
        self.kill();
        Ok(())
    }

    fn is_empty(&self) -> Result<bool, CgroupError> {
        Ok(self.is_dead())
    }

    async fn remove(&self) -> Result<(), CgroupError> {
        Ok(())
    }
}

#[async_trait]
impl TaskGroup for Cpu {
    fn session(&self) -> SessionId {
        self.session
    }

    fn place(&self, _pid: Pid) -> Result<(), CgroupError> {
        Ok(())
    }

    fn cpu_time(&self) -> Result<CpuTime, CgroupError> {
        Ok(self.used())
    }

    fn cpu_usage(&self) -> Result<CpuUsage, CgroupError> {
        Ok(self.usage())
    }

    fn events(&self) -> Result<LimitEvents, CgroupError> {
        Ok(LimitEvents::default())
    }

    fn memory_bytes(&self) -> Result<u64, CgroupError> {
        Ok(0)
    }

    async fn freeze(&self) -> Result<(), CgroupError> {
        self.set_frozen(true);
        Ok(())
    }

    fn thaw(&self) -> Result<(), CgroupError> {
        self.set_frozen(false);
        Ok(())
    }

    async fn kill_and_wait_empty(&self, _timeout: Duration) -> Result<(), CgroupError> {
        self.kill();
        Ok(())
    }

    fn populated(&self) -> Result<bool, CgroupError> {
        Ok(!self.is_dead())
    }

    async fn remove(&self) -> Result<(), CgroupError> {
        Ok(())
    }
}
