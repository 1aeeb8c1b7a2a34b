//! What keeps a function from running, said to its user once, in the bucket.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use units::{FunctionName, Timestamp};

/// What a user can do about a fault of the node.
pub const OURS_TO_MEND: &str =
    "the tasks wait and are tried again; if it goes on, tell the operator of this node";

/// Written to `status/error.json`; removed when it is mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong; names the object.
    pub error: String,
    /// How to mend it.
    pub hint: String,
    /// The error has figures that differ from look to look.
    has_figures: bool,
}

impl Problem {
    pub fn new(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            hint: hint.into(),
            has_figures: false,
        }
    }

    /// A problem that stays the same when only its figures change.
    pub fn with_figures(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            has_figures: true,
            ..Self::new(error, hint)
        }
    }

    /// Whether the user, who was told `told`, has to be told this.
    pub fn is_news_after(&self, told: Option<&Self>) -> bool {
        told.is_none_or(|told| {
            let is_same = if self.has_figures {
                told.has_figures && told.hint == self.hint
            } else {
                told == self
            };
            !is_same
        })
    }

    pub fn document(&self, since: Timestamp) -> String {
        let document =
            serde_json::json!({ "error": self.error, "hint": self.hint, "since_ms": since.unix_ms() });
        format!("{document:#}\n")
    }
}

/// What keeps functions of this node from running now.
#[derive(Debug, Default)]
pub struct Problems(Mutex<Now>);

#[derive(Debug, Default)]
struct Now {
    of_node: Option<Problem>,
    of_functions: BTreeMap<FunctionName, Problem>,
}

impl Problems {
    /// The node's own problems come first: they are every function's.
    pub fn of(&self, function: &FunctionName) -> Option<Problem> {
        let now = self.lock();
        now.of_node
            .as_ref()
            .or_else(|| now.of_functions.get(function))
            .cloned()
    }

    pub fn set(&self, function: &FunctionName, problem: Problem) {
        self.lock().of_functions.insert(function.clone(), problem);
    }

    pub fn clear(&self, function: &FunctionName) {
        self.lock().of_functions.remove(function);
    }

    /// What keeps every function from running; `None`: nothing does any more.
    pub fn set_node(&self, problem: Option<Problem>) {
        self.lock().of_node = problem;
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // No entry is ever half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_whatever_its_figures() {
        let script = Problem::new("no script", "upload one");
        let broke = Problem::with_figures("lasts 3 s", "deposit");
        for (problem, told, is_news) in [
            (&script, None, true),
            (&script, Some(&script), false),
            (&script, Some(&Problem::new("empty script", "upload one")), true),
            (&broke, Some(&script), true),
            (&script, Some(&broke), true),
            (
                &broke,
                Some(&Problem::with_figures("lasts 2 s", "deposit")),
                false,
            ),
            (
                &broke,
                Some(&Problem::with_figures("spends 2 GRC", "raise it")),
                true,
            ),
        ] {
            assert_eq!(problem.is_news_after(told), is_news, "{problem:?} after {told:?}");
        }
    }
}
