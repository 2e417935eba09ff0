//! Frames that ask a next hop for its MAC address, and what an answer must look like: ARP (RFC 826) and neighbour
//! discovery (RFC 4861).

use ha_common::wire::{checksum, ethernet, ipv6};
use libc::{BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
use socket2::SockFilter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const TYPE_ARP: u16 = 0x0806;
const BROADCAST: [u8; 6] = [0xff; 6];
/// Ethernet, IPv4, and their address lengths.
const ARP_PREFIX: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_LEN: usize = 42;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const FLAG_SOLICITED: u8 = 0x40;
const OPTION_SOURCE_LINK_LAYER: u8 = 1;
/// Whoever receives neighbour discovery with another one must discard it (RFC 4861 section 7.1): it was routed.
const HOP_LIMIT: u8 = 255;
const IPV6_AT: usize = ethernet::HEADER_LEN;
const ICMP_AT: usize = IPV6_AT + ipv6::HEADER_LEN;
/// Type, code, checksum, flags and the target address.
const ADVERTISEMENT_LEN: usize = 24;
const SOLICITATION_LEN: usize = ADVERTISEMENT_LEN + 8;

/// Who asks whom: all that an answer is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Without an own address it is an ARP probe (RFC 5227), which hosts answer as well.
    Arp {
        mac: [u8; 6],
        own: Ipv4Addr,
        target: Ipv4Addr,
    },
    Nd {
        mac: [u8; 6],
        own: Ipv6Addr,
        target: Ipv6Addr,
    },
}

impl Question {
    /// From the interface's MAC and own addresses.
    ///
    /// # Errors
    /// In words, when the interface has no link-local address to ask an IPv6 target from.
    pub fn new(
        mac: [u8; 6],
        own_v4: Option<Ipv4Addr>,
        own_v6: Option<Ipv6Addr>,
        target: IpAddr,
    ) -> Result<Self, &'static str> {
        match target {
            IpAddr::V4(target) => Ok(Self::Arp { mac, own: own_v4.unwrap_or(Ipv4Addr::UNSPECIFIED), target }),
            IpAddr::V6(target) => {
                let own = own_v6.ok_or("the interface has no link-local address")?;
                Ok(Self::Nd { mac, own, target })
            }
        }
    }

    /// The frame to send.
    pub fn frame(&self) -> Vec<u8> {
        match *self {
            Self::Arp { mac, own, target } => {
                let mut frame = ethernet::emit(BROADCAST, mac, TYPE_ARP).to_vec();
                frame.extend(ARP_PREFIX);
                frame.extend([0, REQUEST]);
                frame.extend(mac);
                frame.extend(own.octets());
                frame.extend([0; 6]);
                frame.extend(target.octets());
                frame
            }
            Self::Nd { mac, own, target } => solicitation(mac, own, target),
        }
    }

    /// Is this frame the target's answer to this very node?
    pub fn is_answered_by(&self, frame: &[u8]) -> bool {
        match *self {
            Self::Arp { mac, own, target } => is_arp_reply(frame, mac, own, target),
            Self::Nd { own, target, .. } => is_advertisement(frame, own, target),
        }
    }

    /// The EtherType that answers have.
    pub fn ether_type(&self) -> u16 {
        match self {
            Self::Arp { .. } => TYPE_ARP,
            Self::Nd { .. } => ethernet::TYPE_IPV6,
        }
    }

    /// A classic BPF program (linux/filter.h) that keeps everything but answers of the kind out of the queue.
    pub fn filter(&self) -> Vec<SockFilter> {
        let load_byte = |at: usize| SockFilter::new((BPF_LD | BPF_B | BPF_ABS) as u16, 0, 0, at as u32);
        let load_half = |at: usize| SockFilter::new((BPF_LD | BPF_H | BPF_ABS) as u16, 0, 0, at as u32);
        // Goes on when equal, otherwise over `skip` instructions.
        let equal = |value: u32, skip: u8| SockFilter::new((BPF_JMP | BPF_JEQ | BPF_K) as u16, 0, skip, value);
        let answer = |value: u32| SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, value);
        match self {
            Self::Arp { .. } => vec![load_half(20), equal(u32::from(REPLY), 1), answer(u32::MAX), answer(0)],
            Self::Nd { .. } => vec![
                load_byte(IPV6_AT + 6),
                equal(u32::from(ICMPV6), 3),
                load_byte(ICMP_AT),
                equal(u32::from(ADVERTISEMENT), 1),
                answer(u32::MAX),
                answer(0),
            ],
        }
    }
}

fn is_arp_reply(frame: &[u8], mac: [u8; 6], own: Ipv4Addr, target: Ipv4Addr) -> bool {
    let Some(frame) = frame.first_chunk::<ARP_LEN>() else { return false };
    let is_reply =
        frame[12..14] == TYPE_ARP.to_be_bytes() && frame[14..20] == ARP_PREFIX && frame[20..22] == [0, REPLY];
    // The answer is the target's, and for us: its target fields repeat the question's sender.
    is_reply && frame[28..32] == target.octets() && frame[32..38] == mac && frame[38..42] == own.octets()
}

fn is_advertisement(frame: &[u8], own: Ipv6Addr, target: Ipv6Addr) -> bool {
    let Some(frame) = frame.first_chunk::<{ ICMP_AT + ADVERTISEMENT_LEN }>() else { return false };
    let ip = &frame[IPV6_AT..ICMP_AT];
    let icmp = &frame[ICMP_AT..];
    let to_us = frame[12..14] == ethernet::TYPE_IPV6.to_be_bytes() && ip[24..40] == own.octets();
    let is_fresh = ip[6] == ICMPV6 && ip[7] == HOP_LIMIT;
    // Solicited: an advertisement that nobody asked for says nothing of the way from here to there.
    let solicited = icmp[0] == ADVERTISEMENT && icmp[1] == 0 && icmp[4] & FLAG_SOLICITED != 0;
    to_us && is_fresh && solicited && icmp[8..24] == target.octets()
}

fn solicitation(mac: [u8; 6], own: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let group = solicited_node_group(target);
    let header = ipv6::Repr {
        source: own,
        destination: group,
        hop_limit: HOP_LIMIT,
        next_header: ICMPV6,
        payload_len: SOLICITATION_LEN as u16,
    };
    let mut icmp = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(target.octets());
    icmp.extend([OPTION_SOURCE_LINK_LAYER, 1]);
    icmp.extend(mac);
    let sum = icmpv6_checksum(own, group, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet::emit(ethernet::multicast_v6(group), mac, ethernet::TYPE_IPV6).to_vec();
    frame.extend(header.emit());
    frame.extend(icmp);
    frame
}

/// ff02::1:ff and the low 24 bits (RFC 4291 section 2.7.1).
fn solicited_node_group(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from(b) << 8 | u16::from(c))
}

/// Over the pseudo header of RFC 8200 section 8.1 and the message with a zero checksum.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let mut summed = source.octets().to_vec();
    summed.extend(destination.octets());
    summed.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    summed.extend([0, 0, 0, ICMPV6]);
    summed.extend(message);
    checksum::compute(&summed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
    const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);
    const HOP: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 254);
    const OWN6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const HOP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0x12, 0x3456);

    fn arp() -> Question {
        Question::new(MAC, Some(OWN), None, HOP.into()).unwrap()
    }

    fn nd() -> Question {
        Question::new(MAC, Some(OWN), Some(OWN6), HOP6.into()).unwrap()
    }

    /// The reply that a next hop gives to [`arp`], written out by hand.
    fn arp_reply() -> Vec<u8> {
        let mut frame = MAC.to_vec();
        frame.extend([2, 0, 0, 0, 0, 0xfe, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 0xfe, 10, 77, 2, 254]);
        frame.extend(MAC);
        frame.extend([10, 77, 2, 1]);
        frame
    }

    /// A solicited advertisement with a link-layer option.
    fn advertisement() -> Vec<u8> {
        let mut frame = ethernet::emit(MAC, [2, 0, 0, 0, 0, 0xfe], ethernet::TYPE_IPV6).to_vec();
        frame.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
        frame.extend(HOP6.octets());
        frame.extend(OWN6.octets());
        frame.extend([136, 0, 0x12, 0x34, 0xe0, 0, 0, 0]);
        frame.extend(HOP6.octets());
        frame.extend([2, 1, 2, 0, 0, 0, 0, 0xfe]);
        frame
    }

    /// The ARP request byte for byte, and with an unspecified sender where the interface has no address.
    #[test]
    fn arp_request() {
        let hex = |frame: Vec<u8>| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let expected = "ffffffffffff02000000000a0806000108000604000102000000000a0a4d02010000000000000a4d02fe";
        assert_eq!(hex(arp().frame()), expected);
        let probe = Question::new(MAC, None, None, HOP.into()).unwrap();
        assert_eq!(hex(probe.frame()), expected.replace("0a4d0201", "00000000"));
    }

    /// The solicitation goes to the solicited-node group and its checksum, computed over all, comes out as valid.
    #[test]
    fn neighbour_solicitation() {
        let frame = nd().frame();
        assert_eq!(frame[0..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(frame[38..54], "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!((frame[20], frame[21], frame[54]), (58, 255, 135));
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(icmpv6_checksum(OWN6, solicited_node_group(HOP6), &frame[54..]), 0);
        assert!(Question::new(MAC, Some(OWN), None, HOP6.into()).is_err());
    }

    /// The right answer is taken, padded as Ethernet pads it; with any byte of what is compared changed, it is not.
    #[test]
    fn answers_are_matched_strictly() {
        let compared_arp = (12..22).chain(28..42);
        let compared_nd = (12..14).chain(20..22).chain(38..56).chain([58]).chain(62..78);
        let cases: [(Question, Vec<u8>, Vec<usize>); 2] =
            [(arp(), arp_reply(), compared_arp.collect()), (nd(), advertisement(), compared_nd.collect())];
        for (question, answer, compared) in cases {
            let mut padded = answer.clone();
            padded.resize(90, 0);
            assert!(question.is_answered_by(&answer) && question.is_answered_by(&padded));
            for at in compared {
                let mut other = answer.clone();
                other[at] ^= 0x41;
                assert!(!question.is_answered_by(&other), "byte {at} of {question:?}");
            }
            for length in 0..answer.len().min(78) {
                if length < ARP_LEN || matches!(question, Question::Nd { .. }) {
                    assert!(!question.is_answered_by(&answer[..length]), "{length} bytes");
                }
            }
            assert!(!question.is_answered_by(&question.frame()), "its own question");
        }
    }
}
