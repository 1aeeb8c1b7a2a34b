//! Whether this node can do its work: each thing that it needs is tried, now.
//!
//! Anybody may ask, so an answer holds for a moment, questions wait for the one that is under way, and what is told is the
//! name of what is broken. The cause is in the log.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use access::TokenHash;
use anyhow::{Context as _, bail, ensure};
use futures::future::{BoxFuture, join_all};
use rustix::fs::{StatVfsMountFlags, statvfs};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use crate::node::Node;

/// How long an answer holds.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// What does not answer by then is broken.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// The first Linux with `openat2`, by which results leave a container.
const KERNEL_MIN: (u32, u32) = (5, 6);
/// An image unpacked, and the results of a few tasks.
const FREE_BYTES_MIN: u64 = 1 << 30;
const FREE_FILES_MIN: u64 = 10_000;

/// One thing that was tried: its name, and whether it works.
pub(crate) type Verdict = (&'static str, bool);

#[derive(Default)]
pub(crate) struct HostCheck(Mutex<Option<(Instant, Arc<[Verdict]>)>>);

impl HostCheck {
    /// What was found a moment ago, or else now.
    pub(crate) async fn verdicts(&self, node: &Node) -> Arc<[Verdict]> {
        let mut seen = self.0.lock().await;
        if let Some((at, verdicts)) = &*seen
            && at.elapsed() < ANSWER_MAX
        {
            return verdicts.clone();
        }
        let verdicts: Arc<[Verdict]> = join_all(probes(node)).await.into();
        *seen = Some((Instant::now(), verdicts.clone()));
        verdicts
    }
}

fn probes(node: &Node) -> Vec<BoxFuture<'_, Verdict>> {
    vec![
        probe("kernel", async {
            kernel(&tokio::fs::read_to_string("/proc/sys/kernel/osrelease").await?)
        }),
        probe("cgroups", async { Ok(node.cgroups.check().await?) }),
        probe("apptainer", async { Ok(node.runtime.check().await?) }),
        probe("store", async { Ok(node.store.check().await?) }),
        probe("credit-manager", async {
            // Nobody's: all that counts is that there is an answer.
            node.credit.identify(&TokenHash::of("host check")).await?;
            Ok(())
        }),
        probe("disk", async { disk(&node.config.state_dir) }),
    ]
}

fn probe<'a>(
    name: &'static str,
    attempt: impl Future<Output = anyhow::Result<()>> + Send + 'a,
) -> BoxFuture<'a, Verdict> {
    Box::pin(async move {
        let tried = tokio::time::timeout(PROBE_MAX, attempt).await;
        match tried.context("it did not answer in time").flatten() {
            Ok(()) => (name, true),
            Err(err) => {
                warn!(probe = name, error = format!("{err:#}"), "the host check failed");
                (name, false)
            }
        }
    })
}

fn kernel(release: &str) -> anyhow::Result<()> {
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        bail!("`{release}` is no version of Linux");
    };
    ensure!(
        (major, minor) >= KERNEL_MIN,
        "Linux {release} is older than {}.{}",
        KERNEL_MIN.0,
        KERNEL_MIN.1
    );
    Ok(())
}

fn disk(folder: &Path) -> anyhow::Result<()> {
    let stat = statvfs(folder).with_context(|| format!("failed to look at `{}`", folder.display()))?;
    room(
        stat.f_bavail.saturating_mul(stat.f_frsize),
        // Some file systems count no files.
        (stat.f_files > 0).then_some(stat.f_favail),
        stat.f_flag.contains(StatVfsMountFlags::RDONLY),
    )
}

fn room(free_bytes: u64, free_files: Option<u64>, is_read_only: bool) -> anyhow::Result<()> {
    ensure!(!is_read_only, "it is read-only");
    ensure!(
        free_bytes >= FREE_BYTES_MIN,
        "{free_bytes} of its bytes are free, and {FREE_BYTES_MIN} are needed"
    );
    ensure!(
        free_files.is_none_or(|files| files >= FREE_FILES_MIN),
        "it has hardly any room for more files"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_must_have_what_results_leave_a_container_by() {
        for (release, is_good) in [
            ("6.12.9-amd64\n", true),
            ("5.6-rc1", true),
            ("5.5.19", false),
            ("4.19.0-28-amd64", false),
            ("", false),
            ("six", false),
        ] {
            assert_eq!(kernel(release).is_ok(), is_good, "{release}");
        }
    }

    #[test]
    fn a_disk_must_have_room_and_take_it() {
        for (bytes, files, is_read_only, is_good) in [
            (FREE_BYTES_MIN, Some(FREE_FILES_MIN), false, true),
            (FREE_BYTES_MIN, None, false, true),
            (FREE_BYTES_MIN - 1, None, false, false),
            (FREE_BYTES_MIN, Some(FREE_FILES_MIN - 1), false, false),
            (FREE_BYTES_MIN, None, true, false),
        ] {
            assert_eq!(room(bytes, files, is_read_only).is_ok(), is_good);
        }
        assert!(disk(Path::new("/nowhere")).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_answer_is_broken() {
        assert_eq!(probe("deaf", std::future::pending()).await, ("deaf", false));
        assert_eq!(probe("well", async { Ok(()) }).await, ("well", true));
    }
}
