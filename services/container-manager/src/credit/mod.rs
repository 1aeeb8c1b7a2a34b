//! The edge to credit-manager: who may run, what was used, what that allows.

pub mod fake;
mod grpc;

use std::time::Duration;

use access::{Caller, TokenHash};
use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use units::{
    Amount, Billing, CpuPrice, CpuTime, FunctionName, Grant, MilliCores, Restriction, SessionId, Standing,
    TaskId, Timestamp, UserName,
};

pub use grpc::{GrpcCredit, Transport};

use crate::layout::TaskKey;
use crate::task::{Bill, Licence, Verdict};

/// Asks to run one attempt at a task.
#[derive(Clone, Debug)]
pub struct OpenSession {
    pub session: SessionId,
    pub function: FunctionName,
    pub key: TaskKey,
    /// The task's id, where an earlier attempt left it on the object.
    pub task: Option<TaskId>,
    /// The object is in `processing/`, of a node that may be gone: refused unless its newest session was lost.
    pub is_left_behind: bool,
    /// The task that the object is said to be a result of.
    pub parent: Option<TaskId>,
    /// What all attempts of the task together may cost.
    pub max_amount: Option<Amount>,
    pub capacity: MilliCores,
    pub input_bytes: u64,
}

#[derive(Clone, Debug)]
pub enum Opened {
    Licensed { licence: Licence, state: SessionState },
    Refused { refusal: Refusal, message: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    UnknownFunction,
    /// Another session is live for the same task.
    AlreadyRunning,
    NoFunds,
    CapSpent,
    /// With it, the balance would not last the user's minimum runway.
    Runway,
    /// A spending limit leaves no room for it.
    SpendLimit,
    /// Others of its lineage hold what is left of its cap.
    CapHeld,
    /// Chained deeper than is allowed without a cap.
    TooDeep,
    /// The same result was chained before, and its task is over.
    AlreadyDone,
}

impl Refusal {
    /// Whether the object can never run as it is.
    pub fn is_final(self) -> bool {
        match self {
            Self::CapSpent | Self::TooDeep | Self::AlreadyDone => true,
            Self::UnknownFunction
            | Self::AlreadyRunning
            | Self::NoFunds
            | Self::Runway
            | Self::SpendLimit
            | Self::CapHeld => false,
        }
    }
}

/// The whole current state of one session, as credit-manager sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    pub session: SessionId,
    pub standing: Standing,
    pub restriction: Restriction,
    pub may_start: bool,
    pub grant: Grant,
    pub balance: Amount,
    /// Grows with every change of the grant.
    pub revision: u64,
    /// The most CPU it may have, so that a spending limit holds.
    pub ceiling: Option<MilliCores>,
    /// The user's funds do not last for it beside older work: it is to go back to the queue.
    pub dismissed: bool,
}

/// One session's meter reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub session: SessionId,
    /// The billed total since the session began.
    pub total: CpuTime,
    pub capacity: MilliCores,
    /// The newest revision that is being enforced.
    pub revision: u64,
}

/// A user's account, over all nodes.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub balance: Amount,
    pub standing: Standing,
    pub debt_limit: Amount,
    /// How new sessions are charged.
    pub billing: Billing,
    /// What running work costs an hour.
    pub burn: Amount,
    /// How long the balance lasts at that; `None` while nothing is used up.
    pub runway: Option<Duration>,
}

/// A balance that fell to its user's threshold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The same for every telling of one alert.
    pub id: String,
    pub threshold: Amount,
    /// What the balance was when that was seen.
    pub balance: Amount,
    pub raised_at: Timestamp,
}

/// A function, and whether its user may start new work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionEntry {
    pub name: FunctionName,
    pub user: UserName,
    pub may_start: bool,
    /// Until the balance is above the threshold again.
    pub alert: Option<Alert>,
}

/// What a task of this size would cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    pub user: UserName,
    pub price: CpuPrice,
    /// `None` where nothing is known.
    pub estimate: Option<Estimate>,
}

/// By successful attempts on inputs of a like size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub samples: u32,
    pub input_bytes_min: u64,
    pub input_bytes_max: u64,
    pub p50: (CpuTime, Amount),
    pub p90: (CpuTime, Amount),
}

/// What credit-manager tells unasked.
#[derive(Clone, Debug)]
pub struct Push {
    pub states: Vec<SessionState>,
    /// Users who may start new work again, or no longer.
    pub gates: Vec<(UserName, bool)>,
}

/// Every call may be repeated: sessions are named by the caller, and usage is told as running totals.
#[async_trait]
pub trait Credit: Send + Sync + 'static {
    async fn open(&self, request: &OpenSession) -> Result<Opened, CreditError>;

    /// The states of the reported sessions. A session that is missing in the answer is not live: it must be stopped.
    async fn report(&self, usages: &[Usage]) -> Result<Vec<SessionState>, CreditError>;

    async fn close(&self, session: SessionId, total: CpuTime, verdict: Verdict) -> Result<Bill, CreditError>;

    /// Changes as they happen. Ends when the connection does; missing it costs time, never money.
    async fn watch(&self) -> Result<BoxStream<'static, Result<Push, CreditError>>, CreditError>;

    /// Runs and charges nothing.
    async fn quote(&self, function: &FunctionName, input_bytes: u64) -> Result<Quote, CreditError>;

    async fn functions(&self) -> Result<Vec<FunctionEntry>, CreditError>;

    async fn account(&self, user: &UserName) -> Result<Account, CreditError>;

    /// Whose a token is; `None` if it is unknown, was revoked or has expired.
    async fn identify(&self, token: &TokenHash) -> Result<Option<Caller>, CreditError>;
}

#[derive(Debug, thiserror::Error)]
pub enum CreditError {
    #[error("credit-manager at {url} cannot be reached")]
    Unreachable {
        url: String,
        #[source]
        err: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("credit-manager refused: {message}")]
    Refused { message: String },
    #[error("credit-manager answered what makes no sense")]
    Nonsense(#[from] proto::InvalidField),
}

impl CreditError {
    /// Whether the same call may succeed later without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { .. } | Self::Nonsense(_) => false,
        }
    }
}
