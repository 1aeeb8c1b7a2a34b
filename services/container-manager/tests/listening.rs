//! A node that listens to a store: our own, and one that does not tell.

#![expect(clippy::unwrap_used, reason = "a step that fails has failed the test")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse as _;
use container_manager::store::{ObjectStore as _, S3Store, StoreConfig};
use futures::StreamExt as _;
use service_kit::Secret;
use store::{Buckets, Credential, Store};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

fn secret() -> Secret {
    Secret::new("node-secret")
}

/// The node's side of the store at `address`.
fn node(address: SocketAddr, listen: bool) -> (S3Store, StoreConfig) {
    let config = serde_json::json!({
        "endpoint": format!("http://{address}"),
        "access_key": "node",
        "secret_key_file": "/dev/null",
        "listen": listen,
    });
    let config: StoreConfig = serde_json::from_value(config).unwrap();
    (S3Store::new(&config, &secret()), config)
}

/// A store that serves at `address` until it is told to stop.
struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start(root: &Path, address: SocketAddr) -> Self {
        let credential = Credential {
            access_key: "node".to_owned(),
            secret_key: secret(),
            buckets: Buckets::All,
        };
        let store = Store::open(store::StoreConfig::new(root, vec![credential])).unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving = tokio::spawn(store::serve(store, listener, stop.clone()));
        Self {
            address,
            stop,
            serving,
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_node_that_listens_is_told_of_dropped_objects_also_after_a_restart_of_the_store() {
    let root = tempfile::tempdir().unwrap();
    let mut served = Served::start(root.path(), SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let (s3, config) = node(served.address, true);
    create_bucket(served.address).await;
    let mut news = s3.news(&config);
    for round in 0..2 {
        // What is dropped before the node listens is not told.
        let told = async {
            loop {
                for key in ["results/a", "input/a"] {
                    s3.put("count", key, "x".into(), "text/plain").await.unwrap();
                }
                if let Ok(told) = tokio::time::timeout(Duration::from_millis(200), news.next()).await {
                    return told.unwrap();
                }
            }
        };
        let told = tokio::time::timeout(DEADLINE, told).await;
        assert_eq!(told.unwrap().as_str(), "count", "round {round}");
        let address = served.address;
        served.stop().await;
        served = Served::start(root.path(), address).await;
    }
    served.stop().await;
}

/// The node makes no buckets, so another client does.
async fn create_bucket(address: SocketAddr) {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version_latest()
        .endpoint_url(format!("http://{address}"))
        .force_path_style(true)
        .region(aws_sdk_s3::config::Region::from_static("us-east-1"))
        .credentials_provider(aws_sdk_s3::config::Credentials::new(
            "node",
            secret().expose(),
            None,
            None,
            "test",
        ))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    let client = aws_sdk_s3::Client::from_conf(config);
    client.create_bucket().bucket("count").send().await.unwrap();
}

#[tokio::test]
async fn a_store_that_does_not_tell_is_listened_to_no_further() {
    // AWS S3 takes the request for that of a list of buckets; others refuse it.
    let buckets = "<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>";
    let listing = ([("content-type", "application/xml")], buckets).into_response();
    let refusal = axum::http::StatusCode::NOT_IMPLEMENTED.into_response();
    let forbidden = axum::http::StatusCode::FORBIDDEN.into_response();
    for answer in [listing, forbidden, refusal] {
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let answer = axum::routing::any(move || std::future::ready((parts.clone(), body.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving =
            tokio::spawn(axum::serve(listener, Router::new().fallback_service(answer)).into_future());
        let (s3, config) = node(address, true);
        let ended = tokio::time::timeout(DEADLINE, s3.news(&config).next()).await;
        assert_eq!(ended.unwrap(), None);
        serving.abort();
    }
}

#[tokio::test]
async fn a_node_that_is_not_to_listen_does_not() {
    let (s3, config) = node(SocketAddr::from(([127, 0, 0, 1], 1)), false);
    assert_eq!(s3.news(&config).next().await, None);
}
