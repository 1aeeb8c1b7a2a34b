//! The container-managers' side: sessions and their watchers.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use access::Caller;
use futures::{Stream, StreamExt as _};
use proto::credit::v1 as wire;
use proto::credit::v1::open_session_response::Outcome as Answer;
use proto::credit::v1::session_service_server::SessionService;
use proto::{InvalidField, parse};
use service_kit::Clock;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::info;
use units::{Amount, CpuTime, MilliCores, NodeId, SessionId, TaskId};

use super::status::from_command;
use super::{wire_outcome, wire_state};
use crate::bank::{BankError, Descent, Now, OpenRequest, Opened, Refusal, Usage, UserView};
use crate::session::{AttemptCost, Bill, Closed, LeftBehind, Outcome};
use crate::watch::News;
use crate::writer::{CommandError, Desk, Writer};

/// What an object key can be, in bytes: S3's own limit.
const KEY_BYTES_MAX: usize = 1024;

pub struct SessionApi {
    pub writer: Writer,
    pub clock: Arc<dyn Clock>,
    /// Ends the watchers' streams, which would never end by themselves.
    pub shutdown: CancellationToken,
    /// How deep tasks may be chained without a cap.
    pub chain_depth_max: u32,
    /// How long a node may be away.
    pub lease: Duration,
}

impl SessionApi {
    fn now(&self) -> Now {
        Now {
            wall: self.clock.now(),
            instant: Instant::now(),
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Desk) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, Status> {
        self.writer.call(command).await.map_err(|err| from_command(&err))
    }
}

#[tonic::async_trait]
impl SessionService for SessionApi {
    async fn open_session(
        &self,
        request: Request<wire::OpenSessionRequest>,
    ) -> Result<Response<wire::OpenSessionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let task: Option<TaskId> = match message.task_id.as_str() {
            "" => None,
            text => Some(parse("task_id", text)?),
        };
        let parent: Option<TaskId> = match message.parent_task_id.as_str() {
            "" => None,
            text => Some(parse("parent_task_id", text)?),
        };
        let is_left_behind = message.is_left_behind;
        let mut open = open_request(message)?;
        caller.check_node(&open.node)?;
        open.descent.depth_max = self.chain_depth_max;
        let (session, function, key) = (open.session, open.function.clone(), open.key.clone());
        let (fresh, now, lease) = (TaskId::new(), self.now(), self.lease);
        if let Some(id) = task.filter(|_| is_left_behind) {
            let left = self.call(move |desk| desk.left_behind(id, lease, now)).await?;
            if let Some((refusal, message)) = refusal_of(left, id) {
                info!(session_id = %session, %function, key, reason = message, "session refused");
                return Ok(answered(refused(refusal, message)));
            }
        }
        let (opened, lineage_cap) = self
            .call(move |desk| {
                if let Some(bill) = desk.bill(session)? {
                    return Err(already_closed(&bill.closed).into());
                }
                let earlier = task.map(|id| desk.task(id)).transpose()?.flatten();
                open.descent = desk.descent(&open, earlier.as_ref(), task.is_some(), parent)?;
                let opened = desk.bank.open(open, earlier, fresh, now)?;
                let lineage_cap = desk.bank.lineage_cap(session);
                Ok((opened, lineage_cap))
            })
            .await?;
        let answer = match opened {
            Opened::Licensed { session, state } => {
                let task = &session.task;
                let attempt = task.attempts;
                info!(session_id = %session.id, task_id = %task.id, user = %session.user, %function, key, attempt, "session opened");
                Answer::Opened(wire::SessionOpened {
                    task_id: task.id.to_string(),
                    user: session.user.to_string(),
                    attempt,
                    failures: task.failures,
                    cpu_time_us_per_grc: session.price.cpu_time_per_grc().micros(),
                    billing: wire::Billing::from(session.billing).into(),
                    state: Some(wire_state(&state)),
                    cap_at_us: session.cap_at().map(CpuTime::micros),
                    root_task_id: task.root.to_string(),
                    lineage_cap_halfords: lineage_cap.map(Amount::halfords),
                })
            }
            Opened::Refused { refusal, message } => {
                info!(session_id = %session, %function, key, reason = message, "session refused");
                refused(refusal, message)
            }
        };
        Ok(answered(answer))
    }

    async fn report_usage(
        &self,
        request: Request<wire::ReportUsageRequest>,
    ) -> Result<Response<wire::ReportUsageResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let node: NodeId = parse("node_id", &message.node_id)?;
        caller.check_node(&node)?;
        let usages = message.usages.iter().map(usage).collect::<Result<Vec<_>, _>>()?;
        let now = self.now();
        let states = self
            .call(move |desk| Ok(desk.bank.report(&node, &usages, now)?))
            .await?;
        Ok(Response::new(wire::ReportUsageResponse {
            states: states.iter().map(wire_state).collect(),
        }))
    }

    async fn close_session(
        &self,
        request: Request<wire::CloseSessionRequest>,
    ) -> Result<Response<wire::CloseSessionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let session: SessionId = parse("session_id", &message.session_id)?;
        let total = CpuTime::from_micros(message.cpu_time_us);
        let outcome = outcome(message.outcome())?;
        let now = self.clock.now();
        let (bill, view) = self
            .call(move |desk| {
                let open = desk.bank.session(session);
                if open.is_some_and(|open| !caller.speaks_for(&open.node)) {
                    return Err(BankError::UnknownSession(session).into());
                }
                let bill = match desk.bill(session)? {
                    Some(bill) => same_close(bill, total, outcome)?,
                    None => desk.bank.close(session, total, outcome, now)?,
                };
                let view = desk.bank.view(&bill.closed.user)?;
                Ok((bill, view))
            })
            .await?;
        let (amount, task) = (bill.closed.amount, bill.closed.task);
        let attempts = self.call(move |desk| desk.attempts(task)).await?;
        info!(session_id = %session, amount_halfords = amount.halfords(), outcome = outcome.as_str(), "session closed");
        Ok(Response::new(wire_bill(&bill, &view, &attempts)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request)?;
        let node: NodeId = parse("node_id", &request.into_inner().node_id)?;
        caller.check_node(&node)?;
        let news = self
            .call(move |desk| Ok(desk.watchers.add(node, &desk.bank)))
            .await?;
        let stream = ReceiverStream::new(news)
            .map(|news| Ok(wire_news(&news)))
            .take_until(self.shutdown.clone().cancelled_owned());
        Ok(Response::new(Box::pin(stream)))
    }
}

fn open_request(message: wire::OpenSessionRequest) -> Result<OpenRequest, InvalidField> {
    if !(1..=KEY_BYTES_MAX).contains(&message.object_key.len()) {
        let problem = format!("has {} bytes, not 1 to {KEY_BYTES_MAX}", message.object_key.len());
        return Err(InvalidField::new("object_key", problem));
    }
    let cap = Amount::from_halfords(message.max_amount_halfords);
    if cap.is_negative() {
        let problem = "is negative (hint: 0 means no cap)";
        return Err(InvalidField::new("max_amount_halfords", problem));
    }
    Ok(OpenRequest {
        session: parse("session_id", &message.session_id)?,
        node: parse("node_id", &message.node_id)?,
        function: parse("function", &message.function)?,
        key: message.object_key,
        cap: Some(cap).filter(|cap| cap.is_positive()),
        capacity: MilliCores::from_millicores(message.millicores),
        // The journal holds 63 bits, and no object is that large.
        input_bytes: message.input_bytes.min(i64::MAX.unsigned_abs()),
        descent: Descent::default(),
    })
}

fn usage(message: &wire::Usage) -> Result<Usage, InvalidField> {
    Ok(Usage {
        session: parse("session_id", &message.session_id)?,
        total: CpuTime::from_micros(message.cpu_time_us),
        capacity: MilliCores::from_millicores(message.millicores),
        revision: message.revision,
    })
}

fn outcome(message: wire::Outcome) -> Result<Outcome, InvalidField> {
    match message {
        wire::Outcome::Unspecified => Err(InvalidField::new("outcome", "is not set")),
        wire::Outcome::Succeeded => Ok(Outcome::Succeeded),
        wire::Outcome::Failed => Ok(Outcome::Failed),
        wire::Outcome::GaveUp => Ok(Outcome::GaveUp),
        wire::Outcome::Aborted => Ok(Outcome::Aborted),
        wire::Outcome::Cancelled => Ok(Outcome::Cancelled),
        wire::Outcome::CapSpent => Ok(Outcome::CapSpent),
        wire::Outcome::PlatformFault => Ok(Outcome::PlatformFault),
    }
}

fn wire_refusal(refusal: Refusal) -> wire::RefusalReason {
    match refusal {
        Refusal::UnknownFunction => wire::RefusalReason::UnknownFunction,
        Refusal::AlreadyRunning => wire::RefusalReason::AlreadyRunning,
        Refusal::NoFunds => wire::RefusalReason::NoFunds,
        Refusal::CapSpent => wire::RefusalReason::CapSpent,
        Refusal::Runway => wire::RefusalReason::Runway,
        Refusal::SpendLimit => wire::RefusalReason::SpendLimit,
        Refusal::CapHeld => wire::RefusalReason::CapHeld,
        Refusal::TooDeep => wire::RefusalReason::TooDeep,
        Refusal::AlreadyDone => wire::RefusalReason::AlreadyDone,
    }
}

fn answered(answer: Answer) -> Response<wire::OpenSessionResponse> {
    Response::new(wire::OpenSessionResponse {
        outcome: Some(answer),
    })
}

fn refused(refusal: Refusal, message: String) -> Answer {
    Answer::Refused(wire::SessionRefused {
        reason: wire_refusal(refusal).into(),
        message,
    })
}

/// Why a task that seems left behind is not run again.
fn refusal_of(left: LeftBehind, task: TaskId) -> Option<(Refusal, String)> {
    match left {
        LeftBehind::Yes => None,
        LeftBehind::No => {
            let message = format!("task {task} is with the node that ran it last");
            Some((Refusal::AlreadyRunning, message))
        }
        LeftBehind::Over(outcome) => {
            let message = format!("the last attempt of task {task} ended as {}", outcome.as_str());
            Some((Refusal::AlreadyDone, message))
        }
    }
}

fn already_closed(closed: &Closed) -> BankError {
    BankError::AlreadyClosed {
        session: closed.id,
        outcome: closed.outcome,
    }
}

/// A close that was heard before is answered as before; another end of the same session is refused, also that of one that was
/// lost: its node is to know that the task may be another's. The ledger keeps the highest total, so a repeated close may name a
/// smaller one.
fn same_close(bill: Bill, total: CpuTime, outcome: Outcome) -> Result<Bill, BankError> {
    let closed = &bill.closed;
    if closed.outcome == outcome && total <= closed.total {
        Ok(bill)
    } else {
        Err(already_closed(closed))
    }
}

fn wire_bill(bill: &Bill, view: &UserView, attempts: &[AttemptCost]) -> wire::CloseSessionResponse {
    wire::CloseSessionResponse {
        amount_halfords: bill.closed.amount.halfords(),
        task_amount_halfords: bill.task_amount.halfords(),
        transfer_ids: bill.transfers.iter().map(ToString::to_string).collect(),
        balance_halfords: view.balance.halfords(),
        standing: wire::Standing::from(view.standing).into(),
        debt_limit_halfords: view.user.settings.debt_limit.halfords(),
        attempts: attempts.iter().map(wire_attempt_cost).collect(),
    }
}

fn wire_attempt_cost(cost: &AttemptCost) -> wire::AttemptCost {
    wire::AttemptCost {
        session_id: cost.session.to_string(),
        attempt: cost.attempt,
        outcome: wire_outcome(cost.outcome).into(),
        cpu_time_us: cost.total.micros(),
        amount_halfords: cost.amount.halfords(),
        refunded_halfords: cost.refunded.halfords(),
        transfer_ids: cost.transfers.iter().map(ToString::to_string).collect(),
        transfers: cost.transfers_count,
    }
}

fn wire_news(news: &News) -> wire::WatchResponse {
    let gates = news.gates.iter().map(|(user, may_start)| wire::UserGate {
        user: user.to_string(),
        may_start: *may_start,
    });
    wire::WatchResponse {
        states: news.states.iter().map(wire_state).collect(),
        gates: gates.collect(),
    }
}
