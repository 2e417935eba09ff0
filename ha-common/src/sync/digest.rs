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

    pub fn all(&self) -> &[u64; BUCKETS] {
        &self.0
    }
}
