//! Time, the paths, the faults, and the watch over both gates.

use super::watch::{Memory, Watch};
use crate::model::daemon::{Daemon, Pair, Sent, Settings, TICK};
use crate::model::lease_kernel::{Kernel, PATHS};
use crate::node::{Packet, SEGMENTS};
use crate::world::Rng;
use ha_common::election::{Cause, Command, Input};
use ha_common::role::{Role, SyncHealth};
use ha_common::time::Instant;
use ha_common::wire::heartbeat::{Heartbeat, Kind};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

/// The sync link; LAN and WAN are 0 and 1, as the segments of adverts.
pub const SYNC: usize = 2;
const SYNC_TICK: Duration = Duration::from_millis(10);
const RESTART_GRACE: Duration = Duration::from_secs(5);
const SYNC_NOTICES: Duration = Duration::from_millis(300);

#[derive(Clone, Copy)]
enum Packets {
    Beat(usize, Heartbeat),
    Advert(usize, Packet),
}

pub struct Host {
    pub settings: Settings,
    /// `None`: the host is down.
    pub kernel: Option<Kernel>,
    /// `None`: no process.
    pub daemon: Option<Box<Daemon>>,
    tick_at: Instant,
    /// The process does not run until then.
    frozen_until: Instant,
    /// The process will freeze for so long in the middle of its next tick.
    pub freeze_in_tick: Option<Duration>,
    /// Nothing of the host runs until then.
    paused_until: Instant,
    /// How much its boot clock is behind the world's: a pause that it did not count.
    lag: Duration,
    missed: Vec<(Instant, usize, Packet)>,
    synced_since: Option<Instant>,
}

pub struct World {
    pub now: Instant,
    pub rng: Rng,
    pub seed: u64,
    pub hosts: [Host; 2],
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    flight: BTreeMap<u64, (usize, Packets)>,
    serial: u64,
    /// `cut[path][from]`.
    pub cut: [[bool; 2]; PATHS],
    pub loss_percent: [u64; PATHS],
    pub link_up: [[bool; PATHS]; 2],
    pub delay_max: Duration,
    /// How long changes of flows take to be acknowledged.
    pub lag: Duration,
    sync_at: Instant,
    pub memory: Memory,
    pub watch: Watch,
}

impl World {
    pub fn new(settings: [Settings; 2], seed: u64) -> Self {
        let now = Instant(1_000_000_000_000);
        let host = |settings| Host {
            settings,
            kernel: Some(Kernel::default()),
            daemon: None,
            tick_at: now,
            frozen_until: now,
            freeze_in_tick: None,
            paused_until: now,
            lag: Duration::ZERO,
            missed: Vec::new(),
            synced_since: None,
        };
        Self {
            now,
            rng: Rng::new(seed),
            seed,
            hosts: settings.map(host),
            queue: BinaryHeap::new(),
            flight: BTreeMap::new(),
            serial: 0,
            cut: [[false; 2]; PATHS],
            loss_percent: [0; PATHS],
            link_up: [[true; PATHS]; 2],
            delay_max: Duration::from_micros(200),
            lag: Duration::from_millis(2),
            sync_at: now,
            memory: Memory::default(),
            watch: Watch::default(),
        }
    }

    // -- faults --

    pub fn start(&mut self, index: usize) {
        let (at, seed) = (self.clock(index), self.rng.next());
        let phase = Duration::from_nanos(self.rng.below(1_000_000));
        let up = self.link_up[index];
        let host = &mut self.hosts[index];
        let Some(kernel) = &mut host.kernel else { return };
        kernel.replies = Default::default();
        let mut daemon = Box::new(Daemon::new(at, index, host.settings, Pair::default(), kernel, seed));
        let sent: Vec<Sent> = up.iter().enumerate().flat_map(|(p, up)| daemon.link(at, p, *up, kernel)).collect();
        host.daemon = Some(daemon);
        (host.tick_at, host.frozen_until, host.synced_since) = (self.now + phase, self.now, None);
        host.missed.clear();
        self.transmit(index, sent);
    }

    /// The process ends at once; its kernel goes on.
    pub fn kill(&mut self, index: usize) {
        self.hosts[index].daemon = None;
    }

    /// The process ends for a restart that keeps its role.
    pub fn leave(&mut self, index: usize) {
        let at = self.clock(index);
        let host = &mut self.hosts[index];
        if let (Some(daemon), Some(kernel)) = (host.daemon.take(), &mut host.kernel) {
            daemon.bequeath(at, RESTART_GRACE, kernel);
        }
    }

    /// The host loses power.
    pub fn crash(&mut self, index: usize) {
        self.kill(index);
        self.hosts[index].kernel = None;
        self.memory.forget_terms(index);
    }

    pub fn boot(&mut self, index: usize) {
        self.hosts[index].kernel = Some(Kernel::default());
        self.hosts[index].lag = Duration::ZERO;
        self.start(index);
    }

    pub fn freeze(&mut self, index: usize, duration: Duration) {
        self.hosts[index].frozen_until = self.now + duration;
    }

    pub fn pause(&mut self, index: usize, duration: Duration, counted: bool) {
        let host = &mut self.hosts[index];
        if host.paused_until <= self.now {
            host.paused_until = self.now + duration;
            host.lag += if counted { Duration::ZERO } else { duration };
        }
    }

    pub fn set_link(&mut self, index: usize, path: usize, up: bool) {
        self.link_up[index][path] = up;
        let at = self.clock(index);
        if self.runs(index) {
            let host = &mut self.hosts[index];
            if let (Some(daemon), Some(kernel)) = (&mut host.daemon, &mut host.kernel) {
                let sent = daemon.link(at, path, up, kernel);
                self.transmit(index, sent);
            }
        } else if self.hosts[index].daemon.is_some() {
            // The event waits in the socket: told at the next start of the process or never; a frozen one is restarted.
            self.kill(index);
        }
        self.observe();
    }

    pub fn command(&mut self, index: usize, command: Command) {
        self.input(index, Input::Command(command));
    }

    pub fn input(&mut self, index: usize, input: Input<'_>) {
        let at = self.clock(index);
        if !self.runs(index) {
            return;
        }
        let host = &mut self.hosts[index];
        if let (Some(daemon), Some(kernel)) = (&mut host.daemon, &mut host.kernel) {
            let sent = daemon.input(at, input, kernel);
            self.transmit(index, sent);
        }
        self.observe();
    }

    pub fn cut_all(&mut self, cut: bool) {
        self.cut = [[cut; 2]; PATHS];
    }

    // -- what is --

    /// A paused clock stands still while it is paused; that it did not count the pause shows afterwards.
    fn clock(&self, index: usize) -> Instant {
        self.now - self.hosts[index].lag
    }

    fn runs(&self, index: usize) -> bool {
        let host = &self.hosts[index];
        host.daemon.is_some() && host.frozen_until <= self.now && host.paused_until <= self.now
    }

    pub fn daemon(&self, index: usize) -> &Daemon {
        self.hosts[index].daemon.as_ref().expect("a process")
    }

    pub fn role(&self, index: usize) -> Option<Role> {
        self.hosts[index].daemon.as_ref().map(|daemon| daemon.role())
    }

    pub fn cause(&self, index: usize) -> Cause {
        self.daemon(index).transitions.last().expect("a transition").cause
    }

    pub fn is_open(&self, index: usize) -> bool {
        let host = &self.hosts[index];
        let runs = host.paused_until <= self.now;
        runs && host.kernel.as_ref().is_some_and(|kernel| kernel.is_open(self.clock(index)))
    }

    pub fn has_vips(&self, index: usize) -> bool {
        self.hosts[index].kernel.as_ref().is_some_and(|kernel| kernel.vips)
    }

    /// The only node that is MASTER with an open gate and the addresses; the other has neither.
    pub fn master(&self) -> usize {
        let serving: Vec<usize> = (0..2).filter(|index| self.is_open(*index)).collect();
        assert_eq!(serving.len(), 1, "seed {}: {serving:?}, {:?}", self.seed, [self.role(0), self.role(1)]);
        let master = serving[0];
        assert_eq!(self.role(master), Some(Role::Master));
        assert!(self.has_vips(master) && !self.has_vips(1 - master), "seed {}", self.seed);
        master
    }

    fn carries(&self, path: usize) -> bool {
        self.link_up[0][path] && self.link_up[1][path] && !self.cut[path][0] && !self.cut[path][1]
    }

    fn has_kernel(&self, index: usize) -> bool {
        self.hosts[index].kernel.is_some() && self.hosts[index].paused_until <= self.now
    }

    /// Heartbeats go both ways on some path without loss, and somebody sends them.
    pub fn connected(&self) -> bool {
        (0..2).all(|index| self.has_kernel(index))
            && (self.runs(0) || self.runs(1))
            && (0..PATHS).any(|path| self.carries(path) && self.loss_percent[path] == 0)
    }

    /// Could be master.
    pub fn is_fit(&self, index: usize) -> bool {
        let links = (0..SEGMENTS).all(|path| self.link_up[index][path]);
        links && self.runs(index) && matches!(self.role(index), Some(Role::Backup | Role::Master))
    }

    // -- time --

    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let next = self.next_event();
            self.now = next.min(end).max(self.now);
            if next > end {
                self.observe();
                return;
            }
            self.step();
        }
    }

    pub fn run_ms(&mut self, ms: u64) {
        self.run(Duration::from_millis(ms));
    }

    fn next_event(&self) -> Instant {
        let flight = self.queue.peek().map(|Reverse((at, _))| *at);
        let wakes = self.hosts.iter().filter(|host| host.daemon.is_some());
        let wakes = wakes.map(|host| host.tick_at.max(host.frozen_until).max(host.paused_until));
        wakes.chain(flight).fold(self.sync_at, Instant::min)
    }

    fn step(&mut self) {
        if let Some(Reverse((at, serial))) = self.queue.peek().copied()
            && at <= self.now
        {
            self.queue.pop();
            let (to, packet) = self.flight.remove(&serial).expect("in flight");
            self.deliver(to, packet);
            self.observe();
            return;
        }
        for index in 0..2 {
            if self.runs(index) && self.hosts[index].tick_at <= self.now {
                self.tick(index);
                self.observe();
            }
        }
        if self.sync_at <= self.now {
            self.sync_at = self.now + SYNC_TICK;
            self.tick_sync();
        }
    }

    fn tick(&mut self, index: usize) {
        let at = self.clock(index);
        let freeze = self.hosts[index].freeze_in_tick.take();
        let host = &mut self.hosts[index];
        let (Some(daemon), Some(kernel)) = (&mut host.daemon, &mut host.kernel) else { return };
        // A tick that froze in the middle ends first.
        let mut sent = daemon.finish(at, kernel);
        for (received, segment, packet) in std::mem::take(&mut host.missed) {
            sent.extend(daemon.hear(at, received, segment, packet, kernel));
        }
        daemon.begin(at, kernel);
        match freeze {
            Some(duration) => {
                host.frozen_until = self.now + duration;
                host.tick_at = host.frozen_until;
            }
            None => {
                sent.extend(daemon.finish(at, kernel));
                // The prober's grid, so that its ticks are in time; at least one tick a millisecond.
                let due = daemon.poll_at().map_or(Duration::MAX, |due| due.since(at));
                host.tick_at = self.now + due.min(TICK);
                if daemon.election.is_stopped() {
                    host.daemon = None;
                }
            }
        }
        self.transmit(index, sent);
    }

    fn deliver(&mut self, to: usize, packet: Packets) {
        if !self.has_kernel(to) {
            return;
        }
        let (at, runs) = (self.clock(to), self.runs(to));
        let host = &mut self.hosts[to];
        let Some(kernel) = &mut host.kernel else { return };
        match packet {
            Packets::Beat(path, beat) if self.link_up[to][path] => match beat.kind {
                Kind::Probe => {
                    if let Some(answer) = kernel.on_probe(at, &beat) {
                        self.send(to, path, Packets::Beat(path, answer));
                    }
                }
                Kind::Reply => kernel.on_reply(at, &beat),
            },
            Packets::Advert(segment, packet) if self.link_up[to][segment] => match &mut host.daemon {
                Some(daemon) if runs => {
                    let sent = daemon.hear(at, at, segment, packet, kernel);
                    self.transmit(to, sent);
                }
                Some(_) => host.missed.push((at, segment, packet)),
                None => {}
            },
            Packets::Beat(..) | Packets::Advert(..) => {}
        }
    }

    fn transmit(&mut self, from: usize, sent: Vec<Sent>) {
        for sent in sent {
            match sent {
                Sent::Advert(segment, packet) => self.send(from, segment, Packets::Advert(segment, packet)),
                // No host is simulated that would listen.
                Sent::Announcement(segment) => assert!(segment < SEGMENTS, "an announcement of a member"),
                Sent::Probe(beat) => {
                    let path = usize::from(beat.path);
                    self.send(from, path, Packets::Beat(path, beat));
                }
            }
        }
    }

    fn send(&mut self, from: usize, path: usize, packet: Packets) {
        let lost = self.rng.below(100) < self.loss_percent[path];
        if lost || self.cut[path][from] || !self.link_up[from][path] || !self.link_up[1 - from][path] {
            return;
        }
        let spread = u64::try_from(self.delay_max.as_nanos()).unwrap();
        let delay = Duration::from_nanos(10_000 + self.rng.below(spread));
        self.serial += 1;
        self.flight.insert(self.serial, (1 - from, packet));
        self.queue.push(Reverse((self.now + delay, self.serial)));
    }

    fn tick_sync(&mut self) {
        let works = self.runs(0) && self.runs(1) && self.carries(SYNC);
        for index in 0..2 {
            let now = self.now;
            let since = works.then(|| self.hosts[index].synced_since.unwrap_or(now));
            self.hosts[index].synced_since = since;
            let in_sync = since.is_some_and(|since| now.since(since) >= SYNC_NOTICES);
            let asked = self.hosts[index].daemon.as_ref().and_then(|daemon| daemon.election.stats().hand_over);
            let flushed = asked
                .map(|over| over.since)
                .filter(|at| in_sync && self.clock(index).since(*at) >= self.lag)
                .unwrap_or_default();
            let health = SyncHealth { peer_alive: in_sync, in_sync, lag: self.lag, flushed };
            self.input(index, Input::Sync(health));
        }
    }
}
