//! Notifications of the object store over HTTP: what MinIO, Ceph and others post when an object was created.
//!
//! They are hints: what they name is looked for in the bucket, so one that is lost, repeated or made up changes nothing but
//! when that is.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use service_kit::Chain;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::event_message;
use crate::intake::Registry;

/// Takes notifications by `POST`, whatever the path, until `shutdown`. `None`: does nothing.
pub async fn start(
    address: Option<SocketAddr>,
    registry: Arc<Registry>,
    shutdown: CancellationToken,
) -> std::io::Result<Option<SocketAddr>> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    info!(%address, "taking the store's notifications");
    let take = post(move |body: Bytes| std::future::ready(take(&registry, &body)));
    let served = axum::serve(listener, Router::new().fallback_service(take))
        .with_graceful_shutdown(shutdown.cancelled_owned());
    tokio::spawn(async move {
        if let Err(err) = served.await {
            error!(error = %Chain(&err), "notifications are not taken any more");
        }
    });
    Ok(Some(address))
}

fn take(registry: &Registry, body: &[u8]) -> StatusCode {
    match event_message::functions(body) {
        Ok(functions) => {
            functions.iter().for_each(|function| registry.hint(function));
            StatusCode::NO_CONTENT
        }
        Err(_no_message) => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::credit::FunctionEntry;
    use crate::event_message::tests::{message, record};

    async fn post(address: SocketAddr, body: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST /minio HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_posted_notification_wakes_its_function() {
        let (registry, shutdown) = (Arc::new(Registry::default()), CancellationToken::new());
        let stress = FunctionEntry {
            name: "stress".parse().unwrap(),
            user: "alice".parse().unwrap(),
            may_start: true,
            alert: None,
        };
        let news = registry.add(&stress, CancellationToken::new()).unwrap();
        let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = start(any, registry, shutdown.clone()).await.unwrap().unwrap();
        let answer = post(address, &message(&[record("stress", "input/x")])).await;
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        news.hint.notified().await;
        let answer = post(address, "nonsense").await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        shutdown.cancel();
    }
}
