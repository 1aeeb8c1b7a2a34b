//! A small, safe S3 server for one machine and for tests.
//!
//! Objects are flat: a key is data in an index and never part of a path, so every legal key works and none leaves its
//! bucket. What a request has been told is done survives a power cut; what was cut off leaves nothing behind.
//!
//! | Where | What |
//! |---|---|
//! | `server` | HTTP connections, graceful end |
//! | `auth` | signatures and access: a credential opens all buckets or some |
//! | `service` | S3 operations, as the `s3s` crate hands them over |
//! | `events` | telling clients what is created |
//! | `body`, `checksum` | a body on its way in, and the proof that it arrived whole |
//! | `objects`, `multipart`, `list` | what the index holds, and how it is shown |
//! | `index` | SQLite: one writer with group commit, many readers |
//! | `blobs` | the bytes of larger objects, one file each |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use service_kit::Clock;
use tokio::sync::broadcast;
use units::Timestamp;

mod auth;
mod blobs;
mod body;
mod checksum;
mod condition;
mod error;
mod events;
mod headers;
mod index;
mod list;
mod multipart;
mod objects;
mod read;
mod server;
mod service;
mod time;

pub use auth::{AccessKeys, Buckets, Credential, Unavailable};
pub use error::Error;
pub use server::serve;

use auth::Keyring;
use blobs::Blobs;
use index::Index;

/// Created objects that a slow subscriber may fall behind before it misses some.
const FEED_MAX: usize = 1024;

/// How to open a store.
pub struct StoreConfig {
    /// The folder of the store; made if it is missing. Only one store may use it at a time.
    pub root: PathBuf,
    pub credentials: Vec<Credential>,
    /// Keys beside those.
    pub access_keys: Option<Arc<dyn AccessKeys>>,
    /// The largest object that is taken, in bytes, whether it comes in one piece or in parts.
    pub object_bytes_max: i64,
    /// Tells when objects were modified.
    pub clock: Arc<dyn Clock>,
}

/// An S3 store on disk. [`serve`] shows it to clients.
pub struct Store {
    keyring: Arc<Keyring>,
    blobs: Blobs,
    index: Index,
    created: broadcast::Sender<Created>,
    object_bytes_max: i64,
    clock: Arc<dyn Clock>,
}

/// An object that was put, copied or completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    pub bucket: String,
    pub key: String,
}

impl StoreConfig {
    /// S3's own limit.
    pub const OBJECT_BYTES_MAX: i64 = 5 * 1024 * 1024 * 1024 * 1024;

    /// A store under `root` with the machine's clock and S3's limits.
    pub fn new(root: impl AsRef<Path>, credentials: Vec<Credential>) -> Self {
        Self {
            root: root.as_ref().to_owned(),
            credentials,
            access_keys: None,
            object_bytes_max: Self::OBJECT_BYTES_MAX,
            clock: Arc::new(service_kit::SystemClock),
        }
    }
}

impl Store {
    /// Opens the store under a folder, or makes a new one, and removes what was left by requests that were cut off.
    ///
    /// Fails if the folder cannot be used, or if another store uses it. Blocks for some file operations.
    pub fn open(config: StoreConfig) -> Result<Arc<Self>, Error> {
        let (created, _) = broadcast::channel(FEED_MAX);
        let blobs = Blobs::open(&config.root)?;
        let index = Index::open(&config.root, blobs.clone(), created.clone())?;
        Ok(Arc::new(Self {
            keyring: Arc::new(Keyring::new(config.credentials, config.access_keys)),
            blobs,
            index,
            created,
            object_bytes_max: config.object_bytes_max,
            clock: config.clock,
        }))
    }

    /// Objects created from now on. A hint, not a record: a subscriber that falls behind misses some, and a listing
    /// shows what is there.
    pub fn subscribe(&self) -> broadcast::Receiver<Created> {
        self.created.subscribe()
    }

    /// Replaces every credential of the store's own. Requests that have been let in go on.
    pub fn set_credentials(&self, credentials: Vec<Credential>) {
        self.keyring.set(credentials);
    }

    /// Removes the multipart uploads that began before an instant and were not completed since. Returns how many.
    pub async fn remove_stale_uploads(&self, initiated_before: Timestamp) -> Result<usize, Error> {
        self.index
            .write(move |change| multipart::abort_stale(change, initiated_before))
            .await
    }
}
