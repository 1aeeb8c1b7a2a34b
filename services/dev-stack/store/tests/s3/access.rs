use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use store::Buckets;

use crate::support::{ACCESS_KEY, BUCKET, Fixture, SECRET_KEY, credential, fixture, raw, refusal, refused};

#[tokio::test]
async fn a_credential_reaches_its_own_buckets_only() {
    let f = fixture().await;
    f.server.store.set_credentials(vec![
        credential(ACCESS_KEY, SECRET_KEY, Buckets::All),
        credential("alice", "alice-secret", Buckets::only(["alice"])),
        credential("bob", "bob-secret", Buckets::only(["bob", "bob-2"])),
    ]);
    let (alice, bob) = (
        f.server.client("alice", "alice-secret"),
        f.server.client("bob", "bob-secret"),
    );
    alice.create_bucket().bucket("alice").send().await.unwrap();
    bob.create_bucket().bucket("bob").send().await.unwrap();
    bob.put_object()
        .bucket("bob")
        .key("secret.txt")
        .body(ByteStream::from_static(b"!"))
        .send()
        .await
        .unwrap();

    let denied = refused(403, "AccessDenied");
    assert_eq!(
        refusal(alice.create_bucket().bucket("mallory").send().await),
        denied
    );
    assert_eq!(refusal(alice.delete_bucket().bucket("bob").send().await), denied);
    assert_eq!(
        refusal(alice.list_objects_v2().bucket("bob").send().await),
        denied
    );
    assert_eq!(
        refusal(alice.get_object().bucket("bob").key("secret.txt").send().await),
        denied
    );
    assert_eq!(
        refusal(alice.put_object().bucket("bob").key("x").send().await),
        denied
    );
    assert_eq!(
        refusal(alice.delete_object().bucket("bob").key("secret.txt").send().await),
        denied
    );
    let stolen = alice
        .copy_object()
        .bucket("alice")
        .key("x")
        .copy_source("bob/secret.txt")
        .send()
        .await;
    assert_eq!(refusal(stolen), denied);
    let upload = alice
        .create_multipart_upload()
        .bucket("alice")
        .key("x")
        .send()
        .await
        .unwrap()
        .upload_id
        .unwrap();
    let part = alice
        .upload_part_copy()
        .bucket("alice")
        .key("x")
        .upload_id(upload)
        .part_number(1);
    assert_eq!(refusal(part.copy_source("bob/secret.txt").send().await), denied);
    for key in ["../bob/secret.txt", "..%2Fbob%2Fsecret.txt", "/../bob/secret.txt"] {
        let got = alice.get_object().bucket("alice").key(key).send().await;
        assert_eq!(refusal(got), refused(404, "NoSuchKey"), "{key}");
    }

    let shown = |listed: aws_sdk_s3::operation::list_buckets::ListBucketsOutput| {
        listed
            .buckets()
            .iter()
            .map(|bucket| bucket.name().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(alice.list_buckets().send().await.unwrap()), ["alice"]);
    assert_eq!(
        shown(f.client.list_buckets().send().await.unwrap()),
        ["alice", "bob", BUCKET]
    );

    f.server
        .store
        .set_credentials(vec![credential("bob", "new-secret", Buckets::only(["bob"]))]);
    assert_eq!(
        refusal(alice.list_buckets().send().await),
        refused(403, "InvalidAccessKeyId")
    );
    assert_eq!(
        refusal(bob.list_buckets().send().await),
        refused(403, "SignatureDoesNotMatch")
    );
}

#[tokio::test]
async fn a_request_without_a_good_signature_is_refused() {
    let f = fixture().await;
    let unknown = f.server.client("nobody", SECRET_KEY);
    assert_eq!(
        refusal(unknown.list_buckets().send().await),
        refused(403, "InvalidAccessKeyId")
    );
    let wrong = f.server.client(ACCESS_KEY, "guess");
    assert_eq!(
        refusal(wrong.list_buckets().send().await),
        refused(403, "SignatureDoesNotMatch")
    );
    let put = wrong
        .put_object()
        .bucket(BUCKET)
        .key("key")
        .body(ByteStream::from_static(b"x"))
        .send()
        .await;
    assert_eq!(refusal(put), refused(403, "SignatureDoesNotMatch"));
    for request in [
        "GET /",
        "GET /bucket",
        "PUT /bucket/key",
        "DELETE /bucket/key",
        "PUT /other",
    ] {
        let request =
            format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        let answer = raw(f.server.address, request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("AccessDenied"),
            "{answer}"
        );
    }
    assert!(f.keys().await.is_empty());
}

async fn send(f: &Fixture, method: &str, uri: &str, body: &str) -> String {
    let target = uri.split_once(&f.server.address.to_string()).unwrap().1;
    let (host, length) = (f.server.address, body.len());
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\nconnection: close"
    );
    raw(f.server.address, format!("{head}\r\n\r\n{body}").as_bytes()).await
}

#[tokio::test]
async fn a_presigned_url_is_good_for_its_request_and_nothing_else() {
    let f = fixture().await;
    let a_minute = || PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let put = f
        .client
        .put_object()
        .bucket(BUCKET)
        .key("a b/ü")
        .presigned(a_minute())
        .await
        .unwrap();
    let answer = send(&f, "PUT", put.uri(), "hello").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let get = f
        .client
        .get_object()
        .bucket(BUCKET)
        .key("a b/ü")
        .presigned(a_minute())
        .await
        .unwrap();
    let answer = send(&f, "GET", get.uri(), "").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhello"),
        "{answer}"
    );

    let another_method = send(&f, "DELETE", get.uri(), "").await;
    assert!(
        another_method.contains("SignatureDoesNotMatch"),
        "{another_method}"
    );
    let another_key = send(&f, "GET", &get.uri().replace("/bucket/a", "/bucket/b"), "").await;
    assert!(another_key.contains("SignatureDoesNotMatch"), "{another_key}");
    assert_eq!(f.get("a b/ü").await, b"hello");
}
