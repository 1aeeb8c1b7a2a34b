//! Addresses and the accounts they belong to.

use serde::Serialize;

use crate::address::Address;
use crate::json::raw;
use crate::wallet::MASTER_KEY_ID;

use super::{Call, Reply, required};

pub(super) fn get_account(call: &mut Call) -> Reply {
    let address = required(call.params.address(0)?);
    Ok(raw(call.node.wallet.account_of(address).unwrap_or("")))
}

pub(super) fn get_account_address(call: &mut Call) -> Reply {
    let account = required(call.params.account(0)?);
    let used: Vec<Address> = {
        let node = &*call.node;
        node.wallet
            .addresses_of(&account)
            .filter(|address| node.is_used(*address))
            .collect()
    };
    let is_used = |address| used.contains(&address);
    Ok(raw(&call
        .node
        .wallet
        .account_address(&account, is_used, call.now)?))
}

pub(super) fn get_addresses_by_account(call: &mut Call) -> Reply {
    let account = required(call.params.account(0)?);
    Ok(raw(&call.node.wallet.addresses_of(&account).collect::<Vec<_>>()))
}

pub(super) fn get_new_address(call: &mut Call) -> Reply {
    let account = call.params.account(0)?.unwrap_or_default();
    Ok(raw(&call.node.wallet.new_address(&account, call.now)?))
}

pub(super) fn set_account(call: &mut Call) -> Reply {
    let address = required(call.params.address(0)?);
    let account = required(call.params.account(1)?);
    call.node.wallet.set_account(address, account);
    Ok(raw(&()))
}

#[derive(Serialize)]
struct AddressInfo<'a> {
    isvalid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ismine: Option<bool>,
    #[serde(flatten)]
    key: Option<KeyInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hdkeypath: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hdmasterkeyid: Option<&'static str>,
}

#[derive(Serialize)]
struct KeyInfo {
    isscript: bool,
    pubkey: String,
    iscompressed: bool,
}

pub(super) fn validate_address(call: &mut Call) -> Reply {
    let address: Option<Address> = required(call.params.text(0)?).parse().ok();
    let wallet = &call.node.wallet;
    let key = address.and_then(|address| wallet.key(address));
    let number = key.as_ref().map(|(number, _)| *number);
    Ok(raw(&AddressInfo {
        isvalid: address.is_some(),
        address,
        ismine: address.map(|address| wallet.owns(address)),
        key: key.map(|(_, pubkey)| KeyInfo {
            isscript: false,
            pubkey,
            iscompressed: true,
        }),
        account: address.and_then(|address| wallet.account_of(address)),
        hdkeypath: number.map(|number| format!("m/0'/0'/{number}'")),
        hdmasterkeyid: number.map(|_| MASTER_KEY_ID),
    }))
}
