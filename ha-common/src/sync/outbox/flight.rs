//! The frames in flight: in the order of their sequences, no more than the congestion window, each until it is acknowledged
//! or given up.

use crate::proto;
use crate::sync::filling::{Carried, Frame};
use crate::sync::inbox::WINDOW;
use crate::sync::rtt::Rtt;
use crate::sync::window::CongestionWindow;
use crate::time::Instant;
use std::collections::VecDeque;

pub(super) struct Flight {
    /// A closed frame keeps its place until those before it are closed.
    frames: VecDeque<Frame>,
    flows: u64,
    pub next_sequence: u64,
    acked_base: u64,
    window: CongestionWindow,
    pub rtt: Rtt,
    /// When a frame was last acknowledged.
    progress: Instant,
    /// Emptied memory of former frames.
    spare: Vec<Vec<Carried>>,
}

impl Flight {
    /// `window`: frames in flight at the most.
    pub fn new(window: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            flows: 0,
            next_sequence: 1,
            acked_base: 0,
            window: CongestionWindow::new((window as u64).min(WINDOW - 1)),
            rtt: Rtt::default(),
            progress: Instant(0),
            spare: Vec::new(),
        }
    }

    /// Forgets what is in flight: nobody will acknowledge it.
    pub fn reset(&mut self) {
        self.frames.clear();
        self.flows = 0;
        self.acked_base = self.sent_sequence();
        self.rtt = Rtt::default();
    }

    /// The next frame, empty.
    pub fn next(&mut self, now: Instant) -> Frame {
        Frame {
            sequence: self.next_sequence,
            at: now,
            since: None,
            bulk_epoch: None,
            bulk_end: None,
            carried: self.spare.pop().unwrap_or_default(),
            open: true,
            bytes: 0,
        }
    }

    /// Takes back the memory of a frame that is done with.
    pub fn recycle(&mut self, mut carried: Vec<Carried>) {
        carried.clear();
        self.spare.push(carried);
    }

    /// The frame is sent.
    pub fn launch(&mut self, frame: Frame) {
        self.flows += frame.carried.len() as u64;
        self.frames.push_back(frame);
        self.next_sequence += 1;
    }

    /// The oldest frame, which leaves.
    pub fn land(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.flows = self.flows.saturating_sub(frame.carried.len() as u64);
        Some(frame)
    }

    /// The highest sequence of which the receiver has said that it arrived, also before or too late.
    pub fn on_ack(&mut self, ack: &proto::Ack) -> u64 {
        self.acked_base = self.acked_base.max(ack.base.min(self.sent_sequence()));
        let acked = self.frames.iter().map(|frame| frame.sequence).filter(|sequence| is_acked(ack, *sequence));
        acked.max().unwrap_or_default().max(self.acked_base)
    }

    /// Closes the next frame, not before place `from`, that is open and acknowledged. The place after it, and what it was.
    pub fn arrive(&mut self, now: Instant, from: usize, ack: &proto::Ack) -> Option<(usize, Frame)> {
        let (next, frame) = self.close(from, |frame| is_acked(ack, frame.sequence))?;
        self.rtt.sample(now.since(frame.at));
        self.window.on_acked();
        self.progress = now;
        Some((next, frame))
    }

    /// Closes the next open frame, not before place `from`, of which that is true. The place after it, and what it was.
    pub fn close(&mut self, from: usize, is_meant: impl Fn(&Frame) -> bool) -> Option<(usize, Frame)> {
        let mut frames = self.frames.iter_mut().enumerate().skip(from);
        let (at, frame) = frames.find(|(_, frame)| frame.open && is_meant(frame))?;
        frame.open = false;
        let carried = core::mem::take(&mut frame.carried);
        self.flows = self.flows.saturating_sub(carried.len() as u64);
        Some((at + 1, Frame { carried, ..*frame }))
    }

    /// Lets the closed frames go that no open one stands before.
    pub fn trim(&mut self) {
        while self.frames.front().is_some_and(|frame| !frame.open) {
            self.frames.pop_front();
        }
    }

    /// Frames were given up because nothing was heard.
    pub fn on_silence(&mut self) {
        self.rtt.back_off();
        self.window.on_silence();
    }

    /// When the oldest frame in flight is given up, unless others are acknowledged meanwhile (RFC 6298 section 5.3).
    pub fn silence_at(&self) -> Option<Instant> {
        self.frames.front().map(|frame| frame.at.max(self.progress) + self.rtt.timeout())
    }

    /// The lowest sequence that may still be acknowledged.
    pub fn floor(&self) -> u64 {
        self.frames.front().map_or(self.next_sequence, |frame| frame.sequence)
    }

    pub fn is_window_open(&self) -> bool {
        self.next_sequence - self.floor() < self.window.frames()
    }

    /// Everything is settled, but the receiver still waits for a frame that was given up: it needs the floor.
    pub fn is_behind(&self) -> bool {
        self.frames.is_empty() && self.acked_base < self.sent_sequence()
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The frames not acknowledged and not given up.
    pub fn open(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(|frame| frame.open)
    }

    pub fn flows(&self) -> u64 {
        self.flows
    }

    pub fn sent_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    pub fn acked_sequence(&self) -> u64 {
        self.acked_base
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
