//! The numbers read off the published figures of *normal*, *debt* and *aborted*: seconds on their axis, CPU in shares.

use std::fmt;

use units::{Amount, MilliCores};

use super::run::Run;
use crate::virtual_run::Phases;

/// A published run, and what the figures do not tell of it.
pub(super) struct Published {
    pub name: &'static str,
    pub phases: Phases,
    /// From the container's start to its first point.
    pub axis: i64,
    pub figures: &'static [Figure],
}

pub(super) struct Figure {
    pub what: What,
    pub at_s: i64,
    /// Why the replay is off.
    pub why: Option<&'static str>,
}

const fn figure(what: What, at_s: i64) -> Figure {
    Figure {
        what,
        at_s,
        why: None,
    }
}

impl Figure {
    const fn but(self, why: &'static str) -> Self {
        Self {
            why: Some(why),
            ..self
        }
    }
}

pub(super) enum What {
    /// From then on.
    Limit(u32),
    /// Up to then.
    LimitUntil(u32),
    Gone,
    TaskEnds,
    Aborted,
    /// In hundredths of a GRC.
    Balance(i64),
    Pending(u32),
}

/// What a run shows nearest to a published moment.
pub(super) struct Found {
    pub at_s: i64,
    pub value: String,
    /// Whether it is the published value.
    pub fits: bool,
    /// Whether it is so at the moment itself.
    pub holds: bool,
}

/// A share is a hundredth of a core. Limits that differ by less than a fifth of the boundary are the same step: one share
/// more or less in use makes four in a proportional raise.
const SHARES_APART: u32 = 5;

fn shares(limit: MilliCores) -> u32 {
    limit.millicores().div_ceil(10)
}

fn grc(hundredths: i64) -> Amount {
    Amount::from_halfords(hundredths * 1_000_000)
}

impl What {
    pub(super) fn find(&self, run: &Run, at_s: i64) -> Option<Found> {
        let moment = |at: i64, value: String| Found {
            at_s: at,
            value,
            fits: true,
            holds: false,
        };
        let state = |value: String, fits: bool| Found {
            at_s,
            value,
            fits,
            holds: true,
        };
        match *self {
            Self::Limit(expected) => run
                .limits()
                .filter_map(|(at, limit)| Some((at, shares(limit?))))
                .filter(|(_, limit)| limit.abs_diff(expected) <= SHARES_APART)
                .min_by_key(|(at, _)| at.abs_diff(at_s))
                .map(|(at, limit)| moment(at, format!("limit {limit}"))),
            Self::LimitUntil(expected) => {
                let changes: Vec<_> = run.limits().collect();
                let pairs = changes.windows(2).filter_map(|pair| {
                    let (from, until) = (pair.first()?, pair.last()?);
                    Some((until.0, shares(from.1?)))
                });
                pairs
                    .min_by_key(|(at, _)| at.abs_diff(at_s))
                    .map(|(at, limit)| Found {
                        fits: limit.abs_diff(expected) <= SHARES_APART,
                        ..moment(at, format!("limit {limit} until"))
                    })
            }
            Self::Gone => run
                .limits()
                .filter(|(_, limit)| limit.is_none())
                .min_by_key(|(at, _)| at.abs_diff(at_s))
                .map(|(at, _)| moment(at, "container gone".to_owned())),
            Self::TaskEnds => run
                .ends
                .iter()
                .min_by_key(|at| at.abs_diff(at_s))
                .map(|at| moment(*at, "task ends".to_owned())),
            Self::Aborted => run
                .returned()
                .min_by_key(|at| at.abs_diff(at_s))
                .map(|at| moment(at, "task aborted".to_owned())),
            Self::Balance(expected) => run
                .balances()
                .filter(|(_, _, balance)| *balance == grc(expected))
                .map(|(from, until, _)| at_s.clamp(from, until.max(from + 1) - 1))
                .min_by_key(|at| at.abs_diff(at_s))
                .map(|at| Found {
                    holds: at == at_s,
                    ..moment(at, money(grc(expected)))
                }),
            Self::Pending(expected) => run
                .pending_at(at_s)
                .map(|pending| state(format!("{pending} pending"), pending == expected)),
        }
    }

    /// What a run has of it at a moment.
    pub(super) fn state(&self, run: &Run, at_s: i64) -> String {
        let limit = || {
            run.limit_at(at_s).map_or_else(
                || "no container".to_owned(),
                |limit| format!("limit {}", shares(limit)),
            )
        };
        match self {
            Self::Limit(_) | Self::LimitUntil(_) | Self::Gone => limit(),
            Self::TaskEnds | Self::Aborted => {
                let over = run.ends.iter().copied().chain(run.returned());
                match over.min_by_key(|at| at.abs_diff(at_s)) {
                    Some(at) if run.ends.contains(&at) => format!("task ends at {at} s"),
                    Some(at) => format!("task stopped at {at} s"),
                    None => "no task ends".to_owned(),
                }
            }
            Self::Balance(_) => run.balance_at(at_s).map_or_else(String::new, money),
            Self::Pending(_) => format!("{} pending", run.pending_at(at_s).unwrap_or(0)),
        }
    }
}

/// Whole ten-thousandths are enough for people.
fn money(amount: Amount) -> String {
    let text = amount.to_string();
    let end = text.len().saturating_sub(4);
    format!("{} GRC", text.get(..end).unwrap_or(&text))
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(shares) => write!(f, "limit {shares}"),
            Self::LimitUntil(shares) => write!(f, "limit {shares} until"),
            Self::Gone => write!(f, "container gone"),
            Self::TaskEnds => write!(f, "task ends"),
            Self::Aborted => write!(f, "task aborted"),
            Self::Balance(hundredths) => write!(f, "{}", money(grc(*hundredths))),
            Self::Pending(tasks) => write!(f, "{tasks} pending"),
        }
    }
}

pub(super) const RUNS: &[Published] = &[NORMAL, DEBT, ABORTED];

const PLOT_ENDS: &str = "The published plot ends there: its script waits 700 + 60 s for the second batch and ends the test. The \
    tasks alone take 700 s and the idle timeout 60 s more than four starts.";

const ONE_RAISE_LESS: &str = "338 is what three cores are fitted with on the way down, so that run had raised once more before; \
    the replay stays at 330, as *normal* does in both. The task uses three cores under either.";

const STILL_BILLED: &str = "Throttled at 385 s, the run has still to be billed for the 20 s at three cores before: 60 core-seconds, \
    two blocks of 0.05. No delay that fits the other figures leaves one block out until 430 s.";

const NORMAL: Published = Published {
    name: "normal",
    phases: Phases {
        manager_ms: 4_628,
        guardian_ms: 120,
        scaler_ms: 2_027,
        snapshoter_ms: 3_930,
        refeeder_ms: 3_395,
        credit_ms: 8_027,
    },
    axis: 3,
    figures: &[
        figure(What::Limit(138), 65),
        figure(What::Limit(234), 200),
        figure(What::Limit(334), 280),
        figure(What::Limit(238), 580),
        figure(What::Limit(138), 780),
        figure(What::Balance(100), 1140),
        figure(What::Gone, 1179),
        figure(What::Balance(300), 1204),
        figure(What::Limit(200), 1297),
        figure(What::Limit(392), 1390),
        figure(What::Limit(138), 1455),
        figure(What::Limit(234), 1650),
        figure(What::Limit(138), 1790),
        figure(What::Gone, 2050).but(PLOT_ENDS),
        figure(What::Balance(150), 2050),
    ],
};

const DEBT: Published = Published {
    name: "debt",
    phases: Phases {
        manager_ms: 3_810,
        guardian_ms: 9_707,
        scaler_ms: 1_265,
        snapshoter_ms: 1_468,
        refeeder_ms: 8_234,
        credit_ms: 4_197,
    },
    axis: 3,
    figures: &[
        figure(What::LimitUntil(338), 385).but(ONE_RAISE_LESS),
        figure(What::Limit(50), 385),
        figure(What::Balance(-5), 430).but(STILL_BILLED),
        figure(What::TaskEnds, 510),
        figure(What::Balance(-25), 554),
        figure(What::Balance(175), 1204),
        figure(What::Limit(50), 2030),
        figure(What::Balance(-5), 2050),
        figure(What::Pending(2), 2050),
    ],
};

const ABORTED: Published = Published {
    name: "aborted",
    phases: Phases {
        manager_ms: 4_980,
        guardian_ms: 4_950,
        scaler_ms: 3_790,
        snapshoter_ms: 5_527,
        refeeder_ms: 6_438,
        credit_ms: 4_355,
    },
    axis: 5,
    figures: &[
        figure(What::Limit(392), 89),
        figure(What::Limit(338), 170),
        figure(What::Balance(5), 457),
        figure(What::Limit(50), 465),
        figure(What::Balance(-5), 470),
        figure(What::Balance(-50), 900),
        figure(What::Aborted, 900),
        figure(What::Pending(1), 950),
    ],
};
