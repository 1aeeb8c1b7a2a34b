//! What the plots begin with: values over the last hour, in bounded memory.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hash;

use serde::Serialize;
use units::{Amount, MilliCores, Timestamp};

/// How far back a series reaches.
const REACH_MS: i64 = 3600 * 1000;
/// Points in all series together, of some 40 bytes each.
const POINTS_MAX: usize = 500_000;
/// Points in one series: one a second.
const SERIES_MAX: usize = 3600;
/// Points that a series has room for however many there are.
const SERIES_MIN: usize = 16;

/// Values over time, as steps: each holds until the next. `None` is a time in which nothing was known.
///
/// A value that stays costs two points however long it does, so what is idle costs next to nothing.
#[derive(Clone, Debug)]
pub(crate) struct Series<V> {
    points: VecDeque<(Timestamp, Option<V>)>,
}

impl<V> Default for Series<V> {
    fn default() -> Self {
        Self {
            points: VecDeque::new(),
        }
    }
}

impl<V: Copy + PartialEq> Series<V> {
    /// Adds the value of a moment, which is not before the last one, and forgets what is too old or too much.
    pub(crate) fn push(&mut self, at: Timestamp, value: Option<V>, points_max: usize) {
        let stays = |point: Option<&(Timestamp, Option<V>)>| point.is_some_and(|(_, known)| *known == value);
        let before_last = self.points.len().checked_sub(2).and_then(|i| self.points.get(i));
        if stays(before_last) && stays(self.points.back()) {
            self.points.pop_back();
        }
        self.points.push_back((at, value));
        let begin = at.plus_ms(-REACH_MS);
        // The point before the beginning tells what held then.
        while self.points.len() > points_max.max(1) || self.points.get(1).is_some_and(|(at, _)| *at <= begin)
        {
            self.points.pop_front();
        }
    }

    fn is_void(&self) -> bool {
        self.points.iter().all(|(_, value)| value.is_none())
    }

    fn column<T>(&self, field: impl Fn(&V) -> T) -> Vec<Option<T>> {
        self.points
            .iter()
            .map(|(_, value)| value.as_ref().map(&field))
            .collect()
    }

    fn times(&self) -> Vec<Timestamp> {
        self.points.iter().map(|(at, _)| *at).collect()
    }
}

/// What somebody's work takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Work {
    pub(crate) used: MilliCores,
    pub(crate) allocated: MilliCores,
    pub(crate) max: MilliCores,
    /// CPU that the limit held back.
    pub(crate) held_back: MilliCores,
    pub(crate) waiting: u32,
    pub(crate) running: u32,
}

/// What somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Funds {
    pub(crate) balance: Amount,
    pub(crate) debt_limit: Amount,
}

/// Whose work it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subject {
    Node,
    User(String),
    Function(String),
    Container(String),
}

#[derive(Debug, Default)]
pub(crate) struct History {
    work: BTreeMap<Subject, Series<Work>>,
    funds: BTreeMap<String, Series<Funds>>,
}

/// A series, column by column.
#[derive(Debug, Default, Serialize)]
pub(crate) struct WorkColumns {
    at_ms: Vec<Timestamp>,
    used: Vec<Option<MilliCores>>,
    allocated: Vec<Option<MilliCores>>,
    max: Vec<Option<MilliCores>>,
    held_back: Vec<Option<MilliCores>>,
    waiting: Vec<Option<u32>>,
    running: Vec<Option<u32>>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct FundsColumns {
    at_ms: Vec<Timestamp>,
    balance: Vec<Option<Amount>>,
    debt_limit: Vec<Option<Amount>>,
}

impl History {
    /// Takes down a moment. Of whoever is not mentioned nothing is known then.
    pub(crate) fn push(
        &mut self,
        at: Timestamp,
        work: BTreeMap<Subject, Work>,
        funds: BTreeMap<String, Funds>,
    ) {
        let room = POINTS_MAX / (work.len() + funds.len() + self.work.len() + self.funds.len()).max(1);
        let room = room.clamp(SERIES_MIN, SERIES_MAX);
        push_all(&mut self.work, at, work, room);
        push_all(&mut self.funds, at, funds, room);
    }

    pub(crate) fn work(&self, subject: &Subject) -> WorkColumns {
        let Some(series) = self.work.get(subject) else {
            return WorkColumns::default();
        };
        WorkColumns {
            at_ms: series.times(),
            used: series.column(|work| work.used),
            allocated: series.column(|work| work.allocated),
            max: series.column(|work| work.max),
            held_back: series.column(|work| work.held_back),
            waiting: series.column(|work| work.waiting),
            running: series.column(|work| work.running),
        }
    }

    pub(crate) fn funds(&self, user: &str) -> FundsColumns {
        let Some(series) = self.funds.get(user) else {
            return FundsColumns::default();
        };
        FundsColumns {
            at_ms: series.times(),
            balance: series.column(|funds| funds.balance),
            debt_limit: series.column(|funds| funds.debt_limit),
        }
    }
}

fn push_all<K: Ord + Hash, V: Copy + PartialEq>(
    all: &mut BTreeMap<K, Series<V>>,
    at: Timestamp,
    mut values: BTreeMap<K, V>,
    room: usize,
) {
    for (whose, series) in &mut *all {
        series.push(at, values.remove(whose), room);
    }
    for (whose, value) in values {
        all.entry(whose).or_default().push(at, Some(value), room);
    }
    all.retain(|_, series| !series.is_void());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_unix_ms(s * 1000)
    }

    fn series(values: &[(i64, Option<u32>)], points_max: usize) -> Vec<(i64, Option<u32>)> {
        let mut series = Series::default();
        for (s, value) in values {
            series.push(at(*s), *value, points_max);
        }
        series
            .points
            .into_iter()
            .map(|(at, value)| (at.unix_ms() / 1000, value))
            .collect()
    }

    #[test]
    fn a_value_that_stays_takes_two_points() {
        let values: Vec<_> = (0..100).map(|s| (s, Some(u32::from(s >= 50)))).collect();
        assert_eq!(
            series(&values, SERIES_MAX),
            [(0, Some(0)), (49, Some(0)), (50, Some(1)), (99, Some(1))]
        );
    }

    #[test]
    fn a_time_in_which_nothing_was_known_is_a_gap() {
        let values = [(0, Some(1)), (1, None), (2, None), (3, None), (4, Some(1))];
        assert_eq!(
            series(&values, SERIES_MAX),
            [(0, Some(1)), (1, None), (3, None), (4, Some(1))]
        );
    }

    #[test]
    fn what_is_older_than_the_reach_is_forgotten_but_for_what_held_at_its_beginning() {
        let values = [(0, Some(1)), (10, Some(2)), (20, Some(3)), (3615, Some(4))];
        assert_eq!(
            series(&values, SERIES_MAX),
            [(10, Some(2)), (20, Some(3)), (3615, Some(4))]
        );
    }

    #[test]
    fn who_is_gone_is_forgotten_after_the_reach() {
        let mut history = History::default();
        let work = |names: &[&str]| -> BTreeMap<_, _> {
            let container = |name: &&str| (Subject::Container((*name).to_owned()), Work::default());
            names.iter().map(container).collect()
        };
        history.push(at(0), work(&["a", "b"]), BTreeMap::new());
        history.push(at(1), work(&["b"]), BTreeMap::new());
        assert_eq!(history.work(&Subject::Container("a".to_owned())).at_ms.len(), 2);
        history.push(at(3602), work(&["b"]), BTreeMap::new());
        assert_eq!(history.work.len(), 1);
    }

    proptest! {
        /// Whatever comes, the series tells what held at every moment it reaches back to, and has no more points than it may.
        #[test]
        fn a_series_tells_what_held(values in proptest::collection::vec(proptest::option::of(0..3_u32), 1..200)) {
            let all: Vec<_> = (0..).zip(values).collect();
            let kept = series(&all, 40);
            prop_assert!(kept.len() <= 40);
            for (s, value) in all {
                let held = kept.iter().rev().find(|(at, _)| *at <= s);
                prop_assert!(held.is_none_or(|(_, held)| *held == value));
            }
        }
    }
}
