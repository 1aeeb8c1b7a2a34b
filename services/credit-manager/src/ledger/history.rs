//! The past, page by page: transfers by filter, statements, and copies of everything.

use std::fs::File;

use futures::{Stream, TryStreamExt as _, stream};
use rusqlite::{Connection, OpenFlags, named_params};
use units::{Amount, Timestamp, UserName};

use super::reader::{ReadError, Reader};
use super::{Account, Kind, Transfer, rows};

/// Transfers read at once: more would only be held in memory.
const PAGE: u32 = 1_000;

/// Which transfers. What is absent is no condition.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those that touch what this user owns or owes.
    pub user: Option<UserName>,
    pub kind: Option<Kind>,
    pub reference: Option<String>,
    pub period: Period,
}

/// From a moment on, and before another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Period {
    pub from: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Period {
    /// As the milliseconds that bound it, the second one exclusive.
    fn bounds(self) -> (i64, i64) {
        (
            self.from.map_or(i64::MIN, Timestamp::unix_ms),
            self.until.map_or(i64::MAX, Timestamp::unix_ms),
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

/// Places in the ledger, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    first: i64,
    last: i64,
}

impl Span {
    pub const ALL: Self = Self {
        first: 1,
        last: i64::MAX,
    };

    /// What is left of it after a page that ended at `seen`.
    fn beyond(self, seen: i64, order: Order) -> Self {
        match order {
            Order::OldestFirst => Self {
                first: seen + 1,
                ..self
            },
            Order::NewestFirst => Self {
                last: seen - 1,
                ..self
            },
        }
    }
}

/// A user's account over a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    pub opening: Amount,
    pub closing: Amount,
    /// The last transfer that was looked at.
    pub through: u64,
}

impl Reader {
    /// Some transfers with their places in the ledger.
    pub async fn page(
        &self,
        filter: Filter,
        span: Span,
        order: Order,
        limit: u32,
    ) -> Result<Vec<(i64, Transfer)>, ReadError> {
        self.ask(move |connection| page(connection, &filter, span, order, limit))
            .await
    }

    /// All transfers that `filter` lets through, up to the place `through` or, where that is 0, up to now; at most
    /// `limit` of them. Read as they are taken, so a ledger of any length needs no room.
    pub async fn history(
        &self,
        filter: Filter,
        order: Order,
        through: u64,
        limit: Option<u64>,
    ) -> Result<impl Stream<Item = Result<Vec<Transfer>, ReadError>> + Send + use<>, ReadError> {
        let last = match through {
            0 => self.ask(last_sequence).await?,
            through => i64::try_from(through).unwrap_or(i64::MAX),
        };
        let begin = (self.clone(), Span { first: 1, last }, limit.unwrap_or(u64::MAX));
        let pages = stream::try_unfold(begin, move |(reader, span, left)| {
            let filter = filter.clone();
            async move {
                let wanted = PAGE.min(u32::try_from(left).unwrap_or(PAGE));
                if wanted == 0 {
                    return Ok(None);
                }
                let page = reader.page(filter, span, order, wanted).await?;
                let Some((seen, _)) = page.last() else {
                    return Ok(None);
                };
                let rest = span.beyond(*seen, order);
                let left = left.saturating_sub(u64::try_from(page.len()).unwrap_or(u64::MAX));
                let transfers: Vec<Transfer> = page.into_iter().map(|(_, transfer)| transfer).collect();
                Ok(Some((transfers, (reader, rest, left))))
            }
        });
        Ok(pages.into_stream())
    }

    /// What a user owned when the period began and when it ended.
    pub async fn statement(&self, user: UserName, period: Period) -> Result<Statement, ReadError> {
        self.ask(move |connection| {
            let (from, until) = period.bounds();
            let account = Account::User(user).to_string();
            let balance_before = |moment: i64| {
                connection
                    .prepare_cached(
                        "SELECT coalesce((SELECT sum(amount) FROM transfers
                                          WHERE credit = :account AND posted_at_ms < :moment), 0)
                              - coalesce((SELECT sum(amount) FROM transfers
                                          WHERE debit = :account AND posted_at_ms < :moment), 0) AS balance",
                    )?
                    .query_row(named_params! {":account": account, ":moment": moment}, |row| {
                        rows::amount(row, "balance")
                    })
            };
            Ok(Statement {
                opening: balance_before(from)?,
                closing: balance_before(until)?,
                through: last_sequence(connection)?.unsigned_abs(),
            })
        })
        .await
    }

    /// A copy of the whole database as of one moment, in a file that is gone once it is closed.
    pub async fn copy(&self) -> Result<File, ReadError> {
        let path = self.path.clone();
        let copy = move || {
            // Beside the ledger, where there is room for one.
            let folder = path.parent().unwrap_or_else(|| std::path::Path::new("."));
            let file = tempfile::NamedTempFile::new_in(folder)?;
            let connection = Connection::open_with_flags(&*path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            connection.execute("VACUUM INTO ?", [file.path().to_string_lossy()])?;
            Ok::<_, ReadError>(file.reopen()?)
        };
        tokio::task::spawn_blocking(copy).await?
    }
}

fn last_sequence(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(sequence), 0) FROM transfers", [], |row| {
        row.get(0)
    })
}

fn page(
    connection: &Connection,
    filter: &Filter,
    span: Span,
    order: Order,
    limit: u32,
) -> rusqlite::Result<Vec<(i64, Transfer)>> {
    let order = match order {
        Order::OldestFirst => "ORDER BY sequence LIMIT :limit",
        Order::NewestFirst => "ORDER BY sequence DESC LIMIT :limit",
    };
    let (from, until) = filter.period.bounds();
    let conditions = "sequence BETWEEN :first AND :last AND posted_at_ms >= :from
                      AND (posted_at_ms < :until OR :until = 9223372036854775807)
                      AND (:kind IS NULL OR kind = :kind) AND (:reference IS NULL OR reference = :reference)";
    let part =
        |side: &str| format!("SELECT * FROM (SELECT * FROM transfers WHERE {side} AND {conditions} {order})");
    // Each part follows an index from its end; one condition with OR would read all there is.
    let statement = match (&filter.user, &filter.reference) {
        (Some(_), _) => {
            let sides = ["debit = :user", "debit = :due", "credit = :user", "credit = :due"];
            format!("{} {order}", sides.map(part).join(" UNION "))
        }
        (None, Some(_)) => part("reference = :reference AND :user IS :due"),
        (None, None) => part(":user IS :due"),
    };
    let account = |named: fn(UserName) -> Account| filter.user.clone().map(|user| named(user).to_string());
    connection
        .prepare(&statement)?
        .query_map(
            named_params! {
                ":first": span.first,
                ":last": span.last,
                ":from": from,
                ":until": until,
                ":kind": filter.kind.map(Kind::as_str),
                ":reference": filter.reference,
                ":user": account(Account::User),
                ":due": account(Account::Due),
                ":limit": limit,
            },
            |row| Ok((row.get("sequence")?, rows::transfer(row)?)),
        )?
        .collect()
}
