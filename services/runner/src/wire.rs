//! One JSON message per packet of a `SOCK_SEQPACKET` Unix socket, with descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, UCred, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Half of the kernel's usual socket buffer, in which a packet has to fit as a whole.
pub const MESSAGE_BYTES_MAX: usize = 96 * 1024;
/// No message carries more.
const FDS_MAX: usize = 2;

pub struct Received<T> {
    pub message: T,
    pub fds: Vec<OwnedFd>,
    /// Who sent it, in the receiver's own pid namespace; only where the receiver's socket has `SO_PASSCRED`.
    pub sender: Option<UCred>,
}

/// Sends `message` and duplicates of `fds`. Errors with `InvalidInput` if it is too long for a packet.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        let text = format!(
            "message of {} bytes, at most {MESSAGE_BYTES_MAX} fit",
            bytes.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors",
        ));
    }
    // Without NOSIGNAL a peer that is gone would be told by SIGPIPE.
    rustix::io::retry_on_intr(|| {
        sendmsg(
            &socket,
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Receives one message; `None` when the peer has closed the connection or died.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<Received<T>>> {
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    });
    let received = match received {
        Ok(received) => received,
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    let (mut fds, mut sender) = (Vec::new(), None);
    for part in ancillary.drain() {
        match part {
            RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
            RecvAncillaryMessage::ScmCredentials(credentials) => sender = Some(credentials),
            _ => {}
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
    }
    let message = serde_json::from_slice(&bytes[..received.bytes])?;
    Ok(Some(Received { message, fds, sender }))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (here, there) = pair();
        let (reader, writer) = std::io::pipe().unwrap();
        send(&here, &"hello", &[writer.as_fd()]).unwrap();
        drop(writer);

        let received = receive::<String>(&there).unwrap().unwrap();
        assert_eq!(received.message, "hello");
        let mut passed: Vec<File> = received.fds.into_iter().map(File::from).collect();
        io::Write::write_all(&mut passed[0], b"x").unwrap();
        drop(passed);
        let mut text = String::new();
        { reader }.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn the_receiver_learns_the_senders_pid() {
        let (here, there) = pair();
        rustix::net::sockopt::set_socket_passcred(&there, true).unwrap();
        send(&here, &1, &[]).unwrap();
        let sender = receive::<i32>(&there).unwrap().unwrap().sender.unwrap();
        assert_eq!(sender.pid, rustix::process::getpid());
    }

    #[test]
    fn the_largest_message_fits_and_a_larger_one_is_refused() {
        let (here, there) = pair();
        let text = "x".repeat(MESSAGE_BYTES_MAX - 2);
        send(&here, &text, &[]).unwrap();
        assert_eq!(receive::<String>(&there).unwrap().unwrap().message, text);
        let err = send(&here, &(text + "x"), &[]).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_closed_peer_is_an_end_and_not_an_error() {
        let (here, there) = pair();
        // Unread data on the other side turns the end into a reset.
        send(&there, &1, &[]).unwrap();
        drop(here);
        assert!(receive::<i32>(&there).unwrap().is_none());
    }
}
