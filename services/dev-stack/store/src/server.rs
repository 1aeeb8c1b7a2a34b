//! Serves a store over HTTP until it is told to stop.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Store;
use crate::auth::Guard;
use crate::events::Events;
use crate::service::Service;

/// Further clients wait in the backlog of the listener.
const CONNECTIONS_MAX: usize = 512;
/// How long requests may go on after the order to stop; a client that sends a byte a second must not hold the service.
const GRACE: Duration = Duration::from_secs(5);
/// After a failed accept, mostly for want of file descriptors, which other connections give back in time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Holds a batch delete of 1000 keys of 1024 bytes each, every one of them escaped.
const XML_BYTES_MAX: usize = 8 * 1024 * 1024;
/// s3s reads form uploads, which this store refuses, into memory before it knows who sends them.
const FORM_BYTES_MAX: usize = 64 * 1024;

/// Serves `store` on `listener` until `shutdown` is cancelled, then finishes the requests under way for a few seconds.
///
/// Buckets are addressed by path: `http://HOST:PORT/bucket/key`. If the future is dropped, connections end at once.
pub async fn serve(store: Arc<Store>, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    let service = service(store, shutdown.clone());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, service.clone(), shutdown.clone()));
                }
                Err(err) => {
                    tracing::warn!(error = %err, "failed to accept a connection to the store, will retry");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "requests to the store were cut off"
        );
    }
    Ok(())
}

fn service(store: Arc<Store>, shutdown: CancellationToken) -> S3Service {
    let mut config = S3Config::default();
    config.xml_max_body_size = XML_BYTES_MAX;
    config.post_object_max_file_size = 0;
    config.form_max_field_size = FORM_BYTES_MAX;
    config.form_max_fields_size = FORM_BYTES_MAX;
    let guard = Guard(store.keyring.clone());
    let mut builder = S3ServiceBuilder::new(Service(store.clone()));
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder.set_auth(guard.clone());
    builder.set_access(guard);
    builder.set_route(Events { store, shutdown });
    builder.build()
}

async fn converse(stream: TcpStream, service: S3Service, shutdown: CancellationToken) {
    // Answers are small and somebody waits for each of them.
    if let Err(err) = stream.set_nodelay(true) {
        tracing::debug!(error = %err, "failed to turn off Nagle's algorithm");
    }
    // With a timer, hyper gives a client half a minute to send its headers.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = result {
        tracing::debug!(error = %err, "a connection to the store broke");
    }
}
