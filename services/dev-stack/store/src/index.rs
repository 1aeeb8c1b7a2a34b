//! The index: which objects exist. One thread writes, in groups; any number of readers see the last commit.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite_migration::{M, Migrations};
use service_kit::database::{self, DatabaseError, GroupCommit};
use tokio::sync::broadcast;

use crate::Created;
use crate::blobs::{Blobs, NewBlob};
use crate::error::{Error, Result};

const SCHEMA: &[M<'_>] = &[M::up(include_str!("schema.sql"))];

/// Connections kept for later readers; further ones are closed after use.
const READERS_IDLE_MAX: usize = 8;
/// More than the distinct statements of this crate, so none is parsed twice.
const STATEMENTS_MAX: usize = 64;

pub(crate) struct Index {
    path: PathBuf,
    blobs: Blobs,
    created: broadcast::Sender<Created>,
    writer: GroupCommit,
    readers: Arc<Mutex<Vec<Connection>>>,
}

/// A change in progress: the connection to make it on, and its effects outside the index once it is committed.
pub(crate) struct Change<'a> {
    pub(crate) conn: &'a Connection,
    effects: Effects,
}

#[derive(Default)]
struct Effects {
    stored: Vec<NewBlob>,
    removed: Vec<String>,
    created: Vec<Created>,
}

impl Change<'_> {
    /// Keeps the file of a blob that the index now names.
    pub(crate) fn store(&mut self, blob: NewBlob) {
        self.effects.stored.push(blob);
    }

    /// Removes a file that the index names no longer.
    pub(crate) fn remove(&mut self, blob: String) {
        self.effects.removed.push(blob);
    }

    pub(crate) fn announce(&mut self, created: Created) {
        self.effects.created.push(created);
    }
}

impl Index {
    /// Opens the index of a store, makes it if there is none, and sweeps the blobs that it does not name. A root that
    /// another store has open is refused.
    pub(crate) fn open(root: &Path, blobs: Blobs, created: broadcast::Sender<Created>) -> Result<Self> {
        let path = root.join("index.sqlite");
        let (conn, lock) = database::open(&path, &Migrations::from_slice(SCHEMA))?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        let swept = blobs.sweep(&blobs_named(&conn)?)?;
        if swept > 0 {
            tracing::info!(swept, "removed the bytes of uploads that were cut off");
        }
        let writer = GroupCommit::start("store-index", conn, lock).map_err(|err| DatabaseError::Writer {
            path: path.clone(),
            err,
        })?;
        Ok(Self {
            path,
            blobs,
            created,
            writer,
            readers: Arc::default(),
        })
    }

    /// Makes a change. `Ok` means that it is on disk; `Err` that nothing of it is, in the index or among the blobs.
    pub(crate) async fn write<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Change<'_>) -> Result<T> + Send + 'static,
    {
        let (blobs, feed) = (self.blobs.clone(), self.created.clone());
        let change = move |conn: &Connection| {
            let mut under_way = Change {
                conn,
                effects: Effects::default(),
            };
            let value = change(&mut under_way)?;
            let effects = under_way.effects;
            Ok((value, move || effects.apply(&blobs, &feed)))
        };
        self.writer.write_then(change).await
    }

    /// Reads one consistent state of the index.
    pub(crate) async fn read<T, F>(&self, query: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (path, readers) = (self.path.clone(), self.readers.clone());
        let read = move || {
            let idle = readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let conn = match idle {
                Some(conn) => conn,
                None => reader(&path)?,
            };
            let snapshot = conn.unchecked_transaction()?;
            let result = query(&snapshot);
            drop(snapshot);
            let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
            if readers.len() < READERS_IDLE_MAX {
                readers.push(conn);
            }
            result
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| Error::Stopped)?
    }
}

impl Effects {
    fn apply(self, blobs: &Blobs, feed: &broadcast::Sender<Created>) {
        self.stored.into_iter().for_each(NewBlob::keep);
        for created in self.created {
            // An error only says that nobody has subscribed.
            let _ = feed.send(created);
        }
        self.removed.iter().for_each(|name| blobs.remove(name));
    }
}

fn blobs_named(conn: &Connection) -> Result<HashSet<String>> {
    let mut statement = conn.prepare("SELECT file FROM content WHERE file IS NOT NULL")?;
    let names = statement
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(names)
}

fn reader(path: &Path) -> Result<Connection> {
    let conn = Connection::open(path)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Readers never wait for the writer; this covers the moment in which a checkpoint resets the log.
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.pragma_update(None, "query_only", true)?;
    Ok(conn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(root: &Path) -> Index {
        Index::open(root, Blobs::open(root).unwrap(), broadcast::channel(8).0).unwrap()
    }

    fn insert(name: &'static str) -> impl FnOnce(&mut Change<'_>) -> Result<()> {
        move |change| {
            change
                .conn
                .execute("INSERT INTO bucket (name, created_ms) VALUES (?1, 0)", [name])?;
            Ok(())
        }
    }

    async fn count(index: &Index) -> i64 {
        let count =
            |conn: &Connection| Ok(conn.query_row("SELECT count(*) FROM bucket", [], |row| row.get(0))?);
        index.read(count).await.unwrap()
    }

    #[tokio::test]
    async fn changes_are_there_after_the_index_is_opened_again() {
        let root = tempfile::tempdir().unwrap();
        let index = open(root.path());
        index.write(insert("a")).await.unwrap();
        drop(index);
        assert_eq!(count(&open(root.path())).await, 1);
    }
}
