//! Listens to a store that tells of new objects: MinIO's `ListenBucketNotification` of all buckets, which our own store has
//! too. AWS S3 and others do not know it and answer with something else; they are listened to no further.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::StalledStreamProtectionConfig;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::GetObjectError;
use futures::stream::{self, BoxStream, StreamExt as _};
use service_kit::Chain;
use tokio::time::{sleep, timeout};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tracing::{debug, info};
use units::FunctionName;

use crate::event_message;

/// What MinIO needs to be told of created objects in any bucket, and to hear at least every ten seconds from it.
const QUERY: &str = "?events=s3%3AObjectCreated%3A%2A&ping=10";
/// The content type of an answer that goes on.
const EVENTS: &str = "text/event-stream";
/// A connection that was silent for so long is lost.
const SILENCE: Duration = Duration::from_secs(30);
const RECONNECT: Duration = Duration::from_secs(1);
/// An event with the longest key there may be, escaped, has a tenth of it.
const LINE_BYTES_MAX: usize = 64 * 1024;

type Lines = BoxStream<'static, Result<String, LinesCodecError>>;

/// Functions whose bucket has news, as the store tells of them; ends if this store does not. What happens while a connection
/// is lost is not told.
pub(super) fn news(client: Client, endpoint: &str) -> BoxStream<'static, FunctionName> {
    let url = format!("{}/{QUERY}", endpoint.trim_end_matches('/'));
    let listener = Listener {
        source: Source { client, url },
        lines: None,
    };
    let told = stream::unfold(listener, |mut listener| async move {
        let functions = listener.next().await?;
        Some((stream::iter(functions), listener))
    });
    told.flatten().boxed()
}

struct Listener {
    source: Source,
    lines: Option<Lines>,
}

struct Source {
    client: Client,
    url: String,
}

impl Listener {
    /// `None` if the store does not tell.
    async fn next(&mut self) -> Option<BTreeSet<FunctionName>> {
        loop {
            let Some(lines) = &mut self.lines else {
                self.lines = Some(self.source.connect().await?);
                continue;
            };
            match timeout(SILENCE, lines.next()).await {
                Ok(Some(Ok(line))) => {
                    // What is no message keeps the connection alive.
                    if let Ok(functions) = event_message::functions(line.as_bytes()) {
                        return Some(functions);
                    }
                }
                Ok(Some(Err(_)) | None) | Err(_) => self.lines = None,
            }
        }
    }
}

impl Source {
    /// Asks until the store answers; `None` if it does not tell.
    async fn connect(&self) -> Option<Lines> {
        loop {
            match self.ask().await {
                Ok(Some(lines)) => {
                    debug!("the store tells of new objects");
                    return Some(lines);
                }
                Err(err) if !is_refusal(&err) => {
                    debug!(error = %Chain(&err), "the store is not listened to, will retry");
                    sleep(RECONNECT).await;
                }
                Ok(None) | Err(_) => {
                    info!("the store does not tell of new objects, which are found by listing");
                    return None;
                }
            }
        }
    }

    /// `None` if the answer is not one that goes on.
    async fn ask(&self) -> Result<Option<Lines>, SdkError<GetObjectError>> {
        let url = self.url.clone();
        let patient = aws_sdk_s3::Config::builder()
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        // The SDK does not know this request, but it signs any, and hands the answer to this one on as it comes.
        let request = self.client.get_object().bucket("any").key("any").customize();
        let answer = request
            .config_override(patient)
            .map_request(move |mut request| request.set_uri(url.as_str()).map(|()| request))
            .send()
            .await?;
        if answer.content_type() != Some(EVENTS) {
            return Ok(None);
        }
        let lines = LinesCodec::new_with_max_length(LINE_BYTES_MAX);
        Ok(Some(
            FramedRead::new(answer.body.into_async_read(), lines).boxed(),
        ))
    }
}

/// Whether asking again would not help.
fn is_refusal(err: &SdkError<GetObjectError>) -> bool {
    let SdkError::ServiceError(refused) = err else {
        return false;
    };
    let status = refused.raw().status();
    status.is_client_error() || status.as_u16() == 501
}
