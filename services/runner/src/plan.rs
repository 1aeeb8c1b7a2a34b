//! The launcher's orders: its only argument, as JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What to do, in this order, before becoming `command`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPlan {
    /// `cgroup.procs` files the launcher writes itself into, so that no CPU time of the container is counted elsewhere.
    pub cgroup_procs: Vec<PathBuf>,
    pub work: WorkTmpfs,
    /// Program (an absolute path) and arguments. It gets an empty environment.
    pub command: Vec<String>,
}

/// The writable part of a container, mounted in a mount namespace that dies with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkTmpfs {
    /// An existing folder to mount it on.
    pub path: PathBuf,
    pub bytes_max: u64,
    pub inodes_max: u64,
    /// Folders to make in it, writable by `uid` (also the group id) alone.
    pub folders: Vec<String>,
    pub uid: u32,
}
