//! The last look, and the history that all looks make.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::history::History;
use crate::look::Look;
use crate::services::Services;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Of its time, looking takes one part in this many at most: with very many functions it looks less often.
const REST: u32 = 10;

#[derive(Default)]
pub(crate) struct Board {
    last: watch::Sender<Arc<Look>>,
    history: Mutex<History>,
}

impl Board {
    pub(crate) fn last(&self) -> Arc<Look> {
        self.last.borrow().clone()
    }

    /// This look and all that come.
    pub(crate) fn looks(&self) -> watch::Receiver<Arc<Look>> {
        self.last.subscribe()
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        // A series that is cut off half way is still one.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, look: Look) {
        self.history().push(look.at_ms, look.work(), look.funds());
        self.last.send_replace(Arc::new(look));
    }
}

/// Keeps the board up to date until `shutdown`.
pub(crate) async fn keep(board: Arc<Board>, services: Services, shutdown: CancellationToken) {
    let mut told = Vec::new();
    loop {
        let began = Instant::now();
        let before = board.last();
        let look = Look::take(&services, &before);
        let Some(look) = shutdown.run_until_cancelled(look).await else {
            return;
        };
        let unknown = look.unknown();
        if unknown != told {
            match unknown.as_slice() {
                [] => info!("every service answers again"),
                problems => warn!(problems = problems.join("; "), "the dashboard is not up to date"),
            }
            told = unknown;
        }
        board.put(look);
        let pause = tokio::time::sleep(PAUSE.max(began.elapsed() * REST));
        if shutdown.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}
