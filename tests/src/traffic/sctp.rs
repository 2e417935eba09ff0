//! SCTP packets (RFC 9260), as far as a connection tracker looks at them: no kernel support is needed to send them.

/// Chunk types (RFC 9260 section 3.2).
pub const DATA: u8 = 0;
pub const INIT: u8 = 1;
pub const INIT_ACK: u8 = 2;
pub const COOKIE_ECHO: u8 = 10;
pub const COOKIE_ACK: u8 = 11;

const HEADER_BYTES: usize = 12;

/// A packet of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub ports: (u16, u16),
    /// The verification tag that the receiver has chosen; 0 with INIT.
    pub tag: u32,
    pub chunk: u8,
    pub value: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet with its checksum (RFC 9260 section 6.8).
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.ports.0.to_be_bytes());
        bytes.extend(self.ports.1.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.chunk, if self.chunk == DATA { 3 } else { 0 }]);
        bytes.extend(u16::try_from(self.value.len() + 4).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend(self.value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let sum = crc32c(&bytes);
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Takes an IPv4 packet of a raw socket apart.
    pub fn from_packet(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0xf) * 4;
        let packet = packet.get(header..)?;
        let half = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
        let length = usize::from(half(HEADER_BYTES + 2)?);
        Some(Self {
            ports: (half(0)?, half(2)?),
            tag: u32::from_be_bytes(packet.get(4..8)?.try_into().ok()?),
            chunk: *packet.get(HEADER_BYTES)?,
            value: packet.get(HEADER_BYTES + 4..HEADER_BYTES + length)?,
        })
    }
}

/// What INIT and INIT ACK carry: the tag that the other side is to use, a window, streams, and the first number.
pub fn initiation(tag: u32) -> Vec<u8> {
    [&tag.to_be_bytes()[..], &65_536u32.to_be_bytes(), &[0, 1, 0, 1], &1u32.to_be_bytes()].concat()
}

/// What DATA carries: number, stream, place in it, protocol, and the text.
pub fn data(number: u32, text: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &[0; 8], text].concat()
}

/// CRC32c (RFC 3309), reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum is that of the well-known test vector, and a packet reads back as written behind an IPv4 header.
    #[test]
    fn packets_read_back() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let value = data(7, b"hello");
        let packet = Packet { ports: (1, 2), tag: 0xdead_beef, chunk: DATA, value: &value };
        let mut bytes = vec![0x45; 20];
        bytes.extend(packet.bytes());
        assert_eq!(Packet::from_packet(&bytes), Some(packet));
        assert_eq!(Packet::from_packet(&bytes[..30]), None);
    }
}
