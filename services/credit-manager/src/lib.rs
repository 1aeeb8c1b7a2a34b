//! Bills CPU time against wallets and says what a balance allows.

pub mod settlement;
