//! ICMP and ICMPv6 echo to one next hop.

use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;
const HEADER_LEN: usize = 8;
const MESSAGE_LEN: usize = HEADER_LEN + 8;
/// Longer than our own echo with an IPv4 header and options; whatever else is longer is cut and not ours.
const BUFFER_BYTES: usize = 256;
/// Messages looked at between two waits.
const MESSAGES_MAX: usize = 64;

/// One echo: all that its reply must repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    pub id: u16,
    pub sequence: u16,
    /// Random, so that a reply cannot be made without the request.
    pub nonce: u64,
}

/// A raw socket that is tied to an interface and connected to the target: the kernel delivers the target's messages
/// only.
pub struct EchoSocket {
    socket: Socket,
    target: IpAddr,
}

impl EchoSocket {
    /// # Errors
    /// When the kernel refuses a raw socket (CAP_NET_RAW), the interface is missing, or nothing routes to the target.
    pub fn open(interface: &str, ifindex: u32, target: IpAddr) -> io::Result<Self> {
        let (domain, protocol) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        let mut address = SocketAddr::new(target, 0);
        if let (SocketAddr::V6(v6), IpAddr::V6(target)) = (&mut address, target)
            && target.is_unicast_link_local()
        {
            v6.set_scope_id(ifindex);
        }
        socket.connect(&SockAddr::from(address))?;
        Ok(Self { socket, target })
    }

    /// # Errors
    /// When there is no route or no own address, or the interface is down.
    pub fn send(&self, echo: Echo) -> io::Result<()> {
        rustix::net::send(&self.socket, &request(self.target.is_ipv4(), echo), SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// Reads what has come; true when the reply to `echo` is among it.
    pub fn is_answered(&self, echo: Echo) -> bool {
        let mut buffer = [0; BUFFER_BYTES];
        let mut answered = false;
        for _ in 0..MESSAGES_MAX {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    answered |= is_reply(self.target, buffer.get(..length).unwrap_or_default(), echo);
                }
                Err(rustix::io::Errno::AGAIN) => break,
                // A router's "unreachable" is reported here once; the missing reply says the same.
                Err(_) => {}
            }
        }
        answered
    }
}

impl AsFd for EchoSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn request(is_v4: bool, echo: Echo) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    message[0] = if is_v4 { REQUEST_V4 } else { REQUEST_V6 };
    message[4..6].copy_from_slice(&echo.id.to_be_bytes());
    message[6..8].copy_from_slice(&echo.sequence.to_be_bytes());
    message[8..16].copy_from_slice(&echo.nonce.to_be_bytes());
    if is_v4 {
        // For ICMPv6 the kernel does it, since it knows the source address (RFC 3542 section 3.1).
        let checksum = ha_common::wire::checksum::compute(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    message
}

/// A raw IPv4 socket delivers the IP header, a raw IPv6 socket does not.
fn is_reply(target: IpAddr, received: &[u8], echo: Echo) -> bool {
    let (message, reply) = match target {
        IpAddr::V4(target) => {
            let header_len = received.first().map_or(0, |byte| usize::from(byte & 0x0f) * 4);
            if received.get(12..16) != Some(&target.octets()[..]) || header_len < 20 {
                return false;
            }
            (received.get(header_len..).unwrap_or_default(), REPLY_V4)
        }
        IpAddr::V6(_) => (received, REPLY_V6),
    };
    let expected = request(target.is_ipv4(), echo);
    message.len() == MESSAGE_LEN && message[..2] == [reply, 0] && message[4..] == expected[4..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const TARGET: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
    const ECHO: Echo = Echo { id: 0x1234, sequence: 7, nonce: 0x0102_0304_0506_0708 };

    fn reply_v4(header_words: u8) -> Vec<u8> {
        let mut packet = vec![0; usize::from(header_words) * 4];
        packet[0] = 0x40 | header_words;
        packet[12..16].copy_from_slice(&TARGET.octets());
        let mut message = request(true, ECHO);
        message[0] = REPLY_V4;
        packet.extend(message);
        packet
    }

    /// The request's fields are in place and its checksum is valid; for IPv6 the kernel fills it in.
    #[test]
    fn requests() {
        let v4 = request(true, ECHO);
        assert_eq!((v4[0], v4[1]), (8, 0));
        assert_eq!(v4[4..], [0x12, 0x34, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(ha_common::wire::checksum::compute(&v4), 0);
        assert_eq!(request(false, ECHO)[..4], [128, 0, 0, 0]);
    }

    /// The reply to the last echo is taken, also behind IP options; with another source, id, sequence or nonce, or cut,
    /// it is not.
    #[test]
    fn replies_are_matched_strictly() {
        let is_ours = |packet: &[u8]| is_reply(TARGET.into(), packet, ECHO);
        assert!(is_ours(&reply_v4(5)) && is_ours(&reply_v4(15)));
        let right = reply_v4(5);
        for at in (12..16).chain([20, 21]).chain(24..36) {
            let mut wrong = right.clone();
            wrong[at] ^= 0x10;
            assert!(!is_ours(&wrong), "byte {at}");
        }
        for length in 0..right.len() {
            assert!(!is_ours(&right[..length]), "{length} bytes");
        }
        let other = Echo { sequence: 8, ..ECHO };
        assert!(!is_reply(TARGET.into(), &right, other));
        let mut v6 = request(false, ECHO);
        let target6: IpAddr = "fd00::9".parse().unwrap();
        assert!(!is_reply(target6, &v6, ECHO), "the request itself");
        v6[0] = 129;
        assert!(is_reply(target6, &v6, ECHO));
    }
}
