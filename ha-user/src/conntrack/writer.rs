//! Writes into the kernel's table: hundreds of requests in one system call, errors attributed to their flow.
//!
//! Requests go out without `NLM_F_ACK`: the kernel answers only those that fail, and it has answered all of
//! them when `send` returns. An error's sequence number leads to its write, and most errors have a second
//! try that fits (`ctnetlink` sections 7, 9 and 20).

use super::answers::{self, Answer};
use super::attribute::Builder;
use super::encode::{self, MixedFamilies, UpdateParts};
use super::pace::Pace;
use super::second_try::{Next, after_error, first_step, resolve};
pub use super::write::{Conflict, Outcome, Write};
use super::{ConntrackError, errno, expectation, socket};
use crate::clock;
use ha_common::sync::flow::{Flow, FlowKey};
use netlink_sys::Socket;
use std::collections::BTreeMap;

const PURPOSE: &str = "conntrack writes";
/// Writes per system call: beyond this the cost per write no longer falls.
pub const BATCH_MAX: usize = 256;
/// Two requests for each write of a batch, 512 bytes at most each.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Answers to a whole batch must fit, or failures would go unseen; an entry counts 4 KiB and more here.
const RECV_BUFFER_BYTES: usize = 4 << 20;
/// First try and what may follow it: look, replace, look, replace, and one to spare.
const ROUNDS_MAX: usize = 6;

/// Requests by operation, counted by errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Create,
    Update,
    Delete,
    Get,
    /// Of one entry for its own sake.
    Fetch,
    Expect,
    Unexpect,
}

impl Operation {
    const ALL: [Operation; 7] =
        [Self::Create, Self::Update, Self::Delete, Self::Get, Self::Fetch, Self::Expect, Self::Unexpect];

    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Get => "get",
            Self::Fetch => "fetch",
            Self::Expect => "expect",
            Self::Unexpect => "unexpect",
        }
    }
}

/// The next request or requests for one write.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Create(CreateParts),
    Update(UpdateParts),
    Delete,
    Relax,
    Expect,
    Unexpect,
    Fetch,
    /// Find what stands in the way.
    Look,
    /// Remove that entry, then create.
    Replace {
        key: FlowKey,
        id: u32,
    },
}

/// What of a flow a creation carries, and whether it is the first try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CreateParts {
    pub helper: bool,
    pub first: bool,
}

impl CreateParts {
    pub const ALL: CreateParts = CreateParts { helper: true, first: true };
}

/// One request of the batch on its way.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Position of the write in the batch.
    pub write: usize,
    pub operation: Operation,
    pub made: CreateParts,
    pub parts: UpdateParts,
    /// 0 until the kernel says otherwise.
    pub errno: i32,
    /// The answer to a `Get`.
    pub found: Option<Flow>,
}

/// The request socket.
pub struct Writer {
    socket: Socket,
    port: u32,
    sequence: u32,
    builder: Builder,
    answer: Vec<u8>,
    pace: Pace,
    steps: Vec<(usize, Step)>,
    slots: Vec<Slot>,
    accepted: [u64; Operation::ALL.len()],
    refused: BTreeMap<(Operation, i32), u64>,
}

impl Writer {
    /// # Errors
    /// When the socket cannot be made.
    pub fn open() -> Result<Self, ConntrackError> {
        let (socket, port) = socket::open(PURPOSE)?;
        socket::set_send_buffer(&socket, PURPOSE, SEND_BUFFER_BYTES)?;
        socket::set_recv_buffer(&socket, PURPOSE, RECV_BUFFER_BYTES)?;
        // Errors then quote the header of the failed request, not all of it.
        socket.set_cap_ack(true).map_err(|source| ConntrackError::Option {
            option: "NETLINK_CAP_ACK",
            purpose: PURPOSE,
            source,
        })?;
        Ok(Self {
            socket,
            port,
            sequence: 0,
            builder: Builder::default(),
            answer: vec![0; 16 * 1024],
            pace: Pace::new(BATCH_MAX),
            steps: Vec::with_capacity(BATCH_MAX),
            slots: Vec::with_capacity(2 * BATCH_MAX),
            accepted: [0; Operation::ALL.len()],
            refused: BTreeMap::new(),
        })
    }

    /// The netlink port id that stands in the events which these writes cause.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Does the writes in order, and tells `sink` what did not simply succeed.
    pub fn apply(&mut self, writes: &[Write], conflict: Conflict, mut sink: impl FnMut(Outcome<'_>)) {
        let mut rest = writes;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(self.pace.batch().min(rest.len()));
            rest = later;
            let began = clock::now();
            for late in [false, true] {
                self.steps.clear();
                let due = batch.iter().enumerate().filter(|(_, write)| write.is_late() == late);
                self.steps.extend(due.map(|(index, write)| (index, first_step(write))));
                self.run_steps(batch, conflict, &mut sink);
            }
            self.pace.learn(batch.len(), clock::now().since(began));
        }
    }

    /// Does all steps, and those that follow from their answers.
    fn run_steps(&mut self, batch: &[Write], conflict: Conflict, sink: &mut impl FnMut(Outcome<'_>)) {
        for round in 1..=ROUNDS_MAX {
            if self.steps.is_empty() {
                return;
            }
            self.send(batch, sink);
            self.follow_up(batch, conflict, round == ROUNDS_MAX, sink);
        }
    }

    /// Requests by operation and errno name.
    pub fn counters(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut counters: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (operation, accepted) in Operation::ALL.iter().zip(self.accepted) {
            counters.entry(operation.name().to_owned()).or_default().insert(errno::name(0).to_owned(), accepted);
        }
        for ((operation, number), count) in &self.refused {
            let by_errno = counters.entry(operation.name().to_owned()).or_default();
            *by_errno.entry(errno::name(*number).to_owned()).or_default() += count;
        }
        counters
    }

    /// Sends the requests of all steps in one write, and notes each one's answer in its slot.
    fn send(&mut self, batch: &[Write], sink: &mut impl FnMut(Outcome<'_>)) {
        self.builder.clear();
        self.slots.clear();
        let base = self.sequence;
        for index in 0..self.steps.len() {
            if let Some(&(write, step)) = self.steps.get(index) {
                self.push_step(batch, write, step);
            }
        }
        self.steps.clear();
        if self.builder.bytes().is_empty() {
            return;
        }
        if let Err(error) = self.socket.send(self.builder.bytes(), 0) {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            for slot in &mut self.slots {
                slot.errno = errno;
            }
        }
        if !self.read_answers(base) {
            sink(Outcome::Unknown);
        }
    }

    /// Appends the request or requests of one step.
    fn push_step(&mut self, batch: &[Write], index: usize, step: Step) {
        let Some(write) = batch.get(index) else { return };
        let key = *write.key();
        match (step, write) {
            (Step::Create(made), Write::Create(flow)) => self.push_create(index, flow, made),
            (Step::Update(parts), Write::Create(flow) | Write::Update(flow)) => {
                self.push(index, Operation::Update, |out, seq| encode::update(out, seq, flow, parts));
                if let Some(slot) = self.slots.last_mut() {
                    slot.parts = parts;
                }
            }
            (Step::Look, Write::Create(flow)) => {
                self.push(index, Operation::Get, |out, seq| encode::get(out, seq, &key.original, key.zone));
                let zone = encode::reply_zone(flow);
                self.push(index, Operation::Get, |out, seq| encode::get(out, seq, &flow.reply, zone));
            }
            (Step::Replace { key, id }, Write::Create(flow)) => {
                self.push(index, Operation::Delete, |out, seq| encode::delete(out, seq, &key, id));
                self.push_create(index, flow, CreateParts::ALL);
            }
            (Step::Delete, Write::Delete { id, .. }) => {
                self.push(index, Operation::Delete, |out, seq| encode::delete(out, seq, &key, *id));
            }
            (Step::Relax, Write::Relax(_)) => {
                self.push(index, Operation::Update, |out, seq| encode::relax(out, seq, &key));
            }
            (Step::Expect, Write::Expect { expectation: one, .. }) => {
                self.push(index, Operation::Expect, |out, seq| expectation::create(out, seq, &key, one));
            }
            (Step::Unexpect, Write::Unexpect { expectation: one, .. }) => {
                self.push(index, Operation::Unexpect, |out, seq| expectation::delete(out, seq, &one.tuple, key.zone));
            }
            (Step::Fetch, Write::Fetch(_)) => {
                self.push(index, Operation::Fetch, |out, seq| encode::get(out, seq, &key.original, key.zone));
            }
            // No write has a step of another kind.
            (
                Step::Create(_)
                | Step::Update(_)
                | Step::Look
                | Step::Replace { .. }
                | Step::Delete
                | Step::Relax
                | Step::Expect
                | Step::Unexpect
                | Step::Fetch,
                Write::Create(_)
                | Write::Update(_)
                | Write::Delete { .. }
                | Write::Relax(_)
                | Write::Expect { .. }
                | Write::Unexpect { .. }
                | Write::Fetch(_),
            ) => {}
        }
    }

    fn push_create(&mut self, write: usize, flow: &Flow, made: CreateParts) {
        self.push(write, Operation::Create, |out, seq| {
            if made.helper {
                return encode::create(out, seq, flow);
            }
            let mut bare = flow.clone();
            bare.extra_mut().helper = None;
            encode::create(out, seq, &bare)
        });
        if let Some(slot) = self.slots.last_mut() {
            slot.made = made;
        }
    }

    fn push(
        &mut self,
        write: usize,
        operation: Operation,
        encode: impl FnOnce(&mut Builder, u32) -> Result<(), MixedFamilies>,
    ) {
        let errno = match encode(&mut self.builder, self.sequence) {
            Ok(()) => 0,
            Err(MixedFamilies) => libc::EINVAL,
        };
        // A request that was not sent uses up its number all the same: number minus base is the slot.
        self.sequence = self.sequence.wrapping_add(1);
        self.slots.push(Slot { write, operation, made: CreateParts::ALL, parts: UpdateParts::ALL, errno, found: None });
    }

    /// Reads every answer to the requests from `base` on; false when answers were lost.
    fn read_answers(&mut self, base: u32) -> bool {
        let mut complete = true;
        // One answer for each request; more cannot come.
        for _ in 0..=self.slots.len() {
            let length = match socket::recv(&self.socket, &mut self.answer) {
                Ok(None) => return complete,
                Ok(Some(length)) => length,
                Err(error) => {
                    tracing::warn!(%error, "answers to conntrack writes were lost");
                    complete = false;
                    continue;
                }
            };
            let datagram = self.answer.get(..length).unwrap_or_default();
            complete &= answers::read(datagram, base, self.slots.len(), |index, answer| {
                let Some(slot) = self.slots.get_mut(index) else { return };
                match answer {
                    Answer::Errno(errno) => slot.errno = errno,
                    Answer::Entry(flow) => slot.found = flow,
                }
            });
        }
        complete
    }

    /// Counts the answers, reports final failures, and puts the next steps of the others into `self.steps`.
    fn follow_up(&mut self, batch: &[Write], conflict: Conflict, last: bool, sink: &mut impl FnMut(Outcome<'_>)) {
        let slots = std::mem::take(&mut self.slots);
        let mut answers = slots.iter();
        while let Some(slot) = answers.next() {
            self.count(slot);
            let Some(write) = batch.get(slot.write) else { continue };
            let next = match slot.operation {
                Operation::Get => {
                    // The second of the two answers to a look follows at once.
                    let by_reply = answers.next();
                    if let Some(by_reply) = by_reply {
                        self.count(by_reply);
                    }
                    let found = slot.found.as_ref().or(by_reply.and_then(|slot| slot.found.as_ref()));
                    resolve(write, found, conflict, sink)
                }
                Operation::Delete if slot.errno != 0 && !matches!(write, Write::Delete { .. }) => {
                    // Room for another: if it is gone already, so much the better; else the create says so.
                    continue;
                }
                Operation::Fetch => {
                    sink(Outcome::Fetched { key: write.key(), flow: slot.found.as_ref() });
                    continue;
                }
                // It has gone by itself, which is what was wanted.
                Operation::Update if slot.errno == libc::ENOENT && matches!(write, Write::Relax(_)) => continue,
                Operation::Unexpect if slot.errno == libc::ENOENT => continue,
                Operation::Create | Operation::Update | Operation::Delete | Operation::Expect | Operation::Unexpect => {
                    after_error(slot, write)
                }
            };
            match next {
                Next::Done => {}
                Next::Step(step) if !last => self.steps.push((slot.write, step)),
                Next::Step(_) => sink(Outcome::Failed { write, errno: slot.errno }),
                Next::Failed(errno) => sink(Outcome::Failed { write, errno }),
            }
        }
        self.slots = slots;
    }

    fn count(&mut self, slot: &Slot) {
        if slot.errno != 0 {
            *self.refused.entry((slot.operation, slot.errno)).or_default() += 1;
        } else if let Some(accepted) = self.accepted.get_mut(slot.operation as usize) {
            *accepted += 1;
        }
    }
}
