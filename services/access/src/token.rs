//! Tokens: 256 random bits that say who somebody is.
//!
//! Kept as SHA-256. A slow hash such as argon2 is for passwords, which can be guessed; nobody guesses 256 random bits,
//! so a fast one gives nothing away, and costs a request a microsecond.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use service_kit::secret::SecretError;
use service_kit::{Secret, file};
use sha2::{Digest as _, Sha256};

/// Lets people and scanners for leaked secrets tell what a text is.
const PREFIX: &str = "gridfaas_";

/// What is kept of a token, and sent where it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash([u8; 32]);

#[derive(Debug, thiserror::Error)]
#[error("is not the SHA-256 of a token: 32 bytes")]
pub struct InvalidHash;

impl TokenHash {
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What a token is called, where it cannot be shown.
    pub fn id(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl TryFrom<&[u8]> for TokenHash {
    type Error = InvalidHash;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidHash> {
        bytes.try_into().map(Self).map_err(|_| InvalidHash)
    }
}

impl TryFrom<String> for TokenHash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        Self::try_from(&*hex::decode(text).map_err(|_| InvalidHash)?)
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hex::encode(hash.0)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

/// A new token from the kernel's random numbers.
pub fn random() -> io::Result<Secret> {
    let mut bytes = [0; 32];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(Secret::new(format!("{PREFIX}{}", hex::encode(bytes))))
}

/// Puts a token into a file that only its owner may read, and nobody change.
pub fn write(path: &Path, token: &Secret) -> io::Result<()> {
    file::replace(path, 0o400, format!("{}\n", token.expose()).as_bytes())
}

/// A token in a file, read again when it may have changed.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    seen: Mutex<Option<(Instant, Secret)>>,
}

/// A token that was replaced is used for this long at most.
const REREAD: Duration = Duration::from_secs(1);

impl TokenFile {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            seen: Mutex::new(None),
        }
    }

    /// The token that is in the file, as of a second ago at most.
    pub fn token(&self) -> Result<Secret, SecretError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            Some((at, token)) if at.elapsed() < REREAD => Ok(token.clone()),
            _ => {
                let token = Secret::read(&self.path)?;
                *seen = Some((Instant::now(), token.clone()));
                Ok(token)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn tokens_differ_and_are_kept_as_what_cannot_be_turned_back() {
        let (one, two) = (random().unwrap(), random().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.expose().len(), PREFIX.len() + 64);
        let hash = TokenHash::of(one.expose());
        let kept = String::from(hash);
        assert!(!one.expose().contains(&kept) && !kept.contains(&one.expose()[PREFIX.len()..]));
        assert_eq!(TokenHash::try_from(kept).unwrap(), hash);
        assert!(TokenHash::try_from(&[0_u8; 31][..]).is_err());
    }

    #[test]
    fn a_token_file_is_for_its_owner_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator-token");
        for _again in 0..2 {
            let token = random().unwrap();
            write(&path, &token).unwrap();
            assert_eq!(TokenFile::new(path.clone()).token().unwrap(), token);
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
    }
}
