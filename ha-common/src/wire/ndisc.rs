//! Unsolicited neighbour advertisement for a virtual IPv6 address (RFC 4861 sections 4.4 and 7.2.6).

use core::net::Ipv6Addr;

/// Length of the whole Ethernet frame in bytes: Ethernet 14, IPv6 40, advertisement 24, link-layer option 8.
pub const UNSOLICITED_LEN: usize = 86;

const IPV6_AT: usize = 14;
const ICMP_AT: usize = IPV6_AT + 40;
const ICMP_LEN: usize = UNSOLICITED_LEN - ICMP_AT;
const NEXT_HEADER_ICMPV6: u8 = 58;
const TYPE_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const OPTION_TARGET_LINK_LAYER: u8 = 2;
const FLAG_ROUTER: u8 = 0x80;
const FLAG_OVERRIDE: u8 = 0x20;
/// All nodes on the link, and its Ethernet group (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// The frame that says "`address` is at `mac` now" to all nodes.
///
/// The override flag makes neighbours replace the old master's MAC. The router flag is set because a firewall
/// forwards: clearing it would make every host drop the address from its default router list (RFC 4861, 7.2.5).
pub fn unsolicited(mac: [u8; 6], address: Ipv6Addr) -> [u8; UNSOLICITED_LEN] {
    let mut frame = [0; UNSOLICITED_LEN];
    frame[0..6].copy_from_slice(&ALL_NODES_MAC);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);

    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&(ICMP_LEN as u16).to_be_bytes());
    frame[20] = NEXT_HEADER_ICMPV6;
    // Receivers discard neighbour discovery with any other hop limit (RFC 4861 section 7.1.2).
    frame[21] = 255;
    frame[22..38].copy_from_slice(&address.octets());
    frame[38..54].copy_from_slice(&ALL_NODES.octets());

    frame[54] = TYPE_NEIGHBOUR_ADVERTISEMENT;
    frame[58] = FLAG_ROUTER | FLAG_OVERRIDE;
    frame[62..78].copy_from_slice(&address.octets());
    // The option's length counts units of eight bytes.
    frame[78..80].copy_from_slice(&[OPTION_TARGET_LINK_LAYER, 1]);
    frame[80..86].copy_from_slice(&mac);

    let checksum = icmpv6_checksum(&frame);
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// The checksum over pseudo header and message (RFC 8200 section 8.1), the checksum field taken as it stands.
fn icmpv6_checksum(frame: &[u8; UNSOLICITED_LEN]) -> u16 {
    // The pseudo header: both addresses as they stand in the IPv6 header, then length and next header.
    let words = frame[22..].chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = words.sum::<u32>() + ICMP_LEN as u32 + u32::from(NEXT_HEADER_ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
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

    /// The checksum of this very frame was computed independently (Python, RFC 1071), and a correct
    /// message sums to zero with its checksum in place.
    #[test]
    fn checksum_is_right() {
        let frame = unsolicited(MAC, VIP);
        assert_eq!(icmpv6_checksum(&frame), 0);
        assert_eq!(frame[56..58], CHECKSUM);
    }

    const CHECKSUM: [u8; 2] = [0xd8, 0x01];
}
