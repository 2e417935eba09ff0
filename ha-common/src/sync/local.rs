//! What happens on this node: kernel events, answers to writes, changes of role.

use super::engine::Engine;
use super::entry::UNLINKED;
use super::flow::{Flow, FlowKey};
use super::outbox::Stamp;
use super::remote::{absent, is_same_state};
use super::table::{Entry, Flags, Owner, Slot};
use super::{Action, Event, PeerId, WriteKind};
use crate::role::Role;
use crate::time::Instant;

/// Linux error numbers (include/uapi/asm-generic/errno*.h) that conntrack writes give
/// (`ctnetlink` sections 7, 9).
mod errno {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EINTR: i32 = 4;
    pub const EAGAIN: i32 = 11;
    pub const ENOMEM: i32 = 12;
    pub const EBUSY: i32 = 16;
    pub const EEXIST: i32 = 17;
    pub const ENOSPC: i32 = 28;
    pub const EOPNOTSUPP: i32 = 95;
    pub const ENOBUFS: i32 = 105;
}

/// A flow that is short-lived and whose kernel timeout is unknown, or whose windows must be opened, is written within
/// this many seconds, others later.
const UNKNOWN_TIMEOUT_SHORT: u32 = 5;
const UNKNOWN_TIMEOUT_LONG: u32 = 60;
const SHORT: u32 = 180;

/// How far the clock is put forward when a mastership begins. A master that stood still has read nothing of what its kernel did
/// meanwhile when another takes over, and will tell it as news: what the new one has changed by then is newer, however much
/// that is. And what the clock shows at least for each number of terms ([`Input::Term`](super::Input::Term)).
const MASTERSHIP: u64 = 1 << 20;

/// The kernel refuses now what it may do a moment later.
fn is_passing(error: i32) -> bool {
    matches!(error, errno::ENOMEM | errno::ENOSPC | errno::ENOBUFS | errno::EAGAIN | errno::EINTR)
}

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

    /// The kernel refused a write for a peer's flow.
    pub(super) fn on_write_failed(
        &mut self,
        now: Instant,
        key: &FlowKey,
        write: WriteKind,
        error: i32,
        out: &mut Vec<Action>,
    ) {
        self.counters.writes_failed += 1;
        let Some(slot) = self.table.find(key) else { return };
        if (write, error) == (WriteKind::Update, errno::ENOENT) {
            return self.missed_by_update(now, slot, out);
        }
        let Some(entry) = self.table.get_mut(slot).filter(|entry| entry.is_live()) else { return };
        let peer = match entry.owner() {
            Owner::Peer(peer) => peer,
            Owner::Local if write == WriteKind::Create => return self.creation_refused(now, slot),
            Owner::Local if write == WriteKind::Update && is_passing(error) => return self.update_refused(now, slot),
            Owner::Found if write == WriteKind::Update && is_passing(error) => return self.cut_refused(now, slot),
            Owner::Local | Owner::Found => return,
        };
        match (write, error) {
            // The flow is gone or was replaced, which is what was wanted.
            (WriteKind::Delete, _) => {}
            // What the kernel has is newer (`ctnetlink` section 9).
            (WriteKind::Update, errno::EBUSY) => {}
            // The flow itself is as it shall be.
            (WriteKind::Relax, _) => {}
            (WriteKind::Expect, _) => self.counters.writes_abandoned += 1,
            (WriteKind::Update, errno::EPERM) => entry.flags.set(Flags::FIXED_TIMEOUT),
            // The kernel's entry has another translation: a new one is needed.
            (WriteKind::Update, errno::EOPNOTSUPP) => {
                if self.is_up(peer) {
                    self.restore(now, slot, peer, out);
                }
            }
            (WriteKind::Update, error) if is_passing(error) => self.update_refused(now, slot),
            (WriteKind::Create, error) if is_passing(error) => self.creation_refused(now, slot),
            (WriteKind::Create, errno::EEXIST | errno::EBUSY | errno::ENOENT) => self.creation_refused(now, slot),
            (WriteKind::Create | WriteKind::Update, _) => {
                self.table.set_absent(slot, true);
                self.counters.writes_abandoned += 1;
            }
        }
    }

    /// A flow that was to be updated is not in the kernel, or was not as that was tried: by now it may have ended here, or be told of
    /// by packets, and its number is known then.
    fn missed_by_update(&mut self, now: Instant, slot: Slot, out: &mut Vec<Action>) {
        let is_news = |entry: &Entry| entry.is_live() && !entry.is_lacking() && entry.id == 0;
        match (self.table.get(slot).is_some_and(is_news), self.role) {
            (false, _) => {}
            // What its kernel has ended is over. Another write of the flow may be under way: a dump tells what came of it.
            (true, Role::Master) => self.dump.want_for(Role::Master),
            (true, Role::Init | Role::Backup | Role::Fault) => self.vanished(now, slot, false, out),
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
        let is_news = |entry: &Entry| entry.owner() == Owner::Local && entry.version() > self.clock_ran;
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
mod tests {
    use super::super::fixture::config;
    use super::super::puppet::Puppet;
    use super::super::table::tests::flow;
    use super::super::{Config, Input, Mode, encode};
    use super::*;
    use crate::proto::{self, change::Kind};
    use crate::role::NodeId;
    use crate::wire::frame::{self, Header};

    const NOW: Instant = Instant(1_000_000_000);

    fn engine() -> Engine {
        let mut engine = Engine::new(Config { flows_max: 20, ..config(Mode::Ftfw) }, 1);
        engine.peers[0].up = true;
        engine.peers.iter_mut().for_each(|peer| peer.heard = NOW);
        engine
    }

    /// What the peer's word of a flow leads to.
    fn hear(engine: &mut Engine, n: u32, mark: u32, version: u64) -> Vec<Action> {
        let message = encode::flow_message(&Flow { mark, ..flow(n) }, version, false);
        let changes = vec![proto::Change { kind: Some(Kind::Upsert(message)) }];
        let mut out = Vec::new();
        engine.on_data(NOW, PeerId(0), 1, &proto::Data { changes, ..proto::Data::default() }, &mut out);
        out
    }

    /// A master stood still while this node took over, and tells late what its kernel did before, numbered behind what it
    /// heard last: what this node has changed as master stays, and what it has not is taken.
    #[test]
    fn what_a_new_master_changes_is_newer() {
        let mut engine = engine();
        assert!([1, 2].iter().all(|n| hear(&mut engine, *n, 1, 5).len() == 1));
        engine.handle(NOW, Input::Role(Role::Master), &mut Vec::new());
        engine.on_changed(NOW, &Flow { mark: 3, ..flow(1) }, &mut Vec::new());
        assert_eq!(hear(&mut engine, 1, 2, 10_000), []);
        assert!(matches!(hear(&mut engine, 2, 2, 10_001)[..], [Action::Update(Flow { mark: 2, .. })]));
    }

    /// This node's loop stood still as it became master: it reads what packets did meanwhile before it hears of its role. That is newer
    /// than what the former master, which stood still as well, tells late: a state, and an end.
    #[test]
    fn what_packets_did_as_a_mastership_began_is_newer() {
        let mut engine = engine();
        engine.on_changed(NOW, &Flow { id: 7, ..flow(2) }, &mut Vec::new());
        assert_eq!(hear(&mut engine, 1, 1, 5).len(), 1);
        engine.handle(NOW, Input::Timer, &mut Vec::new());
        engine.on_changed(NOW, &Flow { mark: 3, ..flow(1) }, &mut Vec::new());
        engine.on_destroyed(NOW, &flow(2).key, 7, &mut Vec::new());
        engine.handle(NOW, Input::Role(Role::Master), &mut Vec::new());
        assert_eq!([hear(&mut engine, 1, 2, 10_000), hear(&mut engine, 2, 2, 10_001)], [[], []]);
    }

    /// The group was given away and came back, and nothing of the other's mastership had arrived: what it tells late is older than what
    /// this node has changed since, also where it has changed more.
    #[test]
    fn what_an_unheard_mastership_did_is_older() {
        let mut engine = engine();
        assert_eq!(hear(&mut engine, 1, 1, 5).len(), 1);
        engine.handle(NOW, Input::Term(0x2ff), &mut Vec::new());
        engine.handle(NOW, Input::Role(Role::Master), &mut Vec::new());
        engine.on_changed(NOW, &Flow { mark: 3, ..flow(1) }, &mut Vec::new());
        assert_eq!(hear(&mut engine, 1, 2, 0x1fe * MASTERSHIP + 10_000), []);
    }

    /// A node that has said hello just now becomes master. It says so before it names its flows: where both hold one in the same version
    /// the peer goes by who says so.
    #[test]
    fn a_mastership_is_told_before_its_flows() {
        let own = Config { peers: vec![NodeId(1)], ..config(Mode::Ftfw) };
        let mut engine = Engine::new(own.clone(), 1);
        let mut peer = Puppet::new(&Config { node: NodeId(1), session: 2, nonce: [2; 16], ..own }, NodeId(0));
        let mut out = Vec::new();
        let now = peer.greet(&mut engine, NOW, Role::Backup, &mut out).unwrap();
        engine.on_changed(now, &flow(1), &mut out);
        out.clear();
        engine.handle(now, Input::Role(Role::Master), &mut out);
        let kind = |action: &Action| match action {
            Action::Send { datagram, .. } => Header::parse(datagram).ok().map(|header| header.kind),
            _ => None,
        };
        let sent: Vec<_> = out.iter().filter_map(kind).collect();
        assert_eq!((sent.first(), sent.contains(&frame::Kind::Data)), (Some(&frame::Kind::Hello), true));
    }

    /// The kernel ends a flow that a peer has told of: on a master it is over and the peer hears so, on a backup it is made
    /// anew.
    #[test]
    fn what_a_masters_kernel_has_ended_is_over() {
        for (role, creations) in [(Role::Master, 0), (Role::Backup, 1)] {
            let (mut engine, mut out) = (engine(), Vec::new());
            engine.handle(NOW, Input::Role(role), &mut out);
            hear(&mut engine, 1, 1, 5);
            out.clear();
            engine.on_destroyed(NOW, &flow(1).key, 0, &mut out);
            assert_eq!((engine.stats().tombstones, out.len()), (1 - creations, 0));
            engine.run_retries(Instant(NOW.0 + 20_000_000), &mut out);
            assert_eq!(out.len() as u64, creations, "{role}");
        }
    }

    /// A removal rides with a transfer and is lost, and the transfer is begun anew: no walk finds what has ended.
    #[test]
    fn a_removal_that_a_transfer_owes_is_owed_by_the_next() {
        let mut engine = engine();
        engine.on_changed(NOW, &flow(1), &mut Vec::new());
        let slot = engine.table.find(&flow(1).key).unwrap();
        engine.on_destroyed(NOW, &flow(1).key, 0, &mut Vec::new());
        engine.peers[0].outbox.bulk.owe(slot);
        engine.on_role(NOW, Role::Master, &mut Vec::new());
        assert_eq!(engine.peers[0].outbox.bulk.peek(&engine.table), Some(slot));
    }
}
