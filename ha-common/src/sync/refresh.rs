//! ALARM: every flow of this node is sent again within a refresh time, and a peer's flow that was not named for the cache
//! timeout is let go.
//!
//! A refresh is a transfer of the table ([`super::bulk`]) that is let through in portions over its time, one after the other
//! as long as the session lasts. How long ago a flow was last named follows from the number of the transfer that named it:
//! no entry has a clock. While nothing is heard of the peer no new transfer is, so a dead peer's flows do not grow old: after
//! a takeover they are this node's.

use super::engine::Engine;
use super::modes::Mode;
use super::table::Slot;
use crate::role::Role;
use crate::time::Instant;
use core::time::Duration;
use std::collections::VecDeque;

/// Portions are let through at most this often; a small table waits for its next slot.
const STEP_MIN: Duration = Duration::from_millis(10);
/// How finely the start of transfers is remembered: parts of the cache timeout.
const ROUNDS: u32 = 16;

/// How many of `slots` may have been walked when a round of `period` has lasted for `elapsed`.
pub(super) fn portion(slots: Slot, elapsed: Duration, period: Duration) -> Slot {
    let slots = u128::from(slots);
    let part = slots.saturating_mul(elapsed.as_nanos()) / period.as_nanos().max(1);
    Slot::try_from(part.min(slots)).unwrap_or(Slot::MAX)
}

/// The time from one portion to the next.
pub(super) fn step(slots: Slot, period: Duration) -> Duration {
    (period / slots.max(1)).max(STEP_MIN)
}

/// When the newest transfers of a peer began to be heard.
#[derive(Debug)]
pub(super) struct Rounds {
    cache: Duration,
    seen: VecDeque<(Instant, u32)>,
}

impl Rounds {
    pub fn new(cache: Duration) -> Self {
        Self { cache, seen: VecDeque::new() }
    }

    /// A frame of this transfer has come.
    pub fn note(&mut self, now: Instant, epoch: u32) {
        let is_news = |&(at, last): &(Instant, u32)| last != epoch && now.since(at) >= self.cache / ROUNDS;
        if self.seen.back().is_none_or(is_news) {
            self.seen.push_back((now, epoch));
            while self.seen.get(1).is_some_and(|&(at, _)| now.since(at) >= self.cache) {
                self.seen.pop_front();
            }
        }
    }

    /// The peer was silent for long: the time that counts begins anew.
    pub fn clear(&mut self) {
        self.seen.clear();
    }

    /// Of flows that were last named before this transfer nothing was heard for the cache timeout; `None`: the peer
    /// has not been heard for so long.
    pub fn horizon(&self, now: Instant) -> Option<u32> {
        let old = self.seen.iter().rev().find(|(at, _)| now.since(*at) >= self.cache);
        old.map(|&(_, epoch)| epoch)
    }
}

/// Is a transfer older than another, by the low bits that an entry keeps?
pub(super) fn is_before(epoch: u16, horizon: u32) -> bool {
    (horizon as u16).wrapping_sub(epoch) as i16 > 0
}

impl Engine {
    /// Lets the next portion of the refresh through.
    pub(super) fn run_refresh(&mut self, now: Instant, index: usize) {
        let (master, slots) = (self.role == Role::Master, self.table.slots());
        let Some(period) = self.refresh_period() else { return };
        if let Some(peer) = self.peers.get_mut(index).filter(|peer| peer.up) {
            peer.outbox.bulk.refresh(now, period, master, slots);
        }
    }

    /// When the next portion is due.
    pub(super) fn refresh_at(&self) -> Option<Instant> {
        let period = self.refresh_period()?;
        let bulks = self.peers.iter().filter(|peer| peer.up).map(|peer| &peer.outbox.bulk);
        bulks.filter_map(|bulk| bulk.refresh_at(self.ran_at, period)).min()
    }

    fn refresh_period(&self) -> Option<Duration> {
        match self.mode {
            Mode::Ftfw | Mode::Notrack => None,
            Mode::Alarm => Some(self.refresh_time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Portions grow evenly from nothing to all, for any size of table, and the last of them is the whole.
    #[test]
    fn portions_are_even() {
        for slots in [0, 1, 7, 1_000_000, Slot::MAX] {
            let at = |tenths: u32| portion(slots, SECOND / 10 * tenths, SECOND);
            assert_eq!((at(0), at(10), at(30)), (0, slots, slots));
            assert!((0..10).all(|tenth| (at(tenth + 1) - at(tenth)).abs_diff(slots / 10) <= 1));
            assert!(step(slots, SECOND) >= STEP_MIN && step(slots, SECOND) <= SECOND);
        }
    }

    /// The horizon is a transfer that was on when the cache timeout began, it never comes near, and little is remembered.
    #[test]
    fn the_horizon_is_a_cache_timeout_away() {
        let cache = SECOND * 60;
        let mut rounds = Rounds::new(cache);
        let start = Instant(5_000_000_000);
        for second in 0..1000u32 {
            // A transfer a second.
            let now = start + SECOND * second;
            rounds.note(now, second);
            let age = rounds.horizon(now).map(|epoch| second - epoch);
            if second < 60 {
                assert_eq!(age, None);
            } else {
                assert!((60..=60 + 60 / 16 + 1).contains(&age.unwrap()), "{age:?}");
            }
            assert!(rounds.seen.len() <= ROUNDS as usize + 2);
        }
        rounds.clear();
        assert_eq!(rounds.horizon(start + SECOND * 2000), None);
    }

    /// Numbers wrap.
    #[test]
    fn order_of_transfers_wraps() {
        assert!(is_before(4, 5) && !is_before(5, 5) && !is_before(6, 5));
        assert!(is_before(u16::MAX, 1 << 16) && !is_before(0, (1 << 16) - 1));
    }
}
