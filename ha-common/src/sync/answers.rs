//! What the kernel answers to the writes that it did not do.

use super::engine::Engine;
use super::flow::FlowKey;
use super::table::{Entry, Flags, Owner, Slot};
use super::{Action, WriteKind};
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

/// The kernel refuses now what it may do a moment later.
fn is_passing(error: i32) -> bool {
    matches!(error, errno::ENOMEM | errno::ENOSPC | errno::ENOBUFS | errno::EAGAIN | errno::EINTR)
}

impl Engine {
    /// The kernel refused a write.
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
            // Ordered when it was a peer's: whoever answers for it next creates it.
            Owner::Found if write == WriteKind::Create => return self.table.set_absent(slot, true),
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
            (true, Role::Init | Role::Backup | Role::Fault) => {
                // The kernel takes writes again: what it has refused before does not count.
                if let Some(entry) = self.table.get_mut(slot) {
                    entry.retries = 0;
                }
                self.vanished(now, slot, false, out);
            }
        }
    }
}
