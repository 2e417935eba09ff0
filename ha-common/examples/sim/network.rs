//! The paths between the nodes: LAN, WAN and the sync link, and what they do to packets.

use crate::model::segments::Packet;
use crate::random::Random;
use ha_common::sync::LinkId;
use ha_common::time::Instant;
use ha_common::wire::heartbeat::Heartbeat;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

const NODES_MAX: usize = 3;
/// The least time under way.
const DELAY_MIN: Duration = Duration::from_micros(10);
const DELAY_USUAL: Duration = Duration::from_micros(200);

pub enum Payload {
    Beat(Heartbeat),
    Advert(Packet),
    Frame {
        link: LinkId,
        bytes: Vec<u8>,
        is_hostile: bool,
    },
    /// To the hosts of a segment: the virtual address is here.
    Announcement,
}

/// A packet that is under way.
pub struct Flight {
    pub at: Instant,
    /// Of those that arrive at the same moment the one sent first is first.
    serial: u64,
    pub from: usize,
    pub to: usize,
    pub path: usize,
    pub payload: Payload,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Path {
    /// By sender and receiver.
    pub cut: [[bool; NODES_MAX]; NODES_MAX],
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    /// Delay is the least and up to this: packets overtake each other.
    pub delay_max: Duration,
}

impl Path {
    pub fn new() -> Self {
        Self { delay_max: DELAY_USUAL, ..Self::default() }
    }

    pub fn repair(&mut self) {
        *self = Self::new();
    }

    /// Nothing is lost, repeated or late on it.
    pub fn is_clean(&self) -> bool {
        self.loss_percent == 0
            && self.duplicate_percent == 0
            && self.delay_max <= Duration::from_millis(5)
            && !self.is_cut()
    }

    pub fn is_cut(&self) -> bool {
        self.cut.iter().flatten().any(|cut| *cut)
    }
}

#[derive(Default)]
pub struct Network {
    flights: BinaryHeap<Flight>,
    serial: u64,
    pub lost: u64,
    pub sent: u64,
}

impl Network {
    pub fn next_at(&self) -> Option<Instant> {
        self.flights.peek().map(|flight| flight.at)
    }

    pub fn arrived(&mut self, now: Instant) -> Option<Flight> {
        if self.next_at()? > now { None } else { self.flights.pop() }
    }

    /// Puts a packet on its way, or loses it, or makes two of it. `may`: both ends of the path are up.
    pub fn send(
        &mut self,
        now: Instant,
        random: &mut Random,
        (path, weather): (usize, &Path),
        (from, to, may): (usize, usize, bool),
        payload: Payload,
    ) {
        self.sent += 1;
        let lost = weather.loss_percent > 0 && random.percent(weather.loss_percent);
        if lost || !may || weather.cut[from][to] {
            self.lost += 1;
            return;
        }
        let mut put = |payload: Payload, random: &mut Random| {
            let delay = random.between(DELAY_MIN, weather.delay_max.max(DELAY_MIN * 2));
            self.serial += 1;
            self.flights.push(Flight { at: now + delay, serial: self.serial, from, to, path, payload });
        };
        if weather.duplicate_percent > 0 && random.percent(weather.duplicate_percent) {
            put(payload.copy(), random);
        }
        put(payload, random);
    }

    /// A stranger's packet: it is there at once.
    pub fn inject(&mut self, now: Instant, to: usize, path: usize, payload: Payload) {
        self.serial += 1;
        self.flights.push(Flight { at: now, serial: self.serial, from: to, to, path, payload });
    }
}

impl Payload {
    fn copy(&self) -> Payload {
        match self {
            Self::Beat(beat) => Self::Beat(*beat),
            Self::Advert(packet) => Self::Advert(*packet),
            Self::Frame { link, bytes, is_hostile } => {
                Self::Frame { link: *link, bytes: bytes.clone(), is_hostile: *is_hostile }
            }
            Self::Announcement => Self::Announcement,
        }
    }
}

impl Ord for Flight {
    /// The heap gives the greatest first: that is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Flight {}
