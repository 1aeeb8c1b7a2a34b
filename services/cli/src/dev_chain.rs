//! The development chain's own calls, which no real daemon knows: coins from nowhere, blocks on demand.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use dev_stack::DevChainEndpoint;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use service_kit::Secret;
use tokio::net::TcpStream;
use units::Amount;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The JSON-RPC of a development chain.
///
/// The daemon's protocol is JSON-RPC 1.0, whose replies always hold both `result` and `error`; the wallet client of
/// credit-manager copes with a real daemon, while these calls are to our own process, one request and one reply.
#[derive(Debug)]
pub(crate) struct DevChain {
    authority: String,
    authorization: Secret,
}

#[derive(Serialize)]
struct Call<'a, P> {
    method: &'a str,
    params: P,
    id: u32,
}

#[derive(Deserialize)]
struct Reply {
    result: Value,
    error: Option<RpcError>,
}

#[derive(Deserialize)]
struct RpcError {
    message: String,
}

impl DevChain {
    pub(crate) fn new(endpoint: &DevChainEndpoint) -> anyhow::Result<Self> {
        let authority = endpoint
            .url
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'));
        let authority = authority.with_context(|| format!("`{}` is not an http address", endpoint.url))?;
        let password = Secret::read(&endpoint.password_file)?;
        let login = BASE64.encode(format!("{}:{}", endpoint.user, password.expose()));
        Ok(Self {
            authority: authority.to_owned(),
            authorization: Secret::new(format!("Basic {login}")),
        })
    }

    /// Sends coins from nowhere to an address, and returns the transaction's id.
    pub(crate) async fn deposit(&self, address: &str, amount: Amount) -> anyhow::Result<String> {
        // The amount is a JSON number to the daemon, and stays text here: it is never a float.
        let amount = RawValue::from_string(amount.to_string())?;
        let result = self.call("dev_deposit", (address, amount)).await?;
        match result {
            Value::String(txid) => Ok(txid),
            other => bail!("the development chain answered `{other}` instead of a transaction id"),
        }
    }

    /// Makes blocks, at once.
    pub(crate) async fn mine(&self, blocks: u32) -> anyhow::Result<()> {
        self.call("dev_mine", [blocks]).await.map(drop)
    }

    async fn call(&self, method: &str, params: impl Serialize) -> anyhow::Result<Value> {
        let body = serde_json::to_vec(&Call {
            method,
            params,
            id: 1,
        })?;
        let reply = tokio::time::timeout(TIMEOUT, self.exchange(body))
            .await
            .map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| {
                format!(
                    "the development chain at {} does not answer (hint: is `gridfaas up` still running?)",
                    self.authority
                )
            })?;
        let reply: Reply =
            serde_json::from_slice(&reply).context("the development chain's answer makes no sense")?;
        match reply.error {
            Some(err) => Err(anyhow!("the development chain refused: {}", err.message)),
            None => Ok(reply.result),
        }
    }

    async fn exchange(&self, body: Vec<u8>) -> anyhow::Result<Bytes> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::post("/")
            .header(header::HOST, &self.authority)
            .header(header::AUTHORIZATION, self.authorization.expose())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))?;
        let exchange = async {
            anyhow::Ok(
                sender
                    .send_request(request)
                    .await?
                    .into_body()
                    .collect()
                    .await?
                    .to_bytes(),
            )
        };
        // The connection only moves while it is polled, and ends after its one reply.
        let (reply, _closed) = tokio::join!(exchange, connection);
        reply
    }
}
