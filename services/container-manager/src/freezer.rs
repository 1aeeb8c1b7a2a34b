//! RESTRICTION: holds a task still at its debt limit, for as long as a deposit may come.

use std::time::Duration;

use service_kit::Chain;
use tokio::time::Instant;
use tracing::warn;

use crate::cgroup::TaskGroup;

/// Keeps a task still at its debt limit, for as long as the hold lasts.
pub(crate) struct Freezer<'a> {
    group: &'a dyn TaskGroup,
    hold: Duration,
    frozen_since: Option<Instant>,
    past: Duration,
}

impl<'a> Freezer<'a> {
    pub(crate) fn new(group: &'a dyn TaskGroup, hold: Duration) -> Self {
        Self {
            group,
            hold,
            frozen_since: None,
            past: Duration::ZERO,
        }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen_since.is_some()
    }

    /// How long the task was frozen before it was thawed last.
    pub(crate) fn past(&self) -> Duration {
        self.past
    }

    pub(crate) async fn freeze(&mut self) {
        self.frozen_since.get_or_insert_with(Instant::now);
        if let Err(err) = self.group.freeze().await {
            warn!(error = %Chain(&err), "task not frozen at once");
        }
    }

    pub(crate) fn thaw(&mut self) {
        if let Some(since) = self.frozen_since.take() {
            self.past += since.elapsed();
        }
        if let Err(err) = self.group.thaw() {
            warn!(error = %Chain(&err), "task not thawed");
        }
    }

    /// Ends when a frozen task has waited long enough; never for one that runs.
    pub(crate) async fn hold_over(&self) {
        match self.frozen_since {
            Some(since) => tokio::time::sleep_until(since + self.hold).await,
            None => std::future::pending().await,
        }
    }

    /// How long the task was frozen in all, up to now.
    pub(crate) fn total(&self) -> Duration {
        self.past + self.frozen_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}
