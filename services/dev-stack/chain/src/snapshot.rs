//! The node on disk: one file, replaced whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use service_kit::file;

use crate::node::Node;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("failed to read the chain file `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("`{path}` is not a chain file (hint: move it away to begin with an empty chain)")]
    Corrupt {
        path: PathBuf,
        #[source]
        err: serde_json::Error,
    },
    #[error("failed to write the chain file `{path}`")]
    Write {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

/// Reads the node from its file; `None` if there is no such file.
pub(crate) fn load(path: &Path) -> Result<Option<Node>, SnapshotError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => {
            return Err(SnapshotError::Read {
                path: path.to_owned(),
                err,
            });
        }
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|err| SnapshotError::Corrupt {
            path: path.to_owned(),
            err,
        })
}

/// Writes the node to its file. After `Ok` it is there durably; whenever it is cut off, the file holds the old state or
/// the new one.
pub(crate) fn save(path: &Path, node: &Node) -> Result<(), SnapshotError> {
    let text = serde_json::to_vec(node).map_err(io::Error::from);
    text.and_then(|text| file::replace(path, 0o644, &text))
        .map_err(|err| SnapshotError::Write {
            path: path.to_owned(),
            err,
        })
}
