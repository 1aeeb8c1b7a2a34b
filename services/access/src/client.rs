//! A client's connection to a service, with the token it shows.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Either, Ready, ready};
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use service_kit::Chain;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Endpoint;
use tonic::transport::channel::ResponseFuture;
use tower::Service;

use crate::identity::Identity;
use crate::listener::{Connection, Peer};
use crate::tls::ClientTls;
use crate::token::TokenFile;

/// A service on the same machine or network answers well within this, or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which service a client means to speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    CreditManager,
    Node,
}

impl Meant {
    fn is(self, identity: Option<&Identity>) -> bool {
        matches!(
            (self, identity),
            (Self::CreditManager, Some(Identity::CreditManager)) | (Self::Node, Some(Identity::Node(_)))
        )
    }
}

/// How to reach a service.
#[derive(Clone, Debug)]
pub struct Target {
    /// `https://…` with `tls`, else `http://…`.
    pub url: String,
    pub meant: Meant,
    pub tls: Option<Arc<ClientTls>>,
    /// Where the token to show is.
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("`{url}` is not an address such as http://127.0.0.1:7402")]
    Address {
        url: String,
        #[source]
        err: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("`{0}` needs the certificate of an authority to be believed (hint: name its file, `ca.pem`)")]
    NoAuthority(String),
    #[error(
        "a token is not sent to `{0}`, where others could read it on the way (hint: use https, as docs/access.md says)"
    )]
    Plaintext(String),
    #[error("{url} does not answer (hint: is the service running there, with TLS or without?)")]
    Unreachable {
        url: String,
        #[source]
        err: tonic::transport::Error,
    },
}

/// A connection that shows a token with every request.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: tonic::transport::Channel,
    token: Option<Arc<TokenFile>>,
}

impl Target {
    /// Connects when first used, and again whenever the connection is lost.
    pub fn connect_lazy(self) -> Result<Channel, ConnectError> {
        let (endpoint, connector) = self.prepare()?;
        Ok(self.channel(endpoint.connect_with_connector_lazy(connector)))
    }

    pub async fn connect(self) -> Result<Channel, ConnectError> {
        let (endpoint, connector) = self.prepare()?;
        let connected = endpoint.connect_with_connector(connector).await;
        let inner = connected.map_err(|err| ConnectError::Unreachable {
            url: self.url.clone(),
            err,
        })?;
        Ok(self.channel(inner))
    }

    fn channel(self, inner: tonic::transport::Channel) -> Channel {
        Channel {
            inner,
            token: self.token_file.map(|path| Arc::new(TokenFile::new(path))),
        }
    }

    fn prepare(&self) -> Result<(Endpoint, Connector), ConnectError> {
        let wrong = |err: Box<dyn std::error::Error + Send + Sync>| ConnectError::Address {
            url: self.url.clone(),
            err,
        };
        let uri: Uri = self.url.parse().map_err(|err| wrong(Box::new(err)))?;
        let host = uri.host().ok_or_else(|| wrong("it names no machine".into()))?;
        // As in `[::1]`.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match (uri.scheme_str(), &self.tls) {
            (Some("https"), Some(tls)) => Some(tls.clone()),
            (Some("https"), None) => return Err(ConnectError::NoAuthority(self.url.clone())),
            (Some("http"), _) if self.token_file.is_some() && !is_local(&host) => {
                return Err(ConnectError::Plaintext(self.url.clone()));
            }
            (Some("http"), _) => None,
            _ => return Err(wrong("it begins with neither http:// nor https://".into())),
        };
        let endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        let server = ServerName::try_from(host).map_err(|err| wrong(Box::new(err)))?;
        Ok((
            endpoint,
            Connector {
                tls,
                server,
                meant: self.meant,
            },
        ))
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Either<ResponseFuture, Ready<Result<Response<Body>, Self::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(token) = &self.token {
            match bearer(token) {
                Ok(value) => request.headers_mut().insert(AUTHORIZATION, value),
                Err(status) => return Either::Right(ready(Ok(status.into_http()))),
            };
        }
        Either::Left(self.inner.call(request))
    }
}

fn bearer(token: &TokenFile) -> Result<HeaderValue, Status> {
    // What has no token yet may have one soon: the service that makes it may be starting.
    let token = token
        .token()
        .map_err(|err| Status::unavailable(Chain(&err).to_string()))?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
        .map_err(|_| Status::invalid_argument("the token is not one: it has characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Makes the connections of a channel.
#[derive(Clone)]
struct Connector {
    tls: Option<Arc<ClientTls>>,
    server: ServerName<'static>,
    meant: Meant,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = std::io::Error;
    type Future = futures::future::BoxFuture<'static, std::io::Result<TokioIo<Connection>>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let port = uri
                .port_u16()
                .unwrap_or(if this.tls.is_some() { 443 } else { 80 });
            let host = this.server.to_str().into_owned();
            let connect = TcpStream::connect((host, port));
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect).await??;
            stream.set_nodelay(true)?;
            let Some(tls) = this.tls else {
                return Ok(TokioIo::new(Connection::Plain(stream)));
            };
            let connector = TlsConnector::from(tls.current());
            let shaken = connector.connect(this.server, stream);
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, shaken).await??;
            let chain = stream.get_ref().1.peer_certificates();
            let identity = chain
                .and_then(|chain| chain.first())
                .and_then(Identity::of_certificate);
            if !this.meant.is(identity.as_ref()) {
                return Err(std::io::Error::other(
                    "the certificate there is another service's than was meant",
                ));
            }
            Ok(TokioIo::new(Connection::Tls(Box::new(stream.into()), Peer(None))))
        })
    }
}
