//! Reads the journal beside the writer, so that a long list or an audit holds nobody up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, params};
use tokio::runtime::{Handle, RuntimeFlavor};
use units::{
    Amount, Billing, CpuPrice, CpuTime, FunctionName, NodeId, SessionId, TaskId, Timestamp, UserName,
};

use super::history::{Filter, Order, Span};
use super::journal::PAYOUTS;
use super::{Account, Transfer, TransferId, rows};
use crate::quote::Sample;
use crate::session::Outcome;
use crate::settlement::outbox::Payout;

/// Opens the journal anew for every question: each sees one moment, the last commit.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) path: Arc<PathBuf>,
}

/// One session of the past or present.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    pub id: SessionId,
    pub task: TaskId,
    pub user: UserName,
    pub function: FunctionName,
    pub key: String,
    pub node: NodeId,
    pub attempt: u32,
    pub total: CpuTime,
    /// Cost of the total; in the end what was charged.
    pub amount: Amount,
    pub price: CpuPrice,
    pub opened_at: Timestamp,
    /// `None` while live.
    pub closed: Option<(Timestamp, Outcome)>,
}

/// What an audit judges the ledger by, as of one moment.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Balances as kept.
    pub accounts: BTreeMap<Account, Amount>,
    /// Balances as the transfers say.
    pub replayed: BTreeMap<Account, Amount>,
    pub transfers: u64,
    pub not_positive: u64,
    pub closed_sessions: u64,
    /// Sessions whose transfers do not add up to what their CPU time costs.
    pub mischarged: Vec<SessionId>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("failed to read the ledger")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the reader of the ledger was stopped")]
    Stopped(#[from] tokio::task::JoinError),
    #[error("failed to copy the ledger")]
    Copy(#[from] std::io::Error),
}

impl Reader {
    pub fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path) }
    }

    /// Asks one question on a thread where waiting is allowed.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let path = self.path.clone();
        let ask = move || {
            let connection = Connection::open_with_flags(&*path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            // One transaction, so that all of a question's parts see the same moment.
            connection.execute_batch("BEGIN")?;
            question(&connection)
        };
        // A runtime of one thread is a test's or a simulation's, and another thread's speed would make each run its own.
        if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            return Ok(ask()?);
        }
        Ok(tokio::task::spawn_blocking(ask).await??)
    }

    /// The newest transfers, or those of a user, newest first.
    pub async fn transfers(&self, user: Option<UserName>, limit: u32) -> Result<Vec<Transfer>, ReadError> {
        let filter = Filter {
            user,
            ..Filter::default()
        };
        let page = self.page(filter, Span::ALL, Order::NewestFirst, limit).await?;
        Ok(page.into_iter().map(|(_, transfer)| transfer).collect())
    }

    /// The newest sessions, or those of a user or a function, newest first.
    pub async fn sessions(
        &self,
        user: Option<UserName>,
        function: Option<FunctionName>,
        limit: u32,
    ) -> Result<Vec<SessionRecord>, ReadError> {
        // A condition that may be absent would keep SQLite from its indexes.
        let condition = match (&user, &function) {
            (None, None) => "?1 IS NULL AND ?2 IS NULL",
            (Some(_), None) => "user = ?1 AND ?2 IS NULL",
            (None, Some(_)) => "?1 IS NULL AND function = ?2",
            (Some(_), Some(_)) => "user = ?1 AND function = ?2",
        };
        self.ask(move |connection| {
            connection
                .prepare(&format!(
                    "SELECT sessions.*, tasks.function, tasks.object_key FROM sessions JOIN tasks ON tasks.id = task
                     WHERE {condition} ORDER BY opened_at_ms DESC, sessions.rowid DESC LIMIT ?3",
                ))?
                .query_map(
                    params![
                        user.as_ref().map(UserName::as_str),
                        function.as_ref().map(FunctionName::as_str),
                        limit
                    ],
                    rows::record,
                )?
                .collect()
        })
        .await
    }

    /// What the newest successful attempts of a function used, by this kind of billing, newest first.
    pub async fn samples(
        &self,
        function: FunctionName,
        billing: Billing,
        limit: u32,
    ) -> Result<Vec<Sample>, ReadError> {
        self.ask(move |connection| {
            connection
                .prepare(
                    "SELECT tasks.input_bytes, total_us FROM tasks JOIN sessions ON sessions.task = tasks.id
                     WHERE tasks.function = ? AND outcome = 'succeeded' AND billing = ? ORDER BY tasks.id DESC LIMIT ?",
                )?
                .query_map(params![function.as_str(), billing.as_str(), limit], rows::sample)?
                .collect()
        })
        .await
    }

    /// The newest withdrawals of a user, newest first, however they ended.
    pub async fn withdrawals(&self, user: UserName, limit: u32) -> Result<Vec<Payout>, ReadError> {
        self.ask(move |connection| {
            connection
                .prepare(&format!(
                    "{PAYOUTS} WHERE purpose = 'withdrawal' AND user = ? ORDER BY created_at_ms DESC, id DESC LIMIT ?"
                ))?
                .query_map(params![user.as_str(), limit], rows::payout)?
                .collect()
        })
        .await
    }

    /// The newest payments that were sent over the chain, newest first.
    pub async fn made_sends(&self, limit: u32) -> Result<Vec<Payout>, ReadError> {
        self.ask(move |connection| {
            connection
                .prepare(&format!(
                    "{PAYOUTS} WHERE state = 'done' AND to_address IS NOT NULL ORDER BY changed_at_ms DESC LIMIT ?"
                ))?
                .query_map([limit], rows::payout)?
                .collect()
        })
        .await
    }

    /// The newest moves of a user's charges that were made, newest first.
    pub async fn made_moves(&self, user: UserName, limit: u32) -> Result<Vec<Payout>, ReadError> {
        self.ask(move |connection| {
            connection
                .prepare(&format!(
                    "{PAYOUTS} WHERE state = 'done' AND to_label IS NOT NULL AND user = ?
                     ORDER BY changed_at_ms DESC LIMIT ?"
                ))?
                .query_map(params![user.as_str(), limit], rows::payout)?
                .collect()
        })
        .await
    }

    /// The credits of deposits that were not taken back.
    pub async fn credited_deposits(&self) -> Result<Vec<TransferId>, ReadError> {
        self.ask(|connection| {
            connection
                .prepare(
                    "SELECT id FROM transfers WHERE debit = 'chain' AND kind = 'deposit'
                     AND NOT EXISTS (SELECT 1 FROM transfers AS later WHERE later.reverses = transfers.id)",
                )?
                .query_map([], |row| row.get("id").map(TransferId::restored))?
                .collect()
        })
        .await
    }

    /// Replays the whole ledger.
    pub async fn proof(&self) -> Result<Proof, ReadError> {
        self.ask(prove).await
    }
}

fn prove(connection: &Connection) -> rusqlite::Result<Proof> {
    let balances = |sql| -> rusqlite::Result<BTreeMap<Account, Amount>> {
        connection
            .prepare(sql)?
            .query_map([], |row| {
                Ok((rows::text(row, "name")?, rows::amount(row, "balance")?))
            })?
            .collect()
    };
    let (transfers, not_positive) = connection.query_row(
        "SELECT count(*) AS transfers, count(*) FILTER (WHERE amount <= 0) AS not_positive FROM transfers",
        [],
        |row| {
            Ok((
                rows::unsigned(row, "transfers")?,
                rows::unsigned(row, "not_positive")?,
            ))
        },
    )?;
    let closed = closed_sessions(connection)?;
    Ok(Proof {
        accounts: balances("SELECT name, balance FROM accounts")?,
        replayed: balances(
            "SELECT name, sum(amount) AS balance FROM
             (SELECT debit AS name, -amount AS amount FROM transfers
              UNION ALL SELECT credit, amount FROM transfers) GROUP BY name",
        )?,
        transfers,
        not_positive,
        closed_sessions: u64::try_from(closed.len()).unwrap_or(u64::MAX),
        mischarged: closed
            .into_iter()
            .filter(|(_, is_right)| !is_right)
            .map(|(id, _)| id)
            .collect(),
    })
}

/// Every closed session, and whether its transfers add up to what it had to cost.
fn closed_sessions(connection: &Connection) -> rusqlite::Result<Vec<(SessionId, bool)>> {
    let mut statement = connection.prepare(
        "SELECT sessions.*, coalesce((
             SELECT sum(CASE kind WHEN 'charge' THEN transfers.amount WHEN 'reversal' THEN -transfers.amount END)
             FROM transfers WHERE reference = sessions.id), 0) AS charged
         FROM sessions WHERE closed_at_ms IS NOT NULL",
    )?;
    let judged = statement.query_map([], |row| {
        let closed = rows::closed(row)?;
        let is_billed: bool = row.get("is_billed")?;
        let cost = if is_billed && closed.outcome.is_charged() {
            rows::price(row, "cpu_time_us_per_grc")?.cost(closed.total)
        } else {
            Some(Amount::ZERO)
        };
        let charged = rows::amount(row, "charged")?;
        Ok((closed.id, cost == Some(charged) && closed.amount == charged))
    })?;
    judged.collect()
}
