//! Keeps the grants, the sums behind them and what others were told in step with every change.

use units::{Restriction, SessionId, UserName};

use super::Bank;
use crate::grant;
use crate::session::{Session, SessionState};
use crate::standing;
use crate::users::Gate;

/// Why the grants of a user's sessions are looked at again.
pub(super) enum Cause<'a> {
    /// These sessions reported or were opened; their node gets the new grants with the reply.
    Asked(&'a [SessionId]),
    /// A session ended: what it held is free for those who wait for it.
    Freed,
    /// The balance or the limits changed, which concerns everybody at once.
    Funds,
}

impl Bank {
    /// Takes a new or restored session into all sums.
    pub(super) fn insert_session(&mut self, session: Session) {
        let id = session.id;
        let user = session.user.clone();
        self.objects
            .insert((session.task.function.clone(), session.task.key.clone()), id);
        if let Some(state) = self.users.get_mut(&user) {
            state.sessions.insert(id);
            let claim = session.holding.claim(&session.meter, session.capacity);
            state.purse.replace(grant::Claim::default(), claim);
            state.unposted = state.unposted.saturating_add(session.meter.unposted());
        }
        self.sessions.insert(id, session);
    }

    /// Takes an ended session out of all sums.
    pub(super) fn remove_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.leases.end(id);
        self.objects
            .remove(&(session.task.function.clone(), session.task.key.clone()));
        if let Some(state) = self.users.get_mut(&session.user) {
            state.sessions.remove(&id);
            let claim = session.holding.claim(&session.meter, session.capacity);
            state.purse.replace(claim, grant::Claim::default());
            state.unposted = state.unposted.saturating_sub(session.meter.unposted());
        }
    }

    /// Changes a live session and every sum it is part of.
    pub(super) fn amend<T>(&mut self, id: SessionId, change: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let session = self.sessions.get_mut(&id)?;
        let claim = session.holding.claim(&session.meter, session.capacity);
        let unposted = session.meter.unposted();
        let outcome = change(session);
        if let Some(state) = self.users.get_mut(&session.user) {
            let changed = session.holding.claim(&session.meter, session.capacity);
            state.purse.replace(claim, changed);
            state.unposted = state
                .unposted
                .saturating_sub(unposted)
                .saturating_add(session.meter.unposted());
        }
        self.effects.stale.insert(id);
        Some(outcome)
    }

    /// Shares a user's funds anew among the sessions that `cause` concerns, and notes who has to be told.
    pub(super) fn share_out(&mut self, user: &UserName, cause: &Cause<'_>) {
        let asked: &[SessionId] = match cause {
            Cause::Asked(asked) => asked,
            Cause::Freed | Cause::Funds => &[],
        };
        let mut somebody_starves = false;
        for id in asked {
            somebody_starves |= self.regrant(*id);
        }
        let gate_changed = self.note_gate(user);
        let everybody = gate_changed || somebody_starves || matches!(cause, Cause::Funds);
        if !everybody && !matches!(cause, Cause::Freed) {
            return;
        }
        let others: Vec<SessionId> = self
            .users
            .get(user)
            .map(|state| state.sessions.iter().copied().collect())
            .unwrap_or_default();
        for id in others {
            let waits = || self.restriction(id) != Restriction::None;
            if asked.contains(&id) || !(everybody || waits()) {
                continue;
            }
            let revision = self.sessions.get(&id).map(|session| session.holding.revision());
            self.regrant(id);
            let regranted = revision != self.sessions.get(&id).map(|session| session.holding.revision());
            if regranted || gate_changed {
                self.effects.news.insert(id);
            }
        }
    }

    /// Issues the grant that a session is to have now; says whether others hold what it should have.
    fn regrant(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(&id) else {
            return false;
        };
        let Some(state) = self.users.get(&session.user) else {
            return false;
        };
        if session.meter.price().is_none() {
            return false;
        }
        let funds = state.user.settings.funds(self.balance(state));
        let claim = session.holding.claim(&session.meter, session.capacity);
        let allotment = state.purse.share(funds, claim, &session.meter);
        let wanted = grant::grant(&session.meter, allotment.share, session.cap());
        if wanted != session.holding.newest() {
            self.amend(id, |session| session.holding.issue(wanted));
        }
        allotment.starved
    }

    /// Compares a user's gate with what everybody was told last; says whether it changed.
    pub(super) fn note_gate(&mut self, user: &UserName) -> bool {
        let Some(state) = self.users.get(user) else {
            return false;
        };
        let balance = self.balance(state);
        let settings = &state.user.settings;
        let gate = Gate {
            standing: settings.standing(balance),
            may_start: settings.may_start(user, balance).is_ok(),
        };
        let told = state.told;
        if told == Some(gate) {
            return false;
        }
        if told.map(|told| told.may_start) != Some(gate.may_start) {
            self.effects.gates.insert(user.clone());
        }
        if let Some(state) = self.users.get_mut(user) {
            state.told = Some(gate);
        }
        true
    }

    fn restriction(&self, id: SessionId) -> Restriction {
        self.state(id)
            .map_or(Restriction::None, |state| state.restriction)
    }

    /// What a live session's node is to know.
    pub fn state(&self, id: SessionId) -> Option<SessionState> {
        let session = self.sessions.get(&id)?;
        let state = self.users.get(&session.user)?;
        let balance = self.balance(state);
        let settings = &state.user.settings;
        let standing = settings.standing(balance);
        let grant = session.holding.newest();
        let restriction = if session.meter.price().is_none() {
            Restriction::None
        } else {
            standing::restriction(standing).max(grant.restriction(session.meter.total()))
        };
        Some(SessionState {
            id,
            standing,
            restriction,
            may_start: settings.may_start(&session.user, balance).is_ok(),
            grant,
            balance,
            revision: session.holding.revision(),
        })
    }
}
