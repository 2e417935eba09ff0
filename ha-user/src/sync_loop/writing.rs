//! Writes into the kernel's table: a few in the loop itself, many on a thread beside it.
//!
//! While the kernel works through one batch, which for a joining node's whole table takes seconds, the loop opens the next
//! frames. There is one such thread and not several: the kernel serialises all conntrack requests of a machine
//! (`nfnl_lock` of the subsystem in net/netfilter/nfnetlink.c), and order between the writes of a flow comes free.

use crate::conntrack::writer::{Conflict, Outcome, Write, Writer};
use crate::mailbox::{Mailbox, Postman, mailbox};
use ha_common::sync::WriteKind;
use ha_common::sync::flow::{Flow, FlowKey};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Waking the thread costs as much as some writes: fewer than these are done in the loop when the thread is idle.
const INLINE_MAX: usize = 64;
/// Writes handed over at once.
const JOB_MAX: usize = 512;
/// Batches handed over: one in work, one for the time until the loop hears of its end.
const JOBS_MAX: u64 = 2;
/// With so many writes not done the loop takes no more frames.
const WAITING_MAX: u64 = 2048;
/// Writes between two looks at the conflict rule: a change of role must not find the old rule in force for long.
const RULE_SPAN: usize = 128;
const THREAD_NAME: &str = "sync-write";

/// What became of a write, where it is not simply success: [`Outcome`] with values of its own.
pub(super) enum Report {
    Failed { key: FlowKey, write: WriteKind, errno: i32 },
    Kept(Flow),
    Removed(Flow),
    Fetched { key: FlowKey, flow: Option<Flow> },
    Unknown,
}

struct Done {
    /// What was done, to be used again.
    writes: Vec<Write>,
    reports: Vec<Report>,
}

/// What loop and thread share.
struct Shared {
    writer: Mutex<Writer>,
    /// [`Conflict::KeepLive`] is the rule.
    keep_live: AtomicBool,
}

/// The kernel's table as the loop writes it.
pub(super) struct Writing {
    shared: Arc<Shared>,
    jobs: Option<SyncSender<Vec<Write>>>,
    done: Mailbox<Done>,
    thread: Option<JoinHandle<()>>,
    /// Not handed over yet; at most one batch of frames more than [`WAITING_MAX`].
    waiting: VecDeque<Write>,
    /// Batches handed over and not heard of.
    jobs_out: u64,
    submitted: u64,
    completed: u64,
    spare: Vec<Vec<Write>>,
}

impl Writing {
    /// Takes the writer; its thread starts with [`Writing::start`].
    ///
    /// # Errors
    /// When no eventfd can be made.
    pub fn new(writer: Writer) -> io::Result<Self> {
        let (_, done) = mailbox(1)?;
        Ok(Self {
            shared: Arc::new(Shared { writer: Mutex::new(writer), keep_live: AtomicBool::new(false) }),
            jobs: None,
            done,
            thread: None,
            waiting: VecDeque::new(),
            jobs_out: 0,
            submitted: 0,
            completed: 0,
            spare: Vec::new(),
        })
    }

    /// Starts the thread, on the `allowed` processors; it keeps network namespace and privileges of the caller. Without it all
    /// writes are done in the loop.
    ///
    /// # Errors
    /// When there is no room for another thread or descriptor.
    pub fn start(&mut self, allowed: Option<CpuSet>) -> io::Result<()> {
        let (postman, done) = mailbox(JOBS_MAX as usize + 1)?;
        let (jobs, inbox) = sync_channel(JOBS_MAX as usize);
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(THREAD_NAME.into());
        self.thread = Some(thread.spawn(move || {
            // Its system calls are short, unlike the caller's. Refused, it shares the caller's processors.
            if let Some(allowed) = allowed {
                let _ = sched_setaffinity(None, &allowed);
            }
            work(&shared, &inbox, &postman);
        })?);
        (self.jobs, self.done) = (Some(jobs), done);
        Ok(())
    }

    /// The descriptor that is readable when a batch has ended.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.done.fd()
    }

    /// From now on, and for what waits.
    pub fn set_conflict(&mut self, conflict: Conflict) {
        self.shared.keep_live.store(conflict == Conflict::KeepLive, Ordering::Relaxed);
    }

    /// Does the writes, now or soon, and empties `writes`. `sink` hears of what has ended by now.
    pub fn submit(&mut self, writes: &mut Vec<Write>, sink: &mut dyn FnMut(Report)) {
        self.submitted += writes.len() as u64;
        let idle = self.completed + writes.len() as u64 == self.submitted;
        if self.jobs.is_none() || (idle && writes.len() <= INLINE_MAX) {
            self.shared.apply(writes, sink);
            self.completed += writes.len() as u64;
            writes.clear();
            return;
        }
        self.waiting.extend(writes.drain(..));
        self.hand_over(sink);
    }

    /// Hears of the batches that have ended, and hands over the next.
    pub fn collect(&mut self, sink: &mut dyn FnMut(Report)) {
        while let Some(done) = self.done.next() {
            self.completed += done.writes.len() as u64;
            self.jobs_out = self.jobs_out.saturating_sub(1);
            done.reports.into_iter().for_each(&mut *sink);
            let mut writes = done.writes;
            writes.clear();
            self.spare.push(writes);
        }
        self.hand_over(sink);
    }

    /// Some writes are not done.
    pub fn is_busy(&self) -> bool {
        self.completed < self.submitted
    }

    /// So many are not done that no more should come.
    pub fn is_full(&self) -> bool {
        self.submitted - self.completed > WAITING_MAX
    }

    /// Writes ever ordered; when [`Writing::completed`] has come so far, they are done.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// Requests by operation and errno name.
    pub fn counters(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.shared.writer().counters()
    }

    fn hand_over(&mut self, sink: &mut dyn FnMut(Report)) {
        while self.jobs_out < JOBS_MAX && !self.waiting.is_empty() {
            let mut job = self.spare.pop().unwrap_or_default();
            job.extend(self.waiting.drain(..self.waiting.len().min(JOB_MAX)));
            let refused = match &self.jobs {
                Some(jobs) => jobs.try_send(job).err(),
                None => Some(TrySendError::Disconnected(job)),
            };
            match refused {
                None => self.jobs_out += 1,
                // Without the thread the loop does it.
                Some(TrySendError::Disconnected(job) | TrySendError::Full(job)) => {
                    self.shared.apply(&job, sink);
                    self.completed += job.len() as u64;
                }
            }
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn apply(&self, writes: &[Write], sink: &mut dyn FnMut(Report)) {
        for span in writes.chunks(RULE_SPAN) {
            let keep_live = self.keep_live.load(Ordering::Relaxed);
            let conflict = if keep_live { Conflict::KeepLive } else { Conflict::Replace };
            self.writer().apply(span, conflict, |outcome| sink(report(outcome)));
        }
    }

    /// A panic of the other holder leaves no half-done state that matters here: each batch begins anew.
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(shared: &Shared, jobs: &Receiver<Vec<Write>>, done: &Postman<Done>) {
    while let Ok(writes) = jobs.recv() {
        let mut reports = Vec::new();
        shared.apply(&writes, &mut |report| reports.push(report));
        // There is room for every batch that can be under way; an error is the end of the loop.
        if done.post(Done { writes, reports }).is_err() {
            return;
        }
    }
}

fn report(outcome: Outcome<'_>) -> Report {
    match outcome {
        Outcome::Failed { write, errno } => Report::Failed { key: *write.key(), write: write.kind(), errno },
        Outcome::Kept(flow) => Report::Kept(flow.clone()),
        Outcome::Removed(flow) => Report::Removed(flow.clone()),
        Outcome::Fetched { key, flow } => Report::Fetched { key: *key, flow: flow.cloned() },
        Outcome::Unknown => Report::Unknown,
    }
}
