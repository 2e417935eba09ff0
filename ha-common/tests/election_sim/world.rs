//! Time, network and the watch.

use crate::node::{Node, Packet, SEGMENTS, Settings};
use crate::ucarp::Host;
use ha_common::election::{Command, Input};
use ha_common::role::{Role, SyncHealth};
use ha_common::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Xorshift; the seed decides the whole run.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let mut rng = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..4).for_each(|_| _ = rng.next());
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

/// What stands on a place.
pub enum Machine {
    Down,
    Twinwall(Box<Node>),
    Ucarp(Box<Host>),
}

/// How long it takes the sync link to notice, and a bulk transfer to end.
const SYNC_NOTICES: Duration = Duration::from_millis(300);
const SYNC_BULK: Duration = Duration::from_millis(1500);
const SYNC_TICK: Duration = Duration::from_millis(50);

/// The longest times seen of what must be short.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// Two holders on one segment that are connected without loss.
    pub two: Duration,
    /// No holder on a segment, with a healthy node.
    pub none: Duration,
    /// LAN and WAN held by different nodes.
    pub split: Duration,
    pub role_changes: u64,
}

pub struct World {
    pub now: Instant,
    pub rng: Rng,
    pub machines: Vec<Machine>,
    settings: Vec<Settings>,
    /// In flight: time, serial number, receiver, segment.
    flight: BinaryHeap<Reverse<(Instant, u64, usize, usize)>>,
    packets: std::collections::HashMap<u64, Packet>,
    serial: u64,
    /// `cut[segment][from][to]`; segment [`SEGMENTS`] is the sync link.
    pub cut: Vec<Vec<Vec<bool>>>,
    pub link_up: Vec<[bool; SEGMENTS]>,
    /// Adverts lost, of 100.
    pub loss_percent: u64,
    /// Longest delay of a packet; the shortest is 20 µs.
    pub delay_max: Duration,
    sync_since: Vec<Option<Instant>>,
    next_tick: Instant,
    pub watch: Watch,
    since: [Option<Instant>; 3],
    masters_before: Vec<[bool; SEGMENTS]>,
}

impl World {
    pub fn new(settings: &[Settings], seed: u64) -> Self {
        let nodes = settings.len();
        let now = Instant(1_000_000_000_000);
        Self {
            now,
            rng: Rng::new(seed),
            machines: (0..nodes).map(|_| Machine::Down).collect(),
            settings: settings.to_vec(),
            flight: BinaryHeap::new(),
            packets: std::collections::HashMap::new(),
            serial: 0,
            cut: vec![vec![vec![false; nodes]; nodes]; SEGMENTS + 1],
            link_up: vec![[true; SEGMENTS]; nodes],
            loss_percent: 0,
            delay_max: Duration::from_millis(2),
            sync_since: vec![None; nodes],
            next_tick: now,
            watch: Watch::default(),
            since: [None; 3],
            masters_before: vec![[false; SEGMENTS]; nodes],
        }
    }

    pub fn start_twinwall(&mut self, index: usize) {
        let mut node = Node::new(index, self.machines.len(), self.settings[index], self.rng.next());
        for segment in 0..SEGMENTS {
            let packets = node.link(self.now, index, segment, self.link_up[index][segment]);
            assert!(packets.is_empty(), "a starting node is silent");
        }
        self.machines[index] = Machine::Twinwall(Box::new(node));
        self.sync_since[index] = None;
    }

    pub fn start_ucarp(&mut self, index: usize) {
        let host = Host::new(index, self.settings[index], self.now, self.rng.next());
        self.machines[index] = Machine::Ucarp(Box::new(host));
    }

    pub fn crash(&mut self, index: usize) {
        self.machines[index] = Machine::Down;
    }

    pub fn command(&mut self, index: usize, command: Command) {
        let now = self.now;
        if let Machine::Twinwall(node) = &mut self.machines[index] {
            let packets = node.input(now, Input::Command(command));
            self.transmit(index, packets);
        }
    }

    pub fn set_link(&mut self, index: usize, segment: usize, up: bool) {
        self.link_up[index][segment] = up;
        let now = self.now;
        if let Machine::Twinwall(node) = &mut self.machines[index] {
            let packets = node.link(now, index, segment, up);
            self.transmit(index, packets);
        }
    }

    /// Holder of the addresses of a segment?
    pub fn holds(&self, index: usize, segment: usize) -> bool {
        match &self.machines[index] {
            Machine::Down => false,
            Machine::Twinwall(node) => node.holds_vips,
            Machine::Ucarp(host) => host.masters(segment),
        }
    }

    pub fn holders(&self, segment: usize) -> Vec<usize> {
        (0..self.machines.len()).filter(|index| self.holds(*index, segment)).collect()
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let next = self.next_event().min(end);
            self.now = next;
            if next == end {
                self.observe();
                return;
            }
            self.step();
            self.observe();
        }
    }

    pub fn run_secs(&mut self, secs: u64) {
        self.run(Duration::from_secs(secs));
    }

    fn next_event(&self) -> Instant {
        let flight = self.flight.peek().map(|Reverse((at, ..))| *at);
        let wakes = self.machines.iter().filter_map(|machine| match machine {
            Machine::Down => None,
            Machine::Twinwall(node) => node.election.poll_at(),
            Machine::Ucarp(host) => host.processes.iter().flatten().map(|process| process.wake_at()).min(),
        });
        wakes.chain(flight).fold(self.next_tick, Instant::min).max(self.now)
    }

    /// Everything that is due now.
    fn step(&mut self) {
        while let Some(Reverse((at, serial, to, segment))) = self.flight.peek().copied() {
            if at > self.now {
                break;
            }
            self.flight.pop();
            let packet = self.packets.remove(&serial).expect("in flight");
            self.deliver(to, segment, packet);
        }
        for index in 0..self.machines.len() {
            let now = self.now;
            let packets = match &mut self.machines[index] {
                Machine::Down => Vec::new(),
                Machine::Twinwall(node) if node.election.poll_at().is_some_and(|at| at <= now) => {
                    let packets = node.input(now, Input::Timer);
                    assert!(node.election.poll_at().is_none_or(|at| at > now), "the timer stalls");
                    packets
                }
                Machine::Twinwall(_) => Vec::new(),
                Machine::Ucarp(host) => {
                    let due = host.processes.iter_mut().enumerate();
                    due.filter_map(|(segment, process)| Some((segment, process.as_mut()?)))
                        .filter(|(_, process)| process.wake_at() <= now)
                        .flat_map(|(segment, process)| process.wake(now).into_iter().map(move |p| (segment, p)))
                        .collect()
                }
            };
            self.transmit(index, packets);
        }
        if self.next_tick <= self.now {
            self.next_tick = self.now + SYNC_TICK;
            self.tick_sync();
        }
    }

    fn deliver(&mut self, to: usize, segment: usize, packet: Packet) {
        if !self.link_up[to][segment] {
            return;
        }
        let now = self.now;
        match &mut self.machines[to] {
            Machine::Down => {}
            Machine::Twinwall(node) => {
                let packets = node.hear(now, segment, packet);
                self.transmit(to, packets);
            }
            Machine::Ucarp(host) => {
                if let Some(process) = &mut host.processes[segment] {
                    process.receive(now, packet);
                }
            }
        }
    }

    fn transmit(&mut self, from: usize, packets: Vec<(usize, Packet)>) {
        for (segment, packet) in packets {
            for to in 0..self.machines.len() {
                let lost = self.rng.below(100) < self.loss_percent;
                if to == from || lost || self.cut[segment][from][to] || !self.link_up[from][segment] {
                    continue;
                }
                let spread = u64::try_from(self.delay_max.as_nanos()).unwrap();
                let delay = Duration::from_nanos(20_000 + self.rng.below(spread));
                self.serial += 1;
                self.packets.insert(self.serial, packet);
                self.flight.push(Reverse((self.now + delay, self.serial, to, segment)));
            }
        }
    }

    /// The sync link as the election sees it: alive a moment after it works both ways, in sync when a bulk transfer has
    /// had its time.
    fn tick_sync(&mut self) {
        let twinwall: Vec<bool> = self.machines.iter().map(|machine| matches!(machine, Machine::Twinwall(_))).collect();
        for index in 0..self.machines.len() {
            let now = self.now;
            let sync = &self.cut[SEGMENTS];
            let works = twinwall[index]
                && (0..twinwall.len())
                    .any(|peer| peer != index && twinwall[peer] && !sync[index][peer] && !sync[peer][index]);
            let since = if works { Some(self.sync_since[index].unwrap_or(now)) } else { None };
            self.sync_since[index] = since;
            let age = since.map_or(Duration::ZERO, |since| now.since(since));
            let health =
                SyncHealth { peer_alive: age >= SYNC_NOTICES, in_sync: age >= SYNC_BULK, ..SyncHealth::default() };
            if let Machine::Twinwall(node) = &mut self.machines[index] {
                let packets = node.input(now, Input::Sync(health));
                self.transmit(index, packets);
            }
        }
    }

    /// Whether two machines hear each other on all segments without loss.
    fn connected(&self, a: usize, b: usize) -> bool {
        self.loss_percent == 0
            && (0..SEGMENTS).all(|segment| {
                !self.cut[segment][a][b]
                    && !self.cut[segment][b][a]
                    && self.link_up[a][segment]
                    && self.link_up[b][segment]
            })
    }

    fn healthy(&self, index: usize) -> bool {
        match &self.machines[index] {
            Machine::Down => false,
            Machine::Twinwall(node) => matches!(node.role(), Role::Backup | Role::Master),
            Machine::Ucarp(host) => host.processes.iter().all(Option::is_some),
        }
    }

    fn observe(&mut self) {
        let holders: Vec<Vec<usize>> = (0..SEGMENTS).map(|segment| self.holders(segment)).collect();
        let two = holders
            .iter()
            .any(|on| on.iter().enumerate().any(|(at, a)| on[at + 1..].iter().any(|b| self.connected(*a, *b))));
        let healthy = (0..self.machines.len()).any(|index| self.healthy(index));
        let none = healthy && holders.iter().any(Vec::is_empty);
        let split = matches!((&holders[0][..], &holders[1][..]), ([a], [b]) if a != b);
        let now = self.now;
        let longest = [&mut self.watch.two, &mut self.watch.none, &mut self.watch.split];
        for ((is, since), longest) in [two, none, split].into_iter().zip(&mut self.since).zip(longest) {
            *since = is.then(|| since.unwrap_or(now));
            *longest = (*longest).max(since.map_or(Duration::ZERO, |since| now.since(since)));
        }
        for index in 0..self.machines.len() {
            for segment in 0..SEGMENTS {
                let holds = self.holds(index, segment);
                self.watch.role_changes += u64::from(self.masters_before[index][segment] != holds);
                self.masters_before[index][segment] = holds;
            }
        }
    }

    /// Forgets what was watched until now.
    pub fn watch_anew(&mut self) {
        self.watch = Watch::default();
        self.since = [None; 3];
    }
}
