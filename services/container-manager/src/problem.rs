//! What keeps a function from running, said to its user once, in the bucket.

use serde::Serialize;
use units::Timestamp;

/// Written to `status/error.json`; removed when it is mended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong; names the object.
    pub error: String,
    /// How to mend it.
    pub hint: String,
}

impl Problem {
    pub fn new(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            hint: hint.into(),
        }
    }

    pub fn document(&self, since: Timestamp) -> String {
        let document =
            serde_json::json!({ "error": self.error, "hint": self.hint, "since_ms": since.unix_ms() });
        format!("{document:#}\n")
    }
}
