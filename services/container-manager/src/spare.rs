//! CONTAINER: empty ones that are kept ready, so that a function's first task need not wait for a start.
//!
//! When a container was started, or one of these was taken, another of its kind is made ready, and of those that are too many
//! the oldest stop. They hold memory, which they give back as soon as a container of a function finds none, and no more
//! than a little CPU.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use service_kit::Chain;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use units::{MilliCores, UserName};

use crate::node::Node;
use crate::warm::{Launched, WarmError};

/// What each may use, beside what the scaler shares out: it starts at that pace, and uses nothing afterwards.
const CPU: MilliCores = MilliCores::from_millicores(500);

/// What a container is made of, whoever it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The unpacked image.
    pub image: PathBuf,
    pub image_digest: String,
    pub staging: Option<PathBuf>,
    pub memory_mib: u64,
    pub pids_max: u32,
    pub work_bytes_max: u64,
}

/// A recipe of which one was just used, by whom.
type Used = (Recipe, UserName);

/// The containers that are ready, oldest first.
pub struct Spares {
    max: usize,
    ready: Mutex<VecDeque<(Recipe, Launched)>>,
    used: mpsc::UnboundedSender<Used>,
}

impl Spares {
    /// `max` containers at most, which [`keep`] makes of what it is told.
    pub fn new(max: usize) -> (Self, mpsc::UnboundedReceiver<Used>) {
        let (used, told) = mpsc::unbounded_channel();
        let ready = Mutex::default();
        (Self { max, ready, used }, told)
    }

    /// A container of this kind, if one is ready.
    pub fn take(&self, recipe: &Recipe) -> Option<Launched> {
        let mut ready = self.ready();
        let at = ready
            .iter()
            .position(|(of, launched)| of == recipe && launched.is_alive())?;
        ready.remove(at).map(|(_, launched)| launched)
    }

    /// Has another of this kind made ready.
    pub fn used(&self, recipe: Recipe, user: &UserName) {
        // What is staged belongs to one function.
        if self.max > 0 && recipe.staging.is_none() {
            // Nobody listens at shutdown.
            let _ignored = self.used.send((recipe, user.clone()));
        }
    }

    /// Stops those that are ready, except for the newest `left`.
    pub async fn stop_oldest(&self, node: &Node, left: usize) {
        loop {
            let oldest = {
                let mut ready = self.ready();
                if ready.len() <= left {
                    None
                } else {
                    ready.pop_front()
                }
            };
            let Some((_, launched)) = oldest else {
                return;
            };
            debug!(container_id = %launched.id(), "empty container stopped");
            launched.stop(node).await;
        }
    }

    fn ready(&self) -> MutexGuard<'_, VecDeque<(Recipe, Launched)>> {
        // The list is never half changed.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps containers ready until `shutdown`, and stops them then.
pub async fn keep(node: Arc<Node>, mut told: mpsc::UnboundedReceiver<Used>, shutdown: CancellationToken) {
    while let Some(Some((recipe, user))) = shutdown.run_until_cancelled(told.recv()).await {
        let spares = &node.spares;
        let is_ready = |(of, launched): &(Recipe, Launched)| *of == recipe && launched.is_alive();
        if spares.ready().iter().any(is_ready) {
            continue;
        }
        spares.stop_oldest(&node, spares.max - 1).await;
        match ready(&node, &recipe, &user).await {
            Ok(launched) => {
                info!(container_id = %launched.id(), image = recipe.image_digest, "empty container is ready");
                spares.ready().push_back((recipe, launched));
            }
            Err(err) => debug!(error = %Chain(&err), "no empty container made ready"),
        }
    }
    node.spares.stop_oldest(&node, 0).await;
}

async fn ready(node: &Node, recipe: &Recipe, user: &UserName) -> Result<Launched, WarmError> {
    // Those who wait for memory come first.
    let memory = node.memory.reserve(user, recipe.memory_mib, &mut None)?;
    Launched::start(node, recipe, Arc::new(memory), CPU, |_, _| Ok(())).await
}
