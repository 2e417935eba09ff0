//! Time, network, and the watch over what each node sees.

use ha_common::election::InterfaceId;
use ha_common::liveness::{Action, Config, Input, PathId, PathReply, Prober};
use ha_common::role::NodeId;
use ha_common::sight::{PeerReport, Sight};
use ha_common::time::Instant;
use ha_common::wire::heartbeat::Standing;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

pub const MS: Duration = Duration::from_millis(1);

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

    pub fn node(&mut self) -> usize {
        self.below(2) as usize
    }

    pub fn duration(&mut self, bound: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(bound.as_nanos()).unwrap().max(1)))
    }
}

/// The settings by default, with so many paths.
pub fn config(paths: usize) -> Config {
    Config {
        node: NodeId(0),
        peer: NodeId(1),
        interval: MS,
        multiplier: 5,
        dead_after_max: MS * 200,
        paths: (0..paths).map(|n| InterfaceId(n as u8)).collect(),
    }
}

/// One direction is as the other.
#[derive(Clone, Copy)]
pub struct Link {
    pub cut: bool,
    /// Frames lost each way, of 1000.
    pub loss: u64,
    /// One way, without jitter.
    pub delay: Duration,
    /// Added at random, evenly spread up to it.
    pub jitter: Duration,
}

pub struct Node {
    pub prober: Prober,
    /// Its process does not run until then.
    stopped_until: Instant,
    /// Nothing runs until then: frames wait before its door.
    frozen_until: Instant,
    pub crashed: bool,
    /// Answers of the driver path: session, term, standing.
    pub session: u64,
    pub term: u64,
    pub standing: Standing,
    /// The newest answer on each path, as the program leaves it.
    entries: Vec<Option<PathReply>>,
    /// Every [`Action::Sight`].
    pub told: Vec<(Instant, Sight)>,
    pub probes: Vec<u64>,
    /// Whether the last probe of each path went to the group.
    pub to_group: Vec<bool>,
}

impl Node {
    pub fn silences(&self) -> usize {
        self.told.iter().filter(|(_, sight)| matches!(sight, Sight::Silent { .. })).count()
    }

    pub fn is_alive(&self) -> bool {
        matches!(self.prober.sight(), Sight::Alive(_))
    }

    /// When the peer was last found silent.
    pub fn silent_at(&self) -> Option<Instant> {
        self.told.iter().rev().find(|(_, sight)| matches!(sight, Sight::Silent { .. })).map(|(at, _)| *at)
    }
}

#[derive(Clone, Copy)]
enum Frame {
    Probe { to: usize, path: usize, sequence: u64, sent: Instant },
    Reply { to: usize, path: usize, sequence: u64, sent: Instant, report: PeerReport },
}

pub struct World {
    pub now: Instant,
    pub rng: Rng,
    pub nodes: [Node; 2],
    pub links: Vec<Link>,
    /// In flight: time and position in `frames`.
    flight: BinaryHeap<Reverse<(Instant, usize)>>,
    frames: Vec<Option<Frame>>,
    free: Vec<usize>,
}

impl World {
    /// Both nodes start at about the same time, links up.
    pub fn new(paths: usize, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let start = Instant(3_600_000_000_000) + rng.duration(MS * 1000);
        let node = |rng: &mut Rng, index: usize| Node {
            prober: Prober::new(config(paths), rng.next()),
            stopped_until: start,
            frozen_until: start,
            crashed: false,
            session: 1 + index as u64,
            term: 0x100,
            standing: Standing::default(),
            entries: vec![None; paths],
            told: Vec::new(),
            probes: vec![0; paths],
            to_group: vec![true; paths],
        };
        let nodes = [node(&mut rng, 0), node(&mut rng, 1)];
        let link = Link { cut: false, loss: 0, delay: Duration::from_micros(12), jitter: Duration::from_micros(10) };
        let links = vec![link; paths];
        let mut world =
            Self { now: start, rng, nodes, links, flight: BinaryHeap::new(), frames: Vec::new(), free: Vec::new() };
        for (index, path) in (0..2).flat_map(|index| (0..paths).map(move |path| (index, path))) {
            world.set_link(index, path, true);
        }
        world
    }

    /// A world in which both have seen each other for a second.
    pub fn settled(paths: usize, seed: u64) -> Self {
        let mut world = Self::new(paths, seed);
        world.run(MS * 1000);
        assert!(world.nodes.iter().all(Node::is_alive));
        world
    }

    pub fn set_link(&mut self, index: usize, path: usize, up: bool) {
        let path = PathId(path as u8);
        self.nodes[index].prober.handle(self.now, Input::Link { path, up }, &mut Vec::new());
    }

    /// SIGSTOP: the driver path goes on answering.
    pub fn stop(&mut self, index: usize, time: Duration) {
        self.nodes[index].stopped_until = self.now + time;
    }

    /// The whole host, as a virtual machine that is paused; its clock goes on.
    pub fn freeze(&mut self, index: usize, time: Duration) {
        self.stop(index, time);
        self.nodes[index].frozen_until = self.now + time;
    }

    pub fn crash(&mut self, index: usize) {
        self.nodes[index].crashed = true;
    }

    /// Is there again, as another process.
    pub fn restart(&mut self, index: usize) {
        let paths = self.links.len();
        let node = &mut self.nodes[index];
        node.crashed = false;
        node.session += 2;
        node.prober = Prober::new(config(paths), node.session);
        node.entries = vec![None; paths];
        (0..paths).for_each(|path| self.set_link(index, path, true));
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.next_event().filter(|at| *at < end) {
            self.now = at.max(self.now);
            self.step();
        }
        self.now = end;
    }

    fn wakes_at(&self, index: usize) -> Option<Instant> {
        let node = &self.nodes[index];
        let due = node.prober.poll_at().filter(|_| !node.crashed)?;
        Some(due.max(node.stopped_until))
    }

    fn next_event(&self) -> Option<Instant> {
        let flight = self.flight.peek().map(|Reverse((at, _))| *at);
        [flight, self.wakes_at(0), self.wakes_at(1)].into_iter().flatten().min()
    }

    fn step(&mut self) {
        while let Some(Reverse((at, slot))) = self.flight.peek().copied().filter(|Reverse((at, _))| *at <= self.now) {
            debug_assert!(at <= self.now);
            self.flight.pop();
            self.free.push(slot);
            if let Some(frame) = self.frames[slot].take() {
                self.deliver(frame);
            }
        }
        for index in 0..2 {
            if self.wakes_at(index).is_some_and(|at| at <= self.now) {
                self.tick(index);
            }
        }
    }

    fn tick(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let mut actions = Vec::new();
        for reply in node.entries.iter().flatten() {
            node.prober.handle(now, Input::Reply(reply), &mut actions);
        }
        node.prober.handle(now, Input::Timer, &mut actions);
        assert!(node.prober.poll_at().is_none_or(|at| at > now), "the timer stalls");
        for action in actions {
            match action {
                Action::Sight(sight) => self.nodes[index].told.push((now, sight)),
                Action::Probe { path, sequence, to, .. } => {
                    let path = usize::from(path.0);
                    self.nodes[index].probes[path] += 1;
                    self.nodes[index].to_group[path] = to.is_none();
                    self.send(path, Frame::Probe { to: 1 - index, path, sequence, sent: now });
                }
            }
        }
    }

    fn send(&mut self, path: usize, frame: Frame) {
        let link = self.links[path];
        if link.cut || self.rng.below(1000) < link.loss {
            return;
        }
        let delay = link.delay + self.rng.duration(link.jitter);
        self.put(self.now + delay, frame);
    }

    fn put(&mut self, at: Instant, frame: Frame) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.frames.push(None);
            self.frames.len() - 1
        });
        self.frames[slot] = Some(frame);
        self.flight.push(Reverse((at, slot)));
    }

    fn deliver(&mut self, frame: Frame) {
        let (Frame::Probe { to, .. } | Frame::Reply { to, .. }) = frame;
        let now = self.now;
        let node = &mut self.nodes[to];
        if node.crashed {
            return;
        }
        if node.frozen_until > now {
            let at = node.frozen_until;
            return self.put(at, frame);
        }
        match frame {
            Frame::Probe { to, path, sequence, sent } => {
                let report = PeerReport {
                    session: node.session,
                    term: node.term,
                    standing: node.standing,
                    beat_age: Duration::ZERO,
                    lease_left: Duration::ZERO,
                    heard: now,
                    asked: now,
                };
                self.send(path, Frame::Reply { to: 1 - to, path, sequence, sent, report });
            }
            Frame::Reply { path, sequence, sent, report, .. } => {
                let before = node.entries[path].map_or((0, 0), |entry| (entry.sequence, entry.replies));
                // As the program does: an older answer than the last is dropped.
                if sequence > before.0 {
                    let report = PeerReport { heard: now, ..report };
                    let (rtt, id, replies) = (now.since(sent), PathId(path as u8), before.1 + 1);
                    let mac = [2, 0, 0, 0, 1 - to as u8, path as u8];
                    let entry = PathReply { path: id, sequence, received: now, rtt, mac, replies, report };
                    node.entries[path] = Some(entry);
                }
            }
        }
    }
}
