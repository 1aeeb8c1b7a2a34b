//! Money, in halfords.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Halfords in one GRC.
const HALFORDS_PER_GRC: i64 = 100_000_000;
const DECIMALS: usize = 8;

/// Money in halfords (1 GRC = 10^8 halfords). Signed: a balance may go down to minus the debt limit.
///
/// Never made from a float: the wallet's JSON number is kept as text and parsed digit by digit. Its `Display` has
/// always eight decimals, as the Gridcoin daemon prints amounts; in JSON it is that text, so that no reader rounds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    #[error("`{0}` is not an amount of GRC (a decimal number such as 1.5)")]
    Syntax(String),
    #[error("`{0}` has more than eight decimals, the smallest unit is 0.00000001 GRC")]
    TooPrecise(String),
    #[error("`{0}` is larger than any wallet can hold")]
    TooLarge(String),
}

impl Amount {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(i64::MAX);

    pub const fn from_halfords(halfords: i64) -> Self {
        Self(halfords)
    }

    /// Whole GRC; for constants and tests. `None` if it does not fit.
    pub const fn from_grc(grc: i64) -> Option<Self> {
        match grc.checked_mul(HALFORDS_PER_GRC) {
            Some(halfords) => Some(Self(halfords)),
            None => None,
        }
    }

    pub const fn halfords(self) -> i64 {
        self.0
    }

    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    pub fn checked_neg(self) -> Option<Self> {
        self.0.checked_neg().map(Self)
    }

    /// Adds and stays at the ends of the range instead of overflowing. For limits and display, never for postings.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Subtracts and stays at the ends of the range instead of overflowing. For limits and display, never for postings.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// This amount, or zero where it is negative.
    pub const fn or_zero(self) -> Self {
        if self.0 < 0 { Self(0) } else { self }
    }
}

/// Sums saturate: a sum is for limits and display, a posting uses `checked_add`.
impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let per_grc = HALFORDS_PER_GRC.unsigned_abs();
        let (grc, rest) = (self.0.unsigned_abs() / per_grc, self.0.unsigned_abs() % per_grc);
        f.pad(&format!("{sign}{grc}.{rest:0DECIMALS$}"))
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    /// Reads a plain decimal number of GRC (`-0.05`, `4`, `1.50000000`); exponents are refused.
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let syntax = || AmountError::Syntax(text.to_owned());
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(decimals) {
            return Err(syntax());
        }
        let decimals = decimals.trim_end_matches('0');
        if decimals.len() > DECIMALS {
            return Err(AmountError::TooPrecise(text.to_owned()));
        }
        let too_large = || AmountError::TooLarge(text.to_owned());
        let whole: i64 = whole.parse().map_err(|_| too_large())?;
        let fraction: i64 = format!("{decimals:0<DECIMALS$}").parse().map_err(|_| syntax())?;
        let halfords = whole
            .checked_mul(HALFORDS_PER_GRC)
            .and_then(|h| h.checked_add(fraction))
            .ok_or_else(too_large)?;
        Ok(Self(if negative { -halfords } else { halfords }))
    }
}

impl Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_prints_grc() {
        for (text, halfords, printed) in [
            ("0", 0, "0.00000000"),
            ("4", 400_000_000, "4.00000000"),
            ("-0.05", -5_000_000, "-0.05000000"),
            ("0.00000001", 1, "0.00000001"),
            ("1.500000000000", 150_000_000, "1.50000000"),
        ] {
            let amount: Amount = text.parse().unwrap();
            assert_eq!(
                (amount.halfords(), amount.to_string().as_str()),
                (halfords, printed)
            );
        }
    }

    #[test]
    fn refuses_what_is_not_a_plain_decimal() {
        for text in [
            "", "-", ".", "1.", ".5", "1e-3", "+1", " 1", "1,5", "NaN", "--1", "0x1", "1.0.0",
        ] {
            assert_eq!(
                text.parse::<Amount>(),
                Err(AmountError::Syntax(text.to_owned())),
                "{text}"
            );
        }
        assert!(matches!(
            "0.000000001".parse::<Amount>(),
            Err(AmountError::TooPrecise(_))
        ));
        assert!(matches!(
            "92233720368.54775808".parse::<Amount>(),
            Err(AmountError::TooLarge(_))
        ));
        assert!(matches!(
            "99999999999999999999".parse::<Amount>(),
            Err(AmountError::TooLarge(_))
        ));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(halfords in -i64::MAX..=i64::MAX) {
            let amount = Amount::from_halfords(halfords);
            prop_assert_eq!(amount.to_string().parse::<Amount>(), Ok(amount));
        }
    }
}
