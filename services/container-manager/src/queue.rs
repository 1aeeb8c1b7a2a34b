//! A function's queue: what of `input/` this node may take next.
//!
//! What a node that is gone left in `processing/` comes first. Only credit-manager knows whether a node is gone; it is asked for
//! what has been there for long.
//!
//! A listing is kept until it is used up or the next one is due, so that a long queue is not listed anew for every task.

use std::collections::{HashMap, HashSet, VecDeque};

use tokio::time::{Duration, Instant};
use units::FunctionName;

use crate::layout::{self, Source, TaskKey};
use crate::store::{ObjectStore, StoreError};

/// Objects in one listing, and the most of them that are kept.
const PAGE: u32 = 1000;
/// Tasks kept beyond those that are wanted now: few enough to be cheap to list, enough for many to start before the next.
const LINE: usize = 64;

/// A task in line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    pub key: TaskKey,
    pub source: Source,
    /// The version of its object.
    pub etag: String,
    /// Of its object, in bytes.
    pub size: u64,
}

/// Waiting objects are counted up to this: fewer by one than the most that S3 lists at once.
const WAITING_MAX: u32 = PAGE - 1;

/// What waits in `input/`, counted as far as one listing goes: with a hundred thousand objects the question must stay cheap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub tasks: u32,
    /// There are more than were counted.
    pub has_more: bool,
}

/// Counts what waits for a function.
pub async fn count(store: &dyn ObjectStore, function: &FunctionName) -> Result<Count, StoreError> {
    let listed = store.list(function.as_str(), layout::INPUT, None, PAGE).await?;
    let tasks = listed
        .iter()
        .filter(|object| TaskKey::from_input(&object.key).is_some());
    let tasks = u32::try_from(tasks.count()).unwrap_or(u32::MAX);
    Ok(Count {
        tasks: tasks.min(WAITING_MAX),
        has_more: tasks > WAITING_MAX,
    })
}

#[derive(Default)]
pub struct Queue {
    /// Tasks of ours that may still be seen in `input/`, or are on their way back to it.
    busy: HashSet<TaskKey>,
    /// Tasks that are not to be tried before an instant.
    deferred: HashMap<TaskKey, Instant>,
    /// The first in line by the newest listing, in the order of their keys.
    line: VecDeque<Waiting>,
    /// More were in line than were kept.
    has_more: bool,
    /// Others' tasks in `processing/`, and when to ask for each.
    others: HashMap<TaskKey, Instant>,
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

    /// Whether nothing was in `input/` at the last look, nor is to be tried later.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty() && self.deferred.is_empty()
    }

    /// Whether the kept part of the line is used up though there was more.
    pub fn is_used_up(&self) -> bool {
        self.line.is_empty() && self.has_more
    }

    /// The next tasks in line, `wanted` at most.
    pub fn next(&mut self, wanted: usize) -> Vec<Waiting> {
        let now = Instant::now();
        let mut next = Vec::new();
        while next.len() < wanted
            && let Some(waiting) = self.line.pop_front()
        {
            if waiting.source == Source::Processing {
                // Asked for now, and if it is no use then as long from now.
                self.others.remove(&waiting.key);
            }
            if self.is_free(&waiting.key, now) {
                next.push(waiting);
            }
        }
        next
    }

    /// The same, without taking them from the line.
    pub fn peek(&self, wanted: usize) -> Vec<Waiting> {
        let now = Instant::now();
        let free = self.line.iter().filter(|waiting| self.is_free(&waiting.key, now));
        free.take(wanted).cloned().collect()
    }

    fn is_free(&self, key: &TaskKey, now: Instant) -> bool {
        let is_deferred = self.deferred.get(key).is_some_and(|until| *until > now);
        !self.busy.contains(key) && !is_deferred
    }

    /// Lists the line anew, far enough for `wanted` tasks. Returns whether there is any.
    pub async fn look(
        &mut self,
        store: &dyn ObjectStore,
        function: &FunctionName,
        wanted: usize,
    ) -> Result<bool, StoreError> {
        let now = Instant::now();
        self.deferred.retain(|_, until| *until > now);
        self.line.clear();
        let mut after = None::<String>;
        // Usually the first listed tasks are free, so a short page does; one that is full of others' is followed up.
        let mut page = u32::try_from(wanted + LINE + self.busy.len() + self.deferred.len())
            .unwrap_or(PAGE)
            .min(PAGE);
        loop {
            let listed = store
                .list(function.as_str(), layout::INPUT, after.as_deref(), page)
                .await?;
            self.has_more = listed.len() >= usize::try_from(page).unwrap_or(usize::MAX);
            after = listed.last().map(|object| object.key.clone());
            let waiting = listed.iter().filter_map(|object| {
                Some(Waiting {
                    key: TaskKey::from_input(&object.key)?,
                    source: Source::Input,
                    etag: object.etag.clone(),
                    size: object.size,
                })
            });
            self.line.extend(waiting.filter(|waiting| {
                !self.busy.contains(&waiting.key) && !self.deferred.contains_key(&waiting.key)
            }));
            if !self.has_more || self.line.len() >= wanted {
                return Ok(!self.line.is_empty());
            }
            page = PAGE;
        }
    }

    /// Puts first in line what others have had in `processing/` for longer than `patience`. Returns when the next of them will
    /// have been there for so long.
    pub async fn look_for_left(
        &mut self,
        store: &dyn ObjectStore,
        function: &FunctionName,
        patience: Duration,
    ) -> Result<Option<Instant>, StoreError> {
        let now = Instant::now();
        let (mut others, mut after) = (HashMap::new(), None::<String>);
        loop {
            let bucket = function.as_str();
            let listed = store
                .list(bucket, layout::PROCESSING, after.as_deref(), PAGE)
                .await?;
            for object in &listed {
                let Some(key) = TaskKey::from_processing(&object.key).filter(|key| !self.busy.contains(key))
                else {
                    continue;
                };
                let at = *self.others.get(&key).unwrap_or(&(now + patience));
                if at <= now {
                    self.line.push_front(Waiting {
                        key: key.clone(),
                        source: Source::Processing,
                        etag: object.etag.clone(),
                        size: object.size,
                    });
                }
                others.insert(key, at);
            }
            if listed.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
                break;
            }
            after = listed.last().map(|object| object.key.clone());
        }
        self.others = others;
        Ok(self.others.values().min().copied())
    }

    /// Forgets the listing; the next look makes another.
    pub fn forget(&mut self) {
        self.line.clear();
        self.has_more = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fake::FakeStore;

    const BUCKET: &str = "stress";

    fn store(tasks: impl IntoIterator<Item = u32>) -> FakeStore {
        let store = FakeStore::default();
        store.create_bucket(BUCKET);
        for task in tasks {
            store.drop_object(BUCKET, &format!("input/{task:04}"), "x");
        }
        store
    }

    async fn look(queue: &mut Queue, store: &FakeStore, wanted: usize) -> bool {
        queue.look(store, &BUCKET.parse().unwrap(), wanted).await.unwrap()
    }

    fn names(waiting: &[Waiting]) -> Vec<&str> {
        waiting.iter().map(|waiting| waiting.key.as_str()).collect()
    }

    #[tokio::test]
    async fn a_long_line_is_listed_once_for_many_tasks_and_kept_short() {
        let (mut queue, store) = (Queue::default(), store(0..5000));
        assert!(look(&mut queue, &store, 1).await);
        for task in 0..=LINE {
            assert_eq!(names(&queue.next(1)), [format!("{task:04}")]);
        }
        assert_eq!(queue.next(1), []);
        assert!(queue.is_used_up());
    }

    #[tokio::test]
    async fn what_this_node_has_or_defers_is_passed_over_however_much_it_is() {
        let (mut queue, store) = (Queue::default(), store(0..3000));
        for task in 0..2500 {
            queue.take(TaskKey::from_name(&format!("{task:04}")).unwrap());
        }
        queue.defer(TaskKey::from_name("2500").unwrap(), Duration::from_secs(60));
        assert!(look(&mut queue, &store, 2).await);
        assert_eq!(names(&queue.next(2)), ["2501", "2502"]);
        // Deferred since the listing.
        queue.defer(TaskKey::from_name("2503").unwrap(), Duration::from_secs(60));
        assert_eq!(names(&queue.next(1)), ["2504"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_have_for_long_is_asked_for_first_and_now_and_then() {
        let (mut queue, store) = (Queue::default(), store(0..3));
        for key in ["processing/mine", "processing/theirs", "processing/folder/"] {
            store.drop_object(BUCKET, key, "x");
        }
        queue.take(TaskKey::from_name("mine").unwrap());
        let patience = Duration::from_secs(60);
        for _twice in 0..2 {
            for (passed, first) in [(0, "0000"), (59, "0000"), (1, "theirs"), (0, "0000")] {
                tokio::time::advance(Duration::from_secs(passed)).await;
                look(&mut queue, &store, 1).await;
                let function = BUCKET.parse().unwrap();
                queue.look_for_left(&store, &function, patience).await.unwrap();
                assert_eq!(names(&queue.next(1)), [first]);
            }
        }
    }

    #[tokio::test]
    async fn an_earlier_key_comes_first_after_the_next_look() {
        let (mut queue, store) = (Queue::default(), store(10..20));
        assert!(look(&mut queue, &store, 1).await);
        assert_eq!(names(&queue.next(1)), ["0010"]);
        store.drop_object(BUCKET, "input/0001", "x");
        assert!(look(&mut queue, &store, 1).await);
        assert_eq!(names(&queue.next(1)), ["0001"]);
        queue.forget();
        assert!(!queue.is_used_up());
    }
}
