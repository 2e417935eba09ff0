//! What a peer is still to be told: a queue of dirty flows, and the frames that are not yet acknowledged.
//!
//! The queue holds slots, each at most once; a flow is encoded when its frame is built, so the latest state wins. A lost
//! frame is never sent again: its flows become dirty, unless they changed since. Every frame carries the floor, the lowest
//! sequence still open, below which the receiver accepts nothing any more.

mod asides;
mod flight;
mod queue;

use super::bulk::Bulk;
use super::capabilities::Capabilities;
use super::digest::Buckets;
use super::filling::{Carried, Filling, Frame};
use super::flow::FlowKey;
use super::frame_size::FrameSize;
use super::inbox::Inbox;
use super::modes::Mode;
use super::pace::Pace;
use super::stamp::{Stamp, older};
use super::table::{Entry, Slot, Table};
use crate::proto::{self, change::Kind};
use crate::time::{Instant, earliest};
use crate::wire::frame::{HEADER_LEN, TAG_LEN};
use asides::Asides;
use core::time::Duration;
use flight::Flight;
use queue::Queue;

/// A change waits at most this long for others to share its frame.
const BATCH_DELAY: Duration = Duration::from_millis(1);
/// As many queued flows fill a frame, near enough to send it without waiting.
const FLOW_BYTES_TYPICAL: usize = 60;
/// Floor and epoch in front of the changes.
const DATA_OVERHEAD: usize = 20;
/// A frame is lost when this many later ones were acknowledged.
const REORDER_FRAMES: u64 = 3;
/// Where nothing is acknowledged, the receiver takes frames that are overtaken by so many others.
const LATE_FRAMES: u64 = 64;

/// Counters of an outbox.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub frames_lost: u64,
    pub flows_sent: u64,
}

pub(super) struct Outbox {
    /// What bounds the rate where nothing is acknowledged.
    pace: Option<Pace>,
    queue: Queue,
    asides: Asides,
    flight: Flight,
    flushed: Instant,
    pub bulk: Bulk,
    /// The bulk walk wants to go on although nothing was found in its last step.
    seeking: bool,
    /// Lost states that had a successor by then: what the peer is owed since then waits with a later time.
    superseded: u64,
    /// Since when the oldest change waits that was lost with a frame of the walk, and that the walk owes.
    owed_since: Option<Stamp>,
    /// The flows of a transfer that has ended without an acknowledgement.
    transferred: Option<u64>,
    pub counters: Counters,
    pub size: FrameSize,
    /// What the peer understands of what is said to it.
    pub receiver: Capabilities,
}

impl Outbox {
    /// `bit` is the peer's bit in the entries; `window` bounds the frames in flight.
    pub fn new(bit: u8, window: usize, frame_bytes: usize, mode: Mode) -> Self {
        Self {
            pace: if mode.is_reliable() { None } else { Some(Pace::default()) },
            queue: Queue::new(bit),
            asides: Asides::default(),
            flight: Flight::new(window),
            flushed: Instant(0),
            bulk: Bulk::new(),
            seeking: false,
            superseded: 0,
            owed_since: None,
            transferred: None,
            counters: Counters::default(),
            size: FrameSize::new(frame_bytes),
            receiver: Capabilities::ALL,
        }
    }

    /// The entry's newest state is to be sent.
    pub fn mark(&mut self, table: &mut Table, slot: Slot, since: Stamp) {
        self.queue.mark(table, slot, since);
    }

    /// Asks the peer for a flow; dropped when too many wait (the asker repeats itself).
    pub fn want(&mut self, key: &FlowKey) {
        self.asides.want(key);
    }

    /// Puts a digest or an answer to one at the head of the next frame. It is not repeated when that is lost, and dropped when
    /// too many wait: whoever asks does so again.
    pub fn note(&mut self, note: Kind) {
        self.asides.note(note);
    }

    /// The buckets of the flows that wait to be sent; `None` when they are too many.
    pub fn moving(&self, table: &Table) -> Option<Buckets> {
        self.queue.moving(table)
    }

    /// Forgets everything queued and in flight: the peer is gone, a bulk transfer will replace it.
    pub fn reset(&mut self, table: &mut Table) {
        self.queue.reset(table);
        self.flight.reset();
        self.asides.clear();
        self.bulk.stop();
        self.owed_since = None;
        self.seeking = false;
    }

    /// Builds the next frame into `data` if one is due, and returns its sequence.
    pub fn fill(&mut self, now: Instant, table: &mut Table, data: &mut proto::Data, bytes: usize) -> Option<u64> {
        if !self.may_send(now) {
            return None;
        }
        self.seeking = self.bulk.seek(table).is_none();
        if !self.is_due(now, bytes) {
            return None;
        }
        data.floor = self.floor();
        data.epoch = self.bulk.epoch();
        data.changes.clear();
        let mut filling = Filling {
            frame: self.flight.next(now),
            left: bytes.saturating_sub(DATA_OVERHEAD),
            changes: &mut data.changes,
            receiver: self.receiver,
        };
        self.fill_bulk_end(&mut filling);
        self.asides.fill(&mut filling);
        // Changes go first, but every other frame begins with the walk: neither starves the other.
        if filling.frame.sequence.is_multiple_of(2) {
            self.fill_bulk(table, &mut filling);
            self.queue.fill(table, &mut filling);
        } else {
            self.queue.fill(table, &mut filling);
            self.fill_bulk(table, &mut filling);
        }
        let mut frame = filling.frame;
        frame.bytes = HEADER_LEN + TAG_LEN + bytes.saturating_sub(filling.left);
        self.flushed = now;
        if data.changes.is_empty() && !self.is_behind() {
            self.flight.recycle(frame.carried);
            return None;
        }
        let sequence = self.launch(frame);
        if !self.is_reliable() {
            self.let_go(table);
        }
        Some(sequence)
    }

    /// A frame was sent as a datagram of so many bytes.
    pub fn on_sent(&mut self, now: Instant, bytes: usize) {
        if let Some(pace) = &mut self.pace {
            pace.spend(now, bytes);
        }
    }

    /// Are frames acknowledged, and their flows sent again if not?
    pub fn is_reliable(&self) -> bool {
        self.pace.is_none()
    }

    /// The flows of a transfer that has just been sent to its end, where nothing is acknowledged.
    pub fn take_transfer(&mut self) -> Option<u64> {
        self.transferred.take()
    }

    /// Settles what the peer acknowledged and gives up what it seems to have lost. Returns the flows of a
    /// bulk transfer that is complete now. `inbox`: the peer's own frames.
    pub fn on_ack(&mut self, now: Instant, ack: &proto::Ack, table: &mut Table, inbox: &mut Inbox) -> Option<u64> {
        let highest = self.flight.on_ack(ack);
        let mut bulk_done = None;
        let mut from = 0;
        while let Some((next, frame)) = self.flight.arrive(now, from, ack) {
            from = next;
            self.size.on_arrived(frame.bytes);
            self.settle(table, frame.carried, |table, flow| inbox.on_told(ack.sent, flow.slot, flow.version, table));
            frame.bulk_epoch.into_iter().for_each(|epoch| self.bulk.on_frame_acked(epoch));
            if frame.bulk_end.is_some_and(|epoch| self.bulk.on_end_settled(epoch, true)) {
                bulk_done = Some(self.bulk.flows());
            }
        }
        self.give_up(now, table, |frame| frame.sequence + REORDER_FRAMES <= highest);
        bulk_done
    }

    /// Gives up frames that were not acknowledged in time.
    pub fn on_timer(&mut self, now: Instant, table: &mut Table) {
        if self.flight.silence_at().is_none_or(|at| at > now) {
            return;
        }
        let timeout = self.flight.rtt.timeout();
        if self.give_up(now, table, |frame| frame.at + timeout <= now) {
            self.flight.on_silence();
        }
    }

    /// `bytes` as in [`Outbox::fill`].
    pub fn poll_at(&self, bytes: usize) -> Option<Instant> {
        let timeout = self.flight.silence_at();
        if let Some(pace) = &self.pace {
            let batch = (!self.queue.is_empty()).then(|| self.flushed + BATCH_DELAY);
            let due = if self.seeking || self.is_due_at_once(bytes) { Some(Instant(0)) } else { batch };
            return due.map(|due| due.max(pace.opens_at()));
        }
        if !self.flight.is_window_open() {
            return timeout;
        }
        if self.seeking || self.is_due_at_once(bytes) {
            return Some(Instant(0));
        }
        earliest((!self.queue.is_empty()).then(|| self.flushed + BATCH_DELAY), timeout)
    }

    /// Age of the oldest change not acknowledged.
    pub fn lag(&self, now: Instant) -> Duration {
        // What waits longest stands first.
        let queued = self.queue.stamps().next();
        let in_flight = self.flight.open().filter_map(|frame| frame.since);
        in_flight.chain(self.owed_since).chain(queued).map(|since| since.age(now)).max().unwrap_or_default()
    }

    /// True when no change made `age` ago or before waits or is not acknowledged. Reads the whole queue: for a flush.
    pub fn is_younger(&self, now: Instant, age: Duration) -> bool {
        let in_flight = self.flight.open().filter_map(|frame| frame.since);
        self.queue.stamps().chain(in_flight).chain(self.owed_since).all(|since| since.is_younger(now, age))
    }

    /// What frames that are not acknowledged carry, in the order of the slots.
    pub fn in_flight(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.flight.open().flat_map(|frame| &frame.carried).map(|flow| flow.slot).collect();
        slots.sort_unstable();
        slots
    }

    /// How many lost states had a successor when the loss was found: what such a flow is owed for counts as younger.
    pub fn superseded(&self) -> u64 {
        self.superseded
    }

    /// Changes wait or are not acknowledged.
    pub fn is_pending(&self) -> bool {
        !self.queue.is_empty() || !self.flight.is_empty()
    }

    pub fn sent_sequence(&self) -> u64 {
        self.flight.sent_sequence()
    }

    pub fn acked_sequence(&self) -> u64 {
        self.flight.acked_sequence()
    }

    pub fn backlog_flows(&self) -> u64 {
        self.queue.len() as u64
    }

    pub fn in_flight_flows(&self) -> u64 {
        self.flight.flows()
    }

    pub fn rtt(&self) -> Duration {
        self.flight.rtt.smooth.unwrap_or_default()
    }

    fn floor(&self) -> u64 {
        match self.pace {
            None => self.flight.floor(),
            // What is not sent again may still be on its way.
            Some(_) => self.flight.next_sequence.saturating_sub(LATE_FRAMES).max(1),
        }
    }

    fn may_send(&self, now: Instant) -> bool {
        self.pace.as_ref().map_or_else(|| self.flight.is_window_open(), |pace| pace.is_open(now))
    }

    fn is_behind(&self) -> bool {
        self.is_reliable() && self.flight.is_behind()
    }

    fn is_due(&self, now: Instant, bytes: usize) -> bool {
        let waited = !self.queue.is_empty() && now >= self.flushed + BATCH_DELAY;
        waited || self.is_due_at_once(bytes)
    }

    fn is_due_at_once(&self, bytes: usize) -> bool {
        let full = self.queue.len() * FLOW_BYTES_TYPICAL >= bytes;
        let bulk = self.bulk.end_due().is_some() || (self.bulk.is_walking() && !self.seeking);
        full || bulk || !self.asides.is_empty() || self.is_behind()
    }

    fn fill_bulk_end(&mut self, filling: &mut Filling) {
        if let Some(end) = self.bulk.end_due()
            && filling.add(Kind::BulkEnd(end))
        {
            filling.frame.bulk_end = Some(self.bulk.epoch());
            self.bulk.on_end_sent();
        }
    }

    fn fill_bulk(&mut self, table: &mut Table, filling: &mut Filling) {
        while let Some(slot) = self.bulk.peek(table) {
            let Some(entry) = table.get_mut(slot) else { return };
            if !filling.carry(slot, entry) {
                return;
            }
            // A change rides with the walk. Its own place in the queue is not looked for: none there waits longer than the first.
            let first = self.queue.stamps().next().filter(|_| entry.dirty & self.queue.bit != 0);
            filling.frame.since = older(filling.frame.since, older(self.owed_since, first));
            entry.dirty &= !self.queue.bit;
            self.bulk.take();
            filling.frame.bulk_epoch = Some(self.bulk.epoch());
        }
        if !self.bulk.is_walking() {
            self.owed_since = None;
        }
    }

    fn launch(&mut self, frame: Frame) -> u64 {
        let sequence = frame.sequence;
        if frame.bulk_epoch.is_some() {
            self.bulk.on_frame_sent();
        }
        self.counters.flows_sent += frame.carried.len() as u64;
        self.flight.launch(frame);
        sequence
    }

    /// Nobody will say what has become of the frames sent: they count as arrived.
    fn let_go(&mut self, table: &mut Table) {
        while let Some(frame) = self.flight.land() {
            let refresh = self.bulk.is_refresh();
            frame.bulk_epoch.into_iter().for_each(|epoch| self.bulk.on_frame_acked(epoch));
            if frame.bulk_end.is_some_and(|epoch| self.bulk.on_end_settled(epoch, true)) && !refresh {
                self.transferred = Some(self.bulk.flows());
            }
            let bit = self.queue.bit;
            self.settle(table, frame.carried, |table, flow| {
                if let Some(entry) = table.get_mut(flow.slot) {
                    entry.owed &= !bit;
                    table.bury(flow.slot);
                }
            });
        }
    }

    /// The peer has these: `on_told` is told of those that have not changed since.
    fn settle(&mut self, table: &mut Table, carried: Vec<Carried>, mut on_told: impl FnMut(&mut Table, &Carried)) {
        for flow in &carried {
            if table.get(flow.slot).is_some_and(|entry| is_same(entry, flow.version)) {
                on_told(table, flow);
            }
        }
        self.flight.recycle(carried);
    }

    fn give_up(&mut self, now: Instant, table: &mut Table, is_lost: impl Fn(&Frame) -> bool) -> bool {
        let mut from = 0;
        while let Some((next, frame)) = self.flight.close(from, &is_lost) {
            from = next;
            self.counters.frames_lost += 1;
            self.size.on_lost(now, frame.bytes);
            frame.bulk_end.into_iter().for_each(|epoch| {
                self.bulk.on_end_settled(epoch, false);
            });
            let owed = frame.bulk_epoch.is_some_and(|epoch| self.bulk.on_frame_lost(epoch));
            if owed {
                // Also what changed since: the announcement of the end must not overtake it.
                frame.carried.iter().rev().for_each(|flow| self.bulk.owe(flow.slot));
                self.owed_since = older(self.owed_since, frame.since);
            } else {
                self.send_again(table, &frame.carried, frame.since.unwrap_or(Stamp::at(frame.at)));
            }
            self.flight.recycle(frame.carried);
        }
        self.flight.trim();
        from > 0
    }

    fn send_again(&mut self, table: &mut Table, carried: &[Carried], since: Stamp) {
        for flow in carried.iter().rev() {
            if table.get(flow.slot).is_some_and(|entry| is_same(entry, flow.version)) {
                self.queue.mark_again(table, flow.slot, since);
            } else {
                self.superseded += 1;
            }
        }
    }
}

fn is_same(entry: &Entry, version: u64) -> bool {
    entry.version() == version
}

#[cfg(test)]
mod tests;
