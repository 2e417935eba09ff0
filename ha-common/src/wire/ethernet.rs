//! The Ethernet header (14 bytes) and the VLAN tags behind it.

use super::bytes::{Packet, Window};
use core::net::{Ipv4Addr, Ipv6Addr};

/// Length of the header without tags.
pub const HEADER_LEN: usize = 14;
/// EtherType of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;
/// Customer tag, IEEE 802.1Q.
const TYPE_VLAN: u16 = 0x8100;
/// Service tag, IEEE 802.1ad.
const TYPE_SERVICE_VLAN: u16 = 0x88a8;
/// A frame with more tags than this is somebody else's business.
const TAGS_MAX: usize = 2;

/// Where the network header starts and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    pub ether_type: u16,
    /// Bytes from the start of the frame.
    pub offset: usize,
}

/// Finds the network header behind at most two VLAN tags; `None` when the frame ends before it.
#[inline(always)]
pub fn payload<P: Packet>(frame: P) -> Option<Payload> {
    let mut payload = Payload { ether_type: frame.window::<HEADER_LEN>(0)?.be16(12), offset: HEADER_LEN };
    let mut tags = 0;
    while tags < TAGS_MAX && is_tag(payload.ether_type) {
        // Tag control information (2 bytes), then the type of what follows.
        payload.ether_type = frame.window::<4>(payload.offset)?.be16(2);
        payload.offset += 4;
        tags += 1;
    }
    Some(payload)
}

#[inline(always)]
fn is_tag(ether_type: u16) -> bool {
    ether_type == TYPE_VLAN || ether_type == TYPE_SERVICE_VLAN
}

/// The 14 bytes of an untagged header.
pub fn emit(destination: [u8; 6], source: [u8; 6], ether_type: u16) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[0..6].copy_from_slice(&destination);
    out[6..12].copy_from_slice(&source);
    out[12..14].copy_from_slice(&ether_type.to_be_bytes());
    out
}

/// The MAC address of an IPv4 group: 01:00:5e and the low 23 bits (RFC 1112 section 6.4).
pub fn multicast_v4(group: Ipv4Addr) -> [u8; 6] {
    let [_, b, c, d] = group.octets();
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
}

/// The MAC address of an IPv6 group: 33:33 and the low 32 bits (RFC 2464 section 7).
pub fn multicast_v6(group: Ipv6Addr) -> [u8; 6] {
    let o = group.octets();
    [0x33, 0x33, o[12], o[13], o[14], o[15]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(types: &[u16]) -> Vec<u8> {
        let mut bytes = vec![0xaa; 12];
        for (i, ether_type) in types.iter().enumerate() {
            if i > 0 {
                bytes.extend([0x20, 0x64]);
            }
            bytes.extend(ether_type.to_be_bytes());
        }
        bytes
    }

    /// None, one and two tags are skipped; behind a third the frame is reported as tagged, not as IP.
    #[test]
    fn tags_are_skipped() {
        let at = |types: &[u16]| payload(frame(types).as_slice()).map(|p| (p.ether_type, p.offset));
        assert_eq!(at(&[TYPE_IPV4]), Some((TYPE_IPV4, 14)));
        assert_eq!(at(&[TYPE_VLAN, TYPE_IPV4]), Some((TYPE_IPV4, 18)));
        assert_eq!(at(&[TYPE_SERVICE_VLAN, TYPE_VLAN, TYPE_IPV6]), Some((TYPE_IPV6, 22)));
        assert_eq!(at(&[TYPE_VLAN, TYPE_VLAN, TYPE_VLAN, TYPE_IPV4]), Some((TYPE_VLAN, 22)));
    }

    /// A frame that ends in its header or in a tag has no payload.
    #[test]
    fn truncated_headers_have_no_payload() {
        let tagged = frame(&[TYPE_SERVICE_VLAN, TYPE_VLAN, TYPE_IPV4]);
        for len in 0..tagged.len() {
            assert_eq!(payload(&tagged[..len]), None);
        }
    }

    /// Emit then parse finds the type; the group addresses are those of `carp-wire` section 1.
    #[test]
    fn emit_and_group_addresses() {
        let mac = multicast_v4(Ipv4Addr::new(239, 192, 1, 1));
        assert_eq!(mac, [0x01, 0x00, 0x5e, 0x40, 0x01, 0x01]);
        assert_eq!(multicast_v6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12)), [0x33, 0x33, 0, 0, 0, 0x12]);
        let bytes = emit(mac, [2; 6], TYPE_IPV6);
        assert_eq!(payload(bytes.as_slice()), Some(Payload { ether_type: TYPE_IPV6, offset: 14 }));
    }
}
