use aws_sdk_s3::primitives::{ByteStream, DateTime};
use futures::future::join_all;

use crate::support::{BUCKET, fixture, refusal, refused};

#[tokio::test]
async fn of_many_writers_of_a_new_key_exactly_one_wins() {
    let f = fixture().await;
    for round in 0..20 {
        // Both kinds of storage, since the larger bodies overlap for longer.
        let size = if round % 2 == 0 { 8 } else { 50_000 };
        let key = format!("lock-{round}");
        let put = |writer: u8| {
            let body = ByteStream::from(vec![writer; size]);
            f.client
                .put_object()
                .bucket(BUCKET)
                .key(&key)
                .if_none_match("*")
                .body(body)
                .send()
        };
        let results = join_all((0..12).map(put)).await;
        let winners: Vec<u8> = (0..12)
            .filter(|&writer| results[usize::from(writer)].is_ok())
            .collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(f.get(&key).await, vec![winners[0]; size]);
        for result in results.into_iter().filter(Result::is_err) {
            assert_eq!(refusal(result), refused(412, "PreconditionFailed"));
        }
    }
    f.until_blobs(10).await;
}

#[tokio::test]
async fn of_many_copies_to_a_new_key_exactly_one_wins() {
    let f = fixture().await;
    f.put("source", "x").await;
    let copy = |_| {
        let copy = f
            .client
            .copy_object()
            .bucket(BUCKET)
            .copy_source(format!("{BUCKET}/source"));
        copy.key("claimed").if_none_match("*").send()
    };
    let results = join_all((0..12).map(copy)).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
}

#[tokio::test]
async fn a_write_on_a_condition_changes_only_what_it_knows() {
    let f = fixture().await;
    let put = |condition: &str| {
        f.client
            .put_object()
            .bucket(BUCKET)
            .key("key")
            .if_match(condition)
    };
    assert_eq!(refusal(put("*").send().await), refused(404, "NoSuchKey"));
    let first = f.put("key", "1").await;
    put(&first)
        .body(ByteStream::from_static(b"2"))
        .send()
        .await
        .unwrap();
    assert_eq!(
        refusal(put(&first).send().await),
        refused(412, "PreconditionFailed")
    );
    assert_eq!(f.get("key").await, b"2");

    let delete = |condition: &str| {
        f.client
            .delete_object()
            .bucket(BUCKET)
            .key("key")
            .if_match(condition)
            .send()
    };
    assert_eq!(refusal(delete(&first).await), refused(412, "PreconditionFailed"));
    delete("*").await.unwrap();
    assert_eq!(refusal(delete("*").await), refused(412, "PreconditionFailed"));
}

#[tokio::test]
async fn a_read_on_a_condition_follows_the_etag_and_the_time() {
    let f = fixture().await;
    let etag = f.put("key", "1").await;
    let get = || f.client.get_object().bucket(BUCKET).key("key");
    let head = || f.client.head_object().bucket(BUCKET).key("key");
    get().if_match(&etag).send().await.unwrap();
    get().if_none_match("\"other\"").send().await.unwrap();
    assert_eq!(
        refusal(get().if_match("\"other\"").send().await),
        refused(412, "PreconditionFailed")
    );
    assert_eq!(refusal(get().if_none_match(&etag).send().await).0, 304);
    assert_eq!(refusal(head().if_none_match(&etag).send().await).0, 304);
    assert_eq!(refusal(head().if_match("\"other\"").send().await).0, 412);
    let (long_ago, far_ahead) = (DateTime::from_secs(1), DateTime::from_secs(4_000_000_000));
    assert_eq!(refusal(get().if_modified_since(far_ahead).send().await).0, 304);
    assert_eq!(refusal(get().if_unmodified_since(long_ago).send().await).0, 412);
    get()
        .if_modified_since(long_ago)
        .if_unmodified_since(far_ahead)
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_copy_on_a_condition_follows_its_source() {
    let f = fixture().await;
    let etag = f.put("key", "1").await;
    let copy = || {
        f.client
            .copy_object()
            .bucket(BUCKET)
            .key("copy")
            .copy_source(format!("{BUCKET}/key"))
    };
    copy().copy_source_if_match(&etag).send().await.unwrap();
    let changed = copy().copy_source_if_match("\"other\"").send().await;
    assert_eq!(refusal(changed), refused(412, "PreconditionFailed"));
    let unchanged = copy().copy_source_if_none_match(&etag).send().await;
    assert_eq!(refusal(unchanged), refused(412, "PreconditionFailed"));
    let absent = f
        .client
        .copy_object()
        .bucket(BUCKET)
        .key("copy")
        .copy_source(format!("{BUCKET}/absent"))
        .send()
        .await;
    assert_eq!(refusal(absent), refused(404, "NoSuchKey"));
}

#[tokio::test]
async fn readers_see_one_whole_version_while_writers_replace_it() {
    let f = fixture().await;
    f.put("key", vec![0; 200_000]).await;
    let write = async {
        for version in 1..=30 {
            f.put("key", vec![version; 200_000 + usize::from(version)]).await;
        }
    };
    let read = async {
        for _ in 0..60 {
            let bytes = f.get("key").await;
            assert!(
                bytes.iter().all(|byte| *byte == bytes[0]),
                "two versions in one answer"
            );
            assert_eq!(bytes.len(), 200_000 + usize::from(bytes[0]));
        }
    };
    tokio::join!(write, read, async {
        for _ in 0..60 {
            let head = f
                .client
                .head_object()
                .bucket(BUCKET)
                .key("key")
                .send()
                .await
                .unwrap();
            assert!(head.content_length().unwrap() >= 200_000);
        }
    });
    f.until_blobs(1).await;
}
