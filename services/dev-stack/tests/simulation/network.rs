//! Carries real gRPC messages between a node and whatever credit-manager lives, and loses, doubles, delays and reorders
//! them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use access::Caller;
use bytes::Bytes;
use container_manager::credit::Transport;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use tokio::sync::Notify;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tower::ServiceExt as _;

use crate::world::World;

/// One node's connection.
pub(crate) struct Link {
    world: Arc<World>,
    is_cut: AtomicBool,
    cut: Notify,
}

impl Link {
    pub(crate) fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            world: world.clone(),
            is_cut: AtomicBool::new(false),
            cut: Notify::new(),
        })
    }

    /// While it is cut nothing passes, and streams end.
    pub(crate) fn set_cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
        self.cut.notify_waiters();
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    pub(crate) fn transport(self: &Arc<Self>) -> Transport {
        Transport::new(Wire(self.clone()))
    }

    /// How long a message is under way: mostly short, at times long enough to be overtaken by many.
    fn latency(&self) -> Duration {
        let dice = &self.world.dice;
        if !self.world.is_healing() && dice.percent(5) {
            dice.ms(100..4_000)
        } else {
            dice.ms(1..20)
        }
    }

    fn loses(&self) -> bool {
        self.is_cut() || (!self.world.is_healing() && self.world.dice.percent(8))
    }

    /// One copy of a request, there and back. `None`: lost on the way, or nobody was there.
    async fn carry(&self, parts: http::request::Parts, body: Bytes) -> Option<http::Response<Body>> {
        tokio::time::sleep(self.latency()).await;
        if self.loses() {
            return None;
        }
        let server = self.world.server()?;
        let mut request = http::Request::from_parts(parts, Body::new(Full::new(body)));
        // The simulated server has no door: who calls is said outright.
        request.extensions_mut().insert(Caller::Node(None));
        let Ok(response) = server.oneshot(request).await;
        tokio::time::sleep(self.latency()).await;
        (!self.loses()).then_some(response)
    }
}

#[derive(Clone)]
struct Wire(Arc<Link>);

impl Service<http::Request<Body>> for Wire {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let link = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let is_stream = parts.uri.path().ends_with("/Watch");
            if !is_stream && !link.world.is_healing() && link.world.dice.percent(10) {
                let (link, parts, body) = (link.clone(), parts.clone(), body.clone());
                tokio::spawn(async move { link.carry(parts, body).await });
            }
            // A request that was sent travels on, whether or not its sender still waits.
            let travels = {
                let link = link.clone();
                tokio::spawn(async move { link.carry(parts, body).await })
            };
            let Some(response) = travels.await.expect("carrying does not panic") else {
                // Some losses are told at once, others only by a timeout.
                if link.world.dice.percent(50) {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
                return Err(Status::unavailable("connection reset"));
            };
            Ok(if is_stream {
                until_cut(response, link)
            } else {
                response
            })
        })
    }
}

/// A stream that ends when its connection does.
fn until_cut(response: http::Response<Body>, link: Arc<Link>) -> http::Response<Body> {
    use futures::StreamExt as _;
    response.map(|body| {
        let cut = async move { link.cut.notified().await };
        let frames = http_body_util::BodyStream::new(body).take_until(Box::pin(cut));
        Body::new(http_body_util::StreamBody::new(frames))
    })
}
