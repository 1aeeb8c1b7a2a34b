//! What a task would cost, by what the function's tasks of a like size used. Pure.
//!
//! Sizes are alike by their ratio: 1 MB is as far from 2 MB as from 500 kB. Every successful attempt whose input was at
//! most twice as large or half as large counts; where those are few, the nearest ones are taken instead. P50 and P90 are
//! totals that were really used, never something in between: half, or nine in ten, of the counted attempts did not use
//! more. What the file holds matters as much as its size, and nothing here knows it.

use std::cmp::Ordering;

use units::CpuTime;

/// The newest successful attempts of a function that a quote looks at.
pub const HISTORY: u32 = 1000;

/// How far two sizes may be apart to be alike.
const LIKE: u128 = 2;

/// With fewer alike, so many of the nearest are taken.
const NEAREST: usize = 10;

/// What one successful attempt used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub input_bytes: u64,
    /// As it was billed.
    pub total: CpuTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub samples: u32,
    pub input_bytes_min: u64,
    pub input_bytes_max: u64,
    pub p50: CpuTime,
    pub p90: CpuTime,
}

/// The ratio of two sizes, at least 1, as a fraction. One byte is added to each, so that nothing is a size as well.
#[derive(Clone, Copy)]
struct Ratio {
    larger: u128,
    smaller: u128,
}

impl Ratio {
    fn of(a: u64, b: u64) -> Self {
        Self {
            larger: u128::from(a.max(b)) + 1,
            smaller: u128::from(a.min(b)) + 1,
        }
    }

    fn is_like(self) -> bool {
        self.larger <= LIKE * self.smaller
    }

    fn cmp(self, other: Self) -> Ordering {
        // Each factor is at most 2^64; where both are, the product is 2^128 and saturates, a byte off.
        let product = |a: u128, b: u128| a.saturating_mul(b);
        product(self.larger, other.smaller).cmp(&product(other.larger, self.smaller))
    }
}

/// The estimate for an input of this size; `None` without any sample.
pub fn estimate(history: &[Sample], input_bytes: u64) -> Option<Estimate> {
    let mut nearest: Vec<(Ratio, Sample)> = history
        .iter()
        .map(|sample| (Ratio::of(sample.input_bytes, input_bytes), *sample))
        .collect();
    // Stable: of two equally far apart, the newer one stays in front.
    nearest.sort_by(|(a, _), (b, _)| a.cmp(*b));
    let alike = nearest.iter().filter(|(ratio, _)| ratio.is_like()).count();
    nearest.truncate(alike.max(NEAREST));
    let sizes = || nearest.iter().map(|(_, sample)| sample.input_bytes);
    let mut totals: Vec<CpuTime> = nearest.iter().map(|(_, sample)| sample.total).collect();
    totals.sort_unstable();
    Some(Estimate {
        samples: u32::try_from(totals.len()).unwrap_or(u32::MAX),
        input_bytes_min: sizes().min()?,
        input_bytes_max: sizes().max()?,
        p50: percentile(&totals, 50)?,
        p90: percentile(&totals, 90)?,
    })
}

/// The least of the sorted totals that `percent` of them do not exceed.
fn percentile(sorted: &[CpuTime], percent: usize) -> Option<CpuTime> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples(pairs: impl IntoIterator<Item = (u64, u64)>) -> Vec<Sample> {
        let sample = |(input_bytes, micros)| Sample {
            input_bytes,
            total: CpuTime::from_micros(micros),
        };
        pairs.into_iter().map(sample).collect()
    }

    #[test]
    fn without_a_sample_there_is_no_estimate() {
        assert_eq!(estimate(&[], 100), None);
    }

    #[test]
    fn one_sample_is_both_percentiles_and_says_so() {
        let found = estimate(&samples([(100, 7)]), 1_000_000).unwrap();
        assert_eq!(
            (found.samples, found.p50, found.p90),
            (1, CpuTime::from_micros(7), CpuTime::from_micros(7))
        );
        assert_eq!((found.input_bytes_min, found.input_bytes_max), (100, 100));
    }

    #[test]
    fn the_median_and_the_ninth_in_ten_are_really_used_totals() {
        let found = estimate(&samples((1..=20).map(|n| (1000, n))), 1000).unwrap();
        assert_eq!(
            (found.samples, found.p50.micros(), found.p90.micros()),
            (20, 10, 18)
        );
    }

    #[test]
    fn sizes_that_are_alike_count_and_others_do_not() {
        let small = (0..30).map(|n| (900 + n * 10, 1));
        let large = (0..30).map(|n| (1_000_000 + n, 1000));
        let history = samples(small.chain(large));
        let found = |bytes| estimate(&history, bytes).unwrap();
        assert_eq!((found(1000).samples, found(1000).p90.micros()), (30, 1));
        assert_eq!(
            (found(1_000_000).samples, found(1_000_000).p50.micros()),
            (30, 1000)
        );
        // Nothing is alike: the nearest by ratio are large ones.
        let between = found(100_000);
        assert_eq!((between.samples, between.input_bytes_min), (10, 1_000_000));
    }

    proptest! {
        #[test]
        fn an_estimate_lies_within_what_was_used(
            pairs in prop::collection::vec((any::<u64>(), 0..u64::MAX), 1..60), bytes in any::<u64>(),
        ) {
            let history = samples(pairs);
            let found = estimate(&history, bytes).unwrap();
            let used = |total| history.iter().any(|sample| sample.total == total);
            prop_assert!(used(found.p50) && used(found.p90) && found.p50 <= found.p90);
            prop_assert!(usize::try_from(found.samples).unwrap() >= history.len().min(NEAREST));
            prop_assert!(found.input_bytes_min <= found.input_bytes_max);
        }
    }
}
