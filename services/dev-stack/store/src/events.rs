//! Tells clients what is created, as it happens: MinIO's `ListenBucketNotification`, which its clients know.
//!
//! `GET /BUCKET?events=s3:ObjectCreated:*` for one bucket, `GET /?events=…` for all that the key opens; `prefix` and
//! `suffix` narrow it to some keys. The answer goes on until either side ends it: lines of JSON, each an S3 event message,
//! and one without records when nothing has happened for a while. They are hints: a client that falls behind misses some.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{Extensions, HeaderMap, HeaderValue, Method, Uri, header};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::auth::Credentials;
use s3s::dto::StreamingBlob;
use s3s::route::S3Route;
use s3s::{Body, S3Request, S3Response, S3Result, s3_error};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Created, Store};

/// By default, and as MinIO's clients ask for: how long a line may be awaited.
const PING: Duration = Duration::from_secs(10);

/// The route of these requests; answers end at `shutdown`.
pub(crate) struct Events {
    pub(crate) store: Arc<Store>,
    pub(crate) shutdown: CancellationToken,
}

#[async_trait::async_trait]
impl S3Route for Events {
    fn is_match(&self, method: &Method, uri: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        method == Method::GET && parameters(uri).any(|(name, _)| name == "events")
    }

    async fn check_access(&self, req: &mut S3Request<Body>) -> S3Result<()> {
        let credentials = req.credentials.as_ref();
        match bucket(&req.uri) {
            _ if credentials.is_none() => Err(s3_error!(AccessDenied, "requests must be signed")),
            Some(bucket) => self.store.keyring.check(credentials, &bucket).await,
            // Of all buckets each key is told of those that it opens.
            None => Ok(()),
        }
    }

    async fn call(&self, req: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let wanted = Wanted::new(&req.uri);
        let lines = lines(self.store.clone(), wanted, req.credentials);
        let lines = lines.take_until(self.shutdown.clone().cancelled_owned());
        let body = StreamingBlob::wrap(lines.map(Ok::<_, Infallible>));
        let mut response = S3Response::new(Body::from(body));
        let content_type = HeaderValue::from_static("text/event-stream");
        response.headers.insert(header::CONTENT_TYPE, content_type);
        Ok(response)
    }
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// All buckets if absent.
    bucket: Option<String>,
    prefix: String,
    suffix: String,
    /// Created objects are all this store tells of.
    created: bool,
}

impl Wanted {
    fn new(uri: &Uri) -> Self {
        let value =
            |wanted: &str| parameters(uri).find_map(|(name, value)| (name == wanted).then_some(value));
        let is_created =
            |(name, event): (String, String)| name == "events" && event.starts_with("s3:ObjectCreated:");
        Self {
            bucket: bucket(uri),
            prefix: value("prefix").unwrap_or_default(),
            suffix: value("suffix").unwrap_or_default(),
            created: parameters(uri).any(is_created),
        }
    }

    fn covers(&self, created: &Created) -> bool {
        self.created
            && self
                .bucket
                .as_ref()
                .is_none_or(|bucket| *bucket == created.bucket)
            && created.key.starts_with(&self.prefix)
            && created.key.ends_with(&self.suffix)
    }
}

fn bucket(uri: &Uri) -> Option<String> {
    let bucket = uri.path().trim_matches('/');
    (!bucket.is_empty()).then(|| decoded(bucket))
}

fn parameters(uri: &Uri) -> impl Iterator<Item = (String, String)> {
    let pairs = uri.query().unwrap_or_default().split('&');
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn lines(
    store: Arc<Store>,
    wanted: Wanted,
    credentials: Option<Credentials>,
) -> impl Stream<Item = Bytes> + Send + Sync {
    let feed = store.subscribe();
    let (told, lines) = mpsc::channel(1);
    tokio::spawn(tell(store, feed, wanted, credentials, told));
    stream::unfold(lines, async |mut lines| Some((lines.recv().await?, lines)))
}

/// Sends a client its lines until it is gone.
async fn tell(
    store: Arc<Store>,
    mut feed: broadcast::Receiver<Created>,
    wanted: Wanted,
    credentials: Option<Credentials>,
    told: mpsc::Sender<Bytes>,
) {
    let mut ping_at = Instant::now() + PING;
    loop {
        let news = tokio::select! {
            () = told.closed() => return,
            news = tokio::time::timeout_at(ping_at, feed.recv()) => news,
        };
        let line = match news {
            Ok(Ok(created))
                if wanted.covers(&created) && is_open(&store, credentials.as_ref(), &created).await =>
            {
                message(&[record(&created)])
            }
            Ok(Ok(_) | Err(RecvError::Lagged(_))) => continue,
            Ok(Err(RecvError::Closed)) => return,
            Err(_nothing_happened) => message(&[]),
        };
        if told.send(line).await.is_err() {
            return;
        }
        ping_at = Instant::now() + PING;
    }
}

/// Looked up each time: a key may be taken back while it listens. What cannot be found out now is not told.
async fn is_open(store: &Store, credentials: Option<&Credentials>, created: &Created) -> bool {
    match credentials {
        Some(used) => store
            .keyring
            .allows(used, &created.bucket, false)
            .await
            .unwrap_or(false),
        None => false,
    }
}

fn message(records: &[serde_json::Value]) -> Bytes {
    format!("{}\n", json!({ "Records": records })).into()
}

fn record(created: &Created) -> serde_json::Value {
    let key = utf8_percent_encode(&created.key, NON_ALPHANUMERIC).to_string();
    json!({
        "eventVersion": "2.0",
        "eventSource": "gridfaas:s3",
        "eventName": "s3:ObjectCreated:Put",
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": { "name": created.bucket, "arn": format!("arn:aws:s3:::{}", created.bucket) },
            "object": { "key": key },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_narrows_what_it_is_told() {
        let created = |bucket: &str, key: &str| Created {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        };
        let all = "events=s3:ObjectRemoved:*&events=s3%3AObjectCreated%3A%2A";
        let covers = |path: &str, query: &str, bucket: &str, key: &str| {
            let uri = format!("{path}?{query}").parse().unwrap();
            Wanted::new(&uri).covers(&created(bucket, key))
        };
        assert!(covers("/", all, "b", "input/x"));
        assert!(covers("/b", all, "b", "input/x"));
        assert!(covers("/b/", all, "b", "input/x"));
        assert!(!covers("/c", all, "b", "input/x"));
        assert!(covers(
            "/b",
            &format!("{all}&prefix=input%2F&suffix=x"),
            "b",
            "input/x"
        ));
        assert!(!covers("/b", &format!("{all}&prefix=output/"), "b", "input/x"));
        assert!(!covers("/b", &format!("{all}&suffix=y"), "b", "input/x"));
        assert!(!covers("/b", "events=s3:ObjectRemoved:*", "b", "input/x"));
    }

    #[test]
    fn a_message_names_the_object_as_s3_does() {
        let created = Created {
            bucket: "stress".to_owned(),
            key: "input/a b".to_owned(),
        };
        let line = message(&[record(&created)]);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert!(line.ends_with(b"\n"));
        assert_eq!(value["Records"][0]["s3"]["bucket"]["name"], "stress");
        assert_eq!(value["Records"][0]["s3"]["object"]["key"], "input%2Fa%20b");
    }
}
