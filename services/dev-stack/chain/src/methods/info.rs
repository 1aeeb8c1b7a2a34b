//! What the node says about itself. Constants stand for what is not modelled.

use serde::Serialize;
use serde_json::value::RawValue;
use units::Amount;

use crate::json::{Grc, raw};
use crate::wallet::MASTER_KEY_ID;

use super::{Call, Reply};

const VERSION: &str = "v5.5.1.0";
const PROTOCOL_VERSION: u32 = 180_329;
const WALLET_VERSION: u32 = 5_040_101;

/// Constants of a chain that is not mined, kept as text because they are fractions.
#[derive(Serialize)]
struct Difficulty {
    current: Box<RawValue>,
    target: Box<RawValue>,
}

fn difficulty() -> Difficulty {
    let number = |text: &str| RawValue::from_string(text.to_owned()).expect("a number is JSON");
    Difficulty {
        current: number("1.52587890625e-05"),
        target: number("0.0002441371325370145"),
    }
}

#[derive(Serialize)]
struct Info {
    version: &'static str,
    minor_version: u32,
    protocolversion: u32,
    walletversion: u32,
    balance: Grc,
    newmint: Grc,
    stake: Grc,
    blocks: u32,
    in_sync: bool,
    timeoffset: i64,
    uptime: i64,
    moneysupply: Grc,
    connections: u32,
    proxy: &'static str,
    ip: &'static str,
    difficulty: Difficulty,
    testnet: bool,
    keypoololdest: i64,
    keypoolsize: u32,
    paytxfee: Grc,
    mininput: Grc,
    #[serde(skip_serializing_if = "Option::is_none")]
    unlocked_until: Option<i64>,
    errors: &'static str,
}

pub(super) fn get_info(call: &mut Call) -> Reply {
    let node = &*call.node;
    Ok(raw(&Info {
        version: VERSION,
        minor_version: 5,
        protocolversion: PROTOCOL_VERSION,
        walletversion: WALLET_VERSION,
        balance: Grc(node.spendable()),
        newmint: Grc(Amount::ZERO),
        stake: Grc(Amount::ZERO),
        blocks: node.blocks.height(),
        in_sync: false,
        timeoffset: 0,
        uptime: call.now.saturating_sub(call.started_at),
        moneysupply: Grc(Amount::ZERO),
        connections: 0,
        proxy: "",
        ip: "0.0.0.0",
        difficulty: difficulty(),
        testnet: true,
        keypoololdest: call.started_at,
        keypoolsize: node.wallet.key_pool(),
        paytxfee: Grc(node.wallet.fee),
        mininput: Grc(Amount::ZERO),
        unlocked_until: node.wallet.unlocked_until(call.now),
        errors: "",
    }))
}

#[derive(Serialize)]
struct BlockchainInfo {
    blocks: u32,
    in_sync: bool,
    moneysupply: Grc,
    difficulty: Difficulty,
    testnet: bool,
    errors: &'static str,
}

pub(super) fn get_blockchain_info(call: &mut Call) -> Reply {
    Ok(raw(&BlockchainInfo {
        blocks: call.node.blocks.height(),
        in_sync: false,
        moneysupply: Grc(Amount::ZERO),
        difficulty: difficulty(),
        testnet: true,
        errors: "",
    }))
}

#[derive(Serialize)]
struct NetworkInfo {
    version: &'static str,
    minor_version: u32,
    protocolversion: u32,
    timeoffset: i64,
    connections: u32,
    paytxfee: Grc,
    mininput: Grc,
    proxy: &'static str,
    ip: &'static str,
    localaddresses: [(); 0],
    errors: &'static str,
}

pub(super) fn get_network_info(call: &mut Call) -> Reply {
    Ok(raw(&NetworkInfo {
        version: VERSION,
        minor_version: 5,
        protocolversion: PROTOCOL_VERSION,
        timeoffset: 0,
        connections: 0,
        paytxfee: Grc(call.node.wallet.fee),
        mininput: Grc(Amount::ZERO),
        proxy: "",
        ip: "0.0.0.0",
        localaddresses: [],
        errors: "",
    }))
}

#[derive(Serialize)]
struct WalletInfo {
    walletversion: u32,
    balance: Grc,
    newmint: Grc,
    stake: Grc,
    keypoololdest: i64,
    keypoolsize: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    unlocked_until: Option<i64>,
    masterkeyid: &'static str,
    staking: bool,
    #[serde(rename = "mining-error")]
    mining_error: &'static str,
}

pub(super) fn get_wallet_info(call: &mut Call) -> Reply {
    let wallet = &call.node.wallet;
    Ok(raw(&WalletInfo {
        walletversion: WALLET_VERSION,
        balance: Grc(call.node.spendable()),
        newmint: Grc(Amount::ZERO),
        stake: Grc(Amount::ZERO),
        keypoololdest: call.started_at,
        keypoolsize: wallet.key_pool(),
        unlocked_until: wallet.unlocked_until(call.now),
        masterkeyid: MASTER_KEY_ID,
        staking: false,
        mining_error: "",
    }))
}
