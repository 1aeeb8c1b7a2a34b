//! The script's process: how it starts, and what is waited for.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::{fs, slice};

use runner::{ExitRecord, Outcome, Run, layout};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, getrlimit, setrlimit};

use crate::log::CappedLog;
use crate::sys;

/// Makes the kernel choose the script before its supervisor, and before the host's services, when memory is short.
const OOM_SCORE_MAX: &str = "1000";
/// The usual limit: with more, programs that use `select` or close every possible descriptor do badly.
const OPEN_FILES: u64 = 1024;
const OPEN_FILES_MAX: u64 = 65_536;

pub(crate) struct Script {
    child: Child,
    /// Readable once the script's main process has ended.
    ended: OwnedFd,
    output: PipeReader,
}

impl Script {
    /// Starts the script of `run`; `Ok` once its `exec` has succeeded. It sees none of the `private` descriptors.
    pub(crate) fn spawn(run: &Run, private: &[BorrowedFd<'_>]) -> io::Result<Self> {
        let [program, args @ ..] = run.argv.as_slice() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program"));
        };
        let (output, input) = io::pipe()?;
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .envs(run.env.iter().map(|(name, value)| (name, value)))
            .current_dir(layout::scratch(Path::new("/"), run.slot))
            .stdin(Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input);
        let private: Vec<RawFd> = private.iter().map(AsRawFd::as_raw_fd).collect();
        sys::before_exec(&mut command, move || become_script(&private));
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { child, ended, output })
    }

    /// Copies the output until the script's main process has ended. Descendants that keep the pipe open are not waited
    /// for: what they write later is lost to them as a broken pipe.
    pub(crate) fn wait(mut self, log: fs::File, log_bytes_max: u64) -> anyhow::Result<ExitRecord> {
        let mut log = CappedLog::new(log, log_bytes_max);
        self.pump(&mut log)?;
        let status = self.child.wait()?;
        let log = log.finish();
        let (user_us, system_us) = sys::children_cpu_time()?;
        Ok(ExitRecord {
            outcome: outcome(status),
            user_us,
            system_us,
            log,
        })
    }

    fn pump(&mut self, log: &mut CappedLog) -> io::Result<()> {
        // The default capacity of a pipe.
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let mut ready = [
                PollFd::new(&self.output, PollFlags::IN),
                PollFd::new(&self.ended, PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| poll(&mut ready, None))?;
            let [output_ready, ended] = ready.map(|fd| !fd.revents().is_empty());
            if ended {
                return self.drain(log, &mut buffer);
            }
            if output_ready {
                match self.output.read(&mut buffer)? {
                    0 => {
                        // Nobody holds the pipe any more, so only the end is left to wait for.
                        let mut end = PollFd::new(&self.ended, PollFlags::IN);
                        rustix::io::retry_on_intr(|| poll(slice::from_mut(&mut end), None))?;
                        return Ok(());
                    }
                    read => log.write(&buffer[..read]),
                }
            }
        }
    }

    /// Copies what is in the pipe now, and not what a surviving descendant goes on writing.
    fn drain(&mut self, log: &mut CappedLog, buffer: &mut [u8]) -> io::Result<()> {
        let mut left = rustix::io::ioctl_fionread(self.output.as_fd())?;
        while left > 0 {
            let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let read = self.output.read(&mut buffer[..wanted])?;
            log.write(&buffer[..read]);
            left -= read as u64;
        }
        Ok(())
    }
}

fn outcome(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exited { code },
        (None, Some(signal)) => Outcome::Killed { signal },
        (None, None) => unreachable!("a process that was waited for has exited or was killed"),
    }
}

/// Runs in the child, just before `exec`.
fn become_script(private: &[RawFd]) -> io::Result<()> {
    rustix::process::setsid()?;
    // `exec` would close these as well, but from the next step on other tasks can look into this process.
    for &fd in private {
        sys::close(fd);
    }
    sys::close_on_exec_from(3)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_MAX)?;
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Nofile, OPEN_FILES, OPEN_FILES_MAX)?;
    sys::fence()
}

/// Sets the limit in force and the one up to which the script may raise it, within what this process may have.
fn limit(resource: Resource, current: u64, maximum: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let limit = Rlimit {
        current: Some(current.min(most)),
        maximum: Some(maximum.min(most)),
    };
    Ok(setrlimit(resource, limit)?)
}
