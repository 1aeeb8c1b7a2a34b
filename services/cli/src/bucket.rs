//! The object store as the commands use it.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use dev_stack::S3Credentials;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use schema::Problem;
use serde::Serialize;
use units::{Amount, FunctionName};

/// What a key may hold as it is where it is part of a header.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// An object found by a listing.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) bytes: u64,
}

/// Where a task's object is, which tells how far the task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Place {
    Input,
    Processing,
    Output,
    Failed,
}

impl Place {
    pub(crate) fn key(self, task: &str) -> String {
        let folder = match self {
            Self::Input => "input",
            Self::Processing => "processing",
            Self::Output => "output",
            Self::Failed => "failed",
        };
        format!("{folder}/{task}")
    }
}

/// Buckets of functions: a function and its bucket have the same name.
#[derive(Clone, Debug)]
pub(crate) struct ObjectStore {
    client: Client,
    url: String,
}

impl ObjectStore {
    pub(crate) fn new(url: String, credentials: &S3Credentials) -> Self {
        let config = credentials.client_config(&url).build();
        Self {
            client: Client::from_conf(config),
            url,
        }
    }

    /// Makes a function's bucket; one that is there already is fine.
    pub(crate) async fn make_bucket(&self, function: &FunctionName) -> anyhow::Result<()> {
        match self.client.create_bucket().bucket(function.as_str()).send().await {
            Err(err) if err.code() == Some("BucketAlreadyOwnedByYou") => Ok(()),
            result => result
                .map(drop)
                .map_err(|err| self.refusal(err, format!("failed to make the bucket `{function}`"))),
        }
    }

    pub(crate) async fn put(
        &self,
        function: &FunctionName,
        key: &str,
        body: ByteStream,
    ) -> anyhow::Result<()> {
        self.client
            .put_object()
            .bucket(function.as_str())
            .key(key)
            .body(body)
            .send()
            .await
            .map(drop)
            .map_err(|err| self.refusal(err, format!("failed to write `{key}` to the bucket `{function}`")))
    }

    pub(crate) async fn put_file(
        &self,
        function: &FunctionName,
        key: &str,
        path: &Path,
    ) -> anyhow::Result<()> {
        let body = ByteStream::from_path(path)
            .await
            .with_context(|| format!("failed to read `{}`", path.display()))?;
        self.put(function, key, body).await
    }

    /// Drops a file into `input/`, with the task's own wishes as the object's metadata.
    pub(crate) async fn put_task(
        &self,
        function: &FunctionName,
        name: &str,
        path: &Path,
        max_grc: Option<Amount>,
    ) -> anyhow::Result<()> {
        let key = format!("input/{name}");
        let body = ByteStream::from_path(path)
            .await
            .with_context(|| format!("failed to read `{}`", path.display()))?;
        self.client
            .put_object()
            .bucket(function.as_str())
            .key(&key)
            .set_metadata(max_grc.map(|max| HashMap::from([("max-grc".to_owned(), max.to_string())])))
            .body(body)
            .send()
            .await
            .map(drop)
            .map_err(|err| self.refusal(err, format!("failed to write `{key}` to the bucket `{function}`")))
    }

    pub(crate) async fn delete(&self, function: &FunctionName, key: &str) -> anyhow::Result<()> {
        self.client
            .delete_object()
            .bucket(function.as_str())
            .key(key)
            .send()
            .await
            .map(drop)
            .map_err(|err| {
                self.refusal(
                    err,
                    format!("failed to delete `{key}` from the bucket `{function}`"),
                )
            })
    }

    /// Deletes a bucket and all that is in it. None is no error.
    pub(crate) async fn delete_bucket(&self, function: &FunctionName) -> anyhow::Result<()> {
        let (bucket, doing) = (function.as_str(), || {
            format!("failed to delete the bucket `{function}`")
        });
        loop {
            let page = match self.client.list_objects_v2().bucket(bucket).send().await {
                Ok(page) => page.contents.unwrap_or_default(),
                Err(err) if err.code() == Some("NoSuchBucket") => return Ok(()),
                Err(err) => return Err(self.refusal(err, doing())),
            };
            if page.is_empty() {
                break;
            }
            let keys = page.into_iter().filter_map(|object| object.key);
            let objects = keys.map(|key| ObjectIdentifier::builder().key(key).build());
            let objects = Delete::builder()
                .set_objects(Some(objects.collect::<Result<_, _>>()?))
                .quiet(true);
            let deleted = self
                .client
                .delete_objects()
                .bucket(bucket)
                .delete(objects.build()?)
                .send()
                .await;
            let deleted = deleted.map_err(|err| self.refusal(err, doing()))?;
            if let Some(refused) = deleted.errors().first() {
                let (key, message) = (
                    refused.key().unwrap_or_default(),
                    refused.message().unwrap_or_default(),
                );
                return Err(anyhow::anyhow!("`{key}`: {message}").context(doing()));
            }
        }
        let deleted = self.client.delete_bucket().bucket(bucket).send().await;
        deleted.map(drop).map_err(|err| self.refusal(err, doing()))
    }

    /// An object's content; `None` if there is no such object.
    pub(crate) async fn get(&self, function: &FunctionName, key: &str) -> anyhow::Result<Option<ByteStream>> {
        match self
            .client
            .get_object()
            .bucket(function.as_str())
            .key(key)
            .send()
            .await
        {
            Ok(object) => Ok(Some(object.body)),
            Err(err) if err.code() == Some("NoSuchKey") => Ok(None),
            Err(err) => Err(self.refusal(
                err,
                format!("failed to read `{key}` from the bucket `{function}`"),
            )),
        }
    }

    pub(crate) async fn exists(&self, function: &FunctionName, key: &str) -> anyhow::Result<bool> {
        Ok(self.modified_at(function, key).await?.is_some())
    }

    /// When an object was written, to the second; `None` if there is none.
    async fn modified_at(&self, function: &FunctionName, key: &str) -> anyhow::Result<Option<DateTime>> {
        let request = self.client.head_object().bucket(function.as_str()).key(key);
        match request.send().await {
            // Every store tells it.
            Ok(object) => Ok(Some(object.last_modified.unwrap_or(DateTime::from_secs(0)))),
            // An answer without a body has no more exact code.
            Err(err) if err.code() == Some("NotFound") => Ok(None),
            Err(err) => Err(self.refusal(
                err,
                format!("failed to look for `{key}` in the bucket `{function}`"),
            )),
        }
    }

    /// Where a task's object is. A task that was submitted again waits, whatever is left of it from before; of two ends
    /// the later counts.
    pub(crate) async fn place(&self, function: &FunctionName, task: &str) -> anyhow::Result<Option<Place>> {
        // In the order of the task's way, so that one that moves on meanwhile is found at its next place.
        if let Some(place) = self.place_to_come(function, task).await? {
            return Ok(Some(place));
        }
        let succeeded_at = self.modified_at(function, &Place::Output.key(task)).await?;
        let failed_at = self.modified_at(function, &Place::Failed.key(task)).await?;
        // An attempt that failed goes back to `input/`, and may have been on that way while it was looked for.
        if let Some(place) = self.place_to_come(function, task).await? {
            return Ok(Some(place));
        }
        Ok(match (succeeded_at, failed_at) {
            (None, None) => None,
            (succeeded_at, failed_at) if failed_at > succeeded_at => Some(Place::Failed),
            _ => Some(Place::Output),
        })
    }

    /// Where a task's object is if the task is not over.
    async fn place_to_come(&self, function: &FunctionName, task: &str) -> anyhow::Result<Option<Place>> {
        for place in [Place::Input, Place::Processing] {
            if self.exists(function, &place.key(task)).await? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Copies an object within its bucket, its metadata too; of at most 5 GiB, as S3 has it.
    pub(crate) async fn copy(&self, function: &FunctionName, from: &str, to: &str) -> anyhow::Result<()> {
        let source = utf8_percent_encode(&format!("{function}/{from}"), COPY_SOURCE).to_string();
        let request = self.client.copy_object().bucket(function.as_str());
        let copied = request.copy_source(source).key(to).send().await;
        copied.map(drop).map_err(|err| {
            let doing = format!("failed to copy `{from}` to `{to}` in the bucket `{function}`");
            self.refusal(err, doing)
        })
    }

    /// How many buckets there are.
    pub(crate) async fn buckets(&self) -> anyhow::Result<usize> {
        match self.client.list_buckets().send().await {
            Ok(reply) => Ok(reply.buckets().len()),
            Err(err) => Err(self.refusal(err, "failed to list the buckets".to_owned())),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What keeps a function from running, as a node found it.
    pub(crate) async fn problem(&self, function: &FunctionName) -> anyhow::Result<Option<Problem>> {
        let Some(body) = self.get(function, "status/error.json").await? else {
            return Ok(None);
        };
        let body = body
            .collect()
            .await
            .context("failed to read `status/error.json`")?;
        Ok(serde_json::from_slice(&body.into_bytes()).ok())
    }

    /// Every object whose key begins with `prefix`, in the order of the keys. Objects that stand for the folder itself
    /// are left out.
    pub(crate) async fn list(&self, function: &FunctionName, prefix: &str) -> anyhow::Result<Vec<Object>> {
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(function.as_str())
            .prefix(prefix)
            .into_paginator()
            .send();
        let mut objects = Vec::new();
        while let Some(page) = pages.next().await {
            let page =
                page.map_err(|err| self.refusal(err, format!("failed to list the bucket `{function}`")))?;
            objects.extend(
                page.contents
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|object| {
                        let key = object.key.filter(|key| key != prefix)?;
                        let bytes = u64::try_from(object.size.unwrap_or_default()).unwrap_or_default();
                        Some(Object { key, bytes })
                    }),
            );
        }
        Ok(objects)
    }

    /// What the store answered, said in one line; the SDK's own text shows its inner structures.
    fn refusal<E, R>(&self, err: SdkError<E, R>, doing: String) -> anyhow::Error
    where
        SdkError<E, R>: ProvideErrorMetadata + std::error::Error,
    {
        let reason = match (err.code(), err.message()) {
            (Some("NoSuchBucket"), _) => {
                "there is no such bucket (hint: make it with `gridfaas function create`)".to_owned()
            }
            (Some("InvalidAccessKeyId" | "SignatureDoesNotMatch"), _) => {
                format!(
                    "the store at {} refuses the key (hint: compare --s3-credentials-file)",
                    self.url
                )
            }
            (Some(code), Some(message)) => format!("{message} ({code})"),
            _ if matches!(err, SdkError::DispatchFailure(_)) => {
                format!(
                    "the store at {} does not answer (hint: is `gridfaas up` still running?)",
                    self.url
                )
            }
            _ => DisplayErrorContext(&err).to_string(),
        };
        anyhow::anyhow!(reason).context(doing)
    }
}
