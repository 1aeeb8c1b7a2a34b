//! HTTP as the daemon speaks it, and the places where it can be made to misbehave.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SERVER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming as RequestBody};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::Chain;
use crate::error::RpcError;
use crate::fault::Fault;
use crate::hold::{Hold, HoldAt};
use crate::rpc::{self, Incoming, Item};

/// The daemon reads no larger body.
const BODY_MAX: u64 = 32 << 20;
/// How long the daemon makes somebody with a wrong password wait.
const WRONG_PASSWORD_PAUSE: Duration = Duration::from_millis(250);
const UNAUTHORISED: &str = concat!(
    "<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 4.01 Transitional//EN\"\r\n",
    "\"http://www.w3.org/TR/1999/REC-html401-19991224/loose.dtd\">\r\n",
    "<HTML>\r\n<HEAD>\r\n<TITLE>Error</TITLE>\r\n",
    "<META HTTP-EQUIV='Content-Type' CONTENT='text/html; charset=ISO-8859-1'>\r\n",
    "</HEAD>\r\n<BODY><H1>401 Unauthorized.</H1></BODY>\r\n</HTML>\r\n",
);

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Ends the connection without a reply.
#[derive(Debug, thiserror::Error)]
#[error("no reply")]
struct NoReply;

/// Answers on `listener` and mines a block every `block_interval`, until `shutdown`.
pub async fn serve(chain: Chain, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    let connections = TaskTracker::new();
    let accepting = async {
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            let (stream, _) = accepted?;
            connections.spawn(connection(chain.clone(), stream, shutdown.clone()));
        }
        io::Result::Ok(())
    };
    let accepted = tokio::select! {
        accepted = accepting => accepted,
        never = mine(&chain) => match never {},
    };
    connections.close();
    connections.wait().await;
    accepted
}

/// Mines until the end of time; for ever idle without an interval.
async fn mine(chain: &Chain) -> Infallible {
    let Some(interval) = chain.config().block_interval else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(err) = chain.mine(1) {
            warn!(error = %service_kit::Chain(&err), "block not saved, will be with the next one");
        }
    }
}

async fn connection(chain: Chain, stream: TcpStream, shutdown: CancellationToken) {
    let service = service_fn(move |request| {
        let chain = chain.clone();
        async move { answer(&chain, request).await }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(err) = ended {
        debug!(error = %service_kit::Chain(&err), "connection ended early");
    }
}

async fn answer(chain: &Chain, request: Request<RequestBody>) -> Result<Response<Body>, NoReply> {
    if request.method() != Method::POST && request.method() != Method::GET {
        return Err(NoReply);
    }
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    if target != "/" {
        return Ok(respond(StatusCode::NOT_FOUND, String::new()));
    }
    match authorise(chain, request.headers()) {
        Authorisation::Granted => {}
        Authorisation::Missing => return Ok(unauthorised()),
        Authorisation::Wrong => {
            sleep(WRONG_PASSWORD_PAUSE).await;
            return Ok(unauthorised());
        }
    }
    let body = read(request).await;
    let incoming = match body.and_then(|body| Incoming::read(&body)) {
        Ok(incoming) => incoming,
        Err(err) => return Ok(refusal(&err)),
    };
    match incoming.first_method().and_then(|method| chain.take_hold(method)) {
        None => carry_out(chain, incoming).await,
        Some(hold) => {
            let held = tokio::spawn(held(chain.clone(), incoming, hold));
            held.await.map_err(|_| NoReply)?
        }
    }
}

async fn held(chain: Chain, incoming: Incoming, hold: Hold) -> Result<Response<Body>, NoReply> {
    match hold.at {
        HoldAt::Request => {
            hold.wait().await.map_err(|_| NoReply)?;
            carry_out(&chain, incoming).await
        }
        HoldAt::Reply => {
            let reply = carry_out(&chain, incoming).await;
            hold.wait().await.map_err(|_| NoReply)?;
            reply
        }
    }
}

async fn carry_out(chain: &Chain, incoming: Incoming) -> Result<Response<Body>, NoReply> {
    match incoming
        .first_method()
        .and_then(|method| chain.take_fault(method))
    {
        None => perform(chain, incoming),
        Some(fault) => misbehave(chain, incoming, fault).await,
    }
}

enum Authorisation {
    Granted,
    Missing,
    Wrong,
}

fn authorise(chain: &Chain, headers: &HeaderMap) -> Authorisation {
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Authorisation::Missing;
    };
    let config = chain.config();
    let login = format!("{}:{}", config.rpc_user, config.rpc_password.expose());
    let expected = format!("Basic {}", STANDARD.encode(login));
    if header.as_bytes() == expected.as_bytes() {
        Authorisation::Granted
    } else {
        Authorisation::Wrong
    }
}

/// Reads the body by its announced length, as the daemon does: a chunked one is empty to it.
async fn read(request: Request<RequestBody>) -> Result<Bytes, RpcError> {
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok());
    let length: u64 = announced.and_then(|length| length.parse().ok()).unwrap_or(0);
    if request.headers().contains_key(TRANSFER_ENCODING) || length > BODY_MAX {
        return Err(RpcError::parse());
    }
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(|_| RpcError::parse())?;
    Ok(body.to_bytes())
}

/// Carries out everything that is asked for. Where that cannot be saved, the client is left in doubt.
fn perform(chain: &Chain, incoming: Incoming) -> Result<Response<Body>, NoReply> {
    let run = |item: &Item| match &item.call {
        Ok(call) => chain.call(&call.method, &call.params).map_err(|err| {
            warn!(error = %service_kit::Chain(&err), "call not saved, connection closed");
            NoReply
        }),
        Err(err) => Ok(Err(err.clone())),
    };
    match incoming {
        Incoming::Single(item) => {
            let result = run(&item)?;
            let status = result.as_ref().err().map_or(StatusCode::OK, status);
            Ok(respond(status, rpc::reply(&item.id, &result) + "\n"))
        }
        Incoming::Batch(items) => {
            let replies = items.iter().map(|item| Ok(rpc::reply(&item.id, &run(item)?)));
            let replies = replies.collect::<Result<Vec<_>, NoReply>>()?;
            Ok(respond(StatusCode::OK, format!("[{}]\n", replies.join(","))))
        }
    }
}

async fn misbehave(chain: &Chain, incoming: Incoming, fault: Fault) -> Result<Response<Body>, NoReply> {
    match fault {
        Fault::Refuse => Err(NoReply),
        Fault::Unauthorised => Ok(unauthorised()),
        Fault::InternalError => Ok(respond(StatusCode::INTERNAL_SERVER_ERROR, String::new())),
        Fault::Delay(delay) => {
            sleep(delay).await;
            perform(chain, incoming)
        }
        Fault::DropReply => {
            perform(chain, incoming)?;
            Err(NoReply)
        }
        Fault::Truncate => {
            let (mut parts, body) = perform(chain, incoming)?.into_parts();
            let whole = body.collect().await.map_err(|_| NoReply)?.to_bytes();
            let half = Ok(Frame::data(whole.slice(..whole.len() / 2)));
            let cut = async {
                // What was written so far is sent only when the next part is not there yet.
                tokio::task::yield_now().await;
                Err(io::ErrorKind::ConnectionAborted.into())
            };
            parts.headers.insert(CONTENT_LENGTH, whole.len().into());
            let body = StreamBody::new(stream::iter([half]).chain(stream::once(cut)));
            Ok(Response::from_parts(parts, BodyExt::boxed_unsync(body)))
        }
        Fault::ApplyLate(delay) => {
            let chain = chain.clone();
            tokio::spawn(async move {
                sleep(delay).await;
                perform(&chain, incoming)
            });
            Err(NoReply)
        }
    }
}

fn status(err: &RpcError) -> StatusCode {
    StatusCode::from_u16(err.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The reply to a request that could not be read.
fn refusal(err: &RpcError) -> Response<Body> {
    respond(status(err), rpc::reply(&rpc::null(), &Err(err.clone())) + "\n")
}

/// Every error closes the connection.
fn respond(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if status != StatusCode::OK {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(SERVER, HeaderValue::from_static("gridcoin-json-rpc/v5.5.1.0"));
    response
}

fn unauthorised() -> Response<Body> {
    let mut response = respond(StatusCode::UNAUTHORIZED, UNAUTHORISED.to_owned());
    *response.version_mut() = Version::HTTP_10;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

fn whole(body: String) -> Body {
    Full::new(Bytes::from(body))
        .map_err(|never| match never {})
        .boxed_unsync()
}
