//! Errors as people and retry loops see them.

use std::error::Error;
use std::fmt;

/// An error with all its causes, on one line: `failed to read `x`: permission denied`.
///
/// `%err` alone drops the causes, so logs say `%Chain(&err)`.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut said = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(err) = cause {
            let text = err.to_string();
            // A transparent error repeats the words of its source.
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
            cause = err.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to read `{0}`")]
    struct Read(&'static str, #[source] std::io::Error);

    #[test]
    fn a_chain_says_every_cause_once() {
        let err = Read("x", std::io::Error::other("permission denied"));
        assert_eq!(Chain(&err).to_string(), "failed to read `x`: permission denied");
    }
}
