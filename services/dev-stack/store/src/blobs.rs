//! The bytes of objects too large for the index, one file each, named by an id of ours and never by a key.
//!
//! A file is complete and on disk before the index row that names it is committed, and is removed only after the row
//! that named it is gone. So a crash leaves files that nothing names, never names without a file; the next start
//! sweeps them.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Result};

#[derive(Clone)]
pub(crate) struct Blobs {
    dir: Arc<Path>,
}

/// A file that removes itself unless it is kept, so a request that fails or is dropped leaves nothing behind.
pub(crate) struct NewBlob {
    path: PathBuf,
    name: String,
    kept: bool,
}

impl Blobs {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let dir = root.join("blobs");
        fs::create_dir_all(&dir).map_err(|err| Error::File {
            path: dir.clone(),
            err,
        })?;
        Ok(Self { dir: dir.into() })
    }

    /// An empty file under a name never used before.
    pub(crate) fn create(&self) -> Result<(NewBlob, File)> {
        let name = Uuid::now_v7().simple().to_string();
        let path = self.dir.join(&name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => Ok((
                NewBlob {
                    path,
                    name,
                    kept: false,
                },
                file,
            )),
            Err(err) => Err(Error::File { path, err }),
        }
    }

    /// Returns once the file and its name survive a power cut.
    pub(crate) fn sync(&self, blob: &NewBlob, file: &File) -> Result<()> {
        file.sync_all().map_err(|err| blob.failed(err))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|err| Error::File {
                path: self.dir.to_path_buf(),
                err,
            })
    }

    /// `None` if there is no such file: its object was replaced or deleted since the caller read the index.
    pub(crate) fn find(&self, name: &str) -> Result<Option<File>> {
        let path = self.dir.join(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(Error::File { path, err }),
        }
    }

    /// A file that cannot be removed wastes space but harms nothing, and the next start tries again.
    pub(crate) fn remove(&self, name: &str) {
        if let Err(err) = fs::remove_file(self.dir.join(name)) {
            tracing::warn!(error = %err, blob = name, "failed to remove the bytes of a deleted object");
        }
    }

    /// Removes every file that `named` does not hold, and says how many there were.
    pub(crate) fn sweep(&self, named: &HashSet<String>) -> Result<usize> {
        let failed = |err| Error::File {
            path: self.dir.to_path_buf(),
            err,
        };
        let mut removed = 0;
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry
                .file_name()
                .to_str()
                .is_some_and(|name| named.contains(name))
            {
                continue;
            }
            fs::remove_file(entry.path()).map_err(|err| Error::File {
                path: entry.path(),
                err,
            })?;
            removed += 1;
        }
        Ok(removed)
    }
}

impl NewBlob {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn keep(mut self) {
        self.kept = true;
    }

    pub(crate) fn failed(&self, err: io::Error) -> Error {
        Error::File {
            path: self.path.clone(),
            err,
        }
    }
}

impl Drop for NewBlob {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing can be done here about a failure; the next start sweeps the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_is_not_kept_leaves_no_file() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        let (dropped, _) = blobs.create().unwrap();
        let (kept, _) = blobs.create().unwrap();
        let (dropped_name, kept_name) = (dropped.name().to_owned(), kept.name().to_owned());
        drop(dropped);
        kept.keep();
        assert!(blobs.find(&dropped_name).unwrap().is_none());
        assert!(blobs.find(&kept_name).unwrap().is_some());
    }

    #[test]
    fn a_sweep_removes_what_the_index_does_not_name() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        let names = [(); 3].map(|()| {
            let (blob, _) = blobs.create().unwrap();
            let name = blob.name().to_owned();
            blob.keep();
            name
        });
        assert_eq!(blobs.sweep(&HashSet::from([names[1].clone()])).unwrap(), 2);
        assert_eq!(
            names.map(|name| blobs.find(&name).unwrap().is_some()),
            [false, true, false]
        );
    }
}
