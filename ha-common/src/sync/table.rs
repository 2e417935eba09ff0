//! The shadow of the conntrack table: a hash index over a slab of entries.
//!
//! A slot is 32 bits and stays valid until the entry is removed, so queues hold slots and not keys. A
//! slot together with the version of its entry tells whether what a queue remembers is still so. The slab
//! grows in chunks: no copy of the whole table and no doubling of its memory at one insertion.

use super::PeerId;
use super::flow::{Flow, FlowKey};
use core::hash::BuildHasher;
use foldhash::quality::FixedState;
use hashbrown::HashTable;

pub(super) type Slot = u32;

const CHUNK_BITS: u32 = 12;
const CHUNK: usize = 1 << CHUNK_BITS;

/// Who answers for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This node: its kernel saw the traffic, or it is master.
    Local,
    /// Found in the kernel at start; nobody has claimed it yet.
    Found,
    /// That peer; this node's kernel holds a copy.
    Peer(PeerId),
}

/// One bit each: what is special about an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    /// Known to be missing in the kernel.
    pub const ABSENT: Flags = Flags(1);
    /// A real event was seen while this node was not master.
    pub const LIVE_HERE: Flags = Flags(2);
    /// Given away at a demotion while the table was still being sent.
    pub const HANDOVER: Flags = Flags(4);
    /// The tombstone is kept because an older frame may still arrive.
    pub const HELD_FOR_GAP: Flags = Flags(8);
    /// The tombstone is kept because a running dump may still list the flow.
    pub const HELD_FOR_DUMP: Flags = Flags(16);
    /// The kernel refuses new timeouts (`IPS_FIXED_TIMEOUT`).
    pub const FIXED_TIMEOUT: Flags = Flags(32);
    /// This kernel's entry was written by this node, hence with liberal window checks.
    pub const WRITTEN: Flags = Flags(64);

    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }
    pub fn set(&mut self, flag: Flags) {
        self.0 |= flag.0;
    }
    pub fn clear(&mut self, flag: Flags) {
        self.0 &= !flag.0;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Free,
    Live,
    Tombstone,
}

/// A flow with what replication needs to know about it.
#[derive(Debug)]
pub(super) struct Entry {
    pub flow: Flow,
    /// Lamport time of the last change.
    pub version: u64,
    /// Second (of the engine's clock) at which the kernel's timeout is written again.
    pub refresh_at: u32,
    /// Next slot in the same bucket of the keep-alive wheel.
    pub wheel_next: Slot,
    /// Low bits of the peer's bulk epoch in which it was last named.
    pub epoch: u16,
    owner: Owner,
    life: Life,
    pub flags: Flags,
    /// Bit per peer: the newest state is to be sent.
    pub dirty: u8,
    /// Bit per peer, of the slot and not the entry: an item for this slot stands in the peer's queue.
    pub queued: u8,
    /// Bit per peer: the removal is not yet acknowledged.
    pub owed: u8,
    /// Failed or repeated creations since the last success.
    pub retries: u8,
    /// Generation of the dump that listed it, or during which it changed.
    pub dump: u8,
    /// Of the slot and not the entry: linked into the keep-alive wheel.
    pub in_wheel: bool,
}

impl Entry {
    pub fn owner(&self) -> Owner {
        self.owner
    }
    pub fn is_live(&self) -> bool {
        self.life == Life::Live
    }
    pub fn is_tombstone(&self) -> bool {
        self.life == Life::Tombstone
    }
    /// Live and owned by this node.
    pub fn is_local(&self) -> bool {
        self.is_live() && self.owner == Owner::Local
    }
    pub fn is_owned_by(&self, peer: PeerId) -> bool {
        self.is_live() && self.owner == Owner::Peer(peer)
    }
}

/// Live entries by owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub local: u64,
    pub found: u64,
    pub peer: u64,
    pub tombstones: u64,
}

pub(super) struct Table {
    index: HashTable<Slot>,
    chunks: Vec<Vec<Entry>>,
    free: Vec<Slot>,
    slots: u32,
    hasher: FixedState,
    flows_max: usize,
    counts: Counts,
}

impl Table {
    /// An empty table for at most `flows_max` entries (tombstones included); `seed` keeps the order of the
    /// hash table unknown to those who choose the flows.
    pub fn new(seed: u64, flows_max: usize) -> Self {
        Self {
            index: HashTable::new(),
            chunks: Vec::new(),
            free: Vec::new(),
            slots: 0,
            hasher: FixedState::with_seed(seed),
            flows_max: flows_max.min(u32::MAX as usize - 1),
            counts: Counts::default(),
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

    /// The slot of a live entry or tombstone.
    pub fn find(&self, key: &FlowKey) -> Option<Slot> {
        self.index.find(self.hasher.hash_one(key), |&slot| self.key_at(slot) == Some(key)).copied()
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
        let (queued, in_wheel, wheel_next) =
            self.slot(slot).map_or((0, false, 0), |old| (old.queued, old.in_wheel, old.wheel_next));
        let entry = Entry {
            flow: *flow,
            version,
            refresh_at: 0,
            wheel_next,
            epoch: 0,
            owner,
            life: Life::Live,
            flags: Flags::default(),
            dirty: 0,
            queued,
            owed: 0,
            retries: 0,
            dump: 0,
            in_wheel,
        };
        match self.slot_mut(slot) {
            Some(old) => *old = entry,
            None => self.push(entry),
        }
        let Self { index, chunks, hasher, .. } = self;
        index.insert_unique(hasher.hash_one(flow.key), slot, |&slot| {
            // A slot in the index always has an entry; the alternative only keeps this total.
            entry_at(chunks, slot).map_or(0, |entry| hasher.hash_one(entry.flow.key))
        });
        self.count(owner, Life::Live, 1);
        Some(slot)
    }

    /// Forgets the entry; its slot may be used again at once.
    pub fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.get(slot) else { return };
        let (key, owner, life) = (entry.flow.key, entry.owner, entry.life);
        if let Ok(found) = self.index.find_entry(self.hasher.hash_one(key), |&at| at == slot) {
            found.remove();
        }
        self.set_life(slot, Life::Free);
        self.count(owner, life, -1);
        self.free.push(slot);
    }

    pub fn set_owner(&mut self, slot: Slot, owner: Owner) {
        let Some(entry) = self.get_mut(slot) else { return };
        let (before, life) = (entry.owner, entry.life);
        entry.owner = owner;
        self.count(before, life, -1);
        self.count(owner, life, 1);
    }

    /// Turns a live entry into the memory of its removal.
    pub fn entomb(&mut self, slot: Slot) {
        self.change_life(slot, Life::Tombstone);
    }

    /// Turns a tombstone into a live entry; the caller gives it its new state.
    pub fn revive(&mut self, slot: Slot) {
        self.change_life(slot, Life::Live);
        if let Some(entry) = self.get_mut(slot) {
            entry.owed = 0;
            entry.retries = 0;
            entry.flags = Flags::default();
            entry.flow.id = 0;
        }
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

    fn key_at(&self, slot: Slot) -> Option<&FlowKey> {
        self.slot(slot).map(|entry| &entry.flow.key)
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
        let Some(entry) = self.get(slot) else { return };
        let (owner, before) = (entry.owner, entry.life);
        self.set_life(slot, life);
        self.count(owner, before, -1);
        self.count(owner, life, 1);
    }

    fn set_life(&mut self, slot: Slot, life: Life) {
        if let Some(entry) = self.slot_mut(slot) {
            entry.life = life;
            entry.dirty = 0;
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

fn entry_at(chunks: &[Vec<Entry>], slot: Slot) -> Option<&Entry> {
    chunks.get((slot >> CHUNK_BITS) as usize)?.get(slot as usize & (CHUNK - 1))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::sync::flow::{Tuple, status};

    /// The n-th of many different UDP flows.
    pub(crate) fn flow(n: u32) -> Flow {
        let original = Tuple {
            source: core::net::Ipv4Addr::from_bits(0x0a00_0000 + n / 60_000).into(),
            destination: core::net::Ipv4Addr::from_bits(0xc0a8_0001).into(),
            protocol: 17,
            source_port: (n % 60_000) as u16,
            destination_port: 53,
        };
        Flow {
            key: FlowKey { original, zone: 0 },
            reply: original.inverse(),
            status: status::SEEN_REPLY,
            timeout: 30,
            mark: 0,
            tcp: None,
            id: 0,
        }
    }

    /// The table against a plain map under a random walk of insertions and removals: same content, bounded
    /// slots, counts right.
    #[test]
    fn agrees_with_a_map() {
        let mut table = Table::new(1, 500);
        let mut model = std::collections::HashMap::new();
        let mut random = 7u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let flow = flow((random >> 33) as u32 % 800);
            match table.find(&flow.key) {
                Some(slot) => {
                    assert_eq!(model.remove(&flow.key), Some(slot));
                    table.remove(slot);
                }
                None => match table.insert(&flow, Owner::Local, 1) {
                    Some(slot) => assert_eq!(model.insert(flow.key, slot), None),
                    None => assert_eq!(model.len(), 500),
                },
            }
            assert_eq!(table.counts().local, model.len() as u64);
        }
        assert!(table.slots() <= 500);
        assert!(model.iter().all(|(key, &slot)| table.find(key) == Some(slot)));
    }

    /// A tombstone is found by its key, counted apart, and goes when nothing holds it.
    #[test]
    fn life_of_a_tombstone() {
        let mut table = Table::new(1, 10);
        let slot = table.insert(&flow(1), Owner::Local, 5).unwrap();
        table.entomb(slot);
        assert_eq!(table.counts(), Counts { tombstones: 1, ..Counts::default() });
        table.get_mut(slot).unwrap().owed = 1;
        table.bury(slot);
        assert_eq!(table.find(&flow(1).key), Some(slot));
        table.get_mut(slot).unwrap().owed = 0;
        table.bury(slot);
        assert_eq!(table.find(&flow(1).key), None);
        assert_eq!(table.counts(), Counts::default());
    }

    /// The promise behind "one million flows": an entry costs no more than 136 bytes.
    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 136, "an entry has {} bytes", size_of::<Entry>());
    }
}
