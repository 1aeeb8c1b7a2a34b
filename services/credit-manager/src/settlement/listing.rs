//! Lists as people read them.

use std::fmt;

/// So many are named; of the others only how many they are.
const NAMED_MAX: usize = 10;

/// `none`, `alice, bob`, or `a, b, c, d, e, f, g, h, i, j and 3 more`.
pub(super) struct Listing<'a, T>(pub(super) &'a [T]);

impl<T: fmt::Display> fmt::Display for Listing<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, others)) = self.0.split_first() else {
            return f.write_str("none");
        };
        write!(f, "{first}")?;
        for other in others.iter().take(NAMED_MAX - 1) {
            write!(f, ", {other}")?;
        }
        match self.0.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_ten_are_named() {
        for (count, text) in [
            (0, "none"),
            (1, "1"),
            (2, "1, 2"),
            (10, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
            (11, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 1 more"),
            (13, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more"),
        ] {
            let numbers: Vec<u32> = (1..=count).collect();
            assert_eq!(Listing(&numbers).to_string(), text);
        }
    }
}
