//! What only a development chain can do: coins, blocks and reorganisations on demand.

use crate::error::RpcError;
use crate::json::raw;

use super::{Call, Reply, required};

pub(super) fn deposit(call: &mut Call) -> Reply {
    let address = required(call.params.address(0)?);
    let amount = required(call.params.amount(1)?);
    Ok(raw(&call.node.deposit(&[(address, amount)], call.now)?))
}

pub(super) fn mine(call: &mut Call) -> Reply {
    for _ in 0..call.count(0, 1, "Negative count")? {
        call.node.mine(call.now);
    }
    Ok(raw(&call.node.blocks.height()))
}

pub(super) fn reorg(call: &mut Call) -> Reply {
    let depth = call.count(0, 0, "Negative depth")?;
    let depth = u32::try_from(depth).map_err(|_| RpcError::invalid_parameter("Depth too large"))?;
    let conflict = call.params.flag(1)?.unwrap_or(false);
    call.node.reorg(depth, conflict, call.now);
    Ok(raw(&call.node.blocks.height()))
}
