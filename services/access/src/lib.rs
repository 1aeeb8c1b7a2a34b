//! Who is calling, and what they may do.
//!
//! ```text
//!   connection ──► listener: plain, or TLS; a node's certificate names the node
//!       request ──► layer: token or certificate ──► Caller ──► matrix: may this role call this method?
//!                                                                 │ all, own: on, with the Caller
//!                                                                 ▼ nothing: refused
//!                                              handler ──► Caller::check_owner: whose object is this?
//! ```
//!
//! | Where | What |
//! |---|---|
//! | [`caller`] | roles, and whose objects a caller reaches |
//! | [`matrix`] | method × role, as data |
//! | [`layer`] | the door of a service |
//! | [`token`], [`book`] | tokens, and where they are kept as hashes |
//! | [`identity`], [`tls`], [`pki`] | certificates: what they say, how they are read again, how they are made |
//! | [`listener`], [`client`] | the two ends of a connection |
//! | [`s3`] | users' keys to the embedded object store |

pub mod book;
pub mod caller;
pub mod client;
pub mod identity;
pub mod layer;
pub mod listener;
pub mod matrix;
pub mod pki;
pub mod s3;
pub mod tls;
pub mod token;

pub use book::Book;
pub use caller::{Caller, Role};
pub use client::{Channel, Target};
pub use layer::{AccessLayer, Authority};
pub use token::TokenHash;
