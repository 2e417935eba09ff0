//! The end of flows that nobody names: what a peer's transfer left out, and what a mastership left behind.
//!
//! Where a transfer is reliable, what the master did not name does not exist. Where frames may be lost it may well: then a
//! flow's timeout in the kernel is cut to the purge timeout, and nobody prolongs it until it is named again. So conntrackd's
//! PurgeTimeout does with what a node keeps from its time as master, and so is done here when nobody else judges that.

use super::digest::Buckets;
use super::engine::Engine;
use super::flow::{Flow, status};
use super::modes::Mode;
use super::refresh::is_before;
use super::table::{Entry, Flags, Owner, Slot};
use super::{Action, PeerId};
use crate::role::Role;
use crate::time::Instant;
use core::time::Duration;

/// After the end of a mastership the new master has so long to send its table before this node helps itself.
const JUDGEMENT_MAX: Duration = Duration::from_secs(10);
/// What a peer does not answer for any more may be on its way from the master: so long it is waited for.
const ORPHAN_AGE: Duration = Duration::from_secs(1);
/// So long older words of it may be on their way from any peer, which have not heard the last ones of whoever answered for it.
const ORPHAN_FRESH: Duration = Duration::from_millis(100);
/// Slots looked at per call.
const SLOTS_PER_RUN: Slot = 4096;

/// What a completed transfer of a peer judges.
#[derive(Clone, Copy)]
pub(super) enum Scope<'a> {
    /// The peer's flows, and those of nobody.
    All,
    /// Those of nobody alone: the peer's were judged when the transfer ended.
    Found,
    /// The peer's flows in these buckets.
    Buckets(&'a Buckets),
    /// Only what was not named for the cache timeout: a round of a refresh, of which frames may be missing.
    Refresh,
}

/// What becomes of a flow that was not named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// It does not exist at its owner.
    Deleted,
    /// It may not exist at its owner.
    Cut,
    /// This node, which is master, answers for it from now on.
    Taken,
    /// Nobody answers for it.
    Nobodys,
}

/// A peer's transfer as far as it judges.
#[derive(Clone, Copy)]
struct Judge {
    peer: PeerId,
    by_master: bool,
    epoch: u16,
    /// Flows last named before this transfer are too old.
    horizon: Option<u32>,
}

/// The table of a time as master, to be looked through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remains {
    due: Instant,
    next: Slot,
}

impl Engine {
    /// Ends what the peer's completed transfer did not name; returns how many flows. A transfer of a node that
    /// is not master proves nothing: what it left out belongs to this node if it is master, else to nobody.
    pub(super) fn purge(
        &mut self,
        now: Instant,
        peer: PeerId,
        by_master: bool,
        scope: Scope<'_>,
        out: &mut Vec<Action>,
    ) -> u64 {
        let Some(state) = self.peers.get(usize::from(peer.0)) else { return 0 };
        let horizon = state.inbox.rounds.horizon(now);
        let judge = Judge { peer, by_master, epoch: state.inbox.epoch as u16, horizon };
        // What was given away the peer takes with the end of this node's transfer, or from a frame on its way, and cannot name before.
        // A repair begins when everything was offered.
        let handing_over = !state.outbox.bulk.is_done() && !state.outbox.bulk.is_repair();
        let (bit, in_flight) = (super::peer::bit(peer), state.outbox.in_flight());
        let mut purged = 0;
        for slot in 0..self.table.slots() {
            let Some(entry) = self.table.get(slot).filter(|entry| entry.is_live()) else { continue };
            let fate = self.fate(entry, judge, scope);
            let is_told = || entry.dirty & bit != 0 || in_flight.binary_search(&slot).is_ok();
            let is_offered = || (handing_over && entry.flags.has(Flags::GIVEN)) || is_told();
            // Nobody's flow is told to nobody, whatever it was before.
            if fate == Fate::Stays || (entry.owner() != Owner::Found && is_offered()) {
                continue;
            }
            match fate {
                Fate::Stays => {}
                Fate::Deleted => {
                    self.strays.deletion(now);
                    out.push(Action::Delete { key: entry.key(), id: entry.id });
                    self.forget(slot);
                    purged += 1;
                }
                Fate::Cut => purged += u64::from(self.cut(slot, out)),
                Fate::Taken => {
                    self.adopt(now, slot, out);
                    self.mark_taken(now, slot);
                }
                Fate::Nobodys => {
                    self.table.set_owner(slot, Owner::Found);
                    if let Some(entry) = self.table.get_mut(slot) {
                        entry.flags.clear(Flags::HANDOVER);
                        entry.flags.clear(Flags::GIVEN);
                    }
                    self.orphans_due = self.orphans_due.or(Some(now + ORPHAN_AGE));
                }
            }
        }
        purged
    }

    /// Some flows have become nobody's just now.
    pub(super) fn orphans_are_fresh(&self, now: Instant) -> bool {
        self.orphans_due.is_some_and(|due| now + ORPHAN_AGE < due + ORPHAN_FRESH)
    }

    /// Ends what a peer that is not master has left, unless the master names it meanwhile. The master's own transfer may have
    /// ended before, when the flow still had an owner, and could not judge it.
    pub(super) fn run_orphans(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.orphans_due.is_none_or(|due| due > now) {
            return;
        }
        self.orphans_due = None;
        // A master adopts them itself; without one they are kept for the next.
        if self.role == Role::Master || !self.peers.iter().any(|peer| peer.up && peer.role == Role::Master) {
            return;
        }
        if !self.purge_found_if_judged(now, out) {
            self.orphans_due = Some(now + ORPHAN_AGE);
        }
    }

    fn fate(&self, entry: &Entry, judge: Judge, scope: Scope<'_>) -> Fate {
        let is_unnamed = entry.owner() == Owner::Peer(judge.peer) && entry.epoch != judge.epoch;
        let is_old = || is_unnamed && judge.horizon.is_some_and(|horizon| is_before(entry.epoch, horizon));
        let judged = match (entry.owner(), scope) {
            (Owner::Local, _) => false,
            (Owner::Found, Scope::All | Scope::Found) => self.role != Role::Master,
            // No transfer of a whole cache timeout has named it.
            (Owner::Found, Scope::Refresh) => self.role != Role::Master && judge.horizon.is_some(),
            (Owner::Found, Scope::Buckets(_)) | (Owner::Peer(_), Scope::Found) => false,
            // What waits in a socket while this node stands still was built before the peer heard that the flow is its own.
            (Owner::Peer(_), Scope::All) => is_unnamed && (judge.by_master || !entry.flags.has(Flags::GIVEN)),
            (Owner::Peer(_), Scope::Buckets(buckets)) => is_unnamed && buckets.contains(self.table.bucket(entry)),
            (Owner::Peer(_), Scope::Refresh) => is_old(),
        };
        match (judged, judge.by_master, self.mode) {
            (false, _, _) => Fate::Stays,
            (true, false, _) if self.role == Role::Master => Fate::Taken,
            (true, false, _) => Fate::Nobodys,
            (true, true, Mode::Ftfw) => Fate::Deleted,
            (true, true, Mode::Notrack) => Fate::Cut,
            (true, true, Mode::Alarm) if entry.owner() == Owner::Found => Fate::Cut,
            (true, true, Mode::Alarm) if is_old() => Fate::Deleted,
            // The next refreshes name it, or its time comes.
            (true, true, Mode::Alarm) => Fate::Stays,
        }
    }

    /// The kernel's entry lives for the purge timeout at most, unless packets or a peer say otherwise. False when that was
    /// so already, or cannot be.
    fn cut(&mut self, slot: Slot, out: &mut Vec<Action>) -> bool {
        let purge = u32::try_from(self.purge_timeout.as_secs()).unwrap_or(u32::MAX);
        let Some(entry) = self.table.get_mut(slot) else { return false };
        if entry.flags.has(Flags::CUT) || entry.status() & status::FIXED_TIMEOUT != 0 {
            return false;
        }
        entry.flags.set(Flags::CUT);
        // Where an update was refused the kernel has an earlier state, which nobody would know of.
        if entry.flags.has(Flags::ABSENT) && !entry.flags.has(Flags::OUTDATED) {
            self.forget(slot);
            return true;
        }
        // What was written for a peer may have more left than it was told with, whoever's it is now; what traffic made here has
        // not.
        let may_have_more = match entry.owner() {
            Owner::Peer(_) => true,
            Owner::Local | Owner::Found => entry.timeout > purge || entry.flags.has(Flags::WRITTEN),
        };
        if may_have_more {
            entry.flags.set(Flags::WRITTEN);
            out.push(Action::Update(Flow { timeout: purge, ..entry.flow() }));
            self.table.set_absent(slot, false);
        }
        self.counters.cut += 1;
        true
    }

    /// The kernel did not cut the timeout of nobody's flow: it is judged once more.
    pub(super) fn cut_refused(&mut self, now: Instant, slot: Slot) {
        if let Some(entry) = self.table.get_mut(slot).filter(|entry| entry.flags.has(Flags::CUT)) {
            entry.flags.clear(Flags::CUT);
            self.orphans_due = self.orphans_due.or(Some(now + ORPHAN_AGE));
        }
    }

    /// The same of a peer's flow, whose writes are tried again.
    pub(super) fn cut_again(&mut self, slot: Slot, out: &mut Vec<Action>) {
        self.table.set_absent(slot, false);
        if let Some(entry) = self.table.get_mut(slot) {
            entry.flags.clear(Flags::CUT);
            entry.flags.clear(Flags::OUTDATED);
            self.cut(slot, out);
        }
    }

    /// A mastership has ended: what it left behind is looked through when its time has come.
    pub(super) fn expect_judgement(&mut self, now: Instant) {
        self.remains = Some(Remains { due: now + JUDGEMENT_MAX.min(self.purge_timeout), next: 0 });
    }

    /// A master's whole table has come, or this node is master itself.
    pub(super) fn judgement_done(&mut self) {
        self.remains = None;
    }

    pub(super) fn remains_at(&self) -> Option<Instant> {
        self.remains.map(|remains| remains.due)
    }

    /// Cuts what this node has from its time as master and no master has named, a portion at a time.
    pub(super) fn run_purge(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(remains) = self.remains.filter(|remains| remains.due <= now) else { return };
        if !self.is_replaced() {
            // Nobody is known to forward: this node may be the next to.
            return self.expect_judgement(now);
        }
        let end = remains.next.saturating_add(SLOTS_PER_RUN).min(self.table.slots());
        for slot in remains.next..end {
            if self.table.get(slot).is_some_and(|entry| self.is_remains(entry)) {
                self.cut(slot, out);
            }
        }
        self.remains = (end < self.table.slots()).then_some(Remains { due: now, next: end });
    }

    /// Is another node master? Without word of any peer, whoever made this node a backup is.
    fn is_replaced(&self) -> bool {
        let mut up = self.peers.iter().filter(|peer| peer.up).peekable();
        match up.peek() {
            Some(_) => up.any(|peer| peer.role == Role::Master),
            None => self.role == Role::Backup,
        }
    }

    fn is_remains(&self, entry: &Entry) -> bool {
        // A transfer of the whole table has named it or was not to: what a repair leaves out was proven.
        let named = |peer: PeerId| {
            let peer = self.peers.get(usize::from(peer.0)).filter(|peer| peer.up);
            peer.is_some_and(|peer| !is_before(entry.epoch, peer.inbox.whole_ended))
        };
        entry.is_live()
            && match entry.owner() {
                Owner::Local => !entry.flags.has(Flags::LIVE_HERE),
                Owner::Found => true,
                Owner::Peer(peer) => !named(peer),
            }
    }
}

#[cfg(test)]
mod tests;
