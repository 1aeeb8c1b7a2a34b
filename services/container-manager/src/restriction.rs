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

use crate::credit::SessionState;

/// The harder of what the account's standing asks and what the grant allows at this total.
pub fn effective(state: &SessionState, total: CpuTime) -> Restriction {
    state.restriction.max(state.grant.restriction(total))
}

/// The earliest that a session with this total can reach the next mark of its grant, or its task's own cap, at this
/// capacity. `None` if it has passed them all, or has no capacity.
pub fn until_next_mark(
    state: &SessionState,
    cap_at: Option<CpuTime>,
    total: CpuTime,
    capacity: MilliCores,
) -> Option<Duration> {
    let marks = [state.grant.throttle_at, state.grant.stop_at];
    let next = marks
        .into_iter()
        .chain(cap_at)
        .filter(|mark| *mark > total)
        .min()?;
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
