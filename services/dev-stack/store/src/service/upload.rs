//! Multipart uploads.

use rusqlite::Connection;
use s3s::S3Request;
use s3s::dto::*;
use uuid::Uuid;

use super::{etag, refuse, refuse_unknown_storage};
use crate::body::{self, Body};
use crate::checksum::{Checksums, Claims, checksums_of, set_checksums};
use crate::condition::WriteCondition;
use crate::error::{Error, Result};
use crate::headers::headers_of;
use crate::index::Change;
use crate::list::PAGE_MAX;
use crate::multipart::{self, PART_NUMBER_MAX, UploadRef};
use crate::objects::Object;
use crate::{Store, objects, time};

pub(super) async fn begin(
    store: &Store,
    req: S3Request<CreateMultipartUploadInput>,
) -> Result<CreateMultipartUploadOutput> {
    let mut input = req.input;
    refuse_unknown_storage!(input)?;
    let headers = headers_of!(input);
    let id = Uuid::now_v7().simple().to_string();
    let upload = UploadRef {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        id: id.clone(),
    };
    let now = store.clock.now();
    store
        .index
        .write(move |change| multipart::begin(change, &upload, &headers, now))
        .await?;
    Ok(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: input.checksum_type,
        ..Default::default()
    })
}

pub(super) async fn part(store: &Store, req: S3Request<UploadPartInput>) -> Result<UploadPartOutput> {
    let mut input = req.input;
    refuse(&[(input.sse_customer_algorithm.is_some(), "server-side encryption")])?;
    let upload = UploadRef {
        bucket: input.bucket,
        key: input.key,
        id: input.upload_id,
    };
    check(store, upload.clone(), input.part_number).await?;
    let claims = Claims {
        length: input.content_length,
        md5: input.content_md5.take(),
        sums: checksums_of!(input),
        algorithm: input.checksum_algorithm.take(),
        trailers: req
            .trailing_headers
            .filter(|_| req.headers.contains_key("x-amz-trailer")),
    };
    let body = super::put::receive(store, input.body, claims).await?;
    let checksums = body.checksums.clone();
    let part = keep(store, upload, input.part_number, body).await?;
    let mut output = UploadPartOutput {
        e_tag: etag(part.etag),
        ..Default::default()
    };
    set_checksums!(output, checksums);
    Ok(output)
}

/// Fails for an upload that does not exist before its bytes are taken in.
pub(super) async fn check(store: &Store, upload: UploadRef, number: i32) -> Result<()> {
    if !(1..=PART_NUMBER_MAX).contains(&number) {
        return Err(Error::InvalidArgument("the part number must be from 1 to 10000"));
    }
    store
        .index
        .read(move |conn| multipart::find(conn, &upload).map(|_| ()))
        .await
}

/// Puts bytes that have been taken in under their number.
pub(super) async fn keep(
    store: &Store,
    upload: UploadRef,
    number: i32,
    body: Body,
) -> Result<multipart::Part> {
    let (size, etag, modified_at) = (body.size, hex::encode(body.md5), store.clock.now());
    let keep = move |change: &mut Change<'_>| {
        let content = objects::keep(change, body.payload)?;
        let part = multipart::Part {
            number,
            content,
            size,
            etag,
            modified_at,
        };
        multipart::put_part(change, &upload, &part)?;
        Ok(part)
    };
    store.index.write(keep).await
}

pub(super) async fn complete(
    store: &Store,
    req: S3Request<CompleteMultipartUploadInput>,
) -> Result<CompleteMultipartUploadOutput> {
    let mut input = req.input;
    let wanted: Vec<_> = input
        .multipart_upload
        .take()
        .and_then(|upload| upload.parts)
        .unwrap_or_default()
        .into_iter()
        .map(|part| (part.part_number.unwrap_or(0), part.e_tag.map(ETag::into_value)))
        .collect();
    let upload = UploadRef {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        id: input.upload_id.clone(),
    };
    let condition = WriteCondition {
        if_match: input.if_match.take(),
        if_none_match: input.if_none_match.take(),
    };
    let claims = Claims {
        length: input.mpu_object_size,
        sums: claimed_whole(&mut input),
        ..Claims::default()
    };

    let sought = upload.clone();
    let read = move |conn: &Connection| {
        Ok((
            multipart::find(conn, &sought)?,
            multipart::all_parts(conn, &sought)?,
        ))
    };
    let (mut headers, present) = store.index.read(read).await?;
    let parts = multipart::select(&present, &wanted)?;
    let body = body::receive(&store.blobs, store.joined(&parts), claims, store.object_bytes_max).await?;
    headers.checksums = body.checksums.clone();
    let (size, tag, now) = (body.size, multipart::etag(&parts), store.clock.now());
    let shown = tag.clone();
    let complete = move |change: &mut Change<'_>| {
        let content = objects::keep(change, body.payload)?;
        let object = Object {
            content,
            size,
            etag: tag,
            modified_at: now,
            headers,
        };
        multipart::complete(change, &upload, &parts, &object, &condition)
    };
    store.index.write(complete).await?;
    let mut output = CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag: etag(shown),
        ..Default::default()
    };
    set_checksums!(output, body.checksums);
    Ok(output)
}

/// The checksums that are of the joined bytes. A composite one is of the checksums of the parts, each of which was
/// proved when the part came in.
fn claimed_whole(input: &mut CompleteMultipartUploadInput) -> Checksums {
    match input.checksum_type.as_ref().map(ChecksumType::as_str) {
        Some(ChecksumType::FULL_OBJECT) => checksums_of!(input),
        _ => Checksums::default(),
    }
}

pub(super) async fn abort(
    store: &Store,
    req: S3Request<AbortMultipartUploadInput>,
) -> Result<AbortMultipartUploadOutput> {
    let input = req.input;
    let upload = UploadRef {
        bucket: input.bucket,
        key: input.key,
        id: input.upload_id,
    };
    store
        .index
        .write(move |change| multipart::abort(change, &upload))
        .await?;
    Ok(AbortMultipartUploadOutput::default())
}

pub(super) async fn list_parts(store: &Store, req: S3Request<ListPartsInput>) -> Result<ListPartsOutput> {
    let input = req.input;
    let upload = UploadRef {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        id: input.upload_id.clone(),
    };
    let (after, count) = (input.part_number_marker.unwrap_or(0), page(input.max_parts)?);
    // One more than asked for tells whether there are more.
    let mut parts = store
        .index
        .read(move |conn| multipart::parts(conn, &upload, after, count + 1))
        .await?;
    let is_truncated = parts.len() > count;
    parts.truncate(count);
    let next_part_number_marker = parts.last().map(|part| part.number);
    let show = |part: multipart::Part| Part {
        part_number: Some(part.number),
        e_tag: etag(part.etag),
        size: Some(part.size),
        last_modified: Some(time::http(part.modified_at)),
        ..Default::default()
    };
    Ok(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        part_number_marker: Some(after),
        next_part_number_marker,
        max_parts: i32::try_from(count).ok(),
        is_truncated: Some(is_truncated),
        parts: Some(parts.into_iter().map(show).collect()),
        ..Default::default()
    })
}

pub(super) async fn list(
    store: &Store,
    req: S3Request<ListMultipartUploadsInput>,
) -> Result<ListMultipartUploadsOutput> {
    let input = req.input;
    refuse(&[(input.delimiter.is_some(), "a delimiter in a list of uploads")])?;
    let count = page(input.max_uploads)?;
    let (bucket, prefix) = (input.bucket.clone(), input.prefix.clone().unwrap_or_default());
    // Without an upload id the marker means every upload of that key, and no id sorts behind this.
    let after_id = input
        .upload_id_marker
        .clone()
        .unwrap_or_else(|| char::MAX.to_string());
    let after_key = input.key_marker.clone();
    let list = move |conn: &Connection| {
        let after = after_key
            .as_deref()
            .map_or(("", ""), |key| (key, after_id.as_str()));
        multipart::uploads(conn, &bucket, &prefix, after, count + 1)
    };
    let mut uploads = store.index.read(list).await?;
    let is_truncated = uploads.len() > count;
    uploads.truncate(count);
    let last = uploads.last().filter(|_| is_truncated);
    let next_key_marker = last.map(|upload| upload.key.clone());
    let next_upload_id_marker = last.map(|upload| upload.id.clone());
    let show = |upload: multipart::Upload| MultipartUpload {
        key: Some(upload.key),
        upload_id: Some(upload.id),
        initiated: Some(time::http(upload.initiated_at)),
        ..Default::default()
    };
    Ok(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: input.prefix,
        key_marker: input.key_marker,
        upload_id_marker: input.upload_id_marker,
        next_key_marker,
        next_upload_id_marker,
        max_uploads: i32::try_from(count).ok(),
        is_truncated: Some(is_truncated),
        uploads: Some(uploads.into_iter().map(show).collect()),
        ..Default::default()
    })
}

fn page(count: Option<i32>) -> Result<usize> {
    match count {
        None => Ok(PAGE_MAX),
        Some(count) => {
            let count =
                usize::try_from(count).map_err(|_| Error::InvalidArgument("a page size is negative"))?;
            Ok(count.min(PAGE_MAX))
        }
    }
}
