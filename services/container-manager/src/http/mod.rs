//! What a node tells of itself over HTTP, to whoever looks for one, watches it or runs it.
//!
//! | Address | Who | What |
//! |---|---|---|
//! | `/status` | anybody | which node, which version, whether it takes tasks |
//! | `/status/check/host` | anybody | 503 if something that it needs is broken |
//! | `/about/usage/system`, `/about/capability` | anybody | the machine |
//! | `/about/capacity` | anybody | what it gives to containers, and what of that is free |
//! | `/about/executions/records` | anybody | finished work, without names |
//! | `/about/executions` | an operator | running work |

mod capacity;
mod host_check;
mod machine;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use access::{Authority, Caller, TokenHash};
use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use schema::{Record, Rfc3339, Task};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use units::Timestamp;

use crate::api::Api;
use crate::node::Node;
use capacity::Capacity;
use host_check::HostCheck;
use machine::Machine;

/// Executions in an answer.
const EXECUTIONS_MAX: u32 = 100;

/// What the pages are made from.
pub(crate) struct Pages {
    pub(crate) node: Arc<Node>,
    pub(crate) api: Api,
    pub(crate) authority: Arc<dyn Authority>,
    /// The node takes no more tasks.
    pub(crate) draining: CancellationToken,
}

struct Shared {
    pages: Pages,
    host_check: HostCheck,
    started_at: Timestamp,
}

type Shown = State<Arc<Shared>>;

/// Serves the pages until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    pages: Pages,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let app = router(pages).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}

fn router(pages: Pages) -> Router {
    let shared = Shared {
        host_check: HostCheck::default(),
        started_at: pages.node.clock.now(),
        pages,
    };
    Router::new()
        .route("/status", get(status))
        .route("/status/check/host", get(check_host))
        .route("/about/usage/system", get(system_usage))
        .route("/about/capability", get(capability))
        .route("/about/capacity", get(capacity))
        .route("/about/executions", get(executions))
        .route("/about/executions/records", get(records))
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "pages are only read here")
        })
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "there is no such page") })
        .layer(middleware::map_response(say_what_it_is))
        .with_state(Arc::new(shared))
}

async fn say_what_it_is(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn status(State(shared): Shown) -> Response {
    #[derive(Serialize)]
    struct NodeStatus {
        node: String,
        version: &'static str,
        state: &'static str,
        started_at: Rfc3339,
    }
    json(&NodeStatus {
        node: shared.pages.node.config.node.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        state: if shared.is_active() { "active" } else { "draining" },
        started_at: Rfc3339(shared.started_at),
    })
}

async fn check_host(State(shared): Shown) -> Response {
    let verdicts = shared.host_check.verdicts(&shared.pages.node).await;
    let broken: Vec<&str> = verdicts
        .iter()
        .filter(|(_, works)| !works)
        .map(|(name, _)| *name)
        .collect();
    if !broken.is_empty() {
        let error = format!("broken: {}", broken.join(", "));
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, error).into_response();
    }
    #[derive(Serialize)]
    struct Works {
        works: Vec<&'static str>,
    }
    json(&Works {
        works: verdicts.iter().map(|(name, _)| *name).collect(),
    })
}

async fn system_usage(State(shared): Shown) -> Response {
    let now = shared.pages.node.clock.now();
    json(&shared.machine().usage(now, shared.is_active()))
}

async fn capability(State(shared): Shown) -> Response {
    json(&shared.machine().capability())
}

async fn capacity(State(shared): Shown) -> Response {
    json(&Capacity::from(shared.pages.node.capacity()))
}

async fn records(State(shared): Shown) -> Result<Response, Problem> {
    let records = shared.pages.api.records(EXECUTIONS_MAX).await?;
    let records: Vec<Record> = records.into_iter().map(Record::from).collect();
    Ok(json(&records))
}

async fn executions(
    State(shared): Shown,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    shared.check_operator(peer.ip(), &headers).await?;
    let tasks = shared.pages.api.live(None).await?;
    let tasks: Vec<Task> = tasks.into_iter().map(Task::from).collect();
    Ok(json(&tasks))
}

impl Shared {
    fn is_active(&self) -> bool {
        !self.pages.draining.is_cancelled()
    }

    fn machine(&self) -> Machine {
        Machine::read(&self.pages.node.config.state_dir)
    }

    /// Errors unless the request shows an operator's token. One from another machine came there in clear text: it is refused,
    /// so that nobody gets used to sending it.
    async fn check_operator(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Problem> {
        let refused = |error| Problem::new(StatusCode::UNAUTHORIZED, error);
        if !peer.to_canonical().is_loopback() {
            return Err(refused(
                "this page is shown on the node itself only (hint: ask there, or through a proxy there that has TLS)",
            ));
        }
        let shown = headers.get(AUTHORIZATION).and_then(|sent| sent.to_str().ok());
        let token = shown.and_then(|sent| sent.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| refused("this page needs an operator's token"))?;
        match self.pages.authority.identify(&TokenHash::of(token)).await? {
            Some(Caller::Operator) => Ok(()),
            Some(_) => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "this page is for operators only",
            )),
            None => Err(refused("the token is not known, was revoked or has expired")),
        }
    }
}

/// What is answered instead of what was asked for.
struct Problem {
    status: StatusCode,
    error: String,
}

impl Problem {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
        }
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(code, status.message())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: String,
        }
        (self.status, json(&Body { error: self.error })).into_response()
    }
}

fn json(value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("what is shown has text for keys and no error of its own");
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}
