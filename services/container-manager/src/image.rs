//! Images: from an object under `utils/` to an unpacked folder, once for each digest.
//!
//! A container starts 30 to 40 ms sooner from a folder than from a `.sif`, and functions with the same image share it. Folders
//! that no container uses are removed when all of them together take too much of the disk, those used longest ago first.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use service_kit::Chain;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::container::{ApptainerTool, ContainerError};
use crate::store::{ObjectStore, StoreError};
use crate::utils::ImageObject;

/// What the names of folders begin with that are gone after a restart.
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
    /// Keeps the folder.
    pub lease: Lease,
}

/// While one of an image lives, its folder stays.
pub type Lease = Arc<()>;

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
    /// What all folders together may take, in bytes.
    all_bytes_max: u64,
    leases: StdMutex<HashMap<String, Weak<()>>>,
    /// One at a time: it is bound by the disk, and two functions may bring the same image.
    unpacking: Mutex<()>,
    /// One at a time, and nobody but another build waits for it: a definition may take its whole time limit.
    building: Mutex<()>,
}

impl Images {
    /// Removes what an earlier run was cut off at.
    pub fn new(
        root: PathBuf,
        tool: Arc<dyn ImageTool>,
        builds: bool,
        bytes_max: u64,
        all_bytes_max: u64,
    ) -> Self {
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_unfinished = name.as_encoded_bytes().starts_with(INCOMING.as_bytes())
                || Path::new(&name).extension().is_some_and(|end| end == "partial");
            if is_unfinished && let Err(err) = fs::remove_dir_all(entry.path()) {
                warn!(path = %entry.path().display(), error = %err, "a part of an image stays on disk");
            }
        }
        Self {
            root,
            tool,
            builds,
            bytes_max,
            all_bytes_max,
            leases: StdMutex::default(),
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
        if let Ok(digest) = fs::read_to_string(&version) {
            let image = self.image(digest);
            if image.folder.is_dir() {
                self.mark_used(&image.digest);
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
        fs::create_dir_all(&self.root).map_err(disk(&self.root))?;
        let incoming = tempfile::Builder::new().prefix(INCOMING).tempdir_in(&self.root);
        let incoming = incoming.map_err(disk(&self.root))?;
        let is_definition = object.key.ends_with(".def");
        let file = incoming
            .path()
            .join(if is_definition { "image.def" } else { "image.sif" });
        let fetched = store.download(bucket, &object.key, &file, self.bytes_max).await?;
        let fetched = fetched.ok_or_else(|| ImageError::Gone { key: key() })?;
        let image = self.image(fetched.sha256);
        if is_definition && !self.builds && !image.folder.is_dir() {
            return Err(ImageError::BuildsOff { key: key() });
        }
        let made = if is_definition {
            self.build(&file, &incoming.path().join("built.sif"), &image)
                .await
        } else {
            self.unpack(&file, &image).await
        };
        made.map_err(|err| ImageError::Broken { key: key(), err })?;
        self.mark_used(&image.digest);
        fs::write(version, &image.digest).map_err(disk(version))?;
        Ok(image)
    }

    /// Makes an image's folder of a definition, unless it is there by the time that this is first in line.
    async fn build(&self, definition: &Path, sif: &Path, image: &Image) -> Result<(), ContainerError> {
        let _one_at_a_time = self.building.lock().await;
        if !image.folder.is_dir() {
            self.tool.build(definition, sif).await?;
            self.unpack(sif, image).await?;
        }
        Ok(())
    }

    /// As [`Self::build`], of what is built already.
    async fn unpack(&self, sif: &Path, image: &Image) -> Result<(), ContainerError> {
        let _one_at_a_time = self.unpacking.lock().await;
        if !image.folder.is_dir() {
            self.tool.unpack(sif, &image.folder, self.bytes_max).await?;
            info!(digest = image.digest, "image prepared");
            self.evict().await;
        }
        Ok(())
    }

    /// From its own lease on, an image is not evicted.
    fn image(&self, digest: String) -> Image {
        Image {
            folder: self.root.join(&digest),
            lease: self.lease(&digest),
            digest,
        }
    }

    /// Keeps an image's folder, if there is one, for as long as what is returned lives.
    pub fn lease(&self, digest: &str) -> Lease {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let held = leases.get(digest).and_then(Weak::upgrade);
        held.unwrap_or_else(|| {
            let lease = Lease::default();
            leases.insert(digest.to_owned(), Arc::downgrade(&lease));
            lease
        })
    }

    /// A mark that cannot be made only makes the image look older than it is.
    fn mark_used(&self, digest: &str) {
        let _ = File::create(self.root.join(format!("{digest}.used")));
    }

    /// Removes folders until all together fit, or none is left that nobody uses.
    async fn evict(&self) {
        let root = self.root.clone();
        let found = tokio::task::spawn_blocking(move || folders(&root)).await;
        let mut found = match found.map_err(io::Error::other).flatten() {
            Ok(found) => found,
            Err(err) => return warn!(error = %Chain(&err), "images not counted, none is removed"),
        };
        found.sort_by_key(|folder| folder.used_at);
        let mut bytes: u64 = found.iter().map(|folder| folder.bytes).sum();
        for folder in found {
            if bytes <= self.all_bytes_max {
                return;
            }
            // Under the lock, so that nobody takes a lease meanwhile; removed afterwards, for that takes long.
            let away = {
                let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
                if leases
                    .get(&folder.digest)
                    .is_some_and(|lease| lease.strong_count() > 0)
                {
                    continue;
                }
                let away = tempfile::Builder::new().prefix(INCOMING).tempdir_in(&self.root);
                away.and_then(|away| {
                    fs::rename(self.root.join(&folder.digest), away.path().join("image"))?;
                    Ok(away)
                })
            };
            match away.and_then(|away| away.close()) {
                Ok(()) => {
                    info!(digest = folder.digest, bytes = folder.bytes, "image removed");
                    bytes = bytes.saturating_sub(folder.bytes);
                }
                Err(err) => warn!(digest = folder.digest, error = %Chain(&err), "image not removed"),
            }
        }
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

/// An unpacked image as it lies on the disk.
struct Folder {
    digest: String,
    bytes: u64,
    used_at: SystemTime,
}

fn folders(root: &Path) -> io::Result<Vec<Folder>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let Ok(digest) = entry.file_name().into_string() else {
            continue;
        };
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_digest || !entry.file_type()?.is_dir() {
            continue;
        }
        let used = fs::metadata(root.join(format!("{digest}.used")));
        found.push(Folder {
            used_at: used
                .and_then(|used| used.modified())
                .unwrap_or(SystemTime::UNIX_EPOCH),
            bytes: bytes_in(&entry.path())?,
            digest,
        });
    }
    Ok(found)
}

/// What a folder takes of the disk. Links are not followed.
fn bytes_in(folder: &Path) -> io::Result<u64> {
    let (mut bytes, mut folders) = (0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;
    use crate::store::fake::FakeStore;

    const BUCKET: &str = "stress";
    const MIB: u64 = 1 << 20;

    /// Makes a folder of one MiB of every image, and counts what it builds.
    #[derive(Default)]
    struct OneMib {
        built: AtomicUsize,
    }

    #[async_trait]
    impl ImageTool for OneMib {
        async fn unpack(&self, _sif: &Path, folder: &Path, _bytes_max: u64) -> Result<(), ContainerError> {
            let write = fs::create_dir(folder)
                .and_then(|()| fs::write(folder.join("file"), vec![1; usize::try_from(MIB).unwrap()]));
            write.map_err(|err| ContainerError::Disk {
                path: folder.to_owned(),
                err,
            })
        }

        async fn build(&self, _definition: &Path, _sif: &Path) -> Result<(), ContainerError> {
            self.built.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(())
        }
    }

    #[tokio::test]
    async fn one_definition_in_many_buckets_is_built_once() {
        let root = tempfile::tempdir().unwrap();
        let store = FakeStore::default();
        let tool = Arc::new(OneMib::default());
        let images = Images::new(root.path().join("images"), tool.clone(), true, MIB, 5 * MIB);
        let buckets: Vec<String> = (0..10).map(|number| format!("function{number}")).collect();
        let prepared = buckets.iter().map(async |bucket| {
            let key = "utils/base.def".to_owned();
            store.create_bucket(bucket);
            store.drop_object(bucket, &key, "Bootstrap: scratch");
            let etag = store.etag(bucket, &key).unwrap();
            let object = ImageObject { key, etag };
            images.prepare(&store, bucket, &object).await.unwrap().digest
        });
        let digests = join_all(prepared).await;
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
        assert_eq!(tool.built.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn images_used_longest_ago_go_when_there_are_too_many_and_those_in_use_stay() {
        let root = tempfile::tempdir().unwrap();
        let store = FakeStore::default();
        store.create_bucket(BUCKET);
        let images = Images::new(
            root.path().join("images"),
            Arc::new(OneMib::default()),
            false,
            MIB,
            5 * MIB / 2,
        );
        let prepare = async |name: &str| {
            let key = format!("utils/{name}.sif");
            if store.etag(BUCKET, &key).is_none() {
                store.drop_object(BUCKET, &key, name);
            }
            let etag = store.etag(BUCKET, &key).unwrap();
            let object = ImageObject { key, etag };
            // The kernel's file times move in steps.
            tokio::time::sleep(Duration::from_millis(20)).await;
            images.prepare(&store, BUCKET, &object).await.unwrap()
        };
        let a = prepare("a").await.folder;
        let Image {
            folder: b,
            lease: in_use,
            ..
        } = prepare("b").await;
        // Used later than the other, which a container uses.
        drop(prepare("a").await);
        let c = prepare("c").await.folder;
        assert_eq!((a.is_dir(), b.is_dir(), c.is_dir()), (false, true, true));
        drop(in_use);
        let d = prepare("d").await.folder;
        assert_eq!((b.is_dir(), c.is_dir(), d.is_dir()), (false, true, true));
        assert!(
            prepare("a").await.folder.is_dir(),
            "what is needed again comes again"
        );
    }
}
