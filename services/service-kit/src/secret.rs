//! Secrets: read from files, never shown.

use std::fmt;
use std::path::{Path, PathBuf};

/// Text that `Debug` and logs do not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("failed to read the secret file `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("the secret file `{path}` is empty")]
    Empty { path: PathBuf },
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Reads a secret from the first line of a file.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let text = std::fs::read_to_string(path).map_err(|err| SecretError::Read {
            path: path.to_owned(),
            err,
        })?;
        match text.lines().next().map(str::trim) {
            None | Some("") => Err(SecretError::Empty {
                path: path.to_owned(),
            }),
            Some(line) => Ok(Self(line.to_owned())),
        }
    }

    /// The text itself, for the one place that has to send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
