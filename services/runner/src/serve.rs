//! The resident runner: forks a supervisor for each connection.

use std::convert::Infallible;

use anyhow::Context;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::DumpableBehavior;

use crate::supervise::supervise;
use crate::sys::{self, Fork};

pub(crate) fn serve() -> anyhow::Result<Infallible> {
    // Tasks run under the same uid. They must not reach our descriptors through /proc, pidfd_getfd or ptrace.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context("failed to hide from tasks")?;
    // Not a subreaper: what a task leaves behind belongs to the container's init, which reaps it.
    sys::discard_children().context("failed to ignore the end of children")?;
    loop {
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
