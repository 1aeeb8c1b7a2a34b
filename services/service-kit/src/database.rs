//! SQLite as both services use it: durable, one writer, one process.

mod group;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite_migration::Migrations;

pub use group::{ChangeError, GroupCommit, WriterEnded};

#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("failed to create the folder of `{path}`")]
    Folder {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("`{path}` is in use by another process (hint: only one service may run on one state folder)")]
    Locked { path: PathBuf },
    #[error("failed to open `{path}`")]
    Open {
        path: PathBuf,
        #[source]
        err: rusqlite::Error,
    },
    #[error("failed to start the writer of `{path}`")]
    Writer {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("failed to bring `{path}` to the present schema (hint: it may be from a newer version)")]
    Migrate {
        path: PathBuf,
        #[source]
        err: Box<rusqlite_migration::Error>,
    },
}

/// An exclusive right to a database, held as long as this lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock, which the kernel drops with it")] File);

/// Opens a database at `path`, making it and its folder if missing, and brings it to the newest schema.
///
/// Commits are on disk when they return (`synchronous=FULL` under WAL). A second process is refused by a lock file
/// beside the database, before it can touch anything.
pub fn open(path: &Path, migrations: &Migrations<'_>) -> Result<(Connection, Lock), DatabaseError> {
    let named = || path.to_owned();
    let lock = lock(path)?;
    let mut connection = Connection::open(path).map_err(|err| DatabaseError::Open { path: named(), err })?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000;",
        )
        .map_err(|err| DatabaseError::Open { path: named(), err })?;
    migrations
        .to_latest(&mut connection)
        .map_err(|err| DatabaseError::Migrate {
            path: named(),
            err: Box::new(err),
        })?;
    Ok((connection, lock))
}

fn lock(path: &Path) -> Result<Lock, DatabaseError> {
    let folder = |err| DatabaseError::Folder {
        path: path.to_owned(),
        err,
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(folder)?;
    }
    let lock_path = path.with_extension("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(folder)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(DatabaseError::Locked {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(err)) => Err(folder(err)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite_migration::M;

    #[test]
    fn a_second_opener_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/journal.db");
        let migrations = Migrations::new(vec![M::up("CREATE TABLE t (x INTEGER) STRICT")]);
        let first = open(&path, &migrations).unwrap();
        assert!(matches!(
            open(&path, &migrations),
            Err(DatabaseError::Locked { .. })
        ));
        drop(first);
        open(&path, &migrations).unwrap();
    }
}
