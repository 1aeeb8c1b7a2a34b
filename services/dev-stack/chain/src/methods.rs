//! The methods: how many parameters each takes, whether it writes, and what it does.

mod addresses;
mod balances;
mod blocks;
mod dev;
mod info;
mod lock;
mod payments;

use std::ops::RangeInclusive;

use serde_json::value::RawValue;

use crate::ChainConfig;
use crate::error::RpcError;
use crate::help;
use crate::json::{Params, raw};
use crate::node::{Node, Note};

pub(crate) type Reply = Result<Box<RawValue>, RpcError>;

const ACCOUNTS_DISABLED: RpcError = RpcError::misc(
    "Accounting API is deprecated and will be removed in future.\n\
     It can easily result in negative or odd balances if misused or misunderstood, which has happened in the field.\n\
     If you still want to enable it, add to your config file enableaccounts=1\n",
);
const STAKING_ENABLED: RpcError = RpcError::misc(
    "If you want to use accounting API, staking must be disabled, add to your config file staking=0\n",
);

/// One call with all it can see and change.
pub(crate) struct Call<'a> {
    pub(crate) node: &'a mut Node,
    pub(crate) config: &'a ChainConfig,
    /// Unix seconds.
    pub(crate) started_at: i64,
    /// Unix seconds.
    pub(crate) now: i64,
    pub(crate) params: Params<'a>,
}

type Run = fn(&mut Call) -> Reply;

pub(crate) struct Method {
    name: &'static str,
    params: RangeInclusive<usize>,
    /// Whether it may change the node, which then has to be saved.
    pub(crate) writes: bool,
    /// Whether it belongs to the accounts API, which the daemon refuses unless told otherwise.
    gated: bool,
    /// Empty where the daemon's words were not recorded; the name has to do then.
    help: &'static str,
    run: Run,
}

const fn reads(name: &'static str, params: RangeInclusive<usize>, run: Run) -> Method {
    Method {
        name,
        params,
        writes: false,
        gated: false,
        help: "",
        run,
    }
}

const fn writes(name: &'static str, params: RangeInclusive<usize>, run: Run) -> Method {
    Method {
        writes: true,
        ..reads(name, params, run)
    }
}

impl Method {
    const fn gated(self) -> Self {
        Self { gated: true, ..self }
    }

    const fn help(self, help: &'static str) -> Self {
        Self { help, ..self }
    }
}

#[rustfmt::skip]
const METHODS: &[Method] = &[
    writes("dev_deposit", 2..=2, dev::deposit),
    writes("dev_mine", 0..=1, dev::mine),
    writes("dev_reorg", 1..=2, dev::reorg),
    writes("encryptwallet", 1..=1, lock::encrypt_wallet).help(help::ENCRYPT_WALLET),
    reads("getaccount", 1..=1, addresses::get_account),
    writes("getaccountaddress", 1..=1, addresses::get_account_address).help(help::GET_ACCOUNT_ADDRESS),
    reads("getaddressesbyaccount", 1..=1, addresses::get_addresses_by_account),
    reads("getbalance", 0..=3, balances::get_balance),
    reads("getbestblockhash", 0..=0, |call| Ok(raw(&call.node.blocks.tip()))),
    reads("getblock", 1..=2, blocks::get_block),
    reads("getblockchaininfo", 0..=0, info::get_blockchain_info),
    reads("getblockcount", 0..=0, |call| Ok(raw(&call.node.blocks.height()))),
    reads("getblockhash", 1..=1, blocks::get_block_hash),
    reads("getconnectioncount", 0..=0, |_| Ok(raw(&0))),
    reads("getinfo", 0..=0, info::get_info),
    reads("getnetworkinfo", 0..=0, info::get_network_info),
    writes("getnewaddress", 0..=1, addresses::get_new_address),
    reads("getrawmempool", 0..=0, blocks::get_raw_mempool),
    reads("getreceivedbyaccount", 1..=2, balances::get_received_by_account).gated(),
    reads("getreceivedbyaddress", 1..=2, balances::get_received_by_address),
    reads("gettransaction", 1..=2, blocks::get_transaction),
    reads("getwalletinfo", 0..=0, info::get_wallet_info),
    reads("help", 0..=1, help_text),
    reads("listaccounts", 0..=2, balances::list_accounts).gated().help(help::LIST_ACCOUNTS),
    reads("listsinceblock", 0..=3, blocks::list_since_block),
    reads("listtransactions", 0..=4, blocks::list_transactions),
    writes("move", 3..=5, payments::move_amount).gated().help(help::MOVE),
    reads("ping", 0..=0, |_| Ok(raw(&()))),
    writes("sendfrom", 3..=7, payments::send_from),
    writes("sendmany", 2..=4, payments::send_many),
    writes("sendtoaddress", 2..=5, payments::send_to_address).help(help::SEND_TO_ADDRESS),
    writes("setaccount", 2..=2, addresses::set_account),
    writes("settxfee", 1..=1, payments::set_tx_fee).help(help::SET_TX_FEE),
    reads("validateaddress", 1..=1, addresses::validate_address),
    writes("walletlock", 0..=0, lock::wallet_lock),
    writes("walletpassphrase", 2..=3, lock::wallet_passphrase).help(help::WALLET_PASSPHRASE),
];

pub(crate) fn find(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.name == name)
}

impl Method {
    pub(crate) fn run(&self, call: &mut Call) -> Reply {
        if !self.params.contains(&call.params.len()) {
            return Err(RpcError::misc(self.usage()));
        }
        if self.gated {
            call.accounts_gate()?;
        }
        (self.run)(call)
    }

    const fn usage(&self) -> &'static str {
        if self.help.is_empty() {
            self.name
        } else {
            self.help
        }
    }
}

/// The arity was checked, so a parameter can only be absent where the table above allows it.
fn required<T>(param: Option<T>) -> T {
    param.expect("the number of parameters was checked")
}

impl Call<'_> {
    fn accounts_gate(&self) -> Result<(), RpcError> {
        match (self.config.enable_accounts, self.config.staking) {
            (false, _) => Err(ACCOUNTS_DISABLED),
            (true, true) => Err(STAKING_ENABLED),
            (true, false) => Ok(()),
        }
    }

    /// The depth from which deposits count; 1 unless told otherwise.
    fn depth_min(&self, at: usize) -> Result<i64, RpcError> {
        Ok(self.params.integer(at)?.unwrap_or(1))
    }

    fn note(&self, at: usize) -> Result<Note, RpcError> {
        Ok(Note {
            comment: self.params.text(at)?.unwrap_or_default(),
            to: self.params.text(at + 1)?.unwrap_or_default(),
        })
    }

    /// A count that must not be negative.
    fn count(&self, at: usize, default: usize, refusal: &'static str) -> Result<usize, RpcError> {
        match self.params.integer(at)? {
            None => Ok(default),
            Some(count) => usize::try_from(count).map_err(|_| RpcError::invalid_parameter(refusal)),
        }
    }
}

fn help_text(call: &mut Call) -> Reply {
    Ok(match call.params.text(0)? {
        None => raw(help::OVERVIEW),
        Some(name) => match find(&name) {
            Some(method) => raw(method.usage()),
            None => raw(&format!("help: unknown command: {name}")),
        },
    })
}
