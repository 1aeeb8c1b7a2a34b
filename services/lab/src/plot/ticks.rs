//! Where an axis has its ticks, and what stands beside them. Integers only.

/// A range of an axis, in its base unit, and the ticks on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticks {
    pub(super) step: i64,
    /// Multiples of `step`.
    pub(super) at: Vec<i64>,
}

impl Ticks {
    /// At round numbers from `low` to `high`, at most `intervals` of them apart.
    pub(super) fn within(low: i64, high: i64, intervals: i64) -> Self {
        let span = high.saturating_sub(low).max(1);
        let step = round_steps()
            .find(|step| span / step < intervals)
            .unwrap_or(i64::MAX);
        let first = low.div_euclid(step) + i64::from(low.rem_euclid(step) != 0);
        let at = (first..).map_while(|number| number.checked_mul(step).filter(|at| *at <= high));
        Self {
            step,
            at: at.collect(),
        }
    }
}

/// 1, 2, 5, 10, 20, 50 …
fn round_steps() -> impl Iterator<Item = i64> {
    (0..18).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_i64.pow(power)))
}

/// `value` as a decimal number with `decimals` of its digits behind the point, as few of them shown as `step` needs.
pub(super) fn label(value: i64, step: i64, decimals: u32) -> String {
    let shown = (0..decimals)
        .find(|shown| step % 10_i64.pow(decimals - shown) == 0)
        .unwrap_or(decimals);
    let digits = value.unsigned_abs() / 10_u64.pow(decimals - shown);
    let one = 10_u64.pow(shown);
    let sign = if value < 0 { "\u{2212}" } else { "" };
    let (whole, part) = (digits / one, digits % one);
    match usize::try_from(shown) {
        Ok(width @ 1..) => format!("{sign}{whole}.{part:0width$}"),
        _ => format!("{sign}{whole}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stand_at_round_numbers_within_the_range() {
        for (low, high, intervals, at) in [
            (0, 10, 6, vec![0, 2, 4, 6, 8, 10]),
            (0, 2050, 8, vec![0, 500, 1000, 1500, 2000]),
            (-50, 420, 6, vec![0, 100, 200, 300, 400]),
            (-150, 90, 6, vec![-150, -100, -50, 0, 50]),
            (3, 3, 5, vec![3]),
        ] {
            assert_eq!(Ticks::within(low, high, intervals).at, at, "{low}..{high}");
        }
    }

    #[test]
    fn labels_show_as_many_digits_as_the_step_needs() {
        for (value, step, decimals, shown) in [
            (200_000_000, 100_000_000, 8, "2"),
            (-50_000_000, 50_000_000, 8, "\u{2212}0.5"),
            (0, 50_000_000, 8, "0.0"),
            (1500, 500, 3, "1.5"),
            (4, 1, 0, "4"),
        ] {
            assert_eq!(label(value, step, decimals), shown);
        }
    }
}
