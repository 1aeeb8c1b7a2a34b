//! Addresses of the test network: base58 with a checksum.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/// Test network, hash of a public key: such addresses begin with m or n. Addresses of the main network are refused.
const VERSION: u8 = 111;

/// An address of the test network, which is the 20-byte hash of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u8; 20]);

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an address of the test network")]
pub struct AddressError(String);

impl Address {
    pub const fn from_key_hash(hash: [u8; 20]) -> Self {
        Self(hash)
    }

    /// The hash as hexadecimal digits, as it stands in an output's script.
    pub(crate) fn key_hash_hex(self) -> String {
        hex::encode(self.0)
    }
}

fn checksum(data: &[u8]) -> [u8; 4] {
    let digest = Sha256::digest(Sha256::digest(data));
    [digest[0], digest[1], digest[2], digest[3]]
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend(self.0);
        bytes.extend(checksum(&bytes));
        // Digits of base 58, the last first. The version is not zero, so there are no leading zeros to keep.
        let mut digits: Vec<u32> = Vec::new();
        for byte in bytes {
            let mut carry = u32::from(byte);
            for digit in &mut digits {
                carry += *digit << 8;
                *digit = carry % 58;
                carry /= 58;
            }
            while carry > 0 {
                digits.push(carry % 58);
                carry /= 58;
            }
        }
        let letter = |digit: &u32| usize::try_from(*digit).ok().and_then(|d| ALPHABET.get(d));
        let text: String = digits
            .iter()
            .rev()
            .filter_map(letter)
            .map(|b| char::from(*b))
            .collect();
        f.pad(&text)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        decode(text).ok_or_else(|| AddressError(text.to_owned()))
    }
}

fn decode(text: &str) -> Option<Address> {
    let mut bytes = [0_u8; 25];
    for letter in text.bytes() {
        let mut carry = u32::try_from(ALPHABET.iter().position(|b| *b == letter)?).ok()?;
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            *byte = carry.to_be_bytes()[3];
            carry >>= 8;
        }
        if carry > 0 {
            return None;
        }
    }
    let (data, check) = bytes.split_at(21);
    let (version, hash) = data.split_first()?;
    (*version == VERSION && checksum(data) == *check)
        .then(|| hash.try_into().ok())
        .flatten()
        .map(Address)
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_the_daemon_made_carries_the_hash_the_daemon_printed() {
        let address: Address = "mxHcDPJuVziC7FHFtuw935nWgr6A1CiEQ4".parse().unwrap();
        assert_eq!(address.key_hash_hex(), "b7f3f7eda4416e84c5a7423004606208f9fdca49");
        assert_eq!(address.to_string(), "mxHcDPJuVziC7FHFtuw935nWgr6A1CiEQ4");
    }

    #[test]
    fn other_networks_typing_errors_and_nonsense_are_refused() {
        for text in [
            "S5Q2GDTMHxJfUPBFEjJwPuTzqkJCxM2Fqv",
            "mxHcDPJuVziC7FHFtuw935nWgr6A1CiEQ5",
            "notanaddress",
            "xx",
            "",
            "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(hash: [u8; 20]) {
            let address = Address::from_key_hash(hash);
            prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
    }
}
