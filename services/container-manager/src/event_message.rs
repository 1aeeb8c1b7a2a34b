//! S3 event messages, in which stores tell of what happens in their buckets.

use std::collections::BTreeSet;

use serde::Deserialize;
use units::FunctionName;

use crate::layout;

/// The part of an S3 event message that matters.
#[derive(Deserialize)]
struct Message {
    #[serde(rename = "Records")]
    records: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    s3: Entity,
}

#[derive(Deserialize)]
struct Entity {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Object {
    /// As in a URL: `input%2Fx` or `input/x`.
    key: String,
}

/// The functions that something was put before.
pub(crate) fn functions(body: &[u8]) -> serde_json::Result<BTreeSet<FunctionName>> {
    let message: Message = serde_json::from_slice(body)?;
    let named = message.records.into_iter().filter_map(|event| {
        let key = event.s3.object.key.replace("%2F", "/").replace("%2f", "/");
        layout::is_news(&key)
            .then(|| event.s3.bucket.name.parse().ok())
            .flatten()
    });
    Ok(named.collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(bucket: &str, key: &str) -> String {
        format!(
            r#"{{"eventVersion":"2.0","eventName":"s3:ObjectCreated:Put","s3":{{"bucket":{{"name":"{bucket}","arn":"x"}},"object":{{"key":"{key}","size":1}}}}}}"#
        )
    }

    pub(crate) fn message(records: &[String]) -> String {
        format!(
            r#"{{"EventName":"s3:ObjectCreated:Put","Key":"b/k","Records":[{}]}}"#,
            records.join(",")
        )
    }

    #[test]
    fn new_tasks_and_questions_are_news_and_nothing_else_is() {
        let body = message(&[
            record("stress", "input%2Fa%20b"),
            record("stress", "input/c"),
            record("video", "quote%2fx"),
            record("other", "results%2Finput%2Fx"),
            record("No Bucket", "input/x"),
        ]);
        let named = functions(body.as_bytes()).unwrap();
        let named: Vec<&str> = named.iter().map(FunctionName::as_str).collect();
        assert_eq!(named, ["stress", "video"]);
        assert_eq!(functions(message(&[]).as_bytes()).unwrap(), BTreeSet::new());
        for nonsense in ["", "[]", "{}", r#"{"Records":[{}]}"#, "\u{0}"] {
            assert!(functions(nonsense.as_bytes()).is_err(), "{nonsense}");
        }
    }
}
