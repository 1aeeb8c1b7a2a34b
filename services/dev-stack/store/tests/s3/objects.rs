use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, Delete, MetadataDirective, ObjectIdentifier};

use crate::support::{BUCKET, fixture, fixture_with, raw, refusal, refused};

/// Sizes on both sides of where bytes move from the index to a file.
const SIZES: [usize; 6] = [0, 1, 16 * 1024, 16 * 1024 + 1, 1024 * 1024, 3 * 1024 * 1024 + 7];

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[tokio::test]
async fn bytes_come_back_as_they_went_in() {
    let f = fixture().await;
    for size in SIZES {
        f.put("key", bytes(size)).await;
        assert!(f.get("key").await == bytes(size), "{size} bytes");
    }
}

#[tokio::test]
async fn headers_and_metadata_come_back_with_the_object() {
    let f = fixture().await;
    let put = f
        .client
        .put_object()
        .bucket(BUCKET)
        .key("key")
        .body(ByteStream::from_static(b"hello"));
    let put = put
        .content_type("text/plain; charset=utf-8")
        .cache_control("no-store")
        .content_disposition("attachment")
        .content_encoding("gzip")
        .content_language("gl")
        .metadata("colour", "blue")
        .metadata("origin", "Coruña");
    let etag = put.send().await.unwrap().e_tag.unwrap();
    assert_eq!(etag, "\"5d41402abc4b2a76b9719d911017c592\"");

    let head = f
        .client
        .head_object()
        .bucket(BUCKET)
        .key("key")
        .send()
        .await
        .unwrap();
    assert_eq!(head.content_length(), Some(5));
    assert_eq!(head.e_tag(), Some(etag.as_str()));
    assert_eq!(head.content_type(), Some("text/plain; charset=utf-8"));
    assert_eq!(head.content_encoding(), Some("gzip"));
    let got = f
        .client
        .get_object()
        .bucket(BUCKET)
        .key("key")
        .send()
        .await
        .unwrap();
    assert_eq!(got.cache_control(), Some("no-store"));
    assert_eq!(got.content_disposition(), Some("attachment"));
    assert_eq!(got.content_language(), Some("gl"));
    let metadata = got.metadata().unwrap();
    assert_eq!(metadata["colour"], "blue");
    // A header is ASCII; S3, too, writes anything else as RFC 2047 has it, and leaves decoding to the reader.
    assert_eq!(metadata["origin"], "=?UTF-8?B?Q29ydcOxYQ==?=");
    assert!(got.last_modified().is_some());
}

#[tokio::test]
async fn an_object_without_a_type_is_bytes() {
    let f = fixture().await;
    let bare = format!("GET /{BUCKET}/key HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(
        raw(f.server.address, bare.as_bytes())
            .await
            .starts_with("HTTP/1.1 403")
    );
    f.client
        .put_object()
        .bucket(BUCKET)
        .key("key")
        .send()
        .await
        .unwrap();
    let head = f
        .client
        .head_object()
        .bucket(BUCKET)
        .key("key")
        .send()
        .await
        .unwrap();
    assert!(["binary/octet-stream", "application/octet-stream"].contains(&head.content_type().unwrap()));
}

#[tokio::test]
async fn ranges_are_parts_of_the_object() {
    let f = fixture().await;
    for size in [1000, 100_000] {
        f.put("key", bytes(size)).await;
        let table = [
            ("bytes=0-9", 0..10),
            ("bytes=990-", 990..size),
            ("bytes=-10", size - 10..size),
            ("bytes=5-99999999", 5..size),
        ];
        for (asked, expected) in table {
            let got = f
                .client
                .get_object()
                .bucket(BUCKET)
                .key("key")
                .range(asked)
                .send()
                .await
                .unwrap();
            let named = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
            assert_eq!(got.content_range(), Some(named.as_str()));
            assert_eq!(
                got.body.collect().await.unwrap().to_vec(),
                bytes(size)[expected],
                "{asked}"
            );
        }
        let outside = f
            .client
            .get_object()
            .bucket(BUCKET)
            .key("key")
            .range("bytes=100000-")
            .send()
            .await;
        assert_eq!(refusal(outside), refused(416, "InvalidRange"));
    }
}

#[tokio::test]
async fn every_checksum_is_proved_and_handed_out_again() {
    let f = fixture().await;
    let algorithms = [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ];
    for algorithm in algorithms {
        // The SDK sends the checksum behind the body, and checks the one it gets back.
        let body = ByteStream::from(bytes(70_000));
        let put = f
            .client
            .put_object()
            .bucket(BUCKET)
            .key("key")
            .checksum_algorithm(algorithm.clone())
            .body(body);
        put.send().await.unwrap();
        let get = f
            .client
            .get_object()
            .bucket(BUCKET)
            .key("key")
            .checksum_mode(ChecksumMode::Enabled);
        let got = get.send().await.unwrap();
        let sums = [
            got.checksum_crc32().is_some(),
            got.checksum_crc32_c().is_some(),
            got.checksum_crc64_nvme().is_some(),
            got.checksum_sha1().is_some(),
            got.checksum_sha256().is_some(),
        ];
        assert_eq!(sums.iter().filter(|present| **present).count(), 1, "{algorithm}");
        assert!(got.body.collect().await.unwrap().to_vec() == bytes(70_000));
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_it_claims_is_not_stored() {
    let f = fixture().await;
    let put = |size| {
        f.client
            .put_object()
            .bucket(BUCKET)
            .key("key")
            .body(ByteStream::from(bytes(size)))
    };
    for size in SIZES {
        let md5 = put(size).content_md5("AAAAAAAAAAAAAAAAAAAAAA==").send().await;
        assert_eq!(refusal(md5), refused(400, "BadDigest"), "{size} bytes");
        let crc32 = put(size).checksum_crc32("AAAAAQ==").send().await;
        assert_eq!(refusal(crc32), refused(400, "BadDigest"), "{size} bytes");
    }
    let nonsense = put(1).content_md5("nonsense").send().await;
    assert_eq!(refusal(nonsense), refused(400, "InvalidDigest"));
    assert!(f.keys().await.is_empty());
    f.until_blobs(0).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let f = fixture_with(|config| config.object_bytes_max = 100_000).await;
    let put = |size| {
        f.client
            .put_object()
            .bucket(BUCKET)
            .key("key")
            .body(ByteStream::from(bytes(size)))
            .send()
    };
    put(100_000).await.unwrap();
    assert_eq!(refusal(put(100_001).await), refused(413, "EntityTooLarge"));
    assert!(f.get("key").await == bytes(100_000));
    f.until_blobs(1).await;
}

#[tokio::test]
async fn deleting_is_idempotent_and_frees_the_bytes() {
    let f = fixture().await;
    f.put("large", bytes(100_000)).await;
    assert_eq!(f.blobs(), 1);
    for _ in 0..2 {
        f.client
            .delete_object()
            .bucket(BUCKET)
            .key("large")
            .send()
            .await
            .unwrap();
    }
    let get = f.client.get_object().bucket(BUCKET).key("large").send().await;
    assert_eq!(refusal(get), refused(404, "NoSuchKey"));
    f.until_blobs(0).await;
}

#[tokio::test]
async fn a_batch_of_deletes_reports_each_key() {
    let f = fixture().await;
    let etag = f.put("a", "1").await;
    f.put("b", "2").await;
    f.put("c <&> \u{e9}", "3").await;
    let object = |key: &str| ObjectIdentifier::builder().key(key);
    let delete = Delete::builder()
        .objects(object("a").e_tag(etag).build().unwrap())
        .objects(object("b").e_tag("\"other\"").build().unwrap())
        .objects(object("c <&> \u{e9}").build().unwrap())
        .objects(object("absent").build().unwrap())
        .build()
        .unwrap();
    let done = f
        .client
        .delete_objects()
        .bucket(BUCKET)
        .delete(delete)
        .send()
        .await
        .unwrap();
    let deleted: Vec<_> = done
        .deleted()
        .iter()
        .map(|deleted| deleted.key().unwrap())
        .collect();
    assert_eq!(deleted, ["a", "c <&> \u{e9}", "absent"]);
    assert_eq!(done.errors()[0].key(), Some("b"));
    assert_eq!(done.errors()[0].code(), Some("PreconditionFailed"));
    assert_eq!(f.keys().await, ["b"]);
}

#[tokio::test]
async fn a_copy_shares_the_bytes_and_outlives_its_source() {
    let f = fixture().await;
    let put = f
        .client
        .put_object()
        .bucket(BUCKET)
        .key("a")
        .body(ByteStream::from(bytes(100_000)));
    put.content_type("text/plain")
        .metadata("k", "v")
        .send()
        .await
        .unwrap();
    let copy = |from: &str, to: &str| {
        f.client
            .copy_object()
            .bucket(BUCKET)
            .copy_source(format!("{BUCKET}/{from}"))
            .key(to)
    };

    copy("a", "kept").send().await.unwrap();
    let replaced = copy("a", "replaced")
        .metadata_directive(MetadataDirective::Replace)
        .metadata("other", "w");
    replaced.send().await.unwrap();
    assert_eq!(f.blobs(), 1, "copies need no bytes of their own");
    f.client
        .delete_object()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await
        .unwrap();

    let kept = f
        .client
        .head_object()
        .bucket(BUCKET)
        .key("kept")
        .send()
        .await
        .unwrap();
    assert_eq!(kept.content_type(), Some("text/plain"));
    assert_eq!(kept.metadata().unwrap()["k"], "v");
    let replaced = f
        .client
        .head_object()
        .bucket(BUCKET)
        .key("replaced")
        .send()
        .await
        .unwrap();
    assert_ne!(replaced.content_type(), Some("text/plain"));
    assert_eq!(replaced.metadata().unwrap().len(), 1);
    assert!(f.get("kept").await == bytes(100_000));

    let own = |directive| {
        copy("kept", "kept")
            .metadata_directive(directive)
            .metadata("m", "n")
            .send()
    };
    assert_eq!(
        refusal(own(MetadataDirective::Copy).await),
        refused(400, "InvalidArgument")
    );
    own(MetadataDirective::Replace).await.unwrap();
    assert!(f.get("kept").await == bytes(100_000));
    for key in ["kept", "replaced"] {
        f.client
            .delete_object()
            .bucket(BUCKET)
            .key(key)
            .send()
            .await
            .unwrap();
    }
    f.until_blobs(0).await;
}

#[tokio::test]
async fn created_objects_are_announced() {
    let f = fixture().await;
    let mut feed = f.server.store.subscribe();
    f.put("input/a b", "1").await;
    f.client
        .delete_object()
        .bucket(BUCKET)
        .key("absent")
        .send()
        .await
        .unwrap();
    let copy = f
        .client
        .copy_object()
        .bucket(BUCKET)
        .copy_source(format!("{BUCKET}/input/a%20b"))
        .key("copy");
    copy.send().await.unwrap();
    let seen =
        [feed.recv().await.unwrap(), feed.recv().await.unwrap()].map(|created| (created.bucket, created.key));
    assert_eq!(
        seen,
        ["input/a b", "copy"].map(|key| (BUCKET.to_owned(), key.to_owned()))
    );
}
