//! The resident runner: forks a supervisor for each connection.

use std::convert::Infallible;
use std::slice;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::DumpableBehavior;

use crate::supervise::supervise;
use crate::sys::{self, Fork};

/// Serves until no manager has been heard of for as long as `orphan`: then nobody meters or stops what runs here, and another
/// node may run it by now. The end of this process is the end of the container.
pub(crate) fn serve(orphan: Duration) -> anyhow::Result<Infallible> {
    // Tasks run under the same uid. They must not reach our descriptors through /proc, pidfd_getfd or ptrace.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context("failed to hide from tasks")?;
    // Not a subreaper: what a task leaves behind belongs to the container's init, which reaps it.
    sys::discard_children().context("failed to ignore the end of children")?;
    let patience = Timespec::try_from(orphan).context("failed to wait that long")?;
    loop {
        let stdin = std::io::stdin();
        let mut listener = PollFd::new(&stdin, PollFlags::IN);
        match poll(slice::from_mut(&mut listener), Some(&patience)) {
            Ok(0) => bail!("no manager for {} s", orphan.as_secs_f32()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(err) => return Err(err).context("failed to wait for a connection"),
        }
        let connection = match accept_with(std::io::stdin(), SocketFlags::CLOEXEC) {
            Ok(connection) => connection,
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(err) => return Err(err).context("failed to accept a connection"),
        };
        match sys::fork() {
            Ok(Fork::Parent) => {}
            Ok(Fork::Child) => {
                let result = sys::keep_children()
                    .context("failed to wait for children again")
                    .and_then(|()| supervise(&connection));
                if let Err(err) = &result {
                    eprintln!("error: {err:#}");
                }
                std::process::exit(i32::from(result.is_err()));
            }
            // The host sees its connection end.
            Err(err) => eprintln!("error: failed to fork a supervisor: {err}"),
        }
    }
}
