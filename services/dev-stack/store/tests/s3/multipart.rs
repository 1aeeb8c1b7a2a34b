use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use units::Timestamp;

use crate::support::{BUCKET, Fixture, fixture, refusal, refused};

/// The least size of a part that is not the last.
const PART: usize = 5 * 1024 * 1024;

async fn begin(f: &Fixture, key: &str) -> String {
    let begun = f
        .client
        .create_multipart_upload()
        .bucket(BUCKET)
        .key(key)
        .content_type("text/plain")
        .send()
        .await;
    begun.unwrap().upload_id.unwrap()
}

async fn part(f: &Fixture, key: &str, id: &str, number: i32, bytes: Vec<u8>) -> CompletedPart {
    let upload = f
        .client
        .upload_part()
        .bucket(BUCKET)
        .key(key)
        .upload_id(id)
        .part_number(number);
    let etag = upload
        .body(ByteStream::from(bytes))
        .send()
        .await
        .unwrap()
        .e_tag
        .unwrap();
    CompletedPart::builder().part_number(number).e_tag(etag).build()
}

fn joined(parts: &[&CompletedPart]) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder()
        .set_parts(Some(parts.iter().copied().cloned().collect()))
        .build()
}

#[tokio::test]
async fn parts_are_joined_in_the_order_of_their_numbers() {
    let f = fixture().await;
    let id = begin(&f, "key").await;
    let third = part(&f, "key", &id, 3, b"end".to_vec()).await;
    let first = part(&f, "key", &id, 1, vec![1; PART]).await;
    part(&f, "key", &id, 2, b"left out".to_vec()).await;
    let listed = f
        .client
        .list_parts()
        .bucket(BUCKET)
        .key("key")
        .upload_id(&id)
        .max_parts(2)
        .send()
        .await
        .unwrap();
    let numbers: Vec<_> = listed
        .parts()
        .iter()
        .map(|part| part.part_number().unwrap())
        .collect();
    assert_eq!((numbers, listed.is_truncated()), (vec![1, 2], Some(true)));
    assert!(
        f.keys().await.is_empty(),
        "an upload is no object before it is completed"
    );

    let complete = f
        .client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key("key")
        .upload_id(&id);
    let done = complete
        .multipart_upload(joined(&[&first, &third]))
        .send()
        .await
        .unwrap();
    assert!(done.e_tag().unwrap().ends_with("-2\""));
    let got = f
        .client
        .get_object()
        .bucket(BUCKET)
        .key("key")
        .send()
        .await
        .unwrap();
    assert_eq!(got.content_type(), Some("text/plain"));
    assert_eq!(got.e_tag(), done.e_tag());
    let expected = [vec![1; PART], b"end".to_vec()].concat();
    assert!(got.body.collect().await.unwrap().to_vec() == expected);
    f.until_blobs(1).await;

    let again = f
        .client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key("key")
        .upload_id(&id);
    let again = again.multipart_upload(joined(&[&first, &third])).send().await;
    assert_eq!(refusal(again), refused(404, "NoSuchUpload"));
}

#[tokio::test]
async fn what_does_not_fit_is_not_joined() {
    let f = fixture().await;
    let id = begin(&f, "key").await;
    let small = part(&f, "key", &id, 1, b"small".to_vec()).await;
    let last = part(&f, "key", &id, 2, b"last".to_vec()).await;
    let wrong = CompletedPart::builder()
        .part_number(2)
        .e_tag("\"0cc175b9c0f1b6a831c399e269772661\"")
        .build();
    let cases = [
        (joined(&[&last, &small]), "InvalidPartOrder"),
        (joined(&[&wrong]), "InvalidPart"),
        (joined(&[&small, &last]), "EntityTooSmall"),
        (joined(&[]), "InvalidArgument"),
    ];
    for (parts, code) in cases {
        let complete = f
            .client
            .complete_multipart_upload()
            .bucket(BUCKET)
            .key("key")
            .upload_id(&id);
        assert_eq!(
            refusal(complete.multipart_upload(parts).send().await),
            refused(400, code)
        );
    }
    f.put("key", "already here").await;
    let complete = f
        .client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key("key")
        .upload_id(&id)
        .if_none_match("*");
    let complete = complete.multipart_upload(joined(&[&last])).send().await;
    assert_eq!(refusal(complete), refused(412, "PreconditionFailed"));
    assert_eq!(f.get("key").await, b"already here");

    let upload = |id: &str, number| {
        let upload = f
            .client
            .upload_part()
            .bucket(BUCKET)
            .key("key")
            .upload_id(id)
            .part_number(number);
        upload.body(ByteStream::from_static(b"x")).send()
    };
    assert_eq!(refusal(upload("absent", 1).await), refused(404, "NoSuchUpload"));
    assert_eq!(
        refusal(upload(&id, 10_001).await),
        refused(400, "InvalidArgument")
    );
    assert_eq!(refusal(upload(&id, 0).await), refused(400, "InvalidArgument"));
}

#[tokio::test]
async fn a_part_can_be_a_range_of_an_object() {
    let f = fixture().await;
    f.put("source", (0..=255).collect::<Vec<u8>>()).await;
    let id = begin(&f, "key").await;
    let copy = f
        .client
        .upload_part_copy()
        .bucket(BUCKET)
        .key("key")
        .upload_id(&id)
        .part_number(1);
    let copy = copy
        .copy_source(format!("{BUCKET}/source"))
        .copy_source_range("bytes=10-19")
        .send()
        .await
        .unwrap();
    let etag = copy.copy_part_result().unwrap().e_tag().unwrap();
    let part = CompletedPart::builder().part_number(1).e_tag(etag).build();
    let complete = f
        .client
        .complete_multipart_upload()
        .bucket(BUCKET)
        .key("key")
        .upload_id(&id);
    complete.multipart_upload(joined(&[&part])).send().await.unwrap();
    assert_eq!(f.get("key").await, (10..20).collect::<Vec<u8>>());
}

#[tokio::test]
async fn an_upload_that_is_aborted_or_stale_leaves_nothing() {
    let f = fixture().await;
    let (aborted, stale) = (begin(&f, "a").await, begin(&f, "b").await);
    for (key, id) in [("a", &aborted), ("b", &stale)] {
        part(&f, key, id, 1, vec![0; 100_000]).await;
        part(&f, key, id, 1, vec![1; 100_000]).await;
    }
    f.until_blobs(2).await;
    let list = || f.client.list_multipart_uploads().bucket(BUCKET);
    let first = list().max_uploads(1).send().await.unwrap();
    assert_eq!(first.uploads()[0].upload_id(), Some(aborted.as_str()));
    let second = list()
        .set_key_marker(first.next_key_marker)
        .set_upload_id_marker(first.next_upload_id_marker)
        .send()
        .await
        .unwrap();
    assert_eq!(second.uploads()[0].upload_id(), Some(stale.as_str()));
    assert_eq!(list().prefix("b").send().await.unwrap().uploads().len(), 1);

    let abort = || {
        f.client
            .abort_multipart_upload()
            .bucket(BUCKET)
            .key("a")
            .upload_id(&aborted)
            .send()
    };
    abort().await.unwrap();
    assert_eq!(refusal(abort().await), refused(404, "NoSuchUpload"));
    f.until_blobs(1).await;
    let store = &f.server.store;
    assert_eq!(
        store
            .remove_stale_uploads(Timestamp::from_unix_ms(0))
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        store
            .remove_stale_uploads(Timestamp::from_unix_ms(i64::MAX))
            .await
            .unwrap(),
        1
    );
    f.until_blobs(0).await;
    f.client.delete_bucket().bucket(BUCKET).send().await.unwrap();
}
