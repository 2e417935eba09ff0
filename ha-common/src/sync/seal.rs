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
use crate::wire::frame::{self, HEADER_LEN, Header, Kind, TAG_LEN};
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
    stamp: Zeroizing<Key>,
    mark: u64,
}

/// The keys of one session with one peer: of every secret that is valid.
pub(super) struct SessionKeys {
    by_epoch: Vec<Pair>,
}

struct Pair {
    epoch: u8,
    stamp: Zeroizing<Key>,
    /// Both wipe their keys when they are dropped (feature `zeroize`).
    send: ChaCha20Poly1305,
    receive: ChaCha20Poly1305,
}

impl Keyring {
    /// Of the last [`KEYS_MAX`] of `keys`.
    pub fn new(keys: &[ClusterKey], cluster: &str) -> Self {
        let cluster = short_name(cluster);
        Self { held: hold(keys, cluster), cluster }
    }

    /// The same cluster with other keys.
    pub fn with(&self, keys: &[ClusterKey]) -> Self {
        Self { held: hold(keys, self.cluster), cluster: self.cluster }
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
        let of = |held: &Held| Pair {
            epoch: held.key.epoch,
            stamp: held.stamp.clone(),
            send: self.one_way(&held.key, mine, peer),
            receive: self.one_way(&held.key, peer, mine),
        };
        SessionKeys { by_epoch: self.held.iter().map(of).collect() }
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

    /// Puts the stamp into a hello's header, and ends it (header and body) with its tag. False, and it is not to be sent, when that epoch is not held.
    #[must_use]
    pub fn close_hello(&self, epoch: u8, datagram: &mut Vec<u8>) -> bool {
        let Some(held) = self.held(epoch) else { return false };
        if let Some(header) = datagram.first_chunk_mut() {
            frame::put_stamp(header, *held.stamp);
        }
        let Some(tag) = self.tag(epoch, &[datagram]) else { return false };
        datagram.extend_from_slice(&tag);
        true
    }

    fn held(&self, epoch: u8) -> Option<&Held> {
        self.held.iter().find(|held| held.key.epoch == epoch)
    }
}

fn hold(keys: &[ClusterKey], cluster: u64) -> Vec<Held> {
    let last = keys.get(keys.len().saturating_sub(KEYS_MAX)..).unwrap_or(keys);
    let held = |key: &ClusterKey| Held {
        key: key.clone(),
        hello: derive(&key.secret, &[b"twinwall hello v1", &[key.epoch]]),
        stamp: Zeroizing::new(stamp_key_of(key, cluster)),
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
    /// Puts the stamp into the header, encrypts everything behind it in `datagram` in place, and appends the tag.
    ///
    /// Returns false, and the datagram is not to be sent, if it is too short or too long to be a frame, or the header
    /// names an epoch whose secret is not held.
    #[must_use]
    pub fn seal(&self, header: &Header, datagram: &mut Vec<u8>) -> bool {
        let Some(pair) = self.pair(header.key_epoch) else { return false };
        let Some((head, body)) = datagram.split_first_chunk_mut::<HEADER_LEN>() else { return false };
        frame::put_stamp(head, *pair.stamp);
        let Ok(tag) = pair.send.encrypt_inout_detached(&nonce(header), &*head, body.into()) else { return false };
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
    siphash_key(&bytes)
}

/// The key of the stamps in a cluster's frame headers: of their own, because the XDP programs hold it.
pub fn stamp_key(key: &ClusterKey, cluster: &str) -> Key {
    stamp_key_of(key, short_name(cluster))
}

fn stamp_key_of(key: &ClusterKey, cluster: u64) -> Key {
    let bytes: Zeroizing<[u8; 16]> = derive(&key.secret, &[b"twinwall stamp v1", &[key.epoch], &cluster.to_be_bytes()]);
    siphash_key(&bytes)
}

fn siphash_key(bytes: &[u8; 16]) -> Key {
    let half = |from: usize| bytes.iter().skip(from).take(8).fold(0, |value, &byte| value << 8 | u64::from(byte));
    [half(0), half(8)]
}

/// First 64 bits of the hash of a cluster's name.
fn short_name(cluster: &str) -> u64 {
    Sha256::digest(cluster.as_bytes()).iter().take(8).fold(0, |value, &byte| value << 8 | u64::from(byte))
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
mod tests;
