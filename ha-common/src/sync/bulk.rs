//! The transfer of the whole table to one peer: a walk over the slots, at its own pace, beside the changes.
//!
//! No queue holds the table: a cursor walks it as the window opens. Frames that carry what the walk owes
//! are marked; if one is lost its slots are sent again in a marked frame. The end is announced when the
//! walk is over and no marked frame is open, so it is true whatever was lost, and changes that go on
//! meanwhile cannot put it off.

use super::digest::Buckets;
use super::refresh::{portion, step};
use super::table::{Entry, Flags, Slot, Table};
use crate::proto;
use crate::time::Instant;
use core::time::Duration;
use std::collections::VecDeque;

/// Slots looked at in one step: bounds the time of a step over a table of another owner's flows.
const SEEK_MAX: u32 = 16_384;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Walking,
    /// The announcement of the end is in flight.
    Ending,
    Done,
}

/// The flows that changed lately when a transfer began: versions after the one and up to the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecentVersions {
    pub after: u64,
    pub until: u64,
}

/// Which of the flows the walk takes.
#[derive(Clone, Copy, Debug)]
enum Pass {
    /// Those that changed lately: first, because they are the most likely to have traffic.
    Recent(RecentVersions),
    /// The others, and what has changed since the transfer began.
    Others(RecentVersions),
}

impl Pass {
    fn takes(self, version: u64) -> bool {
        let is_in = |recent: RecentVersions| version > recent.after && version <= recent.until;
        match self {
            Self::Recent(recent) => is_in(recent),
            Self::Others(recent) => !is_in(recent),
        }
    }
}

pub(super) struct Bulk {
    state: State,
    epoch: u32,
    answers: u32,
    master: bool,
    pass: Pass,
    cursor: Slot,
    end: Slot,
    /// The walk may go so far now.
    until: Slot,
    /// A refresh, and when it began.
    refresh: Option<Instant>,
    /// The end is announced once more.
    again: bool,
    /// Only flows of these buckets, when the peer is known to have all others.
    only: Option<Buckets>,
    repair: VecDeque<Slot>,
    /// Marked frames in flight.
    open_frames: u32,
    flows: u64,
}

impl Bulk {
    pub fn new() -> Self {
        Self {
            state: State::Idle,
            epoch: 0,
            answers: 0,
            master: false,
            pass: Pass::Others(RecentVersions::default()),
            cursor: 0,
            end: 0,
            until: 0,
            refresh: None,
            again: false,
            only: None,
            repair: VecDeque::new(),
            open_frames: 0,
            flows: 0,
        }
    }

    /// Begins a transfer of the slots before `end`, of the `recent` versions first; what came before it is void.
    pub fn start(&mut self, answers: u32, master: bool, end: Slot, recent: RecentVersions) {
        self.begin(master, end);
        self.answers = answers;
        if recent.after > 0 {
            self.pass = Pass::Recent(recent);
        }
    }

    /// Begins a transfer of the flows in some buckets. The peer's request counts as answered as before.
    pub fn start_repair(&mut self, master: bool, end: Slot, buckets: Buckets) {
        self.begin(master, end);
        self.only = Some(buckets);
    }

    /// The transfer is, or was, of some buckets only.
    pub fn is_repair(&self) -> bool {
        self.only.is_some()
    }

    fn begin(&mut self, master: bool, end: Slot) {
        self.epoch += 1;
        self.master = master;
        self.pass = Pass::Others(RecentVersions::default());
        self.cursor = 0;
        self.end = end;
        self.until = end;
        self.refresh = None;
        self.again = false;
        self.only = None;
        self.flows = 0;
        self.repair.clear();
        self.open_frames = 0;
        self.state = State::Walking;
    }

    /// Lets the next portion of a refresh through, which takes `period` and is followed by the next.
    pub fn refresh(&mut self, now: Instant, period: Duration, master: bool, end: Slot) {
        if self.state == State::Done && self.refresh.is_none_or(|began| now.since(began) >= period) {
            self.begin(master, end);
            self.refresh = Some(now);
        }
        if let Some(began) = self.refresh {
            self.until = portion(self.end, now.since(began), period);
        }
    }

    /// When [`Bulk::refresh`] has something to do again, if it was last asked at `asked`.
    pub fn refresh_at(&self, asked: Instant, period: Duration) -> Option<Instant> {
        match self.refresh {
            Some(_) if self.until < self.end => Some(asked + step(self.end, period)),
            Some(began) => Some(began + period),
            None => self.is_done().then_some(asked),
        }
    }

    pub fn is_refresh(&self) -> bool {
        self.refresh.is_some()
    }

    /// The peer may have lost the announcement of the end.
    pub fn announce_again(&mut self) {
        self.again = self.state == State::Done;
    }

    pub fn stop(&mut self) {
        self.state = State::Idle;
        self.refresh = None;
        self.again = false;
        self.repair.clear();
        self.open_frames = 0;
        self.cursor = self.end;
    }

    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The request of the peer that the newest transfer answers.
    pub fn answers(&self) -> u32 {
        self.answers
    }

    /// The whole table was sent; a refresh comes after that.
    pub fn is_done(&self) -> bool {
        self.state == State::Done || self.refresh.is_some()
    }

    pub fn flows(&self) -> u64 {
        self.flows
    }

    /// Slots of a transfer still to be looked at: an upper bound of the flows to come.
    pub fn slots_left(&self) -> u64 {
        if self.refresh.is_some() {
            return 0;
        }
        let pass = match self.pass {
            Pass::Recent(_) => u64::from(self.end),
            Pass::Others(_) => 0,
        };
        pass + u64::from(self.end - self.cursor) + self.repair.len() as u64
    }

    /// Is there something to look at now?
    pub fn is_walking(&self) -> bool {
        self.cursor < self.until || !self.repair.is_empty()
    }

    /// Moves the cursor to the next flow to send. `None`: looked long enough, nothing found so far.
    pub fn seek(&mut self, table: &Table) -> Option<bool> {
        if !self.repair.is_empty() {
            return Some(true);
        }
        for _ in 0..SEEK_MAX {
            if self.cursor >= self.until {
                let Pass::Recent(recent) = self.pass else { return Some(false) };
                (self.pass, self.cursor) = (Pass::Others(recent), 0);
                continue;
            }
            let (only, pass) = (self.only.as_ref(), self.pass);
            let is_named = |entry: &Entry| {
                is_sent(entry)
                    && pass.takes(entry.version())
                    && only.is_none_or(|buckets| buckets.contains(table.bucket(entry)))
            };
            if table.get(self.cursor).is_some_and(is_named) {
                return Some(true);
            }
            self.cursor += 1;
        }
        None
    }

    /// The next slot to send, without taking it.
    pub fn peek(&mut self, table: &Table) -> Option<Slot> {
        while let Some(&slot) = self.repair.front() {
            if table.get(slot).is_some() {
                return Some(slot);
            }
            self.repair.pop_front();
        }
        (self.seek(table) == Some(true)).then_some(self.cursor)
    }

    /// The slot last peeked at was put into a frame.
    pub fn take(&mut self) {
        if self.repair.pop_front().is_none() {
            self.cursor += 1;
            self.flows += 1;
        }
    }

    /// A frame that carries slots of the walk is in flight.
    pub fn on_frame_sent(&mut self) {
        self.open_frames += 1;
    }

    /// A marked frame of `epoch` was acknowledged.
    pub fn on_frame_acked(&mut self, epoch: u32) {
        if epoch == self.epoch {
            self.open_frames = self.open_frames.saturating_sub(1);
        }
    }

    /// A marked frame of `epoch` was lost; true when its slots are owed again through [`Bulk::owe`].
    pub fn on_frame_lost(&mut self, epoch: u32) -> bool {
        let current = epoch == self.epoch && self.is_under_way();
        if current {
            self.open_frames = self.open_frames.saturating_sub(1);
        }
        current
    }

    pub fn owe(&mut self, slot: Slot) {
        self.repair.push_back(slot);
    }

    /// The flow in `slot` has come to be this node's amid the walk, which may have passed it by: the end is not to overtake it. Also
    /// where its announcement is in flight, which may be lost.
    pub fn owe_late(&mut self, slot: Slot) {
        if self.is_under_way() && self.repair.len() < self.end as usize {
            self.owe(slot);
        }
    }

    fn is_under_way(&self) -> bool {
        match self.state {
            State::Walking | State::Ending => true,
            State::Idle | State::Done => false,
        }
    }

    /// What is owed.
    pub fn owed(&self) -> impl Iterator<Item = Slot> + '_ {
        self.repair.iter().copied()
    }

    /// The announcement to put into the next frame, once everything has arrived.
    pub fn end_due(&self) -> Option<proto::BulkEnd> {
        let walked = self.cursor >= self.end && matches!(self.pass, Pass::Others(_));
        let over = walked && self.repair.is_empty() && self.open_frames == 0;
        ((self.state == State::Walking && over) || self.again).then_some(proto::BulkEnd {
            epoch: self.epoch,
            answers: self.answers,
            flows: self.flows,
            master: self.master,
            buckets: self.only.as_ref().map_or_else(Vec::new, |buckets| buckets.words().to_vec()),
            refresh: self.refresh.is_some(),
        })
    }

    pub fn on_end_sent(&mut self) {
        if !core::mem::take(&mut self.again) {
            self.state = State::Ending;
        }
    }

    /// The frame with the announcement was acknowledged (true) or lost. True when the transfer is done now.
    pub fn on_end_settled(&mut self, epoch: u32, acked: bool) -> bool {
        if epoch != self.epoch || self.state != State::Ending {
            return false;
        }
        self.state = if acked { State::Done } else { State::Walking };
        acked
    }
}

/// What a transfer names: the flows this node answers for, and those it is giving away.
fn is_sent(entry: &Entry) -> bool {
    entry.is_local() || (entry.is_live() && entry.flags.has(Flags::HANDOVER))
}

#[cfg(test)]
mod tests;
