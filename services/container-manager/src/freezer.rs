//! RESTRICTION: holds a task still at its debt limit, for as long as a deposit may come.
//!
//! What is frozen uses no CPU and costs nothing, but it keeps its memory. A node bounds that: when frozen tasks together
//! hold more than they may, the one that has waited longest gives up its place, and goes back to the queue.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use service_kit::Chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cgroup::TaskGroup;

/// What the frozen tasks of a node hold.
pub struct FrozenMemory {
    bytes_max: u64,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    next: u64,
    /// Oldest first.
    taken: BTreeMap<u64, Taken>,
}

struct Taken {
    bytes: u64,
    lost: CancellationToken,
}

impl FrozenMemory {
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            places: Mutex::default(),
        }
    }

    /// A place for a task that holds so much. The oldest lose theirs while all together hold too much.
    fn enter(&self, bytes: u64) -> Place<'_> {
        let lost = CancellationToken::new();
        let mut places = self.places();
        let number = places.next;
        places.next += 1;
        let taken = Taken {
            bytes,
            lost: lost.clone(),
        };
        places.taken.insert(number, taken);
        while places.held() > self.bytes_max
            && let Some((_, oldest)) = places.taken.pop_first()
        {
            oldest.lost.cancel();
        }
        Place {
            memory: self,
            number,
            lost,
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // Nothing under the lock can panic halfway.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn held(&self) -> u64 {
        self.taken.values().map(|taken| taken.bytes).sum()
    }
}

/// Given back when dropped.
struct Place<'a> {
    memory: &'a FrozenMemory,
    number: u64,
    lost: CancellationToken,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.memory.places().taken.remove(&self.number);
    }
}

/// Keeps a task still at its debt limit, for as long as the hold lasts.
pub(crate) struct Freezer<'a> {
    group: &'a dyn TaskGroup,
    hold: Duration,
    memory: &'a FrozenMemory,
    frozen: Option<Frozen<'a>>,
    past: Duration,
}

struct Frozen<'a> {
    since: Instant,
    place: Place<'a>,
}

impl<'a> Freezer<'a> {
    pub(crate) fn new(group: &'a dyn TaskGroup, hold: Duration, memory: &'a FrozenMemory) -> Self {
        Self {
            group,
            hold,
            memory,
            frozen: None,
            past: Duration::ZERO,
        }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// How long the task was frozen before it was thawed last.
    pub(crate) fn past(&self) -> Duration {
        self.past
    }

    pub(crate) async fn freeze(&mut self) {
        let since = Instant::now();
        if let Err(err) = self.group.freeze().await {
            warn!(error = %Chain(&err), "task not frozen at once");
        }
        if self.frozen.is_none() {
            // What cannot be read is gone, and holds nothing.
            let bytes = self.group.memory_bytes().unwrap_or_default();
            info!(session = %self.group.session(), bytes, "task frozen at its limit");
            let place = self.memory.enter(bytes);
            self.frozen = Some(Frozen { since, place });
        }
    }

    pub(crate) fn thaw(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            self.past += frozen.since.elapsed();
            info!(session = %self.group.session(), "task thawed");
        }
        if let Err(err) = self.group.thaw() {
            warn!(error = %Chain(&err), "task not thawed");
        }
    }

    /// Ends when a frozen task has waited long enough, or has to make room; never for one that runs.
    pub(crate) async fn hold_over(&self) {
        let Some(Frozen { since, place }) = &self.frozen else {
            return std::future::pending().await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(*since + self.hold) => {}
            () = place.lost.cancelled() => {
                info!(session = %self.group.session(), "frozen tasks hold too much memory, the oldest goes");
            }
        }
    }

    /// How long the task was frozen in all, up to now.
    pub(crate) fn total(&self) -> Duration {
        let now = self.frozen.as_ref().map(|frozen| frozen.since.elapsed());
        self.past + now.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lose_their_places_until_the_rest_fits() {
        let memory = FrozenMemory::new(100);
        let first = memory.enter(40);
        let second = memory.enter(40);
        let third = memory.enter(20);
        assert!(
            [&first, &second, &third]
                .iter()
                .all(|place| !place.lost.is_cancelled())
        );
        let fourth = memory.enter(50);
        assert!(first.lost.is_cancelled() && second.lost.is_cancelled());
        assert!(!third.lost.is_cancelled() && !fourth.lost.is_cancelled());
        drop((third, fourth));
        let whole = memory.enter(100);
        assert!(!whole.lost.is_cancelled(), "what was given back is free");
        let too_large = memory.enter(101);
        assert!(whole.lost.is_cancelled() && too_large.lost.is_cancelled());
    }
}
