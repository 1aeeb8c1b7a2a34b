//! The door of a gRPC service: every request passes here, is told who sends it, and goes on only where the
//! [matrix](crate::matrix) lets that role in.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::debug;

use crate::caller::{Caller, Role};
use crate::listener::Peer;
use crate::matrix;
use crate::token::TokenHash;

/// How soon an open stream ends after its token was revoked.
const STREAM_CHECK: Duration = Duration::from_secs(2);
/// A stream over a certificate ends after this long, and its node shows its present certificate for the next.
const STREAM_MAX: Duration = Duration::from_secs(3600);

/// Says whose a token is.
#[async_trait]
pub trait Authority: Send + Sync + 'static {
    /// `None`: unknown, revoked or expired. Errors if that cannot be found out now.
    async fn identify(&self, token: &TokenHash) -> Result<Option<Caller>, Status>;
}

/// Lets requests through that the matrix allows, with their [`Caller`] in the extensions.
#[derive(Clone)]
pub struct AccessLayer(Arc<dyn Authority>);

impl AccessLayer {
    pub fn new(authority: Arc<dyn Authority>) -> Self {
        Self(authority)
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            authority: self.0.clone(),
            inner,
        }
    }
}

#[derive(Clone)]
pub struct Guarded<S> {
    authority: Arc<dyn Authority>,
    inner: S,
}

/// What a request has to show for itself.
enum Shown {
    Token(TokenHash),
    Certificate(Caller),
    Nothing,
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let clone = self.inner.clone();
        // The one that was made ready.
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let authority = self.authority.clone();
        let shown = show(&request);
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let (caller, ends) = match admit(authority, &path, shown).await {
                Ok(admitted) => admitted,
                Err(status) => {
                    debug!(path, %status, "refused");
                    return Ok(status.into_http());
                }
            };
            request.extensions_mut().insert(caller);
            let response = inner.call(request).await?;
            Ok(match ends {
                Some(ends) => response.map(|body| Body::new(Stream::new(body, ends))),
                None => response,
            })
        })
    }
}

fn show(request: &http::Request<Body>) -> Result<Shown, Status> {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.0.clone());
    match (request.headers().get(AUTHORIZATION), peer) {
        // Whoever shows a token wants to be who it says.
        (Some(sent), _) => {
            let text = sent.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
            text.map(|text| Shown::Token(TokenHash::of(text)))
                .ok_or_else(unknown)
        }
        (None, Some(caller)) => Ok(Shown::Certificate(caller)),
        (None, None) => Ok(Shown::Nothing),
    }
}

fn unknown() -> Status {
    Status::unauthenticated(
        "the token is not known, was revoked or has expired (hint: ask an operator for a new one)",
    )
}

/// Who sends a request, if that role may, and what would end its stream.
async fn admit(
    authority: Arc<dyn Authority>,
    path: &str,
    shown: Result<Shown, Status>,
) -> Result<(Caller, Option<Ends>), Status> {
    let (caller, ends) = match shown? {
        Shown::Token(hash) => {
            let caller = authority.identify(&hash).await?.ok_or_else(unknown)?;
            (caller.clone(), Some(Ends::Revoked(authority, hash, caller)))
        }
        Shown::Certificate(caller) => (caller, Some(Ends::After(STREAM_MAX))),
        Shown::Nothing => (Caller::Anyone, None),
    };
    // Nothing is served that is not in the matrix.
    let row =
        matrix::row(path).ok_or_else(|| Status::unimplemented(format!("there is no method `{path}`")))?;
    match (row.scope(caller.role()), caller.role()) {
        (Some(_), _) => Ok((caller, ends)),
        (None, Role::Anyone) => Err(Status::unauthenticated(format!(
            "{} needs a token (hint: say which file it is in with --token-file or GRIDFAAS_TOKEN_FILE)",
            row.method
        ))),
        (None, role) => Err(Status::permission_denied(format!(
            "the role {role} may not {} (hint: docs/access.md shows who may do what)",
            row.method
        ))),
    }
}

/// What ends a stream before its time.
enum Ends {
    Revoked(Arc<dyn Authority>, TokenHash, Caller),
    After(Duration),
}

impl Ends {
    async fn come(self) -> Status {
        match self {
            Self::Revoked(authority, hash, caller) => loop {
                tokio::time::sleep(STREAM_CHECK).await;
                // While nobody can tell, what was allowed goes on.
                if let Ok(now) = authority.identify(&hash).await
                    && now.as_ref() != Some(&caller)
                {
                    return Status::unauthenticated("the token was revoked or has expired");
                }
            },
            Self::After(time) => {
                tokio::time::sleep(time).await;
                Status::unavailable("the stream is old: begin another one")
            }
        }
    }
}

/// A response that ends when its caller may no longer read it.
struct Stream {
    body: Body,
    /// Before the first wait there is nothing to watch: most responses are whole at once.
    ends: Option<Ends>,
    ending: Option<BoxFuture<'static, Status>>,
    is_over: bool,
}

impl Stream {
    fn new(body: Body, ends: Ends) -> Self {
        Self {
            body,
            ends: Some(ends),
            ending: None,
            is_over: false,
        }
    }
}

impl http_body::Body for Stream {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        // Looked at first, so that a stream which always has something is ended too.
        if let Some(ending) = &mut self.ending
            && let Poll::Ready(status) = ending.as_mut().poll(context)
        {
            self.is_over = true;
            let trailers = status.into_http::<()>().into_parts().0.headers;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_pending()
            && let Some(ends) = self.ends.take()
        {
            let mut ending = Box::pin(ends.come());
            // It has to know whom to wake.
            let begun = ending.as_mut().poll(context);
            debug_assert!(begun.is_pending(), "it begins with a pause");
            self.ending = Some(ending);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
