//! SETTLEMENT: keeps the wallet in step with the ledger.
//!
//! Our ledger is the truth, the wallet mirrors it. [`deposit`] credits what arrives on the chain, [`payout`] pays out
//! what was earned, split as [`split`] says, and what users withdraw ([`withdrawal`]), both by way of the [`outbox`].
//! [`audit`] proves that both agree, [`reconcile`] does so on a timer.

pub mod audit;
pub mod deposit;
pub mod fake;
pub mod gridcoin;
mod listing;
pub mod mirror;
pub mod outbox;
pub mod payout;
pub mod receiver_check;
pub mod reconcile;
pub mod split;
pub mod wallet;
pub mod withdrawal;
