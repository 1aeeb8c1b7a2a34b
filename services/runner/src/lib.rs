//! What container-manager and the static `runner` binary say to each other.
//!
//! The binary has two lives. Outside, `runner launch PLAN` prepares the ground for a container and becomes the container
//! program ([`LaunchPlan`]). Inside, `runner serve` accepts connections on its standard input, a listening
//! `SOCK_SEQPACKET` socket of the host, and forks a *supervisor* for each:
//!
//! ```text
//! container-manager                         supervisor (inside, forked per connection)
//!        │ connect ─────────────────────────────► │
//!        │ ◄───────────── Hello (SCM_CREDENTIALS) │   the host reads its pid and places it in the task's cgroup
//!        │ Run + fds of log, exit record ───────► │   from here on everything is the task's own CPU time
//!        │ ◄───────────────────────────── Started │   the script's `exec` has succeeded
//!        │                                        │   … pumps the log, waits for the script …
//!        │ ◄────────────────────── Ended (record) │   after the record is in its file
//! ```
//!
//! A supervisor whose host is gone carries on to the exit record. A connection that ends before a request was only a
//! look whether the container lives.

pub mod layout;
mod plan;
mod protocol;
pub mod wire;

pub use plan::{LaunchPlan, WorkTmpfs};
pub use protocol::{Event, ExitRecord, LogBytes, Outcome, Request, Run, RunLimits, VERSION};
