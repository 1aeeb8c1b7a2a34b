//! Who earns what: each settled amount is split between the receivers in proportion to their shares.
//!
//! What a receiver gets of an amount is the difference of two cumulative shares, before and after it. So the parts always
//! sum to the amount, and however many amounts are split, a receiver is never a halford off its exact share of them all.

use units::{Amount, ReceiverName};

use super::wallet::Address;

/// The wallet's account of a receiver in `accounts` mode, and in either mode the label of its address. It has a colon, so
/// it is no user's.
pub fn label_of(receiver: &ReceiverName) -> String {
    format!("earnings:{receiver}")
}

/// Somebody who earns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    pub name: ReceiverName,
    /// Of the sum of all receivers' shares; more than 0.
    pub share: u32,
    pub address: Option<Address>,
}

/// All who earn, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receivers(Vec<Receiver>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiversError {
    #[error("there is no receiver")]
    None,
    #[error("receiver `{0}` has no share")]
    NoShare(ReceiverName),
    #[error("there are two receivers named `{0}`")]
    Twice(ReceiverName),
    #[error("the shares sum to more than {SHARES_MAX} (hint: 800 and 200 are as good as 8000 and 2000)")]
    TooFine,
}

/// Of all shares together. An amount is split only if every share of it is at least a halford.
const SHARES_MAX: u64 = 1_000_000;

impl Receivers {
    pub fn new(receivers: Vec<Receiver>) -> Result<Self, ReceiversError> {
        if receivers.is_empty() {
            return Err(ReceiversError::None);
        }
        for (at, Receiver { name, share, .. }) in receivers.iter().enumerate() {
            if *share == 0 {
                return Err(ReceiversError::NoShare(name.clone()));
            }
            if receivers.iter().take(at).any(|other| other.name == *name) {
                return Err(ReceiversError::Twice(name.clone()));
            }
        }
        let receivers = Self(receivers);
        if receivers.shares() > SHARES_MAX {
            return Err(ReceiversError::TooFine);
        }
        Ok(receivers)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Receiver> {
        self.0.iter()
    }

    fn shares(&self) -> u64 {
        self.0.iter().map(|receiver| u64::from(receiver.share)).sum()
    }

    /// The least amount that can be split fairly. At most 0.01 GRC.
    pub fn amount_min(&self) -> Amount {
        i64::try_from(self.shares()).map_or(Amount::MAX, Amount::from_halfords)
    }

    /// What each receiver gets of `amount`, when `settled` was split before it. The parts sum to the amount, and none is
    /// negative if it is at least [`Receivers::amount_min`]. Receivers with nothing are left out.
    pub fn split(&self, settled: Amount, amount: Amount) -> Vec<(&Receiver, Amount)> {
        let (before, after) = (settled, settled.saturating_add(amount));
        let mut shares_below = 0;
        let mut parts = Vec::new();
        for receiver in &self.0 {
            let shares = shares_below + i128::from(receiver.share);
            let of = |total: Amount| self.below(total, shares) - self.below(total, shares_below);
            let part = i64::try_from(of(after) - of(before)).expect("a part is at most the amount");
            if part != 0 {
                parts.push((receiver, Amount::from_halfords(part)));
            }
            shares_below = shares;
        }
        parts
    }

    /// What the receivers with the first `shares` shares get of `total`, rounded down.
    fn below(&self, total: Amount, shares: i128) -> i128 {
        (i128::from(total.halfords()) * shares).div_euclid(i128::from(self.shares()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn receivers(shares: &[u32]) -> Receivers {
        let receiver = |(number, share): (usize, &u32)| Receiver {
            name: format!("receiver-{number}").parse().unwrap(),
            share: *share,
            address: None,
        };
        Receivers::new(shares.iter().enumerate().map(receiver).collect()).unwrap()
    }

    #[test]
    fn shares_of_800_and_200() {
        let both = receivers(&[800, 200]);
        let parts = |settled: i64, amount: i64| -> Vec<i64> {
            let split = both.split(Amount::from_halfords(settled), Amount::from_halfords(amount));
            split.iter().map(|(_, part)| part.halfords()).collect()
        };
        assert_eq!(parts(0, 5_000_000), [4_000_000, 1_000_000]);
        assert_eq!(parts(0, 1_001), [800, 201]);
        // What was rounded to one's advantage is made up for.
        assert_eq!(parts(1_001, 1_001), [801, 200]);
        // Too little to divide goes to one.
        assert_eq!(parts(0, 1), [1]);
    }

    #[test]
    fn receivers_that_make_no_sense_are_refused() {
        let of = |shares: &[(&str, u32)]| {
            let receiver = |(name, share): &(&str, u32)| Receiver {
                name: name.parse().unwrap(),
                share: *share,
                address: None,
            };
            Receivers::new(shares.iter().map(receiver).collect())
                .unwrap_err()
                .to_string()
        };
        assert!(of(&[]).contains("no receiver"));
        assert!(of(&[("a", 0)]).contains("`a`"));
        assert!(of(&[("a", 1), ("b", 1), ("a", 2)]).contains("`a`"));
        assert!(of(&[("a", 1), ("b", u32::MAX)]).contains("1000000"));
        for name in ["", "A", "1a", "a:b", &"a".repeat(33)] {
            assert!(name.parse::<ReceiverName>().is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn parts_sum_to_the_amount_and_no_receiver_drifts_by_a_halford(
            shares in prop::collection::vec(1..1_000_u32, 1..6),
            amounts in prop::collection::vec(0..100_000_000_i64, 1..100),
        ) {
            let receivers = receivers(&shares);
            let sum = i128::from(receivers.amount_min().halfords());
            let mut settled = Amount::ZERO;
            let mut got: BTreeMap<&ReceiverName, i128> = BTreeMap::new();
            for amount in amounts {
                let amount = receivers.amount_min().saturating_add(Amount::from_halfords(amount));
                let parts = receivers.split(settled, amount);
                prop_assert_eq!(parts.iter().map(|(_, part)| *part).sum::<Amount>(), amount);
                prop_assert!(parts.iter().all(|(_, part)| part.is_positive()));
                for (receiver, part) in parts {
                    *got.entry(&receiver.name).or_default() += i128::from(part.halfords());
                }
                settled = settled.saturating_add(amount);
                for receiver in receivers.iter() {
                    let exact = i128::from(settled.halfords()) * i128::from(receiver.share);
                    let drift = got.get(&receiver.name).copied().unwrap_or_default() * sum - exact;
                    prop_assert!(drift.abs() < sum, "{} is off by {drift}/{sum}", receiver.name);
                }
            }
        }
    }
}
