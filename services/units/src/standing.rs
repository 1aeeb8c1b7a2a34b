//! What an account is worth to the platform, and what that costs its containers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::CpuTime;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a {kind} (one of: {known})")]
pub struct UnknownWord {
    kind: &'static str,
    found: String,
    known: String,
}

/// Defines an enum whose variants are written as one lower-case word each, the same in JSON, the CLI and the ledger.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $kind:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| UnknownWord {
                    kind: $kind,
                    found: text.to_owned(),
                    known: Self::ALL.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

words!(
    /// How an account stands, from best to worst.
    Standing, "standing" {
        Good = "good",
        /// The balance is at or below the user's own `min_balance`.
        Low = "low",
        /// The balance is zero or below.
        InDebt = "in-debt",
        /// The balance is at minus the debt limit or below.
        Exhausted = "exhausted",
    }
);

words!(
    /// What a standing costs a running container, from mildest to hardest.
    Restriction, "restriction" {
        None = "none",
        /// The allocation drops to the floor and the weight to its minimum.
        Throttle = "throttle",
        /// Work is frozen, then aborted and returned to the queue.
        Stop = "stop",
    }
);

words!(
    /// Whether new work starts while the balance is `Low`.
    Policy, "policy" {
        Greedy = "greedy",
        Conservative = "conservative",
    }
);

words!(
    /// What happens when a user's funds do not last for everything that runs.
    OnShortage, "choice for a shortage" {
        /// All go on, and are throttled and stopped together.
        Together = "together",
        /// The newest are stopped, so that the older ones go on.
        NewestFirst = "newest-first",
    }
);

words!(
    /// What a charge is made from.
    Billing, "billing type" {
        /// CPU time consumed, as the kernel counted it.
        Used = "used",
        /// The CPU limit in force times the time it was in force: the classic reservation.
        Current = "current",
    }
);

/// How far a session may run: totals of its meter, both paid for by money set aside for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// From this total on the container is throttled.
    pub throttle_at: CpuTime,
    /// At this total the session is stopped.
    pub stop_at: CpuTime,
}

impl Grant {
    pub const UNLIMITED: Self = Self {
        throttle_at: CpuTime::MAX,
        stop_at: CpuTime::MAX,
    };

    /// What both grants allow.
    pub fn tighter(self, other: Self) -> Self {
        Self {
            throttle_at: self.throttle_at.min(other.throttle_at),
            stop_at: self.stop_at.min(other.stop_at),
        }
    }

    /// The restriction that this grant alone puts on a session whose meter stands at `total`.
    pub fn restriction(self, total: CpuTime) -> Restriction {
        if total >= self.stop_at {
            Restriction::Stop
        } else if total >= self.throttle_at {
            Restriction::Throttle
        } else {
            Restriction::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_others_refused_with_the_choice() {
        for standing in Standing::ALL {
            assert_eq!(standing.as_str().parse(), Ok(*standing));
        }
        let err = "nice".parse::<Policy>().unwrap_err();
        assert_eq!(
            err.to_string(),
            "`nice` is not a policy (one of: greedy, conservative)"
        );
    }

    #[test]
    fn a_grant_throttles_before_it_stops() {
        let micros = CpuTime::from_micros;
        let grant = Grant {
            throttle_at: micros(10),
            stop_at: micros(20),
        };
        for (total, restriction) in [
            (0, Restriction::None),
            (9, Restriction::None),
            (10, Restriction::Throttle),
            (19, Restriction::Throttle),
            (20, Restriction::Stop),
        ] {
            assert_eq!(grant.restriction(micros(total)), restriction, "{total}");
        }
    }
}
