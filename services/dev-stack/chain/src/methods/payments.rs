//! Moving coins between accounts, and out of the wallet.

use units::Amount;

use crate::error::RpcError;
use crate::help;
use crate::json::raw;
use crate::node::{Event, Move, Note};
use crate::wallet::{FEE_MIN, Purpose};

use super::balances::balance_of;
use super::{Call, Reply, required};

pub(super) fn move_amount(call: &mut Call) -> Reply {
    let from = required(call.params.account(0)?);
    let to = required(call.params.account(1)?);
    let amount = required(call.params.amount(2)?);
    // The daemon reads the depth, and then pays no attention to it.
    call.params.integer(3)?;
    let comment = call.params.text(4)?.unwrap_or_default();
    call.node.history.push(Event::Move(Move {
        time: call.now,
        from,
        to,
        amount,
        comment,
    }));
    Ok(raw(&true))
}

pub(super) fn send_from(call: &mut Call) -> Reply {
    let account = required(call.params.account(0)?);
    let address = required(call.params.address(1)?);
    let amount = required(call.params.amount(2)?);
    let depth_min = call.depth_min(3)?;
    let note = call.note(4)?;
    call.node.wallet.ensure_unlocked(Purpose::Send, call.now)?;
    // The fee is not looked at here, so that an account may end below zero by it.
    if balance_of(call.node, &account, depth_min) < amount {
        return Err(RpcError::account_short());
    }
    Ok(raw(&call.node.send(
        account,
        &[(address, amount)],
        note,
        call.now,
    )?))
}

pub(super) fn send_many(call: &mut Call) -> Reply {
    let account = required(call.params.account(0)?);
    let recipients = call.params.recipients(1)?;
    let depth_min = call.depth_min(2)?;
    let note = Note {
        comment: call.params.text(3)?.unwrap_or_default(),
        to: String::new(),
    };
    call.node.wallet.ensure_unlocked(Purpose::Send, call.now)?;
    let total: Amount = recipients.iter().map(|(_, amount)| *amount).sum();
    if balance_of(call.node, &account, depth_min) < total {
        return Err(RpcError::account_short());
    }
    let sent = call.node.send(account, &recipients, note, call.now);
    let txid = sent.map_err(|err| match err.code {
        -4 => RpcError { code: -6, ..err },
        _ => err,
    })?;
    Ok(raw(&txid))
}

pub(super) fn send_to_address(call: &mut Call) -> Reply {
    let address = required(call.params.address(0)?);
    let amount = required(call.params.amount(1)?);
    let note = call.note(2)?;
    call.node
        .wallet
        .ensure_unlocked(Purpose::SendToAddress, call.now)?;
    Ok(raw(&call.node.send(
        String::new(),
        &[(address, amount)],
        note,
        call.now,
    )?))
}

pub(super) fn set_tx_fee(call: &mut Call) -> Reply {
    let fee = required(call.params.amount(0)?);
    if fee < FEE_MIN {
        return Err(RpcError::misc(help::SET_TX_FEE));
    }
    call.node.wallet.fee = fee;
    Ok(raw(&true))
}
