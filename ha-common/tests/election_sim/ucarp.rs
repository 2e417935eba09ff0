//! A model of a ucarp host: one process a VHID, which know nothing of each other (carp-wire §5, §7, §8).

use crate::node::{Packet, SEGMENTS, Settings, VHIDS, VIPS, address};
use crate::world::Rng;
use ha_common::election::auth::Authenticator;
use ha_common::time::Instant;
use ha_common::wire::carp::Advert;
use std::net::Ipv4Addr;
use std::time::Duration;

/// pcap hands packets over on a grid of this period (carp-wire §7, "receive delay").
const PCAP_GRID: u64 = 1_000_000_000;
const DEAD_RATIO: u16 = 3;

/// One process.
pub struct Process {
    pub master: bool,
    address: Ipv4Addr,
    vhid: u8,
    settings: Settings,
    auth: Authenticator,
    counter: Option<u64>,
    rng: Rng,
    inbox: Vec<Packet>,
    /// When pcap delivers the inbox, on a grid of this phase.
    deliver_at: Option<Instant>,
    phase: u64,
    /// BACKUP: when the master is dead; looked at only when poll() returns.
    deadline: Instant,
    /// When poll() returns at the latest: BACKUP every interval, MASTER for the next advert.
    poll_at: Instant,
}

impl Process {
    pub fn new(node: usize, segment: usize, settings: Settings, now: Instant, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut process = Self {
            master: false,
            address: address(node, segment),
            vhid: VHIDS[segment],
            auth: Authenticator::new(VHIDS[segment], &[VIPS[segment].into()], b"toto"),
            counter: None,
            inbox: Vec::new(),
            deliver_at: None,
            phase: rng.below(PCAP_GRID),
            rng,
            deadline: now,
            poll_at: now,
            settings,
        };
        process.become_backup(now);
        process
    }

    pub fn wake_at(&self) -> Instant {
        self.deliver_at.map_or(self.poll_at, |at| at.min(self.poll_at))
    }

    /// A packet reaches the host.
    pub fn receive(&mut self, now: Instant, packet: Packet) {
        self.inbox.push(packet);
        let next = now.0 + PCAP_GRID - (now.0 + PCAP_GRID - self.phase) % PCAP_GRID;
        self.deliver_at.get_or_insert(Instant(next));
    }

    /// poll() returns; the packets it causes.
    pub fn wake(&mut self, now: Instant) -> Vec<Packet> {
        let mut sent = Vec::new();
        if self.deliver_at.is_some_and(|at| at <= now) {
            self.deliver_at = None;
            for packet in std::mem::take(&mut self.inbox) {
                self.hear(now, packet, &mut sent);
            }
        }
        if self.master {
            if self.poll_at <= now {
                sent.push(self.advertise());
                self.poll_at = now + self.interval();
            }
        } else if self.deadline < now {
            self.become_master(now, &mut sent);
        } else if self.poll_at <= now {
            self.poll_at = now + self.interval();
        }
        sent
    }

    fn hear(&mut self, now: Instant, packet: Packet, sent: &mut Vec<Packet>) {
        let Packet { source, advert } = packet;
        if advert.vhid != self.vhid || source == self.address || !self.auth.verify(advert.counter, &advert.digest) {
            return;
        }
        self.counter = Some(advert.counter);
        let own = (1, self.settings.advskew);
        let heard = (u16::from(advert.advbase), advert.advskew);
        if !self.master {
            if self.settings.preempt && own < heard || (DEAD_RATIO, self.settings.advskew) < heard {
                self.become_master(now, sent);
            } else {
                self.deadline = now + self.master_down();
            }
            return;
        }
        let lower = u32::from_le_bytes(source.octets()) < u32::from_le_bytes(self.address.octets());
        if own > heard || own == heard && lower {
            sent.push(self.advertise());
            self.become_backup(now);
        }
    }

    fn become_master(&mut self, now: Instant, sent: &mut Vec<Packet>) {
        self.master = true;
        sent.push(self.advertise());
        self.poll_at = now + self.interval();
    }

    fn become_backup(&mut self, now: Instant) {
        self.master = false;
        self.deadline = now + self.master_down();
        self.poll_at = now + self.interval();
    }

    fn advertise(&mut self) -> Packet {
        let counter = match &mut self.counter {
            Some(counter) => {
                *counter = counter.wrapping_add(1);
                *counter
            }
            None => self.rng.next(),
        };
        let advert = Advert {
            vhid: self.vhid,
            advskew: self.settings.advskew,
            advbase: 1,
            demotion: 0,
            counter,
            digest: self.auth.digest(counter),
        };
        Packet { source: self.address, advert }
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1) + self.skew()
    }

    fn master_down(&self) -> Duration {
        Duration::from_secs(u64::from(DEAD_RATIO)) + self.skew()
    }

    fn skew(&self) -> Duration {
        Duration::from_secs(u64::from(self.settings.advskew)) / 256
    }
}

/// A host with a process a VHID; a killed one is `None`.
pub struct Host {
    pub processes: [Option<Process>; SEGMENTS],
}

impl Host {
    pub fn new(node: usize, settings: Settings, now: Instant, seed: u64) -> Self {
        // The second process starts a moment later, as from a script.
        let start = |segment: usize| {
            let later = now + Duration::from_millis(37) * segment as u32;
            Some(Process::new(node, segment, settings, later, seed ^ segment as u64))
        };
        Self { processes: [start(0), start(1)] }
    }

    pub fn masters(&self, segment: usize) -> bool {
        self.processes[segment].as_ref().is_some_and(|process| process.master)
    }
}
