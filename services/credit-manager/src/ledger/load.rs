//! Rebuilds the state in memory from the journal.

use rusqlite::OptionalExtension as _;
use tokio::time::Instant;
use units::{Amount, SessionId};

use super::journal::PAYOUTS;
use super::{Balances, Journal, rows};
use crate::bank::Bank;
use crate::session::Session;
use crate::settlement::wallet::Cursor;

impl Journal {
    /// The state as of the last commit. Leases of live sessions start `now`.
    pub fn load(&self, now: Instant) -> rusqlite::Result<Bank> {
        let balances: Balances = self
            .connection
            .prepare("SELECT name, balance FROM accounts")?
            .query_map([], |row| {
                Ok((rows::text(row, "name")?, rows::amount(row, "balance")?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut bank = Bank::new(balances);
        let mut users = self.connection.prepare("SELECT * FROM users")?;
        for user in users.query_map([], rows::user)? {
            bank.restore_user(user?);
        }
        let mut alarms = self.connection.prepare("SELECT * FROM alarms")?;
        for alarm in alarms.query_map([], |row| Ok((rows::text(row, "user")?, rows::alarm(row)?)))? {
            let (user, alarm) = alarm?;
            bank.restore_alarm(&user, alarm);
        }
        let mut functions = self.connection.prepare("SELECT * FROM functions")?;
        for function in functions.query_map([], rows::function)? {
            bank.restore_function(function?);
        }
        let mut live = self
            .connection
            .prepare("SELECT * FROM sessions WHERE closed_at_ms IS NULL ORDER BY id")?;
        for session in live.query_map([], |row| self.live_session(row))? {
            let session = session?;
            let lineage = self.lineage(session.task.root)?;
            // Its root is a task, so it is there.
            bank.restore_lineage(lineage.ok_or(rusqlite::Error::QueryReturnedNoRows)?);
            bank.restore_session(session, now);
        }
        let mut payouts = self
            .connection
            .prepare(&format!("{PAYOUTS} WHERE state NOT IN ('done', 'failed')"))?;
        for payout in payouts.query_map([], rows::payout)? {
            bank.restore_payout(payout?);
        }
        let settled: i64 = self.connection.query_row(
            "SELECT coalesce(sum(amount), 0) FROM transfers WHERE kind = 'settlement'",
            [],
            |row| row.get(0),
        )?;
        bank.restore_settled(Amount::from_halfords(settled));
        let cursor = self
            .connection
            .query_row("SELECT cursor FROM scan", [], |row| row.get(0))
            .optional()?;
        bank.restore_cursor(cursor.map(Cursor));
        Ok(bank)
    }

    fn live_session(&self, row: &rusqlite::Row<'_>) -> rusqlite::Result<Session> {
        let task = self
            .task(rows::text(row, "task")?)?
            .ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let id: SessionId = rows::text(row, "id")?;
        let postings: Vec<Amount> = self
            .connection
            .prepare_cached(
                "SELECT amount FROM transfers WHERE reference = ? AND kind = 'charge' ORDER BY sequence",
            )?
            .query_map([id.to_string()], |row| rows::amount(row, "amount"))?
            .collect::<rusqlite::Result<_>>()?;
        rows::session(row, task, postings)
    }
}
