//! OBJECT DROPPED: finds the functions of this node, and runs one loop for each that lists `input/` and takes tasks in.
//!
//! Listing is the truth: it is done every so often whatever happens. A hint (a notification, a call of `Notify`) only
//! makes it happen now.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use service_kit::Chain;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};
use units::{FunctionName, UserName};

use crate::credit::{Alert, FunctionEntry};
use crate::function_loop::{FunctionLoop, News};
use crate::node::Node;
use crate::recover::Adopted;

/// How often the registered functions are read at most; a hint about an unknown function reads them at once.
const FUNCTIONS_POLL: Duration = Duration::from_secs(1);
/// Those that are read a second; with more of them, they are read less often.
const FUNCTIONS_PER_SECOND: u32 = 200;

/// What a function's loop listens to.
struct Served {
    user: UserName,
    hint: Arc<Notify>,
    alert: watch::Sender<Option<Alert>>,
    is_idle: Arc<AtomicBool>,
    /// The loop ends with this entry.
    _end: DropGuard,
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
        match self.lock().get(function) {
            Some(served) => served.hint.notify_one(),
            None => self.look_for_functions.notify_one(),
        }
    }

    /// The functions that this node serves.
    pub fn functions(&self) -> Vec<FunctionName> {
        self.lock().keys().cloned().collect()
    }

    /// Those of them that may have tasks.
    pub fn busy_functions(&self) -> Vec<FunctionName> {
        let functions = self.lock();
        let busy = functions
            .iter()
            .filter(|(_, served)| !served.is_idle.load(Ordering::Relaxed));
        busy.map(|(function, _)| function.clone()).collect()
    }

    /// Who pays for a function; `None` if it is not known here, or not yet.
    pub fn owner(&self, function: &FunctionName) -> Option<UserName> {
        self.lock().get(function).map(|served| served.user.clone())
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
        let functions = self.lock();
        let own = functions.iter().filter(|(_, served)| served.user == *user);
        own.map(|(function, _)| function.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FunctionName, Served>> {
        // No entry is ever half written.
        self.functions.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What a function's loop listens to, if it is new here; `None` for one that is served already, which is told of the
    /// alert. The loop is to end with `end`.
    pub(crate) fn add(&self, entry: &FunctionEntry, end: CancellationToken) -> Option<News> {
        let FunctionEntry {
            name,
            user,
            may_start,
            alert,
        } = entry;
        self.set_gate(user, *may_start);
        let mut functions = self.lock();
        if let Some(served) = functions.get(name) {
            served.alert.send_replace(alert.clone());
            return None;
        }
        let hint = Arc::new(Notify::new());
        let (sender, receiver) = watch::channel(alert.clone());
        let is_idle = Arc::new(AtomicBool::new(false));
        let served = Served {
            user: user.clone(),
            hint: hint.clone(),
            alert: sender,
            is_idle: is_idle.clone(),
            _end: end.drop_guard(),
        };
        functions.insert(name.clone(), served);
        Some(News {
            gate: self.gate(user, *may_start),
            hint,
            alert: receiver,
            is_idle,
        })
    }

    /// Ends the loops of all functions but these: somebody deleted them.
    fn retain(&self, registered: &BTreeSet<FunctionName>) {
        self.lock().retain(|name, _| {
            let is_registered = registered.contains(name);
            if !is_registered {
                info!(function = %name, "function deleted");
            }
            is_registered
        });
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
                let registered: BTreeSet<_> = functions.iter().map(|entry| entry.name.clone()).collect();
                let served = u32::try_from(registered.len()).unwrap_or(u32::MAX);
                node.served.store(served, Ordering::Relaxed);
                registry.retain(&registered);
                for entry in functions {
                    let end = shutdown.child_token();
                    let Some(news) = registry.add(&entry, end.clone()) else {
                        continue;
                    };
                    let FunctionEntry { name, user, .. } = entry;
                    info!(function = %name, %user, "function found");
                    let adopted = adopted.remove(&name);
                    let function = FunctionLoop::new(node.clone(), name, user, news, adopted, &end);
                    loops.spawn(function.run(end));
                }
            }
            Err(err) => warn!(error = %Chain(&err), "functions not read, will retry"),
        }
        registry.looks.send_replace(());
        tokio::select! {
            () = tokio::time::sleep(functions_poll(&node)) => {}
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

fn functions_poll(node: &Node) -> Duration {
    let served = node.served.load(Ordering::Relaxed);
    FUNCTIONS_POLL.max(Duration::from_secs(1) * served / FUNCTIONS_PER_SECOND)
}
