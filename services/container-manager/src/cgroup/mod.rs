//! CONTAINER, METER: control groups, which limit what a container may use and count what it did use.
//!
//! ```text
//! gridfaas/                      our tree, in every hierarchy that holds something we need
//!   <container id>/              quota, weight, memory and pids of the whole container
//!     runner/                    launcher and resident runner: on the house
//!     <session id>/              one attempt at one task: metered, frozen, killed as one
//! ```
//!
//! Processes are in the leaves only, as cgroup v2 demands. Ids are never reused, so a counter only grows, and a group
//! that is not there is [`CgroupError::Gone`], never a zero.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Pid;
use units::{ContainerId, CpuTime, MilliCores, SessionId};

pub mod fake;
mod group;
pub mod hierarchy;
mod hybrid;
mod limits;
mod reader;
mod stop;
mod v1;
mod v2;

pub use hierarchy::Hierarchies;
pub use hybrid::KernelCpuController;

/// As precise as the kernel's default of 100 ms (at most 0.14 % off), but a throttled task wakes after 18 ms instead
/// of 65 (p90), and bursts are shorter.
pub const QUOTA_PERIOD: Duration = Duration::from_millis(20);

/// How long a sweep gives an orphan to die. Measured: a 400-process fork bomb is gone in 34 ms.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("control group `{path}` is gone")]
    Gone { path: PathBuf },
    #[error("failed to {action} `{path}`")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("failed to limit control group `{path}`")]
    Limit {
        path: PathBuf,
        #[source]
        err: cgroups_rs::fs::error::Error,
    },
    #[error("`{path}` has no number `{key}`")]
    MissingField { path: PathBuf, key: &'static str },
    #[error("control group `{path}` still has processes")]
    Populated { path: PathBuf },
    #[error("control group `{path}` is not frozen yet")]
    NotFrozen { path: PathBuf },
    #[error("`{path}` is not the relative path of a control group")]
    Tree { path: PathBuf },
}

impl CgroupError {
    /// Whether the same call may succeed a little later, with nothing else changed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Populated { .. } | Self::NotFrozen { .. } => true,
            Self::Gone { .. }
            | Self::Io { .. }
            | Self::Limit { .. }
            | Self::MissingField { .. }
            | Self::Tree { .. } => false,
        }
    }

    /// An error at `file` in a group's directory. A missing file means a missing group only if the directory is gone
    /// too; a file kept open says `ENODEV` once its group was removed.
    fn at(action: &'static str, file: &Path, err: io::Error) -> Self {
        let group = file.parent().unwrap_or(file);
        if is_no_device(&err) || (err.kind() == io::ErrorKind::NotFound && !group.exists()) {
            Self::Gone {
                path: group.to_owned(),
            }
        } else {
            Self::Io {
                action,
                path: file.to_owned(),
                err,
            }
        }
    }
}

fn is_no_device(err: &io::Error) -> bool {
    err.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// A group's part of the CPU while others want it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// In proportion to this; a core has the kernel's default.
    Of(MilliCores),
    /// The least the kernel has: for a container whose account is in debt.
    Lowest,
}

/// Whether a container may use in one period what it left of its quota in others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Burst {
    /// What it leaves is lost.
    #[default]
    None,
    /// It may save up to one quota, so for one period it may use twice its cap. Kernels before 5.14 cannot do that.
    Quota,
}

impl Burst {
    /// How much of its cap's time a container may use up at once, as a quota is used at any speed.
    pub fn head_start(self) -> Duration {
        match self {
            Self::None => QUOTA_PERIOD,
            Self::Quota => QUOTA_PERIOD * 2,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerLimits {
    /// The first cap.
    pub cpu: MilliCores,
    pub memory_bytes_max: u64,
    /// Processes and threads. Apptainer needs 24 for itself; below that it fails in odd ways.
    pub pids_max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskLimits {
    pub memory_bytes_max: u64,
    /// Processes and threads.
    pub pids_max: u32,
}

/// CPU time since the group was made, processes that have ended included. `user` and `system` add up to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    pub total: CpuTime,
    pub user: CpuTime,
    pub system: CpuTime,
}

/// What a container used, and what its quota kept from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStat {
    pub usage: CpuUsage,
    /// Quota periods in which something wanted to run.
    pub nr_periods: u64,
    /// Those in which the quota ran out.
    pub nr_throttled: u64,
    /// Time spent waiting for a new period, summed over the CPUs.
    pub throttled_time: Duration,
}

impl CpuStat {
    /// [`Self::throttled_time`], down to the microsecond.
    pub fn throttled(&self) -> CpuTime {
        CpuTime::from_micros(u64::try_from(self.throttled_time.as_micros()).unwrap_or(u64::MAX))
    }
}

/// How often a limit struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitEvents {
    /// Processes killed because memory ran out.
    pub oom_kills: u64,
    /// Forks refused at `pids_max`.
    pub forks_refused: u64,
}

/// The kernel's control groups, as one tree of ours.
#[async_trait]
pub trait CpuController: Send + Sync + 'static {
    /// Errors unless groups can be made and removed. Leaves none.
    async fn check(&self) -> Result<(), CgroupError>;

    /// Makes the container's groups and limits them. Called twice it sets the limits again and the counters go on.
    /// After `Err` a part of them may be there; [`destroy_container`](Self::destroy_container) takes it away.
    fn create_container(
        &self,
        id: ContainerId,
        limits: ContainerLimits,
    ) -> Result<Arc<dyn ContainerGroup>, CgroupError>;

    /// Says that a process will be placed soon, so that its move does not wait for the kernel.
    fn expect_place(&self);

    /// Finds a container's groups again after a restart. Errors with `Gone` unless all of them are there.
    fn open_container(&self, id: ContainerId) -> Result<Arc<dyn ContainerGroup>, CgroupError>;

    /// Every container with at least one group in the tree.
    fn containers(&self) -> Result<BTreeSet<ContainerId>, CgroupError>;

    /// Kills what runs in the container and removes its groups, also where only some of them exist. After `Ok` there
    /// is nothing left; a container that never was is `Ok`. `Populated` if something still lives after `timeout`.
    async fn destroy_container(&self, id: ContainerId, timeout: Duration) -> Result<(), CgroupError>;

    /// Destroys every container that is not `known` and returns their ids. The first failure ends the sweep.
    async fn sweep_orphans(&self, known: &HashSet<ContainerId>) -> Result<Vec<ContainerId>, CgroupError> {
        let orphans: Vec<ContainerId> = self
            .containers()?
            .into_iter()
            .filter(|id| !known.contains(id))
            .collect();
        for id in &orphans {
            self.destroy_container(*id, ORPHAN_TIMEOUT).await?;
        }
        Ok(orphans)
    }
}

/// The groups of one container. Every method errors with `Gone` once they were removed.
#[async_trait]
pub trait ContainerGroup: Send + Sync {
    fn id(&self) -> ContainerId;

    /// The `cgroup.procs` files into each of which the launcher writes `0` before it does anything else.
    fn launcher_procs(&self) -> Vec<PathBuf>;

    /// Caps the container at `cpu` in each period of 20 ms, from now on. Each call gives it a new period's quota, and what
    /// it may save besides. The kernel's least quota is 1 ms a period, so less than 50 millicores act as 50.
    fn set_quota(&self, cpu: MilliCores, burst: Burst) -> Result<(), CgroupError>;

    /// The cap in force.
    fn quota(&self) -> Result<MilliCores, CgroupError>;

    /// Idempotent.
    fn set_weight(&self, weight: Weight) -> Result<(), CgroupError>;

    /// Lets the whole container have so much memory. Errors if what it uses cannot be taken back below that, where the
    /// kernel says so (v1); v2 kills instead.
    fn set_memory_max(&self, bytes_max: u64) -> Result<(), CgroupError>;

    /// What the kernel cannot take back: anonymous memory and files in memory, in bytes.
    fn memory_used(&self) -> Result<u64, CgroupError>;

    /// Makes a task's group. Called twice it sets the limits again and the counter goes on.
    fn create_task(&self, session: SessionId, limits: TaskLimits) -> Result<Arc<dyn TaskGroup>, CgroupError>;

    /// Finds a task's group again. Errors with `Gone` unless it is there in every hierarchy.
    fn open_task(&self, session: SessionId) -> Result<Arc<dyn TaskGroup>, CgroupError>;

    /// The tasks with at least one group.
    fn tasks(&self) -> Result<BTreeSet<SessionId>, CgroupError>;

    /// Of the whole container: launcher, runner and every task, removed ones included.
    fn cpu_stat(&self) -> Result<CpuStat, CgroupError>;

    /// Only the counter of [`cpu_stat`](Self::cpu_stat).
    fn cpu_total(&self) -> Result<CpuTime, CgroupError>;

    /// After `Ok` nothing in the container runs. After `NotFrozen` the kernel goes on trying.
    async fn freeze(&self) -> Result<(), CgroupError>;

    /// After `Ok` everything in the container may run, but for tasks frozen by themselves.
    fn thaw(&self) -> Result<(), CgroupError>;

    /// Kills everything in the container, frozen or not. After `Ok` no process is left; `Populated` if one still
    /// lives after `timeout`.
    async fn kill_all(&self, timeout: Duration) -> Result<(), CgroupError>;

    fn is_empty(&self) -> Result<bool, CgroupError>;

    /// Removes the groups of the container and of its tasks. `Populated` if a process is left. Called twice is `Ok`.
    async fn remove(&self) -> Result<(), CgroupError>;
}

/// The group of one attempt at one task. Every method errors with `Gone` once it was removed.
#[async_trait]
pub trait TaskGroup: Send + Sync {
    fn session(&self) -> SessionId;

    /// Moves a process here; what it forks from now on is born here. What it used before stays where it was.
    /// Errors with `ESRCH` as the source if it has ended.
    fn place(&self, pid: Pid) -> Result<(), CgroupError>;

    /// The meter: exact once the last process has ended, up to 8 ms behind while one runs. v2 reports microseconds;
    /// v1 nanoseconds, of which the last three digits are dropped.
    fn cpu_time(&self) -> Result<CpuTime, CgroupError>;

    /// The meter and its two parts. `total` equals [`cpu_time`](Self::cpu_time); the parts are the kernel's estimate.
    fn cpu_usage(&self) -> Result<CpuUsage, CgroupError>;

    fn events(&self) -> Result<LimitEvents, CgroupError>;

    /// Memory that is charged to the task now, its scratch and page cache included.
    fn memory_bytes(&self) -> Result<u64, CgroupError>;

    /// After `Ok` nothing in the task runs. After `NotFrozen` the kernel goes on trying.
    async fn freeze(&self) -> Result<(), CgroupError>;

    /// After `Ok` everything in the task may run.
    fn thaw(&self) -> Result<(), CgroupError>;

    /// Kills everything in the task, frozen or not. After `Ok` no process is left; `Populated` if one still lives
    /// after `timeout`.
    async fn kill_and_wait_empty(&self, timeout: Duration) -> Result<(), CgroupError>;

    fn populated(&self) -> Result<bool, CgroupError>;

    /// Removes the group, and with it the meter: read it first. `Populated` if a process is left. Called twice is
    /// `Ok`.
    async fn remove(&self) -> Result<(), CgroupError>;
}
