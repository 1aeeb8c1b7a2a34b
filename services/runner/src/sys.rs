//! The system calls for which there is no safe wrapper. Everything `unsafe` of this crate is here.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::thread::UnshareFlags;

pub(crate) enum Fork {
    Parent,
    Child,
}

/// Duplicates the process. The child needs no `exec`: this program never has a second thread whose locks it could miss.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: the process has one thread, so the child's memory is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        _ => Ok(Fork::Parent),
    }
}

/// The kernel reaps children by itself; nobody asks how they ended.
pub(crate) fn discard_children() -> io::Result<()> {
    on_child_end(libc::SIG_IGN)
}

/// Ends [`discard_children`], so that a child can be waited for.
pub(crate) fn keep_children() -> io::Result<()> {
    on_child_end(libc::SIG_DFL)
}

#[expect(unsafe_code, reason = "signal dispositions have no safe wrapper")]
fn on_child_end(disposition: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: both dispositions run no code of ours.
    check(
        if unsafe { libc::signal(libc::SIGCHLD, disposition) } == libc::SIG_ERR {
            -1
        } else {
            0
        },
    )
}

/// Gives this process a copy of the mount tree that it can change alone.
#[expect(unsafe_code, reason = "unshare is unsafe for the sake of UnshareFlags::FILES")]
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: the descriptor table stays shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(())
}

/// Marks every descriptor from `first` on, so that none outlives the next `exec`.
#[expect(unsafe_code, reason = "close_range has no safe wrapper")]
pub(crate) fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    const CLOEXEC: libc::c_int = 4;
    // SAFETY: nothing is closed yet, so no owned descriptor dangles.
    check(unsafe { libc::close_range(first, libc::c_uint::MAX, CLOEXEC) })
}

/// Closes a descriptor that belongs to the parent process, in the child.
#[expect(
    unsafe_code,
    reason = "closes a descriptor whose owner is in the parent process"
)]
pub(crate) fn close(fd: RawFd) {
    // SAFETY: after the fork the owner's destructor runs in the parent only; the child goes on to `exec` or `_exit`.
    unsafe { libc::close(fd) };
}

/// Runs `hook` in the child of `command`, after the descriptors are in place and just before `exec`.
#[expect(
    unsafe_code,
    reason = "pre_exec is unsafe for the sake of programs with threads"
)]
pub(crate) fn before_exec(
    command: &mut Command,
    hook: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the process has one thread, so the hook may allocate and take locks.
    unsafe { command.pre_exec(hook) };
}

/// User and system CPU time in microseconds of all children that were waited for, and of those they waited for.
#[expect(unsafe_code, reason = "getrusage has no safe wrapper")]
pub(crate) fn children_cpu_time() -> io::Result<(u64, u64)> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the whole structure, for which all zeros are valid too.
    let usage = unsafe {
        check(libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()))?;
        usage.assume_init()
    };
    let micros = |time: libc::timeval| {
        let (secs, micros) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_usec));
        secs.unwrap_or(0) * 1_000_000 + micros.unwrap_or(0)
    };
    Ok((micros(usage.ru_utime), micros(usage.ru_stime)))
}

/// The kernel's `struct landlock_ruleset_attr`.
#[repr(C)]
struct Ruleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// Neither signals nor connections to abstract sockets leave the domain.
const SCOPED: u64 = 0b11;

/// Whether [`fence`] has an effect: Linux 6.12 or newer, with Landlock.
pub(crate) fn can_fence() -> bool {
    ruleset().is_ok_and(|ruleset| ruleset.is_some())
}

/// From here on this process and its descendants cannot signal any process but each other, nor trace one. All processes of
/// a container have the same user id, which otherwise would be enough to end the runner, and with it the container.
///
/// Without effect on a kernel that cannot do it.
#[expect(unsafe_code, reason = "Landlock has no safe wrapper")]
pub(crate) fn fence() -> io::Result<()> {
    let Some(ruleset) = ruleset()? else {
        return Ok(());
    };
    // SAFETY: both arguments are plain numbers. It takes effect without privileges because no_new_privs is set.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    check(result.try_into().unwrap_or(-1))
}

#[expect(unsafe_code, reason = "Landlock has no safe wrapper")]
fn ruleset() -> io::Result<Option<OwnedFd>> {
    let ruleset = Ruleset {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: SCOPED,
    };
    // SAFETY: the kernel reads the structure, whose size it is told, and answers with a new descriptor.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            size_of::<Ruleset>(),
            0,
        );
        match RawFd::try_from(fd) {
            Ok(fd @ 0..) => Ok(Some(OwnedFd::from_raw_fd(fd))),
            _ => match io::Error::last_os_error() {
                // No Landlock, or one without scopes.
                err if matches!(
                    err.raw_os_error(),
                    Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::E2BIG | libc::EINVAL)
                ) =>
                {
                    Ok(None)
                }
                err => Err(err),
            },
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
