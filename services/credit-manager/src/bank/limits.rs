//! What a user's own limits make of its live sessions: who may come, who has to go, how much CPU each may have.

use std::collections::{BTreeMap, BTreeSet};

use units::{Amount, FunctionName, MilliCores, OnShortage, SessionId, UserName};

use super::grants::Cause;
use super::{Bank, OpenRequest, Refusal};
use crate::governor::{self, Governed};
use crate::pace;
use crate::session::Session;
use crate::shortage;
use crate::users::{Settings, UserState};

impl Bank {
    /// Whether one more session fits the user's minimum runway and spending limits; if not, why not.
    pub(super) fn admit(&self, request: &OpenRequest, state: &UserState) -> Result<(), (Refusal, String)> {
        let settings = &state.user.settings;
        if !settings.accounting {
            return Ok(());
        }
        self.admit_runway(request, state)
            .map_err(|message| (Refusal::Runway, message))?;
        self.admit_spending(request, state)
            .map_err(|message| (Refusal::SpendLimit, message))
    }

    fn admit_runway(&self, request: &OpenRequest, state: &UserState) -> Result<(), String> {
        let settings = &state.user.settings;
        let needed = settings.runway_needed();
        if needed.is_zero() {
            return Ok(());
        }
        let capacities = self.billed_of(state).map(|session| session.capacity);
        let capacity: MilliCores = capacities.chain([request.capacity]).sum();
        let running: Amount = self.billed_of(state).map(Session::hourly).sum();
        let joint = running.saturating_add(governor::hourly(settings.price, request.capacity));
        // More than the limit is never spent, whatever the capacities.
        let joint = settings.max_spend.map_or(joint, |limit| limit.min(joint));
        let balance = self.balance(state);
        match pace::lasts(balance, joint) {
            Some(lasts) if lasts < needed => Err(format!(
                "with this task the balance of {} ({balance} GRC) lasts {} s at {capacity} for {joint} GRC an hour, and {} s \
                 are the least",
                state.user.name,
                lasts.as_secs(),
                needed.as_secs()
            )),
            _ => Ok(()),
        }
    }

    fn admit_spending(&self, request: &OpenRequest, state: &UserState) -> Result<(), String> {
        let settings = &state.user.settings;
        let of_function = |session: &&Session| session.task.function == request.function;
        let function_limit = self
            .functions
            .get(&request.function)
            .and_then(|function| function.max_spend);
        let limits = [
            (
                "user",
                state.user.name.as_str(),
                settings.max_spend,
                self.billed_of(state).count(),
            ),
            (
                "function",
                request.function.as_str(),
                function_limit,
                self.billed_of(state).filter(of_function).count(),
            ),
        ];
        let least = governor::hourly(settings.price, governor::LEAST).halfords();
        for (kind, name, limit, running) in limits {
            let needed = least.saturating_mul(i64::try_from(running).unwrap_or(i64::MAX).saturating_add(1));
            if let Some(limit) = limit.filter(|limit| limit.halfords() < needed) {
                return Err(format!(
                    "{kind} {name} may spend {limit} GRC an hour, which leaves no room for another task beside {running}"
                ));
            }
        }
        Ok(())
    }

    /// Decides anew who has to go and how much CPU each may have, and notes whom that is news to.
    pub(super) fn judge(&mut self, user: &UserName, cause: &Cause<'_>) {
        let Some(state) = self.users.get(user) else {
            return;
        };
        let dismissed = self.surplus(state);
        let mut ceilings = self.ceilings(state);
        let asked: &[SessionId] = match cause {
            Cause::Asked(asked) => asked,
            Cause::Freed | Cause::Funds => &[],
        };
        if !matches!(cause, Cause::Funds) && is_much_the_same(&state.ceilings, &ceilings) {
            ceilings.clone_from(&state.ceilings);
        }
        if dismissed == state.dismissed && ceilings == state.ceilings {
            return;
        }
        let told_less = ceilings
            .iter()
            .filter(|(id, ceiling)| state.ceilings.get(*id).is_none_or(|before| before != *ceiling));
        let freed = state.ceilings.keys().filter(|id| !ceilings.contains_key(*id));
        let news: BTreeSet<SessionId> = told_less
            .map(|(id, _)| id)
            .chain(freed)
            .chain(dismissed.symmetric_difference(&state.dismissed))
            .copied()
            .filter(|id| self.sessions.contains_key(id) && !asked.contains(id))
            .collect();
        self.effects.news.extend(news);
        if let Some(state) = self.users.get_mut(user) {
            state.dismissed = dismissed;
            state.ceilings = ceilings;
        }
    }

    fn billed_of<'a>(&'a self, state: &'a UserState) -> impl Iterator<Item = &'a Session> {
        let live = state.sessions.iter().filter_map(|id| self.sessions.get(id));
        live.filter(|session| session.meter.price().is_some())
    }

    fn surplus(&self, state: &UserState) -> BTreeSet<SessionId> {
        let settings = &state.user.settings;
        if settings.on_shortage == OnShortage::Together {
            return BTreeSet::new();
        }
        let mut sessions: Vec<&Session> = self.billed_of(state).collect();
        sessions.sort_by_key(|session| (session.opened_at, session.id));
        let hourly: Vec<(SessionId, Amount)> = sessions
            .iter()
            .map(|session| (session.id, session.hourly()))
            .collect();
        let threshold = shortage::threshold(settings.min_runway);
        shortage::surplus(self.balance(state), threshold, &hourly)
            .into_iter()
            .collect()
    }

    fn ceilings(&self, state: &UserState) -> BTreeMap<SessionId, MilliCores> {
        let sessions: Vec<&Session> = if self.has_limits(state) {
            self.billed_of(state).collect()
        } else {
            Vec::new()
        };
        let limits: BTreeMap<FunctionName, Amount> = sessions
            .iter()
            .filter_map(|session| {
                let function = self.functions.get(&session.task.function)?;
                Some((function.name.clone(), function.max_spend?))
            })
            .collect();
        let governed: Vec<Governed> = sessions
            .iter()
            .map(|session| Governed {
                function: session.task.function.clone(),
                price: session.price,
                burn: session.pace.settled(),
                ceiling: state.ceilings.get(&session.id).copied(),
            })
            .collect();
        let ceilings = governor::ceilings(&governed, state.user.settings.max_spend, &limits);
        let ids = sessions.iter().map(|session| session.id);
        ids.zip(ceilings)
            .filter_map(|(id, ceiling)| Some((id, ceiling?)))
            .collect()
    }

    fn has_limits(&self, state: &UserState) -> bool {
        state.user.settings.max_spend.is_some() || state.has_limited_functions
    }
}

/// Whether nobody's ceiling moved by more than a twentieth: then it is not worth telling.
fn is_much_the_same(
    before: &BTreeMap<SessionId, MilliCores>,
    after: &BTreeMap<SessionId, MilliCores>,
) -> bool {
    let near = |before: &MilliCores, after: &MilliCores| {
        before.millicores().abs_diff(after.millicores()) <= before.millicores() / 20
    };
    before.len() == after.len()
        && after
            .iter()
            .all(|(id, ceiling)| before.get(id).is_some_and(|before| near(before, ceiling)))
}

/// Refuses a limit that no container could keep.
pub(super) fn check_spending(limit: Option<Amount>, settings: &Settings) -> Result<(), super::BankError> {
    let least = governor::hourly(settings.price, governor::LEAST);
    match limit {
        Some(limit) if limit < least => Err(super::BankError::LimitTooLow { limit, least }),
        _ => Ok(()),
    }
}
