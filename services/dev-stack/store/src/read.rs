//! Opens the bytes of an object, or of a range of it, as one consistent whole.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, future, stream};
use rusqlite::Connection;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use crate::Store;
use crate::error::{Error, Result};
use crate::multipart::Part;
use crate::objects::{self, ContentId, Object, Stored};

/// Bytes taken from the disk at once.
const READ_BYTES: usize = 256 * 1024;

/// Bytes that stay as they are while they are read, even if their object is replaced or deleted meanwhile.
pub(crate) enum Source {
    Inline(Bytes),
    File(File),
}

impl Store {
    /// Finds an object and opens its bytes.
    pub(crate) async fn open_object(&self, bucket: &str, key: &str) -> Result<(Object, Source)> {
        let mut missed = None;
        loop {
            let (bucket, key, blobs) = (bucket.to_owned(), key.to_owned(), self.blobs.clone());
            let open = move |conn: &Connection| {
                let object = objects::get(conn, &bucket, &key)?;
                let source = Source::open(&blobs, objects::stored(conn, object.content)?)?;
                Ok((object, source))
            };
            let (object, source) = self.index.read(open).await?;
            match source {
                Some(source) => return Ok((object, source)),
                // Replaced or deleted between the look at the index and the look at the disk: look again.
                None if missed != Some(object.content) => missed = Some(object.content),
                None => return Err(Error::Lost(object.content.0)),
            }
        }
    }

    /// The bytes of several parts, one after the other.
    pub(crate) fn joined(&self, parts: &[Part]) -> impl Stream<Item = Result<Bytes>> + Send + use<'_> {
        let sizes: Vec<_> = parts.iter().map(|part| (part.content, part.size)).collect();
        stream::iter(sizes)
            .then(|(content, size)| self.open_content(content, size))
            .try_flatten()
    }

    async fn open_content(
        &self,
        content: ContentId,
        size: i64,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let blobs = self.blobs.clone();
        let open = move |conn: &Connection| Source::open(&blobs, objects::stored(conn, content)?);
        let source = self.index.read(open).await?.ok_or(Error::Lost(content.0))?;
        Ok(source.stream(0..u64::try_from(size).unwrap_or(0)))
    }
}

impl Source {
    fn open(blobs: &crate::blobs::Blobs, stored: Stored) -> Result<Option<Self>> {
        match stored {
            Stored::Inline(bytes) => Ok(Some(Self::Inline(bytes.into()))),
            Stored::Blob(name) => Ok(blobs.find(&name)?.map(Self::File)),
        }
    }

    /// The bytes of a range that lies within the object.
    pub(crate) fn stream(
        self,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes>> + Send + Sync + 'static {
        match self {
            Self::Inline(bytes) => {
                let bound = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                let bytes = bytes.slice(bound(range.start)..bound(range.end));
                stream::once(future::ready(Ok(bytes))).left_stream()
            }
            Self::File(mut file) => {
                let read = file.seek(SeekFrom::Start(range.start)).map(|_| {
                    let file = tokio::fs::File::from_std(file);
                    ReaderStream::with_capacity(file.take(range.end - range.start), READ_BYTES)
                });
                stream::once(future::ready(read))
                    .try_flatten()
                    .map_err(Error::Read)
                    .right_stream()
            }
        }
    }
}
