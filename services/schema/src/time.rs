//! Wall time as it is written for people: RFC 3339, in UTC.

use std::fmt;

use serde::{Serialize, Serializer};

/// Milliseconds and the offset `Z` are always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rfc3339(pub units::Timestamp);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0.unix_ms()) {
            Ok(time) => f.pad(&format!("{time:.3}")),
            // Beyond the year 9999.
            Err(_) => f.pad(&self.0.unix_ms().to_string()),
        }
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
