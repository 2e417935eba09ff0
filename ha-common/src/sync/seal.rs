//! Keys and sealing: nothing that fails to authenticate here is looked at anywhere else.
//!
//! A hello is authenticated with a static key (HMAC-SHA256, 16 bytes) because the sides know nothing of
//! each other yet. Data and acks are sealed with ChaCha20-Poly1305 (RFC 8439) under a key per direction,
//! derived by HKDF-SHA256 (RFC 5869) from the secret and the fresh random identities of both sides. The
//! frame header is associated data. The AEAD nonce is kind and sequence: sequences only rise within a
//! session and a session never outlives a process, so no nonce is used twice under one key.

use crate::reason::DropReason;
use crate::role::NodeId;
use crate::secret::Secret;
use crate::wire::frame::{HEADER_LEN, Header, Kind, TAG_LEN};
use crate::wire::siphash::Key;
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What one start of a node is known by: both parts are random and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub node: NodeId,
    pub session: u64,
    pub nonce: [u8; 16],
}

/// The secret and what is derived from it alone.
pub(super) struct Keyring {
    secret: Secret,
    /// As long as a block of SHA-256: HMAC takes it as it is.
    hello: Zeroizing<[u8; 64]>,
    /// First 64 bits of the hash of the cluster's name.
    pub cluster: u64,
    pub epoch: u8,
}

/// The keys of one session with one peer.
pub(super) struct SessionKeys {
    send: ChaCha20Poly1305,
    receive: ChaCha20Poly1305,
}

impl Keyring {
    pub fn new(secret: Secret, cluster: &str, epoch: u8) -> Self {
        let hello = derive(&secret, &[b"twinwall hello v1", &[epoch]]);
        let hash = Sha256::digest(cluster.as_bytes());
        let cluster = hash.iter().take(8).fold(0, |value, &byte| value << 8 | u64::from(byte));
        Self { secret, hello, cluster, epoch }
    }

    /// Keys for `mine` talking to `peer`; the peer derives the same ones with the sides exchanged.
    pub fn session(&self, mine: &Identity, peer: &Identity) -> SessionKeys {
        let one_way = |from: &Identity, to: &Identity| {
            let key = derive(
                &self.secret,
                &[
                    b"twinwall session v1",
                    &self.cluster.to_be_bytes(),
                    &[self.epoch, from.node.0, to.node.0],
                    &from.session.to_be_bytes(),
                    &from.nonce,
                    &to.session.to_be_bytes(),
                    &to.nonce,
                ],
            );
            let key: Zeroizing<[u8; 32]> = key;
            ChaCha20Poly1305::new((&*key).into())
        };
        SessionKeys { send: one_way(mine, peer), receive: one_way(peer, mine) }
    }

    /// The 16 bytes that authenticate `parts` put together.
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_LEN] {
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new((&*self.hello).into());
        for part in parts {
            mac.update(part);
        }
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(full.split_at(TAG_LEN).0);
        tag
    }

    /// The body of an authentic hello without its tag.
    ///
    /// # Errors
    /// [`DropReason::FrameAuth`].
    pub fn open_hello<'a>(&self, datagram: &'a [u8]) -> Result<&'a [u8], DropReason> {
        let (signed, tag) = datagram.split_last_chunk::<TAG_LEN>().ok_or(DropReason::FrameShort)?;
        let body = signed.get(HEADER_LEN..).ok_or(DropReason::FrameShort)?;
        if bool::from(self.tag(&[signed]).ct_eq(tag)) { Ok(body) } else { Err(DropReason::FrameAuth) }
    }

    /// Ends a hello (header and body) with its tag.
    pub fn close_hello(&self, datagram: &mut Vec<u8>) {
        let tag = self.tag(&[datagram]);
        datagram.extend_from_slice(&tag);
    }
}

impl SessionKeys {
    /// Encrypts everything behind the header in `datagram` in place and appends the tag.
    ///
    /// Returns false, and the datagram is not to be sent, if it is too short or too long to be a frame.
    #[must_use]
    pub fn seal(&self, header: &Header, datagram: &mut Vec<u8>) -> bool {
        let Some((head, body)) = datagram.split_at_mut_checked(HEADER_LEN) else { return false };
        let Ok(tag) = self.send.encrypt_inout_detached(&nonce(header), head, body.into()) else { return false };
        datagram.extend_from_slice(&tag);
        true
    }

    /// Decrypts the body of `datagram` into `body`.
    ///
    /// # Errors
    /// [`DropReason::FrameAuth`]; `body` then holds nothing.
    pub fn open(&self, header: &Header, datagram: &[u8], body: &mut Vec<u8>) -> Result<(), DropReason> {
        body.clear();
        let (head, sealed) = datagram.split_at_checked(HEADER_LEN).ok_or(DropReason::FrameShort)?;
        let (sealed, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(DropReason::FrameShort)?;
        body.extend_from_slice(sealed);
        let opened =
            self.receive.decrypt_inout_detached(&nonce(header), head, body.as_mut_slice().into(), &Tag::from(*tag));
        opened.map_err(|_| {
            body.clear();
            DropReason::FrameAuth
        })
    }
}

/// The key of the heartbeats of a cluster: of their own, because the XDP programs hold it.
pub fn heartbeat_key(secret: &Secret, cluster: &str, epoch: u8) -> Key {
    let name = Sha256::digest(cluster.as_bytes());
    let bytes: Zeroizing<[u8; 16]> = derive(secret, &[b"twinwall heartbeat v1", &[epoch], &name]);
    let half = |from: usize| bytes.iter().skip(from).take(8).fold(0, |value, &byte| value << 8 | u64::from(byte));
    [half(0), half(8)]
}

/// 96 bits: the kind, zeros, the sequence.
fn nonce(header: &Header) -> Nonce {
    let mut nonce = [0; 12];
    let (kind, sequence) = nonce.split_at_mut(4);
    kind.copy_from_slice(&[header.kind as u8, 0, 0, 0]);
    sequence.copy_from_slice(&header.sequence.to_be_bytes());
    match header.kind {
        Kind::Hello | Kind::Data | Kind::Ack => Nonce::from(nonce),
    }
}

/// HKDF-SHA256 with `info` put together from parts of fixed length (the label ends with its version).
fn derive<const N: usize>(secret: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut key = Zeroizing::new([0; N]);
    let expanded = Hkdf::<Sha256>::new(Some(b"twinwall"), secret).expand_multi_info(info, &mut *key);
    debug_assert!(expanded.is_ok(), "a key is shorter than the 255 blocks that HKDF can give");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(secret: &[u8]) -> Keyring {
        Keyring::new(secret.to_vec().into(), "edge", 1)
    }

    fn identity(node: u8, session: u64) -> Identity {
        Identity { node: NodeId(node), session, nonce: [node; 16] }
    }

    fn sealed(keys: &SessionKeys, sequence: u64, body: &[u8]) -> (Header, Vec<u8>) {
        let header = Header {
            kind: Kind::Data,
            sender: 0,
            key_epoch: 1,
            body_len: (body.len() + TAG_LEN) as u16,
            target: 0,
            session: 7,
            sequence,
        };
        let mut datagram = header.emit().to_vec();
        datagram.extend_from_slice(body);
        assert!(keys.seal(&header, &mut datagram));
        (header, datagram)
    }

    /// What one side seals the other opens; the sealer itself cannot open it (directions differ).
    #[test]
    fn round_trip_between_two_sides() {
        let (a, b) = (identity(0, 7), identity(1, 9));
        let ring = keyring(b"secret");
        let (header, datagram) = sealed(&ring.session(&a, &b), 5, b"flows");
        assert_eq!(datagram.len(), HEADER_LEN + 5 + TAG_LEN);
        let mut body = Vec::new();
        assert_eq!(ring.session(&b, &a).open(&header, &datagram, &mut body), Ok(()));
        assert_eq!(body, b"flows");
        assert_eq!(ring.session(&a, &b).open(&header, &datagram, &mut body), Err(DropReason::FrameAuth));
        assert!(body.is_empty());
    }

    /// Every flipped bit, a wrong secret, another session and another cluster are refused.
    #[test]
    fn anything_altered_is_refused() {
        let (a, b) = (identity(0, 7), identity(1, 9));
        let ring = keyring(b"secret");
        let (header, datagram) = sealed(&ring.session(&a, &b), 5, b"flows");
        let mut body = Vec::new();
        for bit in 0..datagram.len() * 8 {
            let mut altered = datagram.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(ring.session(&b, &a).open(&header, &altered, &mut body).is_err(), "bit {bit}");
        }
        let open = |ring: &Keyring, mine: Identity, peer: Identity| {
            ring.session(&mine, &peer).open(&header, &datagram, &mut Vec::new())
        };
        assert_eq!(open(&keyring(b"other"), b, a), Err(DropReason::FrameAuth));
        assert_eq!(open(&ring, identity(1, 10), a), Err(DropReason::FrameAuth));
        let other_cluster = Keyring::new(b"secret".to_vec().into(), "core", 1);
        assert_eq!(open(&other_cluster, b, a), Err(DropReason::FrameAuth));
    }

    /// Secret, epoch and cluster each make another key of heartbeats.
    #[test]
    fn heartbeat_keys_differ() {
        let key = |secret: &[u8], cluster, epoch| heartbeat_key(&secret.to_vec().into(), cluster, epoch);
        let plain = key(b"secret", "edge", 1);
        assert_eq!(plain, key(b"secret", "edge", 1));
        for other in [key(b"other", "edge", 1), key(b"secret", "core", 1), key(b"secret", "edge", 2)] {
            assert!(other[0] != plain[0] && other[1] != plain[1]);
        }
    }

    /// A hello's tag covers header and body: each altered bit is refused.
    #[test]
    fn hello_tag_covers_everything() {
        let ring = keyring(b"secret");
        let mut datagram = vec![3; HEADER_LEN + 4];
        ring.close_hello(&mut datagram);
        assert_eq!(ring.open_hello(&datagram), Ok(&[3, 3, 3, 3][..]));
        for bit in 0..datagram.len() * 8 {
            let mut altered = datagram.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ring.open_hello(&altered), Err(DropReason::FrameAuth));
        }
        assert_eq!(ring.open_hello(&datagram[..20]), Err(DropReason::FrameShort));
    }
}
