//! What a peer is still to be told: a queue of dirty flows, and the frames that are not yet acknowledged.
//!
//! The queue holds slots, each at most once; a flow is encoded when its frame is built, so the latest state
//! wins. A lost frame is never sent again: its flows become dirty, unless they changed since. Every frame
//! carries the floor, the lowest sequence still open, below which the receiver accepts nothing any more.

use super::bulk::Bulk;
use super::capabilities::Capabilities;
use super::digest::Buckets;
use super::encode;
use super::filling::{Carried, Filling, Frame};
use super::flow::FlowKey;
use super::frame_size::FrameSize;
use super::inbox::{Inbox, WINDOW};
use super::modes::Mode;
use super::pace::Pace;
use super::prove::MOVING_MAX;
use super::rtt::Rtt;
use super::table::{Entry, Slot, Table};
use super::window::CongestionWindow;
use crate::proto::{self, change::Kind};
use crate::time::{Instant, earliest};
use crate::wire::frame::{HEADER_LEN, TAG_LEN};
use core::time::Duration;
use std::collections::VecDeque;

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
/// Flows asked for that wait for a frame; more are asked for again later.
const WANTS_MAX: usize = 1024;
const NOTES_MAX: usize = 4;

/// The unit of [`Stamp`].
const STAMP_LENGTH: Duration = Duration::from_nanos(1 << 16);

/// A point in time in units of 65.5 µs, wrapping after 78 hours: for ages only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u32);

impl Stamp {
    pub fn at(now: Instant) -> Self {
        Self((now.0 >> 16) as u32)
    }

    fn age(self, now: Instant) -> Duration {
        Duration::from_nanos(u64::from(Self::at(now).0.wrapping_sub(self.0)) << 16)
    }
}

/// The older one of two that are less than half the range apart.
fn older(a: Option<Stamp>, b: Option<Stamp>) -> Option<Stamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.0.wrapping_sub(a.0) < u32::MAX / 2 { a } else { b }),
        (a, b) => a.or(b),
    }
}

struct Item {
    slot: Slot,
    since: Stamp,
}

/// Counters of an outbox.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub frames_lost: u64,
    pub flows_sent: u64,
}

pub(super) struct Outbox {
    bit: u8,
    /// What bounds the rate where nothing is acknowledged.
    pace: Option<Pace>,
    window: CongestionWindow,
    /// When a frame was last acknowledged.
    progress: Instant,
    queue: VecDeque<Item>,
    wants: VecDeque<FlowKey>,
    /// Digests and answers to digests for the next frame.
    notes: VecDeque<Kind>,
    in_flight: VecDeque<Frame>,
    in_flight_flows: u64,
    next_sequence: u64,
    acked_base: u64,
    flushed: Instant,
    rtt: Rtt,
    pub bulk: Bulk,
    /// The bulk walk wants to go on although nothing was found in its last step.
    seeking: bool,
    /// Lost states that had a successor by then: what the peer is owed since then waits with a later time.
    superseded: u64,
    /// Since when the oldest change waits that was lost with a frame of the walk, and that the walk owes.
    owed_since: Option<Stamp>,
    /// The flows of a transfer that has ended without an acknowledgement.
    transferred: Option<u64>,
    spare: Vec<Vec<Carried>>,
    pub counters: Counters,
    pub size: FrameSize,
    /// What the peer understands of what is said to it.
    pub receiver: Capabilities,
}

impl Outbox {
    /// `bit` is the peer's bit in the entries; `window` bounds the frames in flight.
    pub fn new(bit: u8, window: usize, frame_bytes: usize, mode: Mode) -> Self {
        Self {
            bit,
            pace: if mode.is_reliable() { None } else { Some(Pace::default()) },
            window: CongestionWindow::new((window as u64).min(WINDOW - 1)),
            progress: Instant(0),
            queue: VecDeque::new(),
            wants: VecDeque::new(),
            notes: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_flows: 0,
            next_sequence: 1,
            acked_base: 0,
            flushed: Instant(0),
            rtt: Rtt::default(),
            bulk: Bulk::new(),
            seeking: false,
            superseded: 0,
            owed_since: None,
            transferred: None,
            spare: Vec::new(),
            counters: Counters::default(),
            size: FrameSize::new(frame_bytes),
            receiver: Capabilities::ALL,
        }
    }

    /// The entry's newest state is to be sent.
    pub fn mark(&mut self, table: &mut Table, slot: Slot, since: Stamp) {
        if self.mark_entry(table, slot) {
            self.queue.push_back(Item { slot, since });
        }
    }

    /// Asks the peer for a flow; dropped when too many wait (the asker repeats itself).
    pub fn want(&mut self, key: &FlowKey) {
        if self.wants.len() < WANTS_MAX {
            self.wants.push_back(*key);
        }
    }

    /// Puts a digest or an answer to one at the head of the next frame. It is not repeated when that is lost, and dropped when
    /// too many wait: whoever asks does so again.
    pub fn note(&mut self, note: Kind) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push_back(note);
        }
    }

    /// The buckets of the flows that wait to be sent; `None` when they are too many.
    pub fn moving(&self, table: &Table) -> Option<Buckets> {
        if self.queue.len() > MOVING_MAX {
            return None;
        }
        let mut moving = Buckets::default();
        for entry in self.queue.iter().filter_map(|item| table.get(item.slot)) {
            moving.set(table.bucket(entry));
        }
        Some(moving)
    }

    /// Forgets everything queued and in flight: the peer is gone, a bulk transfer will replace it.
    pub fn reset(&mut self, table: &mut Table) {
        for item in self.queue.drain(..) {
            if let Some(entry) = table.slot_mut(item.slot) {
                entry.queued &= !self.bit;
                entry.dirty &= !self.bit;
            }
        }
        self.in_flight.clear();
        self.in_flight_flows = 0;
        self.wants.clear();
        self.notes.clear();
        self.bulk.stop();
        self.owed_since = None;
        self.seeking = false;
        self.acked_base = self.next_sequence - 1;
        self.rtt = Rtt::default();
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
            frame: Frame {
                sequence: self.next_sequence,
                at: now,
                since: None,
                bulk_epoch: None,
                bulk_end: None,
                carried: self.spare.pop().unwrap_or_default(),
                open: true,
                bytes: 0,
            },
            left: bytes.saturating_sub(DATA_OVERHEAD),
            changes: &mut data.changes,
            receiver: self.receiver,
        };
        self.fill_control(&mut filling);
        // Changes go first, but every other frame begins with the walk: neither starves the other.
        if self.next_sequence.is_multiple_of(2) {
            self.fill_bulk(table, &mut filling);
            self.fill_queue(table, &mut filling);
        } else {
            self.fill_queue(table, &mut filling);
            self.fill_bulk(table, &mut filling);
        }
        let mut frame = filling.frame;
        frame.bytes = HEADER_LEN + TAG_LEN + bytes.saturating_sub(filling.left);
        self.flushed = now;
        if data.changes.is_empty() && !self.is_behind() {
            self.spare.push(frame.carried);
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
        self.acked_base = self.acked_base.max(ack.base.min(self.next_sequence - 1));
        let mut bulk_done = None;
        let mut highest = self.acked_base;
        for at in 0..self.in_flight.len() {
            let Some(frame) = self.in_flight.get_mut(at) else { break };
            if !is_acked(ack, frame.sequence) {
                continue;
            }
            highest = highest.max(frame.sequence);
            if core::mem::take(&mut frame.open) {
                let carried = core::mem::take(&mut frame.carried);
                let frame_bytes = frame.bytes;
                let (sent, bulk_epoch, bulk_end) = (frame.at, frame.bulk_epoch, frame.bulk_end);
                self.size.on_arrived(frame_bytes);
                self.rtt.sample(now.since(sent));
                self.window.on_acked();
                self.progress = now;
                self.settle(table, carried, |table, flow| inbox.on_told(ack.sent, flow.slot, flow.version, table));
                bulk_epoch.into_iter().for_each(|epoch| self.bulk.on_frame_acked(epoch));
                if bulk_end.is_some_and(|epoch| self.bulk.on_end_settled(epoch, true)) {
                    bulk_done = Some(self.bulk.flows());
                }
            }
        }
        self.give_up(now, table, |frame| frame.sequence + REORDER_FRAMES <= highest);
        bulk_done
    }

    /// Gives up frames that were not acknowledged in time.
    pub fn on_timer(&mut self, now: Instant, table: &mut Table) {
        if self.silence_at().is_none_or(|at| at > now) {
            return;
        }
        let timeout = self.rtt.timeout();
        if self.give_up(now, table, |frame| frame.at + timeout <= now) {
            self.rtt.back_off();
            self.window.on_silence();
        }
    }

    /// `bytes` as in [`Outbox::fill`].
    pub fn poll_at(&self, bytes: usize) -> Option<Instant> {
        let timeout = self.silence_at();
        if let Some(pace) = &self.pace {
            let batch = (!self.queue.is_empty()).then(|| self.flushed + BATCH_DELAY);
            let due = if self.seeking || self.is_due_at_once(bytes) { Some(Instant(0)) } else { batch };
            return due.map(|due| due.max(pace.opens_at()));
        }
        if !self.is_window_open() {
            return timeout;
        }
        if self.seeking || self.is_due_at_once(bytes) {
            return Some(Instant(0));
        }
        earliest((!self.queue.is_empty()).then(|| self.flushed + BATCH_DELAY), timeout)
    }

    /// Age of the oldest change not acknowledged.
    pub fn lag(&self, now: Instant) -> Duration {
        let queued = self.queue.front().map(|item| item.since.age(now));
        let in_flight = self.in_flight.iter().filter(|frame| frame.open).filter_map(|frame| frame.since);
        in_flight.chain(self.owed_since).map(|since| since.age(now)).chain(queued).max().unwrap_or_default()
    }

    /// True when no change made `age` ago or before waits or is not acknowledged. Reads the whole queue: for a flush.
    pub fn is_younger(&self, now: Instant, age: Duration) -> bool {
        let queued = self.queue.iter().map(|item| item.since);
        let in_flight = self.in_flight.iter().filter(|frame| frame.open).filter_map(|frame| frame.since);
        // Times are kept coarsely.
        queued.chain(in_flight).chain(self.owed_since).all(|since| since.age(now) + STAMP_LENGTH < age)
    }

    /// What frames that are not acknowledged carry, in the order of the slots.
    pub fn in_flight(&self) -> Vec<Slot> {
        let carried = self.in_flight.iter().filter(|frame| frame.open).flat_map(|frame| &frame.carried);
        let mut slots: Vec<Slot> = carried.map(|flow| flow.slot).collect();
        slots.sort_unstable();
        slots
    }

    /// How many lost states had a successor when the loss was found: what such a flow is owed for counts as younger.
    pub fn superseded(&self) -> u64 {
        self.superseded
    }

    /// Changes wait or are not acknowledged.
    pub fn is_pending(&self) -> bool {
        !self.queue.is_empty() || !self.in_flight.is_empty()
    }

    pub fn sent_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    pub fn acked_sequence(&self) -> u64 {
        self.acked_base
    }

    pub fn backlog_flows(&self) -> u64 {
        self.queue.len() as u64
    }

    pub fn in_flight_flows(&self) -> u64 {
        self.in_flight_flows
    }

    pub fn rtt(&self) -> Duration {
        self.rtt.smooth.unwrap_or_default()
    }

    fn floor(&self) -> u64 {
        match self.pace {
            None => self.in_flight.front().map_or(self.next_sequence, |frame| frame.sequence),
            // What is not sent again may still be on its way.
            Some(_) => self.next_sequence.saturating_sub(LATE_FRAMES).max(1),
        }
    }

    fn may_send(&self, now: Instant) -> bool {
        self.pace.as_ref().map_or_else(|| self.is_window_open(), |pace| pace.is_open(now))
    }

    /// When the oldest frame in flight is given up, unless others are acknowledged meanwhile (RFC 6298 section 5.3).
    fn silence_at(&self) -> Option<Instant> {
        self.in_flight.front().map(|frame| frame.at.max(self.progress) + self.rtt.timeout())
    }

    fn is_window_open(&self) -> bool {
        self.next_sequence - self.floor() < self.window.frames()
    }

    /// Everything is settled, but the receiver still waits for a frame that was given up: it needs the floor.
    fn is_behind(&self) -> bool {
        self.is_reliable() && self.in_flight.is_empty() && self.acked_base + 1 < self.next_sequence
    }

    fn is_due(&self, now: Instant, bytes: usize) -> bool {
        let waited = !self.queue.is_empty() && now >= self.flushed + BATCH_DELAY;
        waited || self.is_due_at_once(bytes)
    }

    fn is_due_at_once(&self, bytes: usize) -> bool {
        let full = self.queue.len() * FLOW_BYTES_TYPICAL >= bytes;
        let bulk = self.bulk.end_due().is_some() || (self.bulk.is_walking() && !self.seeking);
        full || bulk || !self.wants.is_empty() || !self.notes.is_empty() || self.is_behind()
    }

    fn mark_entry(&mut self, table: &mut Table, slot: Slot) -> bool {
        let Some(entry) = table.get_mut(slot) else { return false };
        entry.dirty |= self.bit;
        let fresh = entry.queued & self.bit == 0;
        entry.queued |= self.bit;
        fresh
    }

    fn fill_control(&mut self, filling: &mut Filling) {
        if let Some(end) = self.bulk.end_due()
            && filling.add(Kind::BulkEnd(end))
        {
            filling.frame.bulk_end = Some(self.bulk.epoch());
            self.bulk.on_end_sent();
        }
        while let Some(note) = self.notes.pop_front() {
            if !filling.add(note.clone()) {
                self.notes.push_front(note);
                return;
            }
        }
        while let Some(key) = self.wants.front() {
            if !filling.add(Kind::Want(encode::key_message(key))) {
                return;
            }
            self.wants.pop_front();
        }
    }

    fn fill_queue(&mut self, table: &mut Table, filling: &mut Filling) {
        while let Some(item) = self.queue.pop_front() {
            let Some(entry) = table.slot_mut(item.slot) else { continue };
            entry.queued &= !self.bit;
            if entry.dirty & self.bit == 0 {
                continue;
            }
            if !filling.carry(item.slot, entry) {
                entry.queued |= self.bit;
                self.queue.push_front(item);
                return;
            }
            entry.dirty &= !self.bit;
            filling.frame.since = older(filling.frame.since, Some(item.since));
        }
    }

    fn fill_bulk(&mut self, table: &mut Table, filling: &mut Filling) {
        while let Some(slot) = self.bulk.peek(table) {
            let Some(entry) = table.get_mut(slot) else { return };
            if !filling.carry(slot, entry) {
                return;
            }
            // A change rides with the walk. Its own place in the queue is not looked for: none there waits longer than the first.
            let first = self.queue.front().filter(|_| entry.dirty & self.bit != 0);
            let since = older(self.owed_since, first.map(|item| item.since));
            filling.frame.since = older(filling.frame.since, since);
            entry.dirty &= !self.bit;
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
        self.in_flight_flows += frame.carried.len() as u64;
        self.in_flight.push_back(frame);
        self.next_sequence += 1;
        sequence
    }

    /// Nobody will say what has become of the frames sent: they count as arrived.
    fn let_go(&mut self, table: &mut Table) {
        while let Some(frame) = self.in_flight.pop_front() {
            let refresh = self.bulk.is_refresh();
            frame.bulk_epoch.into_iter().for_each(|epoch| self.bulk.on_frame_acked(epoch));
            if frame.bulk_end.is_some_and(|epoch| self.bulk.on_end_settled(epoch, true)) && !refresh {
                self.transferred = Some(self.bulk.flows());
            }
            let bit = self.bit;
            self.settle(table, frame.carried, |table, flow| {
                if let Some(entry) = table.get_mut(flow.slot) {
                    entry.owed &= !bit;
                    table.bury(flow.slot);
                }
            });
        }
    }

    /// The peer has these: `on_told` is told of those that have not changed since.
    fn settle(&mut self, table: &mut Table, mut carried: Vec<Carried>, mut on_told: impl FnMut(&mut Table, &Carried)) {
        self.in_flight_flows = self.in_flight_flows.saturating_sub(carried.len() as u64);
        for flow in carried.drain(..) {
            if table.get(flow.slot).is_some_and(|entry| is_same(entry, flow.version)) {
                on_told(table, &flow);
            }
        }
        self.spare.push(carried);
    }

    fn give_up(&mut self, now: Instant, table: &mut Table, is_lost: impl Fn(&Frame) -> bool) -> bool {
        let mut any = false;
        for at in 0..self.in_flight.len() {
            let Some(frame) = self.in_flight.get_mut(at).filter(|frame| frame.open && is_lost(frame)) else {
                continue;
            };
            any = true;
            frame.open = false;
            let (frame_at, frame_bytes) = (frame.at, frame.bytes);
            let mut carried = core::mem::take(&mut frame.carried);
            let since = frame.since;
            let (bulk_epoch, bulk_end) = (frame.bulk_epoch, frame.bulk_end);
            self.counters.frames_lost += 1;
            self.size.on_lost(now, frame_bytes);
            bulk_end.into_iter().for_each(|epoch| {
                self.bulk.on_end_settled(epoch, false);
            });
            let owed = bulk_epoch.is_some_and(|epoch| self.bulk.on_frame_lost(epoch));
            if owed {
                // Also what changed since: the announcement of the end must not overtake it.
                carried.iter().rev().for_each(|flow| self.bulk.owe(flow.slot));
                self.owed_since = older(self.owed_since, since);
            } else {
                self.send_again(table, &carried, since.unwrap_or(Stamp::at(frame_at)));
            }
            self.in_flight_flows = self.in_flight_flows.saturating_sub(carried.len() as u64);
            carried.clear();
            self.spare.push(carried);
        }
        while self.in_flight.front().is_some_and(|frame| !frame.open) {
            self.in_flight.pop_front();
        }
        any
    }

    fn send_again(&mut self, table: &mut Table, carried: &[Carried], since: Stamp) {
        for flow in carried.iter().rev() {
            if !table.get(flow.slot).is_some_and(|entry| is_same(entry, flow.version)) {
                self.superseded += 1;
            } else if self.mark_entry(table, flow.slot) {
                self.queue.push_front(Item { slot: flow.slot, since });
            }
        }
    }
}

fn is_acked(ack: &proto::Ack, sequence: u64) -> bool {
    if sequence <= ack.base {
        return true;
    }
    let offset = sequence - ack.base - 1;
    let word = usize::try_from(offset / 64).ok().and_then(|word| ack.later.get(word));
    word.is_some_and(|word| word >> (offset % 64) & 1 == 1)
}

fn is_same(entry: &Entry, version: u64) -> bool {
    entry.version() == version
}

#[cfg(test)]
mod tests;
