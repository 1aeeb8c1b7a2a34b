//! Numbers on the wire: amounts without floats, and parameters checked as the daemon checks them.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use units::Amount;

use crate::address::Address;
use crate::error::RpcError;
use crate::hash::Hash256;

/// More coins than will ever be.
const AMOUNT_MAX: Amount = match Amount::from_grc(2_000_000_000) {
    Some(amount) => amount,
    None => Amount::MAX,
};

/// An amount as the daemon prints it: a JSON number with eight decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grc(pub(crate) Amount);

impl Serialize for Grc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.to_string())
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

/// Turns a result into the text that goes out. Not by way of `Value`, which would make floats of the amounts.
pub(crate) fn raw(value: &(impl Serialize + ?Sized)) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("results have text keys and no failing parts")
}

/// The positional parameters of one call. An explicit `null` is not an absent parameter.
pub(crate) struct Params<'a>(pub(crate) &'a [Box<RawValue>]);

impl Params<'_> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, at: usize) -> Option<&str> {
        self.0.get(at).map(|raw| raw.get())
    }

    pub(crate) fn text(&self, at: usize) -> Result<Option<String>, RpcError> {
        self.get(at)
            .map(|raw| serde_json::from_str(raw).map_err(|_| RpcError::wrong_type("a string")))
            .transpose()
    }

    pub(crate) fn flag(&self, at: usize) -> Result<Option<bool>, RpcError> {
        self.get(at)
            .map(|raw| serde_json::from_str(raw).map_err(|_| RpcError::wrong_type("a boolean")))
            .transpose()
    }

    pub(crate) fn integer(&self, at: usize) -> Result<Option<i64>, RpcError> {
        let parse = |raw: &str| match raw.parse() {
            Ok(number) => Ok(number),
            Err(_) if is_number(raw) => Err(RpcError::misc("JSON integer out of range")),
            Err(_) => Err(RpcError::wrong_type("an integer")),
        };
        self.get(at).map(parse).transpose()
    }

    /// An amount above zero and not above all coins there can be.
    pub(crate) fn amount(&self, at: usize) -> Result<Option<Amount>, RpcError> {
        self.get(at).map(amount).transpose()
    }

    pub(crate) fn address(&self, at: usize) -> Result<Option<Address>, RpcError> {
        let parse = |text: String| text.parse().map_err(|_| RpcError::invalid_address());
        self.text(at)?.map(parse).transpose()
    }

    /// The name of an account; `*` stands for all of them and is not a name.
    pub(crate) fn account(&self, at: usize) -> Result<Option<String>, RpcError> {
        match self.text(at)? {
            Some(name) if name == "*" => Err(RpcError::invalid_account()),
            name => Ok(name),
        }
    }

    /// A hash; `None` too for text that is not one, which names nothing either.
    pub(crate) fn hash(&self, at: usize) -> Result<Option<Hash256>, RpcError> {
        Ok(self.text(at)?.and_then(|text| text.parse().ok()))
    }

    /// A list of recipients, written as an object from address to amount.
    pub(crate) fn recipients(&self, at: usize) -> Result<Vec<(Address, Amount)>, RpcError> {
        let recipients: BTreeMap<String, Box<RawValue>> = self
            .get(at)
            .and_then(|raw| serde_json::from_str(raw).ok())
            .ok_or_else(|| RpcError::wrong_type("an object"))?;
        recipients
            .iter()
            .map(|(name, raw)| {
                let to = name.parse().map_err(|_| RpcError::invalid_recipient(name))?;
                Ok((to, amount(raw.get())?))
            })
            .collect()
    }
}

fn is_number(raw: &str) -> bool {
    raw.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

fn amount(raw: &str) -> Result<Amount, RpcError> {
    if !is_number(raw) {
        return Err(RpcError::wrong_type("a number"));
    }
    rounded(raw).ok_or_else(RpcError::invalid_amount)
}

/// Reads a JSON number as an amount, rounding decimals after the eighth to the nearest halford and a tie down, as the
/// daemon was seen to do. `None` for zero, negative and too large numbers; a positive one may still round to zero.
fn rounded(number: &str) -> Option<Amount> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{decimals}").parse().ok()?;
    if digits <= 0 {
        return None;
    }
    let shift = exponent
        .parse::<i32>()
        .ok()?
        .checked_add(8)?
        .checked_sub(i32::try_from(decimals.len()).ok()?)?;
    let scale = 10_i128.checked_pow(shift.unsigned_abs());
    let halfords = match (shift < 0, scale) {
        (false, scale) => digits.checked_mul(scale?)?,
        (true, Some(scale)) => (digits + (scale - 1) / 2) / scale,
        (true, None) => 0,
    };
    let amount = Amount::from_halfords(i64::try_from(halfords).ok()?);
    (amount <= AMOUNT_MAX).then_some(amount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_digit_by_digit() {
        for (text, halfords) in [
            ("1.5", Some(150_000_000)),
            ("2", Some(200_000_000)),
            ("1e-3", Some(100_000)),
            ("1E2", Some(10_000_000_000)),
            ("1e-08", Some(1)),
            ("0.000000001", Some(0)),
            ("0.000000015", Some(1)),
            ("0.000000016", Some(2)),
            ("1.123456789", Some(112_345_679)),
            ("30000000.00000001", Some(3_000_000_000_000_001)),
            ("2000000000", Some(200_000_000_000_000_000)),
            ("2000000000.1", None),
            ("1e999999999", None),
            ("1e-999999999", Some(0)),
            ("0", None),
            ("-1", None),
        ] {
            assert_eq!(rounded(text).map(Amount::halfords), halfords, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(halfords in 1..=200_000_000_000_000_000_i64) {
            let amount = Amount::from_halfords(halfords);
            prop_assert_eq!(rounded(raw(&Grc(amount)).get()), Some(amount));
        }
    }
}
