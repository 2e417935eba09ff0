//! One daemon: what the control loop does around the prober and the election.

use super::lease_kernel::{Kernel, PATHS};
use super::segments::{GROUP, Packet, SEGMENTS, address, members};
use ha_common::abi::SelfEntry;
use ha_common::election::{
    Action, Config, Damping, Election, ForeignMasters, HandOverEnd, Input, InterfaceId, LeaseEvent, LeaseOrder,
    LinkState, MemberId, PairTimes, ReceivedAdvert, Transition, VipState,
};
use ha_common::liveness::{self, PathId, Prober};
use ha_common::role::{NodeId, Role};
use ha_common::time::{Instant, earliest};
use ha_common::wire::heartbeat::{FLAG_RESTARTING, Gate, Heartbeat, Standing};
use std::time::Duration;

/// Of the loop.
pub const TICK: Duration = Duration::from_millis(1);
/// Without probes to send, the lease is renewed when this part of it has passed.
const RENEWALS_PER_LEASE: u32 = 4;

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub advskew: u8,
    pub preempt: bool,
    pub maintenance: bool,
    pub preempt_delay: Duration,
}

/// How two nodes see each other by heartbeats; what is the same on both.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub interval: Duration,
    pub multiplier: u32,
    pub times: PairTimes,
}

impl Default for Pair {
    fn default() -> Self {
        Self { interval: TICK, multiplier: 5, times: PairTimes::default() }
    }
}

/// What goes out on the wires.
pub enum Sent {
    Advert(usize, Packet),
    /// A gratuitous ARP for the virtual address of this segment.
    Announcement(usize),
    Probe(Heartbeat),
}

pub struct Daemon {
    node: u8,
    pub election: Election,
    /// `None` in a cluster of other than two nodes: there are no heartbeats.
    prober: Option<Prober>,
    session: u64,
    published_at: Instant,
    /// End of the lease as this process published it last.
    deadline: Option<Instant>,
    /// What the loop has decided and not done yet: it froze in between. Since when the clock was read.
    undone: Option<(Instant, Vec<Action>, Vec<liveness::Action>)>,
    pub ends: Vec<HandOverEnd>,
    pub transitions: Vec<Transition>,
    pub announced: u64,
}

impl Daemon {
    /// A process that finds what the last one left in the kernel. `pair`: `None` where there are no heartbeats.
    pub fn new(
        now: Instant,
        node: usize,
        settings: Settings,
        pair: impl Into<Option<Pair>>,
        kernel: &Kernel,
        seed: u64,
    ) -> Self {
        let pair = pair.into();
        let peer = pair.map(|_| NodeId(1 - (node as u8).min(1)));
        // Only a mastership that was left on purpose is gone on with.
        let left = kernel.is_open(now) && Standing::unpack(kernel.entry.state).has(FLAG_RESTARTING);
        let config = Config {
            node: NodeId(node as u8),
            peer_node: peer,
            advbase: 1,
            advskew: settings.advskew,
            dead_ratio: 3,
            preempt: settings.preempt,
            announce_burst: vec![Duration::ZERO, Duration::from_millis(100)],
            announce_refresh: None,
            members: members(),
            resume: left.then_some(kernel.entry.term),
            maintenance: settings.maintenance,
            term_seen: kernel.entry.term.max(kernel.closed_term),
            preempt_delay: settings.preempt_delay,
            times: pair.map_or(PairTimes::default(), |pair| pair.times),
            damping: Damping::default(),
            foreign_masters: ForeignMasters::default(),
        };
        let prober = |(pair, peer): (Pair, NodeId)| liveness::Config {
            node: config.node,
            peer,
            interval: pair.interval,
            multiplier: pair.multiplier,
            dead_after_max: Duration::from_millis(200),
            paths: (0..PATHS as u8).map(InterfaceId).collect(),
        };
        Self {
            node: node as u8,
            prober: pair.zip(peer).map(prober).map(|config| Prober::new(config, seed)),
            election: Election::new(config, seed),
            session: seed | 1,
            published_at: now,
            deadline: left.then_some(Instant(kernel.entry.lease_until_ns)),
            undone: None,
            ends: Vec::new(),
            transitions: Vec::new(),
            announced: 0,
        }
    }

    pub fn role(&self) -> Role {
        self.election.stats().role
    }

    /// When the tick is due: the prober's, or where there is none the renewal of the lease.
    pub fn poll_at(&self) -> Option<Instant> {
        match &self.prober {
            Some(prober) => prober.poll_at(),
            None => {
                let lease = self.election.stats().lease;
                let renewal = lease.map(|lease| self.published_at + lease.length / RENEWALS_PER_LEASE);
                earliest(self.election.poll_at(), renewal)
            }
        }
    }

    /// Ends the process, and leaves its mastership in the kernel for a successor that is back before `grace` is over.
    pub fn bequeath(self, now: Instant, grace: Duration, kernel: &mut Kernel) {
        let mut standing = self.election.stats().standing;
        standing.flags |= FLAG_RESTARTING;
        let until = self.deadline.map_or(Instant(0), |_| now + grace);
        kernel.entry = SelfEntry { lease_until_ns: until.0, beat_ns: now.0, state: standing.pack(), ..kernel.entry };
    }

    pub fn link(&mut self, now: Instant, path: usize, up: bool, kernel: &mut Kernel) -> Vec<Sent> {
        let mut probes = Vec::new();
        if let Some(prober) = &mut self.prober {
            prober.handle(now, liveness::Input::Link { path: PathId(path as u8), up }, &mut probes);
        }
        if path >= SEGMENTS {
            return Vec::new();
        }
        let state = LinkState { up, source_v4: Some(address(usize::from(self.node), path)), source_v6: None };
        self.input(now, Input::Link { interface: InterfaceId(path as u8), state }, kernel)
    }

    /// `received`: when it came, which may be long before the loop runs (the programs stamp what they put into the ring).
    pub fn hear(
        &mut self,
        now: Instant,
        received: Instant,
        segment: usize,
        packet: Packet,
        kernel: &mut Kernel,
    ) -> Vec<Sent> {
        let advert = ReceivedAdvert {
            member: MemberId(segment as u8),
            source: packet.source.into(),
            destination: GROUP.into(),
            advert: packet.advert,
            received,
        };
        self.input(now, Input::Advert(&advert), kernel)
    }

    /// One input between ticks, done at once; what a freeze interrupted ends first.
    pub fn input(&mut self, now: Instant, input: Input<'_>, kernel: &mut Kernel) -> Vec<Sent> {
        let mut sent = self.finish(now, kernel);
        let mut actions = Vec::new();
        self.check_lease(now, kernel, &mut actions);
        self.election.handle(now, input, &mut actions);
        sent.extend(self.carry_out(now, now, actions, Vec::new(), kernel));
        sent
    }

    /// As every wake-up of the loop begins.
    fn check_lease(&mut self, now: Instant, kernel: &Kernel, actions: &mut Vec<Action>) {
        let Some(lease) = self.election.stats().lease else { return };
        let closed_term = kernel.closed_term;
        let event = if self.deadline.is_some_and(|deadline| now >= deadline) {
            LeaseEvent::Lapsed
        } else if closed_term >= lease.term {
            LeaseEvent::Fenced { closed_term }
        } else {
            return;
        };
        self.election.handle(now, Input::Lease(event), actions);
        let renewed = self.election.stats().lease.is_some_and(|renewed| renewed.term == lease.term);
        assert!(!renewed, "a lease that is over is not renewed: {event:?}");
    }

    /// The tick: reads the clock, then everything else, then decides. [`Self::finish`] does what was decided.
    pub fn begin(&mut self, now: Instant, kernel: &Kernel) {
        let (mut actions, mut probes) = (Vec::new(), Vec::new());
        if let Some(prober) = &mut self.prober {
            for reply in kernel.replies.iter().flatten() {
                prober.handle(now, liveness::Input::Reply(reply), &mut probes);
            }
            if prober.poll_at().is_some_and(|at| at <= now) {
                prober.handle(now, liveness::Input::Timer, &mut probes);
            }
        }
        self.check_lease(now, kernel, &mut actions);
        if let Some(prober) = &self.prober {
            self.election.handle(now, Input::Peer(prober.sight()), &mut actions);
        }
        if self.election.poll_at().is_some_and(|at| at <= now) {
            self.election.handle(now, Input::Timer, &mut actions);
        }
        self.undone = Some((now, actions, probes));
    }

    pub fn finish(&mut self, now: Instant, kernel: &mut Kernel) -> Vec<Sent> {
        match self.undone.take() {
            Some((read, actions, probes)) => self.carry_out(read, now, actions, probes, kernel),
            None => Vec::new(),
        }
    }

    /// `read`: when the clock was read; `now`: when things are done.
    fn carry_out(
        &mut self,
        read: Instant,
        now: Instant,
        actions: Vec<Action>,
        probes: Vec<liveness::Action>,
        kernel: &mut Kernel,
    ) -> Vec<Sent> {
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Transition(transition) => self.transitions.push(transition),
                Action::Lease(LeaseOrder::Open(_)) => self.publish(read, kernel),
                Action::Lease(LeaseOrder::Closed) => {
                    kernel.entry.lease_until_ns = 0;
                    self.deadline = None;
                }
                Action::Vips(state) => kernel.vips = state == VipState::Present,
                Action::SendAdvert { member, source: std::net::IpAddr::V4(source), advert, .. } => {
                    let goodbye = (advert.advbase, advert.advskew) == (255, 255);
                    assert!(!goodbye || !kernel.is_open(now), "a goodbye with an open gate");
                    if goodbye || kernel.is_open(now) {
                        sent.push(Sent::Advert(usize::from(member.0), Packet { source, advert }));
                    }
                }
                Action::SendAdvert { .. } => panic!("no IPv6 here: {action:?}"),
                Action::Announce { member } => {
                    if kernel.is_open(now) {
                        assert!(kernel.vips, "only a holder announces");
                        self.announced += 1;
                        sent.push(Sent::Announcement(usize::from(member.0)));
                    }
                }
                Action::HandOverEnded(end) => self.ends.push(end),
            }
        }
        self.publish(read, kernel);
        for probe in probes {
            if let liveness::Action::Probe { path, sequence, target_session, .. } = probe {
                sent.push(Sent::Probe(kernel.probe(now, self.node, path.0, sequence, target_session)));
            }
        }
        sent
    }

    fn publish(&mut self, read: Instant, kernel: &mut Kernel) {
        let stats = self.election.stats();
        let lease_until = stats.lease.map_or(Instant(0), |lease| read + lease.length);
        self.deadline = stats.lease.map(|_| lease_until);
        self.published_at = read;
        assert_eq!(stats.standing.gate, Gate::Closed, "the gate is the kernel's");
        kernel.entry = SelfEntry {
            lease_until_ns: lease_until.0,
            term: stats.term,
            session: self.session,
            beat_ns: read.0,
            state: stats.standing.pack(),
        };
    }
}
