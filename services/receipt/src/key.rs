//! A node's key to its receipts: Ed25519, made at the first start, never leaving its file.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use service_kit::file;
use sha2::{Digest as _, Sha256};

/// What stands before an Ed25519 key's 32 bytes in DER (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("failed to read the signing key `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("failed to make the signing key `{path}`")]
    Make {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error(
        "`{path}` is not a signing key: {reason} (hint: restore it from a backup; without it, a new key is made)"
    )]
    Broken { path: PathBuf, reason: String },
    #[error("this is not an Ed25519 public key in PEM (hint: `gridfaas node key` prints one)")]
    NotPublic,
}

/// The secret half.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// The key in `path`, made there if it does not exist; only the file's owner may read it.
    pub fn read_or_make(path: &Path) -> Result<Self, KeyError> {
        let stored = match fs::read(path) {
            Ok(stored) => stored,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                make(path).map_err(|err| KeyError::Make {
                    path: path.to_owned(),
                    err,
                })?
            }
            Err(err) => {
                return Err(KeyError::Read {
                    path: path.to_owned(),
                    err,
                });
            }
        };
        Ed25519KeyPair::from_pkcs8(&stored)
            .map(Self)
            .map_err(|err| KeyError::Broken {
                path: path.to_owned(),
                reason: err.to_string(),
            })
    }

    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(crate) fn sign(&self, text: &[u8]) -> Vec<u8> {
        self.0.sign(text).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

/// A new key, on disk whole or not at all: two of them would make receipts that no longer verify.
fn make(path: &Path) -> io::Result<Vec<u8>> {
    let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|_| io::Error::other("the system has no randomness"))?;
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    file::replace(path, 0o600, made.as_ref())?;
    Ok(made.as_ref().to_vec())
}

/// The half that everybody may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// What the key is named by in receipts: the SHA-256 of its bytes, in hex.
    pub fn id(&self) -> String {
        hex::encode(Sha256::digest(self.0))
    }

    /// As OpenSSL reads it.
    pub fn to_pem(&self) -> String {
        let der = [&SPKI_PREFIX[..], &self.0].concat();
        format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(der))
    }

    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let body = text
            .trim()
            .strip_prefix(PEM_BEGIN)
            .and_then(|rest| rest.strip_suffix(PEM_END))
            .ok_or(KeyError::NotPublic)?;
        let packed: String = body.split_whitespace().collect();
        let der = STANDARD.decode(packed).map_err(|_| KeyError::NotPublic)?;
        let bytes = der.strip_prefix(&SPKI_PREFIX).ok_or(KeyError::NotPublic)?;
        bytes.try_into().map(Self).map_err(|_| KeyError::NotPublic)
    }

    pub(crate) fn signed(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(text, signature)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/key");
        let made = SigningKey::read_or_make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SigningKey::read_or_make(&path).unwrap().public(), made.public());
        fs::write(&path, "x").unwrap();
        let err = SigningKey::read_or_make(&path).unwrap_err();
        assert!(err.to_string().contains("is not a signing key"), "{err}");
    }

    #[test]
    fn a_public_key_survives_pem_and_anything_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::read_or_make(&folder.path().join("key"))
            .unwrap()
            .public();
        assert_eq!(PublicKey::from_pem(&key.to_pem()).unwrap(), key);
        assert_eq!(
            PublicKey::from_pem(&key.to_pem().replace('\n', "\r\n")).unwrap(),
            key
        );
        for text in [
            "",
            PEM_BEGIN,
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ] {
            assert!(PublicKey::from_pem(text).is_err(), "{text}");
        }
    }
}
