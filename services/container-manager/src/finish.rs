//! CHARGE, and what follows it: an ended attempt is charged, published, and over.

use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable as _};
use service_kit::Chain;
use tokio::sync::OnceCell;
use tracing::{error, warn};

use crate::credit::CreditError;
use crate::documents::Settled;
use crate::journal::JournalError;
use crate::metrics::METRICS;
use crate::node::Node;
use crate::problem::{OURS_TO_MEND, Problem};
use crate::publish::{self, PublishError};
use crate::store::Head;
use crate::task::{Attempt, Bill, Ending, How, Licence, Run, State, Verdict};

/// Of the time after which a silent node's work is void, what may pass until a closed session is asked for once more.
const CONFIRM_PART: u32 = 4;

/// Charges an ended attempt and brings the bucket up to date; `object` is the task's object in `processing/`, where that is
/// known. Returns the attempt when it is over. Can be cut off anywhere and begun again.
pub async fn finish(node: &Node, attempt: Attempt, object: Option<&Head>) -> Attempt {
    let State::Ended { licence, run, ending } = attempt.state.clone() else {
        return attempt;
    };
    let verdict = attempt.verdict().unwrap_or(Verdict::PlatformFault);
    let (store, spool) = (node.store.as_ref(), &node.spool(attempt.session));
    let log = OnceCell::new();
    let upload_log = || async {
        match verdict {
            Verdict::Succeeded => {
                publish::upload_log(store, attempt.function.as_str(), &attempt.key.log(), spool).await
            }
            // Theirs is another place.
            _ => Ok(()),
        }
    };
    let close = || node.credit.close(attempt.session, ending.usage.billed, verdict);
    let patient_close = close
        .retry(patiently())
        .when(CreditError::is_transient)
        .notify(|err, _| warn!(error = %Chain(err), "session not closed, will retry"));
    // A log may be seen before its task is charged, as that of a running one is; results may not.
    let ((closed, closed_at), _) = tokio::join!(
        async { (patient_close.await, Instant::now()) },
        log.get_or_try_init(upload_log)
    );
    let bill = match closed {
        Ok(bill) => bill,
        Err(err) => return void(node, attempt, licence, run, ending, &err).await,
    };
    let settled = &Settled {
        node: &node.config.node,
        key: &node.signing_key,
        attempt: &attempt,
        licence: &licence,
        run: run.as_ref(),
        ending: &ending,
        bill: &bill,
        verdict,
    };
    let publish = || async {
        let (chained, _) = tokio::try_join!(
            publish::upload(store, spool, settled),
            log.get_or_try_init(upload_log)
        )?;
        if closed_at.elapsed() > node.config.orphan() / CONFIRM_PART {
            // This node may have been given up meanwhile.
            close().await?;
        }
        publish::conclude(store, spool, settled, chained.as_ref(), object).await
    };
    let published = publish
        .retry(patiently())
        .when(PublishError::is_worth_a_retry)
        .notify(|err, _| warn!(error = %Chain(err), "results not published, will retry"))
        .await;
    if let Err(PublishError::Credit(err)) = published {
        return void(node, attempt, licence, run, ending, &err).await;
    }
    if let Err(err) = published {
        error!(session = %attempt.session, error = %Chain(&err), "results cannot be published");
    }
    over(node, attempt, licence, run, ending, bill).await
}

/// Its lease ran out, or was never given: nothing of it may be seen, and the object is not ours to move.
async fn void(
    node: &Node,
    attempt: Attempt,
    licence: Licence,
    run: Option<Run>,
    ending: Ending,
    err: &CreditError,
) -> Attempt {
    error!(session = %attempt.session, error = %Chain(err), "session not closed, its work is void");
    let how = How::PlatformFault {
        what: format!("the session was lost: {err}"),
    };
    let ending = Ending { how, ..ending };
    over(node, attempt, licence, run, ending, Bill::default()).await
}

/// Nothing is left to do.
async fn over(
    node: &Node,
    mut attempt: Attempt,
    licence: Licence,
    run: Option<Run>,
    ending: Ending,
    bill: Bill,
) -> Attempt {
    if let Err(err) = node.spool(attempt.session).discard_results() {
        warn!(error = %Chain(&err), "spooled results stay on disk");
    }
    attempt.state = State::Over {
        licence: Some(licence),
        run,
        ending: Some(ending),
        bill: Some(bill),
    };
    record(node, &attempt).await;
    METRICS.attempt_over(&attempt);
    attempt
}

fn patiently() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(10))
        .without_max_times()
}

/// A journal that cannot be written is retried for ever: without it nothing may go on, and nothing is lost by waiting.
pub(crate) async fn record(node: &Node, attempt: &Attempt) {
    let write = || node.journal.record(attempt);
    let mut has_failed = false;
    let written = write
        .retry(patiently())
        .notify(|err: &JournalError, _| {
            error!(error = %Chain(err), "journal not written, will retry");
            has_failed = true;
            let problem = Problem::new(Chain(err).to_string(), OURS_TO_MEND);
            node.problems.set_node(Some(problem));
        })
        .await;
    debug_assert!(written.is_ok(), "retried for ever");
    if has_failed {
        node.problems.set_node(None);
    }
}
