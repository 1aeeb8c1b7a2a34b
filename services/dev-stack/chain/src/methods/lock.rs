//! Encryption and the lock of the wallet.

use crate::error::RpcError;
use crate::help;
use crate::json::raw;

use super::{Call, Reply, required};

const ENCRYPTED: &str = "wallet encrypted; Gridcoin server stopping, restart to run with encrypted wallet. The keypool \
    has been flushed and a new HD seed was generated (if you are using HD). You need to make a new backup.";
const NOT_ENCRYPTED_UNLOCK: RpcError = RpcError::new(
    -15,
    "Error: running with an unencrypted wallet, but walletpassphrase was called.",
);
const NOT_ENCRYPTED_LOCK: RpcError = RpcError::new(
    -15,
    "Error: running with an unencrypted wallet, but walletlock was called.",
);
const ENCRYPTED_ALREADY: RpcError = RpcError::new(
    -15,
    "Error: running with an encrypted wallet, but encryptwallet was called.",
);

pub(super) fn encrypt_wallet(call: &mut Call) -> Reply {
    let passphrase = required(call.params.text(0)?);
    if call.node.wallet.is_encrypted() {
        return Err(ENCRYPTED_ALREADY);
    }
    if passphrase.is_empty() {
        return Err(RpcError::misc(help::ENCRYPT_WALLET_EMPTY));
    }
    call.node.wallet.encrypt(&passphrase);
    Ok(raw(ENCRYPTED))
}

pub(super) fn wallet_lock(call: &mut Call) -> Reply {
    if !call.node.wallet.is_encrypted() {
        return Err(NOT_ENCRYPTED_LOCK);
    }
    call.node.wallet.lock();
    Ok(raw(&()))
}

pub(super) fn wallet_passphrase(call: &mut Call) -> Reply {
    if !call.node.wallet.is_encrypted() {
        return Err(NOT_ENCRYPTED_UNLOCK);
    }
    let passphrase = required(call.params.text(0)?);
    let seconds = required(call.params.integer(1)?);
    let staking_only = call.params.flag(2)?.unwrap_or(false);
    if passphrase.is_empty() {
        return Err(RpcError::misc(help::WALLET_PASSPHRASE_EMPTY));
    }
    if seconds <= 0 {
        return Err(RpcError::invalid_parameter("Timeout cannot be negative or zero."));
    }
    let (wallet, key_pool) = (&mut call.node.wallet, call.config.key_pool);
    wallet.unlock(&passphrase, seconds, staking_only, key_pool, call.now)?;
    Ok(raw(&()))
}
