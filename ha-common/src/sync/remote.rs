//! What a peer says: its changes, judged by version and owner, become writes into this node's kernel.

use super::digest::Buckets;
use super::engine::Engine;
use super::flow::{Extra, Flow, FlowKey, status};
use super::modes::Mode;
use super::order::{is_reopened, is_tcp_set_back};
use super::peer::Peer;
use super::purge::Scope;
use super::stamp::Stamp;
use super::table::{Entry, Flags, Owner, Slot};
use super::{Action, Event, PeerId, encode};
use crate::proto::{self, change::Kind};
use crate::reason::DropReason;
use crate::role::Role;
use crate::time::Instant;

/// The frame a change came in.
#[derive(Clone, Copy)]
struct Origin {
    peer: PeerId,
    sequence: u64,
    /// The peer's transfer epoch in which the frame was built.
    epoch: u32,
}

/// What replication means by "unchanged". Timeouts run by themselves; window scale and flags are learned
/// together with a state, and read back differently from an entry that was written (`ctnetlink` section 5).
pub(super) fn is_same_state(a: &Flow, b: &Flow) -> bool {
    a.reply == b.reply
        && (a.status ^ b.status) & status::REPLICATED == 0
        && a.mark == b.mark
        && a.tcp.map(|tcp| tcp.state) == b.tcp.map(|tcp| tcp.state)
        && a.extra == b.extra
}

/// Bits that the kernel cannot clear and addresses that it cannot change make it another flow
/// (`ctnetlink` section 9). So do a helper and a zone's direction, which only a new entry can have, and an earlier TCP state:
/// its owner knows of another connection, and no entry is set back.
fn is_replacement(old: &Flow, new: &Flow) -> bool {
    let (old_extra, new_extra) = (old.extra.as_deref(), new.extra.as_deref());
    let helper = |extra: Option<&Extra>| extra.and_then(|extra| extra.helper.clone());
    let direction = |extra: Option<&Extra>| extra.map(|extra| extra.zone_direction).unwrap_or_default();
    old.reply != new.reply
        || old.status & !new.status & status::REPLICATED != 0
        || is_tcp_set_back(old, new)
        || direction(old_extra) != direction(new_extra)
        || helper(new_extra).is_some() && helper(old_extra) != helper(new_extra)
}

impl Engine {
    /// Applies an authentic data frame.
    pub(super) fn on_data(
        &mut self,
        now: Instant,
        peer: PeerId,
        sequence: u64,
        data: &proto::Data,
        out: &mut Vec<Action>,
    ) {
        let origin = Origin { peer, sequence, epoch: data.epoch };
        // Masters before those that they announced.
        let related = data.changes.iter().filter(|change| is_related(change));
        for change in data.changes.iter().filter(|change| !is_related(change)).chain(related) {
            let understood = match &change.kind {
                Some(Kind::Upsert(message)) => self.on_upsert(now, origin, message, out),
                Some(Kind::Removal(message)) => self.on_removal(now, origin, message, out),
                Some(Kind::Want(key)) => self.on_want(now, peer, key),
                Some(Kind::BulkEnd(end)) => self.on_bulk_end(now, peer, end, out),
                Some(Kind::Digest(digest)) => self.on_digest(peer, sequence, digest),
                Some(Kind::DigestAnswer(answer)) => {
                    self.on_digest_answer(now, peer, answer, out);
                    true
                }
                // A change of a later version of the protocol.
                None => true,
            };
            if !understood {
                self.refuse(DropReason::FrameBody);
            }
        }
    }

    fn on_upsert(&mut self, now: Instant, origin: Origin, message: &proto::Flow, out: &mut Vec<Action>) -> bool {
        let Some(flow) = encode::flow_value(message) else { return false };
        let version = message.version;
        self.clock = self.clock.max(version);
        if let Some(peer) = self.peers.get_mut(usize::from(origin.peer.0)) {
            peer.counters.flows_received += 1;
        }
        let owner = if message.handover && self.role == Role::Master { Owner::Local } else { Owner::Peer(origin.peer) };
        let Some(slot) = self.table.find(&flow.key) else {
            if let Some(slot) = self.insert(&flow, owner, version, out) {
                self.on_accepted(now, origin, slot, owner);
                self.create(now, slot, out);
            }
            return true;
        };
        let Some(entry) = self.table.get(slot) else { return true };
        // Who gives a flow to the node that answers for it already says that it is not its own: a frame that was lost carried it
        // before it came to be this node's, and is sent again.
        let is_given_again = message.handover && entry.is_local() && version == entry.version();
        let is_lost_tie = || self.loses_tie(entry, origin.peer, &flow, version);
        if is_given_again || !self.is_accepted(now, entry, origin, version) || is_lost_tie() {
            self.counters.stale_ignored += 1;
            self.name_in_epoch(origin, slot);
            self.tell_the_owner(now, origin.peer, slot, version);
            self.settle_tie(now, slot, &flow, version);
            return true;
        }
        if self.is_set_back(origin.peer, slot, &flow) {
            self.counters.regressions_ignored += 1;
            self.insist(now, slot);
            return true;
        }
        let Some(entry) = self.table.get(slot) else { return true };
        let absent = entry.flags.has(Flags::ABSENT) && !entry.flags.has(Flags::OUTDATED);
        let (was_live, old, is_outdated) = (entry.is_live(), entry.flow(), entry.flags.has(Flags::OUTDATED));
        let (was_copy, listed) = (matches!(entry.owner(), Owner::Peer(_)), entry.dump);
        let was_cut = entry.flags.has(Flags::CUT);
        let changed = entry.version() != version;
        if !was_live {
            self.table.revive(slot);
        }
        self.table.claim(slot, owner, version);
        if let Some(entry) = self.table.get_mut(slot) {
            entry.set_flow(&flow);
            entry.id = old.id;
            entry.dirty = 0;
            if changed {
                entry.retries = 0;
            }
        }
        self.on_accepted(now, origin, slot, owner);
        if !was_live || absent {
            self.create(now, slot, out);
        } else if is_replacement(&old, &flow) {
            self.strays.replacement(now, &flow.key);
            out.push(Action::Delete { key: flow.key, id: old.id });
            self.create(now, slot, out);
        } else if was_cut || is_outdated || !is_same_state(&old, &flow) || self.has_own_windows(slot) {
            self.update(now, slot, out);
            let before = old.extra.map(|extra| extra.expectations).unwrap_or_default();
            self.expect_as_told(slot, &before, out);
        } else {
            // Nothing is written: only a dump that lists it, and not the peer's word, says that the kernel has it.
            if let Some(entry) = self.table.get_mut(slot) {
                entry.dump = listed;
                entry.flags.set(Flags::WRITTEN);
            }
            if was_copy {
                self.keep_alive_on(slot);
            } else {
                self.keep_alive_within(now, slot, old.timeout / 3);
            }
        }
        true
    }

    /// The kernel's entry was made by packets that passed here, so its TCP windows are those of that time. Packets of a
    /// session that went on elsewhere would be invalid to it, until a write makes it liberal (`ctnetlink` section 5).
    fn has_own_windows(&self, slot: Slot) -> bool {
        self.table.get(slot).is_some_and(|entry| entry.has_tcp() && !entry.flags.has(Flags::WRITTEN))
    }

    /// The flow has traffic here, and what the peer tells is an earlier state of the same connection. A node that is not master
    /// believes it: at the master, of which it may not have heard yet, the tuple is used again. So does one of two masters: the newer
    /// one's versions are, and this node may be the other.
    fn is_set_back(&self, peer: PeerId, slot: Slot, told: &Flow) -> bool {
        let is_masters = self.peers.get(usize::from(peer.0)).is_some_and(|peer| peer.role == Role::Master);
        if self.role != Role::Master || is_masters {
            return false;
        }
        // What was only taken over, or is left from an earlier mastership, may be over: then another connection uses the tuple.
        let has_traffic = |entry: &&Entry| entry.is_local() && entry.version() > self.mastership;
        let Some(entry) = self.table.get(slot).filter(has_traffic) else { return false };
        let old = entry.flow();
        is_tcp_set_back(&old, told) && !is_reopened(&old, told)
    }

    /// Tells the peers anew what this node has, as the newest word.
    pub(super) fn insist(&mut self, now: Instant, slot: Slot) {
        let version = self.tick();
        self.table.set_version(slot, version);
        self.mark_all(now, slot);
    }

    fn on_removal(&mut self, now: Instant, origin: Origin, message: &proto::Removal, out: &mut Vec<Action>) -> bool {
        let Some(key) = encode::key_value(message.key.as_ref()) else { return false };
        let version = message.version;
        self.clock = self.clock.max(version);
        let Some(slot) = self.table.find(&key) else {
            self.remember_removal(origin, &key, version, out);
            return true;
        };
        let Some(entry) = self.table.get(slot) else { return true };
        if entry.is_live() && entry.flags.has(Flags::LIVE_HERE) && entry.owner() == Owner::Local {
            // The flow has traffic here: the peer is mistaken, and told so, by a newer word than its own.
            if version > entry.version() {
                self.insist(now, slot);
            } else {
                self.mark_all(now, slot);
            }
        } else if self.is_accepted(now, entry, origin, version) {
            if entry.is_live() {
                self.strays.deletion(now);
                out.push(Action::Delete { key, id: entry.id });
            }
            self.bury_for_peer(origin, slot, version);
        } else {
            self.counters.stale_ignored += 1;
        }
        true
    }

    fn on_want(&mut self, now: Instant, peer: PeerId, key: &proto::Key) -> bool {
        let Some(key) = encode::key_value(Some(key)) else { return false };
        let slot = match self.table.find(&key) {
            Some(slot) => slot,
            None => {
                // A removal tells the peer that the flow it asks for does not exist.
                let Some(slot) = self.table.insert(&absent(key), Owner::Local, 0) else { return true };
                self.entomb_local(now, slot);
                return true;
            }
        };
        if self.table.get(slot).is_some_and(|entry| entry.owner() == Owner::Local)
            && let Some(peer) = self.peers.get_mut(usize::from(peer.0)).filter(|peer| peer.up)
        {
            peer.outbox.mark(&mut self.table, slot, Stamp::at(now));
        }
        true
    }

    fn on_bulk_end(&mut self, now: Instant, peer: PeerId, end: &proto::BulkEnd, out: &mut Vec<Action>) -> bool {
        let Some(state) = self.peers.get_mut(usize::from(peer.0)) else { return true };
        let buckets = match end.buckets.as_slice() {
            [] => None,
            words => match words.try_into() {
                Ok(words) => Some(Buckets::from_words(words)),
                Err(_) => return false,
            },
        };
        let repeated = !self.mode.is_reliable() && end.epoch == state.inbox.epoch_ended;
        if end.epoch != state.inbox.epoch || repeated {
            return true;
        }
        let was_complete = state.inbox.is_complete(state.wanted);
        state.inbox.epoch_ended = end.epoch;
        state.inbox.answered = end.answers;
        state.inbox.ended_by_master = end.master;
        let scope = match &buckets {
            Some(buckets) => Scope::Buckets(buckets),
            None if end.refresh => Scope::Refresh,
            None => Scope::All,
        };
        if buckets.is_none() {
            state.inbox.whole_ended = end.epoch;
        }
        let purged = self.purge(now, peer, end.master, scope, out);
        let flows = end.flows;
        match scope {
            Scope::Buckets(_) => out.push(Action::Event(Event::RepairReceived { peer, flows, purged })),
            // So often that it is worth a word only when something came of it.
            Scope::Refresh if was_complete && purged == 0 => {}
            Scope::All | Scope::Found | Scope::Refresh => {
                out.push(Action::Event(Event::BulkReceived { peer, flows, purged }));
            }
        }
        if end.master && matches!(scope, Scope::All) {
            self.judgement_done();
        }
        true
    }

    /// Is what a peer says newer than what this node holds?
    fn is_accepted(&self, now: Instant, entry: &Entry, origin: Origin, version: u64) -> bool {
        match entry.owner() {
            // What was told before it became nobody's may still come late, just after it in a transfer as well. Otherwise what a
            // peer's present transfer says of it is true.
            Owner::Found => {
                let is_late = self.mode.is_reliable() && self.orphans_are_fresh(now);
                version >= entry.version() || (!is_late && self.is_present(origin))
            }
            Owner::Peer(_) if entry.is_live() => version >= entry.version(),
            // A removal is final against the state it removed.
            Owner::Peer(_) => version > entry.version(),
            Owner::Local if version != entry.version() => version > entry.version(),
            // A frame that is older than the peer's present transfer comes too late to say that the flow is its own.
            Owner::Local => entry.is_live() && self.is_present(origin) && self.yields_to(origin.peer),
        }
    }

    /// The frame was built in the newest transfer of its sender; where frames are lost for good, any is as good.
    fn is_present(&self, origin: Origin) -> bool {
        let newest = self.peers.get(usize::from(origin.peer.0)).map(|peer| peer.inbox.epoch);
        newest == Some(origin.epoch) || !self.mode.is_reliable()
    }

    /// The owner knows less of its flow than this node: what was given away with the flow was lost. Where lost frames are
    /// sent again, it is on its way, unless this node took the owner for dead meanwhile and forgot what it had for it: then
    /// no repair could make both equal. Only a master takes what it is given.
    fn tell_the_owner(&mut self, now: Instant, peer: PeerId, slot: Slot, version: u64) {
        let newer = |entry: &Entry| entry.is_owned_by(peer) && entry.version() > version;
        if !self.table.get(slot).is_some_and(newer) {
            return;
        }
        let takes = |state: &&mut Peer| state.up && (!self.mode.is_reliable() || state.role == Role::Master);
        if let Some(state) = self.peers.get_mut(usize::from(peer.0)).filter(takes) {
            state.outbox.mark(&mut self.table, slot, Stamp::at(now));
        }
    }

    fn on_accepted(&mut self, now: Instant, origin: Origin, slot: Slot, owner: Owner) {
        let generation = self.dump.generation();
        if let Some(entry) = self.table.get_mut(slot) {
            entry.dump = generation;
            entry.flags.clear(Flags::LIVE_HERE);
            entry.flags.clear(Flags::HANDOVER);
            entry.flags.clear(Flags::GIVEN);
            entry.flags.clear(Flags::CUT);
            entry.flags.clear(Flags::FIXED_TIMEOUT);
            if entry.status() & status::FIXED_TIMEOUT != 0 {
                entry.flags.set(Flags::FIXED_TIMEOUT);
            }
        }
        self.name_in_epoch(origin, slot);
        if owner == Owner::Local {
            // A gift: the giver hears that it was taken, and keeps its copy.
            self.mark_taken(now, slot);
        }
    }

    /// The peer's transfer names this flow. Of another peer's it says nothing: each counts its own.
    fn name_in_epoch(&mut self, origin: Origin, slot: Slot) {
        let current = self.peers.get(usize::from(origin.peer.0)).map(|peer| peer.inbox.epoch);
        // Where transfers follow each other, a late frame of the last one names the flow as well.
        if (current == Some(origin.epoch) || self.mode == Mode::Alarm)
            && let Some(entry) = self.table.get_mut(slot).filter(|entry| entry.is_owned_by(origin.peer))
        {
            entry.epoch = origin.epoch as u16;
        }
    }

    /// The removal of an unknown flow matters only if an older frame may still bring the flow.
    fn remember_removal(&mut self, origin: Origin, key: &FlowKey, version: u64, out: &mut Vec<Action>) {
        let older =
            self.peers.get(usize::from(origin.peer.0)).is_some_and(|p| p.inbox.is_older_possible(origin.sequence));
        if !older && !self.dump.is_running() {
            return;
        }
        if let Some(slot) = self.insert(&absent(*key), Owner::Peer(origin.peer), version, out) {
            self.bury_for_peer(origin, slot, version);
        }
    }

    /// Removes an entry, or keeps its tombstone while an older frame or a dump line may still come.
    fn bury_for_peer(&mut self, origin: Origin, slot: Slot, version: u64) {
        self.table.claim(slot, Owner::Peer(origin.peer), version);
        self.table.entomb(slot);
        let (dumping, generation) = (self.dump.is_running(), self.dump.generation());
        if let Some(entry) = self.table.get_mut(slot) {
            entry.owed = 0;
            // A line of a dump that runs was made before the kernel has deleted it.
            entry.dump = generation;
            if dumping {
                entry.flags.set(Flags::HELD_FOR_DUMP);
            }
        }
        if let Some(peer) = self.peers.get_mut(usize::from(origin.peer.0))
            && peer.inbox.is_older_possible(origin.sequence)
        {
            peer.inbox.hold(origin.sequence, slot, version, &mut self.table);
        }
        self.table.bury(slot);
    }
}

/// The change brings a flow that another one has announced.
fn is_related(change: &proto::Change) -> bool {
    match &change.kind {
        Some(Kind::Upsert(flow)) => flow.extra.as_ref().is_some_and(|extra| extra.master.is_some()),
        Some(Kind::Removal(_) | Kind::Want(_) | Kind::BulkEnd(_) | Kind::Digest(_) | Kind::DigestAnswer(_)) | None => {
            false
        }
    }
}

/// A stand-in for a flow of which only the key is known; it becomes a tombstone at once.
pub(super) fn absent(key: FlowKey) -> Flow {
    Flow { reply: key.original.inverse(), key, status: 0, timeout: 0, mark: 0, tcp: None, id: 0, extra: None }
}

#[cfg(test)]
mod tests;
