//! The S3 operations, one line each: the work is in the modules below. What is not here answers `NotImplemented`.

use std::sync::Arc;

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result};

use crate::Store;
use crate::error::{Error, Result};

mod buckets;
mod copy;
mod get;
mod listing;
mod put;
mod upload;

pub(crate) struct Service(pub(crate) Arc<Store>);

/// Hands each operation of the trait to the function of a module.
macro_rules! operations {
    ($($name:ident($input:ty) -> $output:ty = $module:ident::$function:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Service {
            $(async fn $name(&self, req: S3Request<$input>) -> S3Result<S3Response<$output>> {
                Ok(S3Response::new($module::$function(&self.0, req).await?))
            })*
        }
    };
}

operations! {
    create_bucket(CreateBucketInput) -> CreateBucketOutput = buckets::create;
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = buckets::delete;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput = buckets::location;
    get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput = buckets::versioning;
    head_bucket(HeadBucketInput) -> HeadBucketOutput = buckets::head;
    list_buckets(ListBucketsInput) -> ListBucketsOutput = buckets::list;

    list_objects(ListObjectsInput) -> ListObjectsOutput = listing::v1;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = listing::v2;

    get_object(GetObjectInput) -> GetObjectOutput = get::get;
    head_object(HeadObjectInput) -> HeadObjectOutput = get::head;

    put_object(PutObjectInput) -> PutObjectOutput = put::put;
    post_object(PostObjectInput) -> PostObjectOutput = put::post;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput = put::delete;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = put::delete_many;
    copy_object(CopyObjectInput) -> CopyObjectOutput = copy::object;

    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput = upload::begin;
    upload_part(UploadPartInput) -> UploadPartOutput = upload::part;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput = copy::part;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput = upload::complete;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput = upload::abort;
    list_parts(ListPartsInput) -> ListPartsOutput = upload::list_parts;
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput = upload::list;
}

/// Refuses what a client asks for and would not get, so that nobody takes silence for consent.
fn refuse(asked: &[(bool, &'static str)]) -> Result<()> {
    match asked.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(Error::Unsupported(what)),
        None => Ok(()),
    }
}

/// Every object has one version, which S3 calls `null` where versioning was never turned on.
fn refuse_versions(version: Option<&str>) -> Result<()> {
    refuse(&[(
        version.is_some_and(|version| version != "null"),
        "object versioning",
    )])
}

/// Refuses, by the fields that several requests share, to store an object in a way this store does not know.
macro_rules! refuse_unknown_storage {
    ($input:expr) => {
        $crate::service::refuse(&[
            ($input.server_side_encryption.is_some(), "server-side encryption"),
            ($input.sse_customer_algorithm.is_some(), "server-side encryption"),
            ($input.tagging.is_some(), "object tagging"),
            ($input.object_lock_mode.is_some(), "object locking"),
            ($input.object_lock_legal_hold_status.is_some(), "object locking"),
        ])
    };
}
use refuse_unknown_storage;

fn etag(etag: String) -> Option<ETag> {
    Some(ETag::Strong(etag))
}
