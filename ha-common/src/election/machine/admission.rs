//! Which adverts count: the checks that need the configuration or memory, in the order of their cost.
//!
//! The shared parser has seen to lengths, TTL, version, type, checksum and VHID before (carp-wire §6).

use super::member::Member;
use crate::election::{ReceivedAdvert, Transport};
use crate::reason::DropReason;
use std::net::IpAddr;

/// How many sources of a member are remembered; the digest keeps strangers out of the list.
const SOURCES_MAX: usize = 8;

/// The last advert of each source, to refuse its immediate repetition.
///
/// Nothing stronger is compatible: ucarp sends random counters until it hears somebody, jumps about during a
/// hand-over, and starts anew after a restart (carp-wire §5). An OpenBSD peer, whose counter is constant, would be
/// refused from its second advert on; it is not among the peers supported.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// Most recently heard last.
    last: Vec<(IpAddr, u64, [u8; 20])>,
}

impl Repeats {
    /// Takes note of a genuine advert; `false` if it repeats the one before.
    fn admit(&mut self, source: IpAddr, counter: u64, digest: [u8; 20]) -> bool {
        if let Some(position) = self.last.iter().position(|(known, ..)| *known == source) {
            let (_, last_counter, last_digest) = self.last.remove(position);
            let fresh = (last_counter, last_digest) != (counter, digest);
            self.last.push((source, counter, digest));
            return fresh;
        }
        if self.last.len() >= SOURCES_MAX {
            self.last.remove(0);
        }
        self.last.push((source, counter, digest));
        true
    }
}

impl Member {
    /// Decides on one advert; an accepted one has its counter adopted.
    ///
    /// # Errors
    /// The reason of the first check that fails. Then nothing but a counter may change.
    pub(super) fn admit(&mut self, received: &ReceivedAdvert) -> Result<(), DropReason> {
        let ReceivedAdvert { source, destination, advert, .. } = received;
        let own = self.own_address(*source);
        // carp-wire §6.2: a packet from our own address is ours, whoever sent it back.
        if own == Some(*source) {
            return Err(DropReason::OwnAdvert);
        }
        let to_us = self.own_address(*destination) == Some(*destination);
        match &self.transport {
            Transport::Multicast { v4, v6 } => {
                let to_group = match destination {
                    IpAddr::V4(destination) => destination == v4,
                    IpAddr::V6(destination) => destination == v6,
                };
                if !to_group && !to_us {
                    return Err(DropReason::Destination);
                }
            }
            Transport::Unicast(peers) => {
                if !to_us {
                    return Err(DropReason::Destination);
                }
                if !peers.contains(source) {
                    return Err(DropReason::SourceNotPeer);
                }
            }
        }
        if !self.auth.verify(advert.counter, &advert.digest) {
            return Err(DropReason::BadDigest);
        }
        if !self.repeats.admit(*source, advert.counter, advert.digest) {
            return Err(DropReason::RepeatedAdvert);
        }
        self.counter.adopt(advert.counter);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Only the immediate repetition of the same source is refused.
    #[test]
    fn only_immediate_repeats_of_a_source() {
        let mut repeats = Repeats::default();
        assert!(repeats.admit(source(1), 1, [1; 20]));
        assert!(!repeats.admit(source(1), 1, [1; 20]));
        assert!(!repeats.admit(source(1), 1, [1; 20]), "and again");
        assert!(repeats.admit(source(2), 1, [1; 20]), "two masters may reach the same counter");
        assert!(repeats.admit(source(1), 2, [2; 20]));
        assert!(repeats.admit(source(1), 1, [1; 20]), "a counter may come back");
    }

    /// The memory is bounded and forgets the source heard least recently.
    #[test]
    fn bounded() {
        let mut repeats = Repeats::default();
        for last in 0..100 {
            assert!(repeats.admit(source(last), 1, [1; 20]));
            assert!(repeats.last.len() <= SOURCES_MAX);
        }
        assert!(!repeats.admit(source(99), 1, [1; 20]));
        assert!(!repeats.admit(source(92), 1, [1; 20]));
        assert!(repeats.admit(source(91), 1, [1; 20]));
    }
}
