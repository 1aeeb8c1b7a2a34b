use crate::support::{BUCKET, fixture, refusal, refused};

#[tokio::test]
async fn a_bucket_can_be_made_found_and_removed() {
    let f = fixture().await;
    f.client.head_bucket().bucket(BUCKET).send().await.unwrap();
    f.client
        .get_bucket_location()
        .bucket(BUCKET)
        .send()
        .await
        .unwrap();
    assert_eq!(
        f.client
            .get_bucket_versioning()
            .bucket(BUCKET)
            .send()
            .await
            .unwrap()
            .status(),
        None
    );
    f.client.create_bucket().bucket("a-second").send().await.unwrap();
    let listed = f.client.list_buckets().send().await.unwrap();
    let names: Vec<_> = listed
        .buckets()
        .iter()
        .map(|bucket| bucket.name().unwrap())
        .collect();
    assert_eq!(names, ["a-second", BUCKET]);
    f.client.delete_bucket().bucket(BUCKET).send().await.unwrap();
    let (status, _) = refusal(f.client.head_bucket().bucket(BUCKET).send().await);
    assert_eq!(status, 404);
    f.server.stop().await;
}

#[tokio::test]
async fn buckets_are_listed_page_by_page() {
    let f = fixture().await;
    for name in ["aaa", "aab", "aac"] {
        f.client.create_bucket().bucket(name).send().await.unwrap();
    }
    let first = f
        .client
        .list_buckets()
        .prefix("aa")
        .max_buckets(2)
        .send()
        .await
        .unwrap();
    assert_eq!(first.buckets().len(), 2);
    let next = first.continuation_token().unwrap();
    let second = f
        .client
        .list_buckets()
        .prefix("aa")
        .continuation_token(next)
        .send()
        .await
        .unwrap();
    assert_eq!(second.buckets()[0].name(), Some("aac"));
    assert_eq!(second.continuation_token(), None);
}

#[tokio::test]
async fn what_cannot_be_done_to_a_bucket_says_why() {
    let f = fixture().await;
    let create = |name: &'static str| f.client.create_bucket().bucket(name).send();
    assert_eq!(
        refusal(create(BUCKET).await),
        refused(409, "BucketAlreadyOwnedByYou")
    );
    for name in ["Upper", "a..b", "-ab", "127.0.0.1", "under_score"] {
        assert_eq!(
            refusal(create(name).await),
            refused(400, "InvalidBucketName"),
            "{name}"
        );
    }
    f.put("key", "x").await;
    let delete = |name: &'static str| f.client.delete_bucket().bucket(name).send();
    assert_eq!(refusal(delete(BUCKET).await), refused(409, "BucketNotEmpty"));
    assert_eq!(refusal(delete("absent").await), refused(404, "NoSuchBucket"));
    let get = f.client.get_object().bucket("absent").key("key").send().await;
    assert_eq!(refusal(get), refused(404, "NoSuchBucket"));
    let put = f.client.put_object().bucket("absent").key("key").send().await;
    assert_eq!(refusal(put), refused(404, "NoSuchBucket"));
    let list = f.client.list_objects_v2().bucket("absent").send().await;
    assert_eq!(refusal(list), refused(404, "NoSuchBucket"));
}

#[tokio::test]
async fn an_operation_the_store_does_not_have_is_not_implemented() {
    let f = fixture().await;
    let policy = f
        .client
        .put_bucket_policy()
        .bucket(BUCKET)
        .policy("{}")
        .send()
        .await;
    assert_eq!(refusal(policy), refused(501, "NotImplemented"));
    let tagged = f
        .client
        .put_object()
        .bucket(BUCKET)
        .key("key")
        .tagging("a=b")
        .send()
        .await;
    assert_eq!(refusal(tagged), refused(501, "NotImplemented"));
    let versioned = f
        .client
        .get_object()
        .bucket(BUCKET)
        .key("key")
        .version_id("1")
        .send()
        .await;
    assert_eq!(refusal(versioned), refused(501, "NotImplemented"));
    assert!(f.keys().await.is_empty());
}
