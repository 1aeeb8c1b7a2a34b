//! One group: a relative path, made in every hierarchy in use.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use units::CpuTime;

use super::hierarchy::{Hierarchies, Home};
use super::{CgroupError, CpuUsage, v1, v2};

/// The billed counter, in whichever form the machine has it.
pub(super) enum Meter {
    V1(v1::Meter),
    V2(v2::Meter),
}

impl Meter {
    pub(super) fn total(&self) -> Result<CpuTime, CgroupError> {
        match self {
            Self::V1(meter) => meter.total(),
            Self::V2(meter) => meter.total(),
        }
    }

    pub(super) fn usage(&self) -> Result<CpuUsage, CgroupError> {
        match self {
            Self::V1(meter) => meter.usage(),
            Self::V2(meter) => meter.usage(),
        }
    }
}

/// One path below the mount point of every hierarchy in use.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) hierarchies: Arc<Hierarchies>,
    pub(super) path: PathBuf,
}

impl Group {
    /// The mount points themselves.
    pub(super) fn top(hierarchies: Hierarchies) -> Self {
        Self {
            hierarchies: Arc::new(hierarchies),
            path: PathBuf::new(),
        }
    }

    pub(super) fn child(&self, name: &str) -> Self {
        Self {
            hierarchies: Arc::clone(&self.hierarchies),
            path: self.path.join(name),
        }
    }

    pub(super) fn dir(&self, home: &Home) -> PathBuf {
        home.mount_point().join(&self.path)
    }

    pub(super) fn cpu_dir(&self) -> PathBuf {
        self.dir(&self.hierarchies.cpu)
    }

    pub(super) fn dirs(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.homes().into_iter().map(|home| self.dir(home))
    }

    pub(super) fn procs_files(&self) -> impl Iterator<Item = PathBuf> {
        self.dirs().map(|dir| dir.join("cgroup.procs"))
    }

    /// Not with cgroups-rs: it would make missing parents as well, and so bring a removed container back to life
    /// without its limits.
    pub(super) fn create(&self) -> Result<(), CgroupError> {
        for dir in self.dirs() {
            match fs::create_dir(&dir) {
                Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(CgroupError::at("make control group", &dir, err));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn check_complete(&self) -> Result<(), CgroupError> {
        match self.dirs().find(|dir| !dir.is_dir()) {
            Some(path) => Err(CgroupError::Gone { path }),
            None => Ok(()),
        }
    }

    /// Lets the children have the controllers that sit on v2. On v1 they have all from the start.
    pub(super) fn delegate(&self) -> Result<(), CgroupError> {
        let Hierarchies {
            cpu, memory, pids, ..
        } = &*self.hierarchies;
        let (names, mount_points): (Vec<_>, Vec<_>) = [("cpu", cpu), ("memory", memory), ("pids", pids)]
            .into_iter()
            .filter(|(_, home)| home.is_v2())
            .map(|(name, home)| (name, home.mount_point()))
            .unzip();
        match mount_points.first() {
            Some(unified) => v2::enable(unified, &self.path, &names),
            None => Ok(()),
        }
    }

    /// The ids of the groups right below, with a part of them in at least one hierarchy. Other names are not ours.
    pub(super) fn children<Id: FromStr + Ord>(&self) -> Result<BTreeSet<Id>, CgroupError> {
        self.check_complete()?;
        let mut ids = BTreeSet::new();
        for dir in self.dirs() {
            let entries = fs::read_dir(&dir).map_err(|err| CgroupError::Io {
                action: "list",
                path: dir.clone(),
                err,
            })?;
            ids.extend(
                entries
                    .flatten()
                    .filter_map(|entry| entry.file_name().to_str()?.parse().ok()),
            );
        }
        Ok(ids)
    }

    pub(super) fn meter(&self) -> Result<Meter, CgroupError> {
        let home = &self.hierarchies.meter;
        match home {
            Home::V1(_) => v1::Meter::open(&self.dir(home)).map(Meter::V1),
            Home::V2(_) => v2::Meter::open(&self.dir(home)).map(Meter::V2),
        }
    }
}
