//! Turns spending limits into CPU ceilings. Pure.
//!
//! A limit, in money an hour, is shared among the sessions it covers so that the smallest share is as large as can be,
//! and nobody gets more than it has use for: one that leaves a good part of its ceiling unused is given little more than
//! it uses, and what is over goes to the others. The ceilings together never cost more than the limit.

use std::collections::BTreeMap;
use std::time::Duration;

use units::{Amount, CpuPrice, FunctionName, MilliCores};

const HOUR: Duration = Duration::from_secs(3600);
/// What a kernel can enforce at the least: a container that may have less would get this.
pub const LEAST: MilliCores = MilliCores::from_millicores(50);

/// A session that is billed.
#[derive(Clone, Debug)]
pub struct Governed {
    pub function: FunctionName,
    pub price: CpuPrice,
    /// What it costs an hour at its present pace; `None` where that is not known yet.
    pub burn: Option<Amount>,
    /// What it has been allowed so far.
    pub ceiling: Option<MilliCores>,
}

impl Governed {
    fn hourly(&self, capacity: MilliCores) -> Amount {
        hourly(self.price, capacity)
    }

    /// The most it has use for: everything, unless it leaves more than a twentieth of its ceiling unused.
    fn goal(&self) -> Amount {
        let (Some(ceiling), Some(burn)) = (self.ceiling, self.burn) else {
            return Amount::MAX;
        };
        let (ceiling, burn) = (self.hourly(ceiling).halfords(), burn.halfords());
        if burn >= ceiling - ceiling / 20 {
            Amount::MAX
        } else {
            Amount::from_halfords(burn.saturating_add(burn / 10))
        }
    }
}

/// What a capacity costs an hour, fully used.
pub fn hourly(price: CpuPrice, capacity: MilliCores) -> Amount {
    price.cost(capacity.over(HOUR)).unwrap_or(Amount::MAX)
}

/// The largest capacity that costs no more than this an hour.
pub fn capacity(price: CpuPrice, hourly: Amount) -> MilliCores {
    let millicores = u128::from(price.affordable(hourly).micros()) * 1000 / HOUR.as_micros();
    MilliCores::from_millicores(u32::try_from(millicores).unwrap_or(u32::MAX))
}

/// The ceiling of each session; `None` where no limit covers it.
pub fn ceilings(
    sessions: &[Governed],
    user_limit: Option<Amount>,
    function_limits: &BTreeMap<FunctionName, Amount>,
) -> Vec<Option<MilliCores>> {
    let mut shares = vec![Amount::MAX; sessions.len()];
    for (function, limit) in function_limits {
        let of_function = |at: &usize| sessions[*at].function == *function;
        let members: Vec<usize> = (0..sessions.len()).filter(of_function).collect();
        share(*limit, sessions, &members, &mut shares);
    }
    if let Some(limit) = user_limit {
        let everybody: Vec<usize> = (0..sessions.len()).collect();
        share(limit, sessions, &everybody, &mut shares);
    }
    let ceiling = |(session, share): (&Governed, Amount)| {
        let covered = user_limit.is_some() || function_limits.contains_key(&session.function);
        covered.then(|| capacity(session.price, share))
    };
    sessions.iter().zip(shares).map(ceiling).collect()
}

/// Lowers the shares of `members` so that together they are no more than `limit`.
fn share(limit: Amount, sessions: &[Governed], members: &[usize], shares: &mut [Amount]) {
    let count = i64::try_from(members.len()).unwrap_or(i64::MAX).max(1);
    let even = limit.halfords() / count;
    // What lets an idle session show that it has use for more.
    let foot =
        |at: usize| Amount::from_halfords((even / 10).max(sessions[at].hourly(LEAST).halfords()).min(even));
    let goals: Vec<Amount> = members
        .iter()
        .map(|at| sessions[*at].goal().max(foot(*at)).min(shares[*at]))
        .collect();
    let level = water_level(limit, &goals);
    let taken: Amount = goals.iter().map(|goal| (*goal).min(level)).sum();
    // Where everybody has enough, a load that has just grown finds room.
    let over = Amount::from_halfords(limit.saturating_sub(taken).or_zero().halfords() / count);
    for (at, goal) in members.iter().zip(goals) {
        shares[*at] = goal.min(level).saturating_add(over).min(shares[*at]);
    }
}

/// The highest level for which all goals, cut off there, sum up to no more than `limit`.
fn water_level(limit: Amount, goals: &[Amount]) -> Amount {
    let mut sorted: Vec<i64> = goals.iter().map(|goal| goal.halfords()).collect();
    sorted.sort_unstable();
    let mut left = limit.halfords();
    let mut higher = i64::try_from(sorted.len()).unwrap_or(i64::MAX);
    for goal in sorted {
        let level = left / higher;
        if goal > level {
            return Amount::from_halfords(level);
        }
        left -= goal;
        higher -= 1;
    }
    Amount::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use units::CpuTime;

    fn grc(grc: i64) -> Amount {
        Amount::from_grc(grc).unwrap()
    }

    fn session(function: &str, burn: i64, ceiling: Option<u32>) -> Governed {
        Governed {
            function: function.parse().unwrap(),
            price: CpuPrice::DEFAULT,
            burn: Some(Amount::from_halfords(burn)),
            ceiling: ceiling.map(MilliCores::from_millicores),
        }
    }

    fn millicores(
        sessions: &[Governed],
        user: Option<Amount>,
        functions: &[(&str, Amount)],
    ) -> Vec<Option<u32>> {
        let functions = functions
            .iter()
            .map(|(name, limit)| (name.parse().unwrap(), *limit))
            .collect();
        let ceilings = ceilings(sessions, user, &functions);
        ceilings
            .into_iter()
            .map(|ceiling| ceiling.map(MilliCores::millicores))
            .collect()
    }

    #[test]
    fn a_limit_is_shared_evenly_by_those_who_want_all_of_it() {
        // A core costs 6 GRC an hour.
        let two = [session("one", 0, None), session("two", 0, None)];
        assert_eq!(millicores(&two, Some(grc(6)), &[]), [Some(500), Some(500)]);
        assert_eq!(millicores(&two, None, &[("one", grc(3))]), [Some(500), None]);
        assert_eq!(
            millicores(&two, Some(grc(6)), &[("one", grc(1))]),
            [Some(166), Some(833)]
        );
    }

    #[test]
    fn what_one_leaves_goes_to_the_others_and_comes_back_when_it_has_use_for_it() {
        // One uses a tenth of a core, the other all it may.
        let idle = session("one", 60_000_000, Some(500));
        let busy = session("one", 300_000_000, Some(500));
        assert_eq!(
            millicores(&[idle, busy.clone()], Some(grc(6)), &[]),
            [Some(110), Some(890)]
        );
        let awake = session("one", 65_000_000, Some(110));
        assert_eq!(
            millicores(&[awake, busy], Some(grc(6)), &[]),
            [Some(500), Some(500)]
        );
        // Alone, what is left over is room to grow.
        let half = session("one", 300_000_000, Some(1000));
        assert_eq!(millicores(&[half], Some(grc(6)), &[]), [Some(1000)]);
        let fresh = Governed {
            burn: None,
            ..session("one", 0, Some(1000))
        };
        assert_eq!(
            millicores(&[fresh.clone(), fresh], Some(grc(6)), &[]),
            [Some(500), Some(500)]
        );
    }

    proptest! {
        #[test]
        fn ceilings_never_cost_more_than_any_limit(
            sessions in prop::collection::vec((0..3_usize, 0..2_000_000_000_i64, prop::option::of(0..4000_u32), 1..2000_u64), 1..12),
            user in prop::option::of(0..10_000_000_000_i64),
            limits in prop::collection::vec(prop::option::of(0..10_000_000_000_i64), 3),
        ) {
            let names = ["one", "two", "three"];
            let sessions: Vec<Governed> = sessions.into_iter().map(|(function, burn, ceiling, secs)| Governed {
                price: CpuPrice::from_cpu_time_per_grc(CpuTime::from_secs(secs)).unwrap(),
                ..session(names[function], burn, ceiling)
            }).collect();
            let user = user.map(Amount::from_halfords);
            let functions: BTreeMap<FunctionName, Amount> = names.iter().zip(&limits)
                .filter_map(|(name, limit)| Some((name.parse().unwrap(), Amount::from_halfords((*limit)?))))
                .collect();
            let found = ceilings(&sessions, user, &functions);
            let cost = |of: &dyn Fn(&Governed) -> bool| -> Amount {
                sessions.iter().zip(&found).filter(|(session, _)| of(session))
                    .map(|(session, ceiling)| ceiling.map_or(Amount::ZERO, |ceiling| session.hourly(ceiling))).sum()
            };
            if let Some(user) = user {
                prop_assert!(cost(&|_| true) <= user);
            }
            for (function, limit) in &functions {
                prop_assert!(cost(&|session| session.function == *function) <= *limit);
            }
            for (session, ceiling) in sessions.iter().zip(&found) {
                let covered = user.is_some() || functions.contains_key(&session.function);
                prop_assert_eq!(ceiling.is_some(), covered);
            }
        }

        #[test]
        fn those_who_want_everything_get_all_of_the_limit(count in 1..20_usize, limit in 1_000_000_000..100_000_000_000_i64) {
            let sessions = vec![session("one", 0, None); count];
            let found = ceilings(&sessions, Some(Amount::from_halfords(limit)), &BTreeMap::new());
            let cost: Amount = found.iter().flatten().map(|ceiling| hourly(CpuPrice::DEFAULT, *ceiling)).sum();
            // A millicore each is what whole millicores may leave over.
            let over = hourly(CpuPrice::DEFAULT, MilliCores::from_millicores(u32::try_from(count).unwrap()));
            prop_assert!(cost.saturating_add(over).halfords() >= limit - 1);
        }
    }
}
