//! What the wallet's lists say about the node, in the daemon's words and order.

use serde::Serialize;
use serde_json::value::RawValue;
use units::Amount;

use crate::address::Address;
use crate::hash::Hash256;
use crate::json::{Grc, raw};
use crate::node::{Event, Move, Node, Note, Origin, Output, Tx, TxState, negative};

#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Move(MoveEntry<'a>),
    Payment(PaymentEntry<'a>),
}

#[derive(Serialize)]
struct MoveEntry<'a> {
    account: &'a str,
    category: &'static str,
    time: i64,
    amount: Grc,
    otheraccount: &'a str,
    comment: &'a str,
}

#[derive(Serialize)]
struct PaymentEntry<'a> {
    #[serde(flatten)]
    detail: Detail<'a>,
    confirmations: i64,
    #[serde(flatten)]
    block: Option<InBlock>,
    txid: Hash256,
    time: i64,
    timereceived: i64,
    #[serde(flatten)]
    note: NoteFields<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    account: &'a str,
    address: Address,
    category: &'static str,
    fee: Grc,
    amount: Grc,
}

#[derive(Serialize)]
struct InBlock {
    blockhash: Hash256,
    blockindex: usize,
    blocktime: i64,
}

#[derive(Serialize)]
struct NoteFields<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    comment: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    to: &'a str,
}

#[derive(Serialize)]
struct Since<'a> {
    transactions: Vec<Entry<'a>>,
    lastblock: Hash256,
}

#[derive(Serialize)]
struct FullTx<'a> {
    txid: Hash256,
    version: u32,
    size: usize,
    time: i64,
    locktime: u32,
    hashboinc: &'static str,
    contracts: [(); 0],
    vin: Vec<Input>,
    vout: Vec<FullOutput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fee: Option<Grc>,
    amount: Grc,
    confirmations: i64,
    #[serde(flatten)]
    block: Option<InBlock>,
    timereceived: i64,
    #[serde(flatten)]
    note: NoteFields<'a>,
    details: Vec<Detail<'a>>,
}

/// An input without its script, which only somebody who checks signatures would read.
#[derive(Serialize)]
struct Input {
    txid: Hash256,
    vout: usize,
    sequence: i64,
}

#[derive(Serialize)]
struct FullOutput {
    value: Grc,
    n: usize,
    #[serde(rename = "scriptPubKey")]
    script: Script,
}

#[derive(Serialize)]
struct Script {
    asm: String,
    hex: String,
    #[serde(rename = "reqSigs")]
    signatures: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    addresses: [Address; 1],
}

impl Node {
    /// The newest `count` entries before the newest `from`, oldest first. The account `""` gets the transactions of all
    /// accounts, but only its own moves: so does the daemon.
    pub(crate) fn list_transactions(&self, account: &str, count: usize, from: usize) -> Box<RawValue> {
        let mut entries: Vec<_> = self
            .history
            .iter()
            .rev()
            .flat_map(|event| match event {
                Event::Move(moved) => moved.legs(account),
                Event::Tx(txid) => self.payments(*txid, if account.is_empty() { "*" } else { account }),
            })
            .skip(from)
            .take(count)
            .collect();
        entries.reverse();
        raw(&entries)
    }

    /// Every payment above the given block's height, waiting ones included, and the hash of the block that is `target`
    /// deep. An unknown block gets everything.
    pub(crate) fn list_since(&self, block: Option<Hash256>, target: u32) -> Box<RawValue> {
        let since = block.and_then(|hash| self.blocks.find(hash));
        let newer = |tx: &Tx| match since {
            // The block may have been reorganised away; only its height counts.
            Some(place) => self.confirmations(tx) < self.blocks.confirmations(place.height).into(),
            None => true,
        };
        let last = (self.blocks.height() + 1).checked_sub(target);
        let txids = self.txs.iter().filter(|(_, tx)| newer(tx)).map(|(txid, _)| *txid);
        raw(&Since {
            transactions: txids.flat_map(|txid| self.payments(txid, "*")).collect(),
            lastblock: last
                .and_then(|height| self.blocks.hash_at(height))
                .unwrap_or(Hash256::ZERO),
        })
    }

    pub(crate) fn full_transaction(&self, txid: Hash256) -> Option<Box<RawValue>> {
        let tx = self.txs.get(&txid)?;
        let outputs = tx.outputs.iter();
        let (vin, fee, amount) = match &tx.origin {
            Origin::Outside => {
                let foreign = Hash256::digest(&[b"foreign coin", &txid.printed()]);
                let ours = outputs.filter(|output| self.wallet.owns(output.address));
                let received = ours.map(|output| output.amount).sum();
                (
                    vec![Input {
                        txid: foreign,
                        vout: 0,
                        sequence: -1,
                    }],
                    None,
                    received,
                )
            }
            Origin::Wallet(sent) => {
                let inputs = sent.inputs.iter().map(|coin| Input {
                    txid: coin.txid,
                    vout: coin.output,
                    sequence: -1,
                });
                let foreign = outputs.filter(|output| !self.wallet.owns(output.address));
                let paid: Amount = foreign.map(|output| output.amount).sum();
                (inputs.collect(), Some(Grc(negative(sent.fee))), negative(paid))
            }
        };
        let vout = tx.outputs.iter().enumerate().map(|(n, output)| FullOutput {
            value: Grc(output.amount),
            n,
            script: Script::paying(output.address),
        });
        Some(raw(&FullTx {
            txid,
            version: 2,
            // A plausible number: 148 bytes for each input, 34 for each output and 10 for the rest.
            size: vin.len() * 148 + tx.outputs.len() * 34 + 10,
            time: tx.time,
            locktime: 0,
            hashboinc: "",
            contracts: [],
            vin,
            vout: vout.collect(),
            fee,
            amount: Grc(amount),
            confirmations: self.confirmations(tx),
            block: self.in_block(txid, tx),
            timereceived: tx.time,
            note: NoteFields::of(tx.note()),
            details: self.details(tx, "*"),
        }))
    }

    /// The entries of one transaction that concern an account (`*`: any), what it spent first.
    fn details<'a>(&'a self, tx: &'a Tx, account: &str) -> Vec<Detail<'a>> {
        if tx.state == TxState::Conflicted {
            return Vec::new();
        }
        let fee = match &tx.origin {
            Origin::Outside => Amount::ZERO,
            Origin::Wallet(sent) => negative(sent.fee),
        };
        let detail = |account, category, output: &Output, amount| Detail {
            account,
            address: output.address,
            category,
            fee: Grc(fee),
            amount: Grc(amount),
        };
        let sent = match &tx.origin {
            Origin::Wallet(sent) => Some(sent.account.as_str()),
            Origin::Outside => None,
        };
        let spent = sent
            .into_iter()
            .flat_map(|from| tx.listed().map(move |output| (from, output)))
            .map(|(from, output)| detail(from, "send", output, negative(output.amount)));
        let received = self
            .received(tx)
            .map(|(to, output)| detail(to, "receive", output, output.amount));
        spent
            .chain(received)
            .filter(|detail| account == "*" || detail.account == account)
            .collect()
    }

    fn payments(&self, txid: Hash256, account: &str) -> Vec<Entry<'_>> {
        let Some(tx) = self.txs.get(&txid) else {
            return Vec::new();
        };
        let entry = |detail| {
            Entry::Payment(PaymentEntry {
                detail,
                confirmations: self.confirmations(tx),
                block: self.in_block(txid, tx),
                txid,
                time: tx.time,
                timereceived: tx.time,
                note: NoteFields::of(tx.note()),
            })
        };
        self.details(tx, account).into_iter().map(entry).collect()
    }

    fn in_block(&self, txid: Hash256, tx: &Tx) -> Option<InBlock> {
        let TxState::Mined { height } = tx.state else {
            return None;
        };
        let block = self.blocks.at(height)?;
        Some(InBlock {
            blockhash: self.blocks.hash_at(height)?,
            // The first place is the coinbase's.
            blockindex: 1 + block.txids.iter().position(|id| *id == txid)?,
            blocktime: block.time,
        })
    }
}

impl Tx {
    fn note(&self) -> Option<&Note> {
        match &self.origin {
            Origin::Outside => None,
            Origin::Wallet(sent) => Some(&sent.note),
        }
    }
}

impl Move {
    /// The two entries of a move, the later one first.
    fn legs(&self, account: &str) -> Vec<Entry<'_>> {
        let leg = |account, amount, otheraccount| MoveEntry {
            account,
            category: "move",
            time: self.time,
            amount: Grc(amount),
            otheraccount,
            comment: &self.comment,
        };
        let credit = leg(self.to.as_str(), self.amount, self.from.as_str());
        let debit = leg(self.from.as_str(), negative(self.amount), self.to.as_str());
        [credit, debit]
            .into_iter()
            .filter(|leg| account == "*" || leg.account == account)
            .map(Entry::Move)
            .collect()
    }
}

impl<'a> NoteFields<'a> {
    fn of(note: Option<&'a Note>) -> Self {
        Self {
            comment: note.map_or("", |note| &note.comment),
            to: note.map_or("", |note| &note.to),
        }
    }
}

impl Script {
    fn paying(address: Address) -> Self {
        let hash = address.key_hash_hex();
        Self {
            asm: format!("OP_DUP OP_HASH160 {hash} OP_EQUALVERIFY OP_CHECKSIG"),
            hex: format!("76a914{hash}88ac"),
            signatures: 1,
            kind: "pubkeyhash",
            addresses: [address],
        }
    }
}
