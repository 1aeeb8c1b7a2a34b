//! Keys and passwords of a stack: made once, at its first start, and kept in files that only their owner may read.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use service_kit::secret::{self, SecretError};
use service_kit::{Secret, file};

/// container-manager's key to the store; its secret is in a file of its own.
pub(crate) const NODE_ACCESS_KEY: &str = "gridfaas-node";
/// Who credit-manager is to the development chain.
pub(crate) const CHAIN_RPC_USER: &str = "gridcoinrpc";

#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error("failed to make the folder `{path}`")]
    Folder {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("failed to make a secret in `{path}`")]
    Make {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("`{path}` has no `{key}` (hint: it must be an AWS shared credentials file)")]
    MissingKey { path: PathBuf, key: &'static str },
}

/// An access key of an S3 store and its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Credentials {
    pub access_key: String,
    pub secret_key: Secret,
}

impl S3Credentials {
    /// Reads an AWS shared credentials file; the first of a key counts, whatever its profile.
    pub fn read(path: &Path) -> Result<Self, SecretsError> {
        let text = secret::read_private(path)?;
        let value = |key: &'static str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| name.trim() == key)
                .map(|(_, value)| value.trim().to_owned())
                .ok_or_else(|| SecretsError::MissingKey {
                    path: path.to_owned(),
                    key,
                })
        };
        Ok(Self {
            access_key: value("aws_access_key_id")?,
            secret_key: Secret::new(value("aws_secret_access_key")?),
        })
    }

    /// How a client with this key speaks to the store at `url`.
    pub fn client_config(&self, url: impl Into<String>) -> aws_sdk_s3::config::Builder {
        let http_client = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http_client)
            .endpoint_url(url)
            // Buckets are part of the path: a store on one machine has no name service for them.
            .force_path_style(true)
            .region(Region::from_static("us-east-1"))
            .credentials_provider(Credentials::new(
                &self.access_key,
                self.secret_key.expose(),
                None,
                None,
                "gridfaas",
            ))
    }

    /// Writes an AWS shared credentials file, for its owner only.
    pub fn write(&self, path: &Path) -> Result<(), SecretsError> {
        file::replace(path, 0o600, self.text().as_bytes()).map_err(|err| SecretsError::Make {
            path: path.to_owned(),
            err,
        })
    }

    fn text(&self) -> String {
        format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            self.access_key,
            self.secret_key.expose()
        )
    }

    /// The credentials in `path`, made there if it does not exist.
    pub fn read_or_make(path: &Path) -> Result<Self, SecretsError> {
        make_once(path, || {
            let made = Self {
                access_key: format!("GF{}", random_hex::<8>()?.to_uppercase()),
                secret_key: Secret::new(random_hex::<20>()?),
            };
            Ok(made.text())
        })?;
        Self::read(path)
    }
}

/// The secrets of a stack, and the files they are in.
pub(crate) struct Keys {
    pub(crate) s3_credentials_file: PathBuf,
    /// For people and their clients.
    pub(crate) s3_credentials: S3Credentials,
    /// Users' keys to the store follow from what is in it.
    pub(crate) s3_master_key_file: PathBuf,
    pub(crate) s3_master_key: Secret,
    pub(crate) node_secret_file: PathBuf,
    pub(crate) node_secret: Secret,
    pub(crate) chain_password_file: PathBuf,
    pub(crate) chain_password: Secret,
}

impl Keys {
    /// The keys of the stack on a data folder, made at its first start.
    pub(crate) fn read_or_make(data_dir: &Path) -> Result<Self, SecretsError> {
        let folder = data_dir.join("secrets");
        make_private_folder(&folder)?;
        let s3_credentials_file = folder.join("s3-credentials");
        let s3_master_key_file = folder.join("s3-master-key");
        let node_secret_file = folder.join("node-s3-secret");
        let chain_password_file = folder.join("chain-password");
        Ok(Self {
            s3_credentials: S3Credentials::read_or_make(&s3_credentials_file)?,
            s3_master_key: read_or_make_password(&s3_master_key_file)?,
            s3_master_key_file,
            node_secret: read_or_make_password(&node_secret_file)?,
            chain_password: read_or_make_password(&chain_password_file)?,
            s3_credentials_file,
            node_secret_file,
            chain_password_file,
        })
    }
}

/// An id for the stack on a data folder, that no other stack of the machine has.
pub(crate) fn read_or_make_id(data_dir: &Path) -> Result<String, SecretsError> {
    let path = data_dir.join("id");
    make_once(&path, || Ok(random_hex::<4>()? + "\n"))?;
    Ok(Secret::read(&path)?.expose().to_owned())
}

/// The password in `path`, on one line, made there if it does not exist.
fn read_or_make_password(path: &Path) -> Result<Secret, SecretsError> {
    make_once(path, || Ok(random_hex::<20>()? + "\n"))?;
    Ok(Secret::read(path)?)
}

/// Makes a folder, and what it is in, that nobody but its owner may enter.
pub(crate) fn make_private_folder(path: &Path) -> Result<(), SecretsError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|err| SecretsError::Folder {
            path: path.to_owned(),
            err,
        })
}

fn make_once(path: &Path, content: impl FnOnce() -> io::Result<String>) -> Result<(), SecretsError> {
    if path.exists() {
        return Ok(());
    }
    content()
        .and_then(|content| file::replace(path, 0o600, content.as_bytes()))
        .map_err(|err| SecretsError::Make {
            path: path.to_owned(),
            err,
        })
}

/// `BYTES` random bytes of the kernel, as lower-case hexadecimal digits.
fn random_hex<const BYTES: usize>() -> io::Result<String> {
    let mut bytes = [0; BYTES];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    assert_eq!(filled, BYTES, "up to 256 bytes come at once");
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_second_start_finds_the_keys_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s3-credentials");
        let made = S3Credentials::read_or_make(&path).unwrap();
        assert_eq!(S3Credentials::read_or_make(&path).unwrap(), made);
        let other = S3Credentials::read_or_make(&folder.path().join("other")).unwrap();
        assert_ne!(other.access_key, made.access_key);
    }

    #[test]
    fn a_file_without_a_key_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "[default]\naws_access_key_id = x\n").unwrap();
        let err = S3Credentials::read(file.path()).unwrap_err();
        assert!(err.to_string().contains("aws_secret_access_key"), "{err}");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let credentials = S3Credentials {
            access_key: "key".to_owned(),
            secret_key: Secret::new("hidden-text"),
        };
        assert!(!format!("{credentials:?}").contains("hidden-text"));
    }
}
