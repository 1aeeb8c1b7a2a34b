//! What each container of a node gets when all of them together may want more than the node has.

use units::{ContainerId, MilliCores};

/// The kernel's least quota, 1 ms in a period of 20. Less cannot be enforced, so it is set aside for everybody.
const LEAST: MilliCores = MilliCores::from_millicores(50);

/// What one container has and wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    pub container: ContainerId,
    /// In force now.
    pub current: MilliCores,
    pub desired: MilliCores,
    /// Comes before what others want beyond their own.
    pub min: MilliCores,
    /// In debt: is served after those who pay.
    pub restricted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub container: ContainerId,
    pub to: MilliCores,
}

/// The changes to make, in this order: downs first, so that what is in force never sums above `capacity` on the way,
/// unless it did before. Nobody gets more than desired. When it does not suffice, everybody gets `min`, then those who
/// pay share what is left so that the smallest is as large as can be, then those in debt.
pub fn plan(capacity: MilliCores, demands: &[Demand]) -> Vec<Change> {
    let mut granted = vec![MilliCores::ZERO; demands.len()];
    let base = |d: &Demand| d.min.max(LEAST).min(d.desired);
    raise(capacity, demands, &mut granted, |d| Some(base(d)));
    raise(capacity, demands, &mut granted, |d| {
        (!d.restricted).then_some(d.desired)
    });
    raise(capacity, demands, &mut granted, |d| {
        d.restricted.then_some(d.desired)
    });

    let changes = demands.iter().zip(granted).filter(|(d, to)| *to != d.current);
    let (downs, ups): (Vec<_>, Vec<_>) = changes.partition(|(d, to)| *to < d.current);
    downs
        .into_iter()
        .chain(ups)
        .map(|(d, to)| Change {
            container: d.container,
            to,
        })
        .collect()
}

/// Raises the grants of those with a `goal` towards it, the smallest first, with what is left of `capacity`. The rest
/// of that division, less than a millicore for each, stays free.
fn raise(
    capacity: MilliCores,
    demands: &[Demand],
    granted: &mut [MilliCores],
    goal: impl Fn(&Demand) -> Option<MilliCores> + Copy,
) {
    let left = capacity.saturating_sub(granted.iter().copied().sum());
    let cups = demands
        .iter()
        .zip(&*granted)
        .filter_map(|(d, granted)| Some((*granted, goal(d)?)));
    let level = water_level(left, cups);
    for (demand, granted) in demands.iter().zip(granted) {
        if let Some(goal) = goal(demand) {
            *granted = level.min(goal).max(*granted);
        }
    }
}

/// The highest level to which everybody below it can be raised, or up to their goal, with `left` in all.
fn water_level(left: MilliCores, cups: impl Iterator<Item = (MilliCores, MilliCores)> + Clone) -> MilliCores {
    let needed = |level: u32| -> u64 {
        let level = MilliCores::from_millicores(level);
        cups.clone()
            .map(|(granted, goal)| u64::from(level.min(goal).saturating_sub(granted).millicores()))
            .sum()
    };
    let top = cups.clone().map(|(_, goal)| goal.millicores()).max().unwrap_or(0);
    let (mut full, mut over) = (0, top.saturating_add(1));
    while over - full > 1 {
        let middle = full + (over - full) / 2;
        if needed(middle) <= u64::from(left.millicores()) {
            full = middle;
        } else {
            over = middle;
        }
    }
    MilliCores::from_millicores(full)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millicores(millicores: u32) -> MilliCores {
        MilliCores::from_millicores(millicores)
    }

    fn demand(current: u32, desired: u32, min: u32, restricted: bool) -> Demand {
        Demand {
            container: ContainerId::new(),
            current: millicores(current),
            desired: millicores(desired),
            min: millicores(min),
            restricted,
        }
    }

    /// What everybody has once all changes were made.
    fn after(demands: &[Demand], changes: &[Change]) -> Vec<u32> {
        demands
            .iter()
            .map(|d| {
                let change = changes.iter().find(|change| change.container == d.container);
                change.map_or(d.current, |change| change.to).millicores()
            })
            .collect()
    }

    fn granted(capacity: u32, demands: &[Demand]) -> Vec<u32> {
        after(demands, &plan(millicores(capacity), demands))
    }

    #[test]
    fn everybody_gets_what_they_want_while_there_is_enough() {
        assert_eq!(
            granted(4000, &[demand(0, 1000, 0, false), demand(500, 3000, 0, true)]),
            [1000, 3000]
        );
        assert!(plan(millicores(4000), &[demand(1000, 1000, 0, false)]).is_empty());
        assert!(plan(millicores(0), &[]).is_empty());
    }

    #[test]
    fn what_is_short_is_shared_so_that_the_smallest_is_as_large_as_can_be() {
        let wants = |wants: &[u32]| wants.iter().map(|w| demand(0, *w, 0, false)).collect::<Vec<_>>();
        assert_eq!(granted(3000, &wants(&[500, 4000, 4000])), [500, 1250, 1250]);
        assert_eq!(granted(1000, &wants(&[4000, 4000, 4000])), [333, 333, 333]);
        let with_min = [demand(0, 4000, 1500, false), demand(0, 4000, 0, false)];
        assert_eq!(granted(2000, &with_min), [1500, 500]);
    }

    #[test]
    fn those_in_debt_come_last_but_can_always_move() {
        let demands = [demand(0, 4000, 0, false), demand(2000, 500, 0, true)];
        assert_eq!(granted(2000, &demands), [1950, 50]);
        assert_eq!(granted(4400, &demands), [4000, 400]);
        assert_eq!(granted(6000, &demands), [4000, 500]);
    }

    #[test]
    fn downs_come_before_ups() {
        let demands = [demand(500, 1500, 0, false), demand(1500, 500, 0, false)];
        let order: Vec<_> = plan(millicores(2000), &demands)
            .iter()
            .map(|c| c.container)
            .collect();
        assert_eq!(order, [demands[1].container, demands[0].container]);
    }

    fn any_demands() -> impl Strategy<Value = Vec<Demand>> {
        let demand = (0_u32..3000, 0_u32..5000, 0_u32..500, any::<bool>())
            .prop_map(|(current, desired, min, restricted)| demand(current, desired, min, restricted));
        proptest::collection::vec(demand, 0..12)
    }

    proptest! {
        #[test]
        fn allocations_never_sum_above_the_node_on_the_way_or_at_the_end(
            capacity in 0_u32..20_000, demands in any_demands()
        ) {
            let changes = plan(millicores(capacity), &demands);
            let at_first: u32 = demands.iter().map(|d| d.current.millicores()).sum();
            for made in 0..=changes.len() {
                let sum: u32 = after(&demands, &changes[..made]).iter().sum();
                prop_assert!(sum <= capacity.max(at_first));
            }
            let at_last: u32 = after(&demands, &changes).iter().sum();
            prop_assert!(at_last <= capacity);
        }

        #[test]
        fn nobody_gets_more_than_desired_and_all_get_it_if_it_fits(
            capacity in 0_u32..20_000, demands in any_demands()
        ) {
            let granted = granted(capacity, &demands);
            let wanted: Vec<u32> = demands.iter().map(|d| d.desired.millicores()).collect();
            prop_assert!(granted.iter().zip(&wanted).all(|(granted, wanted)| granted <= wanted));
            if wanted.iter().sum::<u32>() <= capacity {
                prop_assert_eq!(granted, wanted);
            }
        }

        #[test]
        fn nobody_is_short_while_another_of_the_same_standing_has_more_than_its_own(
            capacity in 0_u32..20_000, demands in any_demands()
        ) {
            let granted = granted(capacity, &demands);
            let base = |d: &Demand| d.min.max(LEAST).min(d.desired).millicores();
            for (a, got_a) in demands.iter().zip(&granted) {
                for (b, got_b) in demands.iter().zip(&granted) {
                    let short = *got_a < a.desired.millicores();
                    if short && a.restricted == b.restricted && got_b > got_a {
                        prop_assert!(*got_b <= base(b));
                    }
                    if short && !a.restricted && b.restricted {
                        // A millicore each is what the division may leave over.
                        let over: u32 = u32::try_from(demands.len()).unwrap();
                        prop_assert!(*got_b <= base(b) + over);
                    }
                }
            }
        }

        #[test]
        fn a_second_plan_right_after_changes_nothing(capacity in 0_u32..20_000, demands in any_demands()) {
            let granted = granted(capacity, &demands);
            let settled: Vec<Demand> =
                demands.iter().zip(granted).map(|(d, g)| Demand { current: millicores(g), ..*d }).collect();
            prop_assert!(plan(millicores(capacity), &settled).is_empty());
        }
    }
}
