//! CHARGE: the ledger. Double entry, integers, append-only.

pub mod accounts;
pub mod history;
pub mod journal;
mod load;
pub mod reader;
mod rows;
pub mod transfers;

pub use accounts::{Account, Balances};
pub use journal::Journal;
pub use reader::Reader;
pub use transfers::{Kind, Transfer, TransferId};
