//! The clients: sessions through whoever they take the virtual address to be at, each state with a number of its own.

use crate::conntrack::{Number, flow};
use crate::random::Random;
use ha_common::sync::flow::Flow;
use ha_common::time::Instant;

const ESTABLISHED: u8 = 3;
const TIME_WAIT: u8 = 7;
/// Uses of a tuple that are remembered.
const PAST: usize = 6;

/// One session. The mark of its flow counts its states, over all sessions: a later state has a higher mark.
#[derive(Clone, Copy)]
pub struct Session {
    pub is_open: bool,
    pub is_tcp: bool,
    /// Of TCP.
    pub state: u8,
    pub mark: u32,
    /// Mark of the first state since the tuple was used anew.
    pub born: u32,
    /// When a packet or a kernel changed it last, or ended it.
    pub changed: Instant,
    /// Last marks of the uses of the tuple before this one.
    pub past: [u32; PAST],
    /// Whose kernel its packets last passed.
    pub node: usize,
    udp_timeout: u32,
}

pub struct Clients {
    pub sessions: Vec<Session>,
    /// By segment: whom the hosts take for the owner of the virtual address.
    pub holder: [Option<usize>; crate::model::segments::SEGMENTS],
    marks: u32,
    pub opened: u64,
    pub changed: u64,
    pub ended: u64,
    /// Sessions that found no entry at the node that serves.
    pub broken: u64,
}

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Open,
    Touch,
    Change,
    End,
}

impl Clients {
    pub fn new(now: Instant, count: u32, random: &mut Random) -> Self {
        let mut session = |number: u32| Session {
            is_open: false,
            is_tcp: !number.is_multiple_of(3),
            state: 0,
            mark: 0,
            born: 0,
            changed: now,
            past: [0; PAST],
            node: 0,
            udp_timeout: random.pick(&[3, 10, 30, 180]),
        };
        let sessions = (0..count).map(&mut session).collect();
        Self { sessions, holder: [None; 2], marks: 0, opened: 0, changed: 0, ended: 0, broken: 0 }
    }

    pub fn step(&self, number: Number, random: &mut Random) -> Step {
        if !self.sessions[number as usize].is_open {
            return Step::Open;
        }
        match random.below(100) {
            0..=29 => Step::Touch,
            30..=84 => Step::Change,
            _ => Step::End,
        }
    }

    /// The flow of a new session.
    pub fn open(&mut self, now: Instant, number: Number, node: usize) -> Flow {
        self.opened += 1;
        self.marks += 1;
        let mark = self.marks;
        let session = &mut self.sessions[number as usize];
        session.begin_anew();
        *session = Session { is_open: true, state: 1, mark, born: mark, changed: now, node, ..*session };
        session.flow(number)
    }

    /// The flow in its next state. A connection that is over begins anew with the same tuple.
    pub fn advance(&mut self, now: Instant, number: Number, node: usize, random: &mut Random) -> Flow {
        self.changed += 1;
        self.marks += 1;
        let mark = self.marks;
        let session = &mut self.sessions[number as usize];
        let state = match session.state {
            ESTABLISHED if random.percent(85) => ESTABLISHED,
            TIME_WAIT => 1,
            state => state + 1,
        };
        let is_new = state == 1 && session.is_tcp;
        if is_new {
            session.begin_anew();
        }
        let born = if is_new { mark } else { session.born };
        *session = Session { state, mark, born, changed: now, node, ..*session };
        session.flow(number)
    }

    /// The client finds no entry for its session and gives it up: no table has changed.
    pub fn give_up(&mut self, number: Number) {
        self.broken += 1;
        let session = &mut self.sessions[number as usize];
        self.ended += u64::from(std::mem::take(&mut session.is_open));
    }

    /// The session is over.
    pub fn end(&mut self, now: Instant, number: Number) {
        let session = &mut self.sessions[number as usize];
        if std::mem::take(&mut session.is_open) {
            session.changed = now;
            self.ended += 1;
        }
    }
}

impl Session {
    fn begin_anew(&mut self) {
        self.past.rotate_right(1);
        self.past[0] = self.mark;
    }

    /// The last mark of the use of the tuple that this mark is of; `None` while it goes on.
    pub fn last_mark_of(&self, mark: u32) -> Option<u32> {
        if mark >= self.born {
            return (!self.is_open).then_some(self.mark);
        }
        // Of those that are remembered the first that is not earlier; what is too long ago is over as well.
        Some(self.past.iter().copied().filter(|last| *last >= mark).min().unwrap_or(mark))
    }

    pub fn flow(&self, number: Number) -> Flow {
        let timeout = match (self.is_tcp, self.state) {
            (false, _) => self.udp_timeout,
            (true, ESTABLISHED) => 432_000,
            (true, _) => 120,
        };
        flow(number, self.is_tcp, self.state, self.mark, timeout)
    }
}
