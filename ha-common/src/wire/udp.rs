//! The UDP header (RFC 768), as far as the sync link needs it: the kernel's stack checks the checksum.

use super::bytes::{Packet, Window};
use super::ipv4::Payload;

/// Length of the header.
pub const HEADER_LEN: usize = 8;
/// IP protocol number.
pub const PROTOCOL: u8 = 17;

/// A header whose 8 bytes are there.
#[derive(Clone, Copy)]
pub struct Header<P: Packet> {
    fixed: P::Window<HEADER_LEN>,
    ip_payload: Payload,
}

impl<P: Packet> Header<P> {
    /// The header at the start of an IP payload; `None` when the payload ends before.
    #[inline(always)]
    pub fn at(packet: P, ip_payload: Payload) -> Option<Self> {
        if ip_payload.len < HEADER_LEN {
            return None;
        }
        Some(Self { fixed: packet.window::<HEADER_LEN>(ip_payload.offset)?, ip_payload })
    }

    #[inline(always)]
    pub fn destination_port(&self) -> u16 {
        self.fixed.be16(2)
    }

    /// The datagram's payload; `None` when the header's length contradicts the IP payload.
    #[inline(always)]
    pub fn payload(&self) -> Option<Payload> {
        let len = usize::from(self.fixed.be16(4));
        if len < HEADER_LEN || len > self.ip_payload.len {
            return None;
        }
        Some(Payload { offset: self.ip_payload.offset + HEADER_LEN, len: len - HEADER_LEN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATAGRAM: &[u8] = &[0x0e, 0xc4, 0x0e, 0xc5, 0, 10, 0, 0, 1, 2];

    fn header(len: usize) -> Option<Header<&'static [u8]>> {
        Header::at(DATAGRAM, Payload { offset: 0, len })
    }

    /// Port and payload of a whole datagram; bytes behind its own length do not belong to it.
    #[test]
    fn reads_port_and_payload() {
        assert_eq!(header(10).unwrap().destination_port(), 3781);
        assert_eq!(header(10).unwrap().payload(), Some(Payload { offset: 8, len: 2 }));
    }

    /// A payload too short for the header, or for the length that the header states, is refused.
    #[test]
    fn short_payloads_are_refused() {
        assert!(header(7).is_none());
        assert!(header(9).unwrap().payload().is_none());
    }
}
