//! A store with a server on a port of its own, and clients for it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::primitives::ByteStream;
use service_kit::Secret;
use store::{Buckets, Credential, Store, StoreConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const ACCESS_KEY: &str = "operator";
pub(crate) const SECRET_KEY: &str = "operator-secret";
pub(crate) const BUCKET: &str = "bucket";

pub(crate) struct Server {
    pub(crate) store: Arc<Store>,
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) async fn start(config: StoreConfig) -> Self {
        let store = Store::open(config).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(store::serve(store.clone(), listener, shutdown.clone()));
        Self {
            store,
            address,
            shutdown,
            serving,
        }
    }

    pub(crate) fn client(&self, access_key: &str, secret_key: &str) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .endpoint_url(format!("http://{}", self.address))
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(access_key, secret_key, None, None, "test"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .force_path_style(true)
            .build();
        Client::from_conf(config)
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
        assert_eq!(
            Arc::strong_count(&self.store),
            1,
            "nothing may hold a store whose server has stopped"
        );
    }
}

pub(crate) fn credential(access_key: &str, secret_key: &str, buckets: Buckets) -> Credential {
    Credential {
        access_key: access_key.to_owned(),
        secret_key: Secret::new(secret_key),
        buckets,
    }
}

pub(crate) fn config(root: &Path) -> StoreConfig {
    StoreConfig::new(root, vec![credential(ACCESS_KEY, SECRET_KEY, Buckets::All)])
}

/// A running store with one bucket.
pub(crate) struct Fixture {
    pub(crate) root: TempDir,
    pub(crate) server: Server,
    pub(crate) client: Client,
}

pub(crate) async fn fixture() -> Fixture {
    fixture_with(|_| {}).await
}

pub(crate) async fn fixture_with(change: impl FnOnce(&mut StoreConfig)) -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let mut config = config(root.path());
    change(&mut config);
    let server = Server::start(config).await;
    let client = server.client(ACCESS_KEY, SECRET_KEY);
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    Fixture { root, server, client }
}

impl Fixture {
    /// Puts an object and returns its ETag.
    pub(crate) async fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) -> String {
        let body = ByteStream::from(bytes.into());
        let put = self
            .client
            .put_object()
            .bucket(BUCKET)
            .key(key)
            .body(body)
            .send()
            .await;
        put.unwrap().e_tag.unwrap()
    }

    pub(crate) async fn get(&self, key: &str) -> Vec<u8> {
        let got = self
            .client
            .get_object()
            .bucket(BUCKET)
            .key(key)
            .send()
            .await
            .unwrap();
        got.body.collect().await.unwrap().to_vec()
    }

    /// Every key of the bucket, in the order of the listing.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let listed = self.client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
        listed
            .contents()
            .iter()
            .map(|object| object.key().unwrap().to_owned())
            .collect()
    }

    /// How many files hold the bytes of objects.
    pub(crate) fn blobs(&self) -> usize {
        std::fs::read_dir(self.root.path().join("blobs")).unwrap().count()
    }

    /// Files are removed after the answer has been sent.
    pub(crate) async fn until_blobs(&self, count: usize) {
        let seen = async {
            while self.blobs() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(20), seen).await;
        assert!(seen.is_ok(), "{} blobs instead of {count}", self.blobs());
    }
}

/// The status and S3 error code of a refusal.
pub(crate) fn refusal<T: std::fmt::Debug, E>(result: Result<T, SdkError<E>>) -> (u16, String)
where
    E: ProvideErrorMetadata + std::fmt::Debug,
    SdkError<E>: RequestId,
{
    let err = result.expect_err("should have been refused");
    let status = err
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    (status, err.code().unwrap_or_default().to_owned())
}

pub(crate) fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// Sends bytes as they are and returns the whole answer.
pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A server that refuses a body may close the connection with bytes of it unread.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
