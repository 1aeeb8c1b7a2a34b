//! The host's end of a connection to a container's runner.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use runner::{Event, Request, VERSION, wire};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with, sockopt};
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::ContainerError;

/// The socket in a container's folder. Only root gets through the folder, so only root can ask for a run.
const SOCKET: &str = "runner.sock";
/// Connections wait here until the runner is up, which makes the first one the sign that it is.
const BACKLOG: i32 = 1024;

/// Makes the socket on which the runner will accept.
pub(super) fn listen(folder: &Path) -> io::Result<OwnedFd> {
    let (_folder, address) = address(folder)?;
    let listener = socket(SocketFlags::CLOEXEC)?;
    rustix::net::bind(&listener, &address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// An address that is short enough for a socket however deep `folder` is. Valid while the descriptor is open.
fn address(folder: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let folder = rustix::fs::open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let path = PathBuf::from(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&folder)
    ))
    .join(SOCKET);
    Ok((folder, SocketAddrUnix::new(path)?))
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// A connection before its greeting.
pub(super) struct Dialled(AsyncFd<OwnedFd>);

impl Dialled {
    /// Connects, whether the runner is up yet or not. `Err(Ended)`: nobody listens any more.
    pub(super) fn dial(folder: &Path) -> Result<Self, ContainerError> {
        let dial = || {
            let (_folder, address) = address(folder)?;
            let socket = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
            // Before connecting, or the greeting could arrive without its sender's pid.
            sockopt::set_socket_passcred(&socket, true)?;
            rustix::net::connect(&socket, &address)?;
            watched(socket)
        };
        dial().map(Self).map_err(|err| match err.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ContainerError::Ended,
            _ => ContainerError::Connection { err },
        })
    }

    /// The pid of the container's launcher, which listens last of those who hold the socket.
    pub(super) fn launcher(&self) -> io::Result<Pid> {
        Ok(sockopt::socket_peercred(&self.0)?.pid)
    }

    pub(super) async fn greeted(self) -> Result<Connection, ContainerError> {
        let received = receive(&self.0).await?.ok_or(ContainerError::Ended)?;
        match (received.message, received.sender) {
            (Event::Hello { version: VERSION }, Some(sender)) => Ok(Connection {
                socket: self.0,
                supervisor: sender.pid,
            }),
            (Event::Hello { version }, _) if version != VERSION => Err(ContainerError::OtherVersion {
                found: version,
                expected: VERSION,
            }),
            (event, _) => Err(ContainerError::Protocol {
                said: format!("`{event}` as a greeting"),
            }),
        }
    }
}

pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    /// The process that serves this connection, by its pid on the host.
    pub(super) supervisor: Pid,
}

impl Connection {
    pub(super) async fn open(folder: &Path) -> Result<Self, ContainerError> {
        Dialled::dial(folder)?.greeted().await
    }

    pub(super) async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ContainerError> {
        self.socket
            .async_io(Interest::WRITABLE, |socket| wire::send(socket, request, fds))
            .await
            .map_err(|err| match err.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ContainerError::Ended,
                _ => ContainerError::Connection { err },
            })
    }

    /// `None`: the supervisor has ended. May be given up and called again: a message is taken as a whole or not at all.
    pub(super) async fn receive(&self) -> Result<Option<wire::Received<Event>>, ContainerError> {
        receive(&self.socket).await
    }
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> Result<Option<wire::Received<Event>>, ContainerError> {
    socket
        .async_io(Interest::READABLE, |socket| wire::receive(socket.as_fd()))
        .await
        .map_err(|err| ContainerError::Connection { err })
}

/// Lets tokio tell when `fd` is ready.
#[expect(
    unsafe_code,
    reason = "tokio's safe way is deprecated, for the sake of types less firm than OwnedFd"
)]
pub(super) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
