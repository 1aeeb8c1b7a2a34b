//! CONTAINER: one function's container on this node, started on demand and kept warm between tasks.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use service_kit::Chain;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use units::{ContainerId, FunctionName, MilliCores, Timestamp, UserName};

use crate::cgroup::{CgroupError, ContainerGroup, ContainerLimits};
use crate::container::{Container, ContainerError, ContainerSpec, Inbox};
use crate::function::FunctionSettings;
use crate::image::{self, Image, ImageError};
use crate::memory::{MemoryLease, NoMemory, PlaceInLine};
use crate::meter::ContainerInfo;
use crate::node::Node;
use crate::scaler::Wishes;
use crate::spare::Recipe;
use crate::staging::{self, StagingError};
use crate::utils::ImageObject;

/// What the launcher and the runner need beside the tasks; measured floors are 24 processes and 16 MiB.
const OWN_PIDS: u32 = 64;
const OWN_MEMORY_MIB: u64 = 256;
/// How often a container is told that its manager lives, in the time after which it would end by itself.
const REASSURANCES: u32 = 8;
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Staging(#[from] StagingError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Memory(#[from] NoMemory),
    #[error("failed to write `{path}`")]
    Disk {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

/// What a container was made with. Kept in its folder, so that the next manager can adopt it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub function: FunctionName,
    pub user: UserName,
    pub image_digest: String,
    pub staging: Option<PathBuf>,
    pub started_at: Timestamp,
    uid: u32,
    concurrency: u32,
    cpu: Wishes,
    memory_mib: u64,
}

/// A running container, whoever it is for.
pub struct Launched {
    group: Arc<dyn ContainerGroup>,
    handle: Arc<dyn Container>,
    /// Keeps the container from ending by itself.
    _reassurance: AbortOnDropHandle<()>,
    /// Held for as long as anything may run under it.
    uid: UidLease,
    memory: Arc<MemoryLease>,
    _image: image::Lease,
}

/// A function's container.
pub struct WarmContainer {
    launched: Launched,
    record: Record,
}

impl Launched {
    /// Starts a container; it answers when this returns. It may use `cpu`; `made` is called before anything of it runs.
    pub async fn start(
        node: &Node,
        recipe: &Recipe,
        memory: Arc<MemoryLease>,
        cpu: MilliCores,
        made: impl FnOnce(&Arc<dyn ContainerGroup>, u32) -> Result<(), WarmError>,
    ) -> Result<Self, WarmError> {
        let (id, uid) = (ContainerId::new(), node.uids.lease());
        let limits = ContainerLimits {
            cpu,
            memory_bytes_max: recipe.memory_mib.saturating_mul(1 << 20),
            pids_max: recipe.pids_max,
        };
        let started = async {
            let group = node.cgroups.create_container(id, limits)?;
            made(&group, uid.uid)?;
            let spec = ContainerSpec {
                id,
                folder: node.container_folder(id),
                image: recipe.image.clone(),
                staging: recipe.staging.clone(),
                uid: uid.uid,
                orphan: node.config.orphan(),
                work_bytes_max: recipe.work_bytes_max,
                launcher_procs: group.launcher_procs(),
            };
            Ok::<_, WarmError>((node.runtime.start(spec).await?, group))
        };
        match started.await {
            Ok((handle, group)) => {
                memory.commit();
                let image = node.images.lease(&recipe.image_digest);
                Ok(Self::new(node, group, handle, uid, memory, image))
            }
            Err(err) => {
                destroy(node, id).await;
                node.meter.remove_container(id);
                Err(err)
            }
        }
    }

    fn new(
        node: &Node,
        group: Arc<dyn ContainerGroup>,
        handle: Arc<dyn Container>,
        uid: UidLease,
        memory: Arc<MemoryLease>,
        image: image::Lease,
    ) -> Self {
        let (reassured, meter, id) = (handle.clone(), node.meter.clone(), group.id());
        let mut timer = tokio::time::interval(node.config.orphan() / REASSURANCES);
        let reassurance = tokio::spawn(async move {
            loop {
                timer.tick().await;
                if meter.may_outlive_us(id) {
                    reassured.reassure().await;
                }
            }
        });
        Self {
            _reassurance: AbortOnDropHandle::new(reassurance),
            group,
            handle,
            uid,
            memory,
            _image: image,
        }
    }

    pub fn id(&self) -> ContainerId {
        self.group.id()
    }

    pub fn is_alive(&self) -> bool {
        self.handle.is_alive()
    }

    /// Stops the container and takes away all that belonged to it.
    pub async fn stop(&self, node: &Node) {
        if let Err(err) = self.handle.kill() {
            warn!(container_id = %self.id(), error = %err, "launcher not killed, its cgroup is");
        }
        if let Err(err) = self.group.kill_all(STOP_TIMEOUT).await {
            warn!(container_id = %self.id(), error = %Chain(&err), "container not emptied");
        }
        // Its share of the node is free only now.
        node.meter.remove_container(self.id());
        destroy(node, self.id()).await;
    }
}

impl WarmContainer {
    /// Starts a container, or takes one that is ready; it answers when this returns. If there is no memory for it, it has a
    /// `place` in line for some.
    pub async fn start(
        node: &Node,
        function: &FunctionName,
        user: &UserName,
        settings: &FunctionSettings,
        object: &ImageObject,
        place: &mut Option<PlaceInLine>,
    ) -> Result<Arc<Self>, WarmError> {
        let (store, bucket) = (node.store.as_ref(), function.as_str());
        let image = node.images.prepare(store, bucket, object).await?;
        let staging =
            staging::prepare(store, bucket, &node.staging_root(), node.config.fetch_bytes_max()).await?;
        let recipe = recipe(settings, &image, staging);
        let record = |uid| Record {
            function: function.clone(),
            user: user.clone(),
            image_digest: recipe.image_digest.clone(),
            staging: recipe.staging.clone(),
            started_at: node.clock.now(),
            uid,
            concurrency: settings.concurrency,
            cpu: node.wishes(settings),
            memory_mib: recipe.memory_mib,
        };
        let launch_at = Instant::now();
        let container = if let Some(launched) = node.spares.take(&recipe) {
            launched.memory.pass_on(user);
            let record = record(launched.uid.uid);
            let container = Self { launched, record };
            if let Err(err) = container.join(node) {
                container.launched.stop(node).await;
                return Err(err);
            }
            container
        } else {
            // Not before the image is here: who waits for a slow download is to keep nobody waiting for memory.
            let memory = Arc::new(set_memory_aside(node, user, recipe.memory_mib, place).await?);
            let mut recorded = None;
            // The cap is nothing until the meter has made room for it.
            let launched = Launched::start(node, &recipe, memory.clone(), MilliCores::ZERO, |group, uid| {
                let record = record(uid);
                record.write(&node.container_folder(group.id()))?;
                node.meter.add_container(record.info(), group.clone(), record.cpu);
                node.meter.lend_memory(group.id(), memory);
                recorded = Some(record);
                Ok(())
            });
            let launched = launched.await?;
            let record = recorded.expect("a container that runs was recorded");
            Self { launched, record }
        };
        let usable_us = u64::try_from(launch_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        info!(
            container_id = %container.id(), %function, %user, image = recipe.image_digest, usable_us, "container started"
        );
        node.spares.used(recipe, user);
        Ok(Arc::new(container))
    }

    /// Has the meter take charge of a container that runs already, and is this function's from now on.
    fn join(&self, node: &Node) -> Result<(), WarmError> {
        self.record.write(&node.container_folder(self.id()))?;
        let (info, group) = (self.record.info(), self.launched.group.clone());
        node.meter.adopt_container(info, group, self.record.cpu)?;
        node.meter.lend_memory(self.id(), self.launched.memory.clone());
        Ok(())
    }

    /// Takes over a container of an earlier manager; `None` if it does not run any more.
    pub async fn adopt(node: &Node, id: ContainerId) -> Result<Option<Arc<Self>>, WarmError> {
        let folder = node.container_folder(id);
        let (Ok(record), Some(handle)) = (Record::read(&folder), node.runtime.adopt(id, &folder).await?)
        else {
            return Ok(None);
        };
        let Some(uid) = node.uids.retake(record.uid) else {
            return Ok(None);
        };
        let group = node.cgroups.open_container(id)?;
        info!(container_id = %id, function = %record.function, "container adopted");
        node.meter
            .adopt_container(record.info(), group.clone(), record.cpu)?;
        // It may have sunk below what is set aside for it again.
        group.set_memory_max(record.memory_mib.saturating_mul(1 << 20))?;
        let memory = Arc::new(node.memory.adopt(&record.user, record.memory_mib));
        node.meter.lend_memory(id, memory.clone());
        let image = node.images.lease(&record.image_digest);
        let launched = Launched::new(node, group, handle, uid, memory, image);
        Ok(Some(Arc::new(Self { launched, record })))
    }

    pub fn id(&self) -> ContainerId {
        self.launched.id()
    }

    pub fn group(&self) -> &dyn ContainerGroup {
        self.launched.group.as_ref()
    }

    pub fn handle(&self) -> &dyn Container {
        self.launched.handle.as_ref()
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    pub fn cpu_max(&self) -> MilliCores {
        self.record.cpu.max
    }

    pub fn memory(&self) -> &MemoryLease {
        &self.launched.memory
    }

    /// Tasks that run at once.
    pub fn concurrency(&self) -> u32 {
        self.record.concurrency
    }

    pub fn is_alive(&self) -> bool {
        self.launched.is_alive()
    }

    /// Empties a slot's inbox for its next task.
    pub fn clear_inbox(&self, slot: u32) -> io::Result<Inbox> {
        self.launched.handle.clear_inbox(slot)
    }

    /// Stops the container and takes away all that belonged to it.
    pub async fn stop(&self, node: &Node, why: &str) {
        info!(container_id = %self.id(), why, "container stopped");
        self.launched.stop(node).await;
    }
}

impl Record {
    fn info(&self) -> ContainerInfo {
        ContainerInfo {
            function: self.function.clone(),
            user: self.user.clone(),
            image_digest: self.image_digest.clone(),
            started_at: self.started_at,
        }
    }

    const FILE: &str = "container.json";

    fn write(&self, folder: &Path) -> Result<(), WarmError> {
        let path = folder.join(Self::FILE);
        let disk = |err| WarmError::Disk {
            path: path.clone(),
            err,
        };
        std::fs::create_dir_all(folder).map_err(disk)?;
        let text = serde_json::to_vec(self).map_err(|err| disk(err.into()))?;
        std::fs::write(&path, text).map_err(disk)
    }

    fn read(folder: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(folder.join(Self::FILE))?)?)
    }
}

/// Memory that was promised to the user, or else what is free.
async fn set_memory_aside(
    node: &Node,
    user: &UserName,
    mib: u64,
    place: &mut Option<PlaceInLine>,
) -> Result<MemoryLease, NoMemory> {
    if let Some(lease) = node.memory.take_promised(user, mib) {
        *place = None;
        node.keep_reservations().await;
        return Ok(lease);
    }
    if node.memory.free_mib() < mib {
        node.spares.stop_oldest(node, 0).await;
    }
    node.memory.reserve(user, mib, place)
}

fn recipe(settings: &FunctionSettings, image: &Image, staging: Option<PathBuf>) -> Recipe {
    let concurrency = settings.concurrency;
    let of_tasks = settings.memory_mib.saturating_mul(u64::from(concurrency));
    Recipe {
        image: image.folder.clone(),
        image_digest: image.digest.clone(),
        staging,
        memory_mib: of_tasks.saturating_add(OWN_MEMORY_MIB),
        pids_max: settings.pids.saturating_mul(concurrency).saturating_add(OWN_PIDS),
        work_bytes_max: settings.scratch_mib.saturating_mul(1 << 20),
    }
}

/// Kills what is left of a container and removes its groups and its folder.
pub async fn destroy(node: &Node, id: ContainerId) {
    if let Err(err) = node.cgroups.destroy_container(id, STOP_TIMEOUT).await {
        warn!(container_id = %id, error = %Chain(&err), "a container's cgroups stay until the next start");
    }
    match std::fs::remove_dir_all(node.container_folder(id)) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            warn!(container_id = %id, error = %err, "a container's folder stays until the next start");
        }
        _ => {}
    }
}

/// User ids for containers: no two that live share one, so that no container can signal or read another.
#[derive(Debug)]
pub struct Uids {
    first: u32,
    taken: Arc<Mutex<HashSet<u32>>>,
}

#[derive(Debug)]
struct UidLease {
    uid: u32,
    taken: Arc<Mutex<HashSet<u32>>>,
}

impl Uids {
    pub fn new(first: u32) -> Self {
        Self {
            first,
            taken: Arc::default(),
        }
    }

    fn lease(&self) -> UidLease {
        (self.first..)
            .find_map(|uid| self.retake(uid))
            .expect("fewer containers than user ids")
    }

    /// The lease of a given id; `None` if a live container has it.
    fn retake(&self, uid: u32) -> Option<UidLease> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(uid).then(|| UidLease {
            uid,
            taken: self.taken.clone(),
        })
    }
}

impl Drop for UidLease {
    fn drop(&mut self) {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_live_containers_share_a_user_id() {
        let uids = Uids::new(7000);
        let (first, second) = (uids.lease(), uids.lease());
        assert_eq!((first.uid, second.uid), (7000, 7001));
        drop(first);
        assert_eq!(uids.lease().uid, 7000);
    }
}
