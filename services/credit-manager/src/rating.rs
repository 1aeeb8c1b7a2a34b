//! CHARGE, pure: price × CPU time → amount.
//!
//! A session's charge is the difference between what its whole total costs and what was already posted for it, so a
//! report that is lost, repeated, reordered or late changes nothing: the next one makes up for it.

use units::{Amount, CpuPrice, CpuTime};

/// The most one session may cost: far more coins than will ever exist, far less than an `Amount` holds, so that sums
/// over sessions stay in range.
const COST_MAX: Amount = Amount::from_halfords(10_i64.pow(17));

/// A charge is posted when this much of it has come together, and at the close: one transfer for every six core-seconds
/// at the default tariff. What is reported and not yet posted counts in every balance (docs/decisions/0002).
const POSTING: Amount = Amount::from_halfords(1_000_000);

/// A session's meter as the ledger sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meter {
    /// Pinned when the session opened; `None` for a session that is never billed.
    price: Option<CpuPrice>,
    total: CpuTime,
    /// Every charge posted so far, oldest first: a reversal has to name each of them.
    postings: Vec<Amount>,
    posted: Amount,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a total of {0} is more than any session can use")]
pub struct TotalTooLarge(pub CpuTime);

impl Meter {
    pub fn new(price: Option<CpuPrice>) -> Self {
        Self::restored(price, CpuTime::ZERO, Vec::new())
    }

    /// A meter as the journal has it.
    pub fn restored(price: Option<CpuPrice>, total: CpuTime, postings: Vec<Amount>) -> Self {
        let posted = postings.iter().copied().sum();
        Self {
            price,
            total,
            postings,
            posted,
        }
    }

    pub fn price(&self) -> Option<CpuPrice> {
        self.price
    }

    /// The highest total reported.
    pub fn total(&self) -> CpuTime {
        self.total
    }

    pub fn postings(&self) -> &[Amount] {
        &self.postings
    }

    /// Whether a report of `total` can be taken.
    pub fn check(&self, total: CpuTime) -> Result<(), TotalTooLarge> {
        let fits_the_journal = i64::try_from(total.micros()).is_ok();
        let payable = self
            .price
            .is_none_or(|price| price.cost(total).is_some_and(|cost| cost <= COST_MAX));
        if fits_the_journal && payable {
            Ok(())
        } else {
            Err(TotalTooLarge(total))
        }
    }

    /// Takes a report; only a new highest total changes anything. Says whether it did.
    pub fn observe(&mut self, total: CpuTime) -> Result<bool, TotalTooLarge> {
        self.check(total)?;
        let higher = total > self.total;
        if higher {
            self.total = total;
        }
        Ok(higher)
    }

    /// What the whole total costs.
    pub fn cost(&self) -> Amount {
        self.cost_of(self.total)
    }

    /// What a total would cost; the largest amount where none can hold it.
    pub fn cost_of(&self, total: CpuTime) -> Amount {
        self.price
            .map_or(Amount::ZERO, |price| price.cost(total).unwrap_or(Amount::MAX))
    }

    /// What is reported and not yet posted.
    pub fn unposted(&self) -> Amount {
        self.cost().saturating_sub(self.posted)
    }

    /// The charge to post now, if enough of it has come together.
    pub fn due(&self) -> Option<Amount> {
        Some(self.unposted()).filter(|unposted| *unposted >= POSTING)
    }

    /// The charge to post at the close.
    pub fn due_at_close(&self) -> Option<Amount> {
        Some(self.unposted()).filter(|unposted| unposted.is_positive())
    }

    /// Notes that a charge was posted.
    pub fn on_posted(&mut self, amount: Amount) {
        self.postings.push(amount);
        self.posted = self.posted.saturating_add(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is charged in the end for these reports.
    fn charged(price: CpuPrice, reports: &[u64]) -> Amount {
        let mut meter = Meter::new(Some(price));
        for micros in reports {
            meter.observe(CpuTime::from_micros(*micros)).unwrap();
            if let Some(due) = meter.due() {
                meter.on_posted(due);
            }
        }
        if let Some(due) = meter.due_at_close() {
            meter.on_posted(due);
        }
        meter.postings().iter().copied().sum()
    }

    #[test]
    fn an_unbilled_meter_counts_and_costs_nothing() {
        let mut meter = Meter::new(None);
        assert_eq!(meter.observe(CpuTime::from_secs(1_000_000)), Ok(true));
        assert_eq!((meter.cost(), meter.due_at_close()), (Amount::ZERO, None));
    }

    #[test]
    fn a_total_that_no_ledger_holds_is_refused_and_changes_nothing() {
        let mut meter = Meter::new(Some(CpuPrice::DEFAULT));
        let absurd = CpuTime::from_micros(u64::MAX);
        assert_eq!(meter.observe(absurd), Err(TotalTooLarge(absurd)));
        assert_eq!(meter.total(), CpuTime::ZERO);
        assert!(Meter::new(None).check(absurd).is_err());
        // One microsecond for each coin: the journal would hold the total, and no sum of balances the cost.
        let price = CpuPrice::from_cpu_time_per_grc(CpuTime::from_micros(1)).unwrap();
        let most = CpuTime::from_micros(10_u64.pow(9));
        let dear = Meter::new(Some(price));
        assert_eq!((dear.check(most), dear.cost_of(most)), (Ok(()), COST_MAX));
        let more = most.saturating_add(CpuTime::from_micros(1));
        assert_eq!(dear.check(more), Err(TotalTooLarge(more)));
    }

    proptest! {
        #[test]
        fn charges_telescope_to_the_total(
            micros_per_grc in 1..=10_u64.pow(12),
            mut reports in prop::collection::vec(0..10_u64.pow(10), 1..50),
            seed in any::<prop::sample::Index>(),
        ) {
            let price = CpuPrice::from_cpu_time_per_grc(CpuTime::from_micros(micros_per_grc)).unwrap();
            prop_assume!(price.cost(CpuTime::from_micros(10_u64.pow(10))).is_some_and(|cost| cost <= COST_MAX));
            let highest = *reports.iter().max().unwrap();
            let expected = price.cost(CpuTime::from_micros(highest)).unwrap();
            prop_assert_eq!(charged(price, &reports), expected);
            // Doubled and in another order, with all but the last total lost.
            let split = seed.index(reports.len());
            reports.rotate_left(split);
            let again: Vec<u64> = reports.iter().chain(&reports).copied().collect();
            prop_assert_eq!(charged(price, &again), expected);
            prop_assert_eq!(charged(price, &[highest]), expected);
        }
    }
}
