//! Errors as the user reads them: `error: …`, then `hint: …`.

use std::fmt;

use service_kit::Chain;

/// An error, split into what went wrong and how to mend it.
///
/// Every error text of gridfaas carries its advice at its end, as `(hint: …)`, wherever it was made: so it survives
/// logs and gRPC, and is taken apart only here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) problem: String,
    pub(crate) hint: Option<String>,
}

impl Report {
    fn of(text: &str) -> Self {
        let mut problem = text.to_owned();
        let mut hint = None;
        while let Some((before, advice, after)) = split_hint(&problem) {
            // The outermost advice comes first and knows most about what the user was doing.
            hint.get_or_insert(advice.to_owned());
            problem = format!("{before}{after}");
        }
        // A configuration file's error ends with a line of its own.
        problem.truncate(problem.trim_end().len());
        Self { problem, hint }
    }
}

impl From<&anyhow::Error> for Report {
    fn from(err: &anyhow::Error) -> Self {
        Self::of(&Chain(err.as_ref()).to_string())
    }
}

/// The text before ` (hint: `, the advice itself, and the text after the closing bracket that belongs to it.
fn split_hint(text: &str) -> Option<(&str, &str, &str)> {
    const OPENING: &str = " (hint: ";
    let (before, rest) = text.split_once(OPENING)?;
    let mut depth = 1_u32;
    let closing = rest.char_indices().find_map(|(position, c)| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(position)
    })?;
    Some((before, &rest[..closing], &rest[closing + 1..]))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.problem)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_told_on_its_own_line_once() {
        for (text, told) in [
            ("no task `x`", "error: no task `x`"),
            ("no funds (hint: deposit)", "error: no funds\nhint: deposit"),
            (
                "bad key (hint: did you mean `a(b)`?): at line 3",
                "error: bad key: at line 3\nhint: did you mean `a(b)`?",
            ),
            (
                "outer (hint: first): inner (hint: second)",
                "error: outer: inner\nhint: first",
            ),
            ("broken (hint: never closed", "error: broken (hint: never closed"),
        ] {
            assert_eq!(Report::of(text).to_string(), told);
        }
    }

    #[test]
    fn causes_follow_their_effect() {
        let err = anyhow::anyhow!("permission denied").context("failed to read `x` (hint: run it as root)");
        assert_eq!(
            Report::from(&err).to_string(),
            "error: failed to read `x`: permission denied\nhint: run it as root"
        );
    }
}
