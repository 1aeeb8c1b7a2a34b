//! OBJECT DROPPED: finds the functions of this node, and runs one loop for each that lists `input/` and takes tasks in.
//!
//! Listing is the truth: it is done every so often whatever happens. A hint (a notification, a call of `Notify`) only
//! makes it happen now.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use service_kit::Chain;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use units::{FunctionName, UserName};

use crate::credit::{Alert, FunctionEntry};
use crate::function_loop::{FunctionLoop, News};
use crate::node::Node;
use crate::recover::Adopted;

/// How often the registered functions are read; a hint about an unknown function reads them at once.
const FUNCTIONS_POLL: Duration = Duration::from_secs(1);

/// What a function's loop listens to.
struct Served {
    user: UserName,
    hint: Arc<Notify>,
    alert: watch::Sender<Option<Alert>>,
}

/// The functions this node serves, and the ways to wake them.
#[derive(Default)]
pub struct Registry {
    functions: Mutex<HashMap<FunctionName, Served>>,
    gates: Mutex<HashMap<UserName, watch::Sender<bool>>>,
    look_for_functions: Notify,
    /// Told after each look for functions.
    looks: watch::Sender<()>,
}

impl Registry {
    /// Looks into a function's `input/` now.
    pub fn hint(&self, function: &FunctionName) {
        match self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(function)
        {
            Some(served) => served.hint.notify_one(),
            None => self.look_for_functions.notify_one(),
        }
    }

    /// The functions that this node serves.
    pub fn functions(&self) -> Vec<FunctionName> {
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        functions.keys().cloned().collect()
    }

    /// Who pays for a function; `None` if it is not known here, or not yet.
    pub fn owner(&self, function: &FunctionName) -> Option<UserName> {
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        functions.get(function).map(|served| served.user.clone())
    }

    /// As [`Self::owner`], after another look if it is not known.
    pub async fn find(&self, function: &FunctionName) -> Option<UserName> {
        let mut looks = self.looks.subscribe();
        // One may be under way that began before the function was made.
        for _look in 0..2 {
            if let Some(owner) = self.owner(function) {
                return Some(owner);
            }
            self.look_for_functions.notify_one();
            looks.changed().await.ok()?;
        }
        self.owner(function)
    }

    /// The functions of a user that are known here.
    pub fn functions_of(&self, user: &UserName) -> Vec<FunctionName> {
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let own = functions.iter().filter(|(_, served)| served.user == *user);
        own.map(|(function, _)| function.clone()).collect()
    }

    /// Opens or shuts the gate of all of a user's functions.
    pub fn set_gate(&self, user: &UserName, may_start: bool) {
        let gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(user) {
            gate.send_if_modified(|now| std::mem::replace(now, may_start) != may_start);
        }
    }

    fn gate(&self, user: &UserName, may_start: bool) -> watch::Receiver<bool> {
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        gates
            .entry(user.clone())
            .or_insert_with(|| watch::channel(may_start).0)
            .subscribe()
    }

    /// The hint and the alert of a function that is new here; `None` for one that is served already, which is told of
    /// the alert.
    pub(crate) fn add(
        &self,
        function: &FunctionName,
        user: &UserName,
        alert: Option<Alert>,
    ) -> Option<(Arc<Notify>, watch::Receiver<Option<Alert>>)> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = functions.get(function) {
            served.alert.send_replace(alert);
            return None;
        }
        let hint = Arc::new(Notify::new());
        let (sender, receiver) = watch::channel(alert);
        let served = Served {
            user: user.clone(),
            hint: hint.clone(),
            alert: sender,
        };
        functions.insert(function.clone(), served);
        Some((hint, receiver))
    }
}

/// Serves every registered function until shutdown, then brings running tasks to rest and waits for them. Errors if one
/// function's loop breaks, which is a defect.
pub async fn run(
    node: Arc<Node>,
    registry: Arc<Registry>,
    mut adopted: HashMap<FunctionName, Adopted>,
    shutdown: CancellationToken,
) -> Result<(), JoinError> {
    let mut loops = JoinSet::new();
    while !shutdown.is_cancelled() {
        match node.credit.functions().await {
            Ok(functions) => {
                for FunctionEntry {
                    name,
                    user,
                    may_start,
                    alert,
                } in functions
                {
                    registry.set_gate(&user, may_start);
                    let Some((hint, alert)) = registry.add(&name, &user, alert) else {
                        continue;
                    };
                    info!(function = %name, %user, "function found");
                    node.served.fetch_add(1, Ordering::Relaxed);
                    let gate = registry.gate(&user, may_start);
                    let news = News { gate, hint, alert };
                    let adopted = adopted.remove(&name);
                    let function = FunctionLoop::new(node.clone(), name, user, news, adopted, &shutdown);
                    loops.spawn(function.run(shutdown.clone()));
                }
            }
            Err(err) => warn!(error = %Chain(&err), "functions not read, will retry"),
        }
        registry.looks.send_replace(());
        tokio::select! {
            () = tokio::time::sleep(FUNCTIONS_POLL) => {}
            () = registry.look_for_functions.notified() => {}
            // Its tasks would run on unwatched. The service stops, and with it all that runs; a new start takes up from
            // the journal.
            Some(Err(defect)) = loops.join_next() => return Err(defect),
            () = shutdown.cancelled() => {}
        }
    }
    while loops.join_next().await.is_some() {}
    Ok(())
}
