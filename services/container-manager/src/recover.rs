//! After a restart: brings everything that was under way to a known end, and goes on with what still runs.
//!
//! The journal tells what was begun, the cgroups tell what runs. A task that runs is adopted, with what is left of its grant;
//! what had ended is finished; everything else goes back to `input/`, free of charge. Containers and cgroups that
//! nobody knows are taken away.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use service_kit::Chain;
use tokio::time::Instant;
use tracing::{info, warn};
use units::{ContainerId, FunctionName};

use crate::attempt::{self, Started};
use crate::cgroup::{CgroupError, TaskGroup};
use crate::claim;
use crate::container::{ExitRecord, RunningTask};
use crate::journal::JournalError;
use crate::node::Node;
use crate::spool::Spool;
use crate::staging;
use crate::task::{Attempt, Licence, Run, State};
use crate::warm::{self, WarmContainer};

/// How often an adopted task is looked at: its connection was lost with the manager that started it.
const ADOPTED_POLL: Duration = Duration::from_millis(20);
const RESTARTED: &str = "the node was restarted";

#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("failed to take away what an earlier run left behind")]
    Cgroups(#[from] CgroupError),
}

/// What was found.
#[derive(Default)]
pub struct Recovered {
    /// One container a function, with the tasks that run in it.
    pub adopted: HashMap<FunctionName, Adopted>,
    /// Attempts that have ended and are still to be charged or published.
    pub unfinished: Vec<Attempt>,
}

pub struct Adopted {
    pub container: Arc<WarmContainer>,
    pub running: Vec<(Attempt, Licence, Started)>,
}

/// Called once, before any new work.
pub async fn recover(node: &Node) -> Result<Recovered, RecoverError> {
    let mut recovered = Recovered {
        adopted: adopt_containers(node).await?,
        unfinished: Vec::new(),
    };
    let lowered = node.journal.lowered().await?;
    for attempt in node.journal.under_way().await? {
        info!(session = %attempt.session, key = %attempt.key, "attempt was under way");
        match attempt.state.clone() {
            State::Claimed => {
                // Whether the session was opened is unknown; closing one that was not is refused, which is as good.
                claim::withdraw(node.credit.as_ref(), &node.journal, &attempt).await?;
            }
            State::Licensed { .. } => recovered
                .unfinished
                .push(attempt::abandoned(node, attempt, RESTARTED).await),
            State::Running { licence, mut run } => {
                if let Some(grant) = lowered.get(&attempt.session) {
                    run.session.grant = run.session.grant.tighter(*grant);
                }
                let adopted = recovered.adopted.get_mut(&attempt.function);
                match adopted
                    .and_then(|adopted| resume(node, &attempt, &run, adopted).map(|task| (adopted, task)))
                {
                    Some((adopted, started)) => adopted.running.push((attempt, licence, started)),
                    None => recovered
                        .unfinished
                        .push(attempt::abandoned(node, attempt, RESTARTED).await),
                }
            }
            State::Ended { .. } => recovered.unfinished.push(attempt),
            State::Over { .. } => {}
        }
    }
    Ok(recovered)
}

/// Adopts what runs, and takes away everything else.
async fn adopt_containers(node: &Node) -> Result<HashMap<FunctionName, Adopted>, RecoverError> {
    let mut adopted = HashMap::new();
    // At once, or one whose runner does not answer would keep all others waiting.
    let adopt = |id| async move { (id, WarmContainer::adopt(node, id).await) };
    for (id, found) in join_all(node.cgroups.containers()?.into_iter().map(adopt)).await {
        match found {
            Ok(Some(container)) => {
                let running = Vec::new();
                adopted.insert(
                    container.record().function.clone(),
                    Adopted { container, running },
                );
            }
            Ok(None) => {}
            Err(err) => warn!(container_id = %id, error = %Chain(&err), "container not adopted"),
        }
    }
    let known: HashSet<ContainerId> = adopted
        .values()
        .map(|adopted: &Adopted| adopted.container.id())
        .collect();
    for id in node.cgroups.sweep_orphans(&known).await? {
        warn!(container_id = %id, "stopped a container of an earlier run");
        warm::destroy(node, id).await;
    }
    let folders = known.iter().map(|id| node.container_folder(*id)).collect();
    let staged = adopted
        .values()
        .filter_map(|adopted| adopted.container.record().staging.clone())
        .collect();
    for (root, in_use) in [(node.containers_root(), folders), (node.staging_root(), staged)] {
        if let Err(err) = staging::sweep(&root, &in_use) {
            warn!(folder = %root.display(), error = %err, "files of an earlier run stay on disk");
        }
    }
    match std::fs::remove_dir_all(node.ahead_root()) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            warn!(error = %err, "what an earlier run read ahead stays on disk");
        }
        _ => {}
    }
    Ok(adopted)
}

/// Takes up a task where the last manager left it, if its cgroup is still there: it runs, or its record tells its end.
fn resume(node: &Node, attempt: &Attempt, run: &Run, adopted: &Adopted) -> Option<Started> {
    if adopted.container.id() != run.container {
        return None;
    }
    let group = adopted.container.group().open_task(attempt.session).ok()?;
    let task = Box::new(AdoptedTask {
        group: group.clone(),
        spool: node.spool(attempt.session),
    });
    Some(Started {
        task,
        group,
        run: run.clone(),
        container: adopted.container.clone(),
        adopted: true,
        // Its container heard of a manager at most `orphan` ago, and credit-manager of it at about the same time. What its lease
        // is longer than that is a quarter of it at least.
        void_at: Instant::now() + node.config.orphan() / 4,
    })
}

struct AdoptedTask {
    group: Arc<dyn TaskGroup>,
    spool: Spool,
}

#[async_trait]
impl RunningTask for AdoptedTask {
    async fn wait(&mut self) -> Option<ExitRecord> {
        loop {
            // In this order: a record written after the first look is found by the second.
            let populated = self.group.populated().unwrap_or(false);
            let record = self.spool.read_exit_record();
            if record.is_some() || !populated {
                return record;
            }
            tokio::time::sleep(ADOPTED_POLL).await;
        }
    }
}
