//! Copies of a peer's flows are kept alive here, because nothing tells of packets that refresh a timeout
//! (`ctnetlink` section 12): the kernel's timeout is written again long before it runs out, as long as the
//! peer lives and has not deleted the flow.
//!
//! A wheel of one-second buckets holds the slots. A timeout is never written shorter than [`TIMEOUT_MIN`],
//! so a slot looked at every [`VISIT_MAX`] seconds is never late, whatever happened to its flow meanwhile.
//! The price of a long-lived flow is one look a minute.

use super::Action;
use super::engine::Engine;
use super::entry::UNLINKED;
use super::flow::{Flow, status};
use super::order::Parent;
use super::retries::Remedy;
use super::table::{Entry, Flags, Owner, Slot, Table};
use crate::time::Instant;

/// Shortest timeout written for a peer's flow, in seconds. Short ones (SYN_SENT, unreplied UDP) are
/// lengthened: the owner's deletion ends them, and after a takeover they expire a little later.
const TIMEOUT_MIN: u32 = 120;
/// Longest until a flow is looked at again, in seconds: until then waits what was refused again and again.
pub const VISIT_MAX: u32 = 40;
const BUCKETS: u32 = 64;
const NONE: Slot = Slot::MAX;

/// Seconds of the engine's clock.
fn seconds(now: Instant) -> u32 {
    u32::try_from(now.0 / 1_000_000_000).unwrap_or(u32::MAX)
}

/// The flow as it is written into this node's kernel for a peer.
pub(super) fn written(flow: Flow) -> Flow {
    Flow { timeout: written_timeout(flow.status, flow.timeout), ..flow }
}

fn written_timeout(of_flow: u32, timeout: u32) -> u32 {
    if of_flow & status::FIXED_TIMEOUT != 0 { timeout } else { timeout.max(TIMEOUT_MIN) }
}

pub(super) struct Wheel {
    heads: [Slot; BUCKETS as usize],
    /// The last second whose bucket was emptied.
    done: u32,
    linked: u64,
}

impl Wheel {
    pub fn new() -> Self {
        Self { heads: [NONE; BUCKETS as usize], done: 0, linked: 0 }
    }

    /// Next whole second, if there is anything to look at.
    pub fn poll_at(&self) -> Option<Instant> {
        (self.linked > 0).then(|| Instant((u64::from(self.done) + 1) * 1_000_000_000))
    }

    /// Everything is unlinked, once [`Entry::wheel_next`] of every slot says so, too.
    pub fn stop(&mut self) {
        self.heads = [NONE; BUCKETS as usize];
        self.linked = 0;
    }

    /// Links the slot so that it is visited at its `refresh_at` or at the latest after [`VISIT_MAX`].
    fn link(&mut self, table: &mut Table, slot: Slot) {
        let Some(entry) = table.slot_mut(slot).filter(|entry| !entry.is_in_wheel()) else { return };
        let visit = entry.refresh_at.clamp(self.done.saturating_add(1), self.done.saturating_add(VISIT_MAX));
        let Some(head) = self.heads.get_mut((visit % BUCKETS) as usize) else { return };
        entry.wheel_next = *head;
        *head = slot;
        self.linked += 1;
    }

    /// Unlinks and returns the chain of the next second not later than `second`.
    fn turn(&mut self, second: u32) -> Option<Slot> {
        if self.linked == 0 || self.done.saturating_add(BUCKETS) < second {
            // Nothing is linked, or the clock jumped over the whole wheel: every bucket is due once.
            self.done = self.done.max(second.saturating_sub(BUCKETS));
        }
        if self.done >= second {
            return None;
        }
        self.done += 1;
        let head = self.heads.get_mut((self.done % BUCKETS) as usize)?;
        Some(core::mem::replace(head, NONE))
    }
}

impl Engine {
    /// The kernel's timeout of a peer's flow was just written: write it again in good time. Where copies are not kept
    /// alive, note when it ends.
    pub(super) fn keep_alive(&mut self, now: Instant, slot: Slot) {
        let jitter = self.jitter(slot);
        let keeps_alive = self.mode.keeps_alive();
        let Some(entry) = self.table.get_mut(slot) else { return };
        let timeout = written_timeout(entry.status(), entry.timeout);
        if !keeps_alive {
            entry.refresh_at = seconds(now).saturating_add(timeout);
            return;
        }
        entry.refresh_at = seconds(now).saturating_add(timeout / 2 - jitter % (timeout / 8).max(1));
        self.wheel.link(&mut self.table, slot);
    }

    /// The kernel's timeout of a peer's flow is not known: write it within `within` seconds.
    pub(super) fn keep_alive_within(&mut self, now: Instant, slot: Slot, within: u32) {
        let jitter = self.jitter(slot);
        let keeps_alive = self.mode.keeps_alive();
        let Some(entry) = self.table.get_mut(slot) else { return };
        if !keeps_alive {
            entry.refresh_at = seconds(now);
            return;
        }
        entry.refresh_at = seconds(now).saturating_add(1 + jitter % within.max(1));
        self.wheel.link(&mut self.table, slot);
    }

    /// The flow was kept alive before and is named again: go on, without a write if none is due.
    pub(super) fn keep_alive_on(&mut self, slot: Slot) {
        if self.mode.keeps_alive() {
            self.wheel.link(&mut self.table, slot);
        }
    }

    /// Did a peer's flow leave this node's kernel because its time was over? A second more or less does not count.
    pub(super) fn is_over(&self, now: Instant, entry: &Entry) -> bool {
        entry.flags.has(Flags::CUT) || (!self.mode.keeps_alive() && entry.refresh_at <= seconds(now) + 1)
    }

    /// Emits the creation of a peer's flow, and of what it expects. A related flow waits for its master.
    pub(super) fn create(&mut self, now: Instant, slot: Slot, out: &mut Vec<Action>) {
        let parent = self.parent_of(slot);
        self.table.set_absent(slot, parent == Parent::Awaited);
        let generation = self.dump.generation();
        let Some(entry) = self.table.get_mut(slot) else { return };
        entry.id = 0;
        if parent == Parent::Awaited {
            entry.retries = 1;
            return self.retry_later(now, slot, Remedy::Create);
        }
        // A dump that runs may have passed its place.
        entry.dump = generation;
        entry.flags.set(Flags::WRITTEN);
        let mut flow = written(entry.flow());
        if parent == Parent::Missing {
            flow.extra_mut().master = None;
            self.counters.created_without_master += 1;
        }
        out.push(Action::Create(flow));
        self.expect_as_told(slot, &[], out);
        self.keep_alive(now, slot);
    }

    /// Emits the update of a peer's flow.
    pub(super) fn update(&mut self, now: Instant, slot: Slot, out: &mut Vec<Action>) {
        self.table.set_absent(slot, false);
        let generation = self.dump.generation();
        let Some(entry) = self.table.get_mut(slot) else { return };
        entry.dump = generation;
        entry.flags.set(Flags::WRITTEN);
        // Where the kernel's entry was made anew unnoticed, a deletion that named the old one would leave it there. A number that is
        // known later tells that the kernel had an entry then.
        entry.id = 0;
        out.push(Action::Update(written(entry.flow())));
        self.keep_alive(now, slot);
    }

    /// Does what the wheel has due.
    pub(super) fn run_keep_alive(&mut self, now: Instant, out: &mut Vec<Action>) {
        let second = seconds(now);
        while let Some(mut slot) = self.wheel.turn(second) {
            while slot != NONE {
                let Some(entry) = self.table.slot_mut(slot) else { break };
                let next = entry.wheel_next;
                entry.wheel_next = UNLINKED;
                self.wheel.linked = self.wheel.linked.saturating_sub(1);
                self.visit(now, slot, out);
                slot = next;
            }
        }
    }

    fn visit(&mut self, now: Instant, slot: Slot, out: &mut Vec<Action>) {
        let Some(entry) = self.table.get(slot).filter(|entry| entry.is_live()) else { return };
        let Owner::Peer(peer) = entry.owner() else { return };
        if !self.is_up(peer) || entry.flags.has(Flags::FIXED_TIMEOUT) || entry.flags.has(Flags::CUT) {
            return;
        }
        if entry.refresh_at > seconds(now) {
            self.wheel.link(&mut self.table, slot);
        } else if entry.is_lacking() {
            // Enough time has passed since the last attempt: begin anew.
            if let Some(entry) = self.table.get_mut(slot) {
                entry.retries = 0;
            }
            self.write_again(now, slot, out);
        } else {
            if let Some(entry) = self.table.get_mut(slot) {
                entry.retries = 0;
            }
            self.counters.refreshed += 1;
            self.update(now, slot, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PeerId;
    use super::super::table::tests::flow;
    use super::*;

    /// Every linked slot comes back no later than its time and no later than a visit interval, and a jump of
    /// the clock over the whole wheel loses none.
    #[test]
    fn wheel_visits_in_time() {
        let mut table = super::super::table::tests::table(1000);
        let mut wheel = Wheel::new();
        while wheel.turn(1000).is_some() {}
        for n in 0..100 {
            let slot = table.insert(&flow(n), Owner::Peer(PeerId(0)), 1).unwrap();
            table.get_mut(slot).unwrap().refresh_at = 1000 + n * 3;
            wheel.link(&mut table, slot);
            wheel.link(&mut table, slot);
        }
        let mut visited = 0;
        for second in 1001..=1000 + VISIT_MAX {
            let mut slot = wheel.turn(second).unwrap();
            while slot != NONE {
                visited += 1;
                let entry = table.slot_mut(slot).unwrap();
                assert!(second <= entry.refresh_at.max(1001));
                slot = entry.wheel_next;
            }
        }
        assert_eq!(visited, 100);
        let slot = table.insert(&flow(200), Owner::Peer(PeerId(0)), 1).unwrap();
        wheel.link(&mut table, slot);
        let chains = core::iter::from_fn(|| wheel.turn(900_000)).filter(|&head| head != NONE).count();
        assert_eq!(chains, 1);
    }

    /// Short timeouts are lengthened, long and fixed ones are written as they came.
    #[test]
    fn timeouts_written() {
        let with = |timeout, status| written(Flow { timeout, status, ..flow(1) }).timeout;
        assert_eq!(with(30, 0), TIMEOUT_MIN);
        assert_eq!(with(432_000, 0), 432_000);
        assert_eq!(with(30, status::FIXED_TIMEOUT), 30);
    }
}
