//! Either IP header of a frame, as far as the parsers above it need it.

use super::bytes::{Packet, word_bytes};
use super::ipv4::Payload;
use super::{ethernet, ipv4, ipv6};
use crate::reason::DropReason;
use core::net::IpAddr;

/// An address as words in memory order: an IPv4 address is the first two words, the rest is zero.
pub type AddressWords = [u16; 8];

/// The network header of a frame.
#[derive(Clone, Copy)]
pub enum Header<P: Packet> {
    V4(ipv4::Header<P>),
    V6(ipv6::Header<P>),
}

impl<P: Packet> Header<P> {
    /// The IP header of an Ethernet frame, behind VLAN tags if there are any; `None` when it has none.
    #[inline(always)]
    pub fn of_frame(frame: P) -> Option<Self> {
        Self::behind(frame, ethernet::payload(frame)?)
    }

    /// The same for who has found the network header already.
    #[inline(always)]
    pub fn behind(frame: P, payload: ethernet::Payload) -> Option<Self> {
        match payload.ether_type {
            ethernet::TYPE_IPV4 => Some(Self::V4(ipv4::Header::at(frame, payload.offset)?)),
            ethernet::TYPE_IPV6 => Some(Self::V6(ipv6::Header::at(frame, payload.offset)?)),
            _ => None,
        }
    }

    /// The IP header that a packet starts with (from a socket that delivers no Ethernet header).
    pub fn of_packet(packet: P) -> Option<Self> {
        match ipv4::Header::at(packet, 0) {
            Some(header) => Some(Self::V4(header)),
            None => Some(Self::V6(ipv6::Header::at(packet, 0)?)),
        }
    }

    /// The transport protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        match self {
            Self::V4(header) => header.protocol(),
            Self::V6(header) => header.next_header(),
        }
    }

    /// TTL or hop limit.
    #[inline(always)]
    pub fn hop_limit(&self) -> u8 {
        match self {
            Self::V4(header) => header.ttl(),
            Self::V6(header) => header.hop_limit(),
        }
    }

    /// An IPv4 fragment; an IPv6 fragment has another protocol number and is never asked.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        match self {
            Self::V4(header) => header.is_fragment(),
            Self::V6(_) => false,
        }
    }

    /// Where the transport header is.
    ///
    /// # Errors
    /// [`DropReason::IpLength`] or [`DropReason::Truncated`].
    #[inline(always)]
    pub fn payload(&self, packet: P) -> Result<Payload, DropReason> {
        match self {
            Self::V4(header) => header.payload(packet),
            Self::V6(header) => header.payload(packet),
        }
    }

    /// The IPv4 header checksum; IPv6 has none.
    #[inline(always)]
    pub fn checksum_is_valid(&self, packet: P) -> bool {
        match self {
            Self::V4(header) => header.checksum_is_valid(packet),
            Self::V6(_) => true,
        }
    }

    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        match self {
            Self::V4(_) => false,
            Self::V6(_) => true,
        }
    }

    #[inline(always)]
    pub fn source(&self) -> AddressWords {
        match self {
            Self::V4(header) => widen(header.source()),
            Self::V6(header) => header.source(),
        }
    }

    #[inline(always)]
    pub fn destination(&self) -> AddressWords {
        match self {
            Self::V4(header) => widen(header.destination()),
            Self::V6(header) => header.destination(),
        }
    }

    /// True when the source is the address of these words (of the same family).
    #[inline(always)]
    pub fn source_is(&self, address: &AddressWords) -> bool {
        match self {
            Self::V4(header) => same_v4(header.source(), address),
            Self::V6(header) => header.source() == *address,
        }
    }

    /// True when the destination is the address of these words (of the same family).
    #[inline(always)]
    pub fn destination_is(&self, address: &AddressWords) -> bool {
        match self {
            Self::V4(header) => same_v4(header.destination(), address),
            Self::V6(header) => header.destination() == *address,
        }
    }
}

/// The words of an address, for a BPF map or for a comparison.
pub fn address_words(address: IpAddr) -> AddressWords {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    core::array::from_fn(|i| u16::from_ne_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

/// The address of such words.
pub fn address(words: &AddressWords, is_v6: bool) -> IpAddr {
    let bytes: [u8; 16] = word_bytes(words);
    if is_v6 { IpAddr::from(bytes) } else { IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]) }
}

#[inline(always)]
fn widen(address: [u16; 2]) -> AddressWords {
    [address[0], address[1], 0, 0, 0, 0, 0, 0]
}

#[inline(always)]
fn same_v4(words: [u16; 2], address: &AddressWords) -> bool {
    words[0] == address[0] && words[1] == address[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words and address are two forms of the same thing, for both families.
    #[test]
    fn words_round_trip() {
        for text in ["10.77.0.209", "fe80::1234:5678:9abc:def0"] {
            let wanted: IpAddr = text.parse().unwrap();
            assert_eq!(address(&address_words(wanted), wanted.is_ipv6()), wanted);
        }
    }

    /// A frame that is neither IPv4 nor IPv6, or lies about it, has no IP header.
    #[test]
    fn other_frames_have_no_header() {
        let mut arp = vec![0; 60];
        arp[12..14].copy_from_slice(&0x0806u16.to_be_bytes());
        assert!(Header::of_frame(arp.as_slice()).is_none());
        arp[12..14].copy_from_slice(&ethernet::TYPE_IPV4.to_be_bytes());
        assert!(Header::of_frame(arp.as_slice()).is_none());
    }
}
