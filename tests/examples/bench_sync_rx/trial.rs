//! One load through one way: what was sent, what the program admitted, what was opened, and what that took.

use crate::frames::{Sealer, is_whole};
use crate::load::{self, Load, Pool, Sent, Stamps, now_ns, thread_ns};
use crate::rig::{Link, ORDINARY_PRIORITY, RECEIVER_CPU, Receiver, pin};
use crate::source::{self, Source};
use anyhow::{Context, Result, ensure};
use ha_tests::bench::sync_rx::{Mode, Way};
use ha_tests::realtime;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Nothing more comes when nothing has for so long after the sender's end.
const QUIET: Duration = Duration::from_millis(40);

/// How the trials of a way are made.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub mode: Mode,
    pub way: Way,
    /// Sender and receiving side have a processor each, and go before other work of the machine.
    pub is_pinned: bool,
    /// Every body is compared with the one that was sealed, byte by byte.
    pub is_compared: bool,
    /// The reader does not look before everything was sent.
    pub is_stalled: bool,
    /// Each frame's time from the sender's call until it is opened is kept.
    pub is_timed: bool,
}

/// A way with its program attached and its reading end open.
pub struct Bench<'a> {
    link: &'a Link,
    setup: Setup,
    pub receiver: Receiver,
    pub source: Box<dyn Source>,
    stamps: Stamps,
    pool: Pool,
}

/// What became of a load.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub sent: Sent,
    /// Frames that the program admitted, and refused.
    pub admitted: u64,
    pub refused: u64,
    /// Different frames that were opened.
    pub opened: u64,
    /// What arrived and was no frame, another body, or a frame for the second time.
    pub broken: u64,
    pub repeated: u64,
    /// From the first frame until the last was opened.
    pub span: Duration,
    pub thread_ns: u64,
    pub softirq_ns: u64,
    /// How often the reading thread went to sleep.
    pub sleeps: u64,
    /// Nanoseconds from the sender's call until the frame was opened.
    pub latencies_ns: Vec<u64>,
}

impl Outcome {
    /// Frames that left and did not reach the program: on a veth pair, the receiving end's queue was full.
    pub fn lost_on_cable(&self) -> u64 {
        self.sent.frames.saturating_sub(self.admitted + self.refused)
    }

    /// Frames that the program admitted and that nobody opened: the socket's buffer or the rings were full.
    pub fn lost_behind(&self) -> u64 {
        self.admitted.saturating_sub(self.opened)
    }

    /// Frames that the sender's kernel did not take, or that were lost anywhere.
    pub fn lost(&self) -> u64 {
        self.sent.offered.saturating_sub(self.opened)
    }

    /// Frames that were sent, a second.
    pub fn sent_rate(&self) -> f64 {
        self.sent.frames as f64 / self.sent.took.as_secs_f64().max(1e-9)
    }
}

impl<'a> Bench<'a> {
    /// To be called by a thread that is in the receiving namespace and stays there.
    ///
    /// # Errors
    /// When the kernel refuses the program or the reading end.
    pub fn new(link: &'a Link, setup: Setup) -> Result<Self> {
        if setup.is_pinned {
            pin(None, RECEIVER_CPU)?;
            realtime::enter_at(ORDINARY_PRIORITY);
        }
        let mut receiver = Receiver::new(link, setup.mode, setup.way, setup.is_pinned)?;
        let source = source::open(setup.way, link, &mut receiver)?;
        Ok(Self { link, setup, receiver, source, stamps: Stamps::new(), pool: Pool::new() })
    }

    /// Sends a load and takes what comes.
    ///
    /// # Errors
    /// When frames arrive that were never sent, or twice, or anything else breaks; loss is none.
    pub fn run(&mut self, load: Load) -> Result<Outcome> {
        let Self { link, setup, receiver, source, stamps, pool } = self;
        let (link, is_pinned, frames) = (*link, setup.is_pinned, pool.of(load)?);
        let (judged_before, softirq_before) = (receiver.judged(), receiver.softirq_ns()?);
        let is_over = AtomicBool::new(false);
        let (sent, reading) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let sent = load::send(link, load, frames, stamps, is_pinned);
                is_over.store(true, Ordering::Release);
                sent
            });
            let mut reader = Reader::new(*setup, load, stamps);
            let reading = reader.run(source.as_mut(), &is_over);
            let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (sent, reading.map(|()| reader.reading))
        });
        let (sent, reading) = (sent?, reading?);
        let (judged, softirq_ns) = (receiver.judged(), receiver.softirq_ns()? - softirq_before);
        let outcome = Outcome {
            sent,
            admitted: judged.0 - judged_before.0,
            refused: judged.1 - judged_before.1,
            opened: reading.opened,
            broken: reading.broken,
            repeated: reading.repeated,
            span: Duration::from_nanos(reading.last_ns.saturating_sub(reading.first_ns)),
            thread_ns: reading.thread_ns,
            softirq_ns,
            sleeps: reading.sleeps,
            latencies_ns: reading.latencies_ns,
        };
        let Outcome { admitted, refused, opened, broken, repeated, .. } = outcome;
        ensure!(broken == 0 && repeated == 0, "{broken} frames arrived broken, {repeated} twice");
        ensure!(refused == 0, "the program refused {refused} genuine frames");
        ensure!(
            opened <= admitted && admitted <= outcome.sent.frames,
            "{opened} frames opened, {admitted} admitted, {} sent: one of them is wrong",
            outcome.sent.frames
        );
        Ok(outcome)
    }
}

/// What the reading thread has seen.
#[derive(Default)]
struct Reading {
    opened: u64,
    broken: u64,
    repeated: u64,
    first_ns: u64,
    last_ns: u64,
    thread_ns: u64,
    sleeps: u64,
    latencies_ns: Vec<u64>,
}

struct Reader<'a> {
    setup: Setup,
    load: Load,
    stamps: &'a Stamps,
    sealer: Sealer,
    body: Vec<u8>,
    /// Of each frame of the load: whether it was opened.
    seen: Vec<bool>,
    reading: Reading,
}

impl<'a> Reader<'a> {
    fn new(setup: Setup, load: Load, stamps: &'a Stamps) -> Self {
        let latencies_ns = Vec::with_capacity(if setup.is_timed { load.frames } else { 0 });
        let (reading, seen) = (Reading { latencies_ns, ..Reading::default() }, vec![false; load.frames]);
        Self { setup, load, stamps, sealer: Sealer::new(), body: Vec::new(), seen, reading }
    }

    fn run(&mut self, source: &mut dyn Source, is_over: &AtomicBool) -> Result<()> {
        if self.setup.is_stalled {
            while !is_over.load(Ordering::Acquire) {
                std::thread::sleep(QUIET);
            }
        }
        let (cpu_before, sleeps_before) = (thread_ns(), sleeps()?);
        loop {
            // Looked at before waiting: what was sent before the end comes within the wait.
            let was_over = is_over.load(Ordering::Acquire);
            if !source.wait(QUIET)? {
                if was_over {
                    break;
                }
                continue;
            }
            if self.reading.first_ns == 0 {
                self.reading.first_ns = now_ns();
            }
            while source.read(&mut |payload| self.take(payload))? {}
            self.reading.last_ns = now_ns();
        }
        self.reading.thread_ns = thread_ns().saturating_sub(cpu_before);
        self.reading.sleeps = sleeps()?.saturating_sub(sleeps_before);
        Ok(())
    }

    fn take(&mut self, payload: &[u8]) {
        let Ok(sequence) = self.sealer.open(payload, &mut self.body) else {
            self.reading.broken += 1;
            return;
        };
        if self.setup.is_compared && !is_whole(&self.body, sequence, usize::from(self.load.size)) {
            self.reading.broken += 1;
            return;
        }
        if !self.is_new(sequence) {
            self.reading.repeated += 1;
            return;
        }
        self.reading.opened += 1;
        if self.setup.is_timed {
            self.reading.latencies_ns.push(now_ns().saturating_sub(self.stamps.of(sequence)));
        }
    }

    /// Marks a sequence; false when it is not of this load, or was there before.
    fn is_new(&mut self, sequence: u64) -> bool {
        // The sequence of the first frame is 1.
        let number = usize::try_from(sequence).ok().and_then(|sequence| sequence.checked_sub(1));
        number.and_then(|number| self.seen.get_mut(number)).is_some_and(|seen| !std::mem::replace(seen, true))
    }
}

/// How often the calling thread has gone to sleep.
fn sleeps() -> Result<u64> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok()).context("no count of context switches")
}
