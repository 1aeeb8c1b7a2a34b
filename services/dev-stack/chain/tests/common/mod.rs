//! A node on a port of its own, and a client that says exactly what it is told to.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chain::Chain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Node {
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) version: &'a str,
    /// `user:password`.
    pub(crate) login: Option<&'a str>,
    /// Take the place of the usual ones of the same name.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a str,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: String,
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Node {
    pub(crate) async fn start(chain: &Chain) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(chain::serve(chain.clone(), listener, shutdown.clone()));
        Self {
            address,
            shutdown,
            serving,
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
    }

    pub(crate) async fn post(&self, body: &str) -> Option<Reply> {
        self.exchange(&Request {
            method: "POST",
            path: "/",
            version: "HTTP/1.1",
            login: Some("gridcoinrpc:test"),
            headers: &[],
            body,
        })
        .await
    }

    /// One request over a connection of its own; `None` where it was closed without a reply.
    pub(crate) async fn exchange(&self, request: &Request<'_>) -> Option<Reply> {
        let mut headers = vec![
            ("Host", self.address.to_string()),
            ("Connection", "close".to_owned()),
            ("Content-Length", request.body.len().to_string()),
        ];
        headers.extend(
            request
                .login
                .map(|login| ("Authorization", format!("Basic {}", STANDARD.encode(login)))),
        );
        for (name, value) in request.headers {
            headers.retain(|(usual, _)| usual != name);
            headers.push((name, (*value).to_owned()));
        }
        let mut text = format!("{} {} {}\r\n", request.method, request.path, request.version);
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream
            .write_all(format!("{text}\r\n{}", request.body).as_bytes())
            .await
            .unwrap();
        read(&mut stream).await
    }
}

/// Reads one reply: to the announced length, or as much of it as comes.
async fn read(stream: &mut TcpStream) -> Option<Reply> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            let length = lines.into_iter().find(|(name, _)| *name == "Content-Length");
            if length.is_some_and(|(_, length)| length.parse() == Ok(body.len())) {
                return Some(reply(head, body));
            }
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await.unwrap_or(0) {
            0 => return text.split_once("\r\n\r\n").map(|(head, body)| reply(head, body)),
            count => bytes.extend(&more[..count]),
        }
    }
}

fn reply(head: &str, body: &str) -> Reply {
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply {
        head: head.to_owned(),
        status,
        body: body.to_owned(),
    }
}
