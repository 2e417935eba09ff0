//! What happens on this node: kernel events and changes of role.

use super::engine::Engine;
use super::entry::UNLINKED;
use super::flow::{Flow, FlowKey};
use super::remote::{absent, is_same_state};
use super::stamp::Stamp;
use super::table::{Entry, Flags, Owner, Slot};
use super::{Action, Event, PeerId};
use crate::role::Role;
use crate::time::Instant;

/// A flow that is short-lived and whose kernel timeout is unknown, or whose windows must be opened, is written within
/// this many seconds, others later.
const UNKNOWN_TIMEOUT_SHORT: u32 = 5;
const UNKNOWN_TIMEOUT_LONG: u32 = 60;
const SHORT: u32 = 180;

/// How far the clock is put forward when a mastership begins. A master that stood still has read nothing of what its kernel did
/// meanwhile when another takes over, and will tell it as news: what the new one has changed by then is newer, however much
/// that is. And what the clock shows at least for each number of terms ([`Input::Term`](super::Input::Term)).
const MASTERSHIP: u64 = 1 << 20;

impl Engine {
    /// Real traffic (or an operator) created or changed a flow here.
    pub(super) fn on_changed(&mut self, now: Instant, flow: &Flow, out: &mut Vec<Action>) {
        let generation = self.dump.generation_of_event();
        if self.strays.take(now, &flow.key) {
            self.dump.read_again();
        }
        let Some(slot) = self.table.find(&flow.key) else {
            let version = self.tick();
            let slot = self.insert(flow, Owner::Local, version, out);
            if let Some(entry) = slot.and_then(|slot| self.table.get_mut(slot)) {
                entry.dump = generation;
            }
            slot.into_iter().for_each(|slot| self.publish_changed(now, slot, out));
            return self.expect_early(now, &flow.key, out);
        };
        let Some(entry) = self.table.get_mut(slot) else { return };
        entry.dump = generation;
        entry.flags.clear(Flags::CUT);
        let old = entry.flow();
        let mut flow = flow.clone();
        let is_revived = entry.is_tombstone();
        if is_revived {
            self.table.revive(slot);
        } else {
            entry.retries = 0;
            flow.complete_with(&old);
            self.table.set_absent(slot, false);
            let Some(entry) = self.table.get_mut(slot) else { return };
            if is_same_state(&old, &flow) {
                entry.id = flow.id;
                if entry.owner() == Owner::Local {
                    entry.timeout = flow.timeout;
                }
                return;
            }
        }
        let version = self.tick();
        if let Some(entry) = self.table.get_mut(slot) {
            entry.set_flow(&flow);
        }
        self.table.claim(slot, Owner::Local, version);
        self.publish_changed(now, slot, out);
        if is_revived {
            self.expect_early(now, &flow.key, out);
        }
    }

    fn publish_changed(&mut self, now: Instant, slot: Slot, out: &mut Vec<Action>) {
        self.publish(now, slot);
        self.fetch_if_adjusted(now, slot, out);
    }

    /// The kernel deleted a flow.
    pub(super) fn on_destroyed(&mut self, now: Instant, key: &FlowKey, id: u32, out: &mut Vec<Action>) {
        let known = self.table.find(key);
        let is_known = known.and_then(|slot| self.table.get(slot)).is_some_and(Entry::is_live);
        if !is_known {
            self.strays.note(now, key);
        }
        let Some(slot) = known else { return self.remember_end(key) };
        let (dumping, generation) = (self.dump.has_begun(), self.dump.generation_of_event());
        let Some(entry) = self.table.get_mut(slot) else { return };
        if entry.is_tombstone() {
            // As one that is not known.
            if dumping {
                entry.dump = generation;
                entry.flags.set(Flags::HELD_FOR_DUMP);
            }
            return;
        }
        if id != 0 && entry.id != 0 && id != entry.id {
            // The tuple was used again before this event came, and the new flow lives. Or no event told of the begin of what has
            // ended: it was lost, or a write that waited has replaced the entry that is known.
            return self.dump.read_again();
        }
        entry.dump = generation;
        self.vanished(now, slot, true, out);
    }

    /// A flow that is not known has ended while a dump runs: a line that was made before, and is still to be read, is not believed.
    fn remember_end(&mut self, key: &FlowKey) {
        if self.dump.has_begun()
            && let Some(slot) = self.table.insert(&absent(*key), Owner::Found, 0)
        {
            self.forget(slot);
        }
    }

    /// A flow of this node is gone: the peers are told until they know.
    pub(super) fn entomb_local(&mut self, now: Instant, slot: Slot) {
        let version = self.tick();
        let owed = self.up_mask();
        let dumping = self.dump.is_running();
        self.table.entomb(slot);
        self.table.set_version(slot, version);
        if let Some(entry) = self.table.get_mut(slot) {
            entry.owed = owed;
            if dumping {
                entry.flags.set(Flags::HELD_FOR_DUMP);
            }
        }
        self.mark_all(now, slot);
        self.table.bury(slot);
    }

    /// The entry goes without a word to the peers. A dump that runs may still tell of it, and is not believed; what a peer says of it
    /// counts, as it does where nothing is known.
    pub(super) fn forget(&mut self, slot: Slot) {
        if self.dump.is_running() {
            let generation = self.dump.generation();
            self.table.entomb(slot);
            self.table.set_version(slot, 0);
            if let Some(entry) = self.table.get_mut(slot) {
                entry.owed = 0;
                entry.dump = generation;
                entry.flags.set(Flags::HELD_FOR_DUMP);
            }
        } else {
            self.table.remove(slot);
        }
    }

    pub(super) fn on_role(&mut self, now: Instant, role: Role, out: &mut Vec<Action>) {
        let before = core::mem::replace(&mut self.role, role);
        if before == role {
            return;
        }
        self.dump.on_role(role);
        if role == Role::Master {
            self.judgement_done();
            let found = self.tick();
            // A mastership before, of which nothing was heard on the sync link, has made the same leap.
            let begun = self.term.saturating_mul(MASTERSHIP);
            self.clock = self.clock.saturating_add(MASTERSHIP).max(begun);
            self.mastership = self.clock;
            self.later_from = if self.term == 0 { 0 } else { begun.saturating_add(MASTERSHIP) };
            self.adopt_all(now, found, out);
            let recent = self.transfer_classes();
            for peer in self.peers.iter_mut().filter(|peer| peer.up) {
                peer.start_bulk(true, &self.table, recent);
            }
        } else if before == Role::Master {
            self.relax_after_mastership();
            self.expect_judgement(now);
            if let Some(peer) = self.heir() {
                self.hand_over(now, peer, None);
            }
        }
        self.peers.iter_mut().for_each(super::peer::Peer::hello_at_once);
    }

    /// Whoever owned it: a master answers for every flow. The kernel has them already, but for those that it refused. `found`: what
    /// nobody's are worth from now on.
    fn adopt_all(&mut self, now: Instant, found: u64, out: &mut Vec<Action>) {
        // These are no copies any more. A flow that stayed linked would have its next visit in the copy's time, also when it is given
        // away by then, and packets have set a shorter one.
        self.wheel.stop();
        for slot in 0..self.table.slots() {
            self.count_as_master(now, slot);
            if let Some(entry) = self.table.slot_mut(slot) {
                entry.wheel_next = UNLINKED;
            }
            let Some(entry) = self.table.get_mut(slot).filter(|entry| entry.is_live()) else { continue };
            entry.flags.clear(Flags::LIVE_HERE);
            entry.flags.clear(Flags::HANDOVER);
            // Where an update was refused the kernel has an earlier state.
            let has_ended = [Flags::GIVEN, Flags::ABSENT].iter().all(|flag| entry.flags.has(*flag));
            let has_ended = has_ended && ![Flags::RETRIED, Flags::OUTDATED].iter().any(|flag| entry.flags.has(*flag));
            entry.flags.clear(Flags::GIVEN);
            entry.flags.clear(Flags::CUT);
            match entry.owner() {
                // In an earlier mastership, and nobody has named it since.
                Owner::Peer(_) if has_ended => self.forget(slot),
                Owner::Local => {}
                Owner::Found => {
                    self.table.claim(slot, Owner::Local, found);
                    self.adopt(now, slot, out);
                }
                Owner::Peer(_) => self.adopt(now, slot, out),
            }
        }
    }

    /// What this kernel has told since the engine last ran is read before the role, and may have happened after the mastership began,
    /// for as long as the loop stood still: it counts as a change of it.
    fn count_as_master(&mut self, now: Instant, slot: Slot) {
        // What a change of role that was read just before has given away is this node's as well.
        let is_given =
            |entry: &Entry| entry.is_live() && entry.flags.has(Flags::GIVEN) && !entry.flags.has(Flags::ABSENT);
        let is_own = |entry: &Entry| entry.owner() == Owner::Local || is_given(entry);
        let is_news = |entry: &Entry| is_own(entry) && entry.version() > self.clock_ran;
        if self.table.get(slot).is_some_and(is_news) {
            self.insist(now, slot);
        }
    }

    /// This node is master and that peer is gone: its flows are this node's.
    pub(super) fn adopt_from(&mut self, now: Instant, peer: PeerId, out: &mut Vec<Action>) {
        for slot in 0..self.table.slots() {
            if self.table.get(slot).is_some_and(|entry| entry.is_owned_by(peer)) {
                self.adopt(now, slot, out);
            }
        }
    }

    /// A peer's or nobody's flow is this node's from now on. One that the kernel lacks, and that waited to be created again, is not
    /// waited for any more: whoever answers for a flow has it, or says that it is gone.
    pub(super) fn adopt(&mut self, now: Instant, slot: Slot, out: &mut Vec<Action>) {
        self.table.set_owner(slot, Owner::Local);
        if self.table.get(slot).is_some_and(|entry| entry.flags.has(Flags::ABSENT)) {
            self.write_again(now, slot, out);
        }
        self.fetch_if_adjusted(now, slot, out);
    }

    /// This node is not master: what it held as such belongs to `peer` now. Changes still to be sent are
    /// sent as gifts. `version`: what the flows are worth against the peer's own (`None`: as they are).
    pub(super) fn hand_over(&mut self, now: Instant, peer: PeerId, version: Option<u64>) {
        let Some(state) = self.peers.get_mut(usize::from(peer.0)) else { return };
        let sending = !state.outbox.bulk.is_done();
        let epoch = state.inbox.epoch as u16;
        for slot in 0..self.table.slots() {
            // What was given to another is the master's as well, unless that one has named it.
            let is_given = |entry: &Entry| entry.flags.has(Flags::GIVEN) && entry.is_live() && !entry.is_owned_by(peer);
            let is_mine = |entry: &&mut Entry| entry.is_local() || is_given(entry);
            let Some(entry) = self.table.get_mut(slot).filter(is_mine) else { continue };
            if entry.flags.has(Flags::LIVE_HERE) {
                continue;
            }
            let kept = entry.version();
            if version.is_none() {
                // A transfer that began before this moment does not judge it.
                entry.epoch = epoch;
                entry.flags.set(Flags::GIVEN);
                entry.flags.clear(Flags::HANDOVER);
                if sending {
                    entry.flags.set(Flags::HANDOVER);
                }
            }
            let strict_windows = entry.has_tcp() && !entry.flags.has(Flags::WRITTEN);
            let soon = strict_windows || entry.timeout < SHORT;
            let within = if soon { UNKNOWN_TIMEOUT_SHORT } else { UNKNOWN_TIMEOUT_LONG };
            self.table.claim(slot, Owner::Peer(peer), version.unwrap_or(kept));
            self.keep_alive_within(now, slot, within);
        }
        // Names what is still this node's, so that the peer takes the rest: reliable, where a hello is not.
        let recent = self.transfer_classes();
        if let Some(state) = self.peers.get_mut(usize::from(peer.0)) {
            state.start_bulk(false, &self.table, recent);
        }
    }

    /// The live peer that takes over: the one that is master, else the first.
    fn heir(&self) -> Option<PeerId> {
        let mut up = self.peers.iter().filter(|peer| peer.up);
        let master = up.clone().find(|peer| peer.role == Role::Master);
        master.or_else(|| up.next()).map(|peer| peer.id)
    }

    /// Adds a flow, or counts and reports that the table is full.
    pub(super) fn insert(&mut self, flow: &Flow, owner: Owner, version: u64, out: &mut Vec<Action>) -> Option<Slot> {
        let slot = self.table.insert(flow, owner, version);
        match slot.and_then(|slot| self.table.get_mut(slot)) {
            Some(entry) => {
                entry.dump = self.dump.generation();
                self.full_reported &= self.table.is_full();
            }
            None => {
                self.counters.refused_full += 1;
                if !core::mem::replace(&mut self.full_reported, true) {
                    out.push(Action::Event(Event::TableFull));
                }
            }
        }
        slot
    }

    /// A change made here is to be sent to every live peer.
    pub(super) fn publish(&mut self, now: Instant, slot: Slot) {
        if let Some(entry) = self.table.get_mut(slot) {
            match self.role {
                Role::Master => {}
                Role::Init | Role::Backup | Role::Fault => entry.flags.set(Flags::LIVE_HERE),
            }
        }
        self.mark_all(now, slot);
    }

    /// A flow has come to be this node's that a peer had: who is amid a transfer is to hear of it before its end.
    pub(super) fn mark_taken(&mut self, now: Instant, slot: Slot) {
        self.mark_all(now, slot);
        for peer in self.peers.iter_mut().filter(|peer| peer.up) {
            peer.outbox.bulk.owe_late(slot);
        }
    }

    pub(super) fn mark_all(&mut self, now: Instant, slot: Slot) {
        for peer in self.peers.iter_mut().filter(|peer| peer.up) {
            peer.outbox.mark(&mut self.table, slot, Stamp::at(now));
        }
    }
}

#[cfg(test)]
mod tests;
