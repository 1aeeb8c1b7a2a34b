//! Reads of one object.

use std::ops;

use futures::TryStreamExt;
use s3s::dto::*;
use s3s::{S3Error, S3Request};

use super::{etag, refuse, refuse_versions};
use crate::checksum::set_checksums;
use crate::condition::ReadCondition;
use crate::error::{Error, Result};
use crate::headers::set_headers;
use crate::objects::{self, Object};
use crate::{Store, time};

/// The conditions of a read, whose two requests share nothing but the names of their fields.
macro_rules! condition_of {
    ($input:expr) => {
        ReadCondition {
            if_match: $input.if_match.take(),
            if_none_match: $input.if_none_match.take(),
            if_modified_since: $input.if_modified_since.take(),
            if_unmodified_since: $input.if_unmodified_since.take(),
        }
    };
}

/// The answer to a read, likewise.
macro_rules! describe {
    ($output:ident, $object:expr, $span:expr, $with_checksums:expr) => {{
        let (object, span): (Object, &Span) = ($object, $span);
        let mut headers = object.headers;
        let checksums = std::mem::take(&mut headers.checksums);
        let mut output = $output {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(span.range.end - span.range.start).ok(),
            content_range: span.named.clone(),
            e_tag: etag(object.etag),
            last_modified: Some(time::http(object.modified_at)),
            ..Default::default()
        };
        // A checksum of the whole would only mislead the reader of a range.
        if $with_checksums && span.named.is_none() && !checksums.is_empty() {
            set_checksums!(output, checksums);
            output.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
        }
        set_headers!(output, headers);
        output
    }};
}

pub(super) async fn get(store: &Store, req: S3Request<GetObjectInput>) -> Result<GetObjectOutput> {
    let mut input = req.input;
    refuse_versions(input.version_id.as_deref())?;
    refuse(&[(input.part_number.is_some(), "the download of a single part")])?;
    let (object, source) = store.open_object(&input.bucket, &input.key).await?;
    condition_of!(input).check(&object.etag, object.modified_at)?;
    let span = Span::of(input.range, object.size)?;
    let mut output = describe!(GetObjectOutput, object, &span, input.checksum_mode.is_some());
    let bytes = source.stream(span.range).map_err(S3Error::from);
    output.body = Some(StreamingBlob::wrap(bytes));
    Ok(output)
}

pub(super) async fn head(store: &Store, req: S3Request<HeadObjectInput>) -> Result<HeadObjectOutput> {
    let mut input = req.input;
    refuse_versions(input.version_id.as_deref())?;
    refuse(&[(input.part_number.is_some(), "the download of a single part")])?;
    let condition = condition_of!(input);
    let object = store
        .index
        .read(move |conn| objects::get(conn, &input.bucket, &input.key))
        .await?;
    condition.check(&object.etag, object.modified_at)?;
    let span = Span::of(input.range, object.size)?;
    Ok(describe!(
        HeadObjectOutput,
        object,
        &span,
        input.checksum_mode.is_some()
    ))
}

/// The bytes that a request asks for.
struct Span {
    range: ops::Range<u64>,
    /// As in `Content-Range`, if they are not all.
    named: Option<String>,
}

impl Span {
    fn of(asked: Option<Range>, size: i64) -> Result<Self> {
        let size = u64::try_from(size).unwrap_or(0);
        let Some(asked) = asked else {
            return Ok(Self {
                range: 0..size,
                named: None,
            });
        };
        let range = asked.check(size).map_err(|_| Error::InvalidRange)?;
        if range.is_empty() {
            // The last bytes of an empty object: there is no way to write an empty range in a header.
            return Err(Error::InvalidRange);
        }
        let named = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        Ok(Self {
            range,
            named: Some(named),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_object() {
        let table = [
            ("bytes=0-3", 10, Some("bytes 0-3/10")),
            ("bytes=4-", 10, Some("bytes 4-9/10")),
            ("bytes=4-99", 10, Some("bytes 4-9/10")),
            ("bytes=-3", 10, Some("bytes 7-9/10")),
            ("bytes=-99", 10, Some("bytes 0-9/10")),
            ("bytes=10-", 10, None),
            ("bytes=-0", 10, None),
            ("bytes=0-", 0, None),
            ("bytes=-1", 0, None),
        ];
        for (asked, size, named) in table {
            let span = Span::of(Some(Range::parse(asked).unwrap()), size);
            assert_eq!(
                span.ok().and_then(|span| span.named).as_deref(),
                named,
                "{asked} of {size}"
            );
        }
    }
}
