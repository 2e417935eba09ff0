//! Writes into the kernel's table: hundreds of requests in one system call, errors attributed to their flow.
//!
//! Requests go out without `NLM_F_ACK`: the kernel answers only those that fail, and it has answered all of
//! them when `send` returns. An error's sequence number leads to its write, and most errors have a second
//! try that fits (`ctnetlink` sections 7, 9 and 20).

use super::attribute::{Builder, Messages};
use super::encode::{self, MixedFamilies, UpdateParts};
use super::pace::Pace;
use super::{ConntrackError, decode, errno, socket, uapi};
use crate::clock;
use ha_common::sync::WriteKind;
use ha_common::sync::flow::{Flow, FlowKey, status};
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

/// One wanted change of the table.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Make the flow; replaces what stands in its way.
    Create(Flow),
    /// Change status, timeout, mark and protocol state; creates the flow if it is missing.
    Update(Flow),
    /// Remove the flow; with an `id` only if it still is that very entry.
    Delete { key: FlowKey, id: u32 },
}

impl Write {
    pub fn key(&self) -> &FlowKey {
        match self {
            Self::Create(flow) | Self::Update(flow) => &flow.key,
            Self::Delete { key, .. } => key,
        }
    }

    pub fn kind(&self) -> WriteKind {
        match self {
            Self::Create(_) => WriteKind::Create,
            Self::Update(_) => WriteKind::Update,
            Self::Delete { .. } => WriteKind::Delete,
        }
    }
}

/// What to do with a live entry that stands in the way of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The peer knows better: this node does not forward.
    Replace,
    /// This node forwards: an entry that has seen traffic both ways stays.
    KeepLive,
}

/// What became of writes, where it is not simply success.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome<'a> {
    /// Refused, also at the last try.
    Failed { write: &'a Write, errno: i32 },
    /// An existing entry was kept in place of the flow.
    Kept(&'a Flow),
    /// Another flow's entry was removed to make room.
    Removed(&'a Flow),
    /// Answers were lost: any of the last writes may have failed.
    Unknown,
}

/// Requests by operation, counted by errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Create,
    Update,
    Delete,
    Get,
}

impl Operation {
    const ALL: [Operation; 4] = [Self::Create, Self::Update, Self::Delete, Self::Get];

    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Get => "get",
        }
    }
}

/// The next request or requests for one write.
#[derive(Clone, Copy, Debug)]
enum Step {
    Create,
    Update(UpdateParts),
    Delete,
    /// Find what stands in the way.
    Look,
    /// Remove that entry, then create.
    Replace {
        key: FlowKey,
        id: u32,
    },
}

/// One request of the batch on its way.
#[derive(Clone, Debug)]
struct Slot {
    /// Position of the write in the batch.
    write: usize,
    operation: Operation,
    parts: UpdateParts,
    /// 0 until the kernel says otherwise.
    errno: i32,
    /// The answer to a `Get`.
    found: Option<Flow>,
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
            self.steps.clear();
            self.steps.extend(batch.iter().map(first_step).enumerate());
            for round in 1..=ROUNDS_MAX {
                self.send(batch, &mut sink);
                self.follow_up(batch, conflict, round == ROUNDS_MAX, &mut sink);
                if self.steps.is_empty() {
                    break;
                }
            }
            self.pace.learn(batch.len(), clock::now().since(began));
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
            (Step::Create, Write::Create(flow) | Write::Update(flow)) => {
                self.push(index, Operation::Create, |out, seq| encode::create(out, seq, flow));
            }
            (Step::Update(parts), Write::Create(flow) | Write::Update(flow)) => {
                self.push(index, Operation::Update, |out, seq| encode::update(out, seq, flow, parts));
                if let Some(slot) = self.slots.last_mut() {
                    slot.parts = parts;
                }
            }
            (Step::Look, Write::Create(flow) | Write::Update(flow)) => {
                self.push(index, Operation::Get, |out, seq| encode::get(out, seq, &key.original, key.zone));
                self.push(index, Operation::Get, |out, seq| encode::get(out, seq, &flow.reply, key.zone));
            }
            (Step::Replace { key, id }, Write::Create(flow) | Write::Update(flow)) => {
                self.push(index, Operation::Delete, |out, seq| encode::delete(out, seq, &key, id));
                self.push(index, Operation::Create, |out, seq| encode::create(out, seq, flow));
            }
            (Step::Delete, Write::Delete { id, .. }) => {
                self.push(index, Operation::Delete, |out, seq| encode::delete(out, seq, &key, *id));
            }
            // A delete has no other step, and a flow to be there no plain delete.
            (Step::Create | Step::Update(_) | Step::Look | Step::Replace { .. }, Write::Delete { .. })
            | (Step::Delete, Write::Create(_) | Write::Update(_)) => {}
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
        self.slots.push(Slot { write, operation, parts: UpdateParts::ALL, errno, found: None });
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
            for message in Messages::new(self.answer.get(..length).unwrap_or_default()) {
                let Ok((header, payload)) = message else {
                    complete = false;
                    break;
                };
                let index = usize::try_from(header.sequence.wrapping_sub(base)).unwrap_or(usize::MAX);
                let Some(slot) = self.slots.get_mut(index) else { continue };
                match header.kind {
                    uapi::NLMSG_ERROR => {
                        // Negative errno; the magnitude of i32::MIN does not exist.
                        slot.errno =
                            payload.first_chunk().map_or(0, |errno| i32::from_ne_bytes(*errno).saturating_neg());
                    }
                    uapi::CT_NEW => slot.found = decode::flow(payload).ok(),
                    _ => {}
                }
            }
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
                Operation::Create | Operation::Update | Operation::Delete => after_error(slot),
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

enum Next {
    Done,
    Step(Step),
    Failed(i32),
}

fn first_step(write: &Write) -> Step {
    match write {
        Write::Create(_) => Step::Create,
        Write::Update(_) => Step::Update(UpdateParts::ALL),
        Write::Delete { .. } => Step::Delete,
    }
}

/// The second try that fits an error.
fn after_error(slot: &Slot) -> Next {
    if slot.errno == 0 {
        return Next::Done;
    }
    let parts = slot.parts;
    match (slot.operation, slot.errno) {
        (Operation::Create, libc::EEXIST) => Next::Step(Step::Look),
        // A module with a conntrack extension was loaded just now.
        (Operation::Create, libc::EAGAIN) => Next::Step(Step::Create),
        (Operation::Update, libc::ENOENT) => Next::Step(Step::Create),
        // The entry has status bits that the flow lacks: it is newer in this respect.
        (Operation::Update, libc::EBUSY) if parts.status => {
            Next::Step(Step::Update(UpdateParts { status: false, ..parts }))
        }
        (Operation::Update, libc::EPERM) if parts.timeout => {
            Next::Step(Step::Update(UpdateParts { timeout: false, ..parts }))
        }
        (Operation::Update, libc::EAGAIN) => Next::Step(Step::Update(parts)),
        (Operation::Create | Operation::Update | Operation::Delete | Operation::Get, _) => Next::Failed(slot.errno),
    }
}

/// What to do about the entry that stands in the way of a flow (`ctnetlink` section 7).
fn resolve(write: &Write, found: Option<&Flow>, conflict: Conflict, sink: &mut impl FnMut(Outcome<'_>)) -> Next {
    let (Write::Create(flow) | Write::Update(flow)) = write else { return Next::Done };
    // It went away meanwhile.
    let Some(live) = found else { return Next::Step(Step::Create) };
    let same_key = live.key == flow.key;
    if same_key && same_translation(live, flow) {
        return Next::Step(Step::Update(UpdateParts::ALL));
    }
    if conflict == Conflict::KeepLive && live.status & status::SEEN_REPLY != 0 {
        sink(Outcome::Kept(live));
        return Next::Failed(libc::EEXIST);
    }
    if !same_key {
        sink(Outcome::Removed(live));
    }
    Next::Step(Step::Replace { key: live.key, id: live.id })
}

/// The live entry rewrites packets exactly as the flow wants it. The tuples alone do not say: an entry may have a
/// translated reply tuple and no NAT set up (`ctnetlink` section 8).
fn same_translation(live: &Flow, flow: &Flow) -> bool {
    live.reply == flow.reply
        && (live.status & status::SRC_NAT != 0) == encode::is_source_nat(flow)
        && (live.status & status::DST_NAT != 0) == encode::is_destination_nat(flow)
}
