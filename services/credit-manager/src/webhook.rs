//! WEBHOOK: posts a document to a web address that a user chose.
//!
//! The address is a stranger's and the call comes from inside: without care it would reach services that trust whoever is on
//! this machine or in this network. So only public addresses are called, unless the operator allows others, and an
//! address is judged when it is connected to, not when its name was looked up before.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use tower::Service;

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Which addresses may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Public,
    /// Also loopback, private and link-local ones.
    Any,
}

/// Where alerts are posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook(http::Uri);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a web address such as https://example.org/alert")]
pub struct WebhookError(String);

impl std::str::FromStr for Webhook {
    type Err = WebhookError;

    fn from_str(text: &str) -> Result<Self, WebhookError> {
        let refuse = || WebhookError(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| refuse())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        if known && uri.host().is_some_and(|host| !host.is_empty()) {
            Ok(Self(uri))
        } else {
            Err(refuse())
        }
    }
}

impl std::fmt::Display for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("this machine has no certificates to check others by")]
    Certificates(#[source] io::Error),
    #[error("the webhook's address {0} is not a public one (hint: `alert_webhook_private` allows it)")]
    NotPublic(IpAddr),
    #[error("the webhook cannot be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("the webhook did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Late,
    #[error("the webhook answered {0}")]
    Refused(http::StatusCode),
}

impl CallError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotPublic(_) => false,
            Self::Certificates(_) | Self::Unreachable(_) | Self::Late | Self::Refused(_) => true,
        }
    }
}

impl Webhook {
    /// Posts `document`. `Ok`: it was taken.
    pub async fn post(&self, document: &serde_json::Value, reach: Reach) -> Result<(), CallError> {
        // A host that is an address is connected to without being looked up.
        if let Some(address) = self.address().filter(|address| !reach.has(*address)) {
            return Err(CallError::NotPublic(address));
        }
        let mut request = http::Request::new(Full::new(Bytes::from(document.to_string())));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.0.clone();
        let json = http::HeaderValue::from_static("application/json");
        request.headers_mut().insert(http::header::CONTENT_TYPE, json);
        let answer = client(reach)?.request(request);
        let answer = tokio::time::timeout(CALL_TIMEOUT, answer)
            .await
            .map_err(|_| CallError::Late)?
            .map_err(CallError::Unreachable)?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(CallError::Refused(answer.status()))
        }
    }

    fn address(&self) -> Option<IpAddr> {
        let host = self.0.host()?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        bare.unwrap_or(host).parse().ok()
    }
}

impl Reach {
    fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Public => match address {
                IpAddr::V4(address) => is_public_v4(address),
                IpAddr::V6(address) => is_public_v6(address),
            },
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match (a, b, c) {
        // This network; carriers' own; protocol assignments; benchmarks; reserved.
        (0 | 240.., ..) | (100, 64..=127, _) | (192, 0, 0) | (198, 18 | 19, _) => true,
        _ => false,
    };
    !(special
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Inside others: IPv4-mapped and NAT64.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            let [.., a, b, c, d] = address.octets();
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Protocol assignments with Teredo, documentation, and 6to4, which has an IPv4 address inside.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002 | 0x3fff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Looks names up, and keeps the addresses that may be called.
#[derive(Clone)]
struct Resolver(Reach);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses: Vec<SocketAddr> = found.filter(|found| reach.has(found.ip())).collect();
            if addresses.is_empty() {
                return Err(io::Error::other(format!(
                    "`{}` has no public address",
                    name.as_str()
                )));
            }
            Ok(addresses.into_iter())
        })
    }
}

/// A client for one call: alerts are rare.
fn client(reach: Reach) -> Result<Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>, CallError> {
    let mut connector = HttpConnector::new_with_resolver(Resolver(reach));
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_native_roots()
        .map_err(CallError::Certificates)?
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_a_whole_web_address() {
        for text in ["http://127.0.0.1:8080/x", "https://example.org"] {
            assert!(text.parse::<Webhook>().is_ok(), "{text}");
        }
        for text in [
            "",
            "example.org",
            "ftp://example.org",
            "http://",
            "/x",
            "https:///x",
        ] {
            assert!(text.parse::<Webhook>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_public_is_not_called() {
        for (address, is_public) in [
            ("9.9.9.9", true),
            ("127.0.0.1", false),
            ("0.0.0.0", false),
            ("10.1.2.3", false),
            ("172.16.0.1", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("169.254.169.254", false),
            ("100.100.0.1", false),
            ("198.18.0.1", false),
            ("255.255.255.255", false),
            ("2620:fe::9", true),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:9.9.9.9", true),
            ("64:ff9b::a00:1", false),
            ("2002:7f00:1::", false),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(Reach::Public.has(address), is_public, "{address}");
            assert!(Reach::Any.has(address));
        }
    }

    #[tokio::test]
    async fn a_webhook_cannot_be_led_to_a_service_of_this_machine() {
        let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = service.local_addr().unwrap().port();
        for host in [
            "127.0.0.1",
            "[::ffff:127.0.0.1]",
            "localhost",
            "2130706433",
            "0x7f.1",
            "0",
        ] {
            let webhook: Webhook = format!("http://{host}:{port}/").parse().unwrap();
            let called = webhook.post(&serde_json::Value::Null, Reach::Public).await;
            assert!(
                matches!(called, Err(CallError::NotPublic(_) | CallError::Unreachable(_))),
                "{host}: {called:?}"
            );
        }
        let nobody = tokio::time::timeout(Duration::from_millis(50), service.accept()).await;
        assert!(nobody.is_err(), "somebody called");
    }
}
