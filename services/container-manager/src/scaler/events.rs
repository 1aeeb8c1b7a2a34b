//! The prototype's events: windows in which usage was above one line or below another. They gather, and once enough of one
//! kind are there and not too many of the other, the limit moves and they are forgotten.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::RuleError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Up,
    Down,
}

/// How many events move a limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    pub(super) window: Duration,
    /// How long an event counts.
    pub(super) timeout: Duration,
    pub(super) raise_ups: u32,
    pub(super) raise_downs_max: u32,
    pub(super) lower_downs: u32,
    pub(super) lower_ups_max: u32,
}

impl Thresholds {
    /// Errors if a window or a number of events is 0, or if so many events never count at the same time. `rules` is the name of
    /// the rules they belong to.
    pub(super) fn check(&self, rules: &str) -> Result<(), RuleError> {
        for (key, is_zero) in [
            ("window_ms", self.window.is_zero()),
            ("raise_ups", self.raise_ups == 0),
            ("lower_downs", self.lower_downs == 0),
        ] {
            check_not_zero(rules, key, is_zero)?;
        }
        let events = self.raise_ups.max(self.lower_downs);
        // From the first event's window to the last one's.
        let needed = self.window.saturating_mul(events.saturating_sub(1));
        if needed > self.timeout {
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            return Err(RuleError::NeverActs {
                timeout_ms: millis(self.timeout),
                events,
                needed_ms: millis(needed),
            });
        }
        Ok(())
    }
}

/// Errors if a key of some rules is 0.
pub(super) fn check_not_zero(rules: &str, key: &str, is_zero: bool) -> Result<(), RuleError> {
    if is_zero {
        return Err(RuleError::Zero(format!("{rules}.{key}")));
    }
    Ok(())
}

#[derive(Debug, Default)]
pub(super) struct Events(VecDeque<(Instant, Event)>);

impl Events {
    /// Takes in what a window was. Returns where the limit has to go, if anywhere.
    pub(super) fn on_window(
        &mut self,
        at: Instant,
        event: Option<Event>,
        thresholds: &Thresholds,
    ) -> Option<Event> {
        self.0
            .retain(|(then, _)| at.saturating_duration_since(*then) <= thresholds.timeout);
        self.0.extend(event.map(|event| (at, event)));
        let (ups, downs) = (self.count(Event::Up), self.count(Event::Down));
        let moves = if ups >= thresholds.raise_ups && downs <= thresholds.raise_downs_max {
            Event::Up
        } else if downs >= thresholds.lower_downs && ups <= thresholds.lower_ups_max {
            Event::Down
        } else {
            return None;
        };
        self.0.clear();
        Some(moves)
    }

    fn count(&self, event: Event) -> u32 {
        u32::try_from(self.0.iter().filter(|(_, e)| *e == event).count()).unwrap_or(u32::MAX)
    }
}
