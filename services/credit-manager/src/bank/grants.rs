//! Keeps the grants, the sums behind them and what others were told in step with every change.

use units::{Amount, Restriction, SessionId, UserName};

use super::Bank;
use crate::grant;
use crate::lineage::{Lineage, LiveLineage};
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
        let claim = session.holding.claim(&session.meter, session.capacity);
        let root = session.task.root;
        self.lineages
            .entry(root)
            .or_insert_with(|| LiveLineage::new(Lineage::new(root, None)))
            .add(claim, session.meter.cost());
        if let Some(state) = self.users.get_mut(&user) {
            state.sessions.insert(id);
            state.purse.replace(grant::Claim::default(), claim);
            state.unposted = state.unposted.saturating_add(session.meter.unposted());
            state.burn = state.burn.saturating_add(session.pace.burn());
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
        let claim = session.holding.claim(&session.meter, session.capacity);
        if let Some(lineage) = self.lineages.get_mut(&session.task.root)
            && lineage.remove(claim, session.meter.cost())
        {
            self.lineages.remove(&session.task.root);
        }
        if let Some(state) = self.users.get_mut(&session.user) {
            state.sessions.remove(&id);
            state.purse.replace(claim, grant::Claim::default());
            state.unposted = state.unposted.saturating_sub(session.meter.unposted());
            state.burn = state.burn.saturating_sub(session.pace.burn());
        }
    }

    /// Changes a live session and every sum it is part of.
    pub(super) fn amend<T>(&mut self, id: SessionId, change: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let session = self.sessions.get_mut(&id)?;
        let claim = session.holding.claim(&session.meter, session.capacity);
        let unposted = session.meter.unposted();
        let (burn, cost) = (session.pace.burn(), session.meter.cost());
        let outcome = change(session);
        let changed = session.holding.claim(&session.meter, session.capacity);
        if let Some(lineage) = self.lineages.get_mut(&session.task.root) {
            lineage.replace((claim, cost), (changed, session.meter.cost()));
        }
        if let Some(state) = self.users.get_mut(&session.user) {
            state.purse.replace(claim, changed);
            state.unposted = state
                .unposted
                .saturating_sub(unposted)
                .saturating_add(session.meter.unposted());
            state.burn = state
                .burn
                .saturating_sub(burn)
                .saturating_add(session.pace.burn());
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
            somebody_starves |= self.regrant(*id, true);
        }
        self.judge(user, cause);
        let gate_changed = self.note_gate(user);
        let everybody = gate_changed || somebody_starves || matches!(cause, Cause::Funds);
        if !everybody && !matches!(cause, Cause::Freed) {
            return;
        }
        // Those who only have to give back take nothing of what is spare.
        let may_grow = gate_changed || !matches!(cause, Cause::Asked(_));
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
            self.regrant(id, may_grow);
            let regranted = revision != self.sessions.get(&id).map(|session| session.holding.revision());
            if regranted || gate_changed {
                self.effects.news.insert(id);
            }
        }
    }

    /// Issues the grant that a session is to have now, unless it is larger and may not be. Says whether others hold what
    /// it should have.
    fn regrant(&mut self, id: SessionId, may_grow: bool) -> bool {
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
        let (cap, lineage_starved) = self.cap(session, claim);
        let wanted = grant::grant(&session.meter, allotment.share, cap);
        let newest = session.holding.newest();
        let grows = wanted.throttle_at > newest.throttle_at || wanted.stop_at > newest.stop_at;
        if wanted != newest && (may_grow || !grows) {
            self.amend(id, |session| session.holding.issue(wanted));
        }
        allotment.starved || lineage_starved
    }

    /// What a session alone may cost, by its task's cap and its lineage's; and whether others of the lineage hold what it
    /// should have.
    fn cap(&self, session: &Session, claim: grant::Claim) -> (Option<Amount>, bool) {
        let own = session.cap();
        let lineage = self.lineages.get(&session.task.root);
        // What comes of a task is dropped after its end, so nobody joins a root.
        let is_alone = session.task.depth == 0;
        let Some(allotment) = lineage.and_then(|lineage| lineage.share(claim, &session.meter, is_alone))
        else {
            return (own, false);
        };
        let part = session.meter.cost().saturating_add(allotment.share.stop);
        (Some(own.map_or(part, |own| own.min(part))), allotment.starved)
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
            ceiling: state.ceilings.get(&id).copied(),
            dismissed: state.dismissed.contains(&id),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use units::{Billing, CpuPrice, CpuTime, MilliCores, OnShortage, Policy, TaskId, Timestamp};

    use super::*;
    use crate::bank::{Descent, Now, OpenRequest, Usage};
    use crate::ledger::{Balances, Transfer};
    use crate::settlement::wallet::DepositId;
    use crate::users::{Settings, User};

    const NODE: &str = "node-1";

    fn alice() -> UserName {
        "alice".parse().unwrap()
    }

    fn now() -> Now {
        Now {
            wall: Timestamp::default(),
            instant: Instant::now(),
        }
    }

    /// Alice with this many halfords, no debt limit, and one function.
    fn bank(halfords: i64) -> Bank {
        let mut bank = Bank::new(Balances::default());
        let address: crate::settlement::wallet::Address = "mAddress11111111111111111111".parse().unwrap();
        bank.create_user(User {
            name: alice(),
            address: address.clone(),
            settings: Settings {
                min_balance: Amount::ZERO,
                debt_limit: Amount::ZERO,
                policy: Policy::Greedy,
                billing: Billing::Used,
                price: CpuPrice::DEFAULT,
                accounting: true,
                min_runway: std::time::Duration::ZERO,
                on_shortage: OnShortage::Together,
                max_spend: None,
                alert_at: None,
                alert_webhook: None,
            },
            created_at: Timestamp::default(),
        })
        .unwrap();
        bank.create_function("stress".parse().unwrap(), &alice()).unwrap();
        deposit(&mut bank, address, halfords);
        bank.take_effects();
        bank
    }

    fn deposit(bank: &mut Bank, address: crate::settlement::wallet::Address, halfords: i64) {
        let id = DepositId {
            txid: "1".to_owned(),
            address,
            amount: Amount::from_halfords(halfords),
            ordinal: 0,
        };
        let transfer = Transfer::deposit(&id, 0, &alice(), Timestamp::default());
        bank.move_deposit(transfer, &alice()).unwrap();
    }

    fn open(bank: &mut Bank, key: &str) -> SessionId {
        let session = SessionId::new();
        let request = OpenRequest {
            session,
            node: NODE.parse().unwrap(),
            function: "stress".parse().unwrap(),
            key: key.to_owned(),
            cap: None,
            capacity: MilliCores::ONE_CORE,
            input_bytes: 0,
            descent: Descent::default(),
        };
        bank.open(request, None, TaskId::new(), now()).unwrap();
        session
    }

    /// Reports `total` and enforces the newest grant.
    fn report(bank: &mut Bank, session: SessionId, total: CpuTime) -> SessionState {
        let revision = bank.session(session).unwrap().holding.revision();
        let usage = Usage {
            session,
            total,
            capacity: MilliCores::ONE_CORE,
            revision,
        };
        let states = bank.report(&NODE.parse().unwrap(), &[usage], now());
        states.unwrap().remove(0)
    }

    #[test]
    fn an_idle_session_gives_back_what_a_busy_one_needs() {
        // 60 core-seconds.
        let mut bank = bank(10_000_000);
        let idle = open(&mut bank, "idle");
        let busy = open(&mut bank, "busy");
        let mut used = CpuTime::ZERO;
        let mut was_asked = false;
        for _ in 0..1000 {
            bank.take_effects();
            let state = report(&mut bank, busy, used);
            if bank.take_effects().news.contains(&idle) {
                was_asked = true;
                // Its node reports as soon as it hears of the smaller grant.
                report(&mut bank, idle, CpuTime::ZERO);
            }
            used = used.max(state.grant.stop_at);
        }
        assert!(was_asked);
        let left = bank.view(&alice()).unwrap().balance;
        assert!(left >= Amount::ZERO, "{left}");
        // 20 ms of both.
        assert!(left < Amount::from_halfords(6_667), "{left} left over");
    }

    #[test]
    fn many_sessions_opened_at_once_each_find_something() {
        let mut bank = bank(100_000_000);
        for number in 0..8 {
            let session = open(&mut bank, &number.to_string());
            let state = bank.state(session).unwrap();
            assert_eq!(state.restriction, Restriction::None, "{number}");
            assert!(state.grant.stop_at > CpuTime::from_secs(1), "{number}: {state:?}");
        }
    }

    #[test]
    fn a_close_frees_those_who_wait() {
        let mut bank = bank(1_000_000);
        let first = open(&mut bank, "first");
        let second = open(&mut bank, "second");
        let stop_at = bank.state(second).unwrap().grant.stop_at;
        // The first is silent, so the second comes to its end and waits.
        let mut state = report(&mut bank, second, stop_at);
        while state.restriction == Restriction::None {
            state = report(&mut bank, second, state.grant.stop_at);
        }
        bank.take_effects();
        let held = bank.session(first).unwrap().holding.held();
        assert!(held.stop_at > CpuTime::ZERO);
        bank.close(
            first,
            CpuTime::ZERO,
            crate::session::Outcome::Aborted,
            Timestamp::default(),
        )
        .unwrap();
        assert!(bank.take_effects().news.contains(&second));
        assert_eq!(bank.state(second).unwrap().restriction, Restriction::None);
    }

    #[test]
    fn the_runway_counts_what_runs_on_every_node_and_ends_when_nothing_is_used() {
        let mut bank = bank(1_000_000_000);
        let (here, there) = (open(&mut bank, "here"), open(&mut bank, "there"));
        let start = Instant::now();
        let mut tell = |seconds: u64, here_ms: u64, there_ms: u64| {
            let now = Now {
                wall: Timestamp::default(),
                instant: start + std::time::Duration::from_secs(seconds),
            };
            let usage = |session, ms: u64| Usage {
                session,
                total: CpuTime::from_micros(ms * 1000),
                capacity: MilliCores::ONE_CORE,
                revision: 1,
            };
            let usages = [usage(here, here_ms), usage(there, there_ms)];
            bank.report(&NODE.parse().unwrap(), &usages, now).unwrap();
            let view = bank.view(&alice()).unwrap();
            (view.burn.halfords(), view.runway().map(|runway| runway.as_secs()))
        };
        for second in 0..=20 {
            tell(second, second * 1000, second * 500);
        }
        // A core and a half cost 9 GRC an hour, and 30 core-seconds are gone.
        assert_eq!(tell(21, 21_000, 10_500), (900_000_000, Some(3979)));
        for second in 22..=31 {
            tell(second, 21_000, 10_500);
        }
        assert_eq!(tell(32, 21_000, 10_500), (0, None));
    }
}
