//! SETTLEMENT: keeps the wallet in step with the ledger.

pub mod wallet;
