//! Images: from an object under `utils/` to an unpacked folder, once for each digest.
//!
//! A container starts 30 to 40 ms sooner from a folder than from a `.sif`, and functions with the same image share it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::container::{ApptainerTool, ContainerError};
use crate::store::{ObjectStore, StoreError};
use crate::utils::ImageObject;

/// What the names of folders for downloads begin with.
const INCOMING: &str = ".tmp";
/// Packages are fetched and unpacked meanwhile.
const BUILD_TIMEOUT: Duration = Duration::from_secs(900);

/// Turns image files into folders.
#[async_trait]
pub trait ImageTool: Send + Sync + 'static {
    /// Unpacks a `.sif` into `folder`, which is whole when it appears and holds at most `bytes_max`.
    async fn unpack(&self, sif: &Path, folder: &Path, bytes_max: u64) -> Result<(), ContainerError>;

    /// Builds a `.sif` from a definition, which runs the commands in it.
    async fn build(&self, definition: &Path, sif: &Path) -> Result<(), ContainerError>;
}

#[async_trait]
impl ImageTool for ApptainerTool {
    async fn unpack(&self, sif: &Path, folder: &Path, bytes_max: u64) -> Result<(), ContainerError> {
        Self::unpack(self, sif, folder, bytes_max).await
    }

    async fn build(&self, definition: &Path, sif: &Path) -> Result<(), ContainerError> {
        Self::build(self, definition, sif, BUILD_TIMEOUT).await
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub folder: PathBuf,
    /// SHA-256 of the object, in hex.
    pub digest: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("`{key}` is gone")]
    Gone { key: String },
    #[error("`{key}` cannot be used as an image")]
    Broken {
        key: String,
        #[source]
        err: ContainerError,
    },
    #[error("`{key}` is a definition, and this platform does not build definitions")]
    BuildsOff { key: String },
    #[error("failed to keep an image at `{path}`")]
    Disk {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

impl ImageError {
    /// Whether trying the same object again can help. A broken image stays broken until it is replaced.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(err) => err.is_transient(),
            Self::Disk { .. } => true,
            Self::Gone { .. } | Self::Broken { .. } | Self::BuildsOff { .. } => false,
        }
    }
}

/// The node's unpacked images.
pub struct Images {
    root: PathBuf,
    tool: Arc<dyn ImageTool>,
    builds: bool,
    /// Of one image, packed or unpacked.
    bytes_max: u64,
    /// One at a time: it is bound by the disk, and two functions may bring the same image.
    unpacking: Mutex<()>,
    /// One at a time, and nobody but another build waits for it: a definition may take its whole time limit.
    building: Mutex<()>,
}

impl Images {
    /// Removes what an earlier run was cut off at.
    pub fn new(root: PathBuf, tool: Arc<dyn ImageTool>, builds: bool, bytes_max: u64) -> Self {
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_unfinished = name.as_encoded_bytes().starts_with(INCOMING.as_bytes())
                || Path::new(&name).extension().is_some_and(|end| end == "partial");
            if is_unfinished && let Err(err) = std::fs::remove_dir_all(entry.path()) {
                warn!(path = %entry.path().display(), error = %err, "a part of an image stays on disk");
            }
        }
        Self {
            root,
            tool,
            builds,
            bytes_max,
            unpacking: Mutex::new(()),
            building: Mutex::new(()),
        }
    }

    /// The folder of an image object in the version given, prepared if it is not there yet.
    pub async fn prepare(
        &self,
        store: &dyn ObjectStore,
        bucket: &str,
        object: &ImageObject,
    ) -> Result<Image, ImageError> {
        let version = self.version_file(bucket, object);
        if let Ok(digest) = std::fs::read_to_string(&version) {
            let image = Image {
                folder: self.root.join(&digest),
                digest,
            };
            if image.folder.is_dir() {
                return Ok(image);
            }
        }
        self.fetch(store, bucket, object, &version).await
    }

    async fn fetch(
        &self,
        store: &dyn ObjectStore,
        bucket: &str,
        object: &ImageObject,
        version: &Path,
    ) -> Result<Image, ImageError> {
        let key = || object.key.clone();
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |err| ImageError::Disk { path, err }
        };
        std::fs::create_dir_all(&self.root).map_err(disk(&self.root))?;
        let incoming = tempfile::Builder::new().prefix(INCOMING).tempdir_in(&self.root);
        let incoming = incoming.map_err(disk(&self.root))?;
        let is_definition = object.key.ends_with(".def");
        let file = incoming
            .path()
            .join(if is_definition { "image.def" } else { "image.sif" });
        let fetched = store.download(bucket, &object.key, &file, self.bytes_max).await?;
        let fetched = fetched.ok_or_else(|| ImageError::Gone { key: key() })?;
        let image = Image {
            folder: self.root.join(&fetched.sha256),
            digest: fetched.sha256,
        };
        if !image.folder.is_dir() {
            let broken = |err| ImageError::Broken { key: key(), err };
            let sif = if is_definition {
                if !self.builds {
                    return Err(ImageError::BuildsOff { key: key() });
                }
                let built = incoming.path().join("built.sif");
                let _one_at_a_time = self.building.lock().await;
                self.tool.build(&file, &built).await.map_err(broken)?;
                built
            } else {
                file
            };
            let _one_at_a_time = self.unpacking.lock().await;
            if !image.folder.is_dir() {
                let unpacked = self.tool.unpack(&sif, &image.folder, self.bytes_max);
                unpacked.await.map_err(broken)?;
                info!(bucket, key = object.key, digest = image.digest, "image prepared");
            }
        }
        std::fs::write(version, &image.digest).map_err(disk(version))?;
        Ok(image)
    }

    /// Remembers which digest a version of an object has, so that a restart does not download it again.
    fn version_file(&self, bucket: &str, object: &ImageObject) -> PathBuf {
        let name = hex::encode(Sha256::digest(format!(
            "{bucket}\n{}\n{}",
            object.key, object.etag
        )));
        self.root.join(format!("{name}.version"))
    }
}
