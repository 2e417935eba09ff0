//! The lease of a mastership, as the election orders it and the kernel keeps it.

use core::time::Duration;

/// A mastership that the kernel's gate is open for, as long as it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Number of the mastership: `(n << 8) | (255 - node)`, never used twice.
    pub term: u64,
    /// From the clock read before the decision to the end of the lease.
    pub length: Duration,
}

/// What is to be published at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOrder {
    Open(Lease),
    Closed,
}

/// What the loop finds when it is about to renew the lease. Its own deadline is looked at first: past it the kernel
/// closes the term as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// Its own deadline has passed: the loop did not run for longer than the lease.
    Lapsed,
    /// The kernel closed this term and all before, within the lease: the peer is a newer master.
    Fenced { closed_term: u64 },
}

/// The first term of `node` above everything in `seen`.
pub(super) fn next_term(seen: u64, node: crate::role::NodeId) -> u64 {
    let count = (seen >> 8).saturating_add(1).min(u64::MAX >> 8);
    count << 8 | u64::from(u8::MAX - node.0)
}

/// Whose mastership a term was or would be; 0 is nobody's.
pub(super) fn owner(term: u64) -> Option<crate::role::NodeId> {
    let low = u8::try_from(term & 0xff).unwrap_or(0);
    (term != 0).then_some(crate::role::NodeId(u8::MAX - low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::NodeId;

    /// Terms grow, name their owner, and two nodes never make the same one; of two made at once the lower node's wins.
    #[test]
    fn terms() {
        let (first, second) = (next_term(0, NodeId(0)), next_term(0, NodeId(1)));
        assert!(first > second && second > 0);
        assert_eq!((owner(first), owner(second), owner(0)), (Some(NodeId(0)), Some(NodeId(1)), None));
        let later = next_term(first, NodeId(1));
        assert!(later > first);
        assert_eq!(owner(later), Some(NodeId(1)));
        assert!(next_term(later, NodeId(0)) > later);
        assert_eq!(owner(next_term(u64::MAX, NodeId(3))), Some(NodeId(3)), "the end of numbers does not overflow");
    }
}
