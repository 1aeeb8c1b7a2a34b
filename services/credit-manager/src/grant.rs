//! Shares a user's funds between the sessions that may spend them.
//!
//! A session gets a [`Grant`]: the totals of its meter up to which it may run unthrottled, and run at all. Its node
//! enforces both by itself, so what is granted is as good as spent. Two rules make that safe and fair:
//!
//! - **I5**: what all grants that a node may still enforce would cost is never more than the user has. A grant counts
//!   until the node has acknowledged a newer one, whatever was lost, doubled or reordered on the way.
//! - Funds are shared in proportion to the sessions' capacities, so that all sessions of a user reach zero together. One
//!   more share is kept back for a newcomer, until the last second of the joint rate: that is given out whole.
//!
//! There are two pools, shared in the same way: the positive balance pays for running unthrottled, the positive balance
//! and the debt room for running at all. Only the second is a limit: a throttled session still uses up the balance that
//! others hold to run unthrottled, and its reports tell them so.

use std::collections::VecDeque;

use units::{Amount, CpuTime, Grant, MilliCores};

use crate::rating::Meter;

/// Added to every capacity, so that a container at its floor still has a share to wake up with.
const WEIGHT_FLOOR: u64 = 100;

/// Grants a node may still enforce, at most; beyond it the two oldest are counted as one that is as large as both.
const HELD_MAX: usize = 8;

/// A share below 1/100 of the joint second's cost is not worth asking other nodes for.
const CRUMBS_PER_SECOND: i64 = 100;

/// What a user has: what pays for running unthrottled, and what pays for running at all. Never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Funds {
    pub positive: Amount,
    pub whole: Amount,
}

impl Funds {
    pub fn of(balance: Amount, debt_limit: Amount) -> Self {
        Self {
            positive: balance.or_zero(),
            whole: balance.saturating_add(debt_limit).or_zero(),
        }
    }
}

/// Money beyond what a session's total costs already: until it is throttled, and until it is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub throttle: Amount,
    pub stop: Amount,
}

/// A session's part in the sharing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    weight: u64,
    /// What the grants that its node may enforce would still cost.
    held: Share,
}

/// The grants of one session that its node may enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Oldest first and never empty; the last is the newest grant.
    issued: VecDeque<(u64, Grant)>,
}

impl Holding {
    pub fn new(first: Grant) -> Self {
        Self {
            issued: VecDeque::from([(1, first)]),
        }
    }

    /// A holding as the journal has it: `held` covers the grants before the newest.
    pub fn restored(revision: u64, newest: Grant, held: Grant) -> Self {
        let mut issued = VecDeque::new();
        if held != newest {
            issued.push_back((revision.saturating_sub(1), held));
        }
        issued.push_back((revision, newest));
        Self { issued }
    }

    pub fn revision(&self) -> u64 {
        self.back().0
    }

    pub fn newest(&self) -> Grant {
        self.back().1
    }

    fn back(&self) -> (u64, Grant) {
        *self.issued.back().expect("a holding has a newest grant")
    }

    /// The largest totals that the node may still enforce.
    pub fn held(&self) -> Grant {
        self.issued
            .iter()
            .fold(Grant::default(), |most, (_, grant)| larger(most, *grant))
    }

    /// Makes `grant` the newest; says whether that is a change.
    pub fn issue(&mut self, grant: Grant) -> bool {
        let (revision, newest) = self.back();
        if grant == newest {
            return false;
        }
        // An older grant that is no larger adds nothing to what is held.
        self.issued.retain(|(_, older)| larger(*older, grant) != grant);
        self.issued.push_back((revision + 1, grant));
        if self.issued.len() > HELD_MAX {
            let (_, oldest) = self.issued[0];
            self.issued[1].1 = larger(self.issued[1].1, oldest);
            self.issued.pop_front();
        }
        true
    }

    /// The node enforces the grant of `revision` or a newer one, and will never go back to an older.
    pub fn acknowledge(&mut self, revision: u64) {
        let known = revision.min(self.revision());
        self.issued.retain(|(issued, _)| *issued >= known);
    }

    /// This session's part in the sharing, its meter standing where it does.
    pub fn claim(&self, meter: &Meter, capacity: MilliCores) -> Claim {
        if meter.price().is_none() {
            return Claim::default();
        }
        let beyond = |at| meter.cost_of(at).saturating_sub(meter.cost()).or_zero();
        let held = self.held();
        Claim {
            weight: u64::from(capacity.millicores()) + WEIGHT_FLOOR,
            held: Share {
                throttle: beyond(held.throttle_at),
                stop: beyond(held.stop_at),
            },
        }
    }
}

fn larger(a: Grant, b: Grant) -> Grant {
    Grant {
        throttle_at: a.throttle_at.max(b.throttle_at),
        stop_at: a.stop_at.max(b.stop_at),
    }
}

/// The claims of all of a user's billed sessions, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purse {
    sessions: u64,
    weight: u64,
    held: Share,
}

/// What [`Purse::share`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allotment {
    pub share: Share,
    /// The session got far less than its part because others hold it: they are to be asked to give back.
    pub starved: bool,
}

impl Purse {
    /// What all grants in force would cost: the `granted` figure of a user.
    pub fn granted(&self) -> Amount {
        self.held.stop
    }

    /// Puts `after` in the place of `before`; a default claim stands for none.
    pub fn replace(&mut self, before: Claim, after: Claim) {
        let counted = |claim: Claim| u64::from(claim.weight > 0);
        self.sessions = self.sessions + counted(after) - counted(before);
        self.weight = self.weight + after.weight - before.weight;
        let moved = |sum: Amount, from: Amount, to| sum.saturating_sub(from).saturating_add(to);
        self.held = Share {
            throttle: moved(self.held.throttle, before.held.throttle, after.held.throttle),
            stop: moved(self.held.stop, before.held.stop, after.held.stop),
        };
    }

    /// What the session of `claim`, which is in this purse, may have of `funds`. `meter` tells its price.
    pub fn share(&self, funds: Funds, claim: Claim, meter: &Meter) -> Allotment {
        // Millicores for one second, in microseconds.
        let joint_second = meter.cost_of(CpuTime::from_micros(self.weight.saturating_mul(1000)));
        let pool = |room, held| Pool {
            room,
            held,
            joint_second,
            purse: self,
        };
        let (throttle, throttle_starved) =
            pool(funds.positive, self.held.throttle).allot(claim.weight, claim.held.throttle);
        let (stop, stop_starved) = pool(funds.whole, self.held.stop).allot(claim.weight, claim.held.stop);
        Allotment {
            share: Share { throttle, stop },
            starved: throttle_starved || stop_starved,
        }
    }
}

/// One of the two kinds of money, and who holds how much of it.
struct Pool<'a> {
    room: Amount,
    held: Amount,
    /// What everybody together costs in a second.
    joint_second: Amount,
    purse: &'a Purse,
}

impl Pool<'_> {
    /// The share of a session of this weight that holds `own` already, and whether it is starved.
    fn allot(&self, weight: u64, own: Amount) -> (Amount, bool) {
        let spare = self.room.saturating_sub(self.held).or_zero();
        let is_end = self.room <= self.joint_second;
        let fair = self.fair(weight, is_end);
        // Half of what is spare, so that of many sessions opened at once each finds something.
        let spare = if is_end {
            spare
        } else {
            Amount::from_halfords(spare.halfords() / 2)
        };
        let share = fair.min(own.saturating_add(spare));
        let worth_asking = self.room.halfords() > self.joint_second.halfords() / CRUMBS_PER_SECOND;
        let starved = worth_asking && share.halfords() < fair.halfords() / 2;
        (share, starved)
    }

    fn fair(&self, weight: u64, is_end: bool) -> Amount {
        let all = u128::from(self.purse.weight.max(1));
        // The newcomer's share is as large as the mean of the others.
        let newcomer = if is_end {
            0
        } else {
            all / u128::from(self.purse.sessions.max(1))
        };
        let room = u128::try_from(self.room.halfords()).unwrap_or(0);
        let fair = room * u128::from(weight) / (all + newcomer);
        Amount::from_halfords(i64::try_from(fair).unwrap_or(i64::MAX))
    }
}

/// The totals that `share` pays for, with the meter standing where it does. No share throttles or stops at once. The
/// session's `cap` is what it alone may cost in all.
pub fn grant(meter: &Meter, share: Share, cap: Option<Amount>) -> Grant {
    let Some(price) = meter.price() else {
        return Grant::UNLIMITED;
    };
    // The journal holds 63 bits.
    let largest = CpuTime::from_micros(i64::MAX.unsigned_abs());
    let until = |money: Amount| {
        if money.is_positive() {
            let affordable = price.affordable(meter.cost().saturating_add(money));
            affordable.max(meter.total()).min(largest)
        } else {
            meter.total()
        }
    };
    let capped = cap.map_or(Amount::MAX, |cap| cap.saturating_sub(meter.cost()).or_zero());
    let stop_at = until(share.stop.min(capped));
    Grant {
        throttle_at: until(share.throttle).min(stop_at),
        stop_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use units::CpuPrice;

    fn micros(micros: u64) -> CpuTime {
        CpuTime::from_micros(micros)
    }

    fn stop_at(at: u64) -> Grant {
        Grant {
            throttle_at: micros(at),
            stop_at: micros(at),
        }
    }

    #[test]
    fn a_grant_counts_until_a_newer_one_is_acknowledged() {
        let mut holding = Holding::new(stop_at(100));
        assert!(holding.issue(stop_at(40)));
        assert_eq!((holding.revision(), holding.held()), (2, stop_at(100)));
        holding.acknowledge(1);
        assert_eq!(holding.held(), stop_at(100));
        holding.acknowledge(2);
        assert_eq!(holding.held(), stop_at(40));
        assert!(!holding.issue(stop_at(40)), "the same again is no change");
        // An acknowledgement of what was never issued frees nothing.
        holding.issue(stop_at(10));
        holding.acknowledge(99);
        assert_eq!((holding.revision(), holding.held()), (3, stop_at(10)));
    }

    #[test]
    fn many_grants_without_an_acknowledgement_stay_counted_in_little_room() {
        let mut holding = Holding::new(stop_at(1000));
        for at in (0..100).rev() {
            holding.issue(stop_at(at));
        }
        assert!(holding.issued.len() <= HELD_MAX);
        assert_eq!(
            (holding.revision(), holding.newest(), holding.held()),
            (101, stop_at(0), stop_at(1000))
        );
        holding.acknowledge(101);
        assert_eq!(holding.held(), stop_at(0));
    }

    #[test]
    fn a_restored_holding_counts_the_same() {
        let mut holding = Holding::new(stop_at(100));
        holding.issue(stop_at(40));
        let mut restored = Holding::restored(holding.revision(), holding.newest(), holding.held());
        assert_eq!(restored, holding);
        restored.acknowledge(2);
        assert_eq!(restored.held(), stop_at(40));
    }

    #[test]
    fn no_money_throttles_and_stops_at_once() {
        let mut meter = Meter::new(Some(CpuPrice::DEFAULT));
        meter.observe(micros(1001)).unwrap();
        assert_eq!(grant(&meter, Share::default(), None), stop_at(1001));
        assert_eq!(grant(&Meter::new(None), Share::default(), None), Grant::UNLIMITED);
    }

    #[test]
    fn a_cap_stops_before_the_funds_do() {
        let meter = Meter::new(Some(CpuPrice::DEFAULT));
        let share = Share {
            throttle: Amount::from_halfords(500),
            stop: Amount::from_halfords(1000),
        };
        let capped = grant(&meter, share, Some(Amount::from_halfords(100)));
        assert_eq!(
            capped,
            stop_at(605),
            "the last microsecond that costs 100 halfords"
        );
    }

    /// One user's sessions, all at one price, with `balance` as the only truth about money.
    struct Model {
        balance: Amount,
        debt_limit: Amount,
        purse: Purse,
        sessions: Vec<(Meter, Holding, MilliCores, Claim)>,
    }

    impl Model {
        fn new(balance: i64, debt_limit: i64, capacities: &[u32]) -> Self {
            let mut model = Self {
                balance: Amount::from_halfords(balance),
                debt_limit: Amount::from_halfords(debt_limit),
                purse: Purse::default(),
                sessions: Vec::new(),
            };
            for millicores in capacities {
                model.sessions.push((
                    Meter::new(Some(CpuPrice::DEFAULT)),
                    Holding::new(Grant::default()),
                    MilliCores::from_millicores(*millicores),
                    Claim::default(),
                ));
                model.amend(model.sessions.len() - 1, |_, _| ());
            }
            model
        }

        fn amend(&mut self, at: usize, change: impl FnOnce(&mut Meter, &mut Holding)) {
            let (meter, holding, capacity, claim) = &mut self.sessions[at];
            let before = meter.cost();
            change(meter, holding);
            let after = holding.claim(meter, *capacity);
            self.purse.replace(*claim, after);
            *claim = after;
            self.balance = self.balance.saturating_sub(meter.cost().saturating_sub(before));
        }

        fn regrant(&mut self, at: usize) {
            let funds = Funds::of(self.balance, self.debt_limit);
            let (meter, _, _, claim) = &self.sessions[at];
            let allotment = self.purse.share(funds, *claim, meter);
            self.amend(at, |meter, holding| {
                holding.issue(grant(meter, allotment.share, None));
            });
        }

        fn assert_covered(&self) {
            let funds = Funds::of(self.balance, self.debt_limit);
            assert!(self.purse.held.stop <= funds.whole, "I5");
            let mut sum = Purse::default();
            for (_, _, _, claim) in &self.sessions {
                sum.replace(Claim::default(), *claim);
            }
            assert_eq!(sum, self.purse, "the sums are kept right");
        }
    }

    proptest! {
        /// A step is a session, and what of its usage, its newest revision and its regrant gets through.
        #[test]
        fn what_is_granted_never_exceeds_what_is_there(
            balance in 0..10_000_000_i64,
            debt_limit in 0..10_000_000_i64,
            capacities in prop::collection::vec(0..8000_u32, 1..6),
            steps in prop::collection::vec((any::<prop::sample::Index>(), 0..=100_u64, 0..10_u64, any::<bool>()), 1..200),
        ) {
            let mut model = Model::new(balance, debt_limit, &capacities);
            for (which, percent, behind, regranted) in steps {
                let at = which.index(capacities.len());
                model.amend(at, |meter, holding| {
                    let most = holding.held().stop_at.micros();
                    let total = meter.total().micros() + most.saturating_sub(meter.total().micros()) * percent / 100;
                    meter.observe(micros(total)).unwrap();
                    holding.acknowledge(holding.revision().saturating_sub(behind));
                });
                if regranted {
                    model.regrant(at);
                }
                model.assert_covered();
            }
        }

        #[test]
        fn all_sessions_reach_the_end_together(
            balance in 1_000_000..50_000_000_i64,
            capacities in prop::collection::vec(100..4000_u32, 1..8),
        ) {
            let mut model = Model::new(balance, 0, &capacities);
            let tick = std::time::Duration::from_millis(100);
            let mut stopped_at = vec![None; capacities.len()];
            for round in 0..200_000_u64 {
                for (at, capacity) in capacities.iter().enumerate() {
                    model.amend(at, |meter, holding| {
                        let stop = holding.newest().stop_at;
                        let next = meter.total().saturating_add(
                            MilliCores::from_millicores(*capacity).over(tick)).min(stop);
                        meter.observe(next).unwrap();
                        holding.acknowledge(holding.revision());
                    });
                }
                for (at, stopped) in stopped_at.iter_mut().enumerate() {
                    model.regrant(at);
                    let (meter, holding, _, _) = &model.sessions[at];
                    let is_stopped = meter.total() >= holding.newest().stop_at;
                    *stopped = is_stopped.then(|| stopped.unwrap_or(round));
                }
                if stopped_at.iter().all(Option::is_some) {
                    break;
                }
            }
            let ends: Vec<u64> = stopped_at.into_iter().flatten().collect();
            prop_assert_eq!(ends.len(), capacities.len(), "everybody is stopped in the end");
            let apart = ends.iter().max().unwrap() - ends.iter().min().unwrap();
            prop_assert!(apart <= 30, "{} ticks apart", apart);
            let left = Funds::of(model.balance, model.debt_limit).whole.halfords();
            prop_assert!(left <= model.purse.sessions.cast_signed() * 2, "{} halfords left", left);
        }
    }
}
