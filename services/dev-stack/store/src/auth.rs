//! Who may do what: a credential opens every bucket, or those it lists. Everything else is denied.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{Credentials, S3Auth, SecretKey};
use s3s::dto::{CopyObjectInput, CopySource, UploadPartCopyInput};
use s3s::{S3Request, S3Result, s3_error};
use service_kit::Secret;

use crate::error::Error;

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

    pub(crate) fn allow(&self, bucket: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(bucket),
        }
    }
}

/// Access keys that somebody else keeps.
#[async_trait::async_trait]
pub trait AccessKeys: Send + Sync + 'static {
    /// What an access key opens; `None` if there is no such key. The answer may be a moment old, unless `now` is set.
    async fn find(&self, access_key: &str, now: bool) -> Result<Option<Credential>, Unavailable>;
}

/// Whether an access key opens anything cannot be found out at the moment.
#[derive(Debug, thiserror::Error)]
#[error("what the access key opens cannot be found out now")]
pub struct Unavailable(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The credentials in force, by access key.
pub(crate) struct Keyring {
    own: RwLock<HashMap<String, Credential>>,
    others: Option<Arc<dyn AccessKeys>>,
}

impl Keyring {
    pub(crate) fn new(credentials: Vec<Credential>, others: Option<Arc<dyn AccessKeys>>) -> Self {
        Self {
            own: RwLock::new(by_access_key(credentials)),
            others,
        }
    }

    pub(crate) fn set(&self, credentials: Vec<Credential>) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = by_access_key(credentials);
    }

    /// The buckets that the request's credential opens.
    pub(crate) async fn buckets(&self, credentials: Option<&Credentials>) -> Result<Buckets, Unavailable> {
        let found = match credentials {
            Some(used) => self.find(&used.access_key, true).await?,
            None => None,
        };
        Ok(found.map_or_else(|| Buckets::Only(BTreeSet::new()), |credential| credential.buckets))
    }

    /// Whether a credential opens `bucket`; a moment ago, unless `now` is set.
    pub(crate) async fn allows(
        &self,
        used: &Credentials,
        bucket: &str,
        now: bool,
    ) -> Result<bool, Unavailable> {
        let found = self.find(&used.access_key, now).await?;
        Ok(found.is_some_and(|credential| credential.buckets.allow(bucket)))
    }

    /// `now`: a key of others' is looked up, whatever is remembered of it.
    async fn find(&self, access_key: &str, now: bool) -> Result<Option<Credential>, Unavailable> {
        let own = |keys: &HashMap<String, Credential>| keys.get(access_key).cloned();
        let own = own(&self.own.read().unwrap_or_else(PoisonError::into_inner));
        match (own, &self.others) {
            (None, Some(others)) => others.find(access_key, now).await,
            (own, _) => Ok(own),
        }
    }

    pub(crate) async fn check(&self, credentials: Option<&Credentials>, bucket: &str) -> S3Result<()> {
        let used = credentials.ok_or_else(|| s3_error!(AccessDenied, "requests must be signed"))?;
        // A function that was just made is not yet remembered.
        for now in [false, true] {
            if self.allows(used, bucket, now).await.map_err(Error::from)? {
                return Ok(());
            }
        }
        Err(s3_error!(
            AccessDenied,
            "this access key may not use bucket `{}`",
            bucket
        ))
    }

    async fn check_source(&self, credentials: Option<&Credentials>, source: &CopySource) -> S3Result<()> {
        match source {
            CopySource::Bucket { bucket, .. } => self.check(credentials, bucket).await,
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
        let credential = self.0.find(access_key, false).await.map_err(Error::from)?;
        let unknown = || s3_error!(InvalidAccessKeyId, "this access key does not exist");
        let credential = credential.ok_or_else(unknown)?;
        Ok(SecretKey::from(credential.secret_key.expose()))
    }
}

#[async_trait::async_trait]
impl S3Access for Guard {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if cx.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "requests must be signed"));
        }
        match cx.s3_path().get_bucket_name() {
            Some(bucket) => self.0.check(cx.credentials(), bucket).await,
            // Only the list of buckets has no bucket in its path, and it shows nobody another's.
            None => Ok(()),
        }
    }

    async fn copy_object(&self, req: &mut S3Request<CopyObjectInput>) -> S3Result<()> {
        let source = &req.input.copy_source;
        self.0.check_source(req.credentials.as_ref(), source).await
    }

    async fn upload_part_copy(&self, req: &mut S3Request<UploadPartCopyInput>) -> S3Result<()> {
        let source = &req.input.copy_source;
        self.0.check_source(req.credentials.as_ref(), source).await
    }
}
