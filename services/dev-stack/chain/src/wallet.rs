//! The wallet's keys, address book, accounts and lock.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use units::Amount;

use crate::address::Address;
use crate::error::RpcError;
use crate::hash::Hash256;

/// What a transaction costs at least, per started 1000 bytes; ours are all smaller.
pub(crate) const FEE_MIN: Amount = Amount::from_halfords(100_000);

/// There is no master key behind the keys here, so its fingerprint is nothing.
pub(crate) const MASTER_KEY_ID: &str = "0000000000000000000000000000000000000000";

const KEY_POOL_EMPTY: RpcError =
    RpcError::new(-12, "Error: Keypool ran out, please call keypoolrefill first");
const LOCKED: RpcError = RpcError::new(
    -13,
    "Error: Please enter the wallet passphrase with walletpassphrase first.",
);
const STAKING_ONLY: RpcError = RpcError::new(-13, "Error: Wallet is unlocked for staking only.");
const WRONG_PASSPHRASE: RpcError = RpcError::new(-14, "Error: The wallet passphrase entered was incorrect.");
const UNLOCKED_ALREADY: RpcError = RpcError::new(
    -17,
    "Error: Wallet is already unlocked, use walletlock first if need to change unlock settings.",
);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wallet {
    /// Every key the wallet has made, by its address; the value is the key's number.
    keys: BTreeMap<Address, u32>,
    /// The account of each address that was given one, own and foreign. An own address without one takes change.
    book: BTreeMap<Address, String>,
    /// The address `getaccountaddress` gives out, until it is used.
    current: BTreeMap<String, Address>,
    pub(crate) fee: Amount,
    lock: Lock,
    /// Keys made in store, which is all there is while the wallet is locked.
    key_pool: u32,
}

/// Where encryption stands. Times are Unix seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Lock {
    Unencrypted,
    Locked {
        passphrase: Hash256,
    },
    Unlocked {
        passphrase: Hash256,
        until: i64,
        staking_only: bool,
    },
}

/// What a caller means to do with an unlocked wallet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `sendtoaddress` goes on even where the wallet is unlocked for staking only; the daemon does not check.
    SendToAddress,
    Send,
}

fn fingerprint(passphrase: &str) -> Hash256 {
    Hash256::digest(&[b"passphrase", passphrase.as_bytes()])
}

/// Stands in for a compressed public key; nobody can sign with it.
fn public_key(number: u32) -> [u8; 33] {
    let mut key = [2; 33];
    key[1..].copy_from_slice(&Hash256::digest(&[b"key", &number.to_be_bytes()]).printed());
    key
}

impl Wallet {
    pub(crate) fn new(key_pool: u32) -> Self {
        Self {
            keys: BTreeMap::new(),
            book: BTreeMap::new(),
            current: BTreeMap::new(),
            fee: FEE_MIN,
            lock: Lock::Unencrypted,
            key_pool,
        }
    }

    pub(crate) fn owns(&self, address: Address) -> bool {
        self.keys.contains_key(&address)
    }

    /// The number and the public key of an own address, as hexadecimal digits.
    pub(crate) fn key(&self, address: Address) -> Option<(u32, String)> {
        let number = *self.keys.get(&address)?;
        Some((number, hex::encode(public_key(number))))
    }

    pub(crate) fn account_of(&self, address: Address) -> Option<&str> {
        self.book.get(&address).map(String::as_str)
    }

    pub(crate) fn set_account(&mut self, address: Address, account: String) {
        self.book.insert(address, account);
    }

    pub(crate) fn addresses_of(&self, account: &str) -> impl Iterator<Item = Address> {
        self.book
            .iter()
            .filter(move |(_, name)| *name == account)
            .map(|(address, _)| *address)
    }

    /// The accounts of own addresses, and the account without a name, which always exists.
    pub(crate) fn accounts(&self) -> BTreeSet<&str> {
        let labelled = self.book.iter().filter(|(address, _)| self.owns(**address));
        labelled
            .map(|(_, account)| account.as_str())
            .chain([""])
            .collect()
    }

    pub(crate) fn new_address(&mut self, account: &str, now: i64) -> Result<Address, RpcError> {
        let address = self.new_key(now)?;
        self.book.insert(address, account.to_owned());
        Ok(address)
    }

    /// The account's present address, or a new one where there is none or `used` says that it has received coins.
    pub(crate) fn account_address(
        &mut self,
        account: &str,
        used: impl Fn(Address) -> bool,
        now: i64,
    ) -> Result<Address, RpcError> {
        match self.current.get(account) {
            Some(address) if !used(*address) => Ok(*address),
            _ => {
                let address = self.new_address(account, now)?;
                self.current.insert(account.to_owned(), address);
                Ok(address)
            }
        }
    }

    /// A key for change has no account, which is how the wallet knows it.
    pub(crate) fn new_key(&mut self, now: i64) -> Result<Address, RpcError> {
        if self.is_locked(now) {
            self.key_pool = self.key_pool.checked_sub(1).ok_or(KEY_POOL_EMPTY)?;
        }
        let number = u32::try_from(self.keys.len()).expect("a development wallet has few keys");
        let digest = Hash256::digest(&[b"address", &public_key(number)]).printed();
        let mut key_hash = [0; 20];
        key_hash.copy_from_slice(&digest[..20]);
        let address = Address::from_key_hash(key_hash);
        self.keys.insert(address, number);
        Ok(address)
    }

    pub(crate) fn key_pool(&self) -> u32 {
        self.key_pool
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        !matches!(self.lock, Lock::Unencrypted)
    }

    /// Unix seconds; `None` where the wallet is not encrypted, 0 while it is locked.
    pub(crate) fn unlocked_until(&self, now: i64) -> Option<i64> {
        match self.lock {
            Lock::Unencrypted => None,
            Lock::Unlocked { until, .. } if now < until => Some(until),
            Lock::Unlocked { .. } | Lock::Locked { .. } => Some(0),
        }
    }

    fn is_locked(&self, now: i64) -> bool {
        self.unlocked_until(now) == Some(0)
    }

    pub(crate) fn ensure_unlocked(&self, purpose: Purpose, now: i64) -> Result<(), RpcError> {
        match self.lock {
            _ if self.is_locked(now) => Err(LOCKED),
            Lock::Unlocked {
                staking_only: true, ..
            } if purpose == Purpose::Send => Err(STAKING_ONLY),
            _ => Ok(()),
        }
    }

    /// Encrypts the wallet, which locks it.
    pub(crate) fn encrypt(&mut self, passphrase: &str) {
        self.lock = Lock::Locked {
            passphrase: fingerprint(passphrase),
        };
    }

    pub(crate) fn unlock(
        &mut self,
        passphrase: &str,
        seconds: i64,
        staking_only: bool,
        key_pool: u32,
        now: i64,
    ) -> Result<(), RpcError> {
        let stored = match self.lock {
            Lock::Unencrypted => return Ok(()),
            _ if !self.is_locked(now) => return Err(UNLOCKED_ALREADY),
            Lock::Locked { passphrase } | Lock::Unlocked { passphrase, .. } => passphrase,
        };
        if fingerprint(passphrase) != stored {
            return Err(WRONG_PASSPHRASE);
        }
        let until = now.saturating_add(seconds);
        self.lock = Lock::Unlocked {
            passphrase: stored,
            until,
            staking_only,
        };
        self.key_pool = key_pool;
        Ok(())
    }

    pub(crate) fn lock(&mut self) {
        if let Lock::Unlocked { passphrase, .. } = self.lock {
            self.lock = Lock::Locked { passphrase };
        }
    }
}
