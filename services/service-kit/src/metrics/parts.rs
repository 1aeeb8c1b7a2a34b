//! Numbers that are counted in integers of a small unit and shown in the base unit, which Prometheus wants.

use std::ops::{AddAssign, SubAssign};

use prometheus::core::{Atomic, AtomicI64, Number};

/// So many parts, of which `PER` make one base unit: with 1,000,000, microseconds that are shown in seconds.
///
/// They are added up as integers and only shown as a float, so a counter is never further from the truth than a float has to
/// be, however often it was increased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parts<const PER: u32>(i64);

impl<const PER: u32> Parts<PER> {
    /// What does not fit is the most that does.
    pub fn new(parts: impl TryInto<i64>) -> Self {
        Self(parts.try_into().unwrap_or(i64::MAX))
    }
}

impl<const PER: u32> AddAssign for Parts<PER> {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

impl<const PER: u32> SubAssign for Parts<PER> {
    fn sub_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_sub(other.0);
    }
}

impl<const PER: u32> Number for Parts<PER> {
    fn from_i64(units: i64) -> Self {
        Self(units.saturating_mul(PER.into()))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "Prometheus has nothing better than a float, and only here is anything rounded"
    )]
    fn into_f64(self) -> f64 {
        self.0 as f64 / f64::from(PER)
    }
}

/// [`Parts`] that many threads count.
#[derive(Debug)]
pub struct AtomicParts<const PER: u32>(AtomicI64);

impl<const PER: u32> Atomic for AtomicParts<PER> {
    type T = Parts<PER>;

    fn new(parts: Self::T) -> Self {
        Self(AtomicI64::new(parts.0))
    }

    fn set(&self, parts: Self::T) {
        self.0.set(parts.0);
    }

    fn get(&self) -> Self::T {
        Parts(self.0.get())
    }

    fn inc_by(&self, more: Self::T) {
        self.0.inc_by(more.0);
    }

    fn dec_by(&self, less: Self::T) {
        self.0.dec_by(less.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counter;

    #[test]
    fn small_units_are_shown_in_the_base_unit() {
        assert_eq!(Parts::<1000>::new(1500).into_f64().to_string(), "1.5");
        assert_eq!(
            Parts::<100_000_000>::new(-1).into_f64().to_string(),
            "-0.00000001"
        );
        assert_eq!(Parts::<1_000_000>::new(u64::MAX), Parts(i64::MAX));
    }

    #[test]
    fn a_sum_is_not_rounded_however_many_there_are() {
        let counter = Counter::<10>::new("a_total", "A.").unwrap();
        let mut rounded = 0.0;
        for _ in 0..1000 {
            counter.inc_by(Parts::new(1));
            rounded += 0.1;
        }
        counter.inc();
        assert_eq!(counter.get().into_f64(), 101.0);
        assert_ne!(rounded, 100.0);
    }
}
