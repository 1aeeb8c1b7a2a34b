//! What a script left in its results directory, seen with mistrust.
//!
//! The directory is a stranger's and we are root: a link could lead to the host's files, a FIFO could hold us for ever, a
//! sparse file could be larger than any disk. Every name is therefore resolved below the directory's descriptor without
//! links and without crossing mounts, and only plain files of one name and a modest size are taken.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, statat};

#[derive(Clone, Copy, Debug)]
pub struct Caps {
    pub file_bytes_max: u64,
    pub total_bytes_max: u64,
    pub files_max: usize,
    /// Everything that is looked at, skipped or not.
    pub entries_max: usize,
    /// Of the whole name with its folders: an object key holds 1024 bytes, and part of them is the prefix.
    pub name_bytes_max: usize,
    pub depth_max: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            file_bytes_max: 5 << 30,
            total_bytes_max: 20 << 30,
            files_max: 10_000,
            entries_max: 100_000,
            name_bytes_max: 700,
            depth_max: 32,
        }
    }
}

/// Reasons are listed up to here; beyond it only their number.
const REASONS_MAX: usize = 100;

#[derive(Debug)]
pub struct Collected {
    /// In the order of their names.
    pub files: Vec<ResultFile>,
    /// What was left out and why, for the user to read.
    pub skipped: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct ResultFile {
    /// Relative, with `/` between folders, UTF-8 and free of control characters; see [`escaped`].
    pub name: String,
    pub size: u64,
    root: Arc<OwnedFd>,
    path: PathBuf,
}

impl ResultFile {
    /// Opens the file for reading; `None` if it is not any more what it was when it was found.
    pub fn open(&self) -> io::Result<Option<File>> {
        let file = open(&self.root, &self.path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let found = fstat(&file)?;
        let unchanged = plain_file(&found).is_ok() && size(&found) == self.size;
        Ok(unchanged.then(|| File::from(file)))
    }
}

/// Looks through a results directory. `root` may be an `O_PATH` descriptor. What cannot be read is skipped and said.
pub fn collect(root: OwnedFd, caps: &Caps) -> Collected {
    let mut walk = Walk {
        root: Arc::new(root),
        caps,
        files: Vec::new(),
        skipped: Skipped::default(),
        bytes: 0,
    };
    walk.run();
    let Walk {
        mut files, skipped, ..
    } = walk;
    files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Collected {
        files,
        skipped: skipped.into_lines(),
    }
}

struct Walk<'a> {
    root: Arc<OwnedFd>,
    caps: &'a Caps,
    files: Vec<ResultFile>,
    skipped: Skipped,
    bytes: u64,
}

impl Walk<'_> {
    fn run(&mut self) {
        let mut folders = vec![PathBuf::new()];
        let mut entries = 0;
        while let Some(folder) = folders.pop() {
            let (opened, names) = match self.names_in(&folder) {
                Ok(found) => found,
                Err(err) => {
                    self.skipped.add(&folder, &err.to_string());
                    continue;
                }
            };
            for name in names {
                entries += 1;
                let path = folder.join(&name);
                if entries > self.caps.entries_max {
                    self.skipped.add(
                        &path,
                        "and all that would come after it: there are too many entries",
                    );
                    return;
                }
                match statat(&opened, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(err) => self.skipped.add(&path, &io::Error::from(err).to_string()),
                    Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                        if path.components().count() > self.caps.depth_max
                            || path.as_os_str().len() > self.caps.name_bytes_max
                        {
                            self.skipped.add(&path, "folders are nested too deeply");
                        } else {
                            folders.push(path);
                        }
                    }
                    Ok(found) => {
                        if let Err(reason) = self.take(&path, &found) {
                            self.skipped.add(&path, &reason);
                        }
                    }
                }
            }
        }
    }

    fn names_in(&self, folder: &Path) -> io::Result<(OwnedFd, Vec<OsString>)> {
        let opened = open(&self.root, folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&opened)? {
            let name = entry?.file_name().to_bytes().to_owned();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
            // One more than is allowed, so that the cut is noticed.
            if names.len() > self.caps.entries_max {
                break;
            }
        }
        names.sort_unstable();
        Ok((opened, names))
    }

    fn take(&mut self, path: &Path, found: &Stat) -> Result<(), String> {
        plain_file(found)?;
        let (size, name) = (size(found), escaped(path.as_os_str()));
        if name.len() > self.caps.name_bytes_max {
            return Err("its name is too long".to_owned());
        }
        if size > self.caps.file_bytes_max {
            return Err(format!(
                "{size} bytes, at most {} are kept of a file",
                self.caps.file_bytes_max
            ));
        }
        if size > self.caps.total_bytes_max - self.bytes {
            return Err(format!(
                "at most {} bytes are kept in all",
                self.caps.total_bytes_max
            ));
        }
        if self.files.len() >= self.caps.files_max {
            return Err(format!("at most {} files are kept", self.caps.files_max));
        }
        self.bytes += size;
        self.files.push(ResultFile {
            name,
            size,
            root: self.root.clone(),
            path: path.to_owned(),
        });
        Ok(())
    }
}

#[derive(Default)]
struct Skipped {
    lines: Vec<String>,
    more: usize,
}

impl Skipped {
    fn add(&mut self, path: &Path, reason: &str) {
        if self.lines.len() < REASONS_MAX {
            // The folder itself has no name.
            let name = Some(escaped(path.as_os_str())).filter(|name| !name.is_empty());
            self.lines
                .push(format!("{}: {reason}", name.as_deref().unwrap_or(".")));
        } else {
            self.more += 1;
        }
    }

    fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more", self.more));
        }
        self.lines
    }
}

fn open(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(openat2(
        root,
        path,
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        resolve,
    )?)
}

fn plain_file(found: &Stat) -> Result<(), String> {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile if found.st_nlink == 1 => Ok(()),
        // Another of its names may be where it should not be read.
        FileType::RegularFile => Err(format!("it has {} names (hard links)", found.st_nlink)),
        FileType::Symlink => Err("it is a symbolic link".to_owned()),
        _ => Err("it is not a file".to_owned()),
    }
}

fn size(found: &Stat) -> u64 {
    // The kernel gives no negative sizes.
    u64::try_from(found.st_size).unwrap_or(u64::MAX)
}

/// A file name as text that fits an object key: bytes that are not UTF-8, and control characters, become `%XX`.
///
/// A `%` before two hex digits becomes `%25`, so no two names become the same text, and most names stay as they are.
pub fn escaped(name: &OsStr) -> String {
    let bytes = name.as_bytes();
    let mut text = String::with_capacity(bytes.len());
    let escape = |text: &mut String, byte: u8| {
        let _infallible = write!(text, "%{byte:02X}");
    };
    let mut position = 0;
    for chunk in bytes.utf8_chunks() {
        for (offset, char) in chunk.valid().char_indices() {
            let rest = &bytes[position + offset + char.len_utf8()..];
            let looks_escaped = char == '%' && rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit);
            if looks_escaped || char.is_control() {
                let mut buffer = [0; 4];
                char.encode_utf8(&mut buffer)
                    .bytes()
                    .for_each(|byte| escape(&mut text, byte));
            } else {
                text.push(char);
            }
        }
        chunk.invalid().iter().for_each(|&byte| escape(&mut text, byte));
        position += chunk.valid().len() + chunk.invalid().len();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;

    fn collect_in(folder: &Path, caps: &Caps) -> Collected {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        collect(rustix::fs::open(folder, flags, Mode::empty()).unwrap(), caps)
    }

    fn names(collected: &Collected) -> Vec<&str> {
        collected.files.iter().map(|file| &*file.name).collect()
    }

    #[test]
    fn plain_files_are_found_with_their_folders() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("b/c")).unwrap();
        fs::create_dir(folder.path().join("empty")).unwrap();
        fs::write(folder.path().join("z"), "").unwrap();
        fs::write(folder.path().join("b/c/a file"), "hello").unwrap();

        let collected = collect_in(folder.path(), &Caps::default());
        assert_eq!(names(&collected), ["b/c/a file", "z"]);
        assert!(collected.skipped.is_empty());
        let mut text = String::new();
        collected.files[0]
            .open()
            .unwrap()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn links_fifos_sparse_giants_and_shared_files_are_skipped_and_said() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = |name: &str| folder.path().join(name);
        symlink("/etc/shadow", path("link")).unwrap();
        symlink("/", path("root")).unwrap();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        fs::write(path("one"), "x").unwrap();
        fs::hard_link(path("one"), path("two")).unwrap();
        fs::File::create(path("giant")).unwrap().set_len(8 << 40).unwrap();
        fs::write(path("good"), "x").unwrap();

        let collected = collect_in(folder.path(), &Caps::default());
        assert_eq!(names(&collected), ["good"]);
        assert_eq!(
            collected.skipped,
            [
                "giant: 8796093022208 bytes, at most 5368709120 are kept of a file",
                "link: it is a symbolic link",
                "one: it has 2 names (hard links)",
                "pipe: it is not a file",
                "root: it is a symbolic link",
                "two: it has 2 names (hard links)",
            ]
        );
    }

    #[test]
    fn a_file_that_was_swapped_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "x").unwrap();
        let collected = collect_in(folder.path(), &Caps::default());

        fs::write(&path, "longer").unwrap();
        assert!(collected.files[0].open().unwrap().is_none());
        fs::remove_file(&path).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        assert!(collected.files[0].open().is_err());
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(
            collected.files[0].open().unwrap().is_none(),
            "a FIFO does not block"
        );
    }

    #[test]
    fn every_cap_cuts_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(folder.path().join(name), "1234").unwrap();
        }
        fs::create_dir_all(folder.path().join("d/e/f")).unwrap();
        let caps = Caps::default();
        for (caps, kept, reason) in [
            (
                Caps {
                    file_bytes_max: 3,
                    ..caps
                },
                0,
                "a: 4 bytes, at most 3 are kept of a file",
            ),
            (
                Caps {
                    total_bytes_max: 9,
                    ..caps
                },
                2,
                "c: at most 9 bytes are kept in all",
            ),
            (Caps { files_max: 1, ..caps }, 1, "b: at most 1 files are kept"),
            (
                Caps {
                    entries_max: 2,
                    ..caps
                },
                2,
                "c: and all that would come after it: there are too many entries",
            ),
            (
                Caps {
                    name_bytes_max: 0,
                    ..caps
                },
                0,
                "a: its name is too long",
            ),
            (
                Caps { depth_max: 2, ..caps },
                3,
                "d/e/f: folders are nested too deeply",
            ),
        ] {
            let collected = collect_in(folder.path(), &caps);
            assert_eq!(collected.files.len(), kept, "{reason}");
            assert_eq!(collected.skipped[0], reason);
        }
    }

    #[test]
    fn deep_folders_end_the_descent_and_not_the_collector() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut deep = rustix::fs::open(folder.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&deep, "deep", Mode::RWXU).unwrap();
            deep = rustix::fs::openat(&deep, "deep", OFlags::RDONLY, Mode::empty()).unwrap();
        }
        fs::write(folder.path().join("good"), "").unwrap();
        let collected = collect_in(folder.path(), &Caps::default());
        assert_eq!(names(&collected), ["good"]);
        assert_eq!(collected.skipped.len(), 1);
    }

    #[test]
    fn many_reasons_become_a_number() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..REASONS_MAX + 5 {
            symlink("x", folder.path().join(number.to_string())).unwrap();
        }
        let collected = collect_in(folder.path(), &Caps::default());
        assert_eq!(collected.skipped.len(), REASONS_MAX + 1);
        assert_eq!(collected.skipped[REASONS_MAX], "and 5 more");
    }

    #[test]
    fn strange_names_become_plain_text() {
        for (name, expected) in [
            (&b"100%.txt"[..], "100%.txt"),
            (b"a\xffb", "a%FFb"),
            (b"a%FFb", "a%25FFb"),
            (b"\x1b[31m\n", "%1B[31m%0A"),
            ("naïve ☃".as_bytes(), "naïve ☃"),
            (b"\xc2\x9b", "%C2%9B"),
        ] {
            assert_eq!(escaped(OsStr::from_bytes(name)), expected);
        }
    }

    fn unescaped(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            let hex = after
                .get(..2)
                .filter(|hex| first == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
            if let Some(hex) = hex {
                bytes.push(u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap());
                rest = &after[2..];
            } else {
                bytes.push(first);
                rest = after;
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn no_two_names_become_the_same_text(name in prop::collection::vec(prop_oneof![
            Just(b'%'), Just(b'4'), Just(b'F'), any::<u8>()
        ], 0..40)) {
            let text = escaped(OsStr::from_bytes(&name));
            prop_assert_eq!(unescaped(&text), name);
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}
