//! Keys and sealing: nothing that fails to authenticate here is looked at anywhere else.
//!
//! A hello is authenticated with a static key (HMAC-SHA256, 16 bytes) because the sides know nothing of
//! each other yet. Data and acks are sealed with ChaCha20-Poly1305 (RFC 8439) under a key per direction,
//! derived by HKDF-SHA256 (RFC 5869) from the secret and the fresh random identities of both sides. The
//! frame header is associated data.
//!
//! While the secret is changed two are valid, the older and the newer. A session then has keys of both, by the epoch in the
//! frame's header, and everything else of it goes on.
//!
//! **No nonce is used twice under one key.** The nonce is the frame's kind and sequence. The sequences of a kind only rise for
//! as long as the process lives: neither a new session of the peer nor another secret sets them back, and every frame takes
//! the next one. A process never uses the session number and nonce of another one (both are random), so keys of two processes
//! differ. Hence a pair of kind and sequence is sealed once at the most under *all* keys of a process together, also when
//! a secret is taken away and comes back.

use crate::reason::DropReason;
use crate::role::NodeId;
use crate::secret::{ClusterKey, KEYS_MAX, Secret};
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

/// The secrets that are valid, the oldest first, and what is derived from each alone.
pub(super) struct Keyring {
    held: Vec<Held>,
    /// First 64 bits of the hash of the cluster's name.
    pub cluster: u64,
}

struct Held {
    key: ClusterKey,
    /// As long as a block of SHA-256: HMAC takes it as it is.
    hello: Zeroizing<[u8; 64]>,
    mark: u64,
}

/// The keys of one session with one peer: of every secret that is valid.
pub(super) struct SessionKeys {
    by_epoch: Vec<Pair>,
}

struct Pair {
    epoch: u8,
    send: ChaCha20Poly1305,
    receive: ChaCha20Poly1305,
}

impl Keyring {
    /// Of the last [`KEYS_MAX`] of `keys`.
    pub fn new(keys: &[ClusterKey], cluster: &str) -> Self {
        let hash = Sha256::digest(cluster.as_bytes());
        let cluster = hash.iter().take(8).fold(0, |value, &byte| value << 8 | u64::from(byte));
        Self { held: hold(keys), cluster }
    }

    /// The same cluster with other keys.
    pub fn with(&self, keys: &[ClusterKey]) -> Self {
        Self { held: hold(keys), cluster: self.cluster }
    }

    pub fn holds(&self, epoch: u8) -> bool {
        self.held(epoch).is_some()
    }

    /// What tells the peer which keys are held here: the epoch in the upper byte, and a hash of the secret, so that two
    /// secrets that were given the same epoch are not taken for each other.
    pub fn marks(&self) -> impl Iterator<Item = u64> + '_ {
        self.held.iter().map(|held| held.mark)
    }

    pub fn epochs(&self) -> impl Iterator<Item = u8> + '_ {
        self.held.iter().map(|held| held.key.epoch)
    }

    pub fn mark(&self, epoch: u8) -> Option<u64> {
        self.held(epoch).map(|held| held.mark)
    }

    /// The epoch to send under: the newest that the peer accepts, else the one that it was heard under, else the oldest.
    pub fn choose(&self, accepted: &[u64], heard: Option<u8>) -> u8 {
        let newest = self.held.iter().rev().find(|held| accepted.contains(&held.mark));
        let heard = || heard.and_then(|epoch| self.held(epoch));
        newest.or_else(heard).or(self.held.first()).map_or(0, |held| held.key.epoch)
    }

    /// Keys for `mine` talking to `peer`; the peer derives the same ones with the sides exchanged.
    pub fn session(&self, mine: &Identity, peer: &Identity) -> SessionKeys {
        let of = |key: &ClusterKey| Pair {
            epoch: key.epoch,
            send: self.one_way(key, mine, peer),
            receive: self.one_way(key, peer, mine),
        };
        SessionKeys { by_epoch: self.held.iter().map(|held| of(&held.key)).collect() }
    }

    fn one_way(&self, key: &ClusterKey, from: &Identity, to: &Identity) -> ChaCha20Poly1305 {
        let derived: Zeroizing<[u8; 32]> = derive(
            &key.secret,
            &[
                b"twinwall session v1",
                &self.cluster.to_be_bytes(),
                &[key.epoch, from.node.0, to.node.0],
                &from.session.to_be_bytes(),
                &from.nonce,
                &to.session.to_be_bytes(),
                &to.nonce,
            ],
        );
        ChaCha20Poly1305::new((&*derived).into())
    }

    /// The 16 bytes that authenticate `parts` put together, under the secret of an epoch; `None` when it is not held.
    fn tag(&self, epoch: u8, parts: &[&[u8]]) -> Option<[u8; TAG_LEN]> {
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new((&*self.held(epoch)?.hello).into());
        for part in parts {
            mac.update(part);
        }
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(full.split_at(TAG_LEN).0);
        Some(tag)
    }

    /// 16 bytes that nobody without the newest secret can tell from `parts`.
    pub fn unforeseeable(&self, parts: &[&[u8]]) -> [u8; TAG_LEN] {
        let newest = self.held.last().map(|held| held.key.epoch);
        // Without any secret nothing is authentic, and nothing rests on this.
        newest.and_then(|epoch| self.tag(epoch, parts)).unwrap_or_default()
    }

    /// The body of an authentic hello without its tag; `epoch` is the one in its header.
    ///
    /// # Errors
    /// [`DropReason::FrameAuth`], [`DropReason::FrameKeyEpoch`].
    pub fn open_hello<'a>(&self, epoch: u8, datagram: &'a [u8]) -> Result<&'a [u8], DropReason> {
        let (signed, tag) = datagram.split_last_chunk::<TAG_LEN>().ok_or(DropReason::FrameShort)?;
        let body = signed.get(HEADER_LEN..).ok_or(DropReason::FrameShort)?;
        let expected = self.tag(epoch, &[signed]).ok_or(DropReason::FrameKeyEpoch)?;
        if bool::from(expected.ct_eq(tag)) { Ok(body) } else { Err(DropReason::FrameAuth) }
    }

    /// Ends a hello (header and body) with its tag. False, and it is not to be sent, when that epoch is not held.
    #[must_use]
    pub fn close_hello(&self, epoch: u8, datagram: &mut Vec<u8>) -> bool {
        let Some(tag) = self.tag(epoch, &[datagram]) else { return false };
        datagram.extend_from_slice(&tag);
        true
    }

    fn held(&self, epoch: u8) -> Option<&Held> {
        self.held.iter().find(|held| held.key.epoch == epoch)
    }
}

fn hold(keys: &[ClusterKey]) -> Vec<Held> {
    let last = keys.get(keys.len().saturating_sub(KEYS_MAX)..).unwrap_or(keys);
    let held = |key: &ClusterKey| Held {
        key: key.clone(),
        hello: derive(&key.secret, &[b"twinwall hello v1", &[key.epoch]]),
        mark: mark(key),
    };
    last.iter().map(held).collect()
}

/// Says nothing of the secret but whether two are the same: the hash is one-way, and the secret 256 random bits.
fn mark(key: &ClusterKey) -> u64 {
    let [_, hash @ ..]: [u8; 8] = *derive(&key.secret, &[b"twinwall key mark v1", &[key.epoch]]);
    hash.iter().fold(u64::from(key.epoch), |value, &byte| value << 8 | u64::from(byte))
}

/// The epoch of a key that a peer holds.
pub(super) fn epoch_of(mark: u64) -> u8 {
    (mark >> 56) as u8
}

impl SessionKeys {
    /// Encrypts everything behind the header in `datagram` in place and appends the tag.
    ///
    /// Returns false, and the datagram is not to be sent, if it is too short or too long to be a frame, or the header
    /// names an epoch whose secret is not held.
    #[must_use]
    pub fn seal(&self, header: &Header, datagram: &mut Vec<u8>) -> bool {
        let Some(pair) = self.pair(header.key_epoch) else { return false };
        let Some((head, body)) = datagram.split_at_mut_checked(HEADER_LEN) else { return false };
        let Ok(tag) = pair.send.encrypt_inout_detached(&nonce(header), head, body.into()) else { return false };
        datagram.extend_from_slice(&tag);
        true
    }

    /// Decrypts the body of `datagram` into `body`.
    ///
    /// # Errors
    /// [`DropReason::FrameAuth`], [`DropReason::FrameKeyEpoch`]; `body` then holds nothing.
    pub fn open(&self, header: &Header, datagram: &[u8], body: &mut Vec<u8>) -> Result<(), DropReason> {
        body.clear();
        let pair = self.pair(header.key_epoch).ok_or(DropReason::FrameKeyEpoch)?;
        let (head, sealed) = datagram.split_at_checked(HEADER_LEN).ok_or(DropReason::FrameShort)?;
        let (sealed, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(DropReason::FrameShort)?;
        body.extend_from_slice(sealed);
        let opened =
            pair.receive.decrypt_inout_detached(&nonce(header), head, body.as_mut_slice().into(), &Tag::from(*tag));
        opened.map_err(|_| {
            body.clear();
            DropReason::FrameAuth
        })
    }

    fn pair(&self, epoch: u8) -> Option<&Pair> {
        self.by_epoch.iter().find(|pair| pair.epoch == epoch)
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

    fn key(epoch: u8, secret: &[u8]) -> ClusterKey {
        ClusterKey { epoch, secret: secret.to_vec().into() }
    }

    fn keyring(secret: &[u8]) -> Keyring {
        Keyring::new(&[key(1, secret)], "edge")
    }

    fn identity(node: u8, session: u64) -> Identity {
        Identity { node: NodeId(node), session, nonce: [node; 16] }
    }

    fn sealed(keys: &SessionKeys, sequence: u64, body: &[u8]) -> (Header, Vec<u8>) {
        sealed_under(keys, 1, sequence, body)
    }

    fn sealed_under(keys: &SessionKeys, key_epoch: u8, sequence: u64, body: &[u8]) -> (Header, Vec<u8>) {
        let header = Header {
            kind: Kind::Data,
            sender: 0,
            key_epoch,
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
        let other_cluster = Keyring::new(&[key(1, b"secret")], "core");
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
        assert!(ring.close_hello(1, &mut datagram));
        assert_eq!(ring.open_hello(1, &datagram), Ok(&[3, 3, 3, 3][..]));
        for bit in 0..datagram.len() * 8 {
            let mut altered = datagram.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ring.open_hello(1, &altered), Err(DropReason::FrameAuth));
        }
        assert_eq!(ring.open_hello(1, &datagram[..20]), Err(DropReason::FrameShort));
        assert_eq!(ring.open_hello(2, &datagram), Err(DropReason::FrameKeyEpoch));
        assert!(!ring.close_hello(2, &mut datagram));
    }

    /// With two secrets a session opens what is sealed under either, by the epoch in the header, and nothing under a third.
    #[test]
    fn two_secrets_side_by_side() {
        let (a, b) = (identity(0, 7), identity(1, 9));
        let both = Keyring::new(&[key(1, b"old"), key(2, b"new")], "edge");
        for (epoch, secret) in [(1, b"old"), (2, b"new")] {
            let alone = Keyring::new(&[key(epoch, secret)], "edge").session(&a, &b);
            let (header, datagram) = sealed_under(&alone, epoch, 5, b"flows");
            let mut body = Vec::new();
            assert_eq!(both.session(&b, &a).open(&header, &datagram, &mut body), Ok(()));
            assert_eq!(body, b"flows");
            let third = Header { key_epoch: 3, ..header };
            assert_eq!(both.session(&b, &a).open(&third, &datagram, &mut body), Err(DropReason::FrameKeyEpoch));
        }
    }

    /// The newest secret that the peer holds is sent under. One of the same epoch that is another secret is none of them.
    #[test]
    fn the_newest_common_secret_is_chosen() {
        let ring = Keyring::new(&[key(1, b"old"), key(2, b"new")], "edge");
        let marks = |keys: &[ClusterKey]| Keyring::new(keys, "edge").marks().collect::<Vec<_>>();
        assert_eq!(ring.choose(&[], None), 1);
        assert_eq!(ring.choose(&[], Some(2)), 2);
        assert_eq!(ring.choose(&[], Some(9)), 1);
        assert_eq!(ring.choose(&marks(&[key(1, b"old")]), None), 1);
        assert_eq!(ring.choose(&marks(&[key(1, b"old"), key(2, b"new")]), Some(1)), 2);
        assert_eq!(ring.choose(&marks(&[key(1, b"old"), key(2, b"another")]), Some(1)), 1);
        assert_eq!(ring.choose(&marks(&[key(2, b"new"), key(3, b"next")]), Some(3)), 2);
        assert_eq!(ring.marks().map(epoch_of).collect::<Vec<_>>(), [1, 2]);
        let three = ring.with(&[key(1, b"old"), key(2, b"new"), key(3, b"next")]);
        assert_eq!([1, 2, 3].map(|epoch| three.holds(epoch)), [false, true, true]);
        assert!(!Keyring::new(&[], "edge").close_hello(0, &mut Vec::new()));
    }
}
