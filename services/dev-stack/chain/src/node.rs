//! The node: chain, memory pool and wallet in one pure state machine.
//!
//! ```text
//!                       mine                 reorg, double-spent there
//! deposit ─┬─► Waiting ──────────► Mined ────────────────────────────────► Conflicted
//! send ────┘      ▲                  │
//!                 └──────────────────┘
//!                   reorg, not there
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use units::Amount;

use crate::address::Address;
use crate::blocks::Blocks;
use crate::error::RpcError;
use crate::hash::Hash256;
use crate::wallet::Wallet;

/// Coins from outside can be spent when they are this deep, which is also when `getbalance` counts them.
const SPENDABLE_DEPTH: i64 = 10;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) blocks: Blocks,
    pub(crate) wallet: Wallet,
    /// Everything that concerns the wallet, oldest first.
    pub(crate) history: Vec<Event>,
    pub(crate) txs: BTreeMap<Hash256, Tx>,
    /// Transactions in no block yet, oldest first.
    pub(crate) waiting: Vec<Hash256>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// Bookkeeping between two accounts, of which the chain knows nothing.
    Move(Move),
    Tx(Hash256),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Move {
    pub(crate) time: i64,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) amount: Amount,
    pub(crate) comment: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tx {
    /// Unix seconds.
    pub(crate) time: i64,
    pub(crate) origin: Origin,
    pub(crate) outputs: Vec<Output>,
    pub(crate) state: TxState,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// Coins from somebody else.
    Outside,
    /// Coins of this wallet.
    Wallet(Sent),
}

/// What the wallet keeps about a transaction it made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) account: String,
    pub(crate) inputs: Vec<Coin>,
    pub(crate) fee: Amount,
    pub(crate) note: Note,
}

/// Kept in the wallet only, not part of the transaction.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) comment: String,
    pub(crate) to: String,
}

/// One output, by its transaction and its place in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Coin {
    pub(crate) txid: Hash256,
    pub(crate) output: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Output {
    pub(crate) address: Address,
    pub(crate) amount: Amount,
    /// Left out of all lists: what came back to us, and, a flaw of the daemon's, what goes to an own address in one
    /// transaction with foreign ones.
    pub(crate) change: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TxState {
    Waiting,
    Mined { height: u32 },
    Conflicted,
}

impl Node {
    pub(crate) fn new(key_pool: u32) -> Self {
        Self {
            blocks: Blocks::default(),
            wallet: Wallet::new(key_pool),
            history: Vec::new(),
            txs: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    /// 0 in the memory pool, -1 for a double-spent transaction.
    pub(crate) fn confirmations(&self, tx: &Tx) -> i64 {
        match tx.state {
            TxState::Waiting => 0,
            TxState::Mined { height } => self.blocks.confirmations(height).into(),
            TxState::Conflicted => -1,
        }
    }

    /// Receives coins from outside in one transaction. At least one output has to be ours.
    pub(crate) fn deposit(&mut self, to: &[(Address, Amount)], now: i64) -> Result<Hash256, RpcError> {
        if !to.iter().any(|(address, _)| self.wallet.owns(*address)) {
            return Err(RpcError::new(-5, "Address is not of this wallet"));
        }
        if !to.iter().all(|(_, amount)| amount.is_positive()) {
            return Err(RpcError::invalid_amount());
        }
        let outputs = to.iter().map(|(address, amount)| Output {
            address: *address,
            amount: *amount,
            change: false,
        });
        Ok(self.enter(Tx {
            time: now,
            origin: Origin::Outside,
            outputs: outputs.collect(),
            state: TxState::Waiting,
        }))
    }

    /// Pays from the wallet's coins on behalf of an account, whose balance is the caller's affair.
    pub(crate) fn send(
        &mut self,
        account: String,
        to: &[(Address, Amount)],
        note: Note,
        now: i64,
    ) -> Result<Hash256, RpcError> {
        let fee = self.wallet.fee;
        let due: Amount = to.iter().map(|(_, amount)| *amount).chain([fee]).sum();
        let mut inputs = Vec::new();
        let mut rest = due;
        for (coin, amount) in self.coins() {
            if !rest.is_positive() {
                break;
            }
            inputs.push(coin);
            rest = rest.saturating_sub(amount);
        }
        if rest.is_positive() {
            return Err(RpcError::no_coins());
        }
        let mixed = to.iter().any(|(address, _)| !self.wallet.owns(*address));
        let mut outputs: Vec<Output> = to
            .iter()
            .map(|(address, amount)| Output {
                address: *address,
                amount: *amount,
                change: mixed && self.wallet.owns(*address),
            })
            .collect();
        if rest.is_negative() {
            outputs.push(Output {
                address: self.wallet.new_key(now)?,
                amount: negative(rest),
                change: true,
            });
        }
        Ok(self.enter(Tx {
            time: now,
            origin: Origin::Wallet(Sent {
                account,
                inputs,
                fee,
                note,
            }),
            outputs,
            state: TxState::Waiting,
        }))
    }

    fn enter(&mut self, tx: Tx) -> Hash256 {
        let (number, time) = (self.txs.len().to_be_bytes(), tx.time.to_be_bytes());
        let txid = Hash256::digest(&[b"transaction", &number, &time]);
        self.txs.insert(txid, tx);
        self.history.push(Event::Tx(txid));
        self.waiting.push(txid);
        txid
    }

    /// Adds a block with everything that waits.
    pub(crate) fn mine(&mut self, now: i64) {
        let txids = std::mem::take(&mut self.waiting);
        let height = self.blocks.mine(now, txids.clone());
        for txid in txids {
            self.set_state(txid, TxState::Mined { height });
        }
    }

    /// Replaces the last `depth` blocks by one more empty ones, as when another branch wins. What the lost blocks
    /// carried waits again; with `conflict`, the other branch has spent the coins that came from outside, so that those
    /// deposits and everything paid with them are gone.
    pub(crate) fn reorg(&mut self, depth: u32, conflict: bool, now: i64) {
        let height = self.blocks.height();
        let mut lost = self.blocks.cut(depth);
        for txid in &lost {
            let outside = matches!(
                self.txs.get(txid),
                Some(Tx {
                    origin: Origin::Outside,
                    ..
                })
            );
            let double_spent = conflict && outside;
            self.set_state(
                *txid,
                if double_spent {
                    TxState::Conflicted
                } else {
                    TxState::Waiting
                },
            );
        }
        lost.append(&mut self.waiting);
        self.waiting = lost;
        self.spread_conflicts();
        while self.blocks.height() <= height {
            self.blocks.mine(now, Vec::new());
        }
    }

    /// Forgets the last `count` moves and sends of the wallet.
    pub(crate) fn forget(&mut self, count: usize) {
        let mut left = count;
        for at in (0..self.history.len()).rev() {
            if left == 0 {
                break;
            }
            let txid = self.history[at].txid();
            let Some(txid) = txid else {
                self.history.remove(at);
                left -= 1;
                continue;
            };
            let Some(Tx {
                origin: Origin::Wallet(sent),
                state,
                ..
            }) = self.txs.get_mut(&txid)
            else {
                continue;
            };
            left -= 1;
            sent.note = Note::default();
            if *state == TxState::Waiting {
                self.history.remove(at);
                self.txs.remove(&txid);
                self.waiting.retain(|waiting| *waiting != txid);
            }
        }
    }

    /// A transaction paid with coins that no longer exist is gone as well. Inputs are older than what they pay for, so
    /// one pass in order of age finds all.
    fn spread_conflicts(&mut self) {
        let by_age: Vec<Hash256> = self.history.iter().filter_map(Event::txid).collect();
        let mut gone = BTreeSet::new();
        for txid in by_age {
            let Some(tx) = self.txs.get_mut(&txid) else {
                continue;
            };
            if tx.inputs().iter().any(|coin| gone.contains(&coin.txid)) {
                tx.state = TxState::Conflicted;
            }
            if tx.state == TxState::Conflicted {
                gone.insert(txid);
            }
        }
        self.waiting.retain(|txid| !gone.contains(txid));
    }

    fn set_state(&mut self, txid: Hash256, state: TxState) {
        if let Some(tx) = self.txs.get_mut(&txid) {
            tx.state = state;
        }
    }

    /// The wallet's spendable coins, oldest first: its own change at once, coins from outside when they are deep enough.
    pub(crate) fn coins(&self) -> Vec<(Coin, Amount)> {
        let valid = || self.txs.values().filter(|tx| tx.state != TxState::Conflicted);
        let spent: BTreeSet<Coin> = valid().flat_map(Tx::inputs).copied().collect();
        let mut coins = Vec::new();
        for txid in self.history.iter().filter_map(Event::txid) {
            let Some(tx) = self.txs.get(&txid) else {
                continue;
            };
            let depth_min = match tx.origin {
                Origin::Outside => SPENDABLE_DEPTH,
                Origin::Wallet(_) => 0,
            };
            if self.confirmations(tx) < depth_min {
                continue;
            }
            for (output, Output { address, amount, .. }) in tx.outputs.iter().enumerate() {
                let coin = Coin { txid, output };
                if self.wallet.owns(*address) && !spent.contains(&coin) {
                    coins.push((coin, *amount));
                }
            }
        }
        coins
    }

    /// Whether coins were ever received at this address.
    pub(crate) fn is_used(&self, address: Address) -> bool {
        let mut outputs = self.txs.values().flat_map(|tx| &tx.outputs);
        outputs.any(|output| output.address == address)
    }
}

impl Event {
    pub(crate) fn txid(&self) -> Option<Hash256> {
        match self {
            Self::Tx(txid) => Some(*txid),
            Self::Move(_) => None,
        }
    }
}

impl Tx {
    fn inputs(&self) -> &[Coin] {
        match &self.origin {
            Origin::Outside => &[],
            Origin::Wallet(sent) => &sent.inputs,
        }
    }

    /// The outputs that appear in lists.
    pub(crate) fn listed(&self) -> impl Iterator<Item = &Output> {
        self.outputs.iter().filter(|output| !output.change)
    }
}

/// Minus this amount.
pub(crate) fn negative(amount: Amount) -> Amount {
    Amount::ZERO.saturating_sub(amount)
}
