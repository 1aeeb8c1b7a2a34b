//! RESTRICTION, pure: balance and limits → [`Standing`] → [`Restriction`].

use units::{Amount, Policy, Restriction, Standing};

/// How an account with this `balance` stands. The conditions are tried from the worst on, so a debt limit of zero makes
/// a balance of zero `Exhausted`.
pub fn standing(balance: Amount, min_balance: Amount, debt_limit: Amount) -> Standing {
    if balance.saturating_add(debt_limit) <= Amount::ZERO {
        Standing::Exhausted
    } else if balance <= Amount::ZERO {
        Standing::InDebt
    } else if balance <= min_balance {
        Standing::Low
    } else {
        Standing::Good
    }
}

/// What a standing costs a task that runs.
pub fn restriction(standing: Standing) -> Restriction {
    match standing {
        Standing::Good | Standing::Low => Restriction::None,
        Standing::InDebt => Restriction::Throttle,
        Standing::Exhausted => Restriction::Stop,
    }
}

/// Whether a user of this standing may start containers and tasks. The policies differ in `Low` only.
pub fn may_start(standing: Standing, policy: Policy) -> bool {
    match standing {
        Standing::Good => true,
        Standing::Low => policy == Policy::Greedy,
        Standing::InDebt | Standing::Exhausted => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halfords(halfords: i64) -> Amount {
        Amount::from_halfords(halfords)
    }

    #[test]
    fn each_threshold_belongs_to_the_worse_standing() {
        let (min_balance, debt_limit) = (200, 300);
        for (balance, expected) in [
            (201, Standing::Good),
            (200, Standing::Low),
            (199, Standing::Low),
            (1, Standing::Low),
            (0, Standing::InDebt),
            (-1, Standing::InDebt),
            (-299, Standing::InDebt),
            (-300, Standing::Exhausted),
            (-301, Standing::Exhausted),
        ] {
            let found = standing(halfords(balance), halfords(min_balance), halfords(debt_limit));
            assert_eq!(found, expected, "at {balance}");
        }
    }

    #[test]
    fn without_debt_limit_or_minimum_only_good_and_exhausted_are_left() {
        for (balance, expected) in [
            (1, Standing::Good),
            (0, Standing::Exhausted),
            (-1, Standing::Exhausted),
        ] {
            assert_eq!(
                standing(halfords(balance), Amount::ZERO, Amount::ZERO),
                expected,
                "at {balance}"
            );
        }
    }

    #[test]
    fn debt_throttles_before_it_stops() {
        let found: Vec<_> = Standing::ALL.iter().map(|s| restriction(*s)).collect();
        assert_eq!(
            found,
            [
                Restriction::None,
                Restriction::None,
                Restriction::Throttle,
                Restriction::Stop
            ]
        );
    }

    #[test]
    fn the_policies_differ_in_low_only() {
        for standing in Standing::ALL {
            let by_policy = [Policy::Greedy, Policy::Conservative].map(|policy| may_start(*standing, policy));
            let expected = match standing {
                Standing::Good => [true, true],
                Standing::Low => [true, false],
                Standing::InDebt | Standing::Exhausted => [false, false],
            };
            assert_eq!(by_policy, expected, "{standing}");
        }
    }
}
