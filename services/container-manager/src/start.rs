//! TASK STARTED: the object moves to `processing/`, its bytes and the script to the slot's inbox, and the script runs.

use std::io;
use std::path::Path;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tracing::info;

use crate::attempt::{Plan, Started};
use crate::cgroup::{CgroupError, TaskLimits};
use crate::claim::{Content, Input};
use crate::container::{ContainerError, RunLimits, RunRequest};
use crate::credit::SessionState;
use crate::journal::JournalError;
use crate::layout::Source;
use crate::node::Node;
use crate::store::{Copied, Head, StoreError};
use crate::task::{Attempt, Digests, Licence, Run, State};

/// How often staging tries before the attempt goes back to the queue.
const STAGE_TRIES: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the task object changed while it was claimed")]
    Changed,
    #[error("the task object is gone from `processing/`")]
    Gone,
    #[error("so much time has passed that another node may have the task")]
    Late,
    #[error("failed to prepare the task's files")]
    Files(#[from] io::Error),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Moves the object to `processing/`, which `input` tells from then on, and starts the script on it.
pub async fn start(
    node: &Node,
    plan: &Plan,
    attempt: &mut Attempt,
    licence: &Licence,
    session: SessionState,
    input: &mut Input,
) -> Result<Started, StartError> {
    let (container, key) = (&plan.container, attempt.key.clone());
    let spool = node.spool(attempt.session);
    spool.create()?;
    let inbox = container.clear_inbox(plan.slot)?;
    inbox.write_script(&plan.script.body)?;
    let task_file = inbox.task(&key.file_name());
    let throttled_before = container.group().cpu_stat()?.throttled();
    let run = |input: String| Run {
        container: container.id(),
        slot: plan.slot,
        started_at: node.clock.now(),
        max_attempts: plan.settings.max_attempts,
        timeout_ms: plan.settings.timeout_s.saturating_mul(1000),
        chain_to: plan.settings.chain.as_ref().map(|chain| chain.to.clone()),
        digests: Digests {
            input,
            script: plan.script.sha256.clone(),
            image: container.record().image_digest.clone(),
        },
        session: session.clone(),
        throttled_before,
    };
    // Journalled before the script can start: after a crash, whatever runs in this cgroup is known.
    let running = |run: &Run| State::Running {
        licence: licence.clone(),
        run: run.clone(),
    };
    let digest = match std::mem::replace(&mut input.content, Content::Remote) {
        Content::Bytes(body) => {
            std::fs::write(&task_file, &body)?;
            Some(hex::encode(Sha256::digest(&body)))
        }
        Content::File { path, sha256 } => {
            path.persist(&task_file).map_err(|err| err.error)?;
            Some(sha256)
        }
        Content::Remote => None,
    };
    let run = match digest {
        Some(digest) => {
            let run = run(digest);
            fetch(node, attempt, running(&run), &mut input.head).await?;
            run
        }
        None => {
            let licensed = attempt.state.clone();
            fetch(node, attempt, licensed, &mut input.head).await?;
            let run = run(download(node, attempt, &task_file).await?);
            attempt.state = running(&run);
            node.journal.record(attempt).await?;
            run
        }
    };

    let limits = TaskLimits {
        memory_bytes_max: plan.settings.memory_mib.saturating_mul(1 << 20),
        pids_max: plan.settings.pids,
    };
    node.meter.expect_task(container.id());
    let void_at = plan.asked_at + node.config.orphan();
    if Instant::now() >= void_at {
        return Err(StartError::Late);
    }
    let group = container.group().create_task(attempt.session, limits)?;
    let request = RunRequest {
        slot: plan.slot,
        alone: plan.settings.concurrency == 1,
        task_file: key.file_name(),
        env: environment(attempt, licence, plan),
        log: spool.log(),
        exit_record: spool.exit_record(),
        limits: RunLimits {
            log_bytes_max: node.config.log_bytes_max,
        },
    };
    let task = container
        .handle()
        .run(request, &|pid| group.place(pid).map_err(io::Error::other))
        .await?;
    info!(task_id = %licence.task, attempt = licence.attempt, container_id = %run.container, %key, "task started");
    Ok(Started {
        task,
        group,
        run,
        container: container.clone(),
        adopted: false,
        void_at,
    })
}

/// Moves the object to `processing/`, unless it is there, and if it is still the version that was seen, while `state` is
/// journalled: before it leaves `input/` it is known where else it is. `head` becomes that of the copy.
async fn fetch(node: &Node, attempt: &mut Attempt, state: State, head: &mut Head) -> Result<(), StartError> {
    let (bucket, key) = (attempt.function.as_str(), &attempt.key);
    let journalled = Attempt {
        state,
        ..attempt.clone()
    };
    if attempt.source == Source::Processing {
        node.journal.record(&journalled).await?;
        *attempt = journalled;
        return Ok(());
    }
    let (input, processing) = (key.input(), key.processing());
    let (recorded, copied) = tokio::join!(
        node.journal.record(&journalled),
        node.store.copy(bucket, &input, &processing, head)
    );
    recorded?;
    let Copied::Done { etag } = copied? else {
        return Err(StartError::Changed);
    };
    node.store.delete(bucket, &input, Some(&head.etag)).await?;
    head.etag = etag;
    *attempt = journalled;
    Ok(())
}

/// Brings a large object to the slot's inbox; its digest.
async fn download(node: &Node, attempt: &Attempt, task_file: &Path) -> Result<String, StartError> {
    let (bucket, source) = (attempt.function.as_str(), attempt.key.processing());
    let bytes_max = node.config.fetch_bytes_max();
    let download = || node.store.download(bucket, &source, task_file, bytes_max);
    let fetched = download
        .retry(
            ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(50))
                .with_max_times(STAGE_TRIES),
        )
        .when(StoreError::is_transient)
        .await?;
    Ok(fetched.ok_or(StartError::Gone)?.sha256)
}

fn environment(attempt: &Attempt, licence: &Licence, plan: &Plan) -> Vec<(String, String)> {
    let own = [
        ("GRIDFAAS_TASK", attempt.key.to_string()),
        ("GRIDFAAS_FUNCTION", attempt.function.to_string()),
        ("GRIDFAAS_ATTEMPT", licence.attempt.to_string()),
        (
            "GRIDFAAS_CPU_MILLICORES",
            plan.container.cpu_max().millicores().to_string(),
        ),
    ];
    let users = plan
        .settings
        .env
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    // A NUL is legal in a key and in no environment.
    users
        .chain(own.map(|(name, value)| (name.to_owned(), value.replace('\0', "\u{fffd}"))))
        .collect()
}
