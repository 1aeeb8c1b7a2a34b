//! What accounts, addresses and the whole wallet hold.

use std::collections::BTreeMap;

use units::Amount;

use crate::json::{Grc, raw};
use crate::node::Node;

use super::{Call, Reply, required};

pub(super) fn get_balance(call: &mut Call) -> Reply {
    let account = call.params.text(0)?;
    let depth_min = call.depth_min(1)?;
    let balance = match account.as_deref() {
        None => call.node.spendable(),
        Some("*") => call.node.balance_of_all(depth_min),
        Some(account) => {
            call.accounts_gate()?;
            balance_of(call.node, account, depth_min)
        }
    };
    Ok(raw(&Grc(balance)))
}

pub(super) fn balance_of(node: &Node, account: &str, depth_min: i64) -> Amount {
    node.accounts(depth_min).get(account).copied().unwrap_or_default()
}

pub(super) fn get_received_by_account(call: &mut Call) -> Reply {
    let wanted = required(call.params.account(0)?);
    let received = call
        .node
        .received_by(call.depth_min(1)?, |account, _| account == wanted);
    Ok(raw(&Grc(received)))
}

pub(super) fn get_received_by_address(call: &mut Call) -> Reply {
    let wanted = required(call.params.address(0)?);
    let received = call
        .node
        .received_by(call.depth_min(1)?, |_, address| address == wanted);
    Ok(raw(&Grc(received)))
}

pub(super) fn list_accounts(call: &mut Call) -> Reply {
    let depth_min = call.depth_min(0)?;
    call.params.flag(1)?;
    let accounts = call.node.accounts(depth_min);
    let printed = accounts.into_iter().map(|(name, amount)| (name, Grc(amount)));
    Ok(raw(&printed.collect::<BTreeMap<_, _>>()))
}
