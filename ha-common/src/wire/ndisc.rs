//! Neighbour discovery: the unsolicited advertisement for a virtual IPv6 address (RFC 4861 sections 4.4 and 7.2.6), and
//! whom a solicitation asks for (section 4.3).

use super::bytes::{Packet, Window};
use super::ip::AddressWords;
use super::{checksum, ethernet, ipv6};
use core::net::Ipv6Addr;

/// Length of the whole Ethernet frame in bytes: Ethernet 14, IPv6 40, advertisement 24, link-layer option 8.
pub const UNSOLICITED_LEN: usize = ICMP_AT + ICMP_LEN;

const ICMP_AT: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN;
const ICMP_LEN: usize = 32;
/// The pseudo header: both addresses, length and next header in four bytes each (RFC 8200 section 8.1).
const PSEUDO_LEN: usize = 40;
/// Next header of ICMPv6.
pub const NEXT_HEADER_ICMPV6: u8 = 58;
const TYPE_NEIGHBOUR_SOLICITATION: u8 = 135;
/// Type, code, checksum, reserved (4), target (16).
const SOLICITATION_LEN: usize = 24;
const TYPE_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const OPTION_TARGET_LINK_LAYER: u8 = 2;
const FLAG_ROUTER: u8 = 0x80;
const FLAG_OVERRIDE: u8 = 0x20;
/// Receivers discard neighbour discovery with any other hop limit (RFC 4861 section 7.1.2).
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The frame that says "`address` is at `mac` now" to all nodes.
///
/// The override flag makes neighbours replace the old master's MAC. The router flag is set because a firewall
/// forwards: clearing it would make every host drop the address from its default router list (RFC 4861, 7.2.5).
pub fn unsolicited(mac: [u8; 6], address: Ipv6Addr) -> [u8; UNSOLICITED_LEN] {
    let header = ipv6::Repr {
        source: address,
        destination: ALL_NODES,
        hop_limit: HOP_LIMIT,
        next_header: NEXT_HEADER_ICMPV6,
        payload_len: ICMP_LEN as u16,
    };
    let mut frame = [0; UNSOLICITED_LEN];
    frame[..ethernet::HEADER_LEN].copy_from_slice(&ethernet::emit(
        ethernet::multicast_v6(ALL_NODES),
        mac,
        ethernet::TYPE_IPV6,
    ));
    frame[ethernet::HEADER_LEN..ICMP_AT].copy_from_slice(&header.emit());
    frame[ICMP_AT..].copy_from_slice(&advertisement(mac, address));
    frame
}

/// The address that the ICMPv6 message behind `header` asks for; `None` when it is no valid neighbour solicitation.
///
/// The checksum is not looked at: a wrong one is refused further up, as is a solicitation behind an extension header.
#[inline(always)]
pub fn asked<P: Packet>(frame: P, header: &ipv6::Header<P>) -> Option<AddressWords> {
    if header.hop_limit() != HOP_LIMIT {
        return None;
    }
    let message = frame.window::<SOLICITATION_LEN>(header.payload_offset())?;
    if message.byte(0) == TYPE_NEIGHBOUR_SOLICITATION { Some(message.words(8)) } else { None }
}

fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> [u8; ICMP_LEN] {
    let mut message = [0; ICMP_LEN];
    message[0] = TYPE_NEIGHBOUR_ADVERTISEMENT;
    message[4] = FLAG_ROUTER | FLAG_OVERRIDE;
    message[8..24].copy_from_slice(&address.octets());
    // The option's length counts units of eight bytes.
    message[24..26].copy_from_slice(&[OPTION_TARGET_LINK_LAYER, 1]);
    message[26..32].copy_from_slice(&mac);
    let checksum = icmpv6_checksum(address, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

fn icmpv6_checksum(source: Ipv6Addr, message: &[u8; ICMP_LEN]) -> u16 {
    let mut summed = [0; PSEUDO_LEN + ICMP_LEN];
    summed[0..16].copy_from_slice(&source.octets());
    summed[16..32].copy_from_slice(&ALL_NODES.octets());
    summed[32..36].copy_from_slice(&(ICMP_LEN as u32).to_be_bytes());
    summed[39] = NEXT_HEADER_ICMPV6;
    summed[PSEUDO_LEN..].copy_from_slice(message);
    checksum::compute(&summed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
    const VIP: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0xd2);

    /// Every field stands where RFC 4861 and RFC 8200 put it; the expected bytes are written out by hand.
    #[test]
    fn fields_are_in_place() {
        let frame = unsolicited(MAC, VIP);
        assert_eq!(frame[0..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0x0a, 0x86, 0xdd]);
        assert_eq!(frame[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(frame[22..38], VIP.octets());
        assert_eq!(frame[38..54], ALL_NODES.octets());
        assert_eq!(frame[54..56], [136, 0]);
        assert_eq!(frame[58..62], [0xa0, 0, 0, 0]);
        assert_eq!(frame[62..78], VIP.octets());
        assert_eq!(frame[78..86], [2, 1, 2, 0, 0, 0, 0, 0x0a]);
    }

    /// A solicitation tells whom it asks for; another hop limit, another type and a cut message ask for nobody.
    #[test]
    fn who_is_asked_for() {
        let mut frame = unsolicited(MAC, VIP);
        let asked_in = |frame: &[u8]| asked(frame, &ipv6::Header::at(frame, ethernet::HEADER_LEN)?);
        assert_eq!(asked_in(&frame), None);
        frame[ICMP_AT] = 135;
        assert_eq!(asked_in(&frame), Some(super::super::ip::address_words(VIP.into())));
        assert_eq!(asked_in(&frame[..ICMP_AT + 23]), None);
        frame[21] = 254;
        assert_eq!(asked_in(&frame), None);
    }

    /// The checksum of this very frame was computed independently (in Python, after RFC 1071 and RFC 8200).
    #[test]
    fn checksum_is_right() {
        assert_eq!(unsolicited(MAC, VIP)[56..58], [0xd8, 0x01]);
    }
}
