//! An attempt's files on this node: log, exit record, and results until they are uploaded.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::container::{Container, ContainerError, ExitRecord};
use crate::layout::TaskKey;
use crate::publish::{self, PublishError};
use crate::results::{self, Caps};

/// One attempt's folder. Only the platform can reach it: the task gets an open descriptor of its log and nothing else.
#[derive(Clone, Debug)]
pub struct Spool {
    folder: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("failed to write `{path}`")]
    Disk {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

impl Spool {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub fn create(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)
    }

    /// Removes all of it. No error if there is nothing.
    pub fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        }
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub fn exit_record(&self) -> PathBuf {
        self.folder.join("exit.json")
    }

    /// One file a result, named by its number in [`Spool::names`]. Both are there only if there are results: a file system may
    /// search long for a free inode where many were freed lately.
    pub fn results(&self) -> PathBuf {
        self.folder.join("results")
    }

    /// The names of the results, if there are any, as a JSON list: names are data here, never paths.
    pub fn names(&self) -> PathBuf {
        self.folder.join("results.json")
    }

    /// How the run ended, if its record is there and whole. An unknown end is never a success.
    pub fn read_exit_record(&self) -> Option<ExitRecord> {
        serde_json::from_slice(&std::fs::read(self.exit_record()).ok()?).ok()
    }

    /// Whether the script was to run: its supervisor begins the record before anything else.
    pub fn has_begun(&self) -> bool {
        std::fs::metadata(self.exit_record()).is_ok_and(|record| record.len() > 0)
    }

    /// Brings the results out of the container, so that its slot is free and its death loses nothing.
    /// Returns what was not kept, and why.
    pub async fn collect(
        &self,
        container: &dyn Container,
        slot: u32,
        key: &TaskKey,
    ) -> Result<Vec<String>, SpoolError> {
        let defaults = Caps::default();
        let caps = Caps {
            name_bytes_max: defaults.name_bytes_max.min(key.result_name_bytes_max()),
            ..defaults
        };
        let folder = match container.results(slot).await {
            // Its own doing, and no reason to fail it.
            Err(ContainerError::NoResults { said }) => return Ok(vec![format!("no results: {said}")]),
            folder => folder?,
        };
        let spool = self.clone();
        let copied = tokio::task::spawn_blocking(move || {
            let collected = results::collect(folder, &caps);
            let (mut names, mut notes) = (Vec::new(), collected.skipped);
            let disk = |path: PathBuf| move |err| SpoolError::Disk { path, err };
            if !collected.files.is_empty() {
                std::fs::create_dir_all(spool.results()).map_err(disk(spool.results()))?;
            }
            for found in collected.files {
                if publish::is_reserved(&found.name) {
                    notes.push(format!(
                        "{}: the platform writes a file of that name itself",
                        found.name
                    ));
                    continue;
                }
                let path = spool.results().join(names.len().to_string());
                let Some(mut file) = found.open().map_err(disk(path.clone()))? else {
                    notes.push(format!("{}: changed after the script had ended", found.name));
                    continue;
                };
                let mut copy = File::create(&path).map_err(disk(path.clone()))?;
                io::copy(&mut file, &mut copy).map_err(disk(path))?;
                names.push(found.name);
            }
            if !names.is_empty() {
                spool.write_names(&names)?;
            }
            Ok(notes)
        });
        copied.await.unwrap_or_else(|panic| {
            Err(SpoolError::Disk {
                path: self.results(),
                err: io::Error::other(panic),
            })
        })
    }

    /// The names of the results that were collected, in the order of their numbers.
    pub fn read_names(&self) -> Result<Vec<String>, PublishError> {
        let path = self.names();
        let list = match std::fs::read(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read,
        };
        list.and_then(|list| Ok(serde_json::from_slice(&list)?))
            .map_err(|err| PublishError::Spool { path, err })
    }

    fn write_names(&self, names: &[String]) -> Result<(), SpoolError> {
        let path = self.names();
        let written = serde_json::to_vec(names).map_err(io::Error::other);
        written
            .and_then(|list| std::fs::write(&path, list))
            .map_err(|err| SpoolError::Disk { path, err })
    }

    /// Removes all but the log, which stays readable through the API.
    pub fn discard_results(&self) -> io::Result<()> {
        for removed in [
            std::fs::remove_dir_all(self.results()),
            std::fs::remove_file(self.names()),
        ] {
            match removed {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_record_has_not_begun_and_a_begun_one_tells_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path().to_owned());
        assert!(!spool.has_begun(), "no record");
        std::fs::write(spool.exit_record(), "").unwrap();
        assert!(!spool.has_begun(), "its supervisor never got it");
        std::fs::write(spool.exit_record(), "\n").unwrap();
        assert!(spool.has_begun() && spool.read_exit_record().is_none());
        let end =
            r#"{"outcome":{"exited":{"code":0}},"user_us":1,"system_us":2,"log":{"written":0,"cut":0}}"#;
        std::fs::write(spool.exit_record(), format!("\n{end}")).unwrap();
        assert!(spool.has_begun() && spool.read_exit_record().is_some());
    }
}
