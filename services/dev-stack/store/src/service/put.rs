//! Writes and deletions of objects.

use futures::TryStreamExt;
use rusqlite::Connection;
use s3s::S3Request;
use s3s::dto::*;

use super::{etag, refuse, refuse_unknown_storage, refuse_versions};
use crate::body::{self, Body};
use crate::checksum::{Claims, checksums_of, set_checksums};
use crate::condition::WriteCondition;
use crate::error::{Error, Result};
use crate::headers::headers_of;
use crate::index::Change;
use crate::objects::Object;
use crate::{Store, objects};

/// S3's own limit of keys in one request.
const DELETES_MAX: usize = 1000;

pub(super) async fn put(store: &Store, req: S3Request<PutObjectInput>) -> Result<PutObjectOutput> {
    let mut input = req.input;
    refuse_unknown_storage!(input)?;
    refuse(&[(input.write_offset_bytes.is_some(), "an append to an object")])?;
    let condition = WriteCondition {
        if_match: input.if_match.take(),
        if_none_match: input.if_none_match.take(),
    };
    let mut headers = headers_of!(input);
    let claims = Claims {
        length: input.content_length,
        md5: input.content_md5.take(),
        sums: checksums_of!(input),
        algorithm: input.checksum_algorithm.take(),
        trailers: req
            .trailing_headers
            .filter(|_| req.headers.contains_key("x-amz-trailer")),
    };
    // A condition that fails already need not wait for the body. It is judged again when the object is put.
    if condition.if_match.is_some() || condition.if_none_match.is_some() {
        check_early(store, &input.bucket, &input.key, condition.clone()).await?;
    }
    let body = receive(store, input.body, claims).await?;
    headers.checksums = body.checksums.clone();
    let now = store.clock.now();
    let (tag, size) = (hex::encode(body.md5), body.size);
    let shown = tag.clone();
    let put = move |change: &mut Change<'_>| {
        let content = objects::keep(change, body.payload)?;
        let object = Object {
            content,
            size,
            etag: tag,
            modified_at: now,
            headers,
        };
        objects::put(change, &input.bucket, &input.key, &object, &condition)
    };
    store.index.write(put).await?;
    let mut output = PutObjectOutput {
        e_tag: etag(shown),
        ..Default::default()
    };
    set_checksums!(output, body.checksums);
    Ok(output)
}

pub(super) async fn post(_: &Store, _: S3Request<PostObjectInput>) -> Result<PostObjectOutput> {
    Err(Error::Unsupported("an upload by an HTML form"))
}

pub(super) async fn delete(store: &Store, req: S3Request<DeleteObjectInput>) -> Result<DeleteObjectOutput> {
    let input = req.input;
    refuse_versions(input.version_id.as_deref())?;
    refuse(&[
        (input.if_match_size.is_some(), "a condition on the size"),
        (
            input.if_match_last_modified_time.is_some(),
            "a condition on the time",
        ),
    ])?;
    let condition = WriteCondition {
        if_match: input.if_match,
        if_none_match: None,
    };
    store
        .index
        .write(move |change| objects::delete(change, &input.bucket, &input.key, &condition))
        .await?;
    Ok(DeleteObjectOutput::default())
}

pub(super) async fn delete_many(
    store: &Store,
    req: S3Request<DeleteObjectsInput>,
) -> Result<DeleteObjectsOutput> {
    let Delete { objects, quiet } = req.input.delete;
    if objects.len() > DELETES_MAX {
        return Err(Error::InvalidArgument(
            "at most 1000 objects can be deleted in one request",
        ));
    }
    let bucket = req.input.bucket;
    let delete = move |change: &mut Change<'_>| {
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for wanted in objects {
            match delete_one(change, &bucket, &wanted) {
                Ok(()) => deleted.push(DeletedObject {
                    key: Some(wanted.key),
                    ..Default::default()
                }),
                Err(err @ (Error::PreconditionFailed(_) | Error::Unsupported(_))) => {
                    let message = Some(err.to_string());
                    let code = s3s::S3Error::from(err).code().as_str().to_owned();
                    errors.push(s3s::dto::Error {
                        code: Some(code),
                        key: Some(wanted.key),
                        message,
                        ..Default::default()
                    });
                }
                Err(err) => return Err(err),
            }
        }
        Ok((deleted, errors))
    };
    let (deleted, errors) = store.index.write(delete).await?;
    let deleted = Some(deleted).filter(|_| quiet != Some(true));
    Ok(DeleteObjectsOutput {
        deleted,
        errors: Some(errors),
        ..Default::default()
    })
}

fn delete_one(change: &mut Change<'_>, bucket: &str, wanted: &ObjectIdentifier) -> Result<()> {
    refuse_versions(wanted.version_id.as_deref())?;
    refuse(&[
        (wanted.size.is_some(), "a condition on the size"),
        (wanted.last_modified_time.is_some(), "a condition on the time"),
    ])?;
    let if_match = wanted.e_tag.clone().map(ETagCondition::ETag);
    objects::delete(
        change,
        bucket,
        &wanted.key,
        &WriteCondition {
            if_match,
            if_none_match: None,
        },
    )
}

/// Takes in the body of a request.
pub(super) async fn receive(store: &Store, stream: Option<StreamingBlob>, claims: Claims) -> Result<Body> {
    let stream = stream.ok_or(Error::InvalidArgument("the request has no body"))?;
    body::receive(
        &store.blobs,
        stream.map_err(Error::Body),
        claims,
        store.object_bytes_max,
    )
    .await
}

async fn check_early(store: &Store, bucket: &str, key: &str, condition: WriteCondition) -> Result<()> {
    let (bucket, key) = (bucket.to_owned(), key.to_owned());
    let check = move |conn: &Connection| {
        let bucket = objects::bucket(conn, &bucket)?;
        objects::replaceable(conn, bucket, &key, &condition).map(|_| ())
    };
    store.index.read(check).await
}
