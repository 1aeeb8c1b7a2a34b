//! The edge to the chain: what settlement needs of a wallet, and what a wallet promises.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use units::{Amount, UserName};

/// A wallet that holds every user's coins.
///
/// Our ledger is the truth and the wallet mirrors it, so the wallet is never asked what a user owns: only for deposits
/// that arrived and for payments to be made.
#[async_trait]
pub trait Wallet: Send + Sync + 'static {
    /// Checks that the wallet answers, accepts our credentials and is set up for its mode.
    ///
    /// Errors name what is wrong and how to mend it.
    async fn check(&self) -> Result<(), WalletError>;

    /// The deposit address of a user. The same user gets the same address again, also after a restart.
    async fn deposit_address(&self, user: &UserName) -> Result<Address, WalletError>;

    /// Every deposit since `cursor` (`None`: since the beginning), and some older ones again: each at least until it is
    /// `confirmations` deep, and in a scan after that.
    ///
    /// One that was reported before and has left the chain since is reported once with negative confirmations, however
    /// deep it was; one that merely waits again for a block, with 0. A deposit keeps its [`DepositId`] in all of that.
    /// Coins the wallet sent to itself are no deposit.
    async fn deposits(&self, cursor: Option<&Cursor>, confirmations: u32) -> Result<Deposits, WalletError>;

    /// Makes one payment. Refuses to send to an address of its own, where the coins would only stay.
    ///
    /// After `Ok` it is made, durably. After an error that [`WalletError::is_unclear`] it may have been made or may
    /// still be: ask [`Wallet::find_payment`] before trying again. After any other error it was not made.
    async fn pay(&self, payment: &Payment) -> Result<Receipt, WalletError>;

    /// Looks for a payment made earlier under this id.
    async fn find_payment(&self, payment: &Payment) -> Result<Option<Receipt>, WalletError>;

    /// What the wallet knows of an address.
    async fn address_facts(&self, address: &Address) -> Result<AddressFacts, WalletError>;

    /// The addresses, own and others', that the wallet has under this label.
    async fn addresses_of(&self, label: &str) -> Result<Vec<Address>, WalletError>;

    /// What each of the wallet's accounts holds, deposits of at least this many confirmations counted. `None` where it keeps
    /// no accounts.
    async fn account_balances(
        &self,
        confirmations: u32,
    ) -> Result<Option<BTreeMap<String, Amount>>, WalletError>;

    /// Whether the wallet knows a transaction, and the chain did not put it aside.
    async fn has_transaction(&self, txid: &str) -> Result<bool, WalletError>;

    /// Checks that nothing but the coins themselves stands in the way of sending: an encrypted wallet has to be unlocked.
    async fn check_unlocked(&self) -> Result<(), WalletError>;

    /// All coins of the wallet that came in and are `confirmations` deep (the daemon wants at least 3), less all that was
    /// spent.
    async fn balance(&self, confirmations: u32) -> Result<Amount, WalletError>;
}

/// An address on the chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Address(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a Gridcoin address")]
pub struct AddressError(String);

impl Address {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Accepts what looks like an address (base58, 26 to 35 characters); only the wallet knows whether it is one.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let base58 = |b: u8| b.is_ascii_alphanumeric() && !b"0OIl".contains(&b);
        if (26..=35).contains(&text.len()) && text.bytes().all(base58) {
            Ok(Self(text.to_owned()))
        } else {
            Err(AddressError(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a wallet knows of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressFacts {
    /// Of another network, or of none.
    Invalid,
    /// The wallet's own, and the account it belongs to.
    Own { account: String },
    /// Somebody else's, with the label it has in the wallet's address book.
    Foreign { label: Option<String> },
}

/// Where a scan for deposits goes on. Text of the wallet's own making, to be kept and handed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

/// One scan's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deposits {
    pub deposits: Vec<Deposit>,
    pub cursor: Cursor,
}

/// Identifies one received output. The daemon does not tell the output's index, so outputs of one transaction that are
/// alike in address and amount are told apart by their `ordinal` among themselves: two equal ones are 0 and 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DepositId {
    pub txid: String,
    pub address: Address,
    pub amount: Amount,
    pub ordinal: u32,
}

/// Coins received at a deposit address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deposit {
    pub id: DepositId,
    /// 0: in the memory pool. Negative: it left the chain, because its coins were spent otherwise.
    pub confirmations: i64,
}

/// A payment of settled money, named by an id of ours that travels as the RPC's comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    pub id: PaymentId,
    pub amount: Amount,
    pub route: Route,
}

/// `[A-Za-z0-9:._-]` only: a NUL in a comment destroys the daemon's wallet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaymentId(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot travel as a wallet comment")]
pub struct PaymentIdError(String);

impl PaymentId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PaymentId {
    type Err = PaymentIdError;

    fn from_str(text: &str) -> Result<Self, PaymentIdError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b":._-".contains(&b);
        if (1..=100).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PaymentIdError(text.to_owned()))
        }
    }
}

impl fmt::Display for PaymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How the coins travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Between accounts of one wallet (`accounts` mode): free, and only bookkeeping of the wallet.
    Move { from: String, to: String },
    /// To an address on the chain: costs a fee. In `accounts` mode both are taken from an account of the wallet.
    Send { from: Option<String>, to: Address },
}

/// What a made payment left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Absent for a move, which is not a transaction.
    pub txid: Option<String>,
    /// What the payment cost the wallet on top of its amount.
    pub fee: Amount,
}

#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    #[error("the wallet at {url} cannot be reached")]
    Unreachable {
        url: String,
        #[source]
        err: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the wallet at {url} refused our user name or password (hint: compare rpcuser and rpcpassword)")]
    Unauthorised { url: String },
    /// The daemon's own words: its error code and message.
    #[error("the wallet refused `{method}`: {message} (code {code})")]
    Refused {
        method: &'static str,
        code: i32,
        message: String,
    },
    /// The daemon has its accounts API switched off, which `accounts` mode needs.
    #[error("the wallet has its accounts switched off (hint: {hint}, then restart gridcoinresearchd)")]
    AccountsOff { hint: &'static str },
    #[error("the wallet is locked (hint: the operator unlocks it with `walletpassphrase`)")]
    Locked,
    /// Found out before anything was sent.
    #[error("payment {id} cannot be made: {problem}")]
    Impossible { id: PaymentId, problem: String },
    #[error(
        "the wallet's answer to `{method}` was lost or cut off, so whether it was carried out is unknown"
    )]
    Unclear {
        method: &'static str,
        #[source]
        err: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the wallet's answer to `{method}` makes no sense: {problem}")]
    Nonsense { method: &'static str, problem: String },
}

impl WalletError {
    /// Whether a payment that ended with this error may have been made all the same.
    pub fn is_unclear(&self) -> bool {
        match self {
            Self::Unclear { .. } | Self::Nonsense { .. } => true,
            Self::Unreachable { .. }
            | Self::Unauthorised { .. }
            | Self::Refused { .. }
            | Self::AccountsOff { .. }
            | Self::Locked
            | Self::Impossible { .. } => false,
        }
    }

    /// Whether the wallet refused a payment as such, so that the same payment would be refused again.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Impossible { .. } => true,
            Self::Unreachable { .. }
            | Self::Unauthorised { .. }
            | Self::AccountsOff { .. }
            | Self::Locked
            | Self::Unclear { .. }
            | Self::Nonsense { .. } => false,
        }
    }

    /// Whether the same call may succeed later without anybody mending anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Unclear { .. } => true,
            Self::Unauthorised { .. }
            | Self::Refused { .. }
            | Self::AccountsOff { .. }
            | Self::Locked
            | Self::Impossible { .. }
            | Self::Nonsense { .. } => false,
        }
    }
}
