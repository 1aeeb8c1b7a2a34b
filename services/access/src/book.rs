//! The tokens there are, and the S3 keys: in memory, and in one file of credit-manager's.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use service_kit::{Chain, Secret, file};
use tonic::Status;
use units::{Timestamp, UserName};

use crate::caller::Caller;
use crate::token::{self, TokenHash};

const FILE: &str = "access.json";
/// For whoever runs the platform from this machine: new at every start.
pub const OPERATOR_TOKEN: &str = "operator-token";
/// For the container-managers of this machine: kept over restarts, so that they need not wait for it.
pub const NODE_TOKEN: &str = "node-token";

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    #[serde(flatten)]
    pub caller: Caller,
    /// For people: what it is used for.
    pub label: String,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    tokens: BTreeMap<TokenHash, Token>,
    /// How often each user's S3 key was made anew: the older ones open nothing.
    s3_keys: BTreeMap<UserName, u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum BookError {
    #[error("failed to read the tokens in `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("failed to write `{path}`")]
    Write {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("there is no token `{0}` (hint: `gridfaas token list` shows what there is)")]
    UnknownToken(String),
    #[error("an S3 key of {0} was made anew too often")]
    TooManyKeys(UserName),
}

impl From<BookError> for Status {
    fn from(err: BookError) -> Self {
        let message = Chain(&err).to_string();
        match err {
            BookError::UnknownToken(_) => Self::not_found(message),
            BookError::TooManyKeys(_) => Self::resource_exhausted(message),
            BookError::Read { .. } | BookError::Write { .. } => Self::unavailable(message),
        }
    }
}

/// Every token that opens something. What is changed is on disk before anybody is told.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    /// The tokens that are in files of this machine.
    local: BTreeMap<TokenHash, Caller>,
    entries: RwLock<Entries>,
    /// One change at a time.
    writing: Mutex<()>,
}

impl Book {
    /// Reads the tokens of a folder, and makes those of this machine in it: an operator's, new at every start, and a
    /// node's unless nodes show certificates.
    pub fn open(folder: &Path, nodes_have_certificates: bool) -> Result<Self, BookError> {
        let path = folder.join(FILE);
        let entries = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Entries::default()),
            Err(err) => Err(err),
        };
        let entries = entries.map_err(|err| BookError::Read {
            path: path.clone(),
            err,
        })?;
        let mut local = BTreeMap::new();
        let operator = make(&folder.join(OPERATOR_TOKEN))?;
        local.insert(TokenHash::of(operator.expose()), Caller::Operator);
        let node = folder.join(NODE_TOKEN);
        if nodes_have_certificates {
            remove(&node)?;
        } else {
            let token = Secret::read(&node).or_else(|_| make(&node))?;
            local.insert(TokenHash::of(token.expose()), Caller::Node(None));
        }
        Ok(Self {
            path,
            local,
            entries: RwLock::new(entries),
            writing: Mutex::new(()),
        })
    }

    /// Whose token it is; `None` if it is unknown, was revoked or has expired.
    pub fn identify(&self, hash: &TokenHash, now: Timestamp) -> Option<Caller> {
        if let Some(caller) = self.local.get(hash) {
            return Some(caller.clone());
        }
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let token = entries.tokens.get(hash)?;
        (now < token.expires_at).then(|| token.caller.clone())
    }

    /// A new token: the secret, which is kept nowhere, and what it is called. Waits for the disk.
    pub fn create(&self, token: Token) -> Result<(Secret, TokenHash), BookError> {
        let secret = token::random().map_err(|err| self.failed(err))?;
        let hash = TokenHash::of(secret.expose());
        let now = token.created_at;
        self.change(|entries| {
            entries.tokens.retain(|_, token| now < token.expires_at);
            entries.tokens.insert(hash, token);
            Ok(())
        })?;
        Ok((secret, hash))
    }

    /// The tokens that open something now.
    pub fn tokens(&self, now: Timestamp) -> Vec<(TokenHash, Token)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let live = entries.tokens.iter().filter(|(_, token)| now < token.expires_at);
        live.map(|(hash, token)| (*hash, token.clone())).collect()
    }

    /// Takes a token back, if `may` allows it. Waits for the disk.
    pub fn revoke<E: From<BookError>>(
        &self,
        id: &str,
        may: impl FnOnce(&Token) -> Result<(), E>,
    ) -> Result<(TokenHash, Token), E> {
        self.change(|entries| {
            let found = entries.tokens.iter().find(|(hash, _)| hash.id() == id);
            let (hash, token) = found.ok_or_else(|| BookError::UnknownToken(id.to_owned()))?;
            let (hash, token) = (*hash, token.clone());
            may(&token)?;
            entries.tokens.remove(&hash);
            Ok((hash, token))
        })
    }

    /// Which of a user's S3 keys is the one in force, counted from 1; 0: there is none yet.
    pub fn s3_key(&self, user: &UserName) -> u32 {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.s3_keys.get(user).copied().unwrap_or_default()
    }

    /// Makes a user's next S3 key the one in force; without `renew` only if there is none. Waits for the disk.
    pub fn make_s3_key(&self, user: &UserName, renew: bool) -> Result<u32, BookError> {
        let now = self.s3_key(user);
        if now > 0 && !renew {
            return Ok(now);
        }
        self.change(|entries| {
            let number = entries.s3_keys.entry(user.clone()).or_default();
            let next = number.checked_add(1);
            *number = next.ok_or_else(|| BookError::TooManyKeys(user.clone()))?;
            Ok(*number)
        })
    }

    fn change<T, E: From<BookError>>(
        &self,
        change: impl FnOnce(&mut Entries) -> Result<T, E>,
    ) -> Result<T, E> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = self
            .entries
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let changed = change(&mut entries)?;
        let text = serde_json::to_vec_pretty(&entries).map_err(io::Error::from);
        text.and_then(|text| file::replace(&self.path, 0o600, &text))
            .map_err(|err| self.failed(err))?;
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = entries;
        Ok(changed)
    }

    fn failed(&self, err: io::Error) -> BookError {
        BookError::Write {
            path: self.path.clone(),
            err,
        }
    }
}

fn make(path: &Path) -> Result<Secret, BookError> {
    let made = token::random().and_then(|token| token::write(path, &token).map(|()| token));
    made.map_err(|err| BookError::Write {
        path: path.to_owned(),
        err,
    })
}

fn remove(path: &Path) -> Result<(), BookError> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(BookError::Write {
            path: path.to_owned(),
            err,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000);
    const LATER: Timestamp = Timestamp::from_unix_ms(2_000);

    fn token(expires_at: Timestamp) -> Token {
        Token {
            caller: Caller::User("alice".parse().unwrap()),
            label: "laptop".to_owned(),
            created_at: NOW,
            expires_at,
        }
    }

    fn read(path: PathBuf) -> TokenHash {
        TokenHash::of(Secret::read(&path).unwrap().expose())
    }

    #[test]
    fn a_token_opens_until_it_is_revoked_or_expires_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let book = Book::open(folder.path(), false).unwrap();
        let (secret, hash) = book.create(token(LATER)).unwrap();
        assert_eq!(hash, TokenHash::of(secret.expose()));
        let kept = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(!kept.contains(secret.expose()));

        let book = Book::open(folder.path(), false).unwrap();
        assert_eq!(book.identify(&hash, NOW), Some(token(LATER).caller));
        assert_eq!(book.tokens(NOW), [(hash, token(LATER))]);
        assert_eq!(book.identify(&hash, LATER), None, "it has expired");
        assert_eq!(book.tokens(LATER), []);

        let denied = |_: &Token| Err(BookError::UnknownToken("of another".to_owned()));
        book.revoke(&hash.id(), denied).unwrap_err();
        assert!(book.identify(&hash, NOW).is_some());
        let allowed = |_: &Token| Ok::<_, BookError>(());
        book.revoke(&hash.id(), allowed).unwrap();
        assert_eq!(book.identify(&hash, NOW), None);
        assert!(book.revoke(&hash.id(), allowed).is_err());
        assert_eq!(
            Book::open(folder.path(), false).unwrap().identify(&hash, NOW),
            None
        );
    }

    #[test]
    fn the_operators_token_is_new_at_every_start_and_the_nodes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = || {
            (
                read(folder.path().join(OPERATOR_TOKEN)),
                read(folder.path().join(NODE_TOKEN)),
            )
        };
        let first = Book::open(folder.path(), false).unwrap();
        let (operator, node) = tokens();
        assert_eq!(first.identify(&operator, NOW), Some(Caller::Operator));
        assert_eq!(first.identify(&node, NOW), Some(Caller::Node(None)));
        let second = Book::open(folder.path(), false).unwrap();
        assert_ne!(tokens().0, operator);
        assert_eq!(second.identify(&operator, NOW), None);
        assert_eq!(second.identify(&node, NOW), Some(Caller::Node(None)));

        let third = Book::open(folder.path(), true).unwrap();
        assert_eq!(third.identify(&node, NOW), None, "nodes show certificates now");
        assert!(!folder.path().join(NODE_TOKEN).exists());
    }

    #[test]
    fn a_users_newest_s3_key_is_the_one_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let alice = "alice".parse().unwrap();
        let book = Book::open(folder.path(), false).unwrap();
        assert_eq!(book.s3_key(&alice), 0);
        let made = [false, false, true].map(|renew| book.make_s3_key(&alice, renew).unwrap());
        assert_eq!(made, [1, 1, 2]);
        assert_eq!(Book::open(folder.path(), false).unwrap().s3_key(&alice), 2);
    }

    #[test]
    fn what_cannot_be_written_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let book = Book::open(folder.path(), false).unwrap();
        std::fs::remove_dir_all(folder.path()).unwrap();
        assert!(book.create(token(LATER)).is_err());
        assert_eq!(book.tokens(NOW), []);
    }
}
