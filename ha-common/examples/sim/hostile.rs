//! A stranger on every path, who has no secret: he repeats, reflects, alters, cuts and makes up frames. What he sends may
//! change counters and nothing else.

use crate::model::segments::{Packet, SEGMENTS};
use crate::random::Random;
use ha_common::role::Role;
use ha_common::sync::{Engine, LinkId};
use ha_common::wire::frame::{HEADER_LEN, Header, Kind};
use std::collections::VecDeque;

/// Recorded frames kept for each receiver.
const RECORDED_MAX: usize = 96;

/// What no frame of a stranger may change in an engine.
#[derive(PartialEq, Eq, Debug)]
pub struct Fingerprint {
    flows: [u64; 5],
    health: (bool, bool),
    peers: Vec<PeerPrint>,
}

#[derive(PartialEq, Eq, Debug)]
struct PeerPrint {
    alive: bool,
    session: u64,
    key: (u8, Vec<u8>),
    version: u32,
    sequences: [u64; 3],
    waiting: [u64; 2],
    transfers: (bool, bool),
    said: (Role, u64),
}

impl Fingerprint {
    pub fn of(engine: &Engine) -> Self {
        let stats = engine.stats();
        let peer = |peer: &ha_common::sync::PeerStats| PeerPrint {
            alive: peer.alive,
            session: peer.session,
            key: (peer.key_epoch, peer.key_epochs_accepted.clone()),
            version: peer.version,
            sequences: [peer.sent_sequence, peer.acked_sequence, peer.received_sequence],
            waiting: [peer.backlog_flows, peer.in_flight_flows],
            transfers: (peer.bulk_sent, peer.bulk_received),
            said: (peer.role, peer.hello_sequence),
        };
        Self {
            flows: [stats.flows, stats.flows_local, stats.flows_found, stats.flows_peer, stats.tombstones],
            health: (stats.health.peer_alive, stats.health.in_sync),
            peers: stats.peers.iter().map(peer).collect(),
        }
    }

    /// What a stranger's frame has changed, if anything.
    pub fn difference(&self, after: &Self, actions: usize) -> Option<String> {
        let changed = self != after || actions > 0;
        changed.then(|| format!("hostile: a stranger's frame led to {actions} actions: {self:?} became {after:?}"))
    }
}

/// What the stranger has seen, and sends again.
#[derive(Default)]
pub struct Stranger {
    /// By receiver: frames that it has taken.
    taken: Vec<VecDeque<(LinkId, Vec<u8>)>>,
    /// Frames on their way to somebody.
    fresh: VecDeque<Vec<u8>>,
    /// Of the frames taken, hellos once more: they are few.
    hellos: Vec<VecDeque<(LinkId, Vec<u8>)>>,
    sent: u64,
    /// By receiver and segment: the advert heard last.
    adverts: Vec<[Option<Packet>; SEGMENTS]>,
}

impl Stranger {
    pub fn new(nodes: usize) -> Self {
        Self {
            taken: vec![VecDeque::new(); nodes],
            fresh: VecDeque::new(),
            hellos: vec![VecDeque::new(); nodes],
            sent: 0,
            adverts: vec![[None; SEGMENTS]; nodes],
        }
    }

    pub fn record_taken(&mut self, receiver: usize, link: LinkId, bytes: Vec<u8>) {
        let keep = |kept: &mut VecDeque<_>, bytes| {
            if kept.len() == RECORDED_MAX {
                kept.pop_front();
            }
            kept.push_back((link, bytes));
        };
        if Header::parse(&bytes).is_ok_and(|header| header.kind == Kind::Hello) {
            self.hellos.get_mut(receiver).into_iter().for_each(|hellos| keep(hellos, bytes.clone()));
        }
        self.taken.get_mut(receiver).into_iter().for_each(|taken| keep(taken, bytes.clone()));
    }

    pub fn record_fresh(&mut self, bytes: &[u8]) {
        if self.fresh.len() == RECORDED_MAX {
            self.fresh.pop_front();
        }
        self.fresh.push_back(bytes.to_vec());
    }

    pub fn record_advert(&mut self, receiver: usize, segment: usize, packet: Packet) {
        self.adverts[receiver][segment] = Some(packet);
    }

    /// A new process does not know which adverts were heard: the first may be a repetition (carp-wire §5).
    pub fn forget_adverts(&mut self, receiver: usize) {
        self.adverts[receiver] = [None; SEGMENTS];
    }

    pub fn last_advert(&self, receiver: usize, segment: usize) -> Option<Packet> {
        self.adverts[receiver][segment]
    }

    /// A frame for a receiver that nobody with the secret has sent to it just now, over one of so many links.
    pub fn frame(&mut self, random: &mut Random, receiver: usize, links: u8) -> (LinkId, Vec<u8>) {
        let nodes = self.taken.len();
        self.sent += 1;
        let from = match random.below(10) {
            0..=4 => {
                let at = random.index(self.taken[receiver].len().max(1));
                let hellos = &self.hellos[receiver];
                let is_hello = self.sent.is_multiple_of(4) && !hellos.is_empty();
                let recorded = if is_hello { hellos.get(at % hellos.len()) } else { self.taken[receiver].get(at) };
                // Also over a link where its like was not heard for long.
                let other =
                    |link: LinkId| if self.sent.is_multiple_of(8) { LinkId((link.0 + 1) % links) } else { link };
                recorded.map(|(link, bytes)| (other(*link), bytes.clone()))
            }
            // Reflected: what the others took is not for this one.
            5 => {
                let other = &self.taken[(receiver + 1) % nodes];
                other.get(random.index(other.len().max(1))).cloned()
            }
            6..=8 => self.altered(random),
            _ => None,
        };
        from.unwrap_or_else(|| (LinkId(0), garbage(random)))
    }

    /// One that was sealed just now, with a bit flipped, cut, lengthened, or with another body.
    fn altered(&self, random: &mut Random) -> Option<(LinkId, Vec<u8>)> {
        let mut bytes = self.fresh.get(random.index(self.fresh.len().max(1)))?.clone();
        match random.below(4) {
            0 => {
                let bit = random.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            1 => bytes.truncate(random.index(bytes.len())),
            2 => bytes.push(random.next() as u8),
            _ => {
                // Another sequence that is new to the receiver, as an overtaking frame would have.
                let later = Header::parse(&bytes).map_or(1, |header| header.sequence + 1 + random.below(8));
                bytes[24..HEADER_LEN].copy_from_slice(&later.to_be_bytes());
            }
        }
        Some((LinkId(0), bytes))
    }
}

fn garbage(random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
    // Half of it looks like a frame.
    if random.percent(50) && bytes.len() > 60 {
        bytes[..5].copy_from_slice(b"TWS1\x01");
        bytes[5] = random.below(5) as u8;
        bytes[6] = random.below(4) as u8;
        bytes[7] = 1 + random.below(3) as u8;
        let length = (bytes.len() - HEADER_LEN) as u16;
        bytes[8..10].copy_from_slice(&length.to_be_bytes());
        bytes[12] = random.below(4) as u8;
    }
    bytes
}
