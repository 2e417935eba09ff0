//! The shadow of the conntrack table: a hash index over a slab of entries.
//!
//! A slot is 32 bits and stays valid until the entry is removed, so queues hold slots and not keys. A
//! slot together with the version of its entry tells whether what a queue remembers is still so. The slab
//! grows in chunks: no copy of the whole table and no doubling of its memory at one insertion.

pub(super) use super::entry::{Entry, Flags, Owner};

use super::digest::{Sums, identity};
use super::entry::Life;
use super::flow::{Flow, FlowKey};
use crate::wire::siphash::Key;
use core::hash::BuildHasher;
use foldhash::quality::FixedState;
use hashbrown::HashTable;

pub(super) type Slot = u32;

const CHUNK_BITS: u32 = 12;
const CHUNK: usize = 1 << CHUNK_BITS;
/// The index of so many flows is reserved at once: 10 MiB, of which 2 are touched.
const INDEX_RESERVED: usize = 1 << 20;

/// Live entries by owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub local: u64,
    pub found: u64,
    pub peer: u64,
    pub tombstones: u64,
    /// Of the live ones, those that this node's kernel lacks.
    pub absent: u64,
}

pub(super) struct Table {
    index: HashTable<Slot>,
    chunks: Vec<Vec<Entry>>,
    free: Vec<Slot>,
    slots: u32,
    hasher: FixedState,
    flows_max: usize,
    counts: Counts,
    digest_key: Key,
    /// Sums over this node's flows, and over each peer's.
    local_sums: Sums,
    peer_sums: Vec<Sums>,
}

impl Table {
    /// An empty table for at most `flows_max` entries (tombstones included); `seed` keeps the order of the
    /// hash table unknown to those who choose the flows, `digest_key` is the same on all nodes.
    pub fn new(seed: u64, digest_key: Key, peers: usize, flows_max: usize) -> Self {
        let flows_max = flows_max.min(u32::MAX as usize - 2);
        Self {
            // Of a large table a later enlargement would stop the loop for a tenth of a second.
            index: HashTable::with_capacity(flows_max.min(INDEX_RESERVED)),
            chunks: Vec::new(),
            free: Vec::new(),
            slots: 0,
            hasher: FixedState::with_seed(seed),
            flows_max,
            counts: Counts::default(),
            digest_key,
            local_sums: Sums::new(),
            peer_sums: (0..peers).map(|_| Sums::new()).collect(),
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Slots are `0..slots()`, some of them free.
    pub fn slots(&self) -> Slot {
        self.slots
    }

    pub fn is_full(&self) -> bool {
        self.index.len() >= self.flows_max
    }

    /// The sums over the flows of an owner; nobody's flows have none.
    pub fn sums(&self, owner: Owner) -> Option<&Sums> {
        match owner {
            Owner::Local => Some(&self.local_sums),
            Owner::Found => None,
            Owner::Peer(peer) => self.peer_sums.get(usize::from(peer.0)),
        }
    }

    /// In which bucket of the sums an entry is counted.
    pub fn bucket(&self, entry: &Entry) -> usize {
        self.bucket_of(&entry.key())
    }

    pub fn bucket_of(&self, key: &FlowKey) -> usize {
        identity(self.digest_key, key).bucket()
    }

    /// The slot of a live entry or tombstone.
    pub fn find(&self, key: &FlowKey) -> Option<Slot> {
        let is_it = |&slot: &Slot| self.slot(slot).is_some_and(|entry| entry.has_key(key));
        self.index.find(self.hasher.hash_one(key), is_it).copied()
    }

    /// The entry in a slot that is not free.
    pub fn get(&self, slot: Slot) -> Option<&Entry> {
        self.slot(slot).filter(|entry| entry.life != Life::Free)
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.slot_mut(slot).filter(|entry| entry.life != Life::Free)
    }

    /// The record of a slot, free or not: for the bookkeeping that belongs to the slot.
    pub fn slot_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.chunks.get_mut((slot >> CHUNK_BITS) as usize)?.get_mut(slot as usize & (CHUNK - 1))
    }

    /// Adds a live entry for a key that is not in the table; `None` when the table is full.
    pub fn insert(&mut self, flow: &Flow, owner: Owner, version: u64) -> Option<Slot> {
        if self.is_full() {
            return None;
        }
        let slot = self.free.pop().unwrap_or(self.slots);
        let mut entry = Entry::new(flow, owner, version);
        if let Some(old) = self.slot(slot) {
            (entry.queued, entry.wheel_next) = (old.queued, old.wheel_next);
        }
        match self.slot_mut(slot) {
            Some(old) => *old = entry,
            None => self.push(entry),
        }
        let Self { index, chunks, hasher, .. } = self;
        index.insert_unique(hasher.hash_one(flow.key), slot, |&slot| {
            // A slot in the index always has an entry; the alternative only keeps this total.
            entry_at(chunks, slot).map_or(0, |entry| hasher.hash_one(entry.key()))
        });
        self.count(owner, Life::Live, 1);
        self.sum(owner, &flow.key, None, Some(version));
        Some(slot)
    }

    /// Forgets the entry; its slot may be used again at once.
    pub fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.get(slot) else { return };
        let key = entry.key();
        if let Ok(found) = self.index.find_entry(self.hasher.hash_one(key), |&at| at == slot) {
            found.remove();
        }
        self.change_life(slot, Life::Free);
        if let Some(entry) = self.slot_mut(slot) {
            entry.let_go();
        }
        self.free.push(slot);
    }

    pub fn set_owner(&mut self, slot: Slot, owner: Owner) {
        if let Some(version) = self.get(slot).map(Entry::version) {
            self.claim(slot, owner, version);
        }
    }

    pub fn set_version(&mut self, slot: Slot, version: u64) {
        if let Some(owner) = self.get(slot).map(Entry::owner) {
            self.claim(slot, owner, version);
        }
    }

    /// Gives an entry another owner and version.
    pub fn claim(&mut self, slot: Slot, owner: Owner, version: u64) {
        let Some(entry) = self.get_mut(slot) else { return };
        let (before, old, life) = (entry.owner(), entry.version(), entry.life);
        if (before, old) == (owner, version) {
            return;
        }
        entry.put(owner, version);
        if before != owner {
            self.count(before, life, -1);
            self.count(owner, life, 1);
        }
        let Some(entry) = self.get(slot) else { return };
        let (key, absent) = (entry.key(), entry.flags.has(Flags::ABSENT));
        let counted = |owner, version| is_counted(owner, life, absent).then_some(version);
        if before == owner {
            self.sum(owner, &key, counted(owner, old), counted(owner, version));
        } else {
            self.sum(before, &key, counted(before, old), None);
            self.sum(owner, &key, None, counted(owner, version));
        }
    }

    /// Notes that this node's kernel lacks the entry, or has it again.
    pub fn set_absent(&mut self, slot: Slot, absent: bool) {
        let Some(entry) = self.get_mut(slot) else { return };
        let before = entry.flags.has(Flags::ABSENT);
        if before == absent {
            return;
        }
        if absent {
            entry.flags.set(Flags::ABSENT);
        } else {
            entry.flags.clear(Flags::ABSENT);
            entry.flags.clear(Flags::OUTDATED);
        }
        let (owner, version, life, key) = (entry.owner(), entry.version(), entry.life, entry.key());
        if life == Life::Live {
            self.counts.absent = self.counts.absent.saturating_add_signed(if absent { 1 } else { -1 });
        }
        let counted = |absent| is_counted(owner, life, absent).then_some(version);
        self.sum(owner, &key, counted(before), counted(absent));
    }

    /// Turns a live entry into the memory of its removal.
    pub fn entomb(&mut self, slot: Slot) {
        self.change_life(slot, Life::Tombstone);
    }

    /// Turns a tombstone into a live entry; the caller gives it its new state.
    pub fn revive(&mut self, slot: Slot) {
        if let Some(entry) = self.get_mut(slot) {
            entry.owed = 0;
            entry.retries = 0;
            entry.flags = Flags::default();
            entry.id = 0;
        }
        self.change_life(slot, Life::Live);
    }

    /// Removes a tombstone that nobody needs any more.
    pub fn bury(&mut self, slot: Slot) {
        let held = |entry: &Entry| {
            entry.owed != 0 || entry.flags.has(Flags::HELD_FOR_GAP) || entry.flags.has(Flags::HELD_FOR_DUMP)
        };
        if self.get(slot).is_some_and(|entry| entry.is_tombstone() && !held(entry)) {
            self.remove(slot);
        }
    }

    fn slot(&self, slot: Slot) -> Option<&Entry> {
        entry_at(&self.chunks, slot)
    }

    fn push(&mut self, entry: Entry) {
        match self.chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => chunk.push(entry),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(entry);
                self.chunks.push(chunk);
            }
        }
        self.slots += 1;
    }

    fn change_life(&mut self, slot: Slot, life: Life) {
        let Some(entry) = self.get_mut(slot) else { return };
        let (owner, version, before, key) = (entry.owner(), entry.version(), entry.life, entry.key());
        let absent = entry.flags.has(Flags::ABSENT);
        entry.life = life;
        entry.dirty = 0;
        self.count(owner, before, -1);
        self.count(owner, life, 1);
        if absent {
            let by = i64::from(life == Life::Live) - i64::from(before == Life::Live);
            self.counts.absent = self.counts.absent.saturating_add_signed(by);
        }
        let counted = |life| is_counted(owner, life, absent).then_some(version);
        self.sum(owner, &key, counted(before), counted(life));
    }

    /// A live entry's part of its owner's sums changes.
    fn sum(&mut self, owner: Owner, key: &FlowKey, before: Option<u64>, after: Option<u64>) {
        let sums = match owner {
            Owner::Local => &mut self.local_sums,
            Owner::Found => return,
            Owner::Peer(peer) => match self.peer_sums.get_mut(usize::from(peer.0)) {
                Some(sums) => sums,
                None => return,
            },
        };
        if before == after {
            return;
        }
        let identity = identity(self.digest_key, key);
        if let Some(version) = before {
            sums.subtract(identity, version);
        }
        if let Some(version) = after {
            sums.add(identity, version);
        }
    }

    fn count(&mut self, owner: Owner, life: Life, by: i64) {
        let counter = match (life, owner) {
            (Life::Free, _) => return,
            (Life::Tombstone, _) => &mut self.counts.tombstones,
            (Life::Live, Owner::Local) => &mut self.counts.local,
            (Life::Live, Owner::Found) => &mut self.counts.found,
            (Life::Live, Owner::Peer(_)) => &mut self.counts.peer,
        };
        *counter = counter.saturating_add_signed(by);
    }
}

/// Sums are over what lives. Of a peer's flows those that this kernel lacks are left out: a copy that is not there proves
/// nothing.
fn is_counted(owner: Owner, life: Life, absent: bool) -> bool {
    life == Life::Live
        && match owner {
            Owner::Local => true,
            Owner::Found => false,
            Owner::Peer(_) => !absent,
        }
}

fn entry_at(chunks: &[Vec<Entry>], slot: Slot) -> Option<&Entry> {
    chunks.get((slot >> CHUNK_BITS) as usize)?.get(slot as usize & (CHUNK - 1))
}

#[cfg(test)]
pub(super) mod tests;
