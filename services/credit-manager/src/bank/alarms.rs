//! Whose balance fell to its threshold.

use units::{Timestamp, UserName};

use super::{Bank, Change};
use crate::alert::{Alarm, Notice};

impl Bank {
    pub fn restore_alarm(&mut self, user: &UserName, alarm: Alarm) {
        if let Some(state) = self.users.get_mut(user) {
            state.alarm = alarm;
        }
    }

    /// Compares every balance with its threshold; the webhooks to call now.
    pub fn judge_alarms(&mut self, now: Timestamp) -> Vec<Notice> {
        let moved: Vec<(UserName, Alarm)> = self
            .users
            .values()
            .filter_map(|state| {
                let threshold = state.user.settings.alert_threshold();
                let next = state.alarm.next(self.balance(state), threshold, now)?;
                Some((state.user.name.clone(), next))
            })
            .collect();
        for (user, alarm) in moved {
            self.set_alarm(&user, alarm);
        }
        let notice = |state: &crate::users::UserState| {
            let alert = state.alarm.raised().filter(|alert| !alert.is_told)?;
            Some(Notice {
                user: state.user.name.clone(),
                url: state.user.settings.alert_webhook.clone()?,
                alert: alert.clone(),
            })
        };
        self.users.values().filter_map(notice).collect()
    }

    /// Arms a user's alarm if the balance is above its threshold now. Said whenever a balance rises or a threshold changes: a
    /// balance that falls again before the next look is then told.
    pub(super) fn arm(&mut self, user: &UserName) {
        let armed = self.users.get(user).and_then(|state| {
            let threshold = state.user.settings.alert_threshold();
            state.alarm.armed(self.balance(state), threshold)
        });
        if let Some(armed) = armed {
            self.set_alarm(user, armed);
        }
    }

    /// The webhook of the alert raised then was called, or given up.
    pub fn on_told(&mut self, user: &UserName, raised_at: Timestamp) {
        let alert = self.users.get(user).and_then(|state| state.alarm.raised());
        if let Some(alert) = alert.filter(|alert| alert.raised_at == raised_at).cloned() {
            let told = Alarm::Raised(crate::alert::Alert {
                is_told: true,
                ..alert
            });
            self.set_alarm(user, told);
        }
    }

    fn set_alarm(&mut self, user: &UserName, alarm: Alarm) {
        if let Some(state) = self.users.get_mut(user) {
            state.alarm = alarm.clone();
            self.effects.changes.push(Change::Alarm(user.clone(), alarm));
        }
    }
}
