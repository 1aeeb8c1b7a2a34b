//! What every part of the service shares.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use receipt::SigningKey;
use service_kit::{Clock, telemetry};
use units::{ContainerId, SessionId};

use crate::cgroup::CpuController;
use crate::config::Config;
use crate::container::ContainerRuntime;
use crate::credit::Credit;
use crate::freezer::FrozenMemory;
use crate::function::FunctionSettings;
use crate::image::Images;
use crate::journal::Journal;
use crate::memory::NodeMemory;
use crate::meter::Meter;
use crate::problem::Problems;
use crate::recorder::Recorder;
use crate::reservation::Reservations;
use crate::scaler::Wishes;
use crate::settings::{Settable, Settings};
use crate::spare::Spares;
use crate::spool::Spool;
use crate::store::ObjectStore;
use crate::warm::Uids;

/// A listing takes about half a millisecond of CPU time on either side.
const IDLE_LOOKS_PER_SECOND: u32 = 5;

pub struct Node {
    pub config: Config,
    pub store: Arc<dyn ObjectStore>,
    pub credit: Arc<dyn Credit>,
    pub cgroups: Arc<dyn CpuController>,
    pub runtime: Arc<dyn ContainerRuntime>,
    pub clock: Arc<dyn Clock>,
    pub journal: Journal,
    pub images: Images,
    pub meter: Arc<Meter>,
    pub uids: Uids,
    /// Signs the receipts of what ran here.
    pub signing_key: SigningKey,
    pub frozen: FrozenMemory,
    /// What containers may take together.
    pub memory: NodeMemory,
    /// What was promised before anything starts on it.
    pub reservations: Arc<Reservations>,
    /// Containers that are kept ready.
    pub spares: Spares,
    pub recorder: Recorder,
    pub problems: Problems,
    /// What an operator may change while the node runs.
    pub settings: Settings,
    /// How many functions this node serves.
    pub served: AtomicU32,
}

impl Node {
    /// How often is looked into the bucket of a function that has nothing to do: ever less often the more of them there are,
    /// so that all of them together cost the same.
    pub fn poll_idle(&self) -> Duration {
        let served = self.served.load(Ordering::Relaxed);
        self.config
            .poll_idle()
            .max(Duration::from_secs(1) * served / IDLE_LOOKS_PER_SECOND)
    }

    pub fn containers_root(&self) -> PathBuf {
        self.config.state_dir.join("containers")
    }

    pub fn container_folder(&self, id: ContainerId) -> PathBuf {
        self.containers_root().join(id.to_string())
    }

    pub fn staging_root(&self) -> PathBuf {
        self.config.state_dir.join("staging")
    }

    /// Inputs that are read ahead. Nothing in it outlives the manager.
    pub fn ahead_root(&self) -> PathBuf {
        self.config.state_dir.join("ahead")
    }

    /// The files of one attempt.
    pub fn spool(&self, session: SessionId) -> Spool {
        Spool::new(self.config.state_dir.join("attempts").join(session.to_string()))
    }

    /// Goes on by these settings.
    pub fn apply(&self, settable: Settable) {
        telemetry::set_filter(settable.log);
        self.meter.rescale(settable.scaler);
    }

    /// What a function asks for its container, bounded by what the node has.
    pub fn wishes(&self, settings: &FunctionSettings) -> Wishes {
        let capacity = self.meter.capacity();
        let max = settings.cpu_max().map_or(capacity, |max| max.min(capacity));
        Wishes {
            min: settings.cpu_min().min(max),
            max,
            policy: settings.policy,
            boundary: settings.boundary(),
        }
    }
}
