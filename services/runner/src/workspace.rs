//! A slot's folder: emptied of the last task, made for the next, opened for its results.
//!
//! A task may leave anything behind: tens of thousands of nested folders, folders without permissions, names that are
//! not text. It runs under our own uid and so leaves nothing that we could not remove.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, chmodat, mkdirat, openat, openat2,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::path::Arg;

/// Makes empty `results` and `scratch` folders for the next run in `slot`.
pub(crate) fn prepare(work: &Path, slot: u32) -> anyhow::Result<()> {
    let work = open_folder(CWD, work).context("failed to open the work folder")?;
    let folder =
        fresh_folder(&work, &slot.to_string()).with_context(|| format!("failed to empty slot {slot}"))?;
    for name in ["results", "scratch"] {
        mkdirat(&folder, name, Mode::RWXU).with_context(|| format!("failed to make `{name}`"))?;
    }
    Ok(())
}

/// Removes everything in `folder`.
pub(crate) fn clear(folder: &Path) -> io::Result<()> {
    empty(&open_folder(CWD, folder)?)?;
    Ok(())
}

/// Opens the results of `slot` for looking up files (`O_PATH`, which needs no permission to read). The task chose what is
/// there, so links are not followed: the host goes through this descriptor with root's rights.
pub(crate) fn open_results(work: &Path, slot: u32) -> io::Result<OwnedFd> {
    let work = open_folder(CWD, work)?;
    let results = openat2(
        work,
        format!("{slot}/results"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )?;
    Ok(results)
}

/// An empty folder `name` in `parent`, whatever was there before.
fn fresh_folder(parent: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => {
            let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                let folder = open_folder(parent, name)?;
                empty(&folder)?;
                return Ok(folder);
            }
            unlinkat(parent, name, AtFlags::empty())?;
            mkdirat(parent, name, Mode::RWXU)?;
        }
        made => made?,
    }
    open_folder(parent, name)
}

/// Opens a folder of ours, whatever permissions a task left it with.
fn open_folder(parent: impl AsFd, name: impl Arg + Copy) -> rustix::io::Result<OwnedFd> {
    chmodat(&parent, name, Mode::RWXU, AtFlags::empty())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Removes everything in `top`, with a handful of descriptors and without long paths however deep the tree is: before a
/// folder is removed, the folders in it are moved up into `top`, where the next round finds them.
fn empty(top: &OwnedFd) -> rustix::io::Result<()> {
    let mut spare_names = 0_u64..;
    loop {
        let names = names_in(top)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in &names {
            if is_removed_as_file(top, name)? {
                continue;
            }
            let folder = open_folder(top, name.as_c_str())?;
            for inner in names_in(&folder)? {
                if !is_removed_as_file(&folder, &inner)? {
                    // Moving a folder to another parent needs the right to write to the folder itself.
                    chmodat(&folder, &inner, Mode::RWXU, AtFlags::empty())?;
                    move_up(&folder, &inner, top, &mut spare_names)?;
                }
            }
            unlinkat(top, name, AtFlags::REMOVEDIR)?;
        }
    }
}

/// Removes `name` unless it is a folder, and tells whether it did.
fn is_removed_as_file(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(err) => Err(err),
    }
}

fn move_up(
    from: &OwnedFd,
    name: &CStr,
    top: &OwnedFd,
    spare_names: &mut impl Iterator<Item = u64>,
) -> rustix::io::Result<()> {
    loop {
        let spare = spare_names.next().expect("fewer than 2^64 folders").to_string();
        match renameat_with(from, name, top, &*spare, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}

fn names_in(folder: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let names = Dir::read_from(folder)?.map(|entry| Ok(entry?.file_name().to_owned()));
    names
        .filter(|name| !name.as_deref().is_ok_and(|name| name == c"." || name == c".."))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const SLOT: u32 = 0;

    fn assert_fresh(work: &Path) {
        let mut names: Vec<_> = fs::read_dir(work.join("0"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["results", "scratch"]);
        for name in names {
            assert_eq!(fs::read_dir(work.join("0").join(name)).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_slot_is_fresh_whatever_the_last_task_left() {
        let work = tempfile::tempdir().unwrap();
        prepare(work.path(), SLOT).unwrap();
        assert_fresh(work.path());

        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let results = work.path().join("0/results");
        // Names that moved folders could collide with.
        for name in ["0", "1", "2"] {
            fs::write(work.path().join("0").join(name), "").unwrap();
            fs::create_dir_all(results.join(name).join("a/b")).unwrap();
        }
        fs::write(results.join("1/a/file"), "").unwrap();
        symlink(outside.path(), results.join("link")).unwrap();
        fs::set_permissions(results.join("2/a"), fs::Permissions::from_mode(0o000)).unwrap();

        prepare(work.path(), SLOT).unwrap();
        assert_fresh(work.path());
        assert!(outside.path().join("kept").exists(), "links are not followed");
    }

    #[test]
    fn a_slot_that_is_no_folder_becomes_one() {
        let work = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        symlink(outside.path(), work.path().join("0")).unwrap();
        prepare(work.path(), SLOT).unwrap();
        assert_fresh(work.path());
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn thirty_thousand_nested_folders_are_removed() {
        let work = tempfile::tempdir_in("/dev/shm").unwrap();
        prepare(work.path(), SLOT).unwrap();
        let mut folder = open_folder(CWD, &*work.path().join("0/scratch")).unwrap();
        for _ in 0..30_000 {
            mkdirat(&folder, "deep", Mode::RWXU).unwrap();
            folder = open_folder(&folder, "deep").unwrap();
        }
        prepare(work.path(), SLOT).unwrap();
        assert_fresh(work.path());
    }

    #[test]
    fn results_are_opened_only_where_they_belong() {
        let work = tempfile::tempdir().unwrap();
        prepare(work.path(), SLOT).unwrap();
        open_results(work.path(), SLOT).unwrap();

        let results = work.path().join("0/results");
        fs::remove_dir(&results).unwrap();
        assert_eq!(
            open_results(work.path(), SLOT).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        symlink("/etc", &results).unwrap();
        let err = open_results(work.path(), SLOT).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }
}
