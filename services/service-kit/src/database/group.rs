//! Group commit: one thread writes; changes that arrive while a commit is under way share the next one.
//!
//! A burst of small changes costs one flush of the disk instead of one each. Every change has a savepoint of its own and
//! fails alone.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, Savepoint, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::Lock;
use crate::metrics::{COMMON, Counter};

/// Changes that may wait for the writer; whoever comes after waits for room.
const QUEUE_MAX: usize = 1024;
/// Changes in one commit: enough to share the flush, few enough that the first need not wait long for the last.
const BATCH_MAX: usize = 128;

/// Runs a change in its savepoint and returns what is to happen once the commit has succeeded or failed.
type Job = Box<dyn FnOnce(Savepoint<'_>) -> Settle + Send>;
type Settle = Box<dyn FnOnce(&Result<(), Arc<rusqlite::Error>>)>;

/// The writer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database's writer has ended")]
pub struct WriterEnded;

/// The error of a change.
pub trait ChangeError: From<Arc<rusqlite::Error>> + From<WriterEnded> + Send + 'static {
    /// Whether the database failed, and not the change what it asked of it.
    fn is_of_database(&self) -> bool;
}

/// The one writer of a database.
#[derive(Debug)]
pub struct GroupCommit {
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl GroupCommit {
    /// Starts the writer's thread. The database stays locked until its last change is written, even if that outlives this.
    pub fn start(name: &str, mut connection: Connection, lock: Lock) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let commits = COMMON.database_commits.with_label_values(&[name]);
        let writer = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _lock = lock;
            write_all(&commits, &mut connection, queue);
        })?;
        Ok(Self {
            jobs: Some(jobs),
            writer: Some(writer),
        })
    }

    /// Makes a change. `Ok` means that it is on disk; `Err` that nothing of it is.
    pub async fn write<T, E, F>(&self, change: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: ChangeError,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        self.write_then(|connection| change(connection).map(|value| (value, || {})))
            .await
    }

    /// As [`write`](Self::write); what the change returns beside its value is done once it is on disk, whether or not the
    /// caller still waits, and dropped if it never is.
    pub async fn write_then<T, A, E, F>(&self, change: F) -> Result<T, E>
    where
        T: Send + 'static,
        A: FnOnce() + 'static,
        E: ChangeError,
        F: FnOnce(&Connection) -> Result<(T, A), E> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |savepoint| {
            let result = attempt(savepoint, change);
            Box::new(move |committed| {
                let result = match (result, committed) {
                    // The cause, of which the commit that failed is a consequence.
                    (Err(err), _) if err.is_of_database() => Err(err),
                    // A refusal, too, was judged by what earlier changes of the batch did, so it falls with them.
                    (_, Err(err)) => Err(E::from(err.clone())),
                    (result, Ok(())) => result,
                };
                let (result, after) = match result {
                    Ok((value, after)) => (Ok(value), Some(after)),
                    Err(err) => (Err(err), None),
                };
                // Nobody listens when the caller has gone; the change holds all the same.
                let _ = reply.send(result);
                if let Some(after) = after {
                    after();
                }
            })
        });
        let jobs = self.jobs.as_ref().ok_or(WriterEnded)?;
        jobs.send(job).await.map_err(|_| WriterEnded)?;
        answer.await.map_err(|_| WriterEnded)?
    }
}

impl Drop for GroupCommit {
    /// Waits for the changes under way, so that the database can be opened again at once.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the writer of a database panicked");
        }
    }
}

fn attempt<T, E: ChangeError>(
    savepoint: Savepoint<'_>,
    change: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    let value = change(&savepoint)?;
    // A savepoint that is dropped without a commit rolls back.
    savepoint.commit().map_err(Arc::new)?;
    Ok(value)
}

fn write_all(commits: &Counter, connection: &mut Connection, mut queue: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while queue.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let mut settles = Vec::with_capacity(batch.len());
        let committed = write_batch(connection, batch.drain(..), &mut settles).map_err(Arc::new);
        if committed.is_ok() {
            commits.inc();
        }
        for settle in settles {
            settle(&committed);
        }
    }
}

fn write_batch(
    connection: &mut Connection,
    batch: impl Iterator<Item = Job>,
    settles: &mut Vec<Settle>,
) -> rusqlite::Result<()> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc as channel;

    use rusqlite_migration::{M, Migrations};

    use super::*;

    #[derive(Debug)]
    enum Error {
        Refused,
        Database,
        Ended,
    }

    impl From<Arc<rusqlite::Error>> for Error {
        fn from(_: Arc<rusqlite::Error>) -> Self {
            Self::Database
        }
    }

    impl From<WriterEnded> for Error {
        fn from(_: WriterEnded) -> Self {
            Self::Ended
        }
    }

    impl ChangeError for Error {
        fn is_of_database(&self) -> bool {
            matches!(self, Self::Database)
        }
    }

    fn open(folder: &Path) -> GroupCommit {
        let migrations = Migrations::new(vec![M::up("CREATE TABLE t (x TEXT UNIQUE) STRICT")]);
        let (connection, lock) = super::super::open(&folder.join("t.db"), &migrations).unwrap();
        GroupCommit::start("t", connection, lock).unwrap()
    }

    fn insert(x: &'static str) -> impl FnOnce(&Connection) -> Result<(), Error> {
        move |connection| match connection.execute("INSERT INTO t VALUES (?1)", [x]) {
            Ok(_) => Ok(()),
            Err(err) => Err(Arc::new(err).into()),
        }
    }

    async fn all(writer: &GroupCommit) -> String {
        let all = |connection: &Connection| {
            let sql = "SELECT coalesce(group_concat(x, '' ORDER BY x), '') FROM t";
            let read = connection.query_row(sql, [], |row| row.get(0));
            Ok::<String, Error>(read.unwrap())
        };
        writer.write(all).await.unwrap()
    }

    #[tokio::test]
    async fn a_change_that_fails_takes_nothing_else_of_its_batch_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let writer = open(folder.path());
        let refused = |connection: &Connection| {
            insert("r")(connection)?;
            Err::<(), _>(Error::Refused)
        };
        // They wait behind one that waits for them, so all are one batch.
        let (go, gate) = channel::channel();
        let slow = move |_: &Connection| {
            gate.recv().unwrap();
            Ok::<_, Error>(())
        };
        let (_, a, again, refused, b, ()) = tokio::join!(
            writer.write(slow),
            writer.write(insert("a")),
            writer.write(insert("a")),
            writer.write(refused),
            writer.write(insert("b")),
            async { go.send(()).unwrap() },
        );
        assert!(matches!(
            (a, again, refused, b),
            (Ok(()), Err(Error::Database), Err(Error::Refused), Ok(()))
        ));
        assert_eq!(all(&writer).await, "ab");
    }

    #[tokio::test]
    async fn what_follows_a_change_happens_also_when_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let writer = open(folder.path());
        let (done, effect) = channel::channel();
        let change = move |connection: &Connection| {
            insert("a")(connection)?;
            Ok::<_, Error>(((), move || done.send(()).unwrap()))
        };
        tokio::select! {
            biased;
            _ = writer.write_then(change) => {}
            // It has begun, and is left.
            () = std::future::ready(()) => {}
        }
        drop(writer);
        effect.recv().unwrap();
        assert_eq!(all(&open(folder.path())).await, "a");
    }
}
