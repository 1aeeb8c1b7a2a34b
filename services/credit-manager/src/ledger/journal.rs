//! The journal: the ledger and everything that must survive, in one SQLite database with one writer.
//!
//! Transfers are only ever appended; triggers refuse anything else. The balance of each account is kept beside them, so
//! that reads stay fast, and proven by replay in every audit.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, params};
use rusqlite_migration::{M, Migrations};
use service_kit::database::{self, DatabaseError};
use units::{Amount, ReceiverName, SessionId, TaskId, UserName};

use super::rows;
use super::{Transfer, TransferId};
use crate::alert::Alarm;
use crate::bank::Change;
use crate::lineage::Lineage;
use crate::session::{AttemptCost, Closed, Session, Task};
use crate::settlement::outbox::Payout;
use crate::settlement::wallet::{PaymentId, Route};
use crate::users::User;

/// The outbox as rows of payouts. A settlement is in the ledger once its payment was made.
pub(super) const PAYOUTS: &str =
    "SELECT payments.*, EXISTS (SELECT 1 FROM transfers WHERE reference = payments.id
     AND kind = 'settlement') AS is_booked FROM payments";

/// The connection that writes, and the lock that keeps other processes away. One transaction spans a batch of commands.
pub struct Journal {
    pub(super) connection: Connection,
    _lock: database::Lock,
}

impl Journal {
    /// Opens or makes the database at `path`.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let migrations = Migrations::new(vec![M::up(include_str!("schema.sql"))]);
        let (connection, lock) = database::open(path, &migrations)?;
        // More than the statements below, so that none is ever parsed twice.
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self {
            connection,
            _lock: lock,
        })
    }

    #[cfg(test)]
    pub(crate) fn connection_for_tests(&self) -> &Connection {
        &self.connection
    }

    pub fn begin(&mut self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    /// Puts everything since `begin` on disk.
    pub fn commit(&mut self) -> rusqlite::Result<()> {
        self.connection.execute_batch("COMMIT")
    }

    /// Drops everything since `begin`, if SQLite has not done so already.
    pub fn roll_back(&mut self) -> rusqlite::Result<()> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        self.connection.execute_batch("ROLLBACK")
    }

    pub fn apply(&mut self, change: &Change) -> rusqlite::Result<()> {
        match change {
            Change::User(user) => self.put_user(user),
            Change::Function(function) => self
                .connection
                .prepare_cached(
                    "INSERT INTO functions VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET
                     max_spend = excluded.max_spend, is_deleted = excluded.is_deleted",
                )?
                .execute(params![
                    function.name.as_str(),
                    function.user.as_str(),
                    function.max_spend.map(Amount::halfords),
                    function.is_deleted,
                ])
                .map(drop),
            Change::Task(task) => self.put_task(task),
            Change::Lineage(lineage) => self
                .connection
                .prepare_cached("UPDATE tasks SET lineage_cap = ?, lineage_amount = ? WHERE id = ?")?
                .execute(params![
                    lineage.cap.map(units::Amount::halfords),
                    lineage.closed.halfords(),
                    lineage.root.to_string(),
                ])
                .map(drop),
            Change::Opened(session) => self.insert_session(session),
            Change::Closed(closed, at) => self
                .connection
                .prepare_cached(
                    "UPDATE sessions SET total_us = ?, outcome = ?, amount = ?, closed_at_ms = ? WHERE id = ?",
                )?
                .execute(params![
                    rows::micros(closed.total),
                    closed.outcome.as_str(),
                    closed.amount.halfords(),
                    at.unix_ms(),
                    closed.id.to_string(),
                ])
                .map(drop),
            Change::Alarm(user, alarm) => self.put_alarm(user, alarm),
            Change::Posted(transfer) => self.append(transfer),
            Change::Payout(payout) => self.put_payout(payout),
            Change::Scanned(cursor) => self
                .connection
                .prepare_cached("INSERT OR REPLACE INTO scan (only, cursor) VALUES (1, ?)")?
                .execute([&cursor.0])
                .map(drop),
        }
    }

    fn put_user(&self, user: &User) -> rusqlite::Result<()> {
        let settings = &user.settings;
        self.connection
            .prepare_cached(
                "INSERT INTO users VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET
                 min_balance = excluded.min_balance, debt_limit = excluded.debt_limit, policy = excluded.policy,
                 billing = excluded.billing, cpu_time_us_per_grc = excluded.cpu_time_us_per_grc,
                 accounting = excluded.accounting, min_runway_s = excluded.min_runway_s,
                 on_shortage = excluded.on_shortage, max_spend = excluded.max_spend,
                 alert_at = excluded.alert_at, alert_webhook = excluded.alert_webhook",
            )?
            .execute(params![
                user.name.as_str(),
                user.address.as_str(),
                settings.min_balance.halfords(),
                settings.debt_limit.halfords(),
                settings.policy.as_str(),
                settings.billing.as_str(),
                rows::micros(settings.price.cpu_time_per_grc()),
                settings.accounting,
                settings.min_runway.as_secs().cast_signed(),
                settings.on_shortage.as_str(),
                settings.max_spend.map(Amount::halfords),
                settings.alert_at.map(Amount::halfords),
                settings.alert_webhook.as_ref().map(ToString::to_string),
                user.created_at.unix_ms(),
            ])
            .map(drop)
    }

    fn put_alarm(&self, user: &UserName, alarm: &Alarm) -> rusqlite::Result<()> {
        let alert = alarm.raised();
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO alarms VALUES (?, ?, ?, ?, ?)")?
            .execute(params![
                user.as_str(),
                alert.map(|alert| alert.threshold.halfords()),
                alert.map(|alert| alert.balance.halfords()),
                alert.map(|alert| alert.raised_at.unix_ms()),
                alert.map(|alert| alert.is_told),
            ])
            .map(drop)
    }

    fn put_task(&self, task: &Task) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, 0) ON CONFLICT (id) DO UPDATE SET
                 input_bytes = excluded.input_bytes, attempts = excluded.attempts, failures = excluded.failures, amount = excluded.amount,
                 is_over = excluded.is_over",
            )?
            .execute(params![
                task.id.to_string(),
                task.function.as_str(),
                task.key,
                task.input_bytes.cast_signed(),
                task.attempts,
                task.failures,
                task.amount.halfords(),
                task.is_over,
                task.root.to_string(),
                task.depth,
            ])
            .map(drop)
    }

    fn insert_session(&self, session: &Session) -> rusqlite::Result<()> {
        let (newest, held) = (session.holding.newest(), session.holding.held());
        self.connection
            .prepare_cached(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
            )?
            .execute(params![
                session.id.to_string(),
                session.user.as_str(),
                session.node.as_str(),
                session.task.id.to_string(),
                session.task.attempts,
                session.task_cap.map(units::Amount::halfords),
                session.billing.as_str(),
                rows::micros(session.price.cpu_time_per_grc()),
                session.meter.price().is_some(),
                session.opened_at.unix_ms(),
                session.capacity.millicores(),
                rows::micros(session.meter.total()),
                session.holding.revision().cast_signed(),
                rows::micros(newest.throttle_at),
                rows::micros(newest.stop_at),
                rows::micros(held.throttle_at),
                rows::micros(held.stop_at),
            ])
            .map(drop)
    }

    /// Brings the row of a live session up to date; the one statement that runs for every usage report.
    pub fn put_session(&self, session: &Session) -> rusqlite::Result<()> {
        let (newest, held) = (session.holding.newest(), session.holding.held());
        self.connection
            .prepare_cached(
                "UPDATE sessions SET millicores = ?, total_us = ?, revision = ?, throttle_at_us = ?, stop_at_us = ?,
                 held_throttle_at_us = ?, held_stop_at_us = ? WHERE id = ?",
            )?
            .execute(params![
                session.capacity.millicores(),
                rows::micros(session.meter.total()),
                session.holding.revision().cast_signed(),
                rows::micros(newest.throttle_at),
                rows::micros(newest.stop_at),
                rows::micros(held.throttle_at),
                rows::micros(held.stop_at),
                session.id.to_string(),
            ])
            .map(drop)
    }

    fn append(&self, transfer: &Transfer) -> rusqlite::Result<()> {
        let mut moved = self.connection.prepare_cached(
            "INSERT INTO accounts (name, balance) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET balance = balance + excluded.balance",
        )?;
        let (debit, credit) = (transfer.debit.to_string(), transfer.credit.to_string());
        let amount = transfer.amount.halfords();
        moved.execute(params![debit, -amount])?;
        moved.execute(params![credit, amount])?;
        self.connection
            .prepare_cached(
                "INSERT INTO transfers (id, debit, credit, amount, kind, reference, posted_at_ms, reverses)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                transfer.id.as_str(),
                debit,
                credit,
                amount,
                transfer.kind.as_str(),
                transfer.reference,
                transfer.posted_at.unix_ms(),
                transfer.reverses.as_ref().map(TransferId::as_str),
            ])
            .map(drop)
    }

    fn put_payout(&self, payout: &Payout) -> rusqlite::Result<()> {
        let payment = &payout.payment;
        let (from, to, address) = match &payment.route {
            Route::Move { from, to } => (Some(from), Some(to), None),
            Route::Send { from, to } => (from.as_ref(), None, Some(to.as_str())),
        };
        let receipt = payout.state.receipt();
        self.connection
            .prepare_cached(
                "INSERT INTO payments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
                 state = excluded.state, txid = excluded.txid, fee = excluded.fee, failure = excluded.failure,
                 changed_at_ms = excluded.changed_at_ms",
            )?
            .execute(params![
                payment.id.as_str(),
                payout.purpose.as_str(),
                payout.purpose.user().map(units::UserName::as_str),
                payout.purpose.receiver().map(ReceiverName::as_str),
                payment.amount.halfords(),
                from,
                to,
                address,
                payout.state.as_str(),
                receipt.and_then(|receipt| receipt.txid.as_deref()),
                receipt.map(|receipt| receipt.fee.halfords()),
                payout.state.failure(),
                payout.created_at.unix_ms(),
                payout.changed_at.unix_ms(),
            ])
            .map(drop)
    }

    /// A payment, whether it is over or not.
    pub fn payout(&self, id: &PaymentId) -> rusqlite::Result<Option<Payout>> {
        self.connection
            .prepare_cached(&format!("{PAYOUTS} WHERE id = ?"))?
            .query_row([id.as_str()], rows::payout)
            .optional()
    }

    pub fn task(&self, id: TaskId) -> rusqlite::Result<Option<Task>> {
        self.connection
            .prepare_cached("SELECT * FROM tasks WHERE id = ?")?
            .query_row([id.to_string()], rows::task)
            .optional()
    }

    /// The lineage that a task is the root of.
    pub fn lineage(&self, root: TaskId) -> rusqlite::Result<Option<Lineage>> {
        self.connection
            .prepare_cached("SELECT id, lineage_cap, lineage_amount FROM tasks WHERE id = ?")?
            .query_row([root.to_string()], rows::lineage)
            .optional()
    }

    pub fn closed(&self, id: SessionId) -> rusqlite::Result<Option<Closed>> {
        self.connection
            .prepare_cached("SELECT * FROM sessions WHERE id = ? AND closed_at_ms IS NOT NULL")?
            .query_row([id.to_string()], rows::closed)
            .optional()
    }

    /// What the newest closed attempts of a task cost, oldest first; at most `max`, each with at most `max` transfers.
    pub fn attempts(&self, task: TaskId, max: u32) -> rusqlite::Result<Vec<AttemptCost>> {
        let mut costs: Vec<AttemptCost> = self
            .connection
            .prepare_cached(
                "SELECT id, attempt, outcome, total_us, amount,
                 (SELECT count(*) FROM transfers WHERE reference = sessions.id) AS transfers,
                 (SELECT coalesce(sum(transfers.amount), 0) FROM transfers
                  WHERE reference = sessions.id AND kind = 'reversal') AS refunded
                 FROM sessions WHERE task = ? AND closed_at_ms IS NOT NULL ORDER BY attempt DESC LIMIT ?",
            )?
            .query_map(params![task.to_string(), max], rows::attempt_cost)?
            .collect::<rusqlite::Result<_>>()?;
        costs.reverse();
        for cost in &mut costs {
            cost.transfers = self
                .connection
                .prepare_cached("SELECT id FROM transfers WHERE reference = ? ORDER BY sequence LIMIT ?")?
                .query_map(params![cost.session.to_string(), max], |row| {
                    row.get("id").map(TransferId::restored)
                })?
                .collect::<rusqlite::Result<_>>()?;
        }
        Ok(costs)
    }

    pub fn transfer(&self, id: &TransferId) -> rusqlite::Result<Option<Transfer>> {
        self.connection
            .prepare_cached("SELECT * FROM transfers WHERE id = ?")?
            .query_row([id.as_str()], rows::transfer)
            .optional()
    }

    /// The transfers of a session, oldest first.
    pub fn transfers_of(&self, id: SessionId) -> rusqlite::Result<Vec<TransferId>> {
        self.connection
            .prepare_cached("SELECT id FROM transfers WHERE reference = ? ORDER BY sequence")?
            .query_map([id.to_string()], |row| row.get("id").map(TransferId::restored))?
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sqlite_has_rolled_back_itself_can_be_rolled_back_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&folder.path().join("ledger.db")).unwrap();
        for by_itself in [false, true] {
            journal.begin().unwrap();
            if by_itself {
                // As on a full disk.
                journal.connection.execute_batch("ROLLBACK").unwrap();
            }
            journal.roll_back().unwrap();
        }
        journal.begin().unwrap();
        journal.commit().unwrap();
    }
}
