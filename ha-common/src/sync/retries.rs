//! Flows that this node's kernel lacks, or has in an earlier state: they vanished, or it has refused to write them. They are
//! written again at once, then with pauses, and in the end their owner is asked.

use super::engine::Engine;
use super::keepalive::VISIT_MAX;
use super::table::{Entry, Flags, Owner, Slot};
use super::{Action, PeerId};
use crate::time::{Instant, earliest};
use core::time::Duration;
use std::collections::VecDeque;

/// Pause before a flow is created again that could not be, or was lost more than once.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Pause before one is created again that has vanished. Where packets have used its tuple again, the kernel tells of that
/// next, and some events may wait: what is written then would be written over a newer connection, or outlive it unnoticed.
const RESTORE_DELAY: Duration = Duration::from_millis(10);
/// Flows waiting for either; of those that find no place the ones are tried at their next visit by the wheel, the others at
/// once.
const RETRIES_QUEUED_MAX: usize = 65_536;
/// Immediate and delayed creations of one flow before its owner is asked for it, and before a pause.
const CREATIONS_MAX: u8 = 3;
const RETRIES_MAX: u8 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    Create,
    AskOwner,
}

struct Retry {
    at: Instant,
    slot: Slot,
    remedy: Remedy,
}

/// A flow to be created again unless it changes meanwhile.
struct Restoration {
    at: Instant,
    slot: Slot,
    version: u64,
}

/// Flows to be tried again after a pause, in the order of their time.
#[derive(Default)]
pub(super) struct Retries {
    queue: VecDeque<Retry>,
    restorations: VecDeque<Restoration>,
}

impl Retries {
    pub fn poll_at(&self) -> Option<Instant> {
        let restoration = self.restorations.front().map(|restoration| restoration.at);
        earliest(restoration, self.queue.front().map(|retry| retry.at))
    }
}

impl Engine {
    /// Does what the queues have due.
    pub(super) fn run_retries(&mut self, now: Instant, out: &mut Vec<Action>) {
        while self.retries.restorations.front().is_some_and(|restoration| restoration.at <= now) {
            let Some(restoration) = self.retries.restorations.pop_front() else { break };
            self.restore_now(now, &restoration, out);
        }
        while self.retries.queue.front().is_some_and(|retry| retry.at <= now) {
            let Some(retry) = self.retries.queue.pop_front() else { break };
            self.try_again(now, &retry, out);
        }
    }

    /// A peer's flow vanished from this node's kernel: it is created again, after ever longer pauses, then asked for.
    pub(super) fn restore(&mut self, now: Instant, slot: Slot, peer: PeerId, out: &mut Vec<Action>) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        entry.id = 0;
        entry.retries = entry.retries.saturating_add(1);
        let retries = entry.retries;
        self.table.set_absent(slot, true);
        self.counters.restored += 1;
        if retries == 1 {
            self.restore_soon(now, slot, out);
        } else if retries <= CREATIONS_MAX {
            self.retry_later(now, slot, Remedy::Create);
        } else if retries <= RETRIES_MAX {
            debug_assert!(self.is_up(peer));
            self.retry_later(now, slot, Remedy::AskOwner);
        } else {
            self.keep_alive_within(now, slot, VISIT_MAX);
        }
    }

    /// The kernel refused to create a flow, maybe for a reason that passes. A peer's is tried again for ever. One that this node
    /// answers for since it took over is given up in the end: it is gone then, and peers are told so.
    pub(super) fn creation_refused(&mut self, now: Instant, slot: Slot) {
        self.table.set_absent(slot, true);
        // It was tried in between, because a peer has named it.
        let Some(entry) = self.table.get_mut(slot).filter(|entry| !entry.flags.has(Flags::RETRIED)) else { return };
        entry.retries = entry.retries.saturating_add(1);
        let (retries, local) = (entry.retries, entry.is_local());
        let queued = !local || self.retries.queue.len() < RETRIES_QUEUED_MAX;
        if retries <= RETRIES_MAX && queued {
            return self.retry_later(now, slot, Remedy::Create);
        }
        self.counters.writes_abandoned += 1;
        match (local, self.table.get(slot).is_some_and(|entry| entry.flags.has(Flags::OUTDATED))) {
            (false, _) => self.keep_alive_within(now, slot, VISIT_MAX),
            (true, false) => self.entomb_local(now, slot),
            (true, true) => {
                // A dump tells what it has instead, if anything.
                self.table.set_absent(slot, false);
                self.dump.want_for(self.role);
            }
        }
    }

    /// The kernel refused to update a flow, and has it in an earlier state.
    pub(super) fn update_refused(&mut self, now: Instant, slot: Slot) {
        if let Some(entry) = self.table.get_mut(slot) {
            entry.flags.set(Flags::OUTDATED);
        }
        self.creation_refused(now, slot);
    }

    /// Emits again what the kernel refused, or what has vanished. An entry that is there in an earlier state must not be
    /// created: where packets pass it would count as newer than what is told.
    pub(super) fn write_again(&mut self, now: Instant, slot: Slot, out: &mut Vec<Action>) {
        let Some(entry) = self.table.get(slot) else { return };
        match (entry.flags.has(Flags::OUTDATED), entry.flags.has(Flags::CUT)) {
            (true, true) => self.cut_again(slot, out),
            (true, false) => self.update(now, slot, out),
            (false, _) => self.create(now, slot, out),
        }
    }

    fn restore_soon(&mut self, now: Instant, slot: Slot, out: &mut Vec<Action>) {
        let Some(version) = self.table.get(slot).map(Entry::version) else { return };
        if self.retries.restorations.len() >= RETRIES_QUEUED_MAX {
            return self.create(now, slot, out);
        }
        self.retries.restorations.push_back(Restoration { at: now + RESTORE_DELAY, slot, version });
    }

    /// Creates what has vanished, unless packets have made it again, or a peer has told of it.
    fn restore_now(&mut self, now: Instant, restoration: &Restoration, out: &mut Vec<Action>) {
        let is_it = |entry: &&Entry| {
            let is_copy = matches!(entry.owner(), Owner::Peer(_));
            entry.is_lacking() && is_copy && entry.version() == restoration.version
        };
        if self.table.get(restoration.slot).filter(is_it).is_some() {
            self.create(now, restoration.slot, out);
        }
    }

    pub(super) fn retry_later(&mut self, now: Instant, slot: Slot, remedy: Remedy) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        if !entry.flags.has(Flags::RETRIED) && self.retries.queue.len() < RETRIES_QUEUED_MAX {
            entry.flags.set(Flags::RETRIED);
            self.retries.queue.push_back(Retry { at: now + RETRY_DELAY, slot, remedy });
        }
        self.keep_alive_within(now, slot, VISIT_MAX);
    }

    fn try_again(&mut self, now: Instant, retry: &Retry, out: &mut Vec<Action>) {
        let Some(entry) = self.table.get_mut(retry.slot).filter(|entry| entry.flags.has(Flags::RETRIED)) else {
            return;
        };
        entry.flags.clear(Flags::RETRIED);
        if !entry.is_lacking() {
            return;
        }
        let key = entry.key();
        match (retry.remedy, entry.owner()) {
            (Remedy::Create, Owner::Peer(_) | Owner::Local) => self.write_again(now, retry.slot, out),
            // Nobody else can be asked for what this node answers for.
            (Remedy::Create, Owner::Found) | (Remedy::AskOwner, Owner::Local | Owner::Found) => {}
            (Remedy::AskOwner, Owner::Peer(peer)) => {
                if let Some(peer) = self.peers.get_mut(usize::from(peer.0)).filter(|peer| peer.up) {
                    peer.outbox.want(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::config;
    use super::super::table::tests::flow;
    use super::super::{Input, Mode, WriteKind};
    use super::*;
    use crate::role::Role;

    /// What is written, and how, from the inputs of `act` on.
    fn writes(engine: &mut Engine, act: impl FnOnce(&mut Engine, &mut Vec<Action>)) -> Vec<&'static str> {
        let mut out = Vec::new();
        act(engine, &mut out);
        let name = |action: &Action| match action {
            Action::Create(_) => Some("create"),
            Action::Update(_) => Some("update"),
            Action::Delete { .. } => Some("delete"),
            Action::Dump => Some("dump"),
            _ => None,
        };
        out.iter().filter_map(name).collect()
    }

    /// A standby with a copy of one flow. Its first dump is over.
    fn standby() -> Engine {
        let mut engine = Engine::new(config(Mode::Ftfw), 1);
        let (mut out, now) = (Vec::new(), Instant(1_000_000_000));
        engine.handle(now, Input::Role(Role::Backup), &mut out);
        engine.handle(now, Input::DumpEnd { complete: true }, &mut out);
        (engine.peers[0].up, engine.peers[0].heard) = (true, Instant(u64::MAX));
        engine.table.insert(&flow(1), Owner::Peer(PeerId(0)), 5).unwrap();
        engine
    }

    fn refuse(engine: &mut Engine, now: Instant, write: WriteKind, out: &mut Vec<Action>) {
        engine.handle(now, Input::WriteFailed { key: &flow(1).key, write, errno: 12 }, out);
    }

    /// An update is refused for want of memory: the kernel still has the earlier state. Whatever writes it again updates it: a
    /// creation would give way to it on a master, as if packets had just made it.
    #[test]
    fn a_refused_update_is_tried_again_as_an_update() {
        let now = Instant(2_000_000_000);
        for (refused, written) in [(WriteKind::Update, ["update"]), (WriteKind::Create, ["create"])] {
            let mut engine = standby();
            refuse(&mut engine, now, refused, &mut Vec::new());
            assert_eq!(engine.stats().flows_absent, 1);
            let later = now + RETRY_DELAY;
            assert_eq!(writes(&mut engine, |engine, out| engine.handle(later, Input::Timer, out)), written);
            refuse(&mut engine, later, refused, &mut Vec::new());
            let takes_over =
                |engine: &mut Engine, out: &mut Vec<_>| engine.handle(later, Input::Role(Role::Master), out);
            assert_eq!(writes(&mut engine, takes_over), written);
        }
    }

    /// What is written while a dump runs need not be listed by it: neither is it missed on a standby, nor does a master take it
    /// for gone.
    #[test]
    fn what_is_written_while_a_dump_runs_is_not_missed() {
        for (role, refused) in [
            (Role::Backup, WriteKind::Create),
            (Role::Backup, WriteKind::Update),
            (Role::Master, WriteKind::Create),
            (Role::Master, WriteKind::Update),
        ] {
            let (mut engine, now) = (standby(), Instant(20_000_000_000));
            engine.handle(now, Input::Role(role), &mut Vec::new());
            refuse(&mut engine, now, refused, &mut Vec::new());
            engine.handle(now, Input::DumpBegin, &mut Vec::new());
            let later = now + RETRY_DELAY;
            assert_eq!(writes(&mut engine, |engine, out| engine.handle(later, Input::Timer, out)).len(), 1);
            let end = Input::DumpEnd { complete: true };
            assert_eq!(writes(&mut engine, |engine, out| engine.handle(later, end, out)).len(), 0);
            assert_eq!((engine.stats().flows, engine.stats().restored), (1, 0), "{role}, {refused:?}");
        }
    }

    /// Where a master cannot update its own flow for long, it takes what the kernel has, as a dump tells it.
    #[test]
    fn a_master_gives_way_to_a_kernel_that_refuses() {
        let mut engine = standby();
        let mut now = Instant(20_000_000_000);
        engine.handle(now, Input::Role(Role::Master), &mut Vec::new());
        let mut written = Vec::new();
        refuse(&mut engine, now, WriteKind::Update, &mut Vec::new());
        for _ in 0..RETRIES_MAX {
            now = now + RETRY_DELAY;
            written.extend(writes(&mut engine, |engine, out| engine.handle(now, Input::Timer, out)));
            written.extend(writes(&mut engine, |engine, out| refuse(engine, now, WriteKind::Update, out)));
        }
        let dumps = written.pop();
        assert_eq!((dumps, written), (Some("dump"), vec!["update"; usize::from(RETRIES_MAX)]));
        assert_eq!((engine.stats().flows_local, engine.stats().flows_absent), (1, 0));
    }

    /// A flow that nobody answers for, and that the kernel has refused, is created when this node takes over.
    #[test]
    fn nobodys_flow_is_created_at_a_takeover() {
        let mut engine = standby();
        let slot = engine.table.find(&flow(1).key).unwrap();
        engine.table.set_owner(slot, Owner::Found);
        engine.table.set_absent(slot, true);
        let now = Instant(2_000_000_000);
        let takes_over = |engine: &mut Engine, out: &mut Vec<_>| engine.handle(now, Input::Role(Role::Master), out);
        assert_eq!(writes(&mut engine, takes_over), ["create"]);
        assert_eq!((engine.stats().flows_local, engine.stats().flows_absent), (1, 0));
    }
}
