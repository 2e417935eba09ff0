//! ICMP echo messages over raw sockets, enough for the lab's pings.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::Ipv4Addr;

/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;

/// An echo message taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo<'a> {
    pub kind: u8,
    pub identifier: u16,
    pub sequence: u16,
    pub payload: &'a [u8],
}

impl<'a> Echo<'a> {
    /// The message with its checksum.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind, 0, 0, 0];
        bytes.extend_from_slice(&self.identifier.to_be_bytes());
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(self.payload);
        let sum = checksum(&bytes);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Takes an IPv4 packet of a raw socket apart; `None` when it is no echo message.
    pub fn from_packet(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0xf) * 4;
        let message = packet.get(header..)?;
        let (kind, identifier) = (*message.first()?, message.get(4..6)?);
        let sequence = message.get(6..8)?;
        (kind == ECHO_REQUEST || kind == ECHO_REPLY).then_some(Self {
            kind,
            identifier: u16::from_be_bytes(identifier.try_into().ok()?),
            sequence: u16::from_be_bytes(sequence.try_into().ok()?),
            payload: message.get(8..)?,
        })
    }
}

/// The source address of an IPv4 packet.
pub fn source(packet: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

/// A raw, non-blocking ICMP socket of the calling thread's namespace.
///
/// # Errors
/// Without CAP_NET_RAW.
pub fn socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| (u32::from(pair[0]) << 8) | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message reads back as written behind an IPv4 header, and its bytes sum up to zero as RFC 1071 demands.
    #[test]
    fn echo_reads_back() {
        let echo = Echo { kind: ECHO_REQUEST, identifier: 0xbeef, sequence: 7, payload: b"abc" };
        let message = echo.bytes();
        assert_eq!(checksum(&message), 0);
        let mut packet = vec![0x45; 20];
        packet.extend_from_slice(&message);
        assert_eq!(Echo::from_packet(&packet), Some(echo));
        assert_eq!(Echo::from_packet(&packet[..24]), None);
    }
}
