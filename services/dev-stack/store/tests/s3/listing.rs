use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::types::EncodingType;

use crate::support::{BUCKET, Fixture, fixture, refusal, refused};

async fn with_keys(keys: &[&str]) -> Fixture {
    let f = fixture().await;
    for key in keys {
        f.put(key, "x").await;
    }
    f
}

#[tokio::test]
async fn a_delimiter_folds_keys_into_prefixes() {
    let f = with_keys(&["a", "b/1", "b/2", "b/c/3", "d", "input/x y"]).await;
    let list = f
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .delimiter("/")
        .send()
        .await
        .unwrap();
    let keys: Vec<_> = list
        .contents()
        .iter()
        .map(|object| object.key().unwrap())
        .collect();
    let prefixes: Vec<_> = list
        .common_prefixes()
        .iter()
        .map(|common| common.prefix().unwrap())
        .collect();
    assert_eq!((keys, prefixes), (vec!["a", "d"], vec!["b/", "input/"]));
    assert_eq!(list.key_count(), Some(4));
    assert_eq!(list.is_truncated(), Some(false));
    let object = &list.contents()[0];
    assert_eq!(
        (object.size(), object.e_tag()),
        (Some(1), Some("\"9dd4e461268c8034f5c8564e155c67a6\""))
    );

    let list = f
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .delimiter("/")
        .prefix("b/")
        .send()
        .await
        .unwrap();
    assert_eq!(list.contents().len(), 2);
    assert_eq!(list.common_prefixes()[0].prefix(), Some("b/c/"));
}

#[tokio::test]
async fn both_forms_of_listing_page_through_everything_once() {
    let names: Vec<String> = (0..25).map(|n| format!("{}/{n:02}", n % 7)).collect();
    let f = with_keys(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut sorted = names.clone();
    sorted.sort();

    let mut pages = f
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .max_keys(4)
        .into_paginator()
        .send();
    let mut seen = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        assert!(page.contents().len() <= 4);
        seen.extend(
            page.contents()
                .iter()
                .map(|object| object.key().unwrap().to_owned()),
        );
    }
    assert_eq!(seen, sorted);

    let (mut seen, mut marker) = (Vec::new(), None);
    loop {
        let list = f
            .client
            .list_objects()
            .bucket(BUCKET)
            .delimiter("/")
            .max_keys(2)
            .set_marker(marker);
        let page = list.send().await.unwrap();
        seen.extend(
            page.common_prefixes()
                .iter()
                .map(|common| common.prefix().unwrap().to_owned()),
        );
        marker = page.next_marker;
        if marker.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["0/", "1/", "2/", "3/", "4/", "5/", "6/"]);
}

#[tokio::test]
async fn a_listing_starts_behind_any_key_and_ends_at_its_limit() {
    let f = with_keys(&["a", "b", "c"]).await;
    let list = || f.client.list_objects_v2().bucket(BUCKET);
    let after = list().start_after("aa").send().await.unwrap();
    assert_eq!(after.contents()[0].key(), Some("b"));
    let none = list().max_keys(0).send().await.unwrap();
    assert_eq!((none.contents().len(), none.is_truncated()), (0, Some(false)));
    assert_eq!(
        refusal(list().max_keys(-1).send().await),
        refused(400, "InvalidArgument")
    );
    assert_eq!(
        refusal(list().continuation_token("?").send().await),
        refused(400, "InvalidArgument")
    );
    let odd = list().encoding_type(EncodingType::from("rot13")).send().await;
    assert_eq!(refusal(odd), refused(400, "InvalidArgument"));
}

#[tokio::test]
async fn a_listing_never_fails_while_others_write_and_delete() {
    let f = fixture().await;
    let done = AtomicBool::new(false);
    let churn = |writer: usize| {
        let f = &f;
        async move {
            for n in 0..40 {
                let key = format!("input/{writer}/{n}");
                f.put(&key, vec![0; 20_000]).await;
                f.client
                    .delete_object()
                    .bucket(BUCKET)
                    .key(&key)
                    .send()
                    .await
                    .unwrap();
            }
        }
    };
    let list = async {
        let mut listings = 0;
        while !done.load(Ordering::Relaxed) {
            let list = f
                .client
                .list_objects_v2()
                .bucket(BUCKET)
                .prefix("input/")
                .max_keys(3);
            list.send().await.unwrap();
            f.client
                .list_objects_v2()
                .bucket(BUCKET)
                .delimiter("/")
                .send()
                .await
                .unwrap();
            listings += 1;
        }
        assert!(listings > 0);
    };
    let write = async {
        tokio::join!(churn(0), churn(1), churn(2));
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(list, write);
    assert!(f.keys().await.is_empty());
}
