//! Users' keys to the embedded object store. The secret of a key follows from its name and one master secret, so no
//! secret of a user is kept anywhere.

use std::fmt;

use ring::hmac;
use service_kit::Secret;
use units::UserName;

const PREFIX: &str = "gf-";

/// What a user's access key is called: `gf-alice-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKey {
    pub user: UserName,
    /// Counts the keys of a user, from 1; only the newest opens anything.
    pub number: u32,
}

impl AccessKey {
    /// `None` for a name that no user's key has.
    pub fn parse(name: &str) -> Option<Self> {
        let (user, number) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
        let key = Self {
            user: user.parse().ok()?,
            number: number.parse().ok().filter(|number| *number > 0)?,
        };
        // `+1` and `01` are numbers too.
        (key.to_string() == name).then_some(key)
    }
}

impl fmt::Display for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-{}", self.user, self.number)
    }
}

/// Makes the secrets of access keys.
pub struct S3Secrets(hmac::Key);

impl S3Secrets {
    pub fn new(master: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, master.expose().as_bytes()))
    }

    pub fn secret(&self, key: &AccessKey) -> Secret {
        let tag = hmac::sign(&self.0, key.to_string().as_bytes());
        Secret::new(hex::encode(tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written_and_nothing_else_is() {
        for name in ["gf-alice-1", "gf-a-b-42"] {
            assert_eq!(AccessKey::parse(name).unwrap().to_string(), name);
        }
        for name in [
            "",
            "gf-",
            "gf-alice",
            "gf-alice-",
            "gf-alice-0",
            "gf-alice-01",
            "gf-alice-+1",
            "gf--1",
            "alice-1",
        ] {
            assert_eq!(AccessKey::parse(name), None, "{name}");
        }
    }

    #[test]
    fn every_key_has_a_secret_of_its_own() {
        let secrets = S3Secrets::new(&Secret::new("master"));
        let secret = |name| secrets.secret(&AccessKey::parse(name).unwrap());
        assert_eq!(secret("gf-alice-1"), secret("gf-alice-1"));
        assert_ne!(secret("gf-alice-1"), secret("gf-alice-2"));
        assert_ne!(secret("gf-alice-1"), secret("gf-bob-1"));
        assert_ne!(
            secret("gf-alice-1"),
            S3Secrets::new(&Secret::new("other")).secret(&AccessKey::parse("gf-alice-1").unwrap())
        );
    }
}
