//! What happened, in order: hashed as a whole, so that two runs of a seed can be compared byte for byte; the last of it is
//! kept for the reader of a failure.

use crate::conntrack::Number;
use ha_common::election::{Cause, HandOverEnd};
use ha_common::role::Role;
use ha_common::sync;
use ha_common::time::Instant;
use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// One entry.
#[derive(Clone, Copy, Debug)]
pub enum Note {
    /// By the name of a fault, with what it has been given.
    Fault(crate::faults::Fault, u64),
    Role {
        from: Role,
        to: Role,
        cause: Cause,
    },
    Gate(bool),
    Sync(sync::Event),
    HandOver(HandOverEnd),
    /// A client's session: the mark of its new state; `None`: it ended.
    Session(Number, Option<u32>),
    Write(Number, Option<u32>, Option<u32>),
    Calm(bool),
    Trap(crate::traps::Trap),
    Peace,
    Settled,
}

#[derive(Clone, Copy)]
struct Entry {
    at: Instant,
    node: Option<usize>,
    note: Note,
}

pub struct Timeline {
    begin: Instant,
    hasher: DefaultHasher,
    pub entries: u64,
    last: VecDeque<Entry>,
    /// At most this many entries are kept.
    kept: usize,
}

impl Timeline {
    pub fn new(begin: Instant, kept: usize) -> Self {
        Self { begin, hasher: DefaultHasher::new(), entries: 0, last: VecDeque::new(), kept }
    }

    pub fn note(&mut self, at: Instant, node: impl Into<Option<usize>>, note: Note) {
        let entry = Entry { at, node: node.into(), note };
        self.hash(&entry);
        self.entries += 1;
        if self.last.len() == self.kept {
            self.last.pop_front();
        }
        self.last.push_back(entry);
    }

    /// Something that is not worth a line, but must be the same in every run.
    pub fn mix(&mut self, at: Instant, value: u64) {
        (at, value).hash(&mut self.hasher);
    }

    /// Of everything so far.
    pub fn digest(&self) -> u64 {
        self.hasher.finish()
    }

    /// The entries that are kept, one a line.
    pub fn tail(&self) -> String {
        let line = |entry: &Entry| {
            let ms = entry.at.since(self.begin).as_secs_f64() * 1e3;
            let node = entry.node.map_or("  ".to_owned(), |node| format!("n{node}"));
            format!("{ms:>12.3} ms  {node}  {}\n", entry.note)
        };
        self.last.iter().map(line).collect()
    }

    fn hash(&mut self, entry: &Entry) {
        let hasher = &mut self.hasher;
        (entry.at, entry.node, std::mem::discriminant(&entry.note)).hash(hasher);
        match entry.note {
            Note::Fault(fault, value) => (fault as u8, value).hash(hasher),
            Note::Role { from, to, cause } => (from, to, cause.name()).hash(hasher),
            Note::Gate(open) | Note::Calm(open) => open.hash(hasher),
            Note::Sync(event) => format!("{event:?}").hash(hasher),
            Note::HandOver(end) => format!("{end:?}").hash(hasher),
            Note::Session(number, mark) => (number, mark).hash(hasher),
            Note::Write(number, before, after) => (number, before, after).hash(hasher),
            Note::Trap(trap) => (trap as u8).hash(hasher),
            Note::Peace | Note::Settled => {}
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |mark: &Option<u32>| mark.map_or("nothing".to_owned(), |mark| format!("state {mark}"));
        match self {
            Self::Fault(fault, value) => write!(f, "{} ({value})", fault.name()),
            Self::Role { from, to, cause } => write!(f, "{from} to {to}: {}", cause.name()),
            Self::Gate(true) => write!(f, "gate opens"),
            Self::Gate(false) => write!(f, "gate closes"),
            Self::Sync(event) => write!(f, "sync: {event:?}"),
            Self::HandOver(end) => write!(f, "hand-over ended: {end:?}"),
            Self::Session(number, Some(mark)) => write!(f, "session {number}: state {mark}"),
            Self::Session(number, None) => write!(f, "session {number} ends"),
            Self::Write(number, before, after) => {
                write!(f, "session {number} written: {} becomes {}", mark(before), mark(after))
            }
            Self::Calm(true) => write!(f, "calm"),
            Self::Calm(false) => write!(f, "no longer calm"),
            Self::Trap(trap) => write!(f, "trap: {}", trap.name()),
            Self::Peace => write!(f, "the faults stop"),
            Self::Settled => write!(f, "one master, equal tables"),
        }
    }
}
