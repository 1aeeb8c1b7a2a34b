//! Listings of objects, in both of S3's forms.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rusqlite::Connection;
use s3s::S3Request;
use s3s::dto::*;

use crate::error::{Error, Result};
use crate::list::{PAGE_MAX, Start};
use crate::objects::{Entry, Page};
use crate::{Store, objects, time};

/// What `encoding-type=url` leaves as it is. XML cannot carry most control characters, so clients that list arbitrary
/// keys ask for this.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/')
    .remove(b'*');

pub(super) async fn v1(store: &Store, req: S3Request<ListObjectsInput>) -> Result<ListObjectsOutput> {
    let input = req.input;
    let encoding = Encoding::of(input.encoding_type)?;
    let (prefix, delimiter, marker) = (input.prefix.unwrap_or_default(), input.delimiter, input.marker);
    let room = room(input.max_keys)?;
    let (bucket, wanted) = (
        input.bucket.clone(),
        (prefix.clone(), delimiter.clone(), marker.clone()),
    );
    let list = move |conn: &Connection| {
        let (prefix, delimiter, marker) = wanted;
        let start = marker.as_deref().map_or(Start::Beginning, Start::After);
        objects::list(conn, &bucket, &prefix, delimiter.as_deref(), start, room)
    };
    let page = store.index.read(list).await?;
    let last_key = page.entries.last().map(|entry| &entry.key);
    let next_marker = page
        .next
        .as_ref()
        .and(last_key.max(page.prefixes.last()))
        .map(|last| encoding.apply(last));
    let is_truncated = Some(page.next.is_some());
    let (contents, common_prefixes) = show(page, &encoding);
    Ok(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(encoding.apply(&prefix)),
        delimiter: delimiter.map(|delimiter| encoding.apply(&delimiter)),
        marker: Some(encoding.apply(&marker.unwrap_or_default())),
        max_keys: Some(input.max_keys.unwrap_or(1000)),
        is_truncated,
        next_marker,
        contents,
        common_prefixes,
        encoding_type: encoding.named(),
        ..Default::default()
    })
}

pub(super) async fn v2(store: &Store, req: S3Request<ListObjectsV2Input>) -> Result<ListObjectsV2Output> {
    let input = req.input;
    let encoding = Encoding::of(input.encoding_type)?;
    let (prefix, delimiter) = (input.prefix.unwrap_or_default(), input.delimiter);
    let (token, start_after) = (input.continuation_token, input.start_after);
    let room = room(input.max_keys)?;
    let bucket = input.bucket.clone();
    let wanted = (
        prefix.clone(),
        delimiter.clone(),
        token.clone(),
        start_after.clone(),
    );
    let list = move |conn: &Connection| {
        let (prefix, delimiter, token, start_after) = wanted;
        let start = match (&token, &start_after) {
            (Some(token), _) => Start::Token(token),
            (None, Some(key)) => Start::After(key),
            (None, None) => Start::Beginning,
        };
        objects::list(conn, &bucket, &prefix, delimiter.as_deref(), start, room)
    };
    let page = store.index.read(list).await?;
    let next_continuation_token = page.next.clone();
    let shown = page.entries.len() + page.prefixes.len();
    let (contents, common_prefixes) = show(page, &encoding);
    Ok(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(encoding.apply(&prefix)),
        delimiter: delimiter.map(|delimiter| encoding.apply(&delimiter)),
        start_after: start_after.map(|key| encoding.apply(&key)),
        max_keys: Some(input.max_keys.unwrap_or(1000)),
        key_count: i32::try_from(shown).ok(),
        continuation_token: token,
        is_truncated: Some(next_continuation_token.is_some()),
        next_continuation_token,
        contents,
        common_prefixes,
        encoding_type: encoding.named(),
        ..Default::default()
    })
}

fn room(max_keys: Option<i32>) -> Result<usize> {
    match max_keys {
        None => Ok(PAGE_MAX),
        Some(count) => {
            usize::try_from(count).map_err(|_| Error::InvalidArgument("max-keys must not be negative"))
        }
    }
}

fn show(page: Page, encoding: &Encoding) -> (Option<Vec<Object>>, Option<Vec<CommonPrefix>>) {
    let entry = |entry: Entry| Object {
        key: Some(encoding.apply(&entry.key)),
        size: Some(entry.size),
        e_tag: super::etag(entry.etag),
        last_modified: Some(time::http(entry.modified_at)),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Default::default()
    };
    let prefix = |prefix: &String| CommonPrefix {
        prefix: Some(encoding.apply(prefix)),
    };
    let prefixes = page.prefixes.iter().map(prefix).collect();
    (
        Some(page.entries.into_iter().map(entry).collect()),
        Some(prefixes),
    )
}

/// How names are written in an answer.
enum Encoding {
    Plain,
    Url,
}

impl Encoding {
    fn of(asked: Option<EncodingType>) -> Result<Self> {
        match asked.as_ref().map(EncodingType::as_str) {
            None => Ok(Self::Plain),
            Some(EncodingType::URL) => Ok(Self::Url),
            Some(_) => Err(Error::InvalidArgument("encoding-type must be `url`")),
        }
    }

    fn apply(&self, name: &str) -> String {
        match self {
            Self::Plain => name.to_owned(),
            Self::Url => utf8_percent_encode(name, ENCODED).to_string(),
        }
    }

    fn named(&self) -> Option<EncodingType> {
        match self {
            Self::Plain => None,
            Self::Url => Some(EncodingType::from_static(EncodingType::URL)),
        }
    }
}
