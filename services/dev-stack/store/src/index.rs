//! The index: which objects exist. One thread writes, any number of readers see the last commit.
//!
//! Changes that arrive while a commit is under way share the next one (group commit), so a burst of small objects
//! costs one flush of the disk instead of one each. Every change has a savepoint of its own and fails alone.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, Savepoint, TransactionBehavior};
use rusqlite_migration::{M, Migrations};
use service_kit::database;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::Created;
use crate::blobs::{Blobs, NewBlob};
use crate::error::{Error, Result};

const SCHEMA: &[M<'_>] = &[M::up(include_str!("schema.sql"))];

/// Changes that may wait for the writer; more than the connections a server holds, so nobody waits twice.
const QUEUE_MAX: usize = 1024;
/// Changes in one commit: enough to share the flush, few enough that the first need not wait long for the last.
const BATCH_MAX: usize = 128;
/// Connections kept for later readers; further ones are closed after use.
const READERS_IDLE_MAX: usize = 8;
/// More than the distinct statements of this crate, so none is parsed twice.
const STATEMENTS_MAX: usize = 64;

/// Runs a change in its savepoint and returns what is to happen once the commit has succeeded or failed.
type Job = Box<dyn FnOnce(Savepoint<'_>) -> Settle + Send>;
type Settle = Box<dyn FnOnce(&Result<(), Arc<rusqlite::Error>>)>;

pub(crate) struct Index {
    path: PathBuf,
    blobs: Blobs,
    created: broadcast::Sender<Created>,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
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
        let (mut conn, lock) = database::open(&path, &Migrations::from_slice(SCHEMA))?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        let swept = blobs.sweep(&blobs_named(&conn)?)?;
        if swept > 0 {
            tracing::info!(swept, "removed the bytes of uploads that were cut off");
        }
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let writer = thread::Builder::new()
            .name("store-index".to_owned())
            .spawn(move || {
                // The root stays locked until the last change is written, even if that outlives the store.
                let _lock = lock;
                write_all(&mut conn, queue);
            })
            .map_err(|err| Error::File {
                path: path.clone(),
                err,
            })?;
        Ok(Self {
            path,
            blobs,
            created,
            jobs: Some(jobs),
            writer: Some(writer),
            readers: Arc::default(),
        })
    }

    /// Makes a change. `Ok` means that it is on disk; `Err` that nothing of it is, in the index or among the blobs.
    pub(crate) async fn write<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Change<'_>) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let (blobs, feed) = (self.blobs.clone(), self.created.clone());
        let job: Job = Box::new(move |savepoint| {
            let (result, effects) = attempt(savepoint, change);
            Box::new(move |committed| {
                let result = match (result, committed) {
                    // The cause, of which the commit that failed is a consequence.
                    (Err(Error::Index(err)), _) => Err(Error::Index(err)),
                    // A refusal, too, was judged by what earlier changes of the batch did, so it falls with them.
                    (_, Err(err)) => Err(Error::Index(err.clone())),
                    (result, Ok(())) => result,
                };
                let done = result.is_ok();
                // Nobody listens when the client has gone; the change holds all the same.
                let _ = reply.send(result);
                if done {
                    effects.apply(&blobs, &feed);
                }
            })
        });
        let jobs = self.jobs.as_ref().ok_or(Error::Stopped)?;
        jobs.send(job).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
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

impl Drop for Index {
    /// Waits for the changes under way, so that the root can be opened again at once.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of the index panicked");
        }
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

fn attempt<T, F>(savepoint: Savepoint<'_>, change: F) -> (Result<T>, Effects)
where
    F: FnOnce(&mut Change<'_>) -> Result<T>,
{
    let mut under_way = Change {
        conn: &savepoint,
        effects: Effects::default(),
    };
    let result = change(&mut under_way);
    let effects = under_way.effects;
    // A savepoint that is dropped without a commit rolls back.
    let result = result.and_then(|value| Ok(savepoint.commit().map(|()| value)?));
    (result, effects)
}

fn write_all(conn: &mut Connection, mut queue: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let mut settles = Vec::with_capacity(batch.len());
        let committed = write_batch(conn, batch.drain(..), &mut settles).map_err(Arc::new);
        for settle in settles {
            settle(&committed);
        }
    }
}

fn write_batch(
    conn: &mut Connection,
    batch: impl Iterator<Item = Job>,
    settles: &mut Vec<Settle>,
) -> rusqlite::Result<()> {
    let mut transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in batch {
        settles.push(job(transaction.savepoint()?));
        // A full disk can make SQLite roll back everything. A savepoint would then be a transaction of its own, and
        // commit by itself what is about to be reported as failed.
        if transaction.is_autocommit() {
            break;
        }
    }
    transaction.commit()
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
    use futures::future::join_all;

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
    async fn a_change_that_fails_takes_nothing_else_of_its_batch_with_it() {
        let root = tempfile::tempdir().unwrap();
        let index = open(root.path());
        let writes = ["a", "b", "a", "c", "b"].map(|name| index.write(insert(name)));
        let results = join_all(writes).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 3);
        assert_eq!(count(&index).await, 3);
    }

    #[tokio::test]
    async fn an_error_after_the_first_statement_undoes_the_whole_change() {
        let root = tempfile::tempdir().unwrap();
        let index = open(root.path());
        let change = |change: &mut Change<'_>| {
            insert("a")(change)?;
            Err::<(), _>(Error::Stopped)
        };
        assert!(index.write(change).await.is_err());
        assert_eq!(count(&index).await, 0);
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
