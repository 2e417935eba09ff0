//! The IPv4 header (RFC 791); options are honoured through the header length.

use super::bytes::{Packet, Window};
use super::checksum;
use crate::reason::DropReason;
use core::net::Ipv4Addr;

/// Length of a header without options.
pub const HEADER_LEN: usize = 20;
/// Longest options there can be, in 32-bit words.
const OPTION_WORDS_MAX: usize = 10;
/// "More fragments" and the 13 bits of the fragment offset.
const FRAGMENT_MASK: u16 = 0x3fff;

/// A header whose first 20 bytes are there; nothing else is checked yet.
#[derive(Clone, Copy)]
pub struct Header<P: Packet> {
    fixed: P::Window<HEADER_LEN>,
    /// Bytes from the start of the packet to the header.
    offset: usize,
}

/// Where the transport header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    pub offset: usize,
    pub len: usize,
}

impl<P: Packet> Header<P> {
    /// The header at `offset`; `None` when 20 bytes are not there or the version is not 4.
    #[inline(always)]
    pub fn at(packet: P, offset: usize) -> Option<Self> {
        let fixed = packet.window::<HEADER_LEN>(offset)?;
        if fixed.byte(0) >> 4 != 4 {
            return None;
        }
        Some(Self { fixed, offset })
    }

    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.fixed.byte(9)
    }

    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        self.fixed.byte(8)
    }

    /// One of several fragments, be it the first.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fixed.be16(6) & FRAGMENT_MASK != 0
    }

    /// The source address as two words in memory order.
    #[inline(always)]
    pub fn source(&self) -> [u16; 2] {
        self.fixed.words(12)
    }

    /// The destination address as two words in memory order.
    #[inline(always)]
    pub fn destination(&self) -> [u16; 2] {
        self.fixed.words(16)
    }

    /// The payload by the header's own lengths.
    ///
    /// # Errors
    /// [`DropReason::IpLength`] when the lengths contradict each other, [`DropReason::Truncated`] when the packet ends before.
    #[inline(always)]
    pub fn payload(&self, packet: P) -> Result<Payload, DropReason> {
        let header_len = self.len();
        let total_len = usize::from(self.fixed.be16(2));
        if header_len < HEADER_LEN || total_len < header_len {
            return Err(DropReason::IpLength);
        }
        if self.offset + total_len > packet.bytes() {
            return Err(DropReason::Truncated);
        }
        Ok(Payload { offset: self.offset + header_len, len: total_len - header_len })
    }

    /// The header checksum, options included; false as well when the options are not there.
    #[inline(always)]
    pub fn checksum_is_valid(&self, packet: P) -> bool {
        let mut total = checksum::sum(self.fixed, 0, HEADER_LEN);
        let header_len = self.len();
        if header_len > HEADER_LEN {
            let mut word = 0;
            while word < OPTION_WORDS_MAX && HEADER_LEN + 4 * word < header_len {
                let Some(option) = packet.window::<4>(self.offset + HEADER_LEN + 4 * word) else { return false };
                total += checksum::sum(option, 0, 4);
                word += 1;
            }
        }
        checksum::is_valid(total)
    }

    #[inline(always)]
    fn len(&self) -> usize {
        usize::from(self.fixed.byte(0) & 0x0f) * 4
    }
}

/// What differs between the headers that this daemon sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub identification: u16,
    pub tos: u8,
    pub ttl: u8,
    pub protocol: u8,
    /// Bytes after the header.
    pub payload_len: u16,
}

impl Repr {
    /// The 20 bytes with "don't fragment" and the checksum; a payload over 65515 bytes saturates the length.
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = 0x45;
        out[1] = self.tos;
        out[2..4].copy_from_slice(&self.payload_len.saturating_add(HEADER_LEN as u16).to_be_bytes());
        out[4..6].copy_from_slice(&self.identification.to_be_bytes());
        out[6] = 0x40;
        out[8] = self.ttl;
        out[9] = self.protocol;
        out[12..16].copy_from_slice(&self.source.octets());
        out[16..20].copy_from_slice(&self.destination.octets());
        let checksum = checksum::compute(&out);
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPR: Repr = Repr {
        source: Ipv4Addr::new(10, 77, 0, 209),
        destination: Ipv4Addr::new(224, 0, 0, 18),
        identification: 0xc0c2,
        tos: 0x10,
        ttl: 255,
        protocol: 112,
        payload_len: 4,
    };

    fn packet() -> Vec<u8> {
        let mut bytes = REPR.emit().to_vec();
        bytes.extend([1, 2, 3, 4]);
        bytes
    }

    fn payload_of(bytes: &[u8]) -> Result<Payload, DropReason> {
        Header::at(bytes, 0).unwrap().payload(bytes)
    }

    /// Emit then parse gives the same fields, and the checksum holds.
    #[test]
    fn round_trip() {
        let bytes = packet();
        let header = Header::at(bytes.as_slice(), 0).unwrap();
        assert_eq!((header.protocol(), header.ttl(), header.is_fragment()), (112, 255, false));
        assert!(header.checksum_is_valid(&bytes));
        assert_eq!(header.payload(&bytes), Ok(Payload { offset: 20, len: 4 }));
    }

    /// Lengths that contradict each other or the packet have their own reasons.
    #[test]
    fn lengths_are_checked() {
        let mut bytes = packet();
        assert_eq!(payload_of(&bytes[..23]), Err(DropReason::Truncated));
        bytes[0] = 0x44;
        assert_eq!(payload_of(&bytes), Err(DropReason::IpLength));
        bytes[0] = 0x4f;
        assert_eq!(payload_of(&bytes), Err(DropReason::IpLength));
    }

    /// Options move the payload and are part of the checksum.
    #[test]
    fn options_are_honoured() {
        let mut bytes = packet();
        bytes.splice(20..20, [0x94, 0x04, 0x00, 0x00]);
        bytes[0] = 0x46;
        bytes[3] += 4;
        bytes[10..12].fill(0);
        let checksum = checksum::compute(&bytes[..24]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        let header = Header::at(bytes.as_slice(), 0).unwrap();
        assert_eq!(header.payload(&bytes), Ok(Payload { offset: 24, len: 4 }));
        assert!(header.checksum_is_valid(&bytes));
        bytes[22] ^= 1;
        assert!(!Header::at(bytes.as_slice(), 0).unwrap().checksum_is_valid(&bytes));
    }

    /// A short packet or another version is no IPv4 header; both fragment forms are recognised.
    #[test]
    fn not_ipv4_and_fragments() {
        let mut bytes = packet();
        assert!(Header::at(&bytes[..19], 0).is_none());
        bytes[6] = 0x20;
        assert!(Header::at(bytes.as_slice(), 0).unwrap().is_fragment());
        bytes[6..8].copy_from_slice(&[0, 1]);
        assert!(Header::at(bytes.as_slice(), 0).unwrap().is_fragment());
        bytes[0] = 0x65;
        assert!(Header::at(bytes.as_slice(), 0).is_none());
    }
}
