//! The invariants of money (I1 to I8), judged from outside after every commit: from the rows on disk, and from what the
//! virtual containers really used.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use container_manager::task::{Licence, Verdict};
use credit_manager::settlement::wallet::{Payment, PaymentId};
use credit_manager::writer::Desk;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use units::{Amount, CpuTime, SessionId};

use crate::cpu::Cpu;
use crate::node::CAPACITY;
use crate::world::{USERS, user_name};

/// How late a node may be to enforce a grant: the shortest look-ahead of its meter, and the step of the runtime's timer.
const LATE: Duration = Duration::from_millis(5 + 1);

pub(crate) struct Laws {
    ledger: Connection,
    seen: i64,
    balances: BTreeMap<String, i64>,
    /// Charges less reversals, of each session.
    charged: BTreeMap<String, i64>,
    sessions: BTreeMap<SessionId, Account>,
    /// The live sessions, with the CPU time that is paid for: the largest grant in force, or the total.
    live: BTreeMap<SessionId, CpuTime>,
    funds: [Funds; USERS],
    paid: BTreeMap<PaymentId, Amount>,
    /// Of each user's objects, by their keys: the session that was opened last.
    newest: BTreeMap<(usize, String), SessionId>,
    pub(crate) commits: u64,
}

/// A user's limit, and what the user lacks.
#[derive(Clone, Copy, Default)]
struct Funds {
    debt_limit: i64,
    /// What was taken away after it had been granted: by a lower limit, a deposit that left the chain, or a session that
    /// ran past its grant. Nothing once the grants are covered again.
    lacking: i64,
}

/// A session as its node knows it.
struct Account {
    user: usize,
    cpu: Option<Arc<Cpu>>,
    micros_per_grc: u64,
    /// Its node's manager is not running: nobody enforces the grant.
    unwatched: bool,
    /// As it once was: what ends a container without a manager is not simulated.
    was_unwatched: bool,
    /// What it had used when a manager took it up again.
    adopted_at: CpuTime,
    end: Option<(CpuTime, Verdict)>,
}

impl Account {
    fn used(&self) -> CpuTime {
        match (&self.end, &self.cpu) {
            (Some((total, _)), _) => *total,
            (None, Some(cpu)) => cpu.used(),
            (None, None) => CpuTime::ZERO,
        }
    }
}

/// I4, said once more and independently.
fn cost(total: CpuTime, micros_per_grc: u64) -> i64 {
    i64::try_from(u128::from(total.micros()) * 100_000_000 / u128::from(micros_per_grc)).unwrap()
}

fn is_charged(verdict: Verdict) -> bool {
    verdict != Verdict::PlatformFault
}

impl Laws {
    /// Of the ledger at `path`, which exists.
    pub(crate) fn new(path: &Path) -> Self {
        let ledger = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        Self {
            ledger,
            seen: 0,
            balances: BTreeMap::new(),
            charged: BTreeMap::new(),
            sessions: BTreeMap::new(),
            live: BTreeMap::new(),
            funds: [Funds::default(); USERS],
            paid: BTreeMap::new(),
            newest: BTreeMap::new(),
            commits: 0,
        }
    }

    pub(crate) fn on_asked(&mut self, session: SessionId, user: usize) {
        let account = Account {
            user,
            cpu: None,
            micros_per_grc: 0,
            unwatched: false,
            was_unwatched: false,
            adopted_at: CpuTime::ZERO,
            end: None,
        };
        self.sessions.insert(session, account);
    }

    /// A node is about to run the object.
    pub(crate) fn on_licence(&mut self, session: SessionId, key: &str, cpu: &Arc<Cpu>, licence: &Licence) {
        let user = self.sessions[&session].user;
        let object = (user, key.to_owned());
        if let Some(before) = self
            .newest
            .insert(object, session)
            .filter(|before| *before != session)
        {
            let before = &self.sessions[&before];
            let is_gone = before.was_unwatched || before.cpu.as_ref().is_none_or(|cpu| cpu.is_dead());
            assert!(is_gone, "I10: {key} of {user} runs twice");
        }
        let account = self.sessions.get_mut(&session).unwrap();
        account.cpu = Some(cpu.clone());
        account.micros_per_grc = licence.price.cpu_time_per_grc().micros();
    }

    pub(crate) fn on_end(&mut self, session: SessionId, total: CpuTime, verdict: Verdict) {
        self.sessions.get_mut(&session).unwrap().end = Some((total, verdict));
    }

    /// A node's manager has ended; the session goes on.
    pub(crate) fn on_unwatched(&mut self, session: SessionId) {
        let account = self.sessions.get_mut(&session).unwrap();
        (account.unwatched, account.was_unwatched) = (true, true);
    }

    /// A node's manager takes a session up again.
    pub(crate) fn on_adopted(&mut self, session: SessionId) {
        let account = self.sessions.get_mut(&session).unwrap();
        account.unwatched = false;
        account.adopted_at = account.used();
    }

    /// The answer to a close.
    pub(crate) fn on_bill(&mut self, session: SessionId, amount: Amount) {
        let account = &self.sessions[&session];
        let expected = match account.end {
            Some((total, verdict)) if is_charged(verdict) => cost(total, account.micros_per_grc),
            _ => 0,
        };
        assert_eq!(amount.halfords(), expected, "I4, I8: the bill of {session}");
    }

    /// I7: the wallet is about to carry this out.
    pub(crate) fn on_payment(&mut self, payment: &Payment) {
        let row: Option<(i64, String)> = self
            .ledger
            .prepare_cached("SELECT amount, state FROM payments WHERE id = ?")
            .unwrap()
            .query_row([payment.id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .unwrap();
        let (amount, state) = row.expect("I7: a payment is in the outbox before the wallet hears of it");
        assert_eq!(amount, payment.amount.halfords(), "I7: {payment:?}");
        assert!(
            state == "in-flight" || state == "unclear",
            "I7: {payment:?} is {state}"
        );
    }

    pub(crate) fn on_paid(&mut self, payment: &Payment) {
        let before = self.paid.insert(payment.id.clone(), payment.amount);
        assert_eq!(before, None, "I7: {payment:?} was made twice");
    }

    /// Judges everything that must hold at every moment.
    pub(crate) fn check(&mut self, desk: &Desk) {
        self.commits += 1;
        self.read_transfers();
        let bank = &desk.bank;
        let kept: BTreeMap<String, i64> = bank
            .balances()
            .iter()
            .map(|(account, balance)| (account.to_string(), balance.halfords()))
            .collect();
        assert_eq!(kept, self.balances, "I2: balances are what the transfers say");
        assert_eq!(kept.values().sum::<i64>(), 0, "I1");

        let mut live = BTreeMap::new();
        let (mut granted, mut unposted) = ([0; USERS], [0; USERS]);
        for session in bank.sessions() {
            let account = &self.sessions[&session.id];
            let of = |total| cost(total, session.price.cpu_time_per_grc().micros());
            let (total, held) = (session.meter.total(), session.holding.held().stop_at);
            let posted = self.charged.get(&session.id.to_string()).copied().unwrap_or(0);
            assert_eq!(
                session.meter.unposted().halfords(),
                of(total) - posted,
                "I4: what {} used is posted or counted",
                session.id
            );
            let (used, paid_for) = (account.used(), held.max(total));
            assert!(total <= used, "I6: {} is billed more than it used", session.id);
            let most = paid_for
                .max(account.adopted_at)
                .saturating_add(CAPACITY.over(LATE));
            assert!(
                used <= most || account.unwatched,
                "I5: {} used {used} and may use {held}",
                session.id
            );
            granted[account.user] += of(paid_for) - of(total);
            unposted[account.user] += of(total) - posted;
            let before = self.live.remove(&session.id).unwrap_or(total);
            self.funds[account.user].lacking += of(total) - of(total.min(before));
            live.insert(session.id, paid_for);
        }
        for (session, before) in std::mem::replace(&mut self.live, live) {
            self.judge_closed(session, before);
        }
        for number in 0..USERS {
            self.judge_funds(desk, number, granted[number], unposted[number]);
        }
    }

    fn read_transfers(&mut self) {
        let mut statement = self
            .ledger
            .prepare_cached(
                "SELECT sequence, debit, credit, amount, kind, reference FROM transfers
                 WHERE sequence > ? ORDER BY sequence",
            )
            .unwrap();
        let mut rows = statement.query([self.seen]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let (sequence, amount): (i64, i64) = (row.get(0).unwrap(), row.get(3).unwrap());
            let (debit, credit): (String, String) = (row.get(1).unwrap(), row.get(2).unwrap());
            let (kind, reference): (String, String) = (row.get(4).unwrap(), row.get(5).unwrap());
            assert_eq!(sequence, self.seen + 1, "I2: transfers are only appended");
            assert!(amount > 0 && debit != credit, "I1: transfer {sequence}");
            self.seen = sequence;
            if kind == "reversal" && credit == "chain" {
                let taken_from = (0..USERS).find(|user| debit == format!("user:{}", user_name(*user)));
                self.funds[taken_from.unwrap()].lacking += amount;
            }
            match kind.as_str() {
                "charge" => *self.charged.entry(reference).or_default() += amount,
                "reversal" => *self.charged.entry(reference).or_default() -= amount,
                _ => {}
            }
            *self.balances.entry(debit).or_default() -= amount;
            *self.balances.entry(credit).or_default() += amount;
        }
    }

    /// I4, I6, I8: an ended session cost what it used, once, or nothing at all.
    fn judge_closed(&mut self, session: SessionId, paid_for: CpuTime) {
        let (total, outcome, amount): (i64, String, i64) = self
            .ledger
            .prepare_cached("SELECT total_us, outcome, amount FROM sessions WHERE id = ?")
            .unwrap()
            .query_row([session.to_string()], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .unwrap();
        let charged = self.charged.get(&session.to_string()).copied().unwrap_or(0);
        assert_eq!(charged, amount, "I2: the transfers of {session} are its bill");
        let account = &self.sessions[&session];
        if outcome == "lost" || outcome == "platform-fault" {
            assert_eq!(amount, 0, "I8: {session} was {outcome}");
            return;
        }
        let (end, verdict) = account.end.expect("only an ended session is closed by its node");
        assert!(is_charged(verdict), "I8: {session}");
        assert_eq!(total.cast_unsigned(), end.micros(), "I6: {session}");
        let of = |total| cost(total, account.micros_per_grc);
        assert_eq!(amount, of(end), "I4: {session}");
        self.funds[account.user].lacking += amount - of(end.min(paid_for));
    }

    /// I5: what is granted is covered. No session uses more, so what is really used is covered too, reported or not.
    fn judge_funds(&mut self, desk: &Desk, number: usize, granted: i64, unposted: i64) {
        let name = user_name(number);
        let Ok(view) = desk.bank.view(&name) else { return };
        let posted = self.balances.get(&format!("user:{name}")).copied().unwrap_or(0);
        let figures = (view.balance.halfords(), view.granted.halfords());
        assert_eq!(
            figures,
            (posted - unposted, granted),
            "I5: balance and grants of {name}"
        );
        let debt_limit = view.user.settings.debt_limit.halfords();
        let funds = &mut self.funds[number];
        funds.lacking += (funds.debt_limit - debt_limit).max(0);
        funds.debt_limit = debt_limit;
        let room = posted - unposted + debt_limit;
        if granted <= room {
            funds.lacking = 0;
        }
        let lacking = funds.lacking;
        assert!(
            granted <= room + lacking,
            "I5: {granted} granted to {name}, who has {room} and lacks {lacking}"
        );
    }

    pub(crate) fn unfinished(&self) -> (u32, u32) {
        let count = |sql| -> u32 { self.ledger.query_row(sql, [], |row| row.get(0)).unwrap() };
        (
            count("SELECT count(*) FROM sessions WHERE closed_at_ms IS NULL"),
            count("SELECT count(*) FROM payments WHERE state NOT IN ('done', 'failed')"),
        )
    }

    /// I7 in the end: what the outbox says was paid is what the wallet paid.
    pub(crate) fn judge_the_end(&self) {
        assert_eq!(self.unfinished(), (0, 0), "everything comes to rest");
        let mut statement = self
            .ledger
            .prepare("SELECT id, amount FROM payments WHERE state = 'done'")
            .unwrap();
        let outbox: BTreeMap<PaymentId, Amount> = statement
            .query_map(params![], |row| {
                let id: String = row.get(0)?;
                Ok((id.parse().unwrap(), Amount::from_halfords(row.get(1)?)))
            })
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(outbox, self.paid, "I7");
    }

    /// The ledger without its random ids: two runs of one seed must agree in it.
    pub(crate) fn digest(&self) -> Vec<(String, String, i64, i64)> {
        self.ledger
            .prepare("SELECT debit, credit, amount, posted_at_ms FROM transfers ORDER BY sequence")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }
}
