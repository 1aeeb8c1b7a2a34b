//! The node's own memory: every attempt and the step it has reached, on disk before the step's effect.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use rusqlite_migration::{M, Migrations};
use service_kit::database::{self, ChangeError, DatabaseError, GroupCommit, WriterEnded};
use tokio::sync::broadcast;
use units::{CpuTime, FunctionName, Grant, SessionId};

use crate::layout::TaskKey;
use crate::meter::GrantBook;
use crate::task::Attempt;

const SCHEMA: &[M<'_>] = &[M::up(
    "CREATE TABLE attempts (
        session TEXT PRIMARY KEY,
        function TEXT NOT NULL,
        object_key TEXT NOT NULL,
        task TEXT,
        over INTEGER NOT NULL,
        body TEXT NOT NULL,
        throttle_at_us INTEGER, -- NULL, as the next: nothing smaller than the grant in the body was ever reported
        stop_at_us INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX attempts_of_task ON attempts (function, object_key, session);
    CREATE INDEX attempts_under_way ON attempts (session) WHERE over = 0;",
)];

/// Records that a slow follower may fall behind before it misses some.
const NEWS_MAX: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("failed to write or read the journal")]
    Database(#[from] Arc<rusqlite::Error>),
    #[error(
        "the journal's entry for attempt {session} cannot be read (hint: it may be from another version)"
    )]
    Entry {
        session: String,
        #[source]
        err: serde_json::Error,
    },
    #[error(transparent)]
    Ended(#[from] WriterEnded),
}

impl From<rusqlite::Error> for JournalError {
    fn from(err: rusqlite::Error) -> Self {
        Self::Database(Arc::new(err))
    }
}

impl ChangeError for JournalError {
    fn is_of_database(&self) -> bool {
        matches!(self, Self::Database(_))
    }
}

/// Attempts by session. Sessions are version 7 UUIDs, so their order is the order of the claims.
#[derive(Clone, Debug)]
pub struct Journal {
    writer: Arc<GroupCommit>,
    news: broadcast::Sender<Attempt>,
}

impl Journal {
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let (connection, lock) = database::open(path, &Migrations::from_slice(SCHEMA))?;
        let writer =
            GroupCommit::start("journal", connection, lock).map_err(|err| DatabaseError::Writer {
                path: path.to_owned(),
                err,
            })?;
        Ok(Self {
            writer: Arc::new(writer),
            news: broadcast::channel(NEWS_MAX).0,
        })
    }

    /// The attempts that are recorded from now on, each time one is.
    pub fn follow(&self) -> broadcast::Receiver<Attempt> {
        self.news.subscribe()
    }

    /// Writes the state an attempt is in now; on disk when this returns.
    pub async fn record(&self, attempt: &Attempt) -> Result<(), JournalError> {
        let (attempt, news) = (attempt.clone(), self.news.clone());
        self.writer
            .write_then(move |connection| {
                let entry = |err| JournalError::Entry {
                    session: attempt.session.to_string(),
                    err,
                };
                let body = serde_json::to_string(&attempt).map_err(entry)?;
                connection
                    .prepare_cached(
                        "INSERT INTO attempts (session, function, object_key, task, over, body)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (session) DO UPDATE SET task = ?4, over = ?5, body = ?6",
                    )?
                    .execute(params![
                        attempt.session.to_string(),
                        attempt.function.as_str(),
                        attempt.key.as_str(),
                        attempt.licence().map(|licence| licence.task.to_string()),
                        attempt.is_over(),
                        body
                    ])?;
                // An error only says that nobody follows.
                Ok(((), move || drop(news.send(attempt))))
            })
            .await
    }

    /// What is left of the grants of the attempts that are not over: the smallest that was ever reported.
    pub async fn lowered(&self) -> Result<HashMap<SessionId, Grant>, JournalError> {
        self.writer.write(|connection| {
            let mut statement = connection.prepare(
                "SELECT session, throttle_at_us, stop_at_us FROM attempts WHERE over = 0 AND stop_at_us IS NOT NULL",
            )?;
            let rows = statement.query_map([], |row| {
                let micros = |column: &str| -> rusqlite::Result<CpuTime> {
                    Ok(CpuTime::from_micros(row.get::<_, i64>(column)?.cast_unsigned()))
                };
                Ok((
                    row.get::<_, String>("session")?,
                    Grant {
                        throttle_at: micros("throttle_at_us")?,
                        stop_at: micros("stop_at_us")?,
                    },
                ))
            })?;
            let rows: Vec<(String, Grant)> = rows.collect::<rusqlite::Result<_>>()?;
            let known = rows.into_iter().filter_map(|(session, grant)| Some((session.parse().ok()?, grant)));
            Ok(known.collect())
        })
        .await
    }

    /// Forgets an attempt that came to nothing: another node was first, or there were no funds.
    pub async fn forget(&self, session: SessionId) -> Result<(), JournalError> {
        self.writer
            .write(move |connection| {
                connection
                    .prepare_cached("DELETE FROM attempts WHERE session = ?1")?
                    .execute([session.to_string()])?;
                Ok(())
            })
            .await
    }

    /// The attempts that are not over, oldest first.
    pub async fn under_way(&self) -> Result<Vec<Attempt>, JournalError> {
        self.writer
            .write(|connection| {
                select(
                    connection,
                    "SELECT session, body FROM attempts WHERE over = 0 ORDER BY session",
                    [],
                )
            })
            .await
    }

    /// The newest attempts that are over, newest first.
    pub async fn finished(&self, limit: u32) -> Result<Vec<Attempt>, JournalError> {
        self.writer
            .write(move |connection| {
                select(
                    connection,
                    "SELECT session, body FROM attempts WHERE over = 1 ORDER BY session DESC LIMIT ?1",
                    [limit],
                )
            })
            .await
    }

    /// The newest attempts, newest first; of one function if given.
    pub async fn newest(
        &self,
        function: Option<FunctionName>,
        limit: u32,
    ) -> Result<Vec<Attempt>, JournalError> {
        self.writer.write(move |connection| {
            select(
                connection,
                "SELECT session, body FROM attempts WHERE ?1 IS NULL OR function = ?1 ORDER BY session DESC LIMIT ?2",
                params![function.as_ref().map(FunctionName::as_str), limit],
            )
        })
        .await
    }

    /// The newest attempt at a task, over or not.
    pub async fn newest_of(
        &self,
        function: &FunctionName,
        key: &TaskKey,
    ) -> Result<Option<Attempt>, JournalError> {
        let (function, key) = (function.clone(), key.clone());
        self.writer
            .write(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT session, body FROM attempts WHERE function = ?1 AND object_key = ?2
                     ORDER BY session DESC LIMIT 1",
                    )?
                    .query_row([function.as_str(), key.as_str()], raw)
                    .optional()?
                    .map(decode)
                    .transpose()
            })
            .await
    }
}

#[async_trait]
impl GrantBook for Journal {
    async fn lower(&self, grants: Vec<(SessionId, Grant)>) -> Result<(), JournalError> {
        self.writer
            .write(move |connection| {
                for (session, grant) in grants {
                    connection
                        .prepare_cached(
                            "UPDATE attempts SET throttle_at_us = ?2, stop_at_us = ?3 WHERE session = ?1",
                        )?
                        .execute(params![
                            session.to_string(),
                            grant.throttle_at.micros().cast_signed(),
                            grant.stop_at.micros().cast_signed()
                        ])?;
                }
                Ok(())
            })
            .await
    }
}

fn select(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<Attempt>, JournalError> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params, raw)?;
    rows.map(|row| decode(row?)).collect()
}

fn raw(row: &Row<'_>) -> rusqlite::Result<(String, String)> {
    Ok((row.get(0)?, row.get(1)?))
}

fn decode((session, body): (String, String)) -> Result<Attempt, JournalError> {
    serde_json::from_str(&body).map_err(|err| JournalError::Entry { session, err })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Source;
    use crate::task::State;
    use units::Timestamp;

    fn claimed(key: &str) -> Attempt {
        Attempt {
            session: SessionId::new(),
            function: "stress".parse().unwrap(),
            key: TaskKey::from_name(key).unwrap(),
            etag: "\"e\"".to_owned(),
            source: Source::default(),
            claimed_at: Timestamp::from_unix_ms(1),
            state: State::Claimed,
        }
    }

    #[tokio::test]
    async fn a_reopened_journal_knows_what_was_under_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let small = Grant {
            throttle_at: CpuTime::from_micros(10),
            stop_at: CpuTime::from_micros(20),
        };
        let (first, mut second, third) = (claimed("a"), claimed("b"), claimed("c"));
        {
            let journal = Journal::open(&path).unwrap();
            for attempt in [&first, &second, &third] {
                journal.record(attempt).await.unwrap();
            }
            second.state = State::Over {
                licence: None,
                run: None,
                ending: None,
                bill: None,
            };
            journal.record(&second).await.unwrap();
            journal.forget(third.session).await.unwrap();
            let both = vec![(first.session, small), (second.session, small)];
            journal.lower(both).await.unwrap();
            // The steps of an attempt do not touch it.
            journal.record(&first).await.unwrap();
        }
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.under_way().await.unwrap(), vec![first.clone()]);
        assert_eq!(
            journal.lowered().await.unwrap(),
            HashMap::from([(first.session, small)])
        );
        assert_eq!(
            journal.newest(None, 10).await.unwrap(),
            vec![second.clone(), first]
        );
        assert_eq!(
            journal.newest_of(&second.function, &second.key).await.unwrap(),
            Some(second)
        );
    }
}
