//! A kernel's connection table, as far as the engine can tell: entries with timeouts, events, and what is refused.

use crate::random::Random;
use crate::writing::Asked;
use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple, status};
use ha_common::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

pub const ENOENT: i32 = 2;
pub const ENOMEM: i32 = 12;
pub const EBUSY: i32 = 16;
pub const EEXIST: i32 = 17;
pub const EOPNOTSUPP: i32 = 95;

/// Number of a client's session: its place in all tables.
pub type Number = u32;

pub struct Entry {
    pub flow: Flow,
    pub deadline: Instant,
}

#[derive(Clone)]
pub enum Event {
    Changed(Flow),
    Destroyed(Flow),
}

/// The socket of one sync loop: it holds so many events, and tells when some were lost.
pub struct EventSocket {
    /// Each with its number.
    pub queue: VecDeque<(u64, Event)>,
    /// The number of the last one that was read.
    read: u64,
    pub lost: bool,
    room: usize,
}

/// A write that came about, for the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub number: Number,
    /// The marks before and after; `None`: no entry.
    pub before: Option<u32>,
    pub after: Option<u32>,
    /// The state that was to be written, and was refused.
    pub refused: Option<u32>,
    pub asked: Asked,
}

impl EventSocket {
    pub fn next(&mut self) -> Option<Event> {
        let (number, event) = self.queue.pop_front()?;
        self.read = number;
        Some(event)
    }
}

pub struct Conntrack {
    pub entries: BTreeMap<Number, Entry>,
    pub socket: Option<EventSocket>,
    next_id: u32,
    entries_max: usize,
    /// Writes that fail for want of memory, percent.
    pub refused_percent: u64,
    /// Events are lost: nothing reaches the socket.
    pub deaf: bool,
    random: Random,
    /// Events so far, heard or not.
    pub events: u64,
    pub lost_events: u64,
    pub refused_writes: u64,
    /// When a write last failed for want of memory or room.
    pub refused_at: Option<Instant>,
    /// Entries that have status bits which a write would have cleared: the kernel clears none.
    pub kept_status: BTreeSet<Number>,
    /// Entries that a write has set back which was under way when packets made them, and that no packet has changed since.
    pub overtaken: BTreeSet<Number>,
    /// States of which no event was heard, by their marks; and those made while nobody listened.
    pub unheard: BTreeMap<Number, u32>,
    pub unlistened: BTreeMap<Number, u32>,
    /// Entries of whose end no event was heard.
    pub ended_unheard: BTreeSet<Number>,
    /// Entries whose last write was refused.
    pub refused: BTreeSet<Number>,
    /// The mark of the state that the last write was refused for.
    pub refused_state: Option<u32>,
}

impl Conntrack {
    pub fn new(entries_max: usize, random: Random) -> Self {
        Self {
            entries: BTreeMap::new(),
            socket: None,
            next_id: 0,
            entries_max,
            refused_percent: 0,
            deaf: false,
            random,
            events: 0,
            lost_events: 0,
            refused_writes: 0,
            refused_at: None,
            kept_status: BTreeSet::new(),
            overtaken: BTreeSet::new(),
            unheard: BTreeMap::new(),
            unlistened: BTreeMap::new(),
            ended_unheard: BTreeSet::new(),
            refused: BTreeSet::new(),
            refused_state: None,
        }
    }

    /// A process begins to listen.
    pub fn listen(&mut self, room: usize) {
        self.socket = Some(EventSocket { queue: VecDeque::new(), read: self.events, lost: false, room });
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.entries_max
    }

    /// The number of the last event that the loop has read.
    pub fn events_read(&self) -> u64 {
        self.socket.as_ref().map_or(0, |socket| socket.read)
    }

    // -- what packets do --

    /// Packets make or change a flow; false: no room, the packet is dropped.
    pub fn pass(&mut self, now: Instant, flow: Flow) -> bool {
        let number = number(&flow.key);
        let id = match self.entries.get(&number) {
            Some(entry) => entry.flow.id,
            None if self.is_full() => return false,
            None => self.fresh_id(),
        };
        let flow = Flow { id, ..flow };
        self.put(now, number, flow.clone());
        self.tell(Event::Changed(flow));
        true
    }

    /// A packet that changes nothing but the time that is left: no event.
    pub fn touch(&mut self, now: Instant, number: Number) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.deadline = now + Duration::from_secs(entry.flow.timeout.into());
        }
    }

    /// The kernel ends a flow.
    pub fn end(&mut self, number: Number) {
        if let Some(entry) = self.entries.remove(&number) {
            self.tell(Event::Destroyed(entry.flow));
        }
    }

    /// Ends what is over, and says what that was.
    pub fn expire(&mut self, now: Instant) -> Vec<Number> {
        let over: Vec<_> =
            self.entries.iter().filter(|(_, entry)| entry.deadline <= now).map(|(number, _)| *number).collect();
        over.iter().for_each(|number| self.end(*number));
        over
    }

    fn tell(&mut self, event: Event) {
        self.events += 1;
        let Some(socket) = &mut self.socket else {
            if let Event::Changed(flow) = &event {
                self.unlistened.insert(number(&flow.key), flow.mark);
            }
            return;
        };
        // Once it has overflowed it takes nothing before it is empty.
        if self.deaf || socket.lost || socket.queue.len() >= socket.room {
            socket.lost = true;
            self.lost_events += 1;
            match &event {
                Event::Changed(flow) => drop(self.unheard.insert(number(&flow.key), flow.mark)),
                Event::Destroyed(flow) => drop(self.ended_unheard.insert(number(&flow.key))),
            }
        } else {
            socket.queue.push_back((self.events, event));
        }
    }

    // -- what the daemon writes: no event comes back to it --

    pub fn create(&mut self, now: Instant, flow: &Flow) -> Result<(), i32> {
        let number = number(&flow.key);
        if self.entries.contains_key(&number) {
            return Err(EEXIST);
        }
        self.refuse(now, flow)?;
        if self.is_full() {
            self.note_refused(now, flow);
            return Err(ENOMEM);
        }
        let id = self.fresh_id();
        self.put(now, number, Flow { id, ..flow.clone() });
        Ok(())
    }

    /// As the real one: status bits are only ever added, translation cannot change (`ctnetlink` section 9).
    pub fn update(&mut self, now: Instant, flow: &Flow, with_status: bool) -> Result<(), i32> {
        self.refuse(now, flow)?;
        let Some(Entry { flow: old, deadline }) = self.entries.get_mut(&number(&flow.key)) else { return Err(ENOENT) };
        let sticky = status::SEEN_REPLY | status::ASSURED;
        if with_status && old.status & !flow.status & sticky != 0 {
            self.kept_status.insert(number(&flow.key));
            return Err(EBUSY);
        }
        if old.reply != flow.reply {
            return Err(EOPNOTSUPP);
        }
        if with_status {
            old.status |= flow.status;
        }
        (old.mark, old.tcp, old.timeout) = (flow.mark, flow.tcp.or(old.tcp), flow.timeout);
        *deadline = now + Duration::from_secs(flow.timeout.into());
        self.refused.remove(&number(&flow.key));
        Ok(())
    }

    pub fn delete(&mut self, key: &FlowKey, id: u32) -> Result<(), i32> {
        let number = number(key);
        if !self.entries.get(&number).is_some_and(|entry| id == 0 || entry.flow.id == id) {
            return Err(ENOENT);
        }
        self.entries.remove(&number);
        Ok(())
    }

    /// The first entry from a number on: a dump reads the table as it is when its line is made.
    pub fn line(&self, from: Number) -> Option<(Number, &Flow)> {
        self.entries.range(from..).next().map(|(number, entry)| (*number, &entry.flow))
    }

    /// The engine has heard nothing of this state by an event.
    pub fn is_unheard(&self, number: Number, mark: u32) -> bool {
        [&self.unheard, &self.unlistened].iter().any(|unheard| unheard.get(&number) == Some(&mark))
    }

    pub fn mark(&self, number: Number) -> Option<u32> {
        self.entries.get(&number).map(|entry| entry.flow.mark)
    }

    fn refuse(&mut self, now: Instant, flow: &Flow) -> Result<(), i32> {
        if self.refused_percent > 0 && self.random.percent(self.refused_percent) {
            self.refused_writes += 1;
            self.note_refused(now, flow);
            return Err(ENOMEM);
        }
        Ok(())
    }

    fn note_refused(&mut self, now: Instant, flow: &Flow) {
        let number = number(&flow.key);
        self.refused.insert(number);
        self.refused_at = Some(now);
        self.refused_state = Some(flow.mark);
    }

    fn put(&mut self, now: Instant, number: Number, flow: Flow) {
        let deadline = now + Duration::from_secs(flow.timeout.into());
        self.kept_status.remove(&number);
        self.overtaken.remove(&number);
        self.ended_unheard.remove(&number);
        self.refused.remove(&number);
        self.entries.insert(number, Entry { flow, deadline });
    }

    fn fresh_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }
}

/// The flow of a session, with source NAT like a firewall's. `state`: of TCP; `None` makes it UDP.
pub fn flow(number: Number, is_tcp: bool, state: u8, mark: u32, timeout: u32) -> Flow {
    let original = Tuple {
        source: Ipv4Addr::from_bits(0x0a00_0000 + number).into(),
        destination: Ipv4Addr::new(192, 0, 2, 1).into(),
        protocol: if is_tcp { 6 } else { 17 },
        source_port: 4000,
        destination_port: 53,
    };
    let translated = Tuple { destination: Ipv4Addr::new(203, 0, 113, 1).into(), ..original.inverse() };
    let reply = Tuple { destination_port: 1024 + number as u16, ..translated };
    let is_open = !is_tcp || state >= 2;
    let assured = is_tcp && state >= 3;
    let status =
        status::SRC_NAT | if is_open { status::SEEN_REPLY } else { 0 } | if assured { status::ASSURED } else { 0 };
    let tcp = is_tcp.then_some(Tcp { state, wscale: [7, 7], flags: [3, 3] });
    Flow { key: FlowKey { original, zone: 0 }, reply, status, timeout, mark, tcp, id: 0, extra: None }
}

/// The session that a key belongs to.
pub fn number(key: &FlowKey) -> Number {
    match key.original.source {
        IpAddr::V4(source) => source.to_bits() & 0xff_ffff,
        IpAddr::V6(source) => panic!("no session is from {source}"),
    }
}
