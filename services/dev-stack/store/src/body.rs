//! Takes in the body of an object: small ones to memory, from where they go into the index, larger ones to a blob.

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use crate::blobs::{Blobs, NewBlob};
use crate::checksum::{Checksums, Claims, Digest};
use crate::error::{Error, Result};

/// Up to here bytes live in the index: one flush instead of three, and no file to open for a read.
const INLINE_BYTES_MAX: usize = 16 * 1024;
/// Bytes handed to the disk at once. Every upload under way holds as many, twice.
const WRITE_BYTES: usize = 256 * 1024;

/// Bytes that are stored, but not yet named by the index.
pub(crate) enum Payload {
    Inline(Vec<u8>),
    Blob(NewBlob),
}

pub(crate) struct Body {
    pub(crate) payload: Payload,
    /// In bytes.
    pub(crate) size: i64,
    pub(crate) md5: [u8; 16],
    pub(crate) checksums: Checksums,
}

/// Reads a body of at most `bytes_max` bytes. After `Ok` a blob is on disk; after `Err` it is gone.
pub(crate) async fn receive<S>(blobs: &Blobs, stream: S, claims: Claims, bytes_max: i64) -> Result<Body>
where
    S: Stream<Item = Result<Bytes>>,
{
    if claims.length.is_some_and(|length| length > bytes_max) {
        return Err(Error::TooLarge { bytes_max });
    }
    let mut digest = Digest::new(claims)?;
    let mut sink = Sink::Memory(Vec::new());
    let mut stream = std::pin::pin!(stream);
    while let Some(bytes) = stream.try_next().await? {
        digest.update(&bytes);
        if digest.length() > bytes_max {
            return Err(Error::TooLarge { bytes_max });
        }
        sink = sink.write(blobs, &bytes).await?;
    }
    let size = digest.length();
    // Before the flush: a body that is refused need not reach the disk.
    let (md5, checksums) = digest.finish()?;
    let payload = sink.finish(blobs).await?;
    Ok(Body {
        payload,
        size,
        md5,
        checksums,
    })
}

enum Sink {
    Memory(Vec<u8>),
    Disk(NewBlob, BufWriter<File>),
}

impl Sink {
    async fn write(self, blobs: &Blobs, bytes: &[u8]) -> Result<Self> {
        match self {
            Self::Memory(mut held) => {
                held.extend_from_slice(bytes);
                if held.len() <= INLINE_BYTES_MAX {
                    return Ok(Self::Memory(held));
                }
                let (blob, file) = blobs.create()?;
                let file = BufWriter::with_capacity(WRITE_BYTES, File::from_std(file));
                Box::pin(Self::Disk(blob, file).write(blobs, &held)).await
            }
            Self::Disk(blob, mut file) => {
                file.write_all(bytes).await.map_err(|err| blob.failed(err))?;
                Ok(Self::Disk(blob, file))
            }
        }
    }

    async fn finish(self, blobs: &Blobs) -> Result<Payload> {
        match self {
            Self::Memory(bytes) => Ok(Payload::Inline(bytes)),
            Self::Disk(blob, mut file) => {
                file.flush().await.map_err(|err| blob.failed(err))?;
                let file = file.into_inner().into_std().await;
                let blobs = blobs.clone();
                let sync = move || blobs.sync(&blob, &file).map(|()| Payload::Blob(blob));
                tokio::task::spawn_blocking(sync)
                    .await
                    .map_err(|_| Error::Stopped)?
            }
        }
    }
}
