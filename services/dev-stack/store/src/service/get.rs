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
use crate::{Store, objects, time};

pub(super) async fn get(store: &Store, req: S3Request<GetObjectInput>) -> Result<GetObjectOutput> {
    let input = req.input;
    refuse_versions(input.version_id.as_deref())?;
    refuse(&[(input.part_number.is_some(), "the download of a single part")])?;
    let condition = ReadCondition {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    let (object, source) = store.open_object(&input.bucket, &input.key).await?;
    condition.check(&object.etag, object.modified_at)?;
    let (range, content_range) = bounds(input.range, object.size)?;
    let mut output = GetObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: i64::try_from(range.end - range.start).ok(),
        e_tag: etag(object.etag),
        last_modified: Some(time::http(object.modified_at)),
        ..Default::default()
    };
    let mut headers = object.headers;
    // A checksum of the whole would only mislead the reader of a range.
    if input.checksum_mode.is_some() && content_range.is_none() && !headers.checksums.is_empty() {
        set_checksums!(output, std::mem::take(&mut headers.checksums));
        output.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    }
    set_headers!(output, headers);
    output.content_range = content_range;
    output.body = Some(StreamingBlob::wrap(source.stream(range).map_err(S3Error::from)));
    Ok(output)
}

pub(super) async fn head(store: &Store, req: S3Request<HeadObjectInput>) -> Result<HeadObjectOutput> {
    let input = req.input;
    refuse_versions(input.version_id.as_deref())?;
    refuse(&[(input.part_number.is_some(), "the download of a single part")])?;
    let condition = ReadCondition {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    let object = store
        .index
        .read(move |conn| objects::get(conn, &input.bucket, &input.key))
        .await?;
    condition.check(&object.etag, object.modified_at)?;
    let (range, content_range) = bounds(input.range, object.size)?;
    let mut output = HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: i64::try_from(range.end - range.start).ok(),
        e_tag: etag(object.etag),
        last_modified: Some(time::http(object.modified_at)),
        ..Default::default()
    };
    let mut headers = object.headers;
    if input.checksum_mode.is_some() && content_range.is_none() && !headers.checksums.is_empty() {
        set_checksums!(output, std::mem::take(&mut headers.checksums));
        output.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    }
    set_headers!(output, headers);
    output.content_range = content_range;
    Ok(output)
}

/// The bytes that a request asks for, and how the answer names them if they are not all.
fn bounds(asked: Option<Range>, size: i64) -> Result<(ops::Range<u64>, Option<String>)> {
    let size = u64::try_from(size).unwrap_or(0);
    let Some(asked) = asked else {
        return Ok((0..size, None));
    };
    let range = asked.check(size).map_err(|_| Error::InvalidRange)?;
    if range.is_empty() {
        // The last bytes of an empty object: there is no way to write an empty range in a header.
        return Err(Error::InvalidRange);
    }
    let named = format!("bytes {}-{}/{size}", range.start, range.end - 1);
    Ok((range, Some(named)))
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
            let answer = bounds(Some(Range::parse(asked).unwrap()), size);
            assert_eq!(
                answer.ok().and_then(|(_, named)| named).as_deref(),
                named,
                "{asked} of {size}"
            );
        }
    }
}
