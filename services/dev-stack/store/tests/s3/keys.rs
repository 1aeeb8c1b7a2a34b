use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::EncodingType;

use crate::support::{BUCKET, Fixture, fixture, raw, refusal, refused};

/// Keys that have broken one store or another.
fn hostile() -> Vec<String> {
    let fixed = [
        "a",
        "a/b",
        "a/",
        "a//b",
        "a//",
        "/",
        "//",
        "/absolute",
        "/etc/passwd",
        ".",
        "..",
        "../bob/secret.txt",
        "x/../../../../etc/zz",
        "..%2Fbob%2Fsecret.txt",
        "%2e%2e/%2e%2e",
        "a b",
        " leading and trailing ",
        "plus+and%20percent",
        "100%",
        "key",
        "Key",
        "KEY",
        "cafe\u{301}",
        "caf\u{e9}",
        "\u{1f980}",
        "\u{202e}txt.exe",
        "nul\0byte",
        "new\nline",
        "carriage\rreturn",
        "tab\t",
        "esc\u{1b}[31m",
        "\u{7f}",
        "-rf",
        "$(id)",
        "`id`",
        "'; DROP TABLE object; --",
        ",/root:/x",
        "C:\\windows\\con",
        "<xml attr=\"&amp;\">",
        "a?b=c#d",
        "bucket/a",
        "index.sqlite",
        "blobs/x",
        "\u{10ffff}",
    ];
    let mut keys: Vec<String> = fixed.map(str::to_owned).into();
    keys.push("k".repeat(1024));
    keys.push("\u{e9}".repeat(512));
    keys.push(format!("{}x", "d/".repeat(511)));
    keys
}

/// Every key of a listing with `encoding-type=url`, which is the only one that carries all of them.
async fn listed(f: &Fixture) -> Vec<String> {
    let (mut keys, mut token) = (Vec::new(), None);
    loop {
        let list = f
            .client
            .list_objects_v2()
            .bucket(BUCKET)
            .encoding_type(EncodingType::Url)
            .max_keys(7);
        let page = list.set_continuation_token(token).send().await.unwrap();
        let decode = |key: &str| {
            percent_encoding::percent_decode_str(key)
                .decode_utf8()
                .unwrap()
                .into_owned()
        };
        keys.extend(page.contents().iter().map(|object| decode(object.key().unwrap())));
        token = page.next_continuation_token;
        if token.is_none() {
            return keys;
        }
    }
}

#[tokio::test]
async fn any_legal_key_works_and_none_leaves_its_bucket() {
    let f = fixture().await;
    let mut keys = hostile();
    for key in &keys {
        f.put(key, key.as_bytes()).await;
    }
    for key in &keys {
        assert_eq!(f.get(key).await, key.as_bytes(), "{key:?}");
    }
    keys.sort();
    assert_eq!(listed(&f).await, keys);

    let buckets = f.client.list_buckets().send().await.unwrap();
    assert_eq!(buckets.buckets().len(), 1);
    let mut files: Vec<_> = std::fs::read_dir(f.root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    files.sort();
    let expected = [
        "blobs",
        "index.lock",
        "index.sqlite",
        "index.sqlite-shm",
        "index.sqlite-wal",
    ];
    assert_eq!(files, expected, "a key has become a file");
    assert_eq!(f.blobs(), 0);

    for key in &keys {
        f.client
            .delete_object()
            .bucket(BUCKET)
            .key(key)
            .send()
            .await
            .unwrap();
    }
    assert!(listed(&f).await.is_empty());
}

#[tokio::test]
async fn any_legal_key_can_be_copied_from() {
    let f = fixture().await;
    for key in hostile() {
        f.put(&key, key.as_bytes()).await;
        let source = percent_encoding::utf8_percent_encode(&key, percent_encoding::NON_ALPHANUMERIC);
        let copy = f
            .client
            .copy_object()
            .bucket(BUCKET)
            .copy_source(format!("{BUCKET}/{source}"))
            .key("copy");
        copy.send().await.unwrap();
        assert_eq!(f.get("copy").await, key.as_bytes(), "{key:?}");
    }
}

#[tokio::test]
async fn a_key_over_the_limit_is_refused() {
    let f = fixture().await;
    let body = ByteStream::from_static(b"x");
    let put = f
        .client
        .put_object()
        .bucket(BUCKET)
        .key("k".repeat(1025))
        .body(body)
        .send()
        .await;
    assert_eq!(refusal(put), refused(400, "KeyTooLongError"));
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_and_the_server_lives() {
    let f = fixture().await;
    let requests: [&[u8]; 9] = [
        b"GET /bucket/%ff%fe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET /bucket/key?list-type=\xff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"PUT /bucket/key HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx",
        b"DELETE /bucket/../other/key HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nauthorization: AWS4-HMAC-SHA256 nonsense\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nauthorization: AWS operator:bm9uc2Vuc2U=\r\nconnection: close\r\n\r\n",
        b"GET /bucket?X-Amz-Signature=0 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"POST /bucket HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4\r\n\
          content-type: multipart/form-data; boundary=b\r\n\r\n--b\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for request in requests {
        let answer = raw(f.server.address, request).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert!(f.keys().await.is_empty());
}
