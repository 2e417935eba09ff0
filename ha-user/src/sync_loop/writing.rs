//! Writes into the kernel's table: a few in the loop itself, many on a thread beside it.
//!
//! While the kernel works through one batch, which for a joining node's whole table takes seconds, the loop opens the next
//! frames. There is one such thread and not several: the kernel serialises all conntrack requests of a machine
//! (`nfnl_lock` of the subsystem in net/netfilter/nfnetlink.c), and order between the writes of a flow comes free.

use crate::conntrack::writer::{Conflict, Outcome, Write, Writer};
use crate::mailbox::{Mailbox, Postman, mailbox};
use ha_common::sync::WriteKind;
use ha_common::sync::flow::{Flow, FlowKey};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Waking the thread costs as much as some writes: fewer than these are done in the loop when the thread is idle.
const INLINE_MAX: usize = 64;
/// Batches under way. The loop waits for one to end before it hands over another.
const JOBS_MAX: usize = 8;
const THREAD_NAME: &str = "sync-write";

/// What became of a write, where it is not simply success: [`Outcome`] with values of its own.
pub(super) enum Report {
    Failed { key: FlowKey, write: WriteKind, errno: i32 },
    Kept(Flow),
    Removed(Flow),
    Fetched { key: FlowKey, flow: Option<Flow> },
    Unknown,
}

struct Job {
    writes: Vec<Write>,
    conflict: Conflict,
}

struct Done {
    /// To be used again.
    writes: Vec<Write>,
    reports: Vec<Report>,
}

/// The kernel's table as the loop writes it.
pub(super) struct Writing {
    writer: Arc<Mutex<Writer>>,
    jobs: Option<SyncSender<Job>>,
    done: Mailbox<Done>,
    thread: Option<JoinHandle<()>>,
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
        let writer = Arc::new(Mutex::new(writer));
        Ok(Self { writer, jobs: None, done, thread: None, submitted: 0, completed: 0, spare: Vec::new() })
    }

    /// Starts the thread; it keeps network namespace and privileges of the caller. Without it all writes are done in the loop.
    ///
    /// # Errors
    /// When there is no room for another thread or descriptor.
    pub fn start(&mut self) -> io::Result<()> {
        let (postman, done) = mailbox(JOBS_MAX + 1)?;
        let (jobs, inbox) = sync_channel(JOBS_MAX);
        let writer = Arc::clone(&self.writer);
        let thread = std::thread::Builder::new().name(THREAD_NAME.into());
        self.thread = Some(thread.spawn(move || work(&writer, &inbox, &postman))?);
        (self.jobs, self.done) = (Some(jobs), done);
        Ok(())
    }

    /// The descriptor that is readable when a batch has ended.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.done.fd()
    }

    /// Does the writes, now or soon, and empties `writes`. `sink` hears of what has ended by now.
    pub fn submit(&mut self, writes: &mut Vec<Write>, conflict: Conflict, sink: &mut dyn FnMut(Report)) {
        self.collect(sink);
        if writes.is_empty() {
            return;
        }
        let Some(jobs) = self.jobs.as_ref().filter(|_| self.is_busy() || writes.len() > INLINE_MAX) else {
            lock(&self.writer).apply(writes, conflict, |outcome| sink(report(outcome)));
            writes.clear();
            return;
        };
        let job = Job { writes: std::mem::replace(writes, self.spare.pop().unwrap_or_default()), conflict };
        if let Err(refused) = jobs.send(job) {
            // The thread is gone: from now on without it, and nothing can be under way.
            self.jobs = None;
            self.completed = self.submitted;
            lock(&self.writer).apply(&refused.0.writes, conflict, |outcome| sink(report(outcome)));
            return;
        }
        self.submitted += 1;
        while self.submitted - self.completed >= JOBS_MAX as u64 && self.wait(sink) {}
    }

    /// Hears of the batches that have ended.
    pub fn collect(&mut self, sink: &mut dyn FnMut(Report)) {
        while let Some(done) = self.done.next() {
            self.finish(done, sink);
        }
    }

    /// Waits until nothing is under way.
    pub fn finish_all(&mut self, sink: &mut dyn FnMut(Report)) {
        while self.is_busy() && self.wait(sink) {}
    }

    /// Batches are under way.
    pub fn is_busy(&self) -> bool {
        self.completed < self.submitted
    }

    /// How many batches were handed over; when [`Writing::completed`] has come so far, they have ended.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// Requests by operation and errno name.
    pub fn counters(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        lock(&self.writer).counters()
    }

    /// Waits for one batch to end; false when there is no thread any more.
    fn wait(&mut self, sink: &mut dyn FnMut(Report)) -> bool {
        match self.done.wait() {
            Some(done) => {
                self.finish(done, sink);
                true
            }
            None => {
                self.completed = self.submitted;
                false
            }
        }
    }

    fn finish(&mut self, done: Done, sink: &mut dyn FnMut(Report)) {
        self.completed += 1;
        done.reports.into_iter().for_each(sink);
        if self.spare.len() < JOBS_MAX {
            self.spare.push(done.writes);
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

fn work(writer: &Mutex<Writer>, jobs: &Receiver<Job>, done: &Postman<Done>) {
    while let Ok(Job { mut writes, conflict }) = jobs.recv() {
        let mut reports = Vec::new();
        lock(writer).apply(&writes, conflict, |outcome| reports.push(report(outcome)));
        writes.clear();
        // There is room for every batch that can be under way; an error is the end of the loop.
        if done.post(Done { writes, reports }).is_err() {
            return;
        }
    }
}

/// A panic of the other holder leaves no half-done state that matters here: each batch begins anew.
fn lock(writer: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
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
