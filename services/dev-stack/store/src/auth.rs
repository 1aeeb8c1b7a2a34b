//! Who may do what: a credential opens every bucket, or those it lists. Everything else is denied.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{Credentials, S3Auth, SecretKey};
use s3s::dto::{CopyObjectInput, CopySource, UploadPartCopyInput};
use s3s::{S3Request, S3Result, s3_error};
use service_kit::Secret;

/// A key pair, and the buckets it may use.
#[derive(Clone, Debug)]
pub struct Credential {
    pub access_key: String,
    pub secret_key: Secret,
    pub buckets: Buckets,
}

/// The buckets a credential may list, read, write, create and delete. Others are denied, and not shown to it.
#[derive(Clone, Debug)]
pub enum Buckets {
    All,
    Only(BTreeSet<String>),
}

impl Buckets {
    pub fn only<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::Only(names.into_iter().map(Into::into).collect())
    }

    fn allow(&self, bucket: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(bucket),
        }
    }
}

/// The credentials in force, by access key.
pub(crate) struct Keyring(RwLock<HashMap<String, Credential>>);

impl Keyring {
    pub(crate) fn new(credentials: Vec<Credential>) -> Self {
        Self(RwLock::new(by_access_key(credentials)))
    }

    pub(crate) fn set(&self, credentials: Vec<Credential>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = by_access_key(credentials);
    }

    /// Whether the request's credential opens `bucket`. Nobody is allowed anything without one.
    pub(crate) fn allows(&self, credentials: Option<&Credentials>, bucket: &str) -> bool {
        credentials
            .and_then(|used| self.find(&used.access_key, |credential| credential.buckets.allow(bucket)))
            .unwrap_or(false)
    }

    fn find<T>(&self, access_key: &str, read: impl FnOnce(&Credential) -> T) -> Option<T> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(access_key)
            .map(read)
    }

    pub(crate) fn check(&self, credentials: Option<&Credentials>, bucket: &str) -> S3Result<()> {
        if self.allows(credentials, bucket) {
            return Ok(());
        }
        Err(s3_error!(
            AccessDenied,
            "this access key may not use bucket `{}`",
            bucket
        ))
    }

    fn check_source(&self, credentials: Option<&Credentials>, source: &CopySource) -> S3Result<()> {
        match source {
            CopySource::Bucket { bucket, .. } => self.check(credentials, bucket),
            CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => Err(s3_error!(
                NotImplemented,
                "access points are not supported by this store"
            )),
        }
    }
}

fn by_access_key(credentials: Vec<Credential>) -> HashMap<String, Credential> {
    credentials
        .into_iter()
        .map(|credential| (credential.access_key.clone(), credential))
        .collect()
}

/// The keyring at the two points where s3s asks: for the secret to check a signature with, and before each operation.
#[derive(Clone)]
pub(crate) struct Guard(pub(crate) Arc<Keyring>);

#[async_trait::async_trait]
impl S3Auth for Guard {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        self.0
            .find(access_key, |credential| {
                SecretKey::from(credential.secret_key.expose())
            })
            .ok_or_else(|| s3_error!(InvalidAccessKeyId, "this access key does not exist"))
    }
}

#[async_trait::async_trait]
impl S3Access for Guard {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if cx.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "requests must be signed"));
        }
        match cx.s3_path().get_bucket_name() {
            Some(bucket) => self.0.check(cx.credentials(), bucket),
            // Only the list of buckets has no bucket in its path, and it shows nobody another's.
            None => Ok(()),
        }
    }

    async fn copy_object(&self, req: &mut S3Request<CopyObjectInput>) -> S3Result<()> {
        self.0
            .check_source(req.credentials.as_ref(), &req.input.copy_source)
    }

    async fn upload_part_copy(&self, req: &mut S3Request<UploadPartCopyInput>) -> S3Result<()> {
        self.0
            .check_source(req.credentials.as_ref(), &req.input.copy_source)
    }
}
