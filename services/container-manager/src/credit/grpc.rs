//! credit-manager over gRPC.

use std::time::Duration;

use access::client::ConnectError;
use access::{Caller, Target, TokenHash};
use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};
use proto::credit::v1 as wire;
use proto::credit::v1::access_service_client::AccessServiceClient;
use proto::credit::v1::account_service_client::AccountServiceClient;
use proto::credit::v1::session_service_client::SessionServiceClient;
use proto::{InvalidField, parse};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Code, Status};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;
use units::{Amount, CpuPrice, CpuTime, FunctionName, MilliCores, NodeId, SessionId, Timestamp, UserName};

use super::{
    Account, Alert, Credit, CreditError, Estimate, FunctionEntry, OpenSession, Opened, Push, Quote, Refusal,
    SessionState, Usage,
};
use crate::task::{AttemptCost, Bill, Licence, Verdict};

/// A call that takes longer is given up and repeated; every call may be.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What carries a call there and its answer back.
pub type Transport = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

#[derive(Clone, Debug)]
pub struct GrpcCredit {
    node: NodeId,
    url: String,
    sessions: SessionServiceClient<Transport>,
    accounts: AccountServiceClient<Transport>,
    access: AccessServiceClient<Transport>,
}

impl GrpcCredit {
    /// Connects when first used, and again whenever the connection is lost.
    pub fn new(target: Target, node: NodeId) -> Result<Self, ConnectError> {
        let url = target.url.clone();
        let channel = target.connect_lazy()?;
        let transport = Transport::new(channel.map_err(|err| Status::from_error(Box::new(err))));
        Ok(Self::over(transport, &url, node))
    }

    /// Over a connection that somebody else keeps; `url` is for messages.
    pub fn over(transport: Transport, url: &str, node: NodeId) -> Self {
        Self {
            node,
            url: url.to_owned(),
            sessions: SessionServiceClient::new(transport.clone()),
            accounts: AccountServiceClient::new(transport.clone()),
            access: AccessServiceClient::new(transport),
        }
    }

    fn error(&self, status: Status) -> CreditError {
        match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::PermissionDenied => {
                CreditError::Refused {
                    message: status.message().to_owned(),
                }
            }
            _ => CreditError::Unreachable {
                url: self.url.clone(),
                err: Box::new(status),
            },
        }
    }

    async fn call<T>(
        &self,
        answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, CreditError> {
        match tokio::time::timeout(CALL_TIMEOUT, answer).await {
            Ok(answer) => answer
                .map(tonic::Response::into_inner)
                .map_err(|status| self.error(status)),
            Err(elapsed) => Err(CreditError::Unreachable {
                url: self.url.clone(),
                err: Box::new(elapsed),
            }),
        }
    }
}

#[async_trait]
impl Credit for GrpcCredit {
    async fn open(&self, request: &OpenSession) -> Result<Opened, CreditError> {
        let message = wire::OpenSessionRequest {
            session_id: request.session.to_string(),
            node_id: self.node.to_string(),
            function: request.function.to_string(),
            object_key: request.key.to_string(),
            task_id: request.task.map(|task| task.to_string()).unwrap_or_default(),
            is_left_behind: request.is_left_behind,
            max_amount_halfords: request.max_amount.map_or(0, Amount::halfords),
            millicores: request.capacity.millicores(),
            input_bytes: request.input_bytes,
            parent_task_id: request
                .parent
                .map(|parent| parent.to_string())
                .unwrap_or_default(),
        };
        let answer = self.call(self.sessions.clone().open_session(message)).await?;
        match answer
            .outcome
            .ok_or_else(|| InvalidField::new("outcome", "is not set"))?
        {
            wire::open_session_response::Outcome::Opened(opened) => {
                let state = opened
                    .state
                    .clone()
                    .ok_or_else(|| InvalidField::new("state", "is not set"))?;
                Ok(Opened::Licensed {
                    licence: licence(&opened)?,
                    state: session_state(&state)?,
                })
            }
            wire::open_session_response::Outcome::Refused(refused) => Ok(Opened::Refused {
                refusal: refusal(refused.reason())?,
                message: refused.message,
            }),
        }
    }

    async fn report(&self, usages: &[Usage]) -> Result<Vec<SessionState>, CreditError> {
        let usages = usages.iter().map(|usage| wire::Usage {
            session_id: usage.session.to_string(),
            cpu_time_us: usage.total.micros(),
            millicores: usage.capacity.millicores(),
            revision: usage.revision,
        });
        let message = wire::ReportUsageRequest {
            node_id: self.node.to_string(),
            usages: usages.collect(),
        };
        let answer = self.call(self.sessions.clone().report_usage(message)).await?;
        Ok(answer
            .states
            .iter()
            .map(session_state)
            .collect::<Result<_, _>>()?)
    }

    async fn close(&self, session: SessionId, total: CpuTime, verdict: Verdict) -> Result<Bill, CreditError> {
        let outcome = match verdict {
            Verdict::Succeeded => wire::Outcome::Succeeded,
            Verdict::Failed => wire::Outcome::Failed,
            Verdict::GaveUp => wire::Outcome::GaveUp,
            Verdict::Aborted => wire::Outcome::Aborted,
            Verdict::Cancelled => wire::Outcome::Cancelled,
            Verdict::CapSpent => wire::Outcome::CapSpent,
            Verdict::PlatformFault => wire::Outcome::PlatformFault,
        };
        let message = wire::CloseSessionRequest {
            session_id: session.to_string(),
            cpu_time_us: total.micros(),
            outcome: outcome.into(),
        };
        let closed = self.call(self.sessions.clone().close_session(message)).await?;
        Ok(Bill {
            amount: Amount::from_halfords(closed.amount_halfords),
            task_amount: Amount::from_halfords(closed.task_amount_halfords),
            transfers: closed.transfer_ids,
            balance: Amount::from_halfords(closed.balance_halfords),
            debt_limit: Amount::from_halfords(closed.debt_limit_halfords),
            attempts: closed
                .attempts
                .into_iter()
                .map(attempt_cost)
                .collect::<Result<_, _>>()?,
        })
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<Push, CreditError>>, CreditError> {
        let message = wire::WatchRequest {
            node_id: self.node.to_string(),
        };
        let stream = self.call(self.sessions.clone().watch(message)).await?;
        let this = self.clone();
        Ok(stream
            .map(move |pushed| pushed.map_err(|status| this.error(status)).and_then(|p| push(&p)))
            .boxed())
    }

    async fn quote(&self, function: &FunctionName, input_bytes: u64) -> Result<Quote, CreditError> {
        let message = wire::QuoteRequest {
            function: function.to_string(),
            input_bytes,
        };
        let answer = self.call(self.accounts.clone().quote(message)).await?;
        let used = |micros, halfords| (CpuTime::from_micros(micros), Amount::from_halfords(halfords));
        Ok(Quote {
            user: parse("user", &answer.user)?,
            price: price(answer.cpu_time_us_per_grc)?,
            estimate: answer.estimate.map(|found| Estimate {
                samples: found.samples,
                input_bytes_min: found.input_bytes_min,
                input_bytes_max: found.input_bytes_max,
                p50: used(found.p50_cpu_time_us, found.p50_amount_halfords),
                p90: used(found.p90_cpu_time_us, found.p90_amount_halfords),
            }),
        })
    }

    async fn functions(&self) -> Result<Vec<FunctionEntry>, CreditError> {
        let message = wire::ListFunctionsRequest { user: String::new() };
        let answer = self.call(self.accounts.clone().list_functions(message)).await?;
        let entry = |function: &wire::Function| -> Result<_, CreditError> {
            Ok(FunctionEntry {
                name: parse("name", &function.name)?,
                user: parse("user", &function.user)?,
                may_start: function.may_start,
                alert: function.alert.as_ref().map(alert),
            })
        };
        answer.functions.iter().map(entry).collect()
    }

    async fn account(&self, user: &UserName) -> Result<Account, CreditError> {
        let message = wire::GetUserRequest {
            name: user.to_string(),
        };
        let answer = self.call(self.accounts.clone().get_user(message)).await?;
        let user = answer
            .user
            .ok_or_else(|| InvalidField::new("user", "is not set"))?;
        Ok(Account {
            balance: Amount::from_halfords(user.balance_halfords),
            standing: user.standing().try_into()?,
            debt_limit: Amount::from_halfords(user.debt_limit_halfords),
            billing: user.billing().try_into()?,
            burn: Amount::from_halfords(user.burn_halfords_per_hour),
            runway: user.runway_ms.map(Duration::from_millis),
        })
    }

    async fn identify(&self, token: &TokenHash) -> Result<Option<Caller>, CreditError> {
        let message = wire::IdentifyTokenRequest {
            token_sha256: token.as_bytes().to_vec().into(),
        };
        let asked = async {
            match self.access.clone().identify_token(message).await {
                Ok(answer) => Ok(tonic::Response::new(Some(answer.into_inner()))),
                Err(status) if status.code() == Code::NotFound => Ok(tonic::Response::new(None)),
                Err(status) => Err(status),
            }
        };
        let Some(answer) = self.call(asked).await? else {
            return Ok(None);
        };
        match answer.role() {
            wire::Role::Operator => Ok(Some(Caller::Operator)),
            wire::Role::Auditor => Ok(Some(Caller::Auditor)),
            wire::Role::User => Ok(Some(Caller::User(parse("user", &answer.user)?))),
            wire::Role::Node => Ok(Some(Caller::Node(None))),
            wire::Role::Unspecified => Err(InvalidField::new("role", "is not set").into()),
        }
    }
}

fn alert(alert: &wire::Alert) -> Alert {
    Alert {
        id: alert.id.clone(),
        threshold: Amount::from_halfords(alert.threshold_halfords),
        balance: Amount::from_halfords(alert.balance_halfords),
        raised_at: Timestamp::from_unix_ms(alert.raised_at_ms),
    }
}

fn licence(opened: &wire::SessionOpened) -> Result<Licence, CreditError> {
    Ok(Licence {
        task: parse("task_id", &opened.task_id)?,
        user: parse("user", &opened.user)?,
        attempt: opened.attempt,
        failures: opened.failures,
        price: price(opened.cpu_time_us_per_grc)?,
        root: parse("root_task_id", &opened.root_task_id)?,
        lineage_cap: opened.lineage_cap_halfords.map(Amount::from_halfords),
        billing: opened.billing().try_into()?,
        cap_at: opened.cap_at_us.map(CpuTime::from_micros),
    })
}

fn price(cpu_time_us_per_grc: u64) -> Result<CpuPrice, InvalidField> {
    CpuPrice::from_cpu_time_per_grc(CpuTime::from_micros(cpu_time_us_per_grc))
        .map_err(|err| InvalidField::new("cpu_time_us_per_grc", err))
}

fn attempt_cost(cost: wire::AttemptCost) -> Result<AttemptCost, InvalidField> {
    Ok(AttemptCost {
        session: parse("session_id", &cost.session_id)?,
        attempt: cost.attempt,
        verdict: verdict(cost.outcome())?,
        billed: CpuTime::from_micros(cost.cpu_time_us),
        amount: Amount::from_halfords(cost.amount_halfords),
        refunded: Amount::from_halfords(cost.refunded_halfords),
        transfers: cost.transfer_ids,
        transfers_count: cost.transfers,
    })
}

fn verdict(outcome: wire::Outcome) -> Result<Verdict, InvalidField> {
    match outcome {
        wire::Outcome::Succeeded => Ok(Verdict::Succeeded),
        wire::Outcome::Failed => Ok(Verdict::Failed),
        wire::Outcome::GaveUp => Ok(Verdict::GaveUp),
        wire::Outcome::Aborted => Ok(Verdict::Aborted),
        wire::Outcome::Cancelled => Ok(Verdict::Cancelled),
        wire::Outcome::CapSpent => Ok(Verdict::CapSpent),
        wire::Outcome::PlatformFault => Ok(Verdict::PlatformFault),
        wire::Outcome::Unspecified => Err(InvalidField::new("outcome", "is not set")),
    }
}

fn refusal(reason: wire::RefusalReason) -> Result<Refusal, CreditError> {
    match reason {
        wire::RefusalReason::UnknownFunction => Ok(Refusal::UnknownFunction),
        wire::RefusalReason::AlreadyRunning => Ok(Refusal::AlreadyRunning),
        wire::RefusalReason::NoFunds => Ok(Refusal::NoFunds),
        wire::RefusalReason::CapSpent => Ok(Refusal::CapSpent),
        wire::RefusalReason::Runway => Ok(Refusal::Runway),
        wire::RefusalReason::SpendLimit => Ok(Refusal::SpendLimit),
        wire::RefusalReason::CapHeld => Ok(Refusal::CapHeld),
        wire::RefusalReason::TooDeep => Ok(Refusal::TooDeep),
        wire::RefusalReason::AlreadyDone => Ok(Refusal::AlreadyDone),
        wire::RefusalReason::Unspecified => Err(InvalidField::new("reason", "is not set").into()),
    }
}

fn session_state(state: &wire::SessionState) -> Result<SessionState, InvalidField> {
    Ok(SessionState {
        session: parse("session_id", &state.session_id)?,
        standing: state.standing().try_into()?,
        restriction: state.restriction().try_into()?,
        may_start: state.may_start,
        grant: state
            .grant
            .ok_or_else(|| InvalidField::new("grant", "is not set"))?
            .into(),
        balance: Amount::from_halfords(state.balance_halfords),
        revision: state.revision,
        ceiling: state.ceiling_millicores.map(MilliCores::from_millicores),
        dismissed: state.dismissed,
    })
}

fn push(pushed: &wire::WatchResponse) -> Result<Push, CreditError> {
    let gate = |gate: &wire::UserGate| Ok((parse("user", &gate.user)?, gate.may_start));
    Ok(Push {
        states: pushed
            .states
            .iter()
            .map(session_state)
            .collect::<Result<_, _>>()?,
        gates: pushed
            .gates
            .iter()
            .map(gate)
            .collect::<Result<_, InvalidField>>()?,
    })
}
