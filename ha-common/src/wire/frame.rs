//! The fixed header of a sync datagram, read by XDP and by the host with the same code.
//!
//! ```text
//! off len  field (big endian)
//!  0   4   magic "TWS1"
//!  4   1   version = 1
//!  5   1   kind
//!  6   1   sender: NodeId of the sending node
//!  7   1   key epoch: which secret sealed the body
//!  8   2   body length in bytes, tag included (the datagram is exactly 32 + this)
//! 10   2   flags (zero in version 1)
//! 12   1   target: one more than the NodeId of the node that it is for; zero (before targets existed) is anyone
//! 13   3   stamp: see [`put_stamp`]; zero from versions that make none
//! 16   8   session: random, chosen by the sender at its start
//! 24   8   sequence: counts the frames of one kind group in a session, from 1
//! 32       body
//! ```
//! The whole header is authenticated as associated data of the sealed body. The stamp shows without opening the body that a
//! holder of the secret has made this header: 24 bits are enough to keep nearly all forgeries from whoever opens bodies.

use super::bytes::{Packet, Window};
use super::ip;
use super::ipv4::Payload;
use super::siphash::{Key, siphash24};
use super::udp;
use crate::reason::DropReason;

/// Length of the fixed header in bytes.
pub const HEADER_LEN: usize = 32;
/// Length of the authentication tag that ends every body.
pub const TAG_LEN: usize = 16;
/// The UDP port of the sync link unless configured otherwise (conntrackd's).
pub const DEFAULT_PORT: u16 = 3780;
/// First four bytes of every frame.
pub const MAGIC: u32 = u32::from_be_bytes(*b"TWS1");
/// The frame version this build speaks.
pub const VERSION: u8 = 1;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Session set-up, authenticated with the static key; also the keep-alive.
    Hello = 1,
    /// A sealed batch of flow changes; consumes a sequence number of the data stream.
    Data = 2,
    /// A sealed acknowledgement; sequence numbers of a stream of its own.
    Ack = 3,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 3] = [Kind::Hello, Kind::Data, Kind::Ack];

    /// The lower-case name used in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Data => "data",
            Self::Ack => "ack",
        }
    }
}

/// The header as a value (host order).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub sender: u8,
    pub key_epoch: u8,
    pub body_len: u16,
    /// As [`target`] makes it.
    pub target: u8,
    pub session: u64,
    pub sequence: u64,
}

/// What stands in a header for a node.
#[inline(always)]
pub const fn target(node: u8) -> u8 {
    node.wrapping_add(1)
}

impl Header {
    /// True when the frame is for this node: multicast carries those for the others as well.
    #[inline(always)]
    pub const fn is_for(&self, node: u8) -> bool {
        self.target == 0 || self.target == target(node)
    }

    /// Reads the header of `datagram`, the whole UDP payload.
    ///
    /// # Errors
    /// The first check that fails: length, magic, version, kind, body length.
    pub fn parse(datagram: &[u8]) -> Result<Header, DropReason> {
        Self::read(datagram, Payload { offset: 0, len: datagram.len() })
    }

    /// Reads the header at the start of a UDP payload inside `packet`.
    ///
    /// # Errors
    /// The first check that fails: length, magic, version, kind, body length.
    #[inline(always)]
    pub fn read<P: Packet>(packet: P, payload: Payload) -> Result<Header, DropReason> {
        if payload.len < HEADER_LEN + TAG_LEN {
            return Err(DropReason::FrameShort);
        }
        let Some(head) = packet.window::<HEADER_LEN>(payload.offset) else { return Err(DropReason::FrameShort) };
        if head.be32(0) != MAGIC {
            return Err(DropReason::FrameMagic);
        }
        if head.byte(4) != VERSION {
            return Err(DropReason::FrameVersion);
        }
        let kind = match head.byte(5) {
            1 => Kind::Hello,
            2 => Kind::Data,
            3 => Kind::Ack,
            _ => return Err(DropReason::FrameKind),
        };
        let body_len = head.be16(8);
        if usize::from(body_len) != payload.len - HEADER_LEN {
            return Err(DropReason::FrameLength);
        }
        Ok(Header {
            kind,
            sender: head.byte(6),
            key_epoch: head.byte(7),
            body_len,
            target: head.byte(12),
            session: head.be64(16),
            sequence: head.be64(24),
        })
    }

    /// The 32 bytes on the wire.
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC.to_be_bytes());
        out[4] = VERSION;
        out[5] = self.kind as u8;
        out[6] = self.sender;
        out[7] = self.key_epoch;
        out[8..10].copy_from_slice(&self.body_len.to_be_bytes());
        out[12] = self.target;
        out[16..24].copy_from_slice(&self.session.to_be_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_be_bytes());
        out
    }
}

const WORDS: usize = HEADER_LEN / 8;
/// Where the stamp is in the second word.
const STAMP_MASK: u64 = 0xff_ffff;

/// Puts the stamp into a header that is complete otherwise: SipHash-2-4 of its other bytes, cut, and never zero.
pub fn put_stamp(header: &mut [u8; HEADER_LEN], key: Key) {
    let stamp = stamp(key, words(&*header)).to_be_bytes();
    let (_, place) = header.split_at_mut(13);
    for (byte, value) in place.iter_mut().zip(stamp.iter().skip(5)) {
        *byte = *value;
    }
}

/// True when the header at the start of the payload bears the stamp of `key`.
#[inline(always)]
pub fn is_stamped<P: Packet>(packet: P, payload: Payload, key: Key) -> bool {
    let Some(head) = packet.window::<HEADER_LEN>(payload.offset) else { return false };
    let words = words(head);
    words[1] & STAMP_MASK == stamp(key, words)
}

#[inline(always)]
fn words(header: impl Window) -> [u64; WORDS] {
    core::array::from_fn(|at| header.be64(at * 8))
}

#[inline(always)]
fn stamp(key: Key, mut words: [u64; WORDS]) -> u64 {
    words[1] &= !STAMP_MASK;
    let stamp = siphash24(key, &words) & STAMP_MASK;
    if stamp == 0 { 1 } else { stamp }
}

/// Finds the datagram for the sync socket in a UDP packet whose destination address is right: for `port`, not a fragment.
///
/// `None` means that it is somebody else's. A UDP header that contradicts its packet gives an empty payload,
/// which no frame fits in.
#[inline(always)]
pub fn datagram<P: Packet>(packet: P, ip: &ip::Header<P>, port: u16) -> Option<Payload> {
    if ip.is_fragment() {
        return None;
    }
    let udp = udp::Header::at(packet, ip.payload(packet).ok()?)?;
    if udp.destination_port() != port {
        return None;
    }
    Some(udp.payload().unwrap_or(Payload { offset: 0, len: 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        kind: Kind::Data,
        sender: 1,
        key_epoch: 7,
        body_len: 16,
        target: target(0),
        session: 0x0102_0304_0506_0708,
        sequence: 42,
    };

    fn datagram() -> Vec<u8> {
        let mut bytes = HEADER.emit().to_vec();
        bytes.extend([0; TAG_LEN]);
        bytes
    }

    /// Emit then parse gives the same value.
    #[test]
    fn round_trip() {
        assert_eq!(Header::parse(&datagram()), Ok(HEADER));
    }

    /// A stamped header reads as before, and its stamp is right under its own key alone and for no altered header.
    #[test]
    fn stamps() {
        let mut bytes = datagram();
        let stamped = |bytes: &[u8], key| is_stamped(bytes, Payload { offset: 0, len: bytes.len() }, key);
        assert!(!stamped(&bytes, [1, 2]));
        put_stamp(bytes.first_chunk_mut().unwrap(), [1, 2]);
        assert_eq!(Header::parse(&bytes), Ok(HEADER));
        assert!(stamped(&bytes, [1, 2]) && !stamped(&bytes, [1, 3]) && !stamped(&bytes[..31], [1, 2]));
        for bit in 0..HEADER_LEN * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!stamped(&bytes, [1, 2]), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// A frame is for the node that it names, or for anyone when it names none.
    #[test]
    fn targets() {
        assert!(HEADER.is_for(0) && !HEADER.is_for(1));
        let anyone = Header { target: 0, ..HEADER };
        assert!(anyone.is_for(0) && anyone.is_for(7));
    }

    /// Each broken field is refused under its own name.
    #[test]
    fn each_refusal_has_its_reason() {
        let broken = |at: usize, value: u8| {
            let mut bytes = datagram();
            bytes[at] = value;
            Header::parse(&bytes)
        };
        assert_eq!(broken(0, 0), Err(DropReason::FrameMagic));
        assert_eq!(broken(4, 2), Err(DropReason::FrameVersion));
        assert_eq!(broken(5, 0), Err(DropReason::FrameKind));
        assert_eq!(broken(9, 17), Err(DropReason::FrameLength));
        for len in 0..HEADER_LEN + TAG_LEN {
            assert_eq!(Header::parse(&datagram()[..len]), Err(DropReason::FrameShort));
        }
    }
}
