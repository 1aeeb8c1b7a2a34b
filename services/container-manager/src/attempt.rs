//! One attempt, from the staged input to the published result.
//!
//! ```text
//! stage ─► place in its cgroup ─► run ─► cgroup empty, counter final ─► results to the spool ─► close ─► publish
//! ```
//! The task leaves its slot as soon as its results are on this node's disk ([`execute`]); charging and publishing go
//! on beside the next task ([`crate::finish`]).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use service_kit::Chain;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use units::{Billing, CpuTime, Timestamp};

use crate::cgroup::{CgroupError, TaskGroup, TaskLimits};
use crate::container::{ContainerError, ExitRecord, Outcome, RunLimits, RunRequest, RunningTask};
use crate::credit::SessionState;
use crate::finish;
use crate::freezer::Freezer;
use crate::function::FunctionSettings;
use crate::journal::JournalError;
use crate::live_log::LogUploads;
use crate::meter::Signal;
use crate::node::Node;
use crate::recording::{Record, TaskOutcome};
use crate::store::StoreError;
use crate::task::{Attempt, CpuUsage, Digests, Ending, How, Licence, Run, State, Verdict};
use crate::utils::Script;
use crate::warm::WarmContainer;

/// How long a killed task may take to be gone; measured: 34 ms for 400 processes.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// A dying container takes its tasks along first; measured: 10 ms for all of it.
const DEATH_TIMEOUT: Duration = Duration::from_millis(500);
/// How often staging tries before the attempt goes back to the queue.
const STAGE_TRIES: usize = 8;
/// What a task's supervisor dies of, if the task or the kernel kills it.
const SIGKILL: i32 = 9;

/// What an attempt is run with.
pub struct Plan {
    pub container: Arc<WarmContainer>,
    pub slot: u32,
    pub script: Script,
    pub settings: FunctionSettings,
}

/// A task whose script runs.
pub struct Started {
    pub task: Box<dyn RunningTask>,
    pub group: Arc<dyn TaskGroup>,
    pub run: Run,
    pub container: Arc<WarmContainer>,
    /// Started by an earlier manager.
    pub adopted: bool,
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the task object is gone from `processing/`")]
    Gone,
    #[error("failed to prepare the task's files")]
    Files(#[from] io::Error),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Runs an attempt that was just claimed until it has ended and its results are in the spool.
pub async fn execute(
    node: &Node,
    plan: &Plan,
    mut attempt: Attempt,
    session: SessionState,
    stop: &CancellationToken,
) -> Attempt {
    let Some(licence) = attempt.licence().cloned() else {
        return attempt;
    };
    match start(node, plan, &mut attempt, &licence, session).await {
        Ok(started) => watch_over(node, started, attempt, licence, stop).await,
        Err(err) => {
            let what = Chain(&err).to_string();
            warn!(session = %attempt.session, error = what, "task not started");
            abandoned(node, attempt, &what).await
        }
    }
}

async fn start(
    node: &Node,
    plan: &Plan,
    attempt: &mut Attempt,
    licence: &Licence,
    session: SessionState,
) -> Result<Started, StartError> {
    let (container, key) = (&plan.container, attempt.key.clone());
    let spool = node.spool(attempt.session);
    spool.create()?;
    let inbox = container.clear_inbox(plan.slot)?;
    let (bucket, source, task_file) = (
        attempt.function.as_str(),
        key.processing(),
        inbox.task(&key.file_name()),
    );
    let download = || {
        node.store
            .download(bucket, &source, &task_file, node.config.fetch_bytes_max())
    };
    let fetched = download
        .retry(
            ExponentialBuilder::default()
                .with_min_delay(Duration::from_millis(50))
                .with_max_times(STAGE_TRIES),
        )
        .when(StoreError::is_transient)
        .await?
        .ok_or(StartError::Gone)?;
    inbox.write_script(&plan.script.body)?;

    let run = Run {
        container: container.id(),
        slot: plan.slot,
        started_at: node.clock.now(),
        max_attempts: plan.settings.max_attempts,
        timeout_ms: plan.settings.timeout_s.saturating_mul(1000),
        chain_to: plan.settings.chain.as_ref().map(|chain| chain.to.clone()),
        digests: Digests {
            input: fetched.sha256,
            script: plan.script.sha256.clone(),
            image: container.record().image_digest.clone(),
        },
        session,
        throttled_before: container.group().cpu_stat()?.throttled(),
    };
    // Journalled before the script can start: after a crash, whatever runs in this cgroup is known.
    attempt.state = State::Running {
        licence: licence.clone(),
        run: run.clone(),
    };
    node.journal.record(attempt).await?;

    let limits = TaskLimits {
        memory_bytes_max: plan.settings.memory_mib.saturating_mul(1 << 20),
        pids_max: plan.settings.pids,
    };
    node.meter.expect_task(container.id());
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
    })
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

/// Follows a running task to its end, whichever way that comes, and brings it to rest.
pub async fn watch_over(
    node: &Node,
    started: Started,
    attempt: Attempt,
    licence: Licence,
    stop: &CancellationToken,
) -> Attempt {
    let Started {
        task,
        group,
        run,
        container,
        adopted,
    } = started;
    let signal = node
        .meter
        .add_task(run.container, group.clone(), &licence, run.session.clone());
    node.recorder.record(Record::TaskStarted {
        function: attempt.function.clone(),
        task: attempt.key.to_string(),
        attempt: licence.attempt,
        container: run.container,
    });
    let uploads = LogUploads::start(node, &attempt);
    let mut freezer = Freezer::new(group.as_ref(), node.config.hold(), &node.frozen);
    if adopted {
        // It may have been frozen, and whether it still has to be is learnt with the next report.
        freezer.thaw();
        node.meter.report_soon();
    }
    let timeout = Duration::from_millis(run.timeout_ms);
    let spool = node.spool(attempt.session);
    let mut how = match until_end(task, signal, &mut freezer, timeout, stop).await {
        End::Stopped(how) => how,
        End::Recorded(record) => how_of(record),
        End::Unrecorded => match spool.read_exit_record() {
            Some(record) => how_of(record),
            None => unrecorded(&container).await,
        },
    };
    let frozen = freezer.total();
    drop(uploads);

    // Whatever the script left behind must neither go on nor escape the bill, so the group is emptied first.
    if let Err(err) = group.kill_and_wait_empty(KILL_TIMEOUT).await {
        error!(session = %attempt.session, error = %Chain(&err), "a task's processes outlive their kill");
    }
    if how == (How::Killed { signal: SIGKILL }) && !container.is_alive() {
        // Its supervisor outlived it by long enough to see it die.
        how = container_died();
    }
    let reserved = node.meter.remove_task(run.container, attempt.session);
    let usage = usage(group.as_ref(), licence.billing, reserved, &container, &run);
    if how != (How::Exited { code: 0 }) && group.events().is_ok_and(|events| events.oom_kills > 0) {
        how = How::OutOfMemory;
    }
    let mut notes = Vec::new();
    if how == (How::Exited { code: 0 }) {
        match node
            .spool(attempt.session)
            .collect(container.handle(), run.slot, &attempt.key)
            .await
        {
            Ok(skipped) => notes = skipped,
            Err(err) => {
                how = How::PlatformFault {
                    what: format!("the results were lost: {}", Chain(&err)),
                }
            }
        }
    }
    if let Err(err) = group.remove().await {
        warn!(session = %attempt.session, error = %Chain(&err), "a task's cgroup stays until the next start");
    }
    let frozen_ms = u64::try_from(frozen.as_millis()).unwrap_or(u64::MAX);
    let ending = Ending {
        how,
        at: node.clock.now(),
        usage,
        frozen_ms,
        notes,
    };
    node.recorder.record(Record::TaskEnded {
        function: attempt.function.clone(),
        task: attempt.key.to_string(),
        attempt: licence.attempt,
        used_us: ending.usage.total,
        outcome: outcome(ending.how.verdict(licence.failures, run.max_attempts)),
    });
    end(node, attempt, licence, Some(run), ending).await
}

/// What the recording says of it.
fn outcome(verdict: Verdict) -> TaskOutcome {
    match verdict {
        Verdict::Succeeded => TaskOutcome::Succeeded,
        Verdict::Failed | Verdict::GaveUp | Verdict::Cancelled | Verdict::CapSpent => TaskOutcome::Failed,
        Verdict::Aborted | Verdict::PlatformFault => TaskOutcome::Returned,
    }
}

enum End {
    Recorded(ExitRecord),
    /// The connection to its supervisor was lost.
    Unrecorded,
    /// It still runs, and is not to.
    Stopped(How),
}

/// Waits for whatever ends the task first.
async fn until_end(
    mut task: Box<dyn RunningTask>,
    mut signal: watch::Receiver<Signal>,
    freezer: &mut Freezer<'_>,
    timeout: Duration,
    stop: &CancellationToken,
) -> End {
    let started = Instant::now();
    loop {
        // Frozen time is not the task's own.
        let timeout_at = started + timeout + freezer.past();
        tokio::select! {
            ended = task.wait() => return ended.map_or(End::Unrecorded, End::Recorded),
            changed = signal.changed() => {
                let now = if changed.is_ok() { *signal.borrow_and_update() } else { Signal::Lost };
                match now {
                    Signal::Run => freezer.thaw(),
                    Signal::Freeze => freezer.freeze().await,
                    Signal::CapSpent => return End::Stopped(How::CapSpent),
                    Signal::Dismissed => return End::Stopped(How::Dismissed),
                    Signal::Lost => {
                        return End::Stopped(How::PlatformFault { what: "the session was lost".to_owned() });
                    }
                }
            }
            () = freezer.hold_over() => return End::Stopped(How::Aborted),
            () = tokio::time::sleep_until(timeout_at), if !freezer.is_frozen() => return End::Stopped(How::TimedOut),
            () = stop.cancelled() => return End::Stopped(How::PlatformFault { what: "the node was shut down".to_owned() }),
        }
    }
}

/// A supervisor that is gone while its container lives was killed from within; a container does not die by itself.
async fn unrecorded(container: &WarmContainer) -> How {
    match tokio::time::timeout(DEATH_TIMEOUT, container.handle().ended()).await {
        Ok(()) => container_died(),
        Err(_still_alive) => How::Killed { signal: SIGKILL },
    }
}

fn container_died() -> How {
    How::PlatformFault {
        what: "the container died under the task".to_owned(),
    }
}

fn how_of(record: ExitRecord) -> How {
    match record.outcome {
        Outcome::Exited { code } => How::Exited { code },
        Outcome::Killed { signal } => How::Killed { signal },
        // By the shells' convention; the log says the rest.
        Outcome::ExecFailed { .. } => How::Exited { code: 127 },
        Outcome::SetupFailed { error } => How::PlatformFault { what: error },
    }
}

/// The final reading. A counter that cannot be read bills what was last known, which errs in the user's favour.
fn usage(
    group: &dyn TaskGroup,
    billing: Billing,
    reserved: CpuTime,
    container: &WarmContainer,
    run: &Run,
) -> CpuUsage {
    let read = group.cpu_usage().unwrap_or_else(|err| {
        error!(error = %Chain(&err), "final meter reading failed");
        crate::cgroup::CpuUsage::default()
    });
    let stat = container.group().cpu_stat();
    let throttled = stat.map_or(run.throttled_before, |stat| stat.throttled());
    CpuUsage {
        billed: match billing {
            Billing::Used => read.total,
            Billing::Current => reserved,
        },
        total: read.total,
        user: read.user,
        system: read.system,
        throttled: throttled.saturating_sub(run.throttled_before),
    }
}

fn fault(at: Timestamp, what: String) -> Ending {
    let how = How::PlatformFault { what };
    Ending {
        how,
        at,
        usage: CpuUsage::default(),
        frozen_ms: 0,
        notes: Vec::new(),
    }
}

/// Journals the end; from here on the attempt is finished even if this process is not.
async fn end(
    node: &Node,
    mut attempt: Attempt,
    licence: Licence,
    run: Option<Run>,
    ending: Ending,
) -> Attempt {
    info!(
        task_id = %licence.task,
        attempt = licence.attempt,
        cpu_time_us = ending.usage.total.micros(),
        reason = ending.how.reason(),
        "task ended"
    );
    attempt.state = State::Ended { licence, run, ending };
    finish::record(node, &attempt).await;
    attempt
}

/// Ends an attempt that a fault of ours cut off, free of charge.
pub async fn abandoned(node: &Node, attempt: Attempt, what: &str) -> Attempt {
    let Some(licence) = attempt.licence().cloned() else {
        return attempt;
    };
    let run = attempt.run().cloned();
    let ending = fault(node.clock.now(), what.to_owned());
    end(node, attempt, licence, run, ending).await
}
