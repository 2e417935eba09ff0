//! The flows whose newest state a peer is still to be told, each at most once, in the order of their first change.

use crate::sync::digest::Buckets;
use crate::sync::filling::Filling;
use crate::sync::prove::MOVING_MAX;
use crate::sync::stamp::{Stamp, older};
use crate::sync::table::{Slot, Table};
use std::collections::VecDeque;

struct Item {
    slot: Slot,
    since: Stamp,
}

/// Bounded by the table: an entry knows that it is queued.
pub(super) struct Queue {
    /// The peer's in the entries.
    pub bit: u8,
    items: VecDeque<Item>,
}

impl Queue {
    pub fn new(bit: u8) -> Self {
        Self { bit, items: VecDeque::new() }
    }

    /// The entry's newest state is to be sent, after what waits already.
    pub fn mark(&mut self, table: &mut Table, slot: Slot, since: Stamp) {
        if self.mark_entry(table, slot) {
            self.items.push_back(Item { slot, since });
        }
    }

    /// It was lost, and goes before all others.
    pub fn mark_again(&mut self, table: &mut Table, slot: Slot, since: Stamp) {
        if self.mark_entry(table, slot) {
            self.items.push_front(Item { slot, since });
        }
    }

    /// Adds entries to a frame until it is full or nothing waits.
    pub fn fill(&mut self, table: &mut Table, filling: &mut Filling) {
        while let Some(item) = self.items.pop_front() {
            let Some(entry) = table.slot_mut(item.slot) else { continue };
            entry.queued &= !self.bit;
            if entry.dirty & self.bit == 0 {
                continue;
            }
            if !filling.carry(item.slot, entry) {
                entry.queued |= self.bit;
                self.items.push_front(item);
                return;
            }
            entry.dirty &= !self.bit;
            filling.frame.since = older(filling.frame.since, Some(item.since));
        }
    }

    /// The buckets of what waits; `None` when it is too much.
    pub fn moving(&self, table: &Table) -> Option<Buckets> {
        if self.items.len() > MOVING_MAX {
            return None;
        }
        let mut moving = Buckets::default();
        for entry in self.items.iter().filter_map(|item| table.get(item.slot)) {
            moving.set(table.bucket(entry));
        }
        Some(moving)
    }

    pub fn reset(&mut self, table: &mut Table) {
        for item in self.items.drain(..) {
            if let Some(entry) = table.slot_mut(item.slot) {
                entry.queued &= !self.bit;
                entry.dirty &= !self.bit;
            }
        }
    }

    /// Since when each waits, in the order of the queue.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.items.iter().map(|item| item.since)
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// False when it waits already.
    fn mark_entry(&self, table: &mut Table, slot: Slot) -> bool {
        let Some(entry) = table.get_mut(slot) else { return false };
        entry.dirty |= self.bit;
        let fresh = entry.queued & self.bit == 0;
        entry.queued |= self.bit;
        fresh
    }
}
