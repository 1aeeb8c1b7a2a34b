//! A function's reference data: `staging/**` on this node's disk, kept in step by version.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::layout;
use crate::store::{Listed, ObjectStore, StoreError};

/// The most objects under `staging/`.
const OBJECTS_MAX: usize = 100_000;

#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("failed to write staging data to `{path}`")]
    Disk {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error(
        "the objects under `staging/` have {bytes} bytes together, and this node takes at most {bytes_max}"
    )]
    TooLarge { bytes: u64, bytes_max: u64 },
    /// More than any listing of ours should hold in memory.
    #[error("there are more than {OBJECTS_MAX} objects under `staging/`")]
    TooMany,
    /// A key that no file can have beside the others: the hint is in the words.
    #[error("`{key}` cannot be a file of its own below /staging (rename it: {why})")]
    Key { key: String, why: &'static str },
}

/// Brings `staging/` of a bucket to disk and returns the folder to mount; `None` if there is nothing.
///
/// One folder holds one state of the whole prefix, named by its keys and versions: a container that runs keeps the
/// state it was started with, the next one gets the newest. Folders that are no container's are for [`sweep`].
pub async fn prepare(
    store: &dyn ObjectStore,
    bucket: &str,
    root: &Path,
    bytes_max: u64,
) -> Result<Option<PathBuf>, StagingError> {
    let objects = list_all(store, bucket).await?;
    if objects.is_empty() {
        return Ok(None);
    }
    let folder = root.join(fingerprint(bucket, &objects));
    if folder.is_dir() {
        return Ok(Some(folder));
    }
    let bytes = objects
        .iter()
        .fold(0u64, |sum, object| sum.saturating_add(object.size));
    if bytes > bytes_max {
        return Err(StagingError::TooLarge { bytes, bytes_max });
    }
    let disk = |path: &Path, err| StagingError::Disk {
        path: path.to_owned(),
        err,
    };
    let partial = folder.with_extension("partial");
    match std::fs::remove_dir_all(&partial) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(disk(&partial, err)),
        _ => {}
    }
    std::fs::create_dir_all(&partial).map_err(|err| disk(&partial, err))?;
    for object in &objects {
        let path = partial.join(relative(&object.key)?);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|_| StagingError::Key {
                key: object.key.clone(),
                why: "another key is a file where this one needs a folder",
            })?;
        }
        store.download(bucket, &object.key, &path, bytes_max).await?;
    }
    std::fs::rename(&partial, &folder).map_err(|err| disk(&folder, err))?;
    Ok(Some(folder))
}

/// Removes every state but those `in_use`.
pub fn sweep(root: &Path, in_use: &HashSet<PathBuf>) -> io::Result<()> {
    let entries = match std::fs::read_dir(root) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if !in_use.contains(&path) {
            std::fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

async fn list_all(store: &dyn ObjectStore, bucket: &str) -> Result<Vec<Listed>, StagingError> {
    let mut objects: Vec<Listed> = Vec::new();
    loop {
        let after = objects.last().map(|object| object.key.clone());
        let page = store
            .list(bucket, layout::STAGING, after.as_deref(), 1000)
            .await?;
        let done = page.len() < 1000;
        objects.extend(page);
        if objects.len() > OBJECTS_MAX {
            return Err(StagingError::TooMany);
        }
        if done {
            objects.retain(|object| !object.key.ends_with('/'));
            return Ok(objects);
        }
    }
}

fn fingerprint(bucket: &str, objects: &[Listed]) -> String {
    let mut text = format!("{bucket}\n");
    for object in objects {
        let _infallible = writeln!(text, "{:?} {}", object.key, object.etag);
    }
    hex::encode(Sha256::digest(text))
}

/// The path below the mount. A key with a `..`, an empty or an over-long part is refused rather than bent.
fn relative(key: &str) -> Result<PathBuf, StagingError> {
    let refuse = |why| StagingError::Key {
        key: key.to_owned(),
        why,
    };
    let path = key.strip_prefix(layout::STAGING).unwrap_or(key);
    let parts = Path::new(path).components();
    if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part.len() > 255 || part.contains('\0'))
        || parts.clone().any(|part| !matches!(part, Component::Normal(_)))
    {
        return Err(refuse(
            "a part of it is empty, `.`, `..` or longer than 255 bytes",
        ));
    }
    Ok(parts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_leaves_the_mount() {
        assert_eq!(relative("staging/a/b c.txt").unwrap(), Path::new("a/b c.txt"));
        for key in [
            "staging/../x",
            "staging//etc/passwd",
            "staging/a/../../x",
            "staging/a//b",
            "staging/./a",
        ] {
            assert!(relative(key).is_err(), "{key}");
        }
    }

    #[test]
    fn a_changed_object_makes_another_state() {
        let object = |etag: &str| Listed {
            key: "staging/a".to_owned(),
            etag: etag.to_owned(),
            size: 1,
        };
        assert_ne!(fingerprint("b", &[object("1")]), fingerprint("b", &[object("2")]));
        assert_eq!(fingerprint("b", &[object("1")]), fingerprint("b", &[object("1")]));
    }
}
