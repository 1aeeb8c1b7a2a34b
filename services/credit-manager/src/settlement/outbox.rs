//! The outbox, pure: a payment is written down before the wallet hears of it, and never made twice.
//!
//! ```text
//!             about to be sent             the wallet said done
//! unsent ──────────────────► in flight ───────────────────────► done
//!  ▲  ▲                       │  │  │                             ▲
//!  │  │  it was not made, and │  │  │ nobody knows, or a restart  │ the wallet has it
//!  │  │  may be another time  │  │  ▼                             │
//!  │  └───────────────────────┘  │ unclear ──────────────────────┘
//!  │                             │  │
//!  │   the wallet refused it for │  │ the wallet does not have it, and it is too late for the lost
//!  │   good, and does not have it│  │ request to be carried out still
//!  └─────────────────────────────┼──┘
//!                                ▼
//!                             failed
//! ```
//!
//! A failed payment is over: coins of a user go back to the user, and earnings get another payment later. A settlement
//! does not fail: its parts belong to their receivers, so a refused one is unsent again, to be tried ever more rarely. A
//! move that was done and that the wallet has forgotten, because an older copy of it was restored, is unsent again as
//! well, under the same id.

use units::{Amount, ReceiverName, Timestamp, UserName};

use super::gridcoin::Mode;
use super::split::Receivers;
use super::wallet::{Payment, Receipt, WalletError};

/// One row of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payout {
    pub payment: Payment,
    pub purpose: Purpose,
    pub state: PayoutState,
    /// Whether the ledger has booked it before: the wallet made it and forgot it.
    pub is_booked: bool,
    pub created_at: Timestamp,
    pub changed_at: Timestamp,
}

/// What a payment is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Charges of a user become a receiver's, within the wallet.
    Settlement { user: UserName, receiver: ReceiverName },
    /// Earnings leave for their receiver's own address.
    Earnings { receiver: ReceiverName },
    /// Coins of a user leave for an address of the user's choice.
    Withdrawal { user: UserName },
}

impl Purpose {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Settlement { .. } => "settlement",
            Self::Earnings { .. } => "earnings",
            Self::Withdrawal { .. } => "withdrawal",
        }
    }

    /// Whether the coins are a user's until they are gone, and not earned.
    pub const fn is_of_a_user(&self) -> bool {
        match self {
            Self::Withdrawal { .. } => true,
            Self::Settlement { .. } | Self::Earnings { .. } => false,
        }
    }

    pub fn user(&self) -> Option<&UserName> {
        match self {
            Self::Settlement { user, .. } | Self::Withdrawal { user } => Some(user),
            Self::Earnings { .. } => None,
        }
    }

    pub fn receiver(&self) -> Option<&ReceiverName> {
        match self {
            Self::Settlement { receiver, .. } | Self::Earnings { receiver } => Some(receiver),
            Self::Withdrawal { .. } => None,
        }
    }

    /// A purpose as the journal has it.
    pub fn restored(word: &str, user: Option<UserName>, receiver: Option<ReceiverName>) -> Option<Self> {
        match (word, user, receiver) {
            ("settlement", Some(user), Some(receiver)) => Some(Self::Settlement { user, receiver }),
            ("earnings", None, Some(receiver)) => Some(Self::Earnings { receiver }),
            ("withdrawal", Some(user), None) => Some(Self::Withdrawal { user }),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayoutState {
    Unsent,
    InFlight,
    Unclear,
    Done(Receipt),
    /// Why the wallet refused it for good.
    Failed(String),
}

impl PayoutState {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::InFlight => "in-flight",
            Self::Unclear => "unclear",
            Self::Done(_) => "done",
            Self::Failed(_) => "failed",
        }
    }

    pub const fn is_over(&self) -> bool {
        match self {
            Self::Unsent | Self::InFlight | Self::Unclear => false,
            Self::Done(_) | Self::Failed(_) => true,
        }
    }

    pub const fn receipt(&self) -> Option<&Receipt> {
        match self {
            Self::Done(receipt) => Some(receipt),
            Self::Unsent | Self::InFlight | Self::Unclear | Self::Failed(_) => None,
        }
    }

    pub const fn failure(&self) -> Option<&String> {
        match self {
            Self::Failed(reason) => Some(reason),
            Self::Unsent | Self::InFlight | Self::Unclear | Self::Done(_) => None,
        }
    }

    /// A state as the journal has it.
    pub fn restored(word: &str, receipt: Option<Receipt>, failure: Option<String>) -> Option<Self> {
        match (word, receipt, failure) {
            ("unsent", None, None) => Some(Self::Unsent),
            ("in-flight", None, None) => Some(Self::InFlight),
            ("unclear", None, None) => Some(Self::Unclear),
            ("done", Some(receipt), None) => Some(Self::Done(receipt)),
            ("failed", None, Some(reason)) => Some(Self::Failed(reason)),
            _ => None,
        }
    }
}

/// What to do after the wallet was told to make a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterSending {
    Become(PayoutState),
    /// The wallet refused, for this reason; whether it kept the payment all the same has to be asked.
    Look(String),
}

pub fn after_sending(sent: Result<Receipt, WalletError>) -> AfterSending {
    match sent {
        Ok(receipt) => AfterSending::Become(PayoutState::Done(receipt)),
        Err(err) if err.is_unclear() => AfterSending::Become(PayoutState::Unclear),
        Err(err) if err.is_final() => AfterSending::Look(service_kit::Chain(&err).to_string()),
        Err(_) => AfterSending::Become(PayoutState::Unsent),
    }
}

/// What becomes of a payment that the wallet refused, once it was asked whether it has it. The daemon may sign and record
/// a transaction, and then say no to it.
pub fn after_refusal(
    purpose: &Purpose,
    found: Result<Option<Receipt>, WalletError>,
    reason: String,
) -> PayoutState {
    match (found, purpose) {
        (Ok(Some(receipt)), _) => PayoutState::Done(receipt),
        (Ok(None), Purpose::Settlement { .. }) => PayoutState::Unsent,
        (Ok(None), Purpose::Earnings { .. } | Purpose::Withdrawal { .. }) => PayoutState::Failed(reason),
        (Err(_), _) => PayoutState::Unclear,
    }
}

/// What becomes of a payment whose outcome was unclear. `is_late`: the lost request cannot be carried out any more.
pub fn after_looking(found: Result<Option<Receipt>, WalletError>, is_late: bool) -> PayoutState {
    match found {
        Ok(Some(receipt)) => PayoutState::Done(receipt),
        Ok(None) if is_late => PayoutState::Unsent,
        Ok(None) | Err(_) => PayoutState::Unclear,
    }
}

/// Where settled money goes, and in what blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub mode: Mode,
    pub receivers: Receivers,
    /// What is less stays where it is. At least [`Receivers::amount_min`].
    pub min: Amount,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        Receipt {
            txid: None,
            fee: Amount::ZERO,
        }
    }

    fn unclear() -> WalletError {
        WalletError::Unclear {
            method: "move",
            err: "reset".into(),
        }
    }

    fn refused() -> WalletError {
        WalletError::Refused {
            method: "move",
            code: -3,
            message: "Invalid amount".to_owned(),
        }
    }

    fn locked_out() -> WalletError {
        WalletError::Unauthorised { url: String::new() }
    }

    #[test]
    fn only_what_was_surely_not_made_is_sent_again() {
        let become_ = AfterSending::Become;
        for (sent, next) in [
            (Ok(receipt()), become_(PayoutState::Done(receipt()))),
            (Err(unclear()), become_(PayoutState::Unclear)),
            (Err(locked_out()), become_(PayoutState::Unsent)),
            (
                Err(refused()),
                AfterSending::Look("the wallet refused `move`: Invalid amount (code -3)".to_owned()),
            ),
        ] {
            assert_eq!(after_sending(sent), next);
        }
        for (found, is_late, next) in [
            (Ok(Some(receipt())), false, PayoutState::Done(receipt())),
            (Ok(Some(receipt())), true, PayoutState::Done(receipt())),
            (Ok(None), false, PayoutState::Unclear),
            (Ok(None), true, PayoutState::Unsent),
            (Err(refused()), true, PayoutState::Unclear),
        ] {
            assert_eq!(after_looking(found, is_late), next);
        }
    }

    #[test]
    fn a_refusal_is_believed_when_the_wallet_does_not_have_the_payment() {
        let (user, receiver): (UserName, ReceiverName) =
            ("alice".parse().unwrap(), "gridfaas".parse().unwrap());
        let failed = PayoutState::Failed("no".to_owned());
        for (purpose, after_all) in [
            (Purpose::Withdrawal { user: user.clone() }, failed.clone()),
            (
                Purpose::Earnings {
                    receiver: receiver.clone(),
                },
                failed,
            ),
            (Purpose::Settlement { user, receiver }, PayoutState::Unsent),
        ] {
            let after = |found| after_refusal(&purpose, found, "no".to_owned());
            assert_eq!(after(Ok(None)), after_all);
            assert_eq!(after(Ok(Some(receipt()))), PayoutState::Done(receipt()));
            assert_eq!(after(Err(unclear())), PayoutState::Unclear);
        }
    }

    #[test]
    fn states_are_read_back() {
        for state in [
            PayoutState::Unsent,
            PayoutState::InFlight,
            PayoutState::Unclear,
            PayoutState::Done(receipt()),
            PayoutState::Failed("no".to_owned()),
        ] {
            let (receipt, failure) = (state.receipt().cloned(), state.failure().cloned());
            let restored = PayoutState::restored(state.as_str(), receipt, failure);
            assert_eq!(restored, Some(state));
        }
        assert_eq!(PayoutState::restored("done", None, None), None);
        assert_eq!(PayoutState::restored("failed", None, None), None);
    }
}
