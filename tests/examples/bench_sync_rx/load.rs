//! The sender: genuine frames out of production's socket, at a rate or as fast as it goes.

use crate::frames::Sealer;
use crate::rig::{Link, SENDER_CPU, pin};
use crate::source::sending_socket;
use anyhow::Result;
use ha_common::sync::LinkSet;
use ha_user::peer::Outgoing;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is due is sent so often, as production gathers what follows closely.
const GATHER: Duration = Duration::from_micros(500);
/// Frames that are sealed before they are sent, at the most: two runs of the largest.
const BURST_MAX: u64 = 106;
/// A sender that needs so many times the load's duration is given up.
const LATE: u32 = 10;
/// Frames whose time of sending is remembered: more than can be on their way.
const STAMPS: usize = 1 << 16;

/// What is sent in one trial.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Frames a second; `None`: as many as it can.
    pub rate: Option<u32>,
    /// At a rate it says how many frames there are, and a sender that cannot keep up takes longer.
    pub duration: Duration,
    /// UDP payload, bytes.
    pub size: u16,
}

/// What was.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Frames that the kernel took.
    pub frames: u64,
    /// How many sequences were used: a frame that the kernel did not take has one as well.
    pub sequences: u64,
    pub took: Duration,
    pub cpu_ns: u64,
}

/// When frames were sent, by sequence: nanoseconds of the clock that [`now_ns`] reads.
pub struct Stamps(Vec<AtomicU64>);

impl Stamps {
    pub fn new() -> Self {
        Self((0..STAMPS).map(|_| AtomicU64::new(0)).collect())
    }

    fn put(&self, sequence: u64, ns: u64) {
        if let Some(stamp) = self.0.get(sequence as usize % STAMPS) {
            stamp.store(ns, Ordering::Relaxed);
        }
    }

    /// Of a frame that was sent within the last [`STAMPS`].
    pub fn of(&self, sequence: u64) -> u64 {
        self.0.get(sequence as usize % STAMPS).map_or(0, |stamp| stamp.load(Ordering::Relaxed))
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

/// Sends the load from a thread of its own, with sequences from `first` on.
///
/// # Errors
/// When the socket cannot be opened or a frame cannot be made.
pub fn send(link: &Link, load: Load, first: u64, stamps: &Stamps, is_pinned: bool) -> Result<Sent> {
    link.sender.move_thread()?;
    if is_pinned {
        pin(None, SENDER_CPU)?;
    }
    let (mut socket, sealer) = (sending_socket()?, Sealer::new());
    let (cpu_before, began) = (thread_ns(), Instant::now());
    let mut sequence = first;
    let mut burst = Vec::new();
    while !is_over(load, sequence - first, began.elapsed()) {
        let due = due(load, sequence - first, began.elapsed());
        if due == 0 {
            std::thread::sleep(GATHER);
            continue;
        }
        burst.clear();
        for sequence in sequence..sequence + due {
            let bytes = sealer.seal(sequence, usize::from(load.size))?;
            burst.push(Outgoing { peer: 0, links: LinkSet(1), bytes });
        }
        let now = now_ns();
        (sequence..sequence + due).for_each(|sequence| stamps.put(sequence, now));
        sequence += due;
        socket.send(&burst);
    }
    let took = began.elapsed();
    let cpu_ns = thread_ns().saturating_sub(cpu_before);
    let frames = socket.stats().links.first().map_or(0, |link| link.sent);
    Ok(Sent { frames, sequences: sequence - first, took, cpu_ns })
}

/// A load at a rate has ended when all of its frames are sent, however late.
fn is_over(load: Load, sent: u64, elapsed: Duration) -> bool {
    match load.rate {
        None => elapsed >= load.duration,
        Some(rate) => sent >= frames(rate, load.duration) || elapsed >= load.duration * LATE,
    }
}

/// Frames to be sent now.
fn due(load: Load, sent: u64, elapsed: Duration) -> u64 {
    let due = load.rate.map_or(BURST_MAX, |rate| {
        let until_now = frames(rate, elapsed) + 1;
        until_now.min(frames(rate, load.duration)).saturating_sub(sent)
    });
    due.min(BURST_MAX)
}

fn frames(rate: u32, duration: Duration) -> u64 {
    (duration.as_secs_f64() * f64::from(rate)) as u64
}
