//! Any S3 server, through the AWS SDK.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, MetadataDirective};
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde::Deserialize;
use service_kit::Secret;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use units::FunctionName;

use super::listen;
use super::{Copied, Fetched, Head, Listed, Metadata, Object, ObjectStore, StoreError};

/// Files above this size are uploaded in parts of this size, in bytes.
const PART_BYTES: u64 = 64 << 20;

/// Which store, and who we are there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// `http://127.0.0.1:9000` for example; absent: AWS itself.
    pub endpoint: Option<String>,
    #[serde(default = "default_region")]
    pub region: String,
    pub access_key: String,
    /// A file with the secret key on its first line.
    pub secret_key_file: PathBuf,
    /// Whether the store is asked to tell of new objects, as MinIO and ours do.
    #[serde(default = "default_listen")]
    pub listen: bool,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

const fn default_listen() -> bool {
    true
}

#[derive(Clone, Debug)]
pub struct S3Store {
    client: Client,
    endpoint: Arc<str>,
}

impl S3Store {
    pub fn new(config: &StoreConfig, secret: &Secret) -> Self {
        let mut builder = aws_sdk_s3::Config::builder()
            .behavior_version_latest()
            .region(Region::new(config.region.clone()))
            .credentials_provider(Credentials::new(
                &config.access_key,
                secret.expose(),
                None,
                None,
                "file",
            ))
            .http_client(
                HttpBuilder::new()
                    .tls_provider(Provider::Rustls(CryptoMode::Ring))
                    .build_https(),
            )
            // Stores other than AWS do not all know the newer checksum trailers.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &config.endpoint {
            builder = builder.endpoint_url(endpoint).force_path_style(true);
        }
        let endpoint = config
            .endpoint
            .clone()
            .unwrap_or_else(|| format!("AWS {}", config.region));
        Self {
            client: Client::from_conf(builder.build()),
            endpoint: endpoint.into(),
        }
    }

    /// Functions whose bucket has news, where the store tells of them and `config` asks for it.
    pub fn news(&self, config: &StoreConfig) -> BoxStream<'static, FunctionName> {
        match &config.endpoint {
            Some(endpoint) if config.listen => listen::news(self.client.clone(), endpoint),
            _ => futures::stream::empty().boxed(),
        }
    }

    fn error<E>(&self, bucket: &str, key: &str, err: SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let SdkError::ServiceError(service) = &err else {
            return StoreError::Unreachable {
                endpoint: self.endpoint.to_string(),
                err: Box::new(err),
            };
        };
        let status = service.raw().status().as_u16();
        let code = service
            .err()
            .code()
            .map_or_else(|| format!("HTTP {status}"), str::to_owned);
        match (code.as_str(), status) {
            ("NoSuchBucket", _) => StoreError::NoSuchBucket {
                bucket: bucket.to_owned(),
            },
            ("RequestTimeTooSkewed", _) => StoreError::WrongClock {
                endpoint: self.endpoint.to_string(),
                code,
            },
            (_, 401 | 403) => StoreError::Denied {
                bucket: bucket.to_owned(),
                code,
            },
            _ => StoreError::Failed {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                code,
                err: Box::new(err),
            },
        }
    }

    async fn write(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
        content_type: &str,
        metadata: &Metadata,
    ) -> Result<(), StoreError> {
        let put = self
            .client
            .put_object()
            .bucket(bucket)
            .key(key)
            .content_type(content_type)
            .set_metadata(Some(metadata.clone().into_iter().collect()));
        put.body(ByteStream::from(body))
            .send()
            .await
            .map(drop)
            .map_err(|err| self.error(bucket, key, err))
    }

    async fn upload_parts(
        &self,
        bucket: &str,
        key: &str,
        file: Arc<std::fs::File>,
        size: u64,
        metadata: &Metadata,
    ) -> Result<(), StoreError> {
        let started = self
            .client
            .create_multipart_upload()
            .bucket(bucket)
            .key(key)
            .set_metadata(Some(metadata.clone().into_iter().collect()))
            .send()
            .await;
        let upload = started
            .map_err(|err| self.error(bucket, key, err))?
            .upload_id
            .unwrap_or_default();
        let mut parts = Vec::new();
        for (number, offset) in
            (1..).zip((0..size).step_by(usize::try_from(PART_BYTES).unwrap_or(usize::MAX)))
        {
            let body = read_at(file.clone(), offset, PART_BYTES.min(size - offset))
                .await
                .map_err(|err| disk(bucket, key, err))?;
            let part = self
                .client
                .upload_part()
                .bucket(bucket)
                .key(key)
                .upload_id(&upload)
                .part_number(number);
            match part.body(ByteStream::from(body)).send().await {
                Ok(done) => {
                    parts.push(
                        CompletedPart::builder()
                            .part_number(number)
                            .set_e_tag(done.e_tag)
                            .build(),
                    );
                }
                Err(err) => {
                    // Best effort: what stays behind is invisible, and stores expire it.
                    let abort = self
                        .client
                        .abort_multipart_upload()
                        .bucket(bucket)
                        .key(key)
                        .upload_id(&upload);
                    let _ignored = abort.send().await;
                    return Err(self.error(bucket, key, err));
                }
            }
        }
        let all = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self
            .client
            .complete_multipart_upload()
            .bucket(bucket)
            .key(key)
            .upload_id(&upload);
        complete
            .multipart_upload(all)
            .send()
            .await
            .map(drop)
            .map_err(|err| self.error(bucket, key, err))
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn check(&self) -> Result<(), StoreError> {
        match self.client.list_buckets().send().await {
            Ok(_) => Ok(()),
            Err(err) => Err(self.error("*", "", err)),
        }
    }

    async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        max: u32,
    ) -> Result<Vec<Listed>, StoreError> {
        let max = i32::try_from(max.min(1000)).unwrap_or(1000);
        let list = self
            .client
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            .max_keys(max);
        let page = list
            .set_start_after(after.map(str::to_owned))
            .send()
            .await
            .map_err(|err| self.error(bucket, prefix, err))?;
        let listed = page
            .contents
            .unwrap_or_default()
            .into_iter()
            .filter_map(|object| {
                Some(Listed {
                    key: object.key?,
                    etag: object.e_tag.unwrap_or_default(),
                    size: object
                        .size
                        .and_then(|size| u64::try_from(size).ok())
                        .unwrap_or_default(),
                })
            });
        Ok(listed.collect())
    }

    async fn head(&self, bucket: &str, key: &str) -> Result<Option<Head>, StoreError> {
        match self.client.head_object().bucket(bucket).key(key).send().await {
            Ok(found) => {
                let size = found.content_length.and_then(|n| u64::try_from(n).ok());
                let size = size.unwrap_or_default();
                Ok(Some(head(found.e_tag, size, found.content_type, found.metadata)))
            }
            Err(err) if is_missing(&err) => Ok(None),
            Err(err) => Err(self.error(bucket, key, err)),
        }
    }

    async fn get(&self, bucket: &str, key: &str, max_bytes: u64) -> Result<Option<Object>, StoreError> {
        let mut object = match self.client.get_object().bucket(bucket).key(key).send().await {
            Ok(object) => object,
            Err(err) if is_missing(&err) => return Ok(None),
            Err(err) => return Err(self.error(bucket, key, err)),
        };
        let too_large = || StoreError::TooLarge {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            max_bytes,
        };
        let size = object.content_length.and_then(|n| u64::try_from(n).ok());
        let size = size.filter(|size| *size <= max_bytes).ok_or_else(too_large)?;
        let body = std::mem::take(&mut object.body).collect().await;
        let body = body.map_err(|err| self.cut_off(err))?.into_bytes();
        let head = head(object.e_tag, size, object.content_type, object.metadata);
        Ok(Some(Object { head, body }))
    }

    async fn download(
        &self,
        bucket: &str,
        key: &str,
        path: &Path,
        max_bytes: u64,
    ) -> Result<Option<Fetched>, StoreError> {
        let mut object = match self.client.get_object().bucket(bucket).key(key).send().await {
            Ok(object) => object,
            Err(err) if is_missing(&err) => return Ok(None),
            Err(err) => return Err(self.error(bucket, key, err)),
        };
        let on_disk = |err| disk(bucket, key, err);
        let mut file = tokio::fs::File::create(path).await.map_err(on_disk)?;
        let (mut hash, mut size) = (Sha256::new(), 0u64);
        while let Some(chunk) = object.body.next().await {
            let chunk = chunk.map_err(|err| self.cut_off(err))?;
            hash.update(&chunk);
            size += chunk.len() as u64;
            if size > max_bytes {
                return Err(StoreError::TooLarge {
                    bucket: bucket.to_owned(),
                    key: key.to_owned(),
                    max_bytes,
                });
            }
            file.write_all(&chunk).await.map_err(on_disk)?;
        }
        file.flush().await.map_err(on_disk)?;
        Ok(Some(Fetched {
            etag: object.e_tag.unwrap_or_default(),
            sha256: hex::encode(hash.finalize()),
            size,
        }))
    }

    async fn put(&self, bucket: &str, key: &str, body: Bytes, content_type: &str) -> Result<(), StoreError> {
        self.write(bucket, key, body, content_type, &Metadata::new())
            .await
    }

    async fn upload(
        &self,
        bucket: &str,
        key: &str,
        file: std::fs::File,
        metadata: &Metadata,
    ) -> Result<(), StoreError> {
        let size = file.metadata().map_err(|err| disk(bucket, key, err))?.len();
        let file = Arc::new(file);
        if size > PART_BYTES {
            return self.upload_parts(bucket, key, file, size, metadata).await;
        }
        let body = read_at(file, 0, size)
            .await
            .map_err(|err| disk(bucket, key, err))?;
        self.write(bucket, key, body, content_type(key), metadata).await
    }

    async fn copy(&self, bucket: &str, from: &str, to: &str, source: &Head) -> Result<Copied, StoreError> {
        let metadata: HashMap<String, String> = source.metadata.clone().into_iter().collect();
        let copy = self
            .client
            .copy_object()
            .bucket(bucket)
            .key(to)
            .copy_source(format!("{bucket}/{}", percent_encode(from)))
            .copy_source_if_match(&source.etag)
            .metadata_directive(MetadataDirective::Replace)
            .set_metadata(Some(metadata))
            .set_content_type(source.content_type.clone());
        match copy.send().await {
            Ok(copied) => {
                let copy = copied.copy_object_result;
                let etag = copy.and_then(|copy| copy.e_tag).unwrap_or_default();
                Ok(Copied::Done { etag })
            }
            Err(err) if is_missing(&err) || err.code() == Some("PreconditionFailed") => {
                Ok(Copied::SourceChanged)
            }
            Err(err) => Err(self.error(bucket, from, err)),
        }
    }

    async fn delete(&self, bucket: &str, key: &str, etag: Option<&str>) -> Result<(), StoreError> {
        let delete = self
            .client
            .delete_object()
            .bucket(bucket)
            .key(key)
            .set_if_match(etag.map(str::to_owned));
        match delete.send().await {
            Ok(_) => Ok(()),
            // Another version has taken its place: that one is not ours to delete.
            Err(err) if is_missing(&err) || err.code() == Some("PreconditionFailed") => Ok(()),
            Err(err) => Err(self.error(bucket, key, err)),
        }
    }
}

impl S3Store {
    fn cut_off(&self, err: impl std::error::Error + Send + Sync + 'static) -> StoreError {
        StoreError::Unreachable {
            endpoint: self.endpoint.to_string(),
            err: Box::new(err),
        }
    }
}

fn head(
    etag: Option<String>,
    size: u64,
    content_type: Option<String>,
    metadata: Option<HashMap<String, String>>,
) -> Head {
    Head {
        etag: etag.unwrap_or_default(),
        size,
        content_type,
        metadata: metadata.unwrap_or_default().into_iter().collect(),
    }
}

fn disk(bucket: &str, key: &str, err: std::io::Error) -> StoreError {
    StoreError::Disk {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        err,
    }
}

fn is_missing<E: ProvideErrorMetadata>(err: &SdkError<E>) -> bool {
    let SdkError::ServiceError(service) = err else {
        return false;
    };
    // HEAD has no body and so no code.
    service.raw().status().as_u16() == 404 && service.err().code() != Some("NoSuchBucket")
}

async fn read_at(file: Arc<std::fs::File>, offset: u64, len: u64) -> std::io::Result<Bytes> {
    let read = move || {
        let mut bytes = vec![0; usize::try_from(len).map_err(std::io::Error::other)?];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(Bytes::from(bytes))
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(std::io::Error::other)?
}

/// The type of what users look at in a browser; anything else is bytes.
fn content_type(key: &str) -> &'static str {
    match key.rsplit('.').next() {
        Some("txt" | "log" | "error") => "text/plain; charset=utf-8",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

/// Percent-encodes a key for the copy-source header; `/` stays.
fn percent_encode(key: &str) -> String {
    key.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _infallible = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_sources_are_encoded() {
        assert_eq!(
            percent_encode("input/a b/ü+%.txt"),
            "input/a%20b/%C3%BC%2B%25.txt"
        );
    }
}
