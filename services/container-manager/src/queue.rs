//! A function's queue: what of `input/` this node may take next.

use std::collections::{HashMap, HashSet};

use tokio::time::{Duration, Instant};
use units::FunctionName;

use crate::layout::{self, TaskKey};
use crate::store::{ObjectStore, StoreError};

/// Objects in one listing.
const PAGE: u32 = 1000;

#[derive(Default)]
pub struct Queue {
    /// Tasks of ours that may still be seen in `input/`, or are on their way back to it.
    busy: HashSet<TaskKey>,
    /// Tasks that are not to be tried before an instant.
    deferred: HashMap<TaskKey, Instant>,
}

impl Queue {
    /// This node has the task.
    pub fn take(&mut self, key: TaskKey) {
        self.busy.insert(key);
    }

    /// This node has the task no longer.
    pub fn leave(&mut self, key: &TaskKey) {
        self.busy.remove(key);
    }

    /// The task is not to be tried for a while.
    pub fn defer(&mut self, key: TaskKey, delay: Duration) {
        self.deferred.insert(key, Instant::now() + delay);
    }

    /// The next tasks in line, in the order of their keys, and `wanted` at most.
    pub async fn next(
        &mut self,
        store: &dyn ObjectStore,
        function: &FunctionName,
        wanted: usize,
    ) -> Result<Vec<TaskKey>, StoreError> {
        let now = Instant::now();
        self.deferred.retain(|_, until| *until > now);
        let (mut found, mut after) = (Vec::new(), None::<String>);
        // Usually the first listed tasks are free, so a short page does; one that is full of others' is followed up.
        let mut page = u32::try_from(wanted + self.busy.len() + self.deferred.len() + 1)
            .unwrap_or(PAGE)
            .min(PAGE);
        loop {
            let listed = store
                .list(function.as_str(), layout::INPUT, after.as_deref(), page)
                .await?;
            let is_last = listed.len() < usize::try_from(page).unwrap_or(usize::MAX);
            after = listed.last().map(|object| object.key.clone());
            let keys = listed
                .iter()
                .filter_map(|object| TaskKey::from_input(&object.key));
            found.extend(keys.filter(|key| !self.busy.contains(key) && !self.deferred.contains_key(key)));
            if is_last || found.len() >= wanted {
                found.truncate(wanted);
                return Ok(found);
            }
            page = PAGE;
        }
    }
}
