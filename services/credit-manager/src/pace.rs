//! How fast a session spends, from its reports. Pure.
//!
//! The pace is the cost of the last 5 to 10 seconds: long enough for the steps of the kernel's counter and the jitter of
//! reports to vanish, short enough to follow a load that changes.

use std::time::Duration;

use tokio::time::Instant;
use units::{Amount, CpuPrice, CpuTime};

/// The shortest stretch that a pace is taken from; the longest is twice this.
const WINDOW: Duration = Duration::from_secs(5);
/// A session's first reports are too close together to tell anything.
const WINDOW_LEAST: Duration = Duration::from_millis(500);
const HOUR: Duration = Duration::from_secs(3600);

/// What this much CPU time costs an hour, used up once every `wall`.
pub fn per_hour(price: CpuPrice, used: CpuTime, wall: Duration) -> Amount {
    let micros = u128::from(used.micros()) * HOUR.as_micros();
    let hourly = micros.checked_div(wall.as_micros()).unwrap_or(0);
    let hourly = CpuTime::from_micros(u64::try_from(hourly).unwrap_or(u64::MAX));
    price.cost(hourly).unwrap_or(Amount::MAX)
}

/// How long `balance` lasts while it costs `burn` an hour; `None` while nothing is used up.
pub fn lasts(balance: Amount, burn: Amount) -> Option<Duration> {
    let balance = u128::try_from(balance.or_zero().halfords()).ok()?;
    let burn = u128::try_from(burn.halfords()).ok()?;
    let millis = (balance * HOUR.as_millis()).checked_div(burn)?;
    Some(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// The beginning of the stretch, and of the next one.
    marks: Option<(Mark, Mark)>,
    burn: Amount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    at: Instant,
    total: CpuTime,
}

impl Pace {
    /// What it costs an hour.
    pub fn burn(&self) -> Amount {
        self.burn
    }

    /// The same, once it is taken from a whole stretch.
    pub fn settled(&self) -> Option<Amount> {
        let (older, newer) = self.marks?;
        (older != newer).then_some(self.burn)
    }

    /// Takes the highest total reported by `now`.
    pub fn observe(&mut self, total: CpuTime, price: Option<CpuPrice>, now: Instant) {
        let mark = Mark { at: now, total };
        let (mut older, mut newer) = self.marks.unwrap_or((mark, mark));
        if now.saturating_duration_since(newer.at) >= WINDOW {
            (older, newer) = (newer, mark);
        }
        self.marks = Some((older, newer));
        let wall = now.saturating_duration_since(older.at);
        if let Some(price) = price
            && wall >= WINDOW_LEAST
        {
            self.burn = per_hour(price, total.saturating_sub(older.total), wall);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The burn after reports at these seconds with these totals in milliseconds.
    fn burn(reports: &[(f64, u64)]) -> Vec<i64> {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let told = reports.iter().map(|(at, millis)| {
            let now = start + Duration::from_secs_f64(*at);
            pace.observe(CpuTime::from_micros(millis * 1000), Some(CpuPrice::DEFAULT), now);
            pace.burn().halfords()
        });
        told.collect()
    }

    #[test]
    fn a_steady_load_is_told_at_once_and_a_change_within_ten_seconds() {
        // One core costs 6 GRC an hour.
        let core = 600_000_000;
        let reports: Vec<(f64, u64)> = (0..=20_u32)
            .map(|second| (f64::from(second), 1000 * u64::from(second)))
            .collect();
        let told = burn(&reports);
        assert_eq!(told[0], 0);
        assert!(told[1..].iter().all(|burn| *burn == core), "{told:?}");
        let idle: Vec<(f64, u64)> = reports
            .into_iter()
            .chain((21..=31_u32).map(|second| (f64::from(second), 20_000)))
            .collect();
        assert_eq!(burn(&idle).last(), Some(&0));
    }

    #[test]
    fn reports_that_come_late_and_in_steps_are_off_by_no_more_than_a_fiftieth_after_a_window() {
        // Up to 60 ms late, and the counter moves by 8 ms.
        let late = [0.0, 0.06, 0.01, 0.05, 0.02];
        let reports: Vec<(f64, u64)> = (0..40_u32)
            .map(|second| {
                (
                    f64::from(second) + late[usize::try_from(second).unwrap() % 5],
                    u64::from(second) * 1000 / 8 * 8,
                )
            })
            .collect();
        for burn in &burn(&reports)[6..] {
            assert!((588_000_000..=612_000_000).contains(burn), "{burn}");
        }
    }

    #[test]
    fn a_balance_lasts_as_long_as_it_pays_for() {
        let grc = |grc| Amount::from_grc(grc).unwrap();
        assert_eq!(lasts(grc(1), grc(6)), Some(Duration::from_secs(600)));
        assert_eq!(lasts(grc(1), Amount::ZERO), None);
        assert_eq!(lasts(grc(-1), grc(6)), Some(Duration::ZERO));
    }
}
