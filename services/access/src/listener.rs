//! A service's connections, with TLS or without, each with what its certificate says about its other end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::caller::Caller;
use crate::identity::Identity;
use crate::tls::ServerTls;

/// A client that takes longer to shake hands is hung up on.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Clients that shake hands at the same time; others wait in the backlog.
const HANDSHAKES_MAX: usize = 256;
/// After a failed accept, mostly for want of file descriptors, which other connections give back in time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end of a connection, by certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(pub Option<Caller>);

/// The connections of a listener, until the stream is dropped. With TLS, clients that speak without are hung up on.
pub fn connections(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(&listener, tls, &ready) => {}
            () = ready.closed() => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept(
    listener: &TcpListener,
    tls: Option<Arc<ServerTls>>,
    ready: &mpsc::Sender<io::Result<Connection>>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(err) => {
                warn!(error = %err, "failed to accept a connection, will retry");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and somebody waits for each of them.
        if let Err(err) = stream.set_nodelay(true) {
            debug!(error = %err, "failed to turn off Nagle's algorithm");
        }
        let Some(tls) = &tls else {
            if ready.send(Ok(Connection::Plain(stream))).await.is_err() {
                return;
            }
            continue;
        };
        let permit = handshakes.clone().acquire_owned().await;
        let (acceptor, ready) = (TlsAcceptor::from(tls.current()), ready.clone());
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await;
            drop(permit);
            match shaken {
                Ok(Ok(stream)) => {
                    // If nobody takes it any more, the service is stopping.
                    let _stopping = ready.send(Ok(Connection::tls(stream))).await;
                }
                Ok(Err(err)) => debug!(error = %err, "a client does not speak TLS as it should"),
                Err(_) => debug!("a client was too slow to speak TLS"),
            }
        });
    }
}

/// One connection.
pub enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>, Peer),
}

impl Connection {
    fn tls(stream: tokio_rustls::server::TlsStream<TcpStream>) -> Self {
        let certificates = stream.get_ref().1.peer_certificates();
        let identity = certificates
            .and_then(|chain| chain.first())
            .and_then(Identity::of_certificate);
        let caller = match identity {
            Some(Identity::Node(node)) => Some(Caller::Node(Some(node))),
            // It serves, and calls nobody.
            Some(Identity::CreditManager) | None => None,
        };
        Self::Tls(Box::new(stream.into()), Peer(caller))
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Self::Plain(_) => Peer(None),
            Self::Tls(_, peer) => peer.clone(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream, _) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, data),
            Self::Tls(stream, _) => Pin::new(stream).poll_write(context, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream, _) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
