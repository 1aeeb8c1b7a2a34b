//! The `apptainer` program: found, checked, and used to turn image files into folders.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::ContainerError;

/// Before it a `--security` flag could be silently without effect (CVE-2025-65105).
const VERSION_MIN: [u32; 3] = [1, 4, 5];
/// Generous: 30 MB take half a second.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(600);
/// What Apptainer runs before the program it is told to run, as the container's user but as nobody's task. Nothing of it
/// reaches a script, whose environment is ours.
const IMAGE_SCRIPTS: &str = ".singularity.d";
/// A Debian with a desktop has a tenth of it.
const ENTRIES_MAX: u64 = 5_000_000;
const QUOTE_LINES: usize = 5;
const QUOTE_CHARS_MAX: usize = 1000;

#[derive(Clone, Debug)]
pub struct ApptainerTool {
    path: PathBuf,
}

impl ApptainerTool {
    /// The program at `path`, or the one on `PATH`. Runs it once to see that it is new enough.
    pub async fn find(path: Option<&Path>) -> Result<Self, ContainerError> {
        let missing = |err| ContainerError::ToolMissing {
            looked_for: path.map(Path::to_owned),
            err,
        };
        let found = match path {
            Some(path) => path.canonicalize(),
            None => on_path("apptainer"),
        };
        let tool = Self {
            path: found.map_err(missing)?,
        };
        let output = Command::new(&tool.path)
            .arg("--version")
            .output()
            .await
            .map_err(missing)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(version) = version(&text).filter(|_| output.status.success()) else {
            let what = format!("`{}` did not tell its version", tool.path.display());
            return Err(ContainerError::ToolFailed {
                what,
                said: last_words(&[output.stdout, output.stderr].concat()),
            });
        };
        if version < VERSION_MIN {
            let [major, minor, patch] = version;
            return Err(ContainerError::ToolTooOld {
                path: tool.path,
                found: format!("{major}.{minor}.{patch}"),
            });
        }
        Ok(tool)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unpacks the file system of `sif` into `folder`, which must not exist; it is whole when it appears.
    ///
    /// Not by `apptainer build`, which takes a text file for a definition, whatever it is called, and runs what it says.
    ///
    /// What the image would have run at a start is left out: see [`IMAGE_SCRIPTS`]. One that holds more than `bytes_max`, or
    /// more than [`ENTRIES_MAX`] files, is refused before any of it is on disk.
    pub async fn unpack(&self, sif: &Path, folder: &Path, bytes_max: u64) -> Result<(), ContainerError> {
        // Its own name and no path: this is shown to users.
        let name = sif.file_name().unwrap_or_default().display();
        let what = || format!("the image `{name}` cannot be read");
        let mut list = Command::new(&self.path);
        list.args(["sif", "list"]).arg(sif);
        let listing = finish(&mut list, what(), UNPACK_TIMEOUT).await?;
        let offset = squashfs_offset(&String::from_utf8_lossy(&listing.stdout)).ok_or_else(|| {
            ContainerError::ToolFailed {
                what: what(),
                said: "it holds no plain squashfs".to_owned(),
            }
        })?;

        let unpacked_bytes = self.unpacked_bytes(sif, offset, what()).await?;
        if unpacked_bytes > bytes_max {
            return Err(ContainerError::ToolFailed {
                what: what(),
                said: format!(
                    "it unpacks to {unpacked_bytes} bytes, and this node takes at most {bytes_max}"
                ),
            });
        }
        let partial = folder.with_extension("partial");
        remove_tree(&partial)?;
        let mut unsquashfs = Command::new("unsquashfs");
        unsquashfs.args(["-quiet", "-no-progress", "-offset", &offset.to_string(), "-dest"]);
        unsquashfs.arg(&partial).arg(sif);
        let unpacked = finish(
            &mut unsquashfs,
            format!("the image `{name}` cannot be unpacked"),
            UNPACK_TIMEOUT,
        )
        .await;
        match unpacked {
            Ok(_) => {
                remove_tree(&partial.join(IMAGE_SCRIPTS))?;
                std::fs::rename(&partial, folder).map_err(|err| ContainerError::Disk {
                    path: folder.to_owned(),
                    err,
                })
            }
            Err(err) => {
                remove_tree(&partial)?;
                Err(err)
            }
        }
    }

    /// The sizes of all files together, from the file system's own listing.
    async fn unpacked_bytes(&self, sif: &Path, offset: u64, what: String) -> Result<u64, ContainerError> {
        let failed = |said: String| ContainerError::ToolFailed {
            what: what.clone(),
            said,
        };
        let mut list = Command::new("unsquashfs");
        list.args(["-lln", "-offset", &offset.to_string()])
            .arg(sif)
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = list.spawn().map_err(|err| failed(err.to_string()))?;
        let listing = child.stdout.take().expect("it was piped");
        let sum = async {
            let mut lines = BufReader::new(listing).split(b'\n');
            let (mut bytes, mut entries) = (0u64, 0u64);
            while let Some(line) = lines.next_segment().await? {
                entries += 1;
                if entries > ENTRIES_MAX {
                    return Err(io::Error::other(format!(
                        "it holds more than {ENTRIES_MAX} files"
                    )));
                }
                bytes = bytes.saturating_add(listed_bytes(&line));
            }
            Ok(bytes)
        };
        match tokio::time::timeout(UNPACK_TIMEOUT, sum).await {
            Ok(summed) => summed.map_err(|err| failed(err.to_string())),
            Err(_elapsed) => Err(ContainerError::ToolTooSlow {
                what,
                limit: UNPACK_TIMEOUT,
            }),
        }
    }
}

/// Runs `command` to its good end. A failure quotes its last words.
async fn finish(command: &mut Command, what: String, limit: Duration) -> Result<Output, ContainerError> {
    let path = env::var_os("PATH").unwrap_or_default();
    command
        .env_clear()
        .env("PATH", path)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(limit, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(output),
        Ok(Ok(output)) => {
            let said = last_words(&[output.stdout, output.stderr].concat());
            Err(ContainerError::ToolFailed { what, said })
        }
        Ok(Err(err)) => Err(ContainerError::ToolFailed {
            what,
            said: err.to_string(),
        }),
        Err(_elapsed) => Err(ContainerError::ToolTooSlow { what, limit }),
    }
}

pub(super) fn remove_tree(path: &Path) -> Result<(), ContainerError> {
    match std::fs::remove_dir_all(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(ContainerError::Disk {
            path: path.to_owned(),
            err,
        }),
        _ => Ok(()),
    }
}

fn on_path(name: &str) -> io::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_absolute() && candidate.is_file())
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Of `apptainer version 1.4.5-2+deb13u1`, the numbers.
fn version(text: &str) -> Option<[u32; 3]> {
    let numbers = text.split_whitespace().last()?.split(['-', '+', '~']).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

/// Where the file system begins, from the table that `apptainer sif list` prints: a row such as
/// `4  |1  |NONE  |45056-27578368  |FS (Squashfs/*System/amd64)`.
fn squashfs_offset(listing: &str) -> Option<u64> {
    let row = listing.lines().find(|row| row.contains("|FS (Squashfs/"))?;
    row.split('|').nth(3)?.split('-').next()?.trim().parse().ok()
}

/// The size of a plain file in a row such as `-rw-r--r-- 0/0    1024 2026-01-01 00:00 squashfs-root/file`; 0 for other rows.
fn listed_bytes(row: &[u8]) -> u64 {
    let row = String::from_utf8_lossy(row);
    let mut fields = row.split_ascii_whitespace();
    let is_file = fields.next().is_some_and(|mode| mode.starts_with('-'));
    let size = fields.nth(1).filter(|_| is_file);
    size.and_then(|size| size.parse().ok()).unwrap_or(0)
}

/// What a program said last, on one line and without control characters.
pub(super) fn last_words(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines = text.lines().map(|line| {
        let line: String = line.chars().filter(|char| !char.is_control()).collect();
        line.trim().to_owned()
    });
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    let words = lines[lines.len().saturating_sub(QUOTE_LINES)..].join("; ");
    match words.char_indices().rev().nth(QUOTE_CHARS_MAX) {
        Some((cut, _)) => format!("… {}", &words[cut..]),
        None if words.is_empty() => "it said nothing".to_owned(),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        for (text, expected) in [
            ("apptainer version 1.4.5", Some([1, 4, 5])),
            ("apptainer version 1.4.5-2\n", Some([1, 4, 5])),
            ("apptainer version 1.10.0+deb13u1", Some([1, 10, 0])),
            ("apptainer version 2.0", None),
            ("", None),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
        assert!([1, 4, 5] < [1, 10, 0]);
    }

    #[test]
    fn the_file_system_is_found_in_the_listing() {
        let listing = "ID   |GROUP   |LINK    |SIF POSITION (start-end)  |TYPE\n\
            1    |1       |NONE    |32176-32393               |Def.FILE\n\
            4    |1       |NONE    |45056-27578368            |FS (Squashfs/*System/amd64)\n";
        assert_eq!(squashfs_offset(listing), Some(45056));
        assert_eq!(
            squashfs_offset("4 |1 |NONE |4096-8192 |FS (Encrypted squashfs/*System/amd64)"),
            None
        );
    }

    #[test]
    fn only_files_have_a_size() {
        for (row, bytes) in [
            (
                "-rw-r--r-- 0/0              1024 2026-01-01 00:00 squashfs-root/a b",
                1024,
            ),
            (
                "drwxr-xr-x 0/0                70 2026-01-01 00:00 squashfs-root",
                0,
            ),
            (
                "crw-rw-rw- 0/0             1,  3 2026-01-01 00:00 squashfs-root/dev/null",
                0,
            ),
            (
                "lrwxrwxrwx 0/0                 7 2026-01-01 00:00 squashfs-root/bin -> usr/bin",
                0,
            ),
            ("", 0),
        ] {
            assert_eq!(listed_bytes(row.as_bytes()), bytes, "{row}");
        }
    }

    #[test]
    fn last_words_are_short_and_plain() {
        assert_eq!(last_words(b"one\n\n\x1b[31mtwo\x1b[0m\n"), "one; [31mtwo[0m");
        assert_eq!(last_words(b" \n"), "it said nothing");
        assert!(last_words(&[b'x'; 5000]).chars().count() <= QUOTE_CHARS_MAX + 3);
    }

    #[tokio::test]
    async fn a_missing_tool_is_named_with_a_hint() {
        let err = ApptainerTool::find(Some(Path::new("/nonexistent/apptainer")))
            .await
            .unwrap_err();
        assert_eq!(err.to_string(), "no `apptainer` at `/nonexistent/apptainer`");
        assert!(err.hint().unwrap().contains("install-apptainer.sh"));
    }

    #[tokio::test]
    async fn an_old_tool_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let tool = folder.path().join("apptainer");
        std::fs::write(&tool, "#!/bin/sh\necho apptainer version 1.4.4\n").unwrap();
        super::super::set_mode(&tool, 0o755).unwrap();
        let err = ApptainerTool::find(Some(&tool)).await.unwrap_err();
        assert!(matches!(err, ContainerError::ToolTooOld { found, .. } if found == "1.4.4"));
    }
}
