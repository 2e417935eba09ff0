//! Sums over the flows of an owner, by bucket: two nodes whose sums are equal hold the same flows in the same versions.
//!
//! A flow's bucket is part of a hash of its key, and what it adds to the sum of its bucket is a hash of key and version.
//! Sums are kept as flows come, change and go, so they cost nothing to read. The hash is keyed with the cluster's name, which
//! is no secret: a digest finds faults, it is no defence. Who may speak at all is decided by the seal of a frame.

use super::flow::FlowKey;
use crate::wire::siphash::{Key, siphash24};
use core::net::IpAddr;
use sha2::{Digest, Sha256};

/// Buckets of an owner's flows: a million flows make some two hundred and fifty each.
pub(super) const BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 12;
/// Groups of buckets, and buckets of a group: a set of either is a word.
pub(super) const GROUPS: usize = 64;
const _: () = assert!(GROUPS * GROUPS == BUCKETS && GROUPS as u32 == u64::BITS);

/// What a key hashes to on every node of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64);

impl Identity {
    pub fn bucket(self) -> usize {
        (self.0 >> (u64::BITS - BUCKET_BITS)) as usize
    }

    /// What a flow in this version adds to its bucket's sum. The mixing is that of splitmix64 (Steele, Lea, Flood 2014).
    fn weight(self, version: u64) -> u64 {
        let mut z = self.0 ^ version.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// The key under which all nodes of a cluster hash.
pub(super) fn digest_key(cluster: &str) -> Key {
    let hash = Sha256::digest(cluster.as_bytes());
    let half = |from: usize| hash.iter().skip(from).take(8).fold(0, |value, &byte| value << 8 | u64::from(byte));
    [half(8), half(16)]
}

/// The hash of a key.
pub(super) fn identity(key: Key, flow: &FlowKey) -> Identity {
    let original = &flow.original;
    let rest = u64::from(original.source_port) << 48
        | u64::from(original.destination_port) << 32
        | u64::from(flow.zone) << 16
        | u64::from(original.protocol);
    Identity(match (original.source, original.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            siphash24(key, &[u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits()), rest])
        }
        (source, destination) => {
            let halves = |address: IpAddr| {
                let bits = match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
                    IpAddr::V6(address) => address.to_bits(),
                };
                [(bits >> 64) as u64, bits as u64]
            };
            let ([a, b], [c, d]) = (halves(source), halves(destination));
            siphash24(key, &[a, b, c, d, rest])
        }
    })
}

/// The sums of one owner's flows.
pub(super) struct Sums(Box<[u64; BUCKETS]>);

impl Sums {
    pub fn new() -> Self {
        Self(Box::new([0; BUCKETS]))
    }

    pub fn add(&mut self, identity: Identity, version: u64) {
        if let Some(sum) = self.0.get_mut(identity.bucket()) {
            *sum = sum.wrapping_add(identity.weight(version));
        }
    }

    pub fn subtract(&mut self, identity: Identity, version: u64) {
        if let Some(sum) = self.0.get_mut(identity.bucket()) {
            *sum = sum.wrapping_sub(identity.weight(version));
        }
    }

    /// The sum of each group, without the buckets in `moving`.
    pub fn groups(&self, moving: &Buckets) -> [u64; GROUPS] {
        let mut groups = [0; GROUPS];
        for (group, sum) in groups.iter_mut().enumerate() {
            *sum = self.buckets(group, moving).iter().fold(0u64, |sum, bucket| sum.wrapping_add(*bucket));
        }
        groups
    }

    /// The sum of each bucket of a group; of those in `moving`, zero.
    pub fn buckets(&self, group: usize, moving: &Buckets) -> [u64; GROUPS] {
        let mut buckets = [0; GROUPS];
        let skipped = moving.word(group);
        for (at, (sum, bucket)) in buckets.iter_mut().zip(self.0.iter().skip(group * GROUPS)).enumerate() {
            *sum = if skipped >> at & 1 == 1 { 0 } else { *bucket };
        }
        buckets
    }
}

/// A set of buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Buckets(Box<[u64; GROUPS]>);

impl Default for Buckets {
    fn default() -> Self {
        Self(Box::new([0; GROUPS]))
    }
}

impl Buckets {
    pub fn from_words(words: [u64; GROUPS]) -> Self {
        Self(Box::new(words))
    }

    /// A bit for each bucket, a word for each group.
    pub fn words(&self) -> &[u64; GROUPS] {
        &self.0
    }

    pub fn word(&self, group: usize) -> u64 {
        self.0.get(group).copied().unwrap_or(0)
    }

    pub fn set_word(&mut self, group: usize, word: u64) {
        if let Some(old) = self.0.get_mut(group) {
            *old = word;
        }
    }

    pub fn set(&mut self, bucket: usize) {
        self.set_word(bucket / GROUPS, self.word(bucket / GROUPS) | 1 << (bucket % GROUPS));
    }

    pub fn contains(&self, bucket: usize) -> bool {
        self.word(bucket / GROUPS) >> (bucket % GROUPS) & 1 == 1
    }

    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::flow;
    use super::*;

    /// The hash is part of the protocol: these values must not change, on any machine.
    #[test]
    fn the_hash_is_fixed() {
        let key = digest_key("edge");
        let v4 = identity(key, &flow(1).key);
        let mut wide = flow(1);
        wide.key.original.source = "2001:db8::1".parse().unwrap();
        wide.key.original.destination = "2001:db8::2".parse().unwrap();
        let v6 = identity(key, &wide.key);
        assert_eq!((v4, v6), (Identity(V4), Identity(V6)));
        assert_eq!(v4.weight(7), WEIGHT);
    }

    const V4: u64 = 11_213_001_043_868_017_897;
    const V6: u64 = 7_278_208_651_859_480_446;
    const WEIGHT: u64 = 17_964_795_565_042_653_190;

    /// Keys that differ in any field have different hashes.
    #[test]
    fn every_field_counts() {
        let key = digest_key("edge");
        let plain = flow(1).key;
        let changed = |change: fn(&mut FlowKey)| {
            let mut other = plain;
            change(&mut other);
            identity(key, &other) != identity(key, &plain)
        };
        assert!(changed(|key| key.zone = 1));
        assert!(changed(|key| key.original.protocol = 6));
        assert!(changed(|key| key.original.source_port = 9));
        assert!(changed(|key| key.original.destination_port = 9));
        assert!(changed(|key| key.original.source = [10, 9, 9, 9].into()));
        assert!(changed(|key| key.original.destination = [10, 9, 9, 9].into()));
        assert!(identity(digest_key("core"), &plain) != identity(key, &plain));
    }
}
