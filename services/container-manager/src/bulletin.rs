//! What a function's user reads under `status/`, kept true and written no more often than it changes.

use std::sync::Arc;

use bytes::Bytes;
use service_kit::Chain;
use tokio::time::{Duration, Instant};
use tracing::{debug, warn};
use units::{FunctionName, UserName};

use crate::balance;
use crate::credit::Alert;
use crate::layout;
use crate::node::Node;
use crate::problem::Problem;
use crate::store::StoreError;

/// How often `status/balance.json` is written while anything runs.
const BALANCE_PAUSE: Duration = Duration::from_secs(3);
/// From the beginning of work to the first time: the first task's own requests go before.
const BALANCE_DELAY: Duration = Duration::from_millis(100);
/// More than any alert has.
const ALERT_BYTES_MAX: u64 = 64 << 10;

/// The objects under one function's `status/`, as this node last wrote them.
pub struct Bulletin {
    node: Arc<Node>,
    function: FunctionName,
    user: UserName,
    /// When `status/balance.json` is to be written next; `None` once it says how the account is at rest.
    balance_at: Option<Instant>,
    /// What `status/alert.json` says; `None` while that is not known.
    alert: Option<Option<Alert>>,
    /// What `status/error.json` says.
    problem: Option<Problem>,
}

impl Bulletin {
    pub fn new(node: Arc<Node>, function: FunctionName, user: UserName) -> Self {
        Self {
            node,
            function,
            user,
            balance_at: None,
            alert: None,
            problem: None,
        }
    }

    /// Says now and then how the account is while something runs.
    pub async fn tell_balance_of_work(&mut self, now: Instant) {
        let at = self.balance_at.get_or_insert(now + BALANCE_DELAY);
        if now >= *at {
            *at = now + BALANCE_PAUSE;
            self.put_balance().await;
        }
    }

    /// When [`Self::tell_balance_of_work`] has something to do.
    pub fn balance_at(&self) -> Option<Instant> {
        self.balance_at
    }

    /// Says how the account is once more when the last charge is made, so that what is there does not go on burning for
    /// ever.
    pub async fn tell_balance_at_rest(&mut self) {
        if self.balance_at.take().is_some() {
            self.put_balance().await;
        }
    }

    async fn put_balance(&self) {
        let account = match self.node.credit.account(&self.user).await {
            Ok(account) => account,
            Err(err) => {
                debug!(error = %Chain(&err), "balance not known, will be told later");
                return;
            }
        };
        self.node.recorder.account(&self.user, &account);
        let document = balance::document(&self.user, &account, self.node.clock.now());
        if let Err(err) = self.put(layout::STATUS_BALANCE, Bytes::from(document)).await {
            debug!(error = %Chain(&err), "balance not told, will be again");
        }
    }

    /// Makes `status/alert.json` say what is the case, once for each change, whichever node or manager said it before.
    pub async fn tell_alert(&mut self, alert: Option<Alert>) {
        if self.alert.as_ref() == Some(&alert) {
            return;
        }
        let wanted = alert
            .as_ref()
            .map(|alert| Bytes::from(balance::alert_document(&self.user, alert)));
        match self.put_alert(wanted).await {
            Ok(()) => self.alert = Some(alert),
            Err(err) => debug!(error = %Chain(&err), "alert not told, will be again"),
        }
    }

    async fn put_alert(&self, wanted: Option<Bytes>) -> Result<(), StoreError> {
        let (store, bucket) = (self.node.store.as_ref(), self.function.as_str());
        let there = store.get(bucket, layout::STATUS_ALERT, ALERT_BYTES_MAX).await;
        let there = match there {
            // Somebody else wrote it.
            Err(StoreError::TooLarge { .. }) => Some(Bytes::new()),
            there => there?.map(|object| object.body),
        };
        match wanted {
            Some(wanted) if there.as_ref() == Some(&wanted) => Ok(()),
            Some(wanted) => self.put(layout::STATUS_ALERT, wanted).await,
            None if there.is_some() => store.delete(bucket, layout::STATUS_ALERT, None).await,
            None => Ok(()),
        }
    }

    /// Says what keeps the function from running, once.
    pub async fn tell_problem(&mut self, problem: Problem) -> Result<(), StoreError> {
        self.node.problems.set(&self.function, problem.clone());
        if !problem.is_news_after(self.problem.as_ref()) {
            return Ok(());
        }
        warn!(
            problem = problem.error,
            hint = problem.hint,
            "function cannot run, its tasks wait"
        );
        let document = problem.document(self.node.clock.now());
        self.put(layout::STATUS_ERROR, Bytes::from(document)).await?;
        self.problem = Some(problem);
        Ok(())
    }

    /// Says what keeps the function's tasks from being taken in to whoever asks this node. The bucket may be what cannot be
    /// written, and its owner can mend nothing of it.
    pub fn tell_trouble(&self, trouble: Problem) {
        self.node.problems.set(&self.function, trouble);
    }

    /// That is over; what the bucket says still holds.
    pub fn trouble_is_over(&self) {
        match &self.problem {
            Some(problem) => self.node.problems.set(&self.function, problem.clone()),
            None => self.node.problems.clear(&self.function),
        }
    }

    /// Nothing keeps the function from running.
    pub async fn all_is_well(&mut self) -> Result<(), StoreError> {
        self.node.problems.clear(&self.function);
        if self.problem.is_some() {
            let (store, bucket) = (self.node.store.as_ref(), self.function.as_str());
            store.delete(bucket, layout::STATUS_ERROR, None).await?;
            self.problem = None;
        }
        Ok(())
    }

    async fn put(&self, key: &str, document: Bytes) -> Result<(), StoreError> {
        let bucket = self.function.as_str();
        self.node
            .store
            .put(bucket, key, document, "application/json")
            .await
    }
}
