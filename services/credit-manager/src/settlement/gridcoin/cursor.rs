//! What one scan for deposits hands to the next.

use std::collections::BTreeSet;

use crate::settlement::wallet::Cursor;

/// The daemon takes this for an unknown block, and lists everything.
const BEFORE_ALL: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScanState {
    /// The hash of the block after which the next scan begins.
    pub(super) block: String,
    /// The transactions with deposits that were listed. One that leaves the chain vanishes from the list without a word,
    /// so what is missing the next time has to be asked for.
    pub(super) seen: BTreeSet<String>,
}

impl Default for ScanState {
    fn default() -> Self {
        Self {
            block: BEFORE_ALL.to_owned(),
            seen: BTreeSet::new(),
        }
    }
}

impl ScanState {
    /// Reads what [`ScanState::to_cursor`] wrote.
    pub(super) fn parse(cursor: &Cursor) -> Self {
        let mut words = cursor.0.split(' ').map(str::to_owned);
        Self {
            block: words.next().unwrap_or_default(),
            seen: words.collect(),
        }
    }

    pub(super) fn to_cursor(&self) -> Cursor {
        let seen = self.seen.iter().map(String::as_str);
        let words: Vec<&str> = std::iter::once(self.block.as_str()).chain(seen).collect();
        Cursor(words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back() {
        for seen in [vec![], vec!["a"], vec!["a", "b"]] {
            let seen = seen.into_iter().map(str::to_owned).collect();
            let state = ScanState {
                block: "0a".to_owned(),
                seen,
            };
            assert_eq!(ScanState::parse(&state.to_cursor()), state);
        }
    }
}
