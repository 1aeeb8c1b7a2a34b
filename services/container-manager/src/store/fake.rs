//! An object store in memory, for tests: keeps state, and fails on request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{Copied, Fetched, Head, Listed, Metadata, Object, ObjectStore, StoreError};

#[derive(Debug, Default)]
pub struct FakeStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    buckets: BTreeMap<String, BTreeMap<String, Kept>>,
    writes: u64,
    failures: u32,
    /// Nothing is written to keys that begin so.
    refused: Option<String>,
}

#[derive(Clone, Debug)]
struct Kept {
    body: Bytes,
    etag: String,
    content_type: Option<String>,
    metadata: Metadata,
}

impl Kept {
    fn head(&self) -> Head {
        Head {
            etag: self.etag.clone(),
            size: self.body.len() as u64,
            content_type: self.content_type.clone(),
            metadata: self.metadata.clone(),
        }
    }
}

impl FakeStore {
    pub fn create_bucket(&self, bucket: &str) {
        self.lock().buckets.entry(bucket.to_owned()).or_default();
    }

    /// Drops an object as a user would.
    pub fn drop_object(&self, bucket: &str, key: &str, body: &str) {
        self.drop_with_metadata(bucket, key, body, Metadata::new());
    }

    /// As [`Self::drop_object`], with user metadata.
    pub fn drop_with_metadata(&self, bucket: &str, key: &str, body: &str, metadata: Metadata) {
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.lock().write(bucket, key, body, None, metadata);
    }

    /// Deletes an object as a user would.
    pub fn delete_object(&self, bucket: &str, key: &str) {
        if let Some(objects) = self.lock().buckets.get_mut(bucket) {
            objects.remove(key);
        }
    }

    /// Every key of a bucket, in order.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.lock()
            .buckets
            .get(bucket)
            .map(|objects| objects.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// The version of an object.
    pub fn etag(&self, bucket: &str, key: &str) -> Option<String> {
        let inner = self.lock();
        let object = inner.buckets.get(bucket)?.get(key)?;
        Some(object.etag.clone())
    }

    pub fn text(&self, bucket: &str, key: &str) -> Option<String> {
        let inner = self.lock();
        let object = inner.buckets.get(bucket)?.get(key)?;
        Some(String::from_utf8_lossy(&object.body).into_owned())
    }

    /// The next calls fail as those of an unreachable store do.
    pub fn fail_next(&self, calls: u32) {
        self.lock().failures = calls;
    }

    /// What is written to keys that begin so fails, until nothing is refused any more.
    pub fn refuse_writes_to(&self, prefix: Option<&str>) {
        self.lock().refused = prefix.map(str::to_owned);
    }

    pub fn metadata(&self, bucket: &str, key: &str) -> Option<Metadata> {
        Some(self.lock().object(bucket, key)?.metadata.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach_to_write(&self, bucket: &str, key: &str) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.reach(bucket)?;
        let refused = inner.refused.as_ref();
        if refused.is_some_and(|prefix| key.starts_with(prefix)) {
            return Err(unreachable());
        }
        Ok(inner)
    }

    fn reach(&self, bucket: &str) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let mut inner = self.lock();
        if let Some(left) = inner.failures.checked_sub(1) {
            inner.failures = left;
            return Err(unreachable());
        }
        if !inner.buckets.contains_key(bucket) {
            return Err(StoreError::NoSuchBucket {
                bucket: bucket.to_owned(),
            });
        }
        Ok(inner)
    }
}

fn unreachable() -> StoreError {
    StoreError::Unreachable {
        endpoint: "fake".to_owned(),
        err: "on request".into(),
    }
}

impl Inner {
    fn write(
        &mut self,
        bucket: &str,
        key: &str,
        body: Bytes,
        content_type: Option<&str>,
        metadata: Metadata,
    ) -> String {
        self.writes += 1;
        let mut etag = String::new();
        let _infallible = write!(etag, "\"{}\"", self.writes);
        let object = Kept {
            body,
            etag: etag.clone(),
            content_type: content_type.map(str::to_owned),
            metadata,
        };
        self.buckets
            .entry(bucket.to_owned())
            .or_default()
            .insert(key.to_owned(), object);
        etag
    }

    fn object(&self, bucket: &str, key: &str) -> Option<&Kept> {
        self.buckets.get(bucket)?.get(key)
    }
}

#[async_trait]
impl ObjectStore for FakeStore {
    async fn check(&self) -> Result<(), StoreError> {
        if self.lock().failures > 0 {
            return Err(unreachable());
        }
        Ok(())
    }

    async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        max: u32,
    ) -> Result<Vec<Listed>, StoreError> {
        let inner = self.reach(bucket)?;
        let objects = inner.buckets.get(bucket).into_iter().flatten();
        let listed = objects
            .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after))
            .take(usize::try_from(max).unwrap_or(usize::MAX))
            .map(|(key, object)| Listed {
                key: key.clone(),
                etag: object.etag.clone(),
                size: object.body.len() as u64,
            });
        Ok(listed.collect())
    }

    async fn head(&self, bucket: &str, key: &str) -> Result<Option<Head>, StoreError> {
        let inner = self.reach(bucket)?;
        Ok(inner.object(bucket, key).map(Kept::head))
    }

    async fn get(&self, bucket: &str, key: &str, max_bytes: u64) -> Result<Option<Object>, StoreError> {
        let inner = self.reach(bucket)?;
        match inner.object(bucket, key) {
            Some(object) if object.body.len() as u64 > max_bytes => Err(StoreError::TooLarge {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                max_bytes,
            }),
            object => Ok(object.map(|object| Object {
                head: object.head(),
                body: object.body.clone(),
            })),
        }
    }

    async fn download(
        &self,
        bucket: &str,
        key: &str,
        path: &Path,
        max_bytes: u64,
    ) -> Result<Option<Fetched>, StoreError> {
        let object = self.reach(bucket)?.object(bucket, key).cloned();
        let Some(object) = object else { return Ok(None) };
        if object.body.len() as u64 > max_bytes {
            return Err(StoreError::TooLarge {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                max_bytes,
            });
        }
        std::fs::write(path, &object.body).map_err(|err| StoreError::Disk {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            err,
        })?;
        let sha256 = hex::encode(Sha256::digest(&object.body));
        Ok(Some(Fetched {
            etag: object.etag,
            sha256,
            size: object.body.len() as u64,
        }))
    }

    async fn put(&self, bucket: &str, key: &str, body: Bytes, content_type: &str) -> Result<(), StoreError> {
        self.reach_to_write(bucket, key)?
            .write(bucket, key, body, Some(content_type), Metadata::new());
        Ok(())
    }

    async fn upload(
        &self,
        bucket: &str,
        key: &str,
        mut file: std::fs::File,
        metadata: &Metadata,
    ) -> Result<(), StoreError> {
        let mut body = Vec::new();
        file.read_to_end(&mut body).map_err(|err| StoreError::Disk {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            err,
        })?;
        self.reach_to_write(bucket, key)?
            .write(bucket, key, body.into(), None, metadata.clone());
        Ok(())
    }

    async fn copy(&self, bucket: &str, from: &str, to: &str, source: &Head) -> Result<Copied, StoreError> {
        let mut inner = self.reach_to_write(bucket, to)?;
        match inner.object(bucket, from).cloned() {
            Some(object) if object.etag == source.etag => {
                let etag = inner.write(
                    bucket,
                    to,
                    object.body,
                    source.content_type.as_deref(),
                    source.metadata.clone(),
                );
                Ok(Copied::Done { etag })
            }
            _ => Ok(Copied::SourceChanged),
        }
    }

    async fn delete(&self, bucket: &str, key: &str, etag: Option<&str>) -> Result<(), StoreError> {
        let mut inner = self.reach(bucket)?;
        if let Some(objects) = inner.buckets.get_mut(bucket)
            && objects
                .get(key)
                .is_some_and(|object| etag.is_none_or(|etag| etag == object.etag))
        {
            objects.remove(key);
        }
        Ok(())
    }
}
