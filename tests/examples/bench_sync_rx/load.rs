//! The sender: genuine frames out of production's socket, at a rate.

use crate::frames::Sealer;
use crate::rig::{Link, ORDINARY_PRIORITY, SENDER_CPU, pin};
use crate::source::sending_socket;
use anyhow::{Result, ensure};
use ha_common::sync::LinkSet;
use ha_tests::realtime;
use ha_user::peer::Outgoing;
use rustix::time::{ClockId, clock_gettime};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is due is sent so often, as production gathers what follows closely.
const GATHER: Duration = Duration::from_micros(500);
/// Frames in one burst, at the most: two runs of 1200 bytes.
const BURST_MAX: usize = 106;
/// A sender that needs so many times as long as it should is given up.
const LATE: u32 = 10;
/// Frames of one trial, at the most: they are all sealed before it begins.
pub const FRAMES_MAX: usize = 1 << 16;

/// What is sent in one trial.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Frames a second.
    pub rate: u32,
    /// At most [`FRAMES_MAX`]; a sender that cannot keep up takes longer.
    pub frames: usize,
    /// UDP payload, bytes.
    pub size: u16,
}

/// What was.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Frames that the kernel was asked to send, and those that it took.
    pub offered: u64,
    pub frames: u64,
    pub took: Duration,
    pub cpu_ns: u64,
}

/// Genuine frames of one size, with sequences from 1 on. They are sealed once: the sender would otherwise be the slowest part.
pub struct Pool {
    sealer: Sealer,
    size: u16,
    frames: Vec<Outgoing>,
}

impl Pool {
    pub fn new() -> Self {
        Self { sealer: Sealer::new(), size: 0, frames: Vec::new() }
    }

    /// The frames of a load.
    ///
    /// # Errors
    /// When there are no frames of that size.
    pub fn of(&mut self, load: Load) -> Result<&[Outgoing]> {
        ensure!(load.frames <= FRAMES_MAX, "{} frames are more than {FRAMES_MAX}", load.frames);
        if self.size != load.size {
            self.frames.clear();
            self.size = load.size;
        }
        while self.frames.len() < load.frames {
            let bytes = self.sealer.seal(self.frames.len() as u64 + 1, usize::from(self.size))?;
            self.frames.push(Outgoing { peer: 0, links: LinkSet(1), bytes });
        }
        Ok(self.frames.get(..load.frames).unwrap_or(&self.frames))
    }
}

/// When the frames of a trial were sent: nanoseconds of the clock that [`now_ns`] reads.
pub struct Stamps(Vec<AtomicU64>);

impl Stamps {
    pub fn new() -> Self {
        Self((0..=FRAMES_MAX).map(|_| AtomicU64::new(0)).collect())
    }

    /// By the frame's sequence.
    pub fn of(&self, sequence: u64) -> u64 {
        let stamp = usize::try_from(sequence).ok().and_then(|at| self.0.get(at));
        stamp.map_or(0, |stamp| stamp.load(Ordering::Relaxed))
    }

    fn put(&self, sequences: Range<usize>, ns: u64) {
        for stamp in self.0.get(sequences).unwrap_or_default() {
            stamp.store(ns, Ordering::Relaxed);
        }
    }
}

/// CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    read_ns(ClockId::Monotonic)
}

/// Processor time of the calling thread.
pub fn thread_ns() -> u64 {
    read_ns(ClockId::ThreadCPUTime)
}

fn read_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Sends frames from a thread made for it. With `is_pinned` nothing ordinary delays it on its processor.
///
/// # Errors
/// When the socket cannot be opened.
pub fn send(link: &Link, load: Load, frames: &[Outgoing], stamps: &Stamps, is_pinned: bool) -> Result<Sent> {
    link.sender.move_thread()?;
    let mut socket = sending_socket()?;
    if is_pinned {
        pin(None, SENDER_CPU)?;
        realtime::enter_at(ORDINARY_PRIORITY);
    }
    let (cpu_before, began) = (thread_ns(), Instant::now());
    let mut done = 0;
    while let Some(rest) = frames.get(done..).filter(|rest| !rest.is_empty() && !is_late(load, began.elapsed())) {
        let burst = rest.get(..due(load, done, began.elapsed()).min(rest.len())).unwrap_or(rest);
        if burst.is_empty() {
            std::thread::sleep(GATHER);
            continue;
        }
        // The sequence of the first frame is 1.
        stamps.put(done + 1..done + 1 + burst.len(), now_ns());
        socket.send(burst);
        done += burst.len();
    }
    let took = began.elapsed();
    let cpu_ns = thread_ns().saturating_sub(cpu_before);
    let frames = socket.stats().links.first().map_or(0, |link| link.sent);
    Ok(Sent { offered: done as u64, frames, took, cpu_ns })
}

/// How many frames are to be sent now.
fn due(load: Load, done: usize, elapsed: Duration) -> usize {
    let until_now = (elapsed.as_secs_f64() * f64::from(load.rate)) as usize + 1;
    until_now.saturating_sub(done).min(BURST_MAX)
}

fn is_late(load: Load, elapsed: Duration) -> bool {
    elapsed > Duration::from_secs_f64(load.frames as f64 / f64::from(load.rate.max(1))) * LATE
}
