//! The peers on the sync link: sealed datagrams in and out of one UDP socket.
//!
//! Nothing here is fatal. A missing interface or address is tried again, a failed send is counted, and the
//! sync engine repairs what was lost.

mod interface;

use crate::recv_batch::RecvBatch;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// Largest datagram sent or received: that of a jumbo frame. What is longer arrives truncated, and is refused.
pub const DATAGRAM_BYTES_MAX: usize = 9000 - IPV4_UDP_BYTES;
const IPV4_UDP_BYTES: usize = 20 + 8;
const IPV6_UDP_BYTES: usize = 40 + 8;
/// The MTU assumed while the interface does not exist, that of Ethernet.
const DEFAULT_MTU: usize = 1500;
/// Smallest datagram worth sending, whatever the interface says: 1280, the least MTU of IPv6, minus headers.
const DATAGRAM_BYTES_MIN: usize = 1280 - IPV6_UDP_BYTES;
/// A bulk transfer in flight, and what comes while the loop is busy.
const BUFFER_BYTES: usize = 4 << 20;
/// Most datagrams per `sendmmsg`.
const SEND_BATCH: usize = 64;

/// Why the socket could not be made; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("the sync interface {interface} does not exist: {source}")]
    Interface { interface: String, source: io::Error },
    #[error("cannot open a UDP socket: {0}")]
    Open(io::Error),
    #[error("cannot bind the sync socket to {address}: {source} (is the address on the sync interface, and free?)")]
    Bind { address: SocketAddr, source: io::Error },
}

/// What went in and out, ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSocketStats {
    /// Datagrams whose source is not a configured peer: dropped.
    pub strangers: u64,
    /// Datagrams longer than [`DATAGRAM_BYTES_MAX`]: dropped.
    pub oversized: u64,
    /// Datagrams not sent and reads that failed, by errno (ENOTCONN: the socket was not open).
    pub errors: BTreeMap<i32, u64>,
}

/// The sync socket.
pub struct PeerSocket {
    interface: String,
    local: SocketAddr,
    peers: Vec<SocketAddr>,
    open: Option<Open>,
    batch: RecvBatch,
    stats: PeerSocketStats,
}

struct Open {
    socket: Socket,
    /// Of the interface when the socket was bound to it; a re-created interface has another one.
    interface_index: u32,
    /// Destinations by peer, with the scope that a link-local address needs.
    destinations: Vec<SocketAddrAny>,
}

impl PeerSocket {
    /// For datagrams between `local` on `interface` and exactly these peers; opens nothing yet.
    pub fn new(interface: &str, local: SocketAddr, peers: Vec<SocketAddr>) -> Self {
        Self {
            interface: interface.to_owned(),
            local,
            peers,
            open: None,
            batch: RecvBatch::new(DATAGRAM_BYTES_MAX),
            stats: PeerSocketStats::default(),
        }
    }

    /// The largest UDP payload that the interface carries in one packet, now.
    pub fn datagram_bytes_max(&self) -> usize {
        let mtu = interface::mtu(&self.interface).unwrap_or(DEFAULT_MTU);
        let headers = if self.local.is_ipv4() { IPV4_UDP_BYTES } else { IPV6_UDP_BYTES };
        mtu.saturating_sub(headers).clamp(DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_MAX)
    }

    /// Opens the socket if it is not open, and again if the interface was re-created. True when the socket is a
    /// new one, whose descriptor must be polled.
    ///
    /// # Errors
    /// Why it cannot be opened now.
    pub fn ensure_open(&mut self) -> Result<bool, PeerError> {
        let index = interface::index(&self.interface)
            .map_err(|source| PeerError::Interface { interface: self.interface.clone(), source });
        if self.open.as_ref().is_some_and(|open| !matches!(index, Ok(index) if index == open.interface_index)) {
            self.open = None;
        }
        if self.open.is_some() {
            return Ok(false);
        }
        let index = index?;
        let socket = self.bind(index)?;
        let destinations = self.peers.iter().map(|peer| SocketAddrAny::from(scoped(*peer, index))).collect();
        self.open = Some(Open { socket, interface_index: index, destinations });
        Ok(true)
    }

    /// The descriptor to poll for reading, while the socket is open.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.open.as_ref().map(|open| open.socket.as_fd())
    }

    /// Hands the peers' datagrams that wait to `sink`, at most one batch: what they cause, acknowledgements above
    /// all, must not wait for more. True when more may wait.
    pub fn read(&mut self, mut sink: impl FnMut(&[u8])) -> bool {
        let Some(open) = &self.open else { return false };
        let count = match self.batch.recv(&open.socket) {
            Ok(count) => count,
            Err(error) => {
                if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    count_error(&mut self.stats, &error);
                }
                return false;
            }
        };
        for datagram in self.batch.datagrams() {
            let known = datagram.source.is_some_and(|source| {
                self.peers.iter().any(|peer| peer.ip() == source.ip() && peer.port() == source.port())
            });
            if !known {
                self.stats.strangers += 1;
            } else if datagram.truncated {
                self.stats.oversized += 1;
            } else {
                sink(datagram.bytes);
            }
        }
        count == crate::recv_batch::BATCH_MAX
    }

    /// Sends datagrams in order, each to the peer of that position in the list given to [`PeerSocket::new`]. What
    /// cannot be sent now is counted and lost.
    pub fn send(&mut self, datagrams: &[(usize, Vec<u8>)]) {
        for batch in datagrams.chunks(SEND_BATCH) {
            let mut rest = batch;
            while !rest.is_empty() {
                let done = match self.send_batch(rest) {
                    Ok(sent) => sent.max(1),
                    // The error is the first datagram's; the next may go to another peer.
                    Err(error) => {
                        count_error(&mut self.stats, &error);
                        1
                    }
                };
                rest = rest.get(done..).unwrap_or_default();
            }
        }
    }

    pub fn stats(&self) -> &PeerSocketStats {
        &self.stats
    }

    fn send_batch(&self, batch: &[(usize, Vec<u8>)]) -> io::Result<usize> {
        let open = self.open.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))?;
        let slices: Vec<[IoSlice<'_>; 1]> = batch.iter().map(|(_, bytes)| [IoSlice::new(bytes)]).collect();
        let mut controls: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            batch.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<MMsgHdr<'_>> = batch
            .iter()
            .zip(&slices)
            .zip(&mut controls)
            .map_while(|(((peer, _), slice), control)| {
                Some(MMsgHdr::new_with_addr(open.destinations.get(*peer)?, slice, control))
            })
            .collect();
        if messages.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::EDESTADDRREQ));
        }
        Ok(rustix::net::sendmmsg(&open.socket, &mut messages, SendFlags::DONTWAIT)?)
    }

    fn bind(&self, index: u32) -> Result<Socket, PeerError> {
        let domain = Domain::for_address(self.local);
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP)).map_err(PeerError::Open)?;
        if self.local.is_ipv6() {
            socket.set_only_v6(true).map_err(PeerError::Open)?;
        }
        // Without the privilege, or on an interface that is in a VRF, routing must do.
        if let Err(error) = socket.bind_device(Some(self.interface.as_bytes())) {
            tracing::warn!(interface = %self.interface, %error, "the sync socket is not bound to its interface");
        }
        let (receive, send) = (BUFFER_BYTES, BUFFER_BYTES);
        if sockopt::set_socket_recv_buffer_size_force(&socket, receive).is_err() {
            let _ = socket.set_recv_buffer_size(receive);
        }
        if sockopt::set_socket_send_buffer_size_force(&socket, send).is_err() {
            let _ = socket.set_send_buffer_size(send);
        }
        let address = scoped(self.local, index);
        socket.bind(&address.into()).map_err(|source| PeerError::Bind { address, source })?;
        Ok(socket)
    }
}

fn count_error(stats: &mut PeerSocketStats, error: &io::Error) {
    *stats.errors.entry(error.raw_os_error().unwrap_or(0)).or_default() += 1;
}

/// The address with the interface that a link-local address needs to mean anything.
fn scoped(address: SocketAddr, interface_index: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(mut v6) if v6.ip().is_unicast_link_local() => {
            v6.set_scope_id(interface_index);
            SocketAddr::V6(v6)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Datagrams of a peer come through, those of anybody else and those that are too long are counted and
    /// dropped; what is sent reaches the right peer, beyond one batch, in order.
    #[test]
    fn talks_to_its_peers_only() {
        let (peer, stranger) = (UdpSocket::bind(loopback(0)).unwrap(), UdpSocket::bind(loopback(0)).unwrap());
        // A free port of this moment; two loopback sockets hold the others.
        let port = UdpSocket::bind(loopback(0)).unwrap().local_addr().unwrap().port();
        let mut socket = PeerSocket::new("lo", loopback(port), vec![loopback(1), peer.local_addr().unwrap()]);
        assert!(socket.ensure_open().unwrap());
        assert!(!socket.ensure_open().unwrap());
        stranger.send_to(b"forged", loopback(port)).unwrap();
        peer.send_to(&[0; DATAGRAM_BYTES_MAX + 1], loopback(port)).unwrap();
        peer.send_to(b"genuine", loopback(port)).unwrap();
        let mut received = Vec::new();
        socket.read(|bytes| received.push(bytes.to_vec()));
        assert_eq!(received, [b"genuine".to_vec()]);
        assert_eq!((socket.stats().strangers, socket.stats().oversized), (1, 1));

        let datagrams: Vec<_> = (0..100u8).map(|n| (1, vec![n])).collect();
        socket.send(&datagrams);
        for n in 0..100 {
            let mut buffer = [0; 2];
            assert_eq!(peer.recv(&mut buffer).unwrap(), 1);
            assert_eq!(buffer[0], n);
        }
        assert!(socket.stats().errors.is_empty());
    }

    /// A missing interface and a missing address are errors that name it, and sending meanwhile is counted.
    #[test]
    fn missing_interface_or_address_is_no_end() {
        let mut socket = PeerSocket::new("tw-none", loopback(0), vec![loopback(1)]);
        assert!(socket.ensure_open().unwrap_err().to_string().contains("tw-none"));
        assert!(socket.fd().is_none());
        socket.send(&[(0, vec![1]), (0, vec![2])]);
        assert_eq!(socket.stats().errors.values().sum::<u64>(), 2);
        let elsewhere = "192.0.2.1:3780".parse().unwrap();
        let error = PeerSocket::new("lo", elsewhere, Vec::new()).ensure_open().unwrap_err();
        assert!(error.to_string().contains("192.0.2.1:3780"), "{error}");
    }

    /// A datagram for a peer that does not exist is refused, not sent elsewhere, and the next one is sent.
    #[test]
    fn unknown_peer_is_skipped() {
        let peer = UdpSocket::bind(loopback(0)).unwrap();
        let port = UdpSocket::bind(loopback(0)).unwrap().local_addr().unwrap().port();
        let mut socket = PeerSocket::new("lo", loopback(port), vec![peer.local_addr().unwrap()]);
        socket.ensure_open().unwrap();
        socket.send(&[(7, vec![1]), (0, vec![2])]);
        let mut buffer = [0; 2];
        assert_eq!(peer.recv(&mut buffer).unwrap(), 1);
        assert_eq!(buffer[0], 2);
    }

    /// The payload limit follows the interface's MTU within bounds, and assumes Ethernet where there is none.
    #[test]
    fn payload_follows_the_mtu() {
        let v4 = loopback(1);
        assert_eq!(PeerSocket::new("lo", v4, Vec::new()).datagram_bytes_max(), DATAGRAM_BYTES_MAX);
        assert_eq!(PeerSocket::new("tw-none", v4, Vec::new()).datagram_bytes_max(), 1472);
        let v6 = "[2001:db8::1]:1".parse().unwrap();
        assert_eq!(PeerSocket::new("tw-none", v6, Vec::new()).datagram_bytes_max(), 1452);
    }
}
