//! Errors in the daemon's own words and numbers.

use std::borrow::Cow;

use serde::Serialize;

use crate::snapshot::SnapshotError;

/// An error as it stands in a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct RpcError {
    pub code: i32,
    pub message: Cow<'static, str>,
}

impl RpcError {
    pub(crate) const fn new(code: i32, message: &'static str) -> Self {
        Self {
            code,
            message: Cow::Borrowed(message),
        }
    }

    fn with(code: i32, message: String) -> Self {
        Self {
            code,
            message: Cow::Owned(message),
        }
    }

    /// The HTTP status that carries this error.
    pub(crate) fn status(&self) -> u16 {
        match self.code {
            -32600 => 400,
            -32601 => 404,
            _ => 500,
        }
    }

    pub(crate) const fn parse() -> Self {
        Self::new(-32700, "Parse error")
    }

    pub(crate) const fn not_an_object() -> Self {
        Self::new(-32700, "Top-level object parse error")
    }

    pub(crate) const fn invalid_request(message: &'static str) -> Self {
        Self::new(-32600, message)
    }

    pub(crate) const fn unknown_method() -> Self {
        Self::new(-32601, "Method not found")
    }

    pub(crate) const fn misc(message: &'static str) -> Self {
        Self::new(-1, message)
    }

    pub(crate) fn wrong_type(wanted: &str) -> Self {
        Self::with(-1, format!("JSON value is not {wanted} as expected"))
    }

    pub(crate) const fn invalid_amount() -> Self {
        Self::new(-3, "Invalid amount")
    }

    pub(crate) const fn no_coins() -> Self {
        Self::new(-4, "Insufficient funds")
    }

    pub(crate) const fn invalid_address() -> Self {
        Self::new(-5, "Invalid Gridcoin address")
    }

    pub(crate) fn invalid_recipient(name: &str) -> Self {
        Self::with(-5, format!("Invalid Gridcoin address: {name}"))
    }

    pub(crate) const fn account_short() -> Self {
        Self::new(-6, "Account has insufficient funds")
    }

    pub(crate) const fn invalid_parameter(message: &'static str) -> Self {
        Self::new(-8, message)
    }

    pub(crate) const fn invalid_account() -> Self {
        Self::new(-11, "Invalid account name")
    }
}

impl From<SnapshotError> for RpcError {
    fn from(err: SnapshotError) -> Self {
        Self {
            code: -1,
            message: service_kit::Chain(&err).to_string().into(),
        }
    }
}
