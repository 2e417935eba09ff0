//! The shadow against the kernel's table: the first dump, and those after lost events.
//!
//! A dump is not a snapshot (`ctnetlink` section 11). An entry that an event or a peer touched while the
//! dump ran is newer than its line; removals are remembered until the dump has ended.

use super::engine::Engine;
use super::flow::Flow;
use super::peer::Peer;
use super::purge::Scope;
use super::remote::is_same_state;
use super::stamp::Stamp;
use super::table::{Entry, Flags, Owner, Slot};
use super::{Action, Event};
use crate::role::Role;
use crate::time::Instant;
use core::time::Duration;

/// Dumps follow each other at this distance at first, doubling up to the maximum while they are needed.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A dump of which nothing was heard for so long is asked for again.
const SILENCE_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// It begins when the writes ordered before are done.
    Asked,
    Running,
}

pub(super) struct Dump {
    state: State,
    /// Never zero: entries of generation zero were touched by no dump.
    generation: u8,
    wanted: bool,
    /// As soon as this node is master.
    wanted_as_master: bool,
    first_done: bool,
    not_before: Instant,
    pause: Duration,
    heard: Instant,
}

impl Dump {
    pub fn new() -> Self {
        Self {
            state: State::Idle,
            generation: 0,
            wanted: true,
            wanted_as_master: false,
            first_done: false,
            not_before: Instant(0),
            pause: PAUSE_MIN,
            heard: Instant(0),
        }
    }

    /// From the moment on that it was asked for.
    pub fn is_running(&self) -> bool {
        self.state != State::Idle
    }

    /// Lines may wait that are older than what an event tells now.
    pub fn has_begun(&self) -> bool {
        self.state == State::Running
    }

    /// What to stamp on entries that are touched now.
    pub fn generation(&self) -> u8 {
        self.generation
    }

    /// What to stamp on entries of which an event tells now: a line of a dump that has not begun is newer than the event, and may
    /// tell of a write that was done after it. Zero is no dump's.
    pub fn generation_of_event(&self) -> u8 {
        match self.state {
            State::Idle | State::Running => self.generation,
            State::Asked => 0,
        }
    }

    /// What the table lacks is to be read. What a node that is not master has in its kernel and nobody told it of may be left
    /// over from another time: it is not to be told as news.
    pub fn want_for(&mut self, role: Role) {
        match role {
            Role::Master => self.wanted = true,
            Role::Init | Role::Backup | Role::Fault => self.wanted_as_master = true,
        }
    }

    /// What the kernel has may have changed without an event, as when some were lost.
    pub fn read_again(&mut self) {
        self.wanted = true;
    }

    pub fn on_role(&mut self, role: Role) {
        if role == Role::Master && core::mem::take(&mut self.wanted_as_master) {
            self.wanted = true;
        }
    }

    pub fn poll_at(&self) -> Option<Instant> {
        match self.state {
            State::Idle => self.wanted.then_some(self.not_before),
            State::Asked | State::Running => Some(self.heard + SILENCE_MAX),
        }
    }

    fn begin(&mut self, now: Instant) {
        self.state = State::Asked;
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.heard = now;
    }
}

impl Engine {
    pub(super) fn on_events_lost(&mut self, out: &mut Vec<Action>) {
        self.counters.events_lost += 1;
        if !self.dump.wanted {
            out.push(Action::Event(Event::EventsLost));
        }
        self.dump.wanted = true;
    }

    /// Asks for a dump when one is wanted and the last was long enough ago.
    pub(super) fn run_dump(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.dump.is_running() && self.dump.heard + SILENCE_MAX <= now {
            self.on_dump_end(now, false, out);
        }
        if !self.dump.wanted || self.dump.is_running() || now < self.dump.not_before {
            return;
        }
        // Quiet for long enough since the last one: the trouble is a new one.
        if now.since(self.dump.not_before) > PAUSE_MAX {
            self.dump.pause = PAUSE_MIN;
        }
        self.dump.wanted = false;
        self.dump.begin(now);
        self.expectation_dump.clear();
        self.counters.dumps += 1;
        out.push(Action::Dump);
    }

    /// A dump begins; the edge may also have begun one by itself.
    pub(super) fn on_dump_begin(&mut self, now: Instant) {
        if !self.dump.is_running() {
            self.dump.begin(now);
            self.expectation_dump.clear();
        }
        self.dump.state = State::Running;
        self.dump.heard = now;
    }

    pub(super) fn on_dumped(&mut self, now: Instant, flow: &Flow, out: &mut Vec<Action>) {
        self.on_dump_begin(now);
        let generation = self.dump.generation;
        let Some(slot) = self.table.find(&flow.key) else { return self.on_dumped_unknown(now, flow, out) };
        let Some(entry) = self.table.get_mut(slot) else { return };
        if entry.dump == generation {
            // Nobody's flow was deleted, and the kernel has another one by now, of whose begin no event told: the next dump lists it.
            if entry.is_tombstone() && entry.owner() == Owner::Found && entry.id != 0 && entry.id != flow.id {
                self.dump.wanted = true;
                return;
            }
            // A peer has ended it before this line told that the kernel has it. On a master it may be a newer connection, whose
            // event was lost: the next dump tells, when what is to be deleted is gone.
            match (entry.is_tombstone() && matches!(entry.owner(), Owner::Peer(_)), self.role) {
                (false, _) => {}
                (true, Role::Master) => self.dump.wanted = true,
                (true, Role::Init | Role::Backup | Role::Fault) => {
                    out.push(Action::Delete { key: flow.key, id: flow.id });
                }
            }
            return;
        }
        if entry.is_tombstone() {
            return self.on_changed(now, flow, out);
        }
        entry.dump = generation;
        entry.id = flow.id;
        let told = entry.flow();
        // What this kernel has no place for (a helper's module, labels that no rule uses) differs for good.
        let mut seen = flow.clone();
        seen.complete_with(&told);
        let same = is_same_state(&told, &seen);
        let owner = entry.owner();
        if owner == Owner::Local && !same && entry.flags.has(Flags::OUTDATED) {
            // The kernel has refused to update it and is asked again: that it has an earlier state is no news.
            return;
        }
        let is_remains = entry.flags.has(Flags::GIVEN) && !entry.is_lacking();
        self.table.set_absent(slot, false);
        let authority = match owner {
            // Packets did it when this node was master, and their events were lost: only the heir's own word is newer.
            Owner::Peer(_) if is_remains => false,
            Owner::Peer(peer) => self.is_up(peer),
            Owner::Local | Owner::Found => false,
        };
        match (owner, self.table.get_mut(slot)) {
            (Owner::Local, Some(entry)) if same => entry.timeout = flow.timeout,
            (Owner::Local, _) => self.on_changed(now, flow, out),
            (Owner::Peer(_), _) if same => {}
            // What this kernel has is an old or failed write: the peer knows better.
            (Owner::Peer(_), _) if authority => self.create(now, slot, out),
            (Owner::Peer(_), Some(entry)) if is_remains => {
                entry.set_flow(&seen);
                let version = entry.version().saturating_add(1);
                self.give_later(now, slot, version);
            }
            (Owner::Peer(_) | Owner::Found, Some(entry)) => entry.set_flow(&seen),
            (Owner::Peer(_) | Owner::Found, None) => {}
        }
    }

    /// A gift in a later state than was given: newer than that, and older than anything the heir has changed as master.
    fn give_later(&mut self, now: Instant, slot: Slot, version: u64) {
        self.clock = self.clock.max(version);
        self.table.set_version(slot, version);
        let Some(Owner::Peer(heir)) = self.table.get(slot).map(Entry::owner) else { return };
        if let Some(state) = self.peers.get_mut(usize::from(heir.0)).filter(|state| state.up) {
            state.outbox.mark(&mut self.table, slot, Stamp::at(now));
        }
    }

    fn on_dumped_unknown(&mut self, now: Instant, flow: &Flow, out: &mut Vec<Action>) {
        if self.dump.first_done || self.role == Role::Master {
            return self.on_changed(now, flow, out);
        }
        let generation = self.dump.generation;
        if let Some(entry) = self.insert(flow, Owner::Found, 0, out).and_then(|slot| self.table.get_mut(slot)) {
            entry.dump = generation;
        }
    }

    /// The dump is over. If it was complete, what it did not list is gone.
    pub(super) fn on_dump_end(&mut self, now: Instant, complete: bool, out: &mut Vec<Action>) {
        if !self.dump.is_running() {
            return;
        }
        self.dump.state = State::Idle;
        self.dump.not_before = now + self.dump.pause;
        self.dump.pause = (self.dump.pause * 2).min(PAUSE_MAX);
        self.dump.wanted |= !complete;
        let generation = self.dump.generation;
        for slot in 0..self.table.slots() {
            let Some(entry) = self.table.get_mut(slot) else { continue };
            if entry.is_tombstone() {
                entry.flags.clear(Flags::HELD_FOR_DUMP);
                self.table.bury(slot);
            } else if complete && entry.dump != generation {
                self.vanished(now, slot, false, out);
            }
        }
        if complete {
            self.reconcile_expectations(now);
        } else {
            self.expectation_dump.clear();
        }
        self.dump.first_done |= complete;
        if complete && self.role != Role::Master {
            self.purge_found_if_judged(now, out);
        }
    }

    /// A live entry is not in the kernel any more, as an event tells just now (`is_told`), or a dump. What a master's kernel has ended
    /// is over, whoever has told of the flow: its packets pass here, and those that change nothing tell of nothing.
    pub(super) fn vanished(&mut self, now: Instant, slot: Slot, is_told: bool, out: &mut Vec<Action>) {
        let Some(entry) = self.table.get(slot) else { return };
        let was_there = !entry.flags.has(Flags::ABSENT) || entry.flags.has(Flags::OUTDATED);
        let is_ended_by_master = self.role == Role::Master && was_there;
        match entry.owner() {
            // It was refused, and is tried again.
            Owner::Local if !was_there && entry.flags.has(Flags::RETRIED) => {}
            Owner::Local => self.entomb_local(now, slot),
            Owner::Peer(_) if is_ended_by_master => {
                self.table.set_owner(slot, Owner::Local);
                self.entomb_local(now, slot);
            }
            Owner::Peer(peer) if self.is_up(peer) && !self.is_over(now, entry) => {
                match (entry.flags.has(Flags::ABSENT), entry.flags.has(Flags::GIVEN) && !is_told) {
                    (true, _) => {}
                    (false, false) => self.restore(now, slot, peer, out),
                    // It ended when this node was master, and that event was lost, unless the heir names it.
                    (false, true) => self.table.set_absent(slot, true),
                }
            }
            Owner::Peer(_) | Owner::Found => self.forget(slot),
        }
    }

    /// Ends nobody's flows that a master, which has sent its whole table, did not name. False: none has.
    pub(super) fn purge_found_if_judged(&mut self, now: Instant, out: &mut Vec<Action>) -> bool {
        let judged = |peer: &Peer| {
            peer.up && peer.role == Role::Master && peer.inbox.is_complete(peer.wanted) && peer.inbox.ended_by_master
        };
        let Some(judge) = self.peers.iter().find(|peer| judged(peer)).map(|peer| peer.id) else { return false };
        self.purge(now, judge, true, Scope::Found, out);
        true
    }
}

#[cfg(test)]
mod tests;
