//! Secrets: read from files, never shown.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
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
    #[error("the secret file `{path}` can be used by others than its owner (hint: chmod 600 {path})")]
    Open { path: PathBuf },
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Reads a secret from the first line of a file that only its owner may use.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let text = read_private(path)?;
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

/// Reads a file of secrets. Errors if others than its owner may read or change it.
pub fn read_private(path: &Path) -> Result<String, SecretError> {
    let unreadable = |err| SecretError::Read {
        path: path.to_owned(),
        err,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(SecretError::Open {
            path: path.to_owned(),
        });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn a_secret_is_the_first_line_of_a_file_that_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "secret\nmore\n").unwrap();
        for (mode, is_private) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o604, false),
            (0o620, false),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match Secret::read(&path) {
                Ok(secret) => assert!(is_private && secret.expose() == "secret", "{mode:o}"),
                Err(err) => {
                    assert!(!is_private, "{mode:o}: {err}");
                    assert!(!format!("{err:?}").contains("secret\""), "{err:?}");
                }
            }
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "\n").unwrap();
        assert!(matches!(Secret::read(&path), Err(SecretError::Empty { .. })));
    }
}
