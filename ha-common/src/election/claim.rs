//! The claim: how a node takes *all* members when a foreign master still holds some of them.
//!
//! ucarp runs one blind process per VHID. If one of them dies, the others go on: that peer is silent on one member
//! and master on the rest, and by plain CARP rules the VHIDs would end up on different nodes. Our group is never
//! split, so it takes over as a unit and, for a bounded time, advertises 0/1 instead of its configured values.
//! Every ucarp master that advertises a longer interval yields to that by itself. Then the configured values
//! return, and whoever is better may preempt again.
//!
//! If that brings back the same half-dead peer, the next claim is twice as long, up to five minutes, so that two
//! nodes that disagree for long change places rarely. A claim that nobody contested (the peer was dead altogether and
//! one member's timer was simply the first) ends as soon as that is known, and is not remembered.

use super::compare::Interval;
use super::timers::{CLAIM_FIRST, CLAIM_MAX, CLAIM_MEMORY};
use crate::time::{Instant, earliest};
use core::time::Duration;

/// What a claiming node advertises: the best interval that is not 0/0.
pub(super) const CLAIM_INTERVAL: Interval = Interval { advbase: 0, advskew: 1 };

/// The claim under way, and the memory of the last one.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim {
    active: Option<Active>,
    /// Length and end of the last contested claim.
    last: Option<(Duration, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Active {
    length: Duration,
    until: Instant,
    /// When it is known that no other master is left, unless one is heard before; `None` once one was.
    moot_at: Option<Instant>,
}

impl Claim {
    /// Begins a claim. `moot_at`: all members are past their master-down time if nobody is heard until then.
    pub(super) fn begin(&mut self, now: Instant, moot_at: Instant) {
        let length = match self.last {
            Some((length, end)) if now.since(end) < CLAIM_MEMORY => (length * 2).min(CLAIM_MAX),
            Some(_) | None => CLAIM_FIRST,
        };
        self.active = Some(Active { length, until: now + length, moot_at: Some(moot_at) });
    }

    /// Another master was heard: the claim is needed to its end.
    pub(super) fn contested(&mut self) {
        if let Some(active) = &mut self.active {
            active.moot_at = None;
        }
    }

    /// The claim ends because its time has come or because this node is no longer master.
    pub(super) fn end(&mut self, now: Instant) {
        if let Some(active) = self.active.take()
            && active.moot_at.is_none()
        {
            self.last = Some((active.length, now));
        }
    }

    /// Ends the claim when it is over or moot.
    pub(super) fn on_timer(&mut self, now: Instant) {
        if self.poll_at().is_some_and(|at| at <= now) {
            self.end(now);
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.is_some()
    }

    pub(super) fn poll_at(&self) -> Option<Instant> {
        self.active.and_then(|active| earliest(Some(active.until), active.moot_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Begins a claim, contests it, lets it run out, and gives its length and end.
    fn contested(claim: &mut Claim, now: Instant) -> (u64, Instant) {
        claim.begin(now, now + SECOND);
        claim.contested();
        let end = claim.poll_at().unwrap();
        claim.on_timer(end);
        assert!(!claim.is_active());
        (end.since(now).as_secs(), end)
    }

    /// Repeated claims double up to five minutes; after ten quiet minutes they begin again at 30 s.
    #[test]
    fn contested_claims_grow_and_are_forgotten() {
        let mut claim = Claim::default();
        let mut now = Instant(1);
        let mut lengths = Vec::new();
        for _ in 0..6 {
            let (length, end) = contested(&mut claim, now);
            lengths.push(length);
            now = end + SECOND * 3;
        }
        assert_eq!(lengths, [30, 60, 120, 240, 300, 300]);
        assert_eq!(contested(&mut claim, now + SECOND * 601).0, 30);
    }

    /// A claim that nobody contests ends when all members are known to be silent, and the next is not longer.
    #[test]
    fn uncontested_claims_end_early() {
        let mut claim = Claim::default();
        let start = Instant(1);
        claim.begin(start, start + SECOND);
        claim.on_timer(start + SECOND / 2);
        assert!(claim.is_active());
        claim.on_timer(start + SECOND);
        assert!(!claim.is_active());
        assert_eq!(contested(&mut claim, start + SECOND * 2).0, 30);
    }

    /// Losing the role ends the claim, and it still counts as one.
    #[test]
    fn an_interrupted_claim_is_remembered() {
        let mut claim = Claim::default();
        let start = Instant(1);
        claim.begin(start, start + SECOND);
        claim.contested();
        claim.end(start + SECOND);
        assert!(!claim.is_active());
        assert_eq!(contested(&mut claim, start + SECOND * 4).0, 60);
    }
}
