//! Freezing, killing and removing a group with all below it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, sleep};

use super::group::Group;
use super::hierarchy::Home;
use super::reader::subtree;
use super::{CgroupError, v1, v2};

/// The kernel acts within a few milliseconds; looking more often than this only takes CPU from those who have to end.
const POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(5));
/// Beyond this something sits in an uninterruptible sleep.
const FREEZE_TIMEOUT: Duration = Duration::from_millis(500);
/// A round of killing is repeated if somebody is left by then.
const KILL_PATIENCE: Duration = Duration::from_millis(50);
/// The last process leaves its groups a moment after it was seen ending.
const REMOVE_TIMEOUT: Duration = Duration::from_millis(250);

impl Group {
    pub(super) async fn freeze(&self) -> Result<(), CgroupError> {
        let home = &self.hierarchies.freezer;
        let dir = self.dir(home);
        let frozen = if home.is_v2() {
            v2::freeze(&dir)?;
            holds_within(FREEZE_TIMEOUT, || v2::is_frozen(&dir)).await?
        } else {
            v1::freeze(&dir)?;
            holds_within(FREEZE_TIMEOUT, || v1::is_frozen(&dir)).await?
        };
        if frozen {
            Ok(())
        } else {
            Err(CgroupError::NotFrozen { path: dir })
        }
    }

    pub(super) fn thaw(&self) -> Result<(), CgroupError> {
        let home = &self.hierarchies.freezer;
        if home.is_v2() {
            v2::thaw(&self.dir(home))
        } else {
            v1::thaw(&self.dir(home))
        }
    }

    /// Kills until nobody is left. What is not there counts as dead.
    pub(super) async fn kill(&self, timeout: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.kill_once().await {
                Ok(()) | Err(CgroupError::Gone { .. }) => {}
                Err(err) => return Err(err),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = left.min(KILL_PATIENCE);
            if holds_within(patience, || self.is_populated().map(|populated| !populated)).await? {
                return Ok(());
            }
            if left.is_zero() {
                return Err(CgroupError::Populated {
                    path: self.dir(&self.hierarchies.freezer),
                });
            }
            self.kill_strays()?;
        }
    }

    async fn kill_once(&self) -> Result<(), CgroupError> {
        let home = &self.hierarchies.freezer;
        let dir = self.dir(home);
        if home.is_v2() {
            return v2::kill(&dir);
        }
        // Frozen, a fork bomb stands still and is hit whole. If it will not freeze in time, some of it is hit, and
        // the next round has less to do.
        match self.freeze().await {
            Ok(()) | Err(CgroupError::NotFrozen { .. }) => {}
            Err(err) => return Err(err),
        }
        let killed = v1::kill_frozen(&dir);
        v1::thaw_subtree(&dir)?;
        killed
    }

    /// Kills what is in our group of another hierarchy but not in the freezer's: a launcher that was cut off while it
    /// wrote itself into one `cgroup.procs` after the other.
    fn kill_strays(&self) -> Result<(), CgroupError> {
        for home in self.hierarchies.homes().into_iter().filter(|home| !home.is_v2()) {
            let dir = self.dir(home);
            let held: Vec<_> = v1::pids(&dir)?
                .into_iter()
                .filter_map(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?)))
                .collect();
            // Nothing is frozen here, so a number may have passed to a stranger before it was held. Whoever still is
            // in our group now is ours.
            let still_here: BTreeSet<_> = v1::pids(&dir)?.into_iter().map(Pid::as_raw_nonzero).collect();
            for (_, pidfd) in held
                .iter()
                .filter(|(pid, _)| still_here.contains(&pid.as_raw_nonzero()))
            {
                match pidfd_send_signal(pidfd, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(err) => {
                        return Err(CgroupError::Io {
                            action: "kill a process of",
                            path: dir,
                            err: err.into(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether anybody is in the group or below it, in any hierarchy. Nobody is in a group that is gone.
    pub(super) fn is_populated(&self) -> Result<bool, CgroupError> {
        for home in self.hierarchies.homes() {
            let dir = self.dir(home);
            let populated = match home {
                Home::V1(_) => !v1::pids(&dir)?.is_empty(),
                Home::V2(_) => match v2::is_populated(&dir) {
                    Err(CgroupError::Gone { .. }) => false,
                    other => other?,
                },
            };
            if populated {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the group and all below it in every hierarchy.
    pub(super) async fn remove(&self) -> Result<(), CgroupError> {
        for dir in self.dirs() {
            for group in subtree(&dir)?.into_iter().rev() {
                if !holds_within(REMOVE_TIMEOUT, || remove_dir(&group)).await? {
                    return Err(CgroupError::Populated { path: group });
                }
            }
        }
        Ok(())
    }
}

/// `false` while the kernel says that the group is busy.
fn remove_dir(dir: &Path) -> Result<bool, CgroupError> {
    match fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::ResourceBusy => Ok(false),
        Err(err) => Err(CgroupError::Io {
            action: "remove control group",
            path: dir.to_owned(),
            err,
        }),
    }
}

/// Asks until `condition` holds; `false` if it still does not after `timeout`. Asks at least once.
async fn holds_within(
    timeout: Duration,
    mut condition: impl FnMut() -> Result<bool, CgroupError>,
) -> Result<bool, CgroupError> {
    let deadline = Instant::now() + timeout;
    let (mut pause, pause_max) = POLL;
    loop {
        if condition()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(pause).await;
        pause = (pause * 2).min(pause_max);
    }
}
