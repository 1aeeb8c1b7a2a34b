//! What can go wrong, and the one place where it becomes an S3 error code.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};
use s3s::{S3Error, S3ErrorCode, StdError};
use service_kit::Chain;
use service_kit::database::{ChangeError, DatabaseError, WriterEnded};

use crate::auth::Unavailable;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("bucket `{0}` does not exist")]
    NoSuchBucket(String),
    #[error("bucket `{0}` exists already")]
    BucketExists(String),
    #[error("bucket `{0}` is not empty")]
    BucketNotEmpty(String),
    #[error("object `{0}` does not exist")]
    NoSuchKey(String),
    #[error("multipart upload `{0}` does not exist")]
    NoSuchUpload(String),
    #[error("part {0} was not uploaded, or has another ETag")]
    InvalidPart(i32),
    #[error("part {0} is out of order")]
    InvalidPartOrder(i32),
    #[error("part {number} is smaller than {bytes_min} bytes and not the last")]
    PartTooSmall { number: i32, bytes_min: i64 },
    #[error("{0}")]
    InvalidArgument(&'static str),
    #[error("{0} is not supported by this store")]
    Unsupported(&'static str),
    #[error("the condition `{0}` does not hold")]
    PreconditionFailed(&'static str),
    #[error("the object is unchanged")]
    NotModified { etag: String },
    #[error("the requested range is outside the object")]
    InvalidRange,
    #[error("the body is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: i64 },
    #[error("`{0}` is not a valid checksum")]
    InvalidDigest(&'static str),
    #[error("the body does not match its `{0}`")]
    BadDigest(&'static str),
    #[error("the body ended after {received} bytes instead of {announced}")]
    Incomplete { received: i64, announced: i64 },
    #[error("failed to read the body")]
    Body(#[source] StdError),
    #[error("failed to open the index")]
    Open(#[from] DatabaseError),
    #[error("failed to use `{path}`")]
    File {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("failed to use the index")]
    Index(#[from] Arc<rusqlite::Error>),
    #[error("failed to decode the headers kept with an object")]
    Headers(#[from] serde_json::Error),
    #[error("failed to read the bytes of an object")]
    Read(#[source] io::Error),
    #[error("the bytes of content {0} are gone from the disk")]
    Lost(i64),
    #[error(transparent)]
    Keys(#[from] Unavailable),
    #[error("the store has stopped")]
    Stopped,
}

impl From<WriterEnded> for Error {
    fn from(_: WriterEnded) -> Self {
        Self::Stopped
    }
}

impl ChangeError for Error {
    fn is_of_database(&self) -> bool {
        matches!(self, Self::Index(_))
    }
}

impl From<rusqlite::Error> for Error {
    fn from(err: rusqlite::Error) -> Self {
        Self::Index(Arc::new(err))
    }
}

impl Error {
    /// What is wrong with the disk, where that is why nothing was stored: as a code and for people.
    fn of_disk(&self) -> Option<(&'static str, &'static str)> {
        use rusqlite::ErrorCode;
        const FULL: Option<(&str, &str)> = Some(("StorageFull", "full"));
        const READ_ONLY: Option<(&str, &str)> = Some(("StorageReadOnly", "read-only"));
        match self {
            Self::File { err, .. } => match err.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FULL,
                io::ErrorKind::ReadOnlyFilesystem => READ_ONLY,
                _ => None,
            },
            Self::Index(err) => match err.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => FULL,
                Some(ErrorCode::ReadOnly) => READ_ONLY,
                _ => None,
            },
            _ => None,
        }
    }

    fn code(&self) -> S3ErrorCode {
        match self {
            Self::NoSuchBucket(_) => S3ErrorCode::NoSuchBucket,
            Self::BucketExists(_) => S3ErrorCode::BucketAlreadyOwnedByYou,
            Self::BucketNotEmpty(_) => S3ErrorCode::BucketNotEmpty,
            Self::NoSuchKey(_) => S3ErrorCode::NoSuchKey,
            Self::NoSuchUpload(_) => S3ErrorCode::NoSuchUpload,
            Self::InvalidPart(_) => S3ErrorCode::InvalidPart,
            Self::InvalidPartOrder(_) => S3ErrorCode::InvalidPartOrder,
            Self::PartTooSmall { .. } => S3ErrorCode::EntityTooSmall,
            Self::InvalidArgument(_) => S3ErrorCode::InvalidArgument,
            Self::Unsupported(_) => S3ErrorCode::NotImplemented,
            Self::PreconditionFailed(_) => S3ErrorCode::PreconditionFailed,
            Self::NotModified { .. } => S3ErrorCode::NotModified,
            Self::InvalidRange => S3ErrorCode::InvalidRange,
            Self::TooLarge { .. } => S3ErrorCode::EntityTooLarge,
            Self::InvalidDigest(_) => S3ErrorCode::InvalidDigest,
            Self::BadDigest(_) => S3ErrorCode::BadDigest,
            Self::Incomplete { .. } | Self::Body(_) => S3ErrorCode::IncompleteBody,
            Self::Keys(_) | Self::Stopped => S3ErrorCode::ServiceUnavailable,
            Self::Open(_)
            | Self::File { .. }
            | Self::Read(_)
            | Self::Index(_)
            | Self::Headers(_)
            | Self::Lost(_) => S3ErrorCode::InternalError,
        }
    }
}

impl From<Error> for S3Error {
    fn from(err: Error) -> Self {
        if let Some((code, state)) = err.of_disk() {
            tracing::error!(error = %Chain(&err), "the disk of the store is {state}");
            let mut answer = S3Error::with_message(
                S3ErrorCode::Custom(code.into()),
                format!("the disk of the store is {state}; nothing was stored"),
            );
            answer.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
            return answer;
        }
        let code = err.code();
        let internal = code == S3ErrorCode::InternalError;
        let message = match &err {
            // The cause names what the client sent, so the client may see it; causes of our own faults stay in the log.
            Error::Body(cause) => format!("{err}: {cause}"),
            _ if internal => "the store failed; its log says why".to_owned(),
            _ => err.to_string(),
        };
        let mut answer = S3Error::with_message(code, message);
        match err {
            Error::TooLarge { .. } => answer.set_status_code(StatusCode::PAYLOAD_TOO_LARGE),
            Error::NotModified { etag } => {
                if let Ok(value) = format!("\"{etag}\"").try_into() {
                    answer.set_headers(HeaderMap::from_iter([(header::ETAG, value)]));
                }
            }
            err if internal => {
                tracing::error!(error = %Chain(&err), "the store failed to serve a request");
                answer.set_source(Box::new(err));
            }
            _ => {}
        }
        answer
    }
}
