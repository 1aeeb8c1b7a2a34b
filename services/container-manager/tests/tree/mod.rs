//! A tree of control groups of the real kernel, for the tests that need one.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "each test program uses its part"
)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use container_manager::cgroup::hierarchy::Hierarchies;
use container_manager::cgroup::{ContainerGroup, ContainerLimits, CpuController, KernelCpuController};
use units::ContainerId;

/// Our own tree in the kernel's hierarchies. Taken away again when the test ends, in whichever way.
pub struct Tree {
    pub path: PathBuf,
    pub controller: KernelCpuController,
}

impl Tree {
    pub fn new(hierarchies: Hierarchies) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("gridfaas-test-{}-{number}", std::process::id()));
        let controller = KernelCpuController::new(hierarchies, &path).expect("the tree can be made");
        Self { path, controller }
    }

    /// A container of its own, which tests make with limits of theirs.
    pub fn create_container(&self, limits: ContainerLimits) -> Arc<dyn ContainerGroup> {
        self.controller
            .create_container(ContainerId::new(), limits)
            .expect("a container can be made")
    }

    /// The directories of a path below the tree.
    pub fn dirs(&self, below: impl AsRef<Path>) -> Vec<PathBuf> {
        let homes = self.controller.hierarchies().homes();
        homes
            .into_iter()
            .map(|home| home.mount_point().join(&self.path).join(&below))
            .collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let controller = self.controller.clone();
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                controller.sweep_orphans(&HashSet::new()).await?;
                controller.remove_tree().await
            })
        })
        .join();
        if !std::thread::panicking() {
            cleaned
                .expect("the sweep does not panic")
                .expect("the tree can be removed");
        }
    }
}
