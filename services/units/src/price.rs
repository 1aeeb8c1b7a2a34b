//! The price of CPU time.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Amount, CpuTime};

const HALFORDS_PER_GRC: u128 = 100_000_000;

/// What CPU time costs, said as the CPU time that one GRC buys.
///
/// The tariff is 600 core-seconds per GRC by default: 1/6 of 10^6 halfords a second, which no whole number of halfords
/// says. Its inverse is exact, so every cost is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuPrice {
    /// Microseconds of CPU time per GRC, never 0.
    micros_per_grc: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("one GRC must buy some CPU time, not none")]
pub struct PriceError;

impl CpuPrice {
    /// The published prototype's tariff: 600 core-seconds per GRC.
    pub const DEFAULT: Self = Self {
        micros_per_grc: 600_000_000,
    };

    /// Errors if one GRC would buy nothing, which is no price.
    pub fn from_cpu_time_per_grc(time: CpuTime) -> Result<Self, PriceError> {
        if time == CpuTime::ZERO {
            Err(PriceError)
        } else {
            Ok(Self {
                micros_per_grc: time.micros(),
            })
        }
    }

    /// The CPU time that one GRC buys.
    pub const fn cpu_time_per_grc(self) -> CpuTime {
        CpuTime::from_micros(self.micros_per_grc)
    }

    /// Cost of `total` CPU time, rounded down to the halford; `None` if it does not fit an `Amount`.
    pub fn cost(self, total: CpuTime) -> Option<Amount> {
        // 2^64 x 10^8 < 2^91: the product cannot overflow.
        let halfords = u128::from(total.micros()) * HALFORDS_PER_GRC / u128::from(self.micros_per_grc);
        i64::try_from(halfords).ok().map(Amount::from_halfords)
    }

    /// The largest CPU time whose cost is at most `amount`; zero where `amount` is negative. Saturates.
    pub fn affordable(self, amount: Amount) -> CpuTime {
        let Ok(halfords) = u128::try_from(amount.halfords()) else {
            return CpuTime::ZERO;
        };
        // floor(t x 10^8 / p) <= a  <=>  t x 10^8 < (a + 1) x p
        let micros = ((halfords + 1) * u128::from(self.micros_per_grc)).div_ceil(HALFORDS_PER_GRC) - 1;
        CpuTime::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for CpuPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of CPU time per GRC", self.cpu_time_per_grc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_cores_for_thirty_seconds_cost_a_tenth_of_a_grc() {
        assert_eq!(
            CpuPrice::DEFAULT.cost(CpuTime::from_secs(60)),
            Some("0.1".parse().unwrap())
        );
        assert_eq!(
            CpuPrice::DEFAULT.cost(CpuTime::from_micros(5)),
            Some(Amount::ZERO)
        );
        assert_eq!(
            CpuPrice::DEFAULT.cost(CpuTime::from_micros(6)),
            Some(Amount::from_halfords(1))
        );
    }

    #[test]
    fn a_cost_that_no_wallet_can_hold_is_refused() {
        let dear = CpuPrice::from_cpu_time_per_grc(CpuTime::from_micros(1)).unwrap();
        assert_eq!(dear.cost(CpuTime::MAX), None);
        assert_eq!(CpuPrice::from_cpu_time_per_grc(CpuTime::ZERO), Err(PriceError));
    }

    proptest! {
        #[test]
        fn affordable_is_the_largest_time_that_costs_no_more(
            micros_per_grc in 1..=10u64.pow(12), halfords in 0..=10i64.pow(14)
        ) {
            let price = CpuPrice { micros_per_grc };
            let amount = Amount::from_halfords(halfords);
            let time = price.affordable(amount);
            prop_assert!(price.cost(time).unwrap() <= amount);
            let one_more = time.checked_add(CpuTime::from_micros(1)).unwrap();
            prop_assert!(price.cost(one_more).is_none_or(|cost| cost > amount));
        }

        #[test]
        fn cost_never_falls_as_time_grows(micros_per_grc in 1..=u64::MAX, a in 0..u64::MAX / 4, b in 0..u64::MAX / 4) {
            let price = CpuPrice { micros_per_grc };
            let cost = |micros| price.cost(CpuTime::from_micros(micros)).map_or(i128::MAX, |c| i128::from(c.halfords()));
            prop_assert!(cost(a) <= cost(a + b));
        }
    }
}
