//! The IPv6 header (RFC 8200). Extension headers are not walked: neither CARP nor the sync link uses them.

use super::bytes::{Packet, Window};
use super::ipv4::Payload;
use crate::reason::DropReason;
use core::net::Ipv6Addr;

/// Length of the fixed header.
pub const HEADER_LEN: usize = 40;

/// A header whose 40 bytes are there; nothing else is checked yet.
#[derive(Clone, Copy)]
pub struct Header<P: Packet> {
    fixed: P::Window<HEADER_LEN>,
    offset: usize,
}

impl<P: Packet> Header<P> {
    /// The header at `offset`; `None` when 40 bytes are not there or the version is not 6.
    #[inline(always)]
    pub fn at(packet: P, offset: usize) -> Option<Self> {
        let fixed = packet.window::<HEADER_LEN>(offset)?;
        if fixed.byte(0) >> 4 != 6 {
            return None;
        }
        Some(Self { fixed, offset })
    }

    #[inline(always)]
    pub fn next_header(&self) -> u8 {
        self.fixed.byte(6)
    }

    #[inline(always)]
    pub fn hop_limit(&self) -> u8 {
        self.fixed.byte(7)
    }

    /// The source address as eight words in memory order.
    #[inline(always)]
    pub fn source(&self) -> [u16; 8] {
        self.fixed.words(8)
    }

    /// The destination address as eight words in memory order.
    #[inline(always)]
    pub fn destination(&self) -> [u16; 8] {
        self.fixed.words(24)
    }

    /// Where the payload starts, in bytes from the start of the packet.
    #[inline(always)]
    pub fn payload_offset(&self) -> usize {
        self.offset + HEADER_LEN
    }

    /// The payload by the header's own length.
    ///
    /// # Errors
    /// [`DropReason::Truncated`] when the packet ends before.
    #[inline(always)]
    pub fn payload(&self, packet: P) -> Result<Payload, DropReason> {
        let len = usize::from(self.fixed.be16(4));
        let offset = self.payload_offset();
        if offset + len > packet.bytes() {
            return Err(DropReason::Truncated);
        }
        Ok(Payload { offset, len })
    }
}

/// What differs between the headers that this daemon sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub hop_limit: u8,
    pub next_header: u8,
    /// Bytes after the header.
    pub payload_len: u16,
}

impl Repr {
    /// The 40 bytes, traffic class and flow label zero.
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = 0x60;
        out[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        out[6] = self.next_header;
        out[7] = self.hop_limit;
        out[8..24].copy_from_slice(&self.source.octets());
        out[24..40].copy_from_slice(&self.destination.octets());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::bytes::word_bytes;

    const REPR: Repr = Repr {
        source: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        destination: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12),
        hop_limit: 255,
        next_header: 112,
        payload_len: 3,
    };

    /// Emit then parse gives the same fields.
    #[test]
    fn round_trip() {
        let mut bytes = REPR.emit().to_vec();
        bytes.extend([1, 2, 3]);
        let header = Header::at(bytes.as_slice(), 0).unwrap();
        assert_eq!((header.next_header(), header.hop_limit()), (112, 255));
        assert_eq!(word_bytes(&header.source()), REPR.source.octets());
        assert_eq!(word_bytes(&header.destination()), REPR.destination.octets());
        assert_eq!(header.payload(&bytes), Ok(Payload { offset: 40, len: 3 }));
    }

    /// A short packet is no header, a short payload is truncated, another version is no IPv6.
    #[test]
    fn refusals() {
        let mut bytes = REPR.emit().to_vec();
        assert!(Header::at(&bytes[..39], 0).is_none());
        assert_eq!(Header::at(bytes.as_slice(), 0).unwrap().payload(&bytes), Err(DropReason::Truncated));
        bytes[0] = 0x45;
        assert!(Header::at(bytes.as_slice(), 0).is_none());
    }
}
