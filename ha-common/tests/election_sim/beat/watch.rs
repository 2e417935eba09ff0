//! The watch over both gates, after every event.

use super::world::{Host, World};
use ha_common::time::Instant;
use ha_common::wire::heartbeat::{FLAG_OFFER, Standing};
use std::collections::BTreeMap;
use std::time::Duration;

/// Both gates may be open for so long when the new master has taken an offer and the old one has not heard yet.
const OVERLAP_MAX: Duration = Duration::from_millis(4);
/// An offer that was withdrawn may still be taken by words that are so old.
const WITHDRAWN: Duration = Duration::from_millis(30);
/// After a cut of every path is healed, or when nothing ran, one gate closes within this.
const HEALED: Duration = Duration::from_millis(60);

/// The longest times of what must be short.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    pub none: Duration,
    pub overlap: Duration,
    /// Both gates open, all paths cut or nothing running.
    pub excused: Duration,
    pub changes: u64,
}

/// What the watch remembers.
#[derive(Default)]
pub struct Memory {
    connected_since: Option<Instant>,
    none_since: Option<Instant>,
    two_since: Option<Instant>,
    /// When an offer last stood.
    offered_at: Option<Instant>,
    open_before: [bool; 2],
    /// Who used a term; the mastership under way of each host.
    terms: BTreeMap<u64, usize>,
    current: [u64; 2],
}

impl Memory {
    /// A host that lost power remembers no term.
    pub fn forget_terms(&mut self, index: usize) {
        self.terms.retain(|_, user| *user != index);
        self.current[index] = 0;
    }
}

impl World {
    pub fn observe(&mut self) {
        let now = self.now;
        self.memory.connected_since = self.connected().then(|| self.memory.connected_since.unwrap_or(now));
        let offers = |host: &Host| {
            host.kernel.as_ref().is_some_and(|kernel| Standing::unpack(kernel.entry.state).has(FLAG_OFFER))
        };
        if self.hosts.iter().any(offers) {
            self.memory.offered_at = Some(now);
        }
        let open = [self.is_open(0), self.is_open(1)];
        for (index, is_open) in open.into_iter().enumerate() {
            self.watch.changes += u64::from(self.memory.open_before[index] != is_open);
            self.memory.open_before[index] = is_open;
            if is_open {
                self.check_term(index);
            }
        }
        if open == [true; 2] {
            let since = *self.memory.two_since.get_or_insert(now);
            self.check_two(now, now.since(since));
        } else {
            self.memory.two_since = None;
        }
        let fit = self.is_fit(0) || self.is_fit(1);
        self.memory.none_since = (fit && open == [false; 2]).then(|| self.memory.none_since.unwrap_or(now));
        self.watch.none = self.watch.none.max(self.memory.none_since.map_or(Duration::ZERO, |since| now.since(since)));
    }

    /// Never two open gates, but for the moment of a hand-over, and when no heartbeat can tell one of the other.
    fn check_two(&mut self, now: Instant, lasted: Duration) {
        let offered = self.memory.offered_at.is_some_and(|at| now.since(at) < WITHDRAWN);
        let handed_over = offered && lasted < OVERLAP_MAX;
        let apart = self.memory.connected_since.is_none_or(|since| now.since(since) < HEALED);
        if handed_over {
            self.watch.overlap = self.watch.overlap.max(lasted);
        } else if apart {
            self.watch.excused = self.watch.excused.max(lasted);
        } else {
            let last = |index: usize| self.hosts[index].daemon.as_ref().and_then(|d| d.transitions.last().copied());
            panic!("seed {}: both gates open for {lasted:?} at {now:?}: {:?}", self.seed, [last(0), last(1)]);
        }
    }

    /// A term is one mastership of one node.
    fn check_term(&mut self, index: usize) {
        let Some(kernel) = &self.hosts[index].kernel else { return };
        let term = kernel.entry.term;
        if self.memory.current[index] != term {
            self.memory.current[index] = term;
            let known = self.memory.terms.insert(term, index);
            assert_eq!(known, None, "seed {}: term {term:#x} used again", self.seed);
        }
    }

    pub fn watch_anew(&mut self) {
        self.watch = Watch::default();
        self.memory.none_since = None;
    }
}
