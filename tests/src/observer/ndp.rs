//! Neighbour discovery: solicitations for an IPv6 address, and the advertisements that answer them (RFC 4861, 4.3 and 4.4).

use super::{Reply, number_of, numbered};
use std::net::Ipv6Addr;

/// EtherType of IPv6.
pub const ETHERTYPE: u16 = 0x86dd;
/// Ethernet and IPv6 header, solicitation, one option.
const FRAME: usize = 14 + 40 + 24 + 8;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// A multicast solicitation: who has `target`? Asked from a host with hardware address `source` in the name of `sender`.
pub fn request(source: [u8; 6], sender: Ipv6Addr, target: Ipv6Addr, number: u32) -> [u8; FRAME] {
    let [.., a, b, c] = target.octets();
    // The solicited-node group of the target (RFC 4291, 2.7.1).
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut frame = [0; FRAME];
    let fields: [(usize, &[u8]); 10] = [
        (0, &[0x33, 0x33, 0xff, a, b, c]),
        (6, &source),
        (12, &ETHERTYPE.to_be_bytes()),
        // Version 6; 32 bytes follow; ICMPv6; hop limit 255.
        (14, &[0x60, 0, 0, 0, 0, 32, ICMPV6, 255]),
        (22, &sender.octets()),
        (38, &group.octets()),
        (54, &[SOLICITATION]),
        (62, &target.octets()),
        // The source's hardware address: option 1, one unit of eight bytes.
        (78, &[1, 1]),
        (80, &numbered(number)),
    ];
    for (at, bytes) in fields {
        for (slot, byte) in frame.iter_mut().skip(at).zip(bytes) {
            *slot = *byte;
        }
    }
    let sum = checksum(&frame).to_be_bytes();
    frame[56..58].copy_from_slice(&sum);
    frame
}

/// The answer in a frame; `None` when it is none of ours for this address.
pub fn reply(frame: &[u8], vip: Ipv6Addr) -> Option<Reply> {
    let is_ipv6 = frame.get(12..14)? == ETHERTYPE.to_be_bytes() && *frame.get(20)? == ICMPV6;
    let is_answer = *frame.get(54)? == ADVERTISEMENT && frame.get(62..78)? == vip.octets();
    // The target's hardware address: option 2, one unit.
    let is_told = frame.get(78..80)? == [2, 1];
    let reply = Reply { mac: frame.get(80..86)?.try_into().ok()?, number: number_of(frame.get(..6)?)? };
    (is_ipv6 && is_answer && is_told).then_some(reply)
}

/// The checksum of the message with its pseudo header (RFC 8200, 8.1), over a frame whose checksum is zero.
fn checksum(frame: &[u8; FRAME]) -> u16 {
    let addressed = frame[22..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = addressed.sum::<u32>() + 32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x103, 0, 0, 0, 0, 0, 0x210);

    /// An advertisement to the solicitation's hardware address names it; solicitations, other addresses' answers and
    /// cut frames are not taken for answers. That the checksum is right a kernel shows, which answers.
    #[test]
    fn an_advertisement_names_its_solicitation() {
        let request = request([2; 6], "fd00:103::250".parse().unwrap(), VIP, 0xfeed);
        let mac = [2, 0x77, 0, 0, 1, 0];
        let mut answer = request;
        answer[..6].copy_from_slice(&request[80..86]);
        answer[54] = ADVERTISEMENT;
        answer[78] = 2;
        answer[80..86].copy_from_slice(&mac);
        assert_eq!(reply(&answer, VIP), Some(Reply { mac, number: 0xfeed }));
        assert_eq!(reply(&request, VIP), None);
        assert_eq!(reply(&answer, "fd00:103::211".parse().unwrap()), None);
        assert!((0..FRAME).all(|length| reply(&answer[..length], VIP).is_none()));
    }
}
