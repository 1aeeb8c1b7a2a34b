//! The kernel's control groups, with each controller where [`Hierarchies`] found it: all on v1, all on v2, or some on
//! either. A group is one relative path, made in every hierarchy in use.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cgroups_rs::fs::cgroup::get_cgroups_relative_paths;
use rustix::process::Pid;
use service_kit::Chain;
use tracing::debug;
use units::{ContainerId, CpuTime, MilliCores, SessionId};

use super::group::{Group, Meter};
use super::hierarchy::{Hierarchies, Home};
use super::reader::{KernelFile, field, number, read_once, write};
use super::{
    Burst, CgroupError, ContainerGroup, ContainerLimits, CpuController, CpuStat, CpuUsage, LimitEvents,
    TaskGroup, TaskLimits, Weight, v1, v2,
};

const RUNNER: &str = "runner";
/// No container's id.
const CHECK: &str = "check";

/// The machine's control groups.
#[derive(Clone, Debug)]
pub struct KernelCpuController {
    tree: Group,
}

impl KernelCpuController {
    /// Makes the tree at `path`, relative to the mount points (`gridfaas`), in all `hierarchies`. A tree that is
    /// there is taken over. Needs root.
    pub fn new(hierarchies: Hierarchies, path: &Path) -> Result<Self, CgroupError> {
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || path.as_os_str().is_empty() {
            return Err(CgroupError::Tree {
                path: path.to_owned(),
            });
        }
        let mut tree = Group::top(hierarchies);
        for part in path {
            tree = tree.child(&part.to_string_lossy());
            tree.create()?;
        }
        tree.delegate()?;
        Ok(Self { tree })
    }

    pub fn hierarchies(&self) -> &Hierarchies {
        &self.tree.hierarchies
    }

    /// Removes the tree itself; `Populated` unless every container was removed before.
    pub async fn remove_tree(&self) -> Result<(), CgroupError> {
        match self.containers() {
            Ok(containers) if !containers.is_empty() => Err(CgroupError::Populated {
                path: self.tree.path.clone(),
            }),
            Ok(_) => self.tree.remove().await,
            Err(CgroupError::Gone { .. }) => Ok(()),
            Err(err) => Err(err),
        }
    }

    fn container(&self, id: ContainerId) -> Group {
        self.tree.child(&id.to_string())
    }
}

#[async_trait]
impl CpuController for KernelCpuController {
    async fn check(&self) -> Result<(), CgroupError> {
        let group = self.tree.child(CHECK);
        group.create()?;
        group.remove().await
    }

    fn create_container(
        &self,
        id: ContainerId,
        limits: ContainerLimits,
    ) -> Result<Arc<dyn ContainerGroup>, CgroupError> {
        let group = self.container(id);
        group.create()?;
        group.delegate()?;
        group.child(RUNNER).create()?;
        group.set_period()?;
        group.set_quota(limits.cpu, Burst::None)?;
        group.set_memory_max(limits.memory_bytes_max)?;
        group.set_pids_max(limits.pids_max)?;
        Ok(Arc::new(KernelContainer::open(id, group)?))
    }

    fn expect_place(&self) {
        let home = self.tree.hierarchies.pids.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(err) = move_to_where_it_is(&home) {
                debug!(error = %Chain(&err), "the next process is placed a little later");
            }
        });
    }

    fn open_container(&self, id: ContainerId) -> Result<Arc<dyn ContainerGroup>, CgroupError> {
        let group = self.container(id);
        group.child(RUNNER).check_complete()?;
        Ok(Arc::new(KernelContainer::open(id, group)?))
    }

    fn containers(&self) -> Result<BTreeSet<ContainerId>, CgroupError> {
        self.tree.children()
    }

    async fn destroy_container(&self, id: ContainerId, timeout: Duration) -> Result<(), CgroupError> {
        let group = self.container(id);
        group.kill(timeout).await?;
        group.remove().await
    }
}

/// Moves this process to the group it is in. Whoever moves one takes the kernel's `cgroup_threadgroup_rwsem`, which waits for
/// an RCU grace period if that was not taken lately: 5 to 17 ms, measured on Linux 6.18, and 0.2 ms in the 20 ms after.
fn move_to_where_it_is(home: &Home) -> Result<(), CgroupError> {
    let groups = get_cgroups_relative_paths().map_err(|err| CgroupError::Io {
        action: "read",
        path: "/proc/self/cgroup".into(),
        err: io::Error::other(err),
    })?;
    match procs_among(&groups, home) {
        Some(procs) => write(&procs, &std::process::id().to_string()),
        None => Ok(()),
    }
}

/// The file of a process's group in the hierarchy that pids are limited in, of the groups in its `/proc/PID/cgroup`.
fn procs_among(groups: &HashMap<String, String>, home: &Home) -> Option<PathBuf> {
    // v2 goes without a name there.
    let group = groups.get(if home.is_v2() { "" } else { "pids" })?;
    let folder = home.mount_point().join(group.trim_start_matches('/'));
    Some(folder.join("cgroup.procs"))
}

struct KernelContainer {
    id: ContainerId,
    group: Group,
    meter: Meter,
    /// `cpu.stat` in the hierarchy of the quota.
    throttling: KernelFile,
}

impl KernelContainer {
    fn open(id: ContainerId, group: Group) -> Result<Self, CgroupError> {
        Ok(Self {
            id,
            meter: group.meter()?,
            throttling: KernelFile::open(group.cpu_dir().join("cpu.stat"))?,
            group,
        })
    }
}

#[async_trait]
impl ContainerGroup for KernelContainer {
    fn id(&self) -> ContainerId {
        self.id
    }

    fn launcher_procs(&self) -> Vec<PathBuf> {
        self.group.child(RUNNER).procs_files().collect()
    }

    fn set_quota(&self, cpu: MilliCores, burst: Burst) -> Result<(), CgroupError> {
        self.group.set_quota(cpu, burst)
    }

    fn quota(&self) -> Result<MilliCores, CgroupError> {
        self.group.quota()
    }

    fn set_weight(&self, weight: Weight) -> Result<(), CgroupError> {
        self.group.set_weight(weight)
    }

    fn set_memory_max(&self, bytes_max: u64) -> Result<(), CgroupError> {
        self.group.set_memory_max(bytes_max)
    }

    fn memory_used(&self) -> Result<u64, CgroupError> {
        let memory = &self.group.hierarchies.memory;
        // Of the whole subtree, which v1 says by another name.
        let keys = if memory.is_v2() {
            ["anon", "shmem"]
        } else {
            ["total_rss", "total_shmem"]
        };
        read_once(&self.group.dir(memory).join("memory.stat"), |text| {
            keys.into_iter().map(|key| field(text, key)).sum()
        })
    }

    fn create_task(&self, session: SessionId, limits: TaskLimits) -> Result<Arc<dyn TaskGroup>, CgroupError> {
        let group = self.group.child(&session.to_string());
        group.create()?;
        group.set_memory_max(limits.memory_bytes_max)?;
        group.set_pids_max(limits.pids_max)?;
        Ok(Arc::new(KernelTask {
            session,
            meter: group.meter()?,
            group,
        }))
    }

    fn open_task(&self, session: SessionId) -> Result<Arc<dyn TaskGroup>, CgroupError> {
        let group = self.group.child(&session.to_string());
        group.check_complete()?;
        Ok(Arc::new(KernelTask {
            session,
            meter: group.meter()?,
            group,
        }))
    }

    fn tasks(&self) -> Result<BTreeSet<SessionId>, CgroupError> {
        self.group.children()
    }

    fn cpu_stat(&self) -> Result<CpuStat, CgroupError> {
        let throttled_time = if self.group.hierarchies.cpu.is_v2() {
            v2::throttled_time
        } else {
            v1::throttled_time
        };
        let usage = self.meter.usage()?;
        self.throttling.read(|text| {
            Ok(CpuStat {
                usage,
                nr_periods: field(text, "nr_periods")?,
                nr_throttled: field(text, "nr_throttled")?,
                throttled_time: throttled_time(text)?,
            })
        })
    }

    fn cpu_total(&self) -> Result<CpuTime, CgroupError> {
        self.meter.total()
    }

    async fn freeze(&self) -> Result<(), CgroupError> {
        self.group.freeze().await
    }

    fn thaw(&self) -> Result<(), CgroupError> {
        self.group.thaw()
    }

    async fn kill_all(&self, timeout: Duration) -> Result<(), CgroupError> {
        self.group.check_complete()?;
        self.group.kill(timeout).await
    }

    fn is_empty(&self) -> Result<bool, CgroupError> {
        self.group.check_complete()?;
        Ok(!self.group.is_populated()?)
    }

    async fn remove(&self) -> Result<(), CgroupError> {
        self.group.remove().await
    }
}

struct KernelTask {
    session: SessionId,
    group: Group,
    meter: Meter,
}

#[async_trait]
impl TaskGroup for KernelTask {
    fn session(&self) -> SessionId {
        self.session
    }

    fn place(&self, pid: Pid) -> Result<(), CgroupError> {
        let pid = pid.as_raw_nonzero().to_string();
        self.group.procs_files().try_for_each(|file| write(&file, &pid))
    }

    fn cpu_time(&self) -> Result<CpuTime, CgroupError> {
        self.meter.total()
    }

    fn cpu_usage(&self) -> Result<CpuUsage, CgroupError> {
        self.meter.usage()
    }

    fn events(&self) -> Result<LimitEvents, CgroupError> {
        let Hierarchies { memory, pids, .. } = &*self.group.hierarchies;
        let oom_kills = if memory.is_v2() {
            v2::oom_kills
        } else {
            v1::oom_kills
        };
        let pids_events = self.group.dir(pids).join("pids.events");
        Ok(LimitEvents {
            oom_kills: oom_kills(&self.group.dir(memory))?,
            forks_refused: read_once(&pids_events, |text| field(text, "max"))?,
        })
    }

    fn memory_bytes(&self) -> Result<u64, CgroupError> {
        let memory = &self.group.hierarchies.memory;
        let file = if memory.is_v2() {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        };
        read_once(&self.group.dir(memory).join(file), |text| number(text, "memory"))
    }

    async fn freeze(&self) -> Result<(), CgroupError> {
        self.group.freeze().await
    }

    fn thaw(&self) -> Result<(), CgroupError> {
        self.group.thaw()
    }

    async fn kill_and_wait_empty(&self, timeout: Duration) -> Result<(), CgroupError> {
        self.group.check_complete()?;
        self.group.kill(timeout).await
    }

    fn populated(&self) -> Result<bool, CgroupError> {
        self.group.check_complete()?;
        self.group.is_populated()
    }

    async fn remove(&self) -> Result<(), CgroupError> {
        self.group.remove().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_process_is_found_in_either_version() {
        let groups = [("pids", "/a/b"), ("cpu", "/c"), ("", "/d.service")];
        let groups = groups.map(|(name, path)| (name.to_owned(), path.to_owned()));
        let procs = |home| procs_among(&HashMap::from(groups.clone()), &home);
        assert_eq!(
            procs(Home::V1("/v1/pids".into())),
            Some("/v1/pids/a/b/cgroup.procs".into())
        );
        assert_eq!(
            procs(Home::V2("/v2".into())),
            Some("/v2/d.service/cgroup.procs".into())
        );
        assert_eq!(procs_among(&HashMap::new(), &Home::V2("/v2".into())), None);
    }
}
