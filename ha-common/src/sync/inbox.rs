//! What arrived from a peer: replay windows, gaps, acknowledgements due, removals to remember.

use super::peer::bit;
use super::refresh::Rounds;
use super::table::{Entry, Flags, Owner, Slot, Table};
use super::{Config, PeerId};
use crate::proto;
use crate::reason::DropReason;
use crate::time::{Instant, earliest};
use core::time::Duration;
use std::collections::VecDeque;

/// Sequences that a window remembers; an outbox never has more in flight.
pub(super) const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;
/// An acknowledgement waits at most this long, and for at most this many frames.
const ACK_DELAY: Duration = Duration::from_millis(2);
const ACK_FRAMES: u32 = 8;
/// A gap that is older makes the node "not in sync".
const GAP_TOLERANCE: Duration = Duration::from_millis(200);
/// Removals remembered because of a gap; more than a full window can carry is a misbehaving peer.
const HELD_MAX: usize = 65_536;

/// Which sequences of a stream were received.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Everything up to here was received or given up by the sender.
    base: u64,
    highest: u64,
    /// Bit `sequence % WINDOW` for the last `WINDOW` sequences up to `highest`.
    bits: [u64; WORDS],
}

impl Window {
    pub fn base(&self) -> u64 {
        self.base
    }

    pub fn has_gap(&self) -> bool {
        self.base < self.highest
    }

    /// May this sequence still be accepted?
    ///
    /// # Errors
    /// [`DropReason::FrameReplay`]: received already, given up by its sender, or too old to tell.
    pub fn check(&self, sequence: u64) -> Result<(), DropReason> {
        let old = sequence <= self.base || sequence.saturating_add(WINDOW) <= self.highest;
        if old || (sequence <= self.highest && self.bit(sequence)) {
            return Err(DropReason::FrameReplay);
        }
        Ok(())
    }

    /// Notes an authentic sequence that passed [`Window::check`].
    pub fn accept(&mut self, sequence: u64) {
        if sequence > self.highest {
            self.advance(sequence);
        }
        self.set_bit(sequence);
        self.settle();
    }

    /// Sequences below `floor` will not be missed any more.
    pub fn raise_floor(&mut self, floor: u64) {
        let given_up = floor.saturating_sub(1);
        if given_up > self.highest {
            self.advance(given_up);
        }
        self.base = self.base.max(given_up);
        self.settle();
    }

    /// Nothing before the highest sequence will be missed any more.
    pub fn close_gaps(&mut self) {
        self.raise_floor(self.highest.saturating_add(1));
    }

    /// Base, and a bit for each later sequence received; `sent` is the last one of the other direction.
    pub fn ack(&self, sent: u64) -> proto::Ack {
        let words = (self.highest - self.base).div_ceil(64);
        let word = |nth: u64| {
            let received = |&bit: &u64| {
                let sequence = self.base.checked_add(1 + nth * 64 + bit);
                sequence.is_some_and(|sequence| sequence <= self.highest && self.bit(sequence))
            };
            (0..64).filter(received).fold(0, |w, bit| w | 1 << bit)
        };
        proto::Ack { base: self.base, later: (0..words).map(word).collect(), sent }
    }

    fn advance(&mut self, highest: u64) {
        for sequence in (self.highest + 1..=highest).rev().take(WINDOW as usize) {
            self.clear_bit(sequence);
        }
        self.highest = highest;
        self.base = self.base.max(highest.saturating_sub(WINDOW));
    }

    fn settle(&mut self) {
        while self.base < self.highest && self.bit(self.base + 1) {
            self.base += 1;
        }
    }

    fn bit(&self, sequence: u64) -> bool {
        let (word, bit) = place(sequence);
        self.bits.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn set_bit(&mut self, sequence: u64) {
        let (word, bit) = place(sequence);
        if let Some(bits) = self.bits.get_mut(word) {
            *bits |= bit;
        }
    }

    fn clear_bit(&mut self, sequence: u64) {
        let (word, bit) = place(sequence);
        if let Some(bits) = self.bits.get_mut(word) {
            *bits &= !bit;
        }
    }
}

fn place(sequence: u64) -> (usize, u64) {
    ((sequence % WINDOW / 64) as usize, 1 << (sequence % 64))
}

/// A removal, of the peer or told to it, kept until no older frame of the peer can bring the flow back.
struct Held {
    sequence: u64,
    slot: Slot,
    version: u64,
}

/// The receiving half of a session with one peer.
pub(super) struct Inbox {
    peer: PeerId,
    /// Are frames acknowledged?
    reliable: bool,
    cache_timeout: Duration,
    pub data: Window,
    pub acks: Window,
    ack_due: Option<Instant>,
    unacked_frames: u32,
    gap_since: Option<Instant>,
    /// The peer's newest transfer epoch seen, and the last one that was completed.
    pub epoch: u32,
    pub epoch_ended: u32,
    /// The last one of the whole table that was completed.
    pub whole_ended: u32,
    /// Highest request of ours that a completed transfer answered.
    pub answered: u32,
    /// The completed transfer came from a master: what it did not name does not exist.
    pub ended_by_master: bool,
    held: VecDeque<Held>,
    /// When the peer's newest transfers began.
    pub rounds: Rounds,
}

impl Inbox {
    pub fn new(peer: PeerId, config: &Config) -> Self {
        Self::empty(peer, config.mode.is_reliable(), config.cache_timeout)
    }

    /// That of a new session.
    pub fn renewed(&self) -> Self {
        Self::empty(self.peer, self.reliable, self.cache_timeout)
    }

    fn empty(peer: PeerId, reliable: bool, cache_timeout: Duration) -> Self {
        Self {
            peer,
            reliable,
            cache_timeout,
            rounds: Rounds::new(cache_timeout),
            data: Window::default(),
            acks: Window::default(),
            ack_due: None,
            unacked_frames: 0,
            gap_since: None,
            epoch: 0,
            epoch_ended: 0,
            whole_ended: 0,
            answered: 0,
            ended_by_master: false,
            held: VecDeque::new(),
        }
    }

    /// Notes a data frame that passed the window and was authentic.
    pub fn on_data(&mut self, now: Instant, sequence: u64, data: &proto::Data) {
        self.data.accept(sequence);
        self.data.raise_floor(data.floor.min(sequence));
        self.epoch = self.epoch.max(data.epoch);
        self.rounds.note(now, self.epoch);
        self.gap_since = if self.data.has_gap() { self.gap_since.or(Some(now)) } else { None };
        if !self.reliable {
            return;
        }
        self.unacked_frames += 1;
        // A new gap is reported at once: its sender counts later acknowledged frames.
        let delay = if self.unacked_frames >= ACK_FRAMES || self.data.has_gap() { Duration::ZERO } else { ACK_DELAY };
        self.ack_due = earliest(self.ack_due, Some(now + delay));
    }

    /// What nobody sends again is not waited for any longer than its frame may be late.
    pub fn on_timer(&mut self, now: Instant, table: &mut Table) {
        if !self.reliable && self.is_gap_old(now) {
            self.data.close_gaps();
            self.gap_since = None;
            self.release(table);
        }
    }

    /// The acknowledgement to send now, if one is due; `sent` is the last data frame that went to the peer.
    pub fn take_ack(&mut self, now: Instant, sent: u64) -> Option<proto::Ack> {
        self.ack_due.filter(|&due| due <= now)?;
        self.ack_due = None;
        self.unacked_frames = 0;
        Some(self.data.ack(sent))
    }

    /// Has the peer's whole table been received, as far as was asked for?
    pub fn is_complete(&self, wanted: u32) -> bool {
        // A refresh is on all the time, and is nothing to wait for.
        let ended = self.epoch_ended == self.epoch || (!self.reliable && self.epoch_ended != 0);
        self.epoch != 0 && ended && self.answered == wanted
    }

    /// A gap has been open for too long to call the tables equal.
    pub fn is_gap_old(&self, now: Instant) -> bool {
        self.gap_since.is_some_and(|since| now.since(since) >= GAP_TOLERANCE)
    }

    pub fn poll_at(&self, now: Instant) -> Option<Instant> {
        let gap = self.gap_since.map(|since| since + GAP_TOLERANCE).filter(|&at| at > now);
        earliest(self.ack_due, gap)
    }

    /// Every frame up to this one has come, and none after it.
    pub fn is_latest(&self, sequence: u64) -> bool {
        self.data.base() == sequence && !self.data.has_gap()
    }

    /// Could a frame sent before `sequence` still be accepted?
    pub fn is_older_possible(&self, sequence: u64) -> bool {
        self.data.base().saturating_add(1) < sequence
    }

    /// Keeps the tombstone in `slot` until frames older than `sequence` cannot come any more.
    pub fn hold(&mut self, sequence: u64, slot: Slot, version: u64, table: &mut Table) {
        if let Some(entry) = table.get_mut(slot) {
            entry.flags.set(Flags::HELD_FOR_GAP);
        }
        self.keep(Held { sequence, slot, version }, table);
    }

    /// The peer has acknowledged what this node last told of the flow in `slot`, and had sent frames up to `sent` by then. Those may
    /// not know of it and still come: a removal is owed to the peer until they have.
    pub fn on_told(&mut self, sent: u64, slot: Slot, version: u64, table: &mut Table) {
        let told = Held { sequence: sent.saturating_add(1), slot, version };
        let is_removal = table.get(slot).is_some_and(|entry| entry.is_tombstone() && entry.owner() == Owner::Local);
        if is_removal && self.is_older_possible(told.sequence) {
            self.keep(told, table);
        } else if let Some(entry) = table.get_mut(slot) {
            entry.owed &= !bit(self.peer);
            table.bury(slot);
        }
    }

    fn keep(&mut self, held: Held, table: &mut Table) {
        if self.held.len() >= HELD_MAX
            && let Some(oldest) = self.held.pop_front()
        {
            self.let_go(&oldest, table);
        }
        self.held.push_back(held);
    }

    /// Lets all remembered removals go: the session has ended.
    pub fn release_all(&mut self, table: &mut Table) {
        while let Some(held) = self.held.pop_front() {
            self.let_go(&held, table);
        }
    }

    /// Lets removals go that no older frame can undo; after the newest frame was applied.
    pub fn release(&mut self, table: &mut Table) {
        while self.held.front().is_some_and(|held| held.sequence <= self.data.base().saturating_add(1)) {
            let Some(held) = self.held.pop_front() else { return };
            self.let_go(&held, table);
        }
    }

    fn let_go(&self, held: &Held, table: &mut Table) {
        let is_it = |entry: &&mut Entry| entry.is_tombstone() && entry.version() == held.version;
        let Some(entry) = table.get_mut(held.slot).filter(is_it) else { return };
        match entry.owner() {
            Owner::Peer(peer) if peer == self.peer => entry.flags.clear(Flags::HELD_FOR_GAP),
            Owner::Local => entry.owed &= !bit(self.peer),
            Owner::Peer(_) | Owner::Found => return,
        }
        table.bury(held.slot);
    }
}

#[cfg(test)]
mod tests;
