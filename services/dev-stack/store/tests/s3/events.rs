use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use serde_json::Value;
use store::Buckets;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

use crate::support::{ACCESS_KEY, BUCKET, SECRET_KEY, Server, credential, fixture, raw, refusal, refused};

type Answer = Result<GetObjectOutput, SdkError<GetObjectError>>;

/// Asks to be told of what is created at `path`; the SDK has no such request, and signs this one.
async fn listen(server: &Server, client: &Client, path: &str) -> Answer {
    let url = format!("http://{}{path}?events=s3%3AObjectCreated%3A%2A", server.address);
    let request = client.get_object().bucket("any").key("any").customize();
    let at_url = move |mut request: aws_sdk_s3::config::http::HttpRequest| {
        request.set_uri(url.as_str()).map(|()| request)
    };
    request.map_request(at_url).send().await
}

/// Bucket and key of the next event.
async fn told(lines: &mut (impl AsyncBufRead + Unpin)) -> (String, String) {
    let mut line = String::new();
    lines.read_line(&mut line).await.unwrap();
    let message: Value = serde_json::from_str(&line).unwrap();
    let entity = &message["Records"][0]["s3"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&entity["bucket"]["name"]), text(&entity["object"]["key"]))
}

#[tokio::test]
async fn whoever_listens_is_told_of_the_buckets_of_its_key() {
    let f = fixture().await;
    f.server.store.set_credentials(vec![
        credential(ACCESS_KEY, SECRET_KEY, Buckets::All),
        credential("alice", "alice-secret", Buckets::only(["alice"])),
    ]);
    let alice = f.server.client("alice", "alice-secret");
    alice.create_bucket().bucket("alice").send().await.unwrap();

    let everything = listen(&f.server, &f.client, "/").await.unwrap();
    assert_eq!(everything.content_type(), Some("text/event-stream"));
    let mut everything = everything.body.into_async_read();
    let hers = listen(&f.server, &alice, "/").await.unwrap();
    let mut hers = hers.body.into_async_read();
    let denied = listen(&f.server, &alice, &format!("/{BUCKET}")).await;
    assert_eq!(refusal(denied), refused(403, "AccessDenied"));
    let unsigned = raw(
        f.server.address,
        b"GET /?events=s3:ObjectCreated:* HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(unsigned.await.starts_with("HTTP/1.1 403"));

    f.put("input/a b", "x").await;
    let copy = f.client.copy_object().copy_source(format!("{BUCKET}/input/a b"));
    copy.bucket("alice").key("copied").send().await.unwrap();
    let event = |bucket: &str, key: &str| (bucket.to_owned(), key.to_owned());
    assert_eq!(told(&mut everything).await, event(BUCKET, "input%2Fa%20b"));
    assert_eq!(told(&mut everything).await, event("alice", "copied"));
    assert_eq!(told(&mut hers).await, event("alice", "copied"));

    // The server ends what would never end, so that it need not cut it off.
    let mut line = String::new();
    let (read, ()) = tokio::join!(everything.read_line(&mut line), f.server.stop());
    assert_eq!(read.unwrap(), 0, "{line}");
}
