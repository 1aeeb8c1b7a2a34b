//! The daemon's replies, as far as we read them.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use units::Amount;

use crate::settlement::wallet::{Address, Payment, Receipt, Route};

/// An amount that stands there as a JSON number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Grc(pub(super) Amount);

impl<'de> Deserialize<'de> for Grc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Box::<RawValue>::deserialize(deserializer)?;
        number.get().parse().map(Self).map_err(serde::de::Error::custom)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct AddressInfo {
    pub(super) isvalid: bool,
    #[serde(default)]
    pub(super) ismine: bool,
    /// Of an own address its account, of others what the address book says.
    pub(super) account: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WalletInfo {
    /// Unix seconds; 0 while it is locked, absent if it is not encrypted.
    pub(super) unlocked_until: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Since {
    pub(super) transactions: Vec<Entry>,
    pub(super) lastblock: String,
}

/// One line of the wallet's history: a move between accounts, or an output that came in or went out.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    category: String,
    amount: Grc,
    #[serde(default)]
    fee: Grc,
    #[serde(default)]
    pub(super) confirmations: i64,
    address: Option<String>,
    txid: Option<String>,
    otheraccount: Option<String>,
    comment: Option<String>,
}

impl Entry {
    pub(super) fn txid(&self) -> Option<&str> {
        self.txid.as_deref()
    }

    /// Whether coins came in from outside. What the wallet sent to itself shows the fee it paid.
    pub(super) fn is_deposit(&self) -> bool {
        self.category == "receive" && self.fee.0 == Amount::ZERO
    }

    /// The output of an entry with an address we understand.
    pub(super) fn output(&self) -> Option<(String, Address, Amount)> {
        Some((
            self.txid.clone()?,
            self.address.as_deref()?.parse().ok()?,
            self.amount.0,
        ))
    }

    /// Whether this is the paying side of a payment of that id.
    pub(super) fn is_payment(&self, payment: &Payment) -> bool {
        let paying = match payment.route {
            Route::Move { .. } => self.category == "move" && self.amount.0.is_negative(),
            Route::Send { .. } => self.category == "send",
        };
        paying && self.comment.as_deref() == Some(payment.id.as_str())
    }

    /// Whether it went where it should, and all of it.
    pub(super) fn matches(&self, payment: &Payment) -> bool {
        let same_target = match &payment.route {
            Route::Move { to, .. } => self.otheraccount.as_ref() == Some(to),
            Route::Send { to, .. } => self.address.as_deref() == Some(to.as_str()),
        };
        same_target && self.amount.0.checked_neg() == Some(payment.amount)
    }

    pub(super) fn receipt(&self) -> Receipt {
        Receipt {
            txid: self.txid.clone(),
            fee: unsigned(self.fee),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Transaction {
    pub(super) confirmations: i64,
    #[serde(default)]
    fee: Grc,
    vout: Vec<Output>,
}

#[derive(Debug, Deserialize)]
struct Output {
    value: Grc,
    #[serde(rename = "scriptPubKey")]
    script: Script,
}

#[derive(Debug, Deserialize)]
struct Script {
    #[serde(default)]
    addresses: Vec<String>,
}

impl Transaction {
    pub(super) fn fee(&self) -> Amount {
        unsigned(self.fee)
    }

    /// Every output that pays one address, ours and others.
    pub(super) fn outputs(&self, txid: &str) -> Vec<(String, Address, Amount)> {
        let output = |output: &Output| match output.script.addresses.as_slice() {
            [address] => Some((txid.to_owned(), address.parse().ok()?, output.value.0)),
            _ => None,
        };
        self.vout.iter().filter_map(output).collect()
    }
}

/// The daemon shows a fee as a loss.
fn unsigned(fee: Grc) -> Amount {
    Amount::ZERO.saturating_sub(fee.0)
}
