//! 256-bit hashes, as blocks and transactions are named.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// The name of a block or a transaction: 64 hexadecimal digits.
///
/// The bytes are kept in the daemon's order, which is the printed one backwards, so that hashes sort here as they sort
/// in the daemon's lists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash256([u8; 32]);

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a hash of 64 hexadecimal digits")]
pub struct HashError(String);

impl Hash256 {
    pub const ZERO: Self = Self([0; 32]);

    /// A hash from its bytes in printed order.
    pub const fn from_printed(mut bytes: [u8; 32]) -> Self {
        bytes.reverse();
        Self(bytes)
    }

    /// The bytes in printed order.
    pub const fn printed(mut self) -> [u8; 32] {
        self.0.reverse();
        self.0
    }

    /// The SHA-256 of `parts`, each ended by its length so that no two lists of parts run together.
    pub fn digest(parts: &[&[u8]]) -> Self {
        let mut sha = Sha256::new();
        for part in parts {
            sha.update(part);
            sha.update(part.len().to_be_bytes());
        }
        Self(sha.finalize().into())
    }
}

impl fmt::Display for Hash256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.printed().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash256 {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let bad = || HashError(text.to_owned());
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self::from_printed(bytes))
    }
}

impl Serialize for Hash256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_back_and_sort_by_their_last_digits() {
        let (a, b) = (format!("{:0>64}", "1"), format!("{:0<64}", "f"));
        let hash = |text: &str| text.parse::<Hash256>().unwrap();
        assert_eq!(hash(&a).to_string(), a);
        assert!(hash(&a) > hash(&b));
        assert!("12".parse::<Hash256>().is_err());
        assert!("+f".repeat(32).parse::<Hash256>().is_err());
    }
}
