//! What can go wrong between here and a running script.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("no `apptainer` {}", match .looked_for { Some(path) => format!("at `{}`", path.display()), None => "on PATH".to_owned() })]
    ToolMissing {
        looked_for: Option<PathBuf>,
        #[source]
        err: io::Error,
    },
    #[error("`{path}` is version {found}, and 1.4.5 is the first that can be trusted with strangers' tasks")]
    ToolTooOld { path: PathBuf, found: String },
    /// A command ended badly: its own last words tell why.
    #[error("{what}: {said}")]
    ToolFailed { what: String, said: String },
    #[error("{what} took longer than {} s", .limit.as_secs())]
    ToolTooSlow { what: String, limit: Duration },
    #[error("`{path}`")]
    Disk {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("failed to run the launcher `{path}`")]
    Launch {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    /// The container program or the launcher gave up.
    #[error("the container did not start: {said}")]
    NotStarted { said: String },
    #[error("the container did not answer within {} s", .limit.as_secs())]
    NoAnswer { limit: Duration },
    #[error("the container has ended")]
    Ended,
    #[error("the container's runner speaks version {found} of the protocol, not {expected}")]
    OtherVersion { found: u32, expected: u32 },
    #[error("the container's runner broke the protocol: {said}")]
    Protocol { said: String },
    #[error("failed to talk to the container")]
    Connection {
        #[source]
        err: io::Error,
    },
    #[error("failed to place the task in its cgroup")]
    Place {
        #[source]
        err: io::Error,
    },
    /// The slot has no results directory any more: its script removed or replaced it.
    #[error("the results directory cannot be opened: {said}")]
    NoResults { said: String },
}

impl ContainerError {
    /// Whether the same call may succeed later, perhaps with a new container.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Disk { .. }
            | Self::Launch { .. }
            | Self::NoAnswer { .. }
            | Self::Ended
            | Self::Protocol { .. }
            | Self::Connection { .. }
            | Self::Place { .. } => true,
            Self::ToolMissing { .. }
            | Self::ToolTooOld { .. }
            | Self::ToolFailed { .. }
            | Self::ToolTooSlow { .. }
            | Self::NotStarted { .. }
            | Self::OtherVersion { .. }
            | Self::NoResults { .. } => false,
        }
    }

    /// How to mend it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::ToolMissing { .. } | Self::ToolTooOld { .. } => {
                Some("run deployment/scripts/install-apptainer.sh, or set the path of another apptainer")
            }
            Self::Launch { err, .. } if err.kind() == io::ErrorKind::PermissionDenied => {
                Some("the state directory must be on a file system from which programs may run (no `noexec`)")
            }
            Self::NotStarted { .. } => Some("see whether the image runs: `apptainer exec IMAGE true`"),
            _ => None,
        }
    }
}
