//! A NETLINK_ROUTE socket and the framing of its messages: what `vip` and `link` both stand on.

use netlink_packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{SockFilter, SockRef};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Larger than any datagram of the kernel: dumps are cut at 32 KiB.
const BUFFER_BYTES: usize = 64 * 1024;
/// Holds the acknowledgements of a batch of [`BATCH_MESSAGES_MAX`] (each is charged below 1 KiB) or an event burst.
const RECEIVE_BUFFER_BYTES: usize = 1024 * 1024;
/// How many acknowledged requests one `sendmsg` may carry so that no acknowledgement is lost.
pub const BATCH_MESSAGES_MAX: usize = 512;

/// `rtm_protocol` of our routes (`ip route` shows `proto 112`): CARP's own protocol number, unused in
/// /etc/iproute2/rt_protos.
pub const ROUTE_PROTOCOL: u8 = 112;

/// Length of a netlink message header (`struct nlmsghdr`).
const HEADER_LEN: usize = 16;

/// One message of a datagram, its payload not yet decoded.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

/// A NETLINK_ROUTE socket that never blocks.
pub struct RouteSocket {
    socket: Socket,
    buffer: Vec<u8>,
}

impl RouteSocket {
    /// Opens a socket subscribed to `groups` (bit mask of `RTMGRP_*`; zero for requests only).
    ///
    /// # Errors
    /// When the kernel refuses the socket or the subscription.
    pub fn open(groups: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, groups))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // An acknowledgement need not repeat the request: 36 bytes are enough.
        socket.set_cap_ack(true)?;
        // Beyond net.core.rmem_max this needs CAP_NET_ADMIN; without it the kernel's maximum must do.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES)?;
        }
        Ok(Self { socket, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Lets only messages into the queue for which the classic BPF program returns non-zero.
    ///
    /// # Errors
    /// When the kernel refuses the program.
    pub fn filter(&self, program: &[SockFilter]) -> io::Result<()> {
        SockRef::from(&self.socket).attach_filter(program)
    }

    /// Sends one datagram of complete messages; the kernel works it off before this returns.
    ///
    /// # Errors
    /// When the kernel does not take the datagram.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.socket, datagram, SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// Receives one datagram; `None` when nothing waits.
    ///
    /// # Errors
    /// `ENOBUFS` when the kernel dropped messages because the receive buffer was full, and whatever else it says.
    pub fn receive(&mut self) -> io::Result<Option<Messages<'_>>> {
        loop {
            match rustix::net::recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Ok(Some(Messages::new(self.buffer.get(..length).unwrap_or_default()))),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for RouteSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The messages of one datagram; ends at the first that contradicts its length.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Those of one datagram.
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let buffer = NetlinkBuffer::new_checked(self.rest).ok()?;
        let length = usize::try_from(buffer.length()).ok()?;
        let message = Message {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            payload: self.rest.get(HEADER_LEN..length)?,
        };
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes after a fixed header of `header_len` bytes, as type and value; ends at the first malformed one.
///
/// The walk is by hand so that one attribute that a newer kernel adds cannot make a whole message unreadable.
pub fn attributes(payload: &[u8], header_len: usize) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(payload.get(header_len..).unwrap_or_default()).map_while(Result::ok).map(value_of)
}

fn value_of(attribute: NlaBuffer<&[u8]>) -> (u16, &[u8]) {
    let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
    (kind, attribute.into_inner().get(4..length).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two messages in one datagram come out with their payloads; the padding between them is skipped.
    #[test]
    fn messages_are_split() {
        let mut datagram = vec![17, 0, 0, 0, 16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0xaa, 0, 0, 0];
        datagram.extend([18, 0, 0, 0, 20, 0, 2, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        let messages: Vec<_> = Messages::new(&datagram).map(|m| (m.kind, m.flags, m.sequence, m.payload)).collect();
        assert_eq!(messages, [(16, 0, 7, &[0xaa][..]), (20, 2, 8, &[1, 2][..])]);
    }

    /// Truncated datagrams of every length end the walk instead of reading past the end.
    #[test]
    fn truncation_ends_the_walk() {
        let whole = [20, 0, 0, 0, 16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        for length in 0..whole.len() {
            assert_eq!(Messages::new(&whole[..length]).count(), 0, "{length} bytes");
        }
        assert_eq!(Messages::new(&whole).count(), 1);
    }

    /// An attribute's value excludes its padding, and a lying length ends the walk.
    #[test]
    fn attributes_are_walked() {
        let payload = [0xff, 5, 0, 3, 0, b'x', 0, 0, 0, 6, 0, 1, 0, 9, 9, 0, 0, 200, 0, 1, 0];
        let found: Vec<_> = attributes(&payload, 1).collect();
        assert_eq!(found, [(3, &[b'x'][..]), (1, &[9, 9][..])]);
    }
}
