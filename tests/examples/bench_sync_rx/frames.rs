//! Sync frames as they are on the wire: header, stamp, sealed body. Sealed and opened with production's cipher, the header as
//! associated data, so that what reception costs stands beside what opening costs.

use anyhow::{Result, ensure};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use ha_common::wire::frame::{self, HEADER_LEN, Header, Kind, TAG_LEN};
use ha_common::wire::siphash::Key;

/// The sending node, and the receiving one.
pub const SENDER: u8 = 1;
pub const RECEIVER: u8 = 0;
pub const KEY_EPOCH: u8 = 7;
pub const SESSION: u64 = 0x5e55_1011;
/// The key of the stamps.
pub const STAMP: Key = [0x0f1e_2d3c_4b5a_6978, 0x8796_a5b4_c3d2_e1f0];
/// The least payload: a header, a number and the tag.
pub const PAYLOAD_MIN: usize = HEADER_LEN + 8 + TAG_LEN;
/// The UDP payload of a packet on Ethernet.
pub const PAYLOAD_MAX: usize = 1472;

/// Makes frames, and opens them.
pub struct Sealer(ChaCha20Poly1305);

/// Why a frame is none of those that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl Sealer {
    pub fn new() -> Self {
        Self(ChaCha20Poly1305::new(&[0x42; 32].into()))
    }

    /// The frame with this sequence, `payload` bytes in all. Its body is the sequence again and again.
    ///
    /// # Errors
    /// When the payload is not between [`PAYLOAD_MIN`] and [`PAYLOAD_MAX`].
    pub fn seal(&self, sequence: u64, payload: usize) -> Result<Vec<u8>> {
        ensure!(
            (PAYLOAD_MIN..=PAYLOAD_MAX).contains(&payload),
            "a payload of {payload} bytes is not between {PAYLOAD_MIN} and {PAYLOAD_MAX}"
        );
        let header = Header {
            kind: Kind::Data,
            sender: SENDER,
            key_epoch: KEY_EPOCH,
            body_len: u16::try_from(payload - HEADER_LEN)?,
            target: frame::target(RECEIVER),
            session: SESSION,
            sequence,
        };
        let mut head = header.emit();
        frame::put_stamp(&mut head, STAMP);
        let mut datagram = Vec::with_capacity(payload);
        datagram.extend_from_slice(&head);
        datagram.extend(sequence.to_be_bytes().iter().cycle().take(payload - HEADER_LEN - TAG_LEN));
        let body = datagram.split_at_mut(HEADER_LEN).1;
        let sealed = self.0.encrypt_inout_detached(&nonce(sequence), &head, body.into());
        let tag = sealed.map_err(|_| anyhow::anyhow!("a body of {payload} bytes cannot be sealed"))?;
        datagram.extend_from_slice(&tag);
        Ok(datagram)
    }

    /// Reads the header and decrypts the body into `body`, as the sync engine does; the frame's sequence.
    ///
    /// # Errors
    /// When the datagram is no authentic frame.
    pub fn open(&self, datagram: &[u8], body: &mut Vec<u8>) -> Result<u64, Broken> {
        body.clear();
        let header = Header::parse(datagram).map_err(|_| Broken)?;
        let (head, sealed) = datagram.split_at_checked(HEADER_LEN).ok_or(Broken)?;
        let (sealed, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Broken)?;
        body.extend_from_slice(sealed);
        let tag = Tag::from(*tag);
        let opened = self.0.decrypt_inout_detached(&nonce(header.sequence), head, body.as_mut_slice().into(), &tag);
        opened.map_err(|_| Broken)?;
        Ok(header.sequence)
    }
}

/// Whether a body is the one that [`Sealer::seal`] has made.
pub fn is_whole(body: &[u8], sequence: u64, payload: usize) -> bool {
    body.len() + HEADER_LEN + TAG_LEN == payload
        && body.iter().zip(sequence.to_be_bytes().iter().cycle()).all(|(a, b)| a == b)
}

fn nonce(sequence: u64) -> Nonce {
    let mut nonce = [0; 12];
    let (kind, rest) = nonce.split_at_mut(4);
    kind.copy_from_slice(&[Kind::Data as u8, 0, 0, 0]);
    rest.copy_from_slice(&sequence.to_be_bytes());
    Nonce::from(nonce)
}
