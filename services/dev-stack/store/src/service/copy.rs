//! Copies. A copied object shares the bytes of its source, so a copy costs the same whatever the size.

use http::HeaderMap;
use s3s::S3Request;
use s3s::dto::*;

use super::{etag, refuse_unknown_storage, refuse_versions};
use crate::body;
use crate::checksum::Claims;
use crate::condition::{ReadCondition, WriteCondition};
use crate::error::{Error, Result};
use crate::headers::headers_of;
use crate::index::Change;
use crate::multipart::UploadRef;
use crate::{Store, objects, time};

pub(super) async fn object(store: &Store, req: S3Request<CopyObjectInput>) -> Result<CopyObjectOutput> {
    let mut input = req.input;
    refuse_unknown_storage!(input)?;
    let (source_bucket, source_key) = source(input.copy_source.clone())?;
    let replacement = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => None,
        Some(MetadataDirective::REPLACE) => Some(headers_of!(input)),
        Some(_) => {
            return Err(Error::InvalidArgument(
                "x-amz-metadata-directive must be `COPY` or `REPLACE`",
            ));
        }
    };
    if replacement.is_none() && (&source_bucket, &source_key) == (&input.bucket, &input.key) {
        return Err(Error::InvalidArgument(
            "a copy of an object to itself has to replace its metadata",
        ));
    }
    let source_condition = ReadCondition {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let condition = destination_condition(&req.headers)?;
    let now = store.clock.now();
    let copy = move |change: &mut Change<'_>| {
        let mut object = objects::get(change.conn, &source_bucket, &source_key)?;
        source_condition.check_source(&object.etag, object.modified_at)?;
        if let Some(replacement) = replacement {
            let checksums = object.headers.checksums;
            object.headers = replacement;
            object.headers.checksums = checksums;
        }
        object.modified_at = now;
        objects::put(change, &input.bucket, &input.key, &object, &condition)?;
        Ok(object)
    };
    let copied = store.index.write(copy).await?;
    let result = CopyObjectResult {
        e_tag: etag(copied.etag),
        last_modified: Some(time::http(now)),
        ..Default::default()
    };
    Ok(CopyObjectOutput {
        copy_object_result: Some(result),
        ..Default::default()
    })
}

/// A part may be a range of its source, so its bytes are copied.
pub(super) async fn part(store: &Store, req: S3Request<UploadPartCopyInput>) -> Result<UploadPartCopyOutput> {
    let input = req.input;
    let (source_bucket, source_key) = source(input.copy_source)?;
    let condition = ReadCondition {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let upload = UploadRef {
        bucket: input.bucket,
        key: input.key,
        id: input.upload_id,
    };
    let (object, bytes) = store.open_object(&source_bucket, &source_key).await?;
    condition.check_source(&object.etag, object.modified_at)?;
    let size = u64::try_from(object.size).unwrap_or(0);
    let range = match input.copy_source_range {
        None => 0..size,
        Some(text) => {
            let range = Range::parse(&text).map_err(|_| Error::InvalidArgument("x-amz-copy-source-range"))?;
            range.check(size).map_err(|_| Error::InvalidRange)?
        }
    };
    let body = body::receive(
        &store.blobs,
        bytes.stream(range),
        Claims::default(),
        store.object_bytes_max,
    )
    .await?;
    let part = super::upload::keep(store, upload, input.part_number, body).await?;
    let result = CopyPartResult {
        e_tag: etag(part.etag),
        last_modified: Some(time::http(part.modified_at)),
        ..Default::default()
    };
    Ok(UploadPartCopyOutput {
        copy_part_result: Some(result),
        ..Default::default()
    })
}

/// The bucket and key to copy from. The access check has refused sources that are no bucket.
fn source(source: CopySource) -> Result<(String, String)> {
    match source {
        CopySource::Bucket {
            bucket,
            key,
            version_id,
        } => {
            refuse_versions(version_id.as_deref())?;
            Ok((bucket.into(), key.into()))
        }
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => {
            Err(Error::Unsupported("an access point"))
        }
    }
}

/// The conditions on what a copy replaces, which are newer than the request type of s3s.
fn destination_condition(headers: &HeaderMap) -> Result<WriteCondition> {
    let parse = |name| {
        let value = headers
            .get(name)
            .map(|value| ETagCondition::parse_http_header(value.as_bytes()));
        value
            .transpose()
            .map_err(|_| Error::InvalidArgument("a condition is neither `*` nor an ETag"))
    };
    Ok(WriteCondition {
        if_match: parse(http::header::IF_MATCH)?,
        if_none_match: parse(http::header::IF_NONE_MATCH)?,
    })
}
