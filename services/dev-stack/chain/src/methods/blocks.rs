//! Blocks and the transactions in them.

use serde::Serialize;

use crate::error::RpcError;
use crate::hash::Hash256;
use crate::json::raw;

use super::{Call, Reply, required};

#[derive(Serialize)]
struct BlockInfo {
    hash: Hash256,
    confirmations: i64,
    height: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<i64>,
    tx: Vec<Hash256>,
}

pub(super) fn get_block(call: &mut Call) -> Reply {
    let hash = call.params.hash(0)?;
    let blocks = &call.node.blocks;
    let (hash, place) = hash
        .and_then(|hash| Some((hash, blocks.find(hash)?)))
        .ok_or(RpcError::new(-5, "Block not found"))?;
    let part = blocks.contains(place);
    let block = blocks.at(place.height).filter(|_| part);
    Ok(raw(&BlockInfo {
        hash,
        confirmations: if part {
            blocks.confirmations(place.height).into()
        } else {
            -1
        },
        height: place.height,
        time: block.map(|block| block.time),
        tx: block.map(|block| block.txids.clone()).unwrap_or_default(),
    }))
}

pub(super) fn get_block_hash(call: &mut Call) -> Reply {
    let height = required(call.params.integer(0)?);
    let hash = u32::try_from(height)
        .ok()
        .and_then(|height| call.node.blocks.hash_at(height));
    Ok(raw(&hash.ok_or(RpcError::misc("Block number out of range."))?))
}

pub(super) fn get_raw_mempool(call: &mut Call) -> Reply {
    let mut waiting = call.node.waiting.clone();
    waiting.sort_unstable();
    Ok(raw(&waiting))
}

pub(super) fn get_transaction(call: &mut Call) -> Reply {
    let full = call
        .params
        .hash(0)?
        .and_then(|txid| call.node.full_transaction(txid));
    full.ok_or(RpcError::new(-5, "No information available about transaction"))
}

pub(super) fn list_since_block(call: &mut Call) -> Reply {
    let block = call.params.hash(0)?;
    let target = u32::try_from(call.params.integer(1)?.unwrap_or(1))
        .ok()
        .filter(|target| *target >= 1);
    let target = target.ok_or(RpcError::invalid_parameter("Invalid parameter"))?;
    call.params.flag(2)?;
    Ok(call.node.list_since(block, target))
}

pub(super) fn list_transactions(call: &mut Call) -> Reply {
    let account = call.params.text(0)?.unwrap_or_else(|| "*".to_owned());
    let count = call.count(1, 10, "Negative count")?;
    let from = call.count(2, 0, "Negative from")?;
    call.params.flag(3)?;
    Ok(call.node.list_transactions(&account, count, from))
}
