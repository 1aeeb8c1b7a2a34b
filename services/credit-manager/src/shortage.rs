//! Who has to go when a user's funds do not last for everything. Pure.
//!
//! A user may ask that a shortage does not slow all work down together, but stops the newest, so that the older goes on:
//! as long as the balance does not last [`threshold`] with everything at its present capacity, the newest session goes.
//! The oldest stays, and comes to the end of its grant like any other.

use std::time::Duration;

use units::{Amount, SessionId};

use crate::pace;

/// Where a user has no minimum runway: time for the stopped to leave before the older ones feel it.
const RUNWAY_LEAST: Duration = Duration::from_secs(10);

/// The runway below which the newest goes, and nothing new comes.
pub fn threshold(min_runway: Duration) -> Duration {
    min_runway.max(RUNWAY_LEAST)
}

/// Those that have to go, newest first. `hourly` has every session, oldest first, with what its capacity costs.
pub fn surplus(balance: Amount, threshold: Duration, hourly: &[(SessionId, Amount)]) -> Vec<SessionId> {
    let mut joint: Amount = hourly.iter().map(|(_, cost)| *cost).sum();
    let mut going = Vec::new();
    for (session, cost) in hourly.iter().skip(1).rev() {
        if pace::lasts(balance, joint).is_none_or(|lasts| lasts >= threshold) {
            break;
        }
        going.push(*session);
        joint = joint.saturating_sub(*cost);
    }
    going
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grc(grc: i64) -> Amount {
        Amount::from_grc(grc).unwrap()
    }

    #[test]
    fn with_funds_for_one_the_third_goes_before_the_second() {
        let [a, b, c] = std::array::from_fn(|_| SessionId::new());
        let hourly = [(a, grc(6)), (b, grc(6)), (c, grc(6))];
        let minute = Duration::from_secs(60);
        // A minute of all three costs 0.3.
        for (halfords, expected) in [
            (30_000_000, vec![]),
            (29_999_000, vec![c]),
            (20_000_000, vec![c]),
            (19_999_000, vec![c, b]),
            (1, vec![c, b]),
            (-5, vec![c, b]),
        ] {
            let found = surplus(Amount::from_halfords(halfords), minute, &hourly);
            assert_eq!(found, expected, "at {halfords}");
        }
    }

    proptest! {
        #[test]
        fn no_more_go_than_must_and_always_the_newest(
            costs in prop::collection::vec(0..1_000_000_000_i64, 0..8), balance in -100..1_000_000_i64, secs in 0..1000_u64
        ) {
            let hourly: Vec<_> = costs.iter().map(|cost| (SessionId::new(), Amount::from_halfords(*cost))).collect();
            let (balance, threshold) = (Amount::from_halfords(balance), Duration::from_secs(secs));
            let going = surplus(balance, threshold, &hourly);
            let stay = hourly.len() - going.len();
            let newest: Vec<_> = hourly[stay..].iter().rev().map(|(id, _)| *id).collect();
            prop_assert_eq!(&going, &newest);
            let lasts = |count: usize| {
                let joint = hourly[..count].iter().map(|(_, cost)| *cost).sum();
                pace::lasts(balance, joint).is_none_or(|lasts| lasts >= threshold)
            };
            prop_assert!(stay <= 1 || lasts(stay), "those that stay last long enough");
            prop_assert!(going.is_empty() || !lasts(stay + 1), "the last to go had to");
        }
    }
}
