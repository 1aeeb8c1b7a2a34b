//! Makes the daemon's replies look like JSON-RPC 2.0, which is all that jsonrpsee understands.
//!
//! The daemon answers with a `"error":null` that jsonrpsee takes for a broken error, after the call was carried out; and
//! with HTTP statuses for which jsonrpsee throws the body away, and with it the error's code and message.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt, Limited};
use jsonrpsee::core::BoxError;
use jsonrpsee::core::http_helpers::HttpError;
use jsonrpsee::http_client::transport::Error as TransportError;
use jsonrpsee::http_client::{HttpBody, HttpRequest, HttpResponse};
use serde::Deserialize;
use serde_json::value::RawValue;
use tower::Service;

/// Room for the history of a wallet with some hundred thousand entries.
const REPLY_MAX: usize = 64 << 20;

/// The layer around the HTTP client.
#[derive(Clone, Debug)]
pub(super) struct V1Compat<S>(S);

impl<S> V1Compat<S> {
    pub(super) fn new(inner: S) -> Self {
        Self(inner)
    }
}

impl<S, B> Service<HttpRequest> for V1Compat<S>
where
    S: Service<HttpRequest, Response = HttpResponse<B>, Error = TransportError> + Send,
    S::Future: Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = HttpResponse<HttpBody>;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, TransportError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let response = self.0.call(request);
        Box::pin(async move {
            let (mut parts, body) = response.await?.into_parts();
            if !carries_reply(parts.status) {
                return Ok(HttpResponse::from_parts(parts, HttpBody::empty()));
            }
            let body = Limited::new(body, REPLY_MAX).collect().await;
            let body = body
                .map_err(|err| TransportError::Http(HttpError::Stream(err)))?
                .to_bytes();
            let Some(reply) = to_v2(&body) else {
                return Ok(HttpResponse::from_parts(parts, HttpBody::from(body.to_vec())));
            };
            parts.status = StatusCode::OK;
            parts.headers.remove(CONTENT_LENGTH);
            Ok(HttpResponse::from_parts(parts, HttpBody::from(reply)))
        })
    }
}

/// The statuses that come with a JSON body; 401, for one, comes with HTML.
fn carries_reply(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::OK | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR
    )
}

#[derive(Deserialize)]
struct Reply<'a> {
    /// `None` for a result of `null`, too.
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    id: &'a RawValue,
}

/// Rewrites a reply; `None` for what is not one. We send no batches.
fn to_v2(body: &[u8]) -> Option<String> {
    // A struct is read from an array as well, which no reply is.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let Reply { result, error, id } = serde_json::from_slice(body).ok()?;
    let (name, value) = match error {
        Some(error) => ("error", error.get()),
        None => ("result", result.map_or("null", RawValue::get)),
    };
    Some(format!(r#"{{"jsonrpc":"2.0","{name}":{value},"id":{id}}}"#))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_keep_every_digit_and_lose_what_is_null() {
        for (v1, v2) in [
            (
                r#"{"result":0.10000000,"error":null,"id":1}"#,
                Some(r#"{"jsonrpc":"2.0","result":0.10000000,"id":1}"#),
            ),
            (
                r#"{"result":null,"error":null,"id":"a"}"#,
                Some(r#"{"jsonrpc":"2.0","result":null,"id":"a"}"#),
            ),
            (
                r#"{"result":null,"error":{"code":-3,"message":"m"},"id":1}"#,
                Some(r#"{"jsonrpc":"2.0","error":{"code":-3,"message":"m"},"id":1}"#),
            ),
            (r#"[null,null,1]"#, None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(to_v2(v1.as_bytes()).as_deref(), v2, "{v1}");
        }
    }
}
