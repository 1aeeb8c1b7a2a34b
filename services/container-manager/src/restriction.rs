//! RESTRICTION: what a session may do now, from its state and its meter. Pure.
//!
//! ```text
//!        throttle_at            stop_at, hold, abort
//! None ─────────────► Throttle ─────────► Stop ─────────► back to input/
//!   ▲                     │                 │
//!   └──── deposit ────────┴──── deposit ────┘
//! ```

use std::time::Duration;

use units::{CpuTime, MilliCores, Restriction};

use crate::cgroup::{Burst, QUOTA_PERIOD};
use crate::credit::SessionState;

/// The harder of what the account's standing asks and what the grant allows at this total.
pub fn effective(state: &SessionState, total: CpuTime) -> Restriction {
    state.restriction.max(state.grant.restriction(total))
}

/// Only those who pay may save CPU time for later.
pub fn burst(restriction: Restriction) -> Burst {
    match restriction {
        Restriction::None => Burst::Quota,
        Restriction::Throttle | Restriction::Stop => Burst::None,
    }
}

/// The most that a container in debt may have: its last quota before a mark is no more than what is left up to it.
pub fn landing(state: &SessionState, cap_at: Option<CpuTime>, total: CpuTime) -> Option<MilliCores> {
    let mark = next_mark(state, cap_at, total)?;
    Some(MilliCores::that_delivers(
        mark.saturating_sub(total),
        QUOTA_PERIOD,
    ))
}

fn next_mark(state: &SessionState, cap_at: Option<CpuTime>, total: CpuTime) -> Option<CpuTime> {
    let marks = [state.grant.throttle_at, state.grant.stop_at];
    marks.into_iter().chain(cap_at).filter(|mark| *mark > total).min()
}

/// The earliest that a session with this total can reach the next mark of its grant, or its task's own cap, at this
/// capacity. `None` if it has passed them all, or has no capacity.
pub fn until_next_mark(
    state: &SessionState,
    cap_at: Option<CpuTime>,
    total: CpuTime,
    capacity: MilliCores,
) -> Option<Duration> {
    let next = next_mark(state, cap_at, total)?;
    capacity.time_to_deliver(next.saturating_sub(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::{Amount, Grant, SessionId, Standing};

    fn state(restriction: Restriction, throttle_at: u64, stop_at: u64) -> SessionState {
        let micros = CpuTime::from_micros;
        SessionState {
            session: SessionId::new(),
            standing: Standing::Good,
            restriction,
            may_start: true,
            grant: Grant {
                throttle_at: micros(throttle_at),
                stop_at: micros(stop_at),
            },
            balance: Amount::ZERO,
            revision: 1,
            ceiling: None,
            dismissed: false,
        }
    }

    #[test]
    fn the_harder_of_standing_and_grant_holds() {
        for (standing, total, expected) in [
            (Restriction::None, 99, Restriction::None),
            (Restriction::None, 100, Restriction::Throttle),
            (Restriction::None, 200, Restriction::Stop),
            (Restriction::Throttle, 0, Restriction::Throttle),
            (Restriction::Stop, 0, Restriction::Stop),
        ] {
            let state = state(standing, 100, 200);
            assert_eq!(
                effective(&state, CpuTime::from_micros(total)),
                expected,
                "{standing} at {total}"
            );
        }
    }

    #[test]
    fn the_next_mark_cannot_be_reached_sooner_than_at_full_allocation() {
        let state = state(Restriction::None, 1_000_000, 3_000_000);
        let two_cores = MilliCores::from_cores(2);
        let until = |total| until_next_mark(&state, None, CpuTime::from_micros(total), two_cores);
        assert_eq!(until(0), Some(Duration::from_millis(500)));
        assert_eq!(until(1_000_000), Some(Duration::from_secs(1)));
        assert_eq!(until(3_000_000), None);
        let cap = Some(CpuTime::from_micros(400_000));
        assert_eq!(
            until_next_mark(&state, cap, CpuTime::ZERO, two_cores),
            Some(Duration::from_millis(200))
        );
    }
}
