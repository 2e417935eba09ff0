//! From a frame to a well-formed CARP advert, or to the name of what is wrong with it.
//!
//! The one parser for the XDP programs and for the socket path. It knows nothing of the configuration:
//! whether the VHID is one of ours is asked by the caller ([`DropReason::VhidUnknown`]).

use super::bytes::{Packet, Window};
use super::carp::{self, ADVERT_LEN, Advert, HEAD_LEN};
use super::ip::Header;
use super::{ethernet, ipv4, ipv6};
use crate::reason::DropReason;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TTL and hop limit of an advert: it never crosses a router (`carp-wire` section 6).
pub const HOP_LIMIT: u8 = 255;
/// "Low delay", as ucarp and OpenBSD send it; receivers must not insist on it.
const TOS: u8 = 0x10;
/// Length of an IPv4 advert with its IP header.
pub const IPV4_LEN: usize = ipv4::HEADER_LEN + ADVERT_LEN;
/// Length of an IPv6 advert with its IP header.
pub const IPV6_LEN: usize = ipv6::HEADER_LEN + ADVERT_LEN;

/// What a frame is.
#[derive(Clone, Copy)]
pub enum Verdict<P: Packet> {
    /// Not of protocol 112, or not IP at all: not ours to judge.
    Other,
    Advert(Heard<P>),
    Refused(Refusal),
}

/// A message of protocol 112 that is not a well-formed advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: DropReason,
    /// The VHID it claims, where the message is long enough to claim one.
    pub vhid: Option<u8>,
}

/// A well-formed advert in its frame.
#[derive(Clone, Copy)]
pub struct Heard<P: Packet> {
    pub ip: Header<P>,
    /// The 36 bytes.
    pub carp: P::Window<ADVERT_LEN>,
}

impl<P: Packet> Heard<P> {
    #[inline(always)]
    pub fn vhid(&self) -> u8 {
        self.carp.byte(1)
    }

    pub fn advert(&self) -> Advert {
        Advert::read(self.carp)
    }

    pub fn source(&self) -> IpAddr {
        super::ip::address(&self.ip.source(), self.ip.is_v6())
    }

    pub fn destination(&self) -> IpAddr {
        super::ip::address(&self.ip.destination(), self.ip.is_v6())
    }
}

/// Judges an Ethernet frame.
pub fn parse_frame<P: Packet>(frame: P) -> Verdict<P> {
    judge(frame, Header::of_frame(frame))
}

/// Judges an IP packet without Ethernet header.
pub fn parse_packet<P: Packet>(packet: P) -> Verdict<P> {
    judge(packet, Header::of_packet(packet))
}

fn judge<P: Packet>(packet: P, ip: Option<Header<P>>) -> Verdict<P> {
    match ip {
        Some(ip) if ip.protocol() == carp::PROTOCOL => match inspect(packet, ip) {
            Ok(heard) => Verdict::Advert(heard),
            Err(refusal) => Verdict::Refused(refusal),
        },
        Some(_) | None => Verdict::Other,
    }
}

/// Checks a message of protocol 112, in the order lengths, IP checksum, VRRP, hop limit, CARP.
///
/// # Errors
/// The first check that fails.
#[inline(always)]
pub fn inspect<P: Packet>(packet: P, ip: Header<P>) -> Result<Heard<P>, Refusal> {
    let nameless = |reason| Refusal { reason, vhid: None };
    let payload = ip.payload(packet).map_err(nameless)?;
    if ip.is_fragment() {
        return Err(nameless(DropReason::Fragment));
    }
    if payload.len < HEAD_LEN {
        return Err(nameless(DropReason::CarpLength));
    }
    let Some(head) = packet.window::<HEAD_LEN>(payload.offset) else {
        return Err(nameless(DropReason::Truncated));
    };
    let refuse = |reason| Refusal { reason, vhid: Some(head.byte(1)) };
    if !ip.checksum_is_valid(packet) {
        return Err(refuse(DropReason::IpChecksum));
    }
    let whole = if payload.len == ADVERT_LEN { packet.window::<ADVERT_LEN>(payload.offset) } else { None };
    if has_vrrp_shape(head, payload.len, ip.is_v6()) && !is_forged_version(whole) {
        return Err(refuse(DropReason::Vrrp));
    }
    if ip.hop_limit() != HOP_LIMIT {
        return Err(refuse(DropReason::TtlNot255));
    }
    carp::check_kind(head).map_err(refuse)?;
    let Some(carp) = whole else { return Err(refuse(DropReason::CarpLength)) };
    carp::check(carp).map_err(refuse)?;
    Ok(Heard { ip, carp })
}

/// Length and address count agree as they do in VRRP, and never in CARP (`carp-wire` section 13).
#[inline(always)]
fn has_vrrp_shape<W: Window>(head: W, payload_len: usize, is_v6: bool) -> bool {
    let addresses = usize::from(head.byte(3));
    let (first, fixed, each) = match (head.byte(0), is_v6) {
        // RFC 3768 section 5.1: eight bytes of authentication data end the message.
        (0x21, false) => (0x21, HEAD_LEN + 8, 4),
        (_, false) => (0x31, HEAD_LEN, 4),
        (_, true) => (0x31, HEAD_LEN, 16),
    };
    head.byte(0) == first && addresses > 0 && payload_len == fixed + each * addresses
}

/// A VRRPv3 message with seven addresses has an advert's length and `authlen`, but its checksum covers a
/// pseudo header: 0x31 with a right CARP checksum is an advert of another version.
#[inline(always)]
fn is_forged_version<W: Window>(whole: Option<W>) -> bool {
    match whole {
        Some(whole) => whole.byte(0) == 0x31 && carp::checksum_is_valid(whole),
        None => false,
    }
}

/// An advert with its IPv4 header, exactly as ucarp sends it (`carp-wire` section 1).
pub fn emit_ipv4(source: Ipv4Addr, destination: Ipv4Addr, identification: u16, advert: &Advert) -> [u8; IPV4_LEN] {
    let mut out = [0; IPV4_LEN];
    let header = ipv4::Repr {
        source,
        destination,
        identification,
        tos: TOS,
        ttl: HOP_LIMIT,
        protocol: carp::PROTOCOL,
        payload_len: ADVERT_LEN as u16,
    };
    out[..ipv4::HEADER_LEN].copy_from_slice(&header.emit());
    out[ipv4::HEADER_LEN..].copy_from_slice(&advert.emit());
    out
}

/// An advert with its IPv6 header (`carp-wire` section 11: same 36 bytes, checksum still without pseudo header).
pub fn emit_ipv6(source: Ipv6Addr, destination: Ipv6Addr, advert: &Advert) -> [u8; IPV6_LEN] {
    let mut out = [0; IPV6_LEN];
    let header = ipv6::Repr {
        source,
        destination,
        hop_limit: HOP_LIMIT,
        next_header: carp::PROTOCOL,
        payload_len: ADVERT_LEN as u16,
    };
    out[..ipv6::HEADER_LEN].copy_from_slice(&header.emit());
    out[ipv6::HEADER_LEN..].copy_from_slice(&advert.emit());
    out
}

/// A whole Ethernet frame, at most 90 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: [u8; ethernet::HEADER_LEN + IPV6_LEN],
    len: usize,
}

impl Frame {
    /// An IPv4 advert to a group: 70 bytes, its Ethernet destination is the group's (`carp-wire` section 1).
    pub fn multicast_v4(source_mac: [u8; 6], source: Ipv4Addr, group: Ipv4Addr, id: u16, advert: &Advert) -> Self {
        let header = ethernet::emit(ethernet::multicast_v4(group), source_mac, ethernet::TYPE_IPV4);
        Self::join(header, &emit_ipv4(source, group, id, advert))
    }

    /// An IPv6 advert to a group: 90 bytes.
    pub fn multicast_v6(source_mac: [u8; 6], source: Ipv6Addr, group: Ipv6Addr, advert: &Advert) -> Self {
        let header = ethernet::emit(ethernet::multicast_v6(group), source_mac, ethernet::TYPE_IPV6);
        Self::join(header, &emit_ipv6(source, group, advert))
    }

    /// The frame as it goes to the interface.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn join(header: [u8; ethernet::HEADER_LEN], packet: &[u8]) -> Self {
        let mut bytes = [0; ethernet::HEADER_LEN + IPV6_LEN];
        let len = ethernet::HEADER_LEN + packet.len();
        bytes[..ethernet::HEADER_LEN].copy_from_slice(&header);
        bytes[ethernet::HEADER_LEN..len].copy_from_slice(packet);
        Self { bytes, len }
    }
}

#[cfg(test)]
mod tests;
