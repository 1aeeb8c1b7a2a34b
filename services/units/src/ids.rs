//! Names people choose, and ids the platform makes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("`{0}` is not a user name (1 to 32 of a-z, 0-9 and -, beginning with a letter)")]
    User(String),
    #[error(
        "`{0}` is not a function name: it names a bucket, so 3 to 63 of a-z, 0-9, . and -, beginning and ending with a letter or digit"
    )]
    Function(String),
    #[error("`{0}` is not a node name (1 to 63 of a-z, A-Z, 0-9, . and -)")]
    Node(String),
    #[error("`{0}` is not a receiver's name (hint: 1 to 32 of a-z, 0-9 and -, beginning with a letter)")]
    Receiver(String),
    #[error("`{0}` is not an id")]
    Id(String),
}

/// Defines a validated text name.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $error:path, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) { Ok(Self(text)) } else { Err($error(text)) }
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

fn is_plain(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_bucket(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (3..=63).contains(&text.len())
        && text.starts_with(edge)
        && text.ends_with(edge)
        && !text.contains("..")
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

fn is_node(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

name!(
    /// A user of the platform: the owner of a wallet account and of functions.
    UserName, NameError::User, is_plain
);
name!(
    /// Somebody who earns a share of what users are charged.
    ReceiverName, NameError::Receiver, is_plain
);
name!(
    /// A function, which is a bucket: both have the same name.
    FunctionName, NameError::Function, is_bucket
);
name!(
    /// A machine that runs containers.
    NodeId, NameError::Node, is_node
);

/// Defines an id made by the platform: a version 7 UUID, so ids sort by the time they were made.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            #[expect(clippy::new_without_default, reason = "an id is made on purpose, never by default")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Uuid::try_parse(text).map(Self).map_err(|_| NameError::Id(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// One input object, to be processed once, over all its attempts.
    TaskId
);
impl TaskId {
    /// An id as old as this one, with these bits in the place of the random ones.
    pub fn derived(self, bits: [u8; 10]) -> Self {
        let mut bytes = *self.0.as_bytes();
        bytes[6..].copy_from_slice(&bits);
        // The version and the variant, which stand among them.
        bytes[6] = (bytes[6] & 0x0f) | 0x70;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(Uuid::from_bytes(bytes))
    }
}

id!(
    /// One attempt's right to charge an account. Also the name of the attempt's cgroup, so its meter only grows.
    SessionId
);
id!(
    /// One container's life. Never reused.
    ContainerId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_their_users_can_hold() {
        for (text, user, function) in [
            ("alice", true, true),
            ("al", true, false),
            ("a-1", true, true),
            ("1a2", false, true),
            ("my.func", false, true),
            ("my..func", false, false),
            ("-ab", false, false),
            ("ab-", true, false),
            ("Alice", false, false),
            ("../etc", false, false),
            ("", false, false),
        ] {
            assert_eq!(text.parse::<UserName>().is_ok(), user, "user {text}");
            assert_eq!(text.parse::<FunctionName>().is_ok(), function, "function {text}");
        }
    }

    #[test]
    fn ids_are_read_back_and_sort_by_age() {
        let (first, second) = (TaskId::new(), TaskId::new());
        assert_eq!(first.to_string().parse(), Ok(first));
        assert!(first < second);
        assert!("task-1".parse::<TaskId>().is_err());
    }

    #[test]
    fn a_derived_id_is_as_old_as_its_source_and_still_an_id() {
        let source = TaskId::new();
        let (zeros, ones) = (source.derived([0; 10]), source.derived([0xff; 10]));
        assert!(zeros < ones && zeros != source);
        for derived in [zeros, ones] {
            assert_eq!(derived.to_string()[..13], source.to_string()[..13]);
            assert_eq!(derived.0.get_version_num(), 7);
            assert_eq!(derived.0.get_variant(), uuid::Variant::RFC4122);
        }
    }
}
