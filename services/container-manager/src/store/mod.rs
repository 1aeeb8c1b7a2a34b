//! The edge to the object store. It is a mailbox, never a lock: nothing here relies on conditional writes to exclude
//! another node.

pub mod fake;
mod listen;
mod s3;

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;

pub use s3::{S3Store, StoreConfig};

/// User metadata of an object, without the `x-amz-meta-` prefix.
pub type Metadata = BTreeMap<String, String>;

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub etag: String,
    pub size: u64,
}

/// An object's particulars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub etag: String,
    pub size: u64,
    pub content_type: Option<String>,
    pub metadata: Metadata,
}

/// A small object, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub head: Head,
    pub body: Bytes,
}

/// What a download left on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub etag: String,
    /// SHA-256 of the content, in hex.
    pub sha256: String,
    pub size: u64,
}

/// How a copy that was pinned to a version ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copied {
    Done {
        /// The copy's version; empty where the store does not tell.
        etag: String,
    },
    /// The source is gone, or is another version by now.
    SourceChanged,
}

/// An S3 bucket store. Every call may be repeated.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// Errors unless the store answers and takes our credentials.
    async fn check(&self) -> Result<(), StoreError>;

    /// At most `max` objects below `prefix` after the key `after`, in byte order of their keys.
    async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        max: u32,
    ) -> Result<Vec<Listed>, StoreError>;

    /// `None` if there is no such object.
    async fn head(&self, bucket: &str, key: &str) -> Result<Option<Head>, StoreError>;

    /// Reads a small object whole; `None` if there is none, an error if it is larger than `max_bytes`.
    async fn get(&self, bucket: &str, key: &str, max_bytes: u64) -> Result<Option<Object>, StoreError>;

    /// Downloads an object to `path`, which is complete and on disk after `Ok(Some(_))`. `None` if there is none, an error
    /// if it is larger than `max_bytes`.
    async fn download(
        &self,
        bucket: &str,
        key: &str,
        path: &Path,
        max_bytes: u64,
    ) -> Result<Option<Fetched>, StoreError>;

    async fn put(&self, bucket: &str, key: &str, body: Bytes, content_type: &str) -> Result<(), StoreError>;

    /// Uploads a file as it is now.
    async fn upload(
        &self,
        bucket: &str,
        key: &str,
        file: std::fs::File,
        metadata: &Metadata,
    ) -> Result<(), StoreError>;

    /// Copies within a bucket, with new metadata, the version `etag` of the source.
    async fn copy(&self, bucket: &str, from: &str, to: &str, source: &Head) -> Result<Copied, StoreError>;

    /// Deletes an object, if it still has this version where the store can tell. No error if there is none.
    async fn delete(&self, bucket: &str, key: &str, etag: Option<&str>) -> Result<(), StoreError>;
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the object store at {endpoint} cannot be reached or does not answer")]
    Unreachable {
        endpoint: String,
        #[source]
        err: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "the object store refused our credentials for `{bucket}` ({code}) (hint: compare the key id, the secret and the bucket's policy)"
    )]
    Denied { bucket: String, code: String },
    #[error(
        "the object store at {endpoint} finds this machine's clock wrong ({code}) (hint: compare the clocks of both machines, and set them)"
    )]
    WrongClock { endpoint: String, code: String },
    #[error("there is no bucket `{bucket}`")]
    NoSuchBucket { bucket: String },
    #[error("the object store failed on `{bucket}/{key}` ({code})")]
    Failed {
        bucket: String,
        key: String,
        code: String,
        #[source]
        err: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("`{bucket}/{key}` is larger than {max_bytes} bytes")]
    TooLarge {
        bucket: String,
        key: String,
        max_bytes: u64,
    },
    #[error("failed on this node's disk while moving `{bucket}/{key}`")]
    Disk {
        bucket: String,
        key: String,
        #[source]
        err: std::io::Error,
    },
}

impl StoreError {
    /// Whether the same call may succeed later without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::WrongClock { .. } | Self::Failed { .. } | Self::Disk { .. } => {
                true
            }
            Self::Denied { .. } | Self::NoSuchBucket { .. } | Self::TooLarge { .. } => false,
        }
    }
}
