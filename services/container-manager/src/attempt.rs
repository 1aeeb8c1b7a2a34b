//! One attempt, from the claimed object to results on this node's disk.
//!
//! ```text
//! move to `processing/` ─► inbox ─► place in its cgroup ─► run ─► cgroup empty, counter final ─► results to the spool
//! ```
//! The task leaves its slot as soon as its results are on this node's disk ([`execute`]); charging and publishing go
//! on beside the next task ([`crate::finish`]).

use std::sync::Arc;
use std::time::Duration;

use service_kit::Chain;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use units::{Billing, CpuTime, Timestamp};

use crate::cgroup::TaskGroup;
use crate::claim::{self, Won};
use crate::container::{ExitRecord, Outcome, RunningTask};
use crate::finish;
use crate::freezer::Freezer;
use crate::function::FunctionSettings;
use crate::layout::TaskKey;
use crate::live_log::LogUploads;
use crate::meter::Signal;
use crate::node::Node;
use crate::recording::{Record, TaskOutcome};
use crate::start::{self, StartError};
use crate::store::Head;
use crate::task::{Attempt, CpuUsage, Ending, How, Licence, Run, State, Verdict};
use crate::utils::Script;
use crate::warm::WarmContainer;

/// How long a killed task may take to be gone; measured: 34 ms for 400 processes.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// A dying container takes its tasks along first; measured: 10 ms for all of it.
const DEATH_TIMEOUT: Duration = Duration::from_millis(500);
/// What a task's supervisor dies of, if the task or the kernel kills it.
const SIGKILL: i32 = 9;

/// What an attempt is run with.
pub struct Plan {
    pub container: Arc<WarmContainer>,
    pub slot: u32,
    pub script: Script,
    pub settings: FunctionSettings,
    /// Before the session was asked for, whose lease began later.
    pub asked_at: Instant,
}

/// A task whose script runs.
pub struct Started {
    pub task: Box<dyn RunningTask>,
    pub group: Arc<dyn TaskGroup>,
    pub run: Run,
    pub container: Arc<WarmContainer>,
    /// Started by an earlier manager.
    pub adopted: bool,
    /// When another node may have it, unless credit-manager is told of it before.
    pub void_at: Instant,
}

/// What became of a claim.
pub enum Executed {
    /// The attempt has ended and is to be finished, with its object in `processing/`, where that is known.
    Ended {
        attempt: Box<Attempt>,
        object: Option<Head>,
        /// Whether it never started for a fault of ours, which may meet the next as well.
        is_fault: bool,
    },
    /// The object changed before it was ours; the session was given back.
    Withdrawn(TaskKey),
}

/// Runs what was just claimed until it has ended and its results are in the spool.
pub async fn execute(node: &Node, plan: &Plan, won: Won, stop: &CancellationToken) -> Executed {
    let Won {
        mut attempt,
        state,
        mut input,
    } = won;
    let Some(licence) = attempt.licence().cloned() else {
        return Executed::Withdrawn(attempt.key);
    };
    match start::start(node, plan, &mut attempt, &licence, state, &mut input).await {
        Ok(started) => Executed::Ended {
            attempt: Box::new(watch_over(node, started, attempt, licence, stop).await),
            object: Some(input.head),
            is_fault: false,
        },
        Err(StartError::Changed) => {
            debug!(key = %attempt.key, "the object changed while it was claimed");
            let withdrawn = claim::withdraw(node.credit.as_ref(), &node.journal, &attempt).await;
            if let Err(err) = withdrawn {
                warn!(session = %attempt.session, error = %Chain(&err), "a claim that came to nothing stays journalled");
            }
            if let Err(err) = node.spool(attempt.session).remove() {
                warn!(session = %attempt.session, error = %err, "an attempt's folder stays on disk");
            }
            Executed::Withdrawn(attempt.key)
        }
        Err(err) => {
            let what = Chain(&err).to_string();
            warn!(session = %attempt.session, error = what, "task not started");
            Executed::Ended {
                attempt: Box::new(abandoned(node, attempt, &what).await),
                object: None,
                is_fault: true,
            }
        }
    }
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
        void_at,
    } = started;
    let signal = node.meter.add_task(
        run.container,
        group.clone(),
        &licence,
        run.session.clone(),
        void_at,
    );
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
            None if !spool.has_begun() => How::PlatformFault {
                what: "the manager ended before the script began".to_owned(),
            },
            None => unrecorded(&container).await,
        },
    };
    let frozen = freezer.total();
    drop(uploads);

    // Whatever the script left behind must neither go on nor escape the bill, so the group is emptied first.
    let stop_at = Instant::now();
    if let Err(err) = group.kill_and_wait_empty(KILL_TIMEOUT).await {
        error!(session = %attempt.session, error = %Chain(&err), "a task's processes outlive their kill");
    }
    debug!(session = %attempt.session, emptied_us = micros(stop_at.elapsed()), "a task's cgroup is empty");
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
                    Signal::Cancelled => return End::Stopped(How::Cancelled),
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

fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
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
