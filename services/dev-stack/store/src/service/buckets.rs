//! Operations on whole buckets.

use s3s::S3Request;
use s3s::dto::*;

use crate::error::{Error, Result};
use crate::{Store, objects, time};

/// A bucket has to be somewhere, and clients take this for the place where no region need be named.
const REGION: &str = "us-east-1";
/// S3's own limit of buckets on one page.
const BUCKETS_MAX: i32 = 10_000;

pub(super) async fn create(store: &Store, req: S3Request<CreateBucketInput>) -> Result<CreateBucketOutput> {
    super::refuse(&[(
        req.input.object_lock_enabled_for_bucket == Some(true),
        "object locking",
    )])?;
    let (name, now) = (req.input.bucket, store.clock.now());
    let location = format!("/{name}");
    store
        .index
        .write(move |change| objects::create_bucket(change, &name, now))
        .await?;
    Ok(CreateBucketOutput {
        location: Some(location),
    })
}

pub(super) async fn delete(store: &Store, req: S3Request<DeleteBucketInput>) -> Result<DeleteBucketOutput> {
    store
        .index
        .write(move |change| objects::delete_bucket(change, &req.input.bucket))
        .await?;
    Ok(DeleteBucketOutput {})
}

pub(super) async fn head(store: &Store, req: S3Request<HeadBucketInput>) -> Result<HeadBucketOutput> {
    require(store, req.input.bucket).await?;
    Ok(HeadBucketOutput {
        bucket_region: Some(REGION.to_owned()),
        ..Default::default()
    })
}

pub(super) async fn location(
    store: &Store,
    req: S3Request<GetBucketLocationInput>,
) -> Result<GetBucketLocationOutput> {
    require(store, req.input.bucket).await?;
    // S3 says nothing where it means us-east-1.
    Ok(GetBucketLocationOutput::default())
}

pub(super) async fn versioning(
    store: &Store,
    req: S3Request<GetBucketVersioningInput>,
) -> Result<GetBucketVersioningOutput> {
    require(store, req.input.bucket).await?;
    // S3 says nothing of a bucket whose versioning was never turned on.
    Ok(GetBucketVersioningOutput::default())
}

/// Shows the buckets that the credential may use.
pub(super) async fn list(store: &Store, req: S3Request<ListBucketsInput>) -> Result<ListBucketsOutput> {
    let count = req.input.max_buckets.unwrap_or(BUCKETS_MAX).clamp(1, BUCKETS_MAX);
    let count = usize::try_from(count).map_err(|_| Error::InvalidArgument("max-buckets is out of range"))?;
    let prefix = req.input.prefix.unwrap_or_default();
    let after = req.input.continuation_token.unwrap_or_default();
    let open = store.keyring.buckets(req.credentials.as_ref()).await?;
    let mut buckets = store.index.read(objects::buckets).await?;
    buckets
        .retain(|bucket| bucket.name.starts_with(&prefix) && bucket.name > after && open.allow(&bucket.name));
    let more = buckets.len() > count;
    buckets.truncate(count);
    let continuation_token = buckets.last().filter(|_| more).map(|last| last.name.clone());
    let show = |bucket: objects::Bucket| Bucket {
        bucket_region: Some(REGION.to_owned()),
        creation_date: Some(time::http(bucket.created_at)),
        name: Some(bucket.name),
    };
    let buckets = Some(buckets.into_iter().map(show).collect());
    Ok(ListBucketsOutput {
        buckets,
        continuation_token,
        prefix: Some(prefix),
        ..Default::default()
    })
}

async fn require(store: &Store, bucket: String) -> Result<()> {
    store
        .index
        .read(move |conn| objects::bucket(conn, &bucket).map(|_| ()))
        .await
}
