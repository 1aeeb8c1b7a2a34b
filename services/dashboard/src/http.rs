//! HTTP: addresses to pages and JSON, and what every answer carries.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, SET_COOKIE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures::StreamExt as _;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::assets::{self, Asset};
use crate::board::Board;
use crate::key::{Door, Shown};
use crate::look;
use crate::pages::{FunctionRecords, Page, UserRecords};
use crate::services::Services;

/// Everything a page needs comes from here, and it runs no script but ours.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const NO_KEY: &str = "this browser has not been let in: open the address that the dashboard printed when it started, \
                      which has its key";

struct Shared {
    board: Arc<Board>,
    services: Services,
    shutdown: CancellationToken,
}

type Dashboard = State<Arc<Shared>>;

pub(crate) fn router(
    board: Arc<Board>,
    services: Services,
    door: Door,
    shutdown: CancellationToken,
) -> Router {
    let shared = Shared {
        board,
        services,
        shutdown,
    };
    let document = || async { assets::PAGE };
    let mut router = Router::new()
        .route("/", get(document))
        .route("/node", get(document))
        .route("/users/{user}", get(document))
        .route("/functions/{function}", get(document))
        .route("/static/{file}", get(file));
    for page in ["overview", "node", "users/{user}", "functions/{function}"] {
        router = router
            .route(&format!("/api/{page}"), get(now))
            .route(&format!("/api/{page}/live"), get(live))
            .route(&format!("/api/{page}/history"), get(history));
    }
    router
        .route("/api/users/{user}/records", get(user_records))
        .route("/api/functions/{function}/records", get(function_records))
        .route("/api/functions/{function}/log", get(log))
        .route("/api/functions/{function}/receipt", get(receipt))
        .with_state(Arc::new(shared))
        .fallback(|| async { Problem::not_found("there is no such page") })
        .layer(middleware::from_fn_with_state(Arc::new(door), guard))
}

/// Lets in what may be asked, and says what every answer has to say.
///
/// A name that somebody else made to lead here (DNS rebinding) is refused: a page of theirs would be of the same origin.
/// Without the key there is nothing but the pages, which are the same for everybody until they ask for figures.
async fn guard(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let needs_key = request.uri().path().starts_with("/api/");
    let mut response = if !host.is_some_and(is_this_machine) {
        Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "ask by the address that the dashboard listens on",
        )
        .into_response()
    } else {
        match door.look(request.uri(), request.headers()) {
            // On to an address without the key, which then stays in no history.
            Shown::Key(cookie) => ([(SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
            Shown::Nothing if needs_key => Problem::new(StatusCode::UNAUTHORIZED, NO_KEY).into_response(),
            Shown::Cookie | Shown::Nothing => next.run(request).await,
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // The files are of this binary, and another may be started at the same address.
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a `Host` is one that only this machine gives itself.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What is answered instead of what was asked for.
pub(crate) struct Problem {
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

    fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::Unavailable | Code::DeadlineExceeded => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::new(code, look::reason(&status))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: String,
        }
        (self.status, Json(Body { error: self.error })).into_response()
    }
}

struct Json<T>(T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/json")], text(&self.0)).into_response()
    }
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what is shown has text for keys and no error of its own")
}

impl IntoResponse for Asset {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, self.content_type)], self.content).into_response()
    }
}

async fn file(Path(name): Path<String>) -> Result<Asset, Problem> {
    assets::find(&name).ok_or_else(|| Problem::not_found("there is no such file"))
}

fn named<T: FromStr<Err: ToString>>(name: &str) -> Result<T, Problem> {
    name.parse()
        .map_err(|err: T::Err| Problem::not_found(err.to_string()))
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(names) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
            .await
            .map_err(|err| Problem::not_found(err.to_string()))?;
        match (names.get("user"), names.get("function")) {
            (Some(user), _) => Ok(Self::User(named(user)?)),
            (None, Some(function)) => Ok(Self::Function(named(function)?)),
            (None, None) if parts.uri.path().starts_with("/api/node") => Ok(Self::Node),
            (None, None) => Ok(Self::Overview),
        }
    }
}

/// What the page shows. Of a user or a function that does not exist it says so.
async fn now(State(shared): Dashboard, page: Page) -> Result<Response, Problem> {
    match &page {
        Page::User(name) => drop(shared.services.user(name).await?),
        Page::Function(name) => {
            let functions = shared.services.functions().await?;
            if !functions.iter().any(|function| function.name == name.as_str()) {
                return Err(Problem::not_found(format!("there is no function `{name}`")));
            }
        }
        Page::Overview | Page::Node => {}
    }
    Ok(Json(page.now(&shared.board.last())).into_response())
}

/// What the page shows, at once and after each look, until the dashboard stops.
async fn live(State(shared): Dashboard, page: Page) -> Response {
    let events = WatchStream::new(shared.board.looks())
        .map(move |look| Ok::<_, Infallible>(Event::default().data(text(&page.now(&look)))))
        .take_until(shared.shutdown.clone().cancelled_owned());
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

async fn history(State(shared): Dashboard, page: Page) -> Response {
    Json(page.before(&shared.board.history())).into_response()
}

async fn user_records(
    State(shared): Dashboard,
    Path(name): Path<String>,
) -> Result<Json<UserRecords>, Problem> {
    let name = named(&name)?;
    let (sessions, statement) =
        tokio::try_join!(shared.services.sessions(&name), shared.services.statement(&name))?;
    Ok(Json(UserRecords { sessions, statement }))
}

async fn function_records(
    State(shared): Dashboard,
    Path(name): Path<String>,
) -> Result<Json<FunctionRecords>, Problem> {
    let tasks = shared.services.tasks(&named(&name)?).await?;
    Ok(Json(FunctionRecords { tasks }))
}

/// The task that a query names. A key may hold anything, `..` and slashes as well, so it is no part of the path.
fn task_of(uri: &Uri) -> Result<String, Problem> {
    let missing = || {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "say which task: `?task=KEY`, percent-encoded",
        )
    };
    let query = uri.query().unwrap_or_default();
    let key = query
        .split('&')
        .find_map(|part| part.strip_prefix("task="))
        .ok_or_else(missing)?;
    let key = percent_decode_str(key).decode_utf8().map_err(|_| missing())?;
    Ok(key.into_owned())
}

async fn log(State(shared): Dashboard, Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Log {
        /// The end of it. Bytes that are not UTF-8 are replaced.
        log: String,
        /// Bytes before that.
        skipped: usize,
    }
    let tail = shared.services.log_tail(&named(&name)?, &task_of(&uri)?).await?;
    Ok(Json(Log {
        log: tail.text,
        skipped: tail.skipped,
    })
    .into_response())
}

/// To the byte as it was signed.
async fn receipt(State(shared): Dashboard, Path(name): Path<String>, uri: Uri) -> Result<Response, Problem> {
    let receipt = shared.services.receipt(&named(&name)?, &task_of(&uri)?).await?;
    Ok(([(CONTENT_TYPE, "application/json")], receipt).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use access::Target;
    use access::client::Meant;
    use axum::body::Body;
    use axum::http::header::{COOKIE, LOCATION};
    use axum::http::request::Builder;

    use crate::key::Key;
    use tower::ServiceExt as _;

    /// A dashboard of services that are not there.
    fn dashboard() -> (Router, Key) {
        let nowhere = |meant| Target {
            url: "http://127.0.0.1:1".to_owned(),
            meant,
            tls: None,
            token_file: None,
        };
        let nowhere = |meant| nowhere(meant).connect_lazy().unwrap();
        let services = Services::new(nowhere(Meant::CreditManager), nowhere(Meant::Node));
        let key = Key::random().unwrap();
        let router = router(
            Arc::default(),
            services,
            Door::new(&key, 7404),
            CancellationToken::new(),
        );
        (router, key)
    }

    async fn answer(dashboard: &Router, request: Builder) -> Response {
        let request = request.body(Body::empty()).unwrap();
        dashboard.clone().oneshot(request).await.unwrap()
    }

    /// As a browser that has been let in.
    async fn ask(method: &str, uri: &str, host: &str) -> Response {
        let (dashboard, key) = dashboard();
        let entered = key.address(([127, 0, 0, 1], 7404).into());
        let entered = Request::get(entered).header(HOST, "127.0.0.1:7404");
        let entered = answer(&dashboard, entered).await;
        assert_eq!(entered.status(), StatusCode::SEE_OTHER);
        assert_eq!(entered.headers()[LOCATION], "/");
        let request = Request::builder().method(method).uri(uri).header(HOST, host);
        let cookie = &entered.headers()[SET_COOKIE];
        answer(&dashboard, request.header(COOKIE, cookie)).await
    }

    #[tokio::test]
    async fn nobody_without_the_key_sees_more_than_empty_pages() {
        let (dashboard, _key) = dashboard();
        for (uri, status) in [
            ("/", StatusCode::OK),
            ("/users/alice", StatusCode::OK),
            ("/static/app.js", StatusCode::OK),
            ("/?key=guessed", StatusCode::OK),
            ("/api/overview", StatusCode::UNAUTHORIZED),
            ("/api/overview?key=guessed", StatusCode::UNAUTHORIZED),
            ("/api/overview/live", StatusCode::UNAUTHORIZED),
            ("/api/overview/history", StatusCode::UNAUTHORIZED),
            ("/api/users/alice/records", StatusCode::UNAUTHORIZED),
            ("/api/functions/count/log?task=x", StatusCode::UNAUTHORIZED),
            ("/api/functions/count/receipt?task=x", StatusCode::UNAUTHORIZED),
        ] {
            let request = Request::get(uri).header(HOST, "127.0.0.1:7404");
            assert_eq!(answer(&dashboard, request).await.status(), status, "{uri}");
        }
    }

    #[tokio::test]
    async fn only_this_machines_own_names_are_answered() {
        for (host, status) in [
            ("127.0.0.1:7404", StatusCode::OK),
            ("localhost:7404", StatusCode::OK),
            ("localhost", StatusCode::OK),
            ("[::1]:7404", StatusCode::OK),
            ("evil.example", StatusCode::MISDIRECTED_REQUEST),
            ("127.0.0.1.evil.example:7404", StatusCode::MISDIRECTED_REQUEST),
            ("localhost.evil.example", StatusCode::MISDIRECTED_REQUEST),
            ("192.0.2.1:7404", StatusCode::MISDIRECTED_REQUEST),
            ("", StatusCode::MISDIRECTED_REQUEST),
        ] {
            assert_eq!(ask("GET", "/", host).await.status(), status, "{host}");
        }
    }

    #[tokio::test]
    async fn every_answer_carries_the_policy_and_nothing_can_be_changed() {
        for (method, uri, status) in [
            ("GET", "/", StatusCode::OK),
            ("GET", "/users/alice", StatusCode::OK),
            ("GET", "/static/app.js", StatusCode::OK),
            ("GET", "/static/..%2FCargo.toml", StatusCode::NOT_FOUND),
            ("GET", "/nowhere", StatusCode::NOT_FOUND),
            ("GET", "/api/overview", StatusCode::OK),
            ("GET", "/api/users/No%20Name", StatusCode::NOT_FOUND),
            ("GET", "/api/users/alice", StatusCode::SERVICE_UNAVAILABLE),
            ("GET", "/api/functions/count/log", StatusCode::BAD_REQUEST),
            ("POST", "/api/overview", StatusCode::METHOD_NOT_ALLOWED),
            ("DELETE", "/api/users/alice", StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let answer = ask(method, uri, "127.0.0.1").await;
            assert_eq!(answer.status(), status, "{method} {uri}");
            assert_eq!(
                answer.headers()[CONTENT_SECURITY_POLICY],
                POLICY,
                "{method} {uri}"
            );
        }
    }

    #[test]
    fn a_task_of_any_name_can_be_asked_for() {
        for (query, key) in [
            ("task=a", Some("a")),
            ("x=1&task=..%2F%C3%BC%26b%20c", Some("../ü&b c")),
            ("task=%FF", None),
            ("tusk=a", None),
        ] {
            let uri: Uri = format!("/log?{query}").parse().unwrap();
            assert_eq!(task_of(&uri).ok().as_deref(), key, "{query}");
        }
    }
}
