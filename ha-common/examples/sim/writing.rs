//! Conntrack writes as the sync loop does them: a few at once, many on a thread beside it, and second tries that fit an
//! error. What follows from the answers is the writer's rules (`ctnetlink` sections 7, 9 and 20).

use crate::conntrack::{Applied, Conntrack, EBUSY, EEXIST, number};
use ha_common::sync::flow::{Flow, FlowKey, status};
use ha_common::sync::{WriteKind, is_tcp_set_back};
use ha_common::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Fewer are done in the loop when the thread is idle.
const INLINE_MAX: usize = 64;
/// Writes in one batch of the thread.
const JOB_MAX: usize = 512;
/// With so many not done the loop takes no more frames.
const WAITING_MAX: u64 = 2048;

pub enum Write {
    Create(Flow),
    Update(Flow),
    Delete { key: FlowKey, id: u32 },
    Relax,
    Fetch(FlowKey),
}

/// When a write was asked for, and which of the kernel's events had been read by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub at: Instant,
    pub events: u64,
}

pub enum Report {
    Failed { key: FlowKey, write: WriteKind, errno: i32 },
    Kept(Flow),
    Fetched { key: FlowKey, flow: Option<Flow> },
}

pub struct Writing {
    /// The kernel forwards here: an entry that packets have answered stays.
    pub keep_live: bool,
    cost: Duration,
    waiting: VecDeque<(Asked, Write)>,
    /// When the batch under way is done: it is applied then, which is as good as any moment before.
    busy_until: Option<Instant>,
    submitted: u64,
    completed: u64,
}

impl Writing {
    pub fn new(cost: Duration) -> Self {
        Self { keep_live: false, cost, waiting: VecDeque::new(), busy_until: None, submitted: 0, completed: 0 }
    }

    pub fn submit(&mut self, now: Instant, writes: &mut Vec<Write>, kernel: &mut Conntrack, done: &mut Done) {
        let asked = Asked { at: now, events: kernel.events_read() };
        self.submitted += writes.len() as u64;
        let idle = self.completed + writes.len() as u64 == self.submitted;
        if idle && writes.len() <= INLINE_MAX {
            self.completed += writes.len() as u64;
            writes.drain(..).for_each(|write| apply(now, (asked, &write), self.keep_live, kernel, done));
            return;
        }
        self.waiting.extend(writes.drain(..).map(|write| (asked, write)));
        self.begin(now);
    }

    /// Applies the batch whose time has come.
    pub fn collect(&mut self, now: Instant, kernel: &mut Conntrack, done: &mut Done) {
        if self.busy_until.is_none_or(|until| now < until) {
            return;
        }
        let count = self.waiting.len().min(JOB_MAX);
        for (asked, write) in self.waiting.drain(..count) {
            apply(now, (asked, &write), self.keep_live, kernel, done);
        }
        self.completed += count as u64;
        self.busy_until = None;
        self.begin(now);
    }

    fn begin(&mut self, now: Instant) {
        let count = self.waiting.len().min(JOB_MAX) as u32;
        if self.busy_until.is_none() && count > 0 {
            self.busy_until = Some(now + self.cost * count + Duration::from_micros(10));
        }
    }

    /// A creation of this flow waits.
    pub fn creates(&self, key: &FlowKey) -> bool {
        let is_it = |write: &Write| matches!(write, Write::Create(flow) | Write::Update(flow) if flow.key == *key);
        self.waiting.iter().any(|(_, write)| is_it(write))
    }

    pub fn poll_at(&self) -> Option<Instant> {
        self.busy_until
    }

    pub fn is_busy(&self) -> bool {
        self.completed < self.submitted
    }

    pub fn is_full(&self) -> bool {
        self.submitted - self.completed > WAITING_MAX
    }

    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    pub fn completed(&self) -> u64 {
        self.completed
    }
}

/// What came of writes.
#[derive(Default)]
pub struct Done {
    pub reports: Vec<Report>,
    pub applied: Vec<Applied>,
}

/// One write with all its tries. `asked`: when the engine wanted it.
fn apply(now: Instant, (asked, write): (Asked, &Write), keep_live: bool, kernel: &mut Conntrack, done: &mut Done) {
    match write {
        Write::Create(flow) => noting(kernel, &flow.key, asked, done, |kernel, done| {
            create(now, flow, keep_live, kernel, done);
        }),
        Write::Update(flow) => noting(kernel, &flow.key, asked, done, |kernel, done| {
            update(now, flow, WriteKind::Update, kernel, done);
        }),
        Write::Delete { key, id } => noting(kernel, key, asked, done, |kernel, done| {
            if let Err(errno) = kernel.delete(key, *id) {
                done.reports.push(Report::Failed { key: *key, write: WriteKind::Delete, errno });
            }
        }),
        // Windows are not simulated.
        Write::Relax => {}
        Write::Fetch(key) => {
            let flow = kernel.entries.get(&number(key)).map(|entry| entry.flow.clone());
            done.reports.push(Report::Fetched { key: *key, flow });
        }
    }
}

fn noting(
    kernel: &mut Conntrack,
    key: &FlowKey,
    asked: Asked,
    done: &mut Done,
    act: impl FnOnce(&mut Conntrack, &mut Done),
) {
    let number = number(key);
    let before = kernel.mark(number);
    kernel.refused_state = None;
    act(kernel, done);
    done.applied.push(Applied { number, before, after: kernel.mark(number), refused: kernel.refused_state, asked });
}

fn create(now: Instant, flow: &Flow, keep_live: bool, kernel: &mut Conntrack, done: &mut Done) {
    match kernel.create(now, flow) {
        Ok(()) => {}
        Err(EEXIST) => resolve(now, flow, keep_live, kernel, done),
        Err(errno) => done.reports.push(Report::Failed { key: flow.key, write: WriteKind::Create, errno }),
    }
}

/// `kind`: what was asked for.
fn update(now: Instant, flow: &Flow, kind: WriteKind, kernel: &mut Conntrack, done: &mut Done) {
    let result = match kernel.update(now, flow, true) {
        // It has status bits that the flow lacks: it is newer in this respect.
        Err(EBUSY) => kernel.update(now, flow, false),
        other => other,
    };
    if let Err(errno) = result {
        done.reports.push(Report::Failed { key: flow.key, write: kind, errno });
    }
}

/// An entry stands in the way of a creation.
fn resolve(now: Instant, flow: &Flow, keep_live: bool, kernel: &mut Conntrack, done: &mut Done) {
    let Some(live) = kernel.entries.get(&number(&flow.key)).map(|entry| entry.flow.clone()) else { return };
    let has_traffic = keep_live && live.status & status::SEEN_REPLY != 0;
    // Packets made it while the creation was under way: what they made is newer.
    if has_traffic && live.reply == flow.reply {
        return done.reports.push(Report::Kept(live));
    }
    if live.reply == flow.reply && !is_tcp_set_back(&live, flow) {
        return update(now, flow, WriteKind::Create, kernel, done);
    }
    if has_traffic {
        done.reports.push(Report::Kept(live));
        done.reports.push(Report::Failed { key: flow.key, write: WriteKind::Create, errno: EEXIST });
        return;
    }
    let _ = kernel.delete(&live.key, live.id);
    if let Err(errno) = kernel.create(now, flow) {
        // No other flow has this key: the place is the flow's own.
        done.reports.push(Report::Failed { key: flow.key, write: WriteKind::Create, errno });
    }
}
