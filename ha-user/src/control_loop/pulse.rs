//! The pulse of this node: probes go out, the peer's answers come in, and the kernel is told that the controller lives.
//!
//! Each wake-up begins with the lease. When its own deadline has passed, or the kernel has closed its term, this node is
//! no master any more, whatever it was about to do; only then is anything else looked at. It ends with the entry being
//! published, whose lease counts from the clock read *before* anything was decided: a process that was stopped in
//! between writes a lease that is over.

use super::ControlLoop;
use super::failure::Failure;
use crate::clock;
use crate::config::Resolved;
use crate::datapath::{DatapathKey, Plan};
use crate::heartbeat_socket::HeartbeatSockets;
use ha_common::abi::SelfEntry;
use ha_common::election::{Input, InterfaceId, Lease, LeaseEvent, LeaseOrder, Stats};
use ha_common::liveness::{self, PathId, Prober};
use ha_common::sight::Sight;
use ha_common::time::{Instant, earliest};
use ha_common::wire::heartbeat::{self, FLAG_RESTARTING, Heartbeat, Kind, Standing};
use std::time::Duration;

/// Without probes to send, the lease is renewed when this part of it has passed.
const RENEWALS_PER_LEASE: u32 = 4;
/// A wake-up this soon after the last publication need not publish the same again.
const PUBLISH_GAP: Duration = Duration::from_micros(500);

/// What the pulse keeps between two wake-ups.
pub(super) struct Pulse {
    /// `None` in a cluster of other than two nodes, when heartbeats are off, and where no program could take an answer.
    heart: Option<Heart>,
    /// Random, of this process.
    session: u64,
    /// As last published; all zero before the first time.
    entry: SelfEntry,
    published_at: Instant,
    /// The lease in force.
    held: Option<Held>,
    /// As last read from the kernel.
    closed_term: u64,
    actions: Vec<liveness::Action>,
}

struct Heart {
    prober: Prober,
    /// By path: when the newest answer was received that the prober knows of.
    taken: Vec<Instant>,
    sockets: HeartbeatSockets,
    paths: Vec<InterfaceId>,
    node: u8,
    peer: u8,
    keys: Vec<DatapathKey>,
    /// The epoch that the peer accepts, as the sync loop has said.
    key_epoch: Option<u8>,
}

/// A lease as this process knows it: the kernel may have closed its term since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    term: u64,
    until: Instant,
}

impl Pulse {
    /// Nothing is sent or published yet.
    pub(super) fn new(plan: &Plan, config: &Resolved, session: u64, seed: u64) -> Self {
        Self {
            heart: Heart::new(plan, config, seed),
            session,
            entry: SelfEntry::default(),
            published_at: Instant(0),
            held: None,
            closed_term: 0,
            actions: Vec::new(),
        }
    }

    /// When the loop must wake up for the pulse.
    pub(super) fn poll_at(&self, stats: &Stats) -> Option<Instant> {
        let probe = self.heart.as_ref().and_then(|heart| heart.prober.poll_at());
        let renewal = stats.lease.map(|lease| self.published_at + lease.length / RENEWALS_PER_LEASE);
        earliest(probe, renewal)
    }

    /// What is known of the peer; `None` without heartbeats.
    pub(super) fn sight(&self) -> Option<Sight> {
        self.heart.as_ref().map(|heart| heart.prober.sight())
    }

    pub(super) fn prober(&self) -> Option<&Prober> {
        self.heart.as_ref().map(|heart| &heart.prober)
    }

    pub(super) fn paths(&self) -> &[InterfaceId] {
        self.heart.as_ref().map_or(&[], |heart| &heart.paths)
    }

    /// What was published last.
    pub(super) fn entry(&self) -> &SelfEntry {
        &self.entry
    }

    /// Whether a mastership may still be spoken for at `now`: false in the time between the end of the lease and its
    /// discovery.
    pub(super) fn may_speak(&self, now: Instant) -> bool {
        self.held.is_none_or(|held| now < held.until)
    }

    /// The peer accepts the secret of this epoch.
    pub(super) fn use_key(&mut self, epoch: u8) {
        if let Some(heart) = &mut self.heart {
            heart.key_epoch = Some(epoch);
        }
    }

    fn order(&mut self, now: Instant, lease: Option<Lease>) {
        self.held = lease.map(|lease| Held { term: lease.term, until: now + lease.length });
    }
}

impl Heart {
    fn new(plan: &Plan, config: &Resolved, seed: u64) -> Option<Self> {
        let heartbeat = plan.heartbeat.as_ref()?;
        let mut paths: Vec<(PathId, InterfaceId)> =
            plan.interfaces.iter().filter_map(|interface| Some((interface.path?, interface.id))).collect();
        paths.sort_unstable();
        let paths: Vec<InterfaceId> = paths.into_iter().map(|(_, id)| id).collect();
        let prober = liveness::Config {
            node: heartbeat.node,
            peer: heartbeat.peer,
            interval: config.heartbeat.interval,
            multiplier: u32::from(config.heartbeat.multiplier),
            dead_after_max: config.heartbeat.dead_after_max,
            paths: paths.clone(),
        };
        Some(Self {
            prober: Prober::new(prober, seed),
            taken: vec![Instant(0); paths.len()],
            sockets: HeartbeatSockets::new(plan.interfaces.len()),
            paths,
            node: heartbeat.node.0,
            peer: heartbeat.peer.0,
            keys: plan.keys.clone(),
            key_epoch: None,
        })
    }

    /// What probes are keyed with: the secret that the peer accepts, and the oldest while that is not known.
    fn key(&self) -> Option<&DatapathKey> {
        let accepted = self.keys.iter().find(|key| Some(key.epoch) == self.key_epoch);
        accepted.or(self.keys.first())
    }

    fn path_of(&self, id: InterfaceId) -> Option<PathId> {
        let at = self.paths.iter().position(|path| *path == id)?;
        u8::try_from(at).ok().map(PathId)
    }
}

impl ControlLoop {
    /// Looks whether the mastership has ended without this process; before anything else, after every sleep.
    pub(super) fn check_lease(&mut self, now: Instant) {
        let Some(held) = self.pulse.held else { return };
        let closed_term = self.datapath.fence().closed_term;
        self.pulse.closed_term = closed_term;
        // The deadline first: past it the programs close the term themselves, which says nothing of the peer.
        let event = if now >= held.until {
            LeaseEvent::Lapsed
        } else if closed_term >= held.term {
            LeaseEvent::Fenced { closed_term }
        } else {
            return;
        };
        let late_ms = now.since(held.until).as_secs_f64() * 1e3;
        tracing::warn!(?event, late_ms, "the lease of this mastership is over");
        self.feed(Input::Lease(event));
    }

    /// Carries out the election's order at once: nothing that draws traffic or leaves it may come before.
    pub(super) fn obey_lease(&mut self, decided: Instant, order: LeaseOrder) {
        let lease = match order {
            LeaseOrder::Open(lease) => Some(lease),
            LeaseOrder::Closed => None,
        };
        self.pulse.order(decided, lease);
        self.publish(decided);
    }

    /// Takes what the peer answered since the last time, and sends what is due.
    pub(super) fn beat(&mut self) {
        let Some(heart) = &mut self.pulse.heart else { return };
        let now = clock::now();
        let mut heard = false;
        let mut actions = std::mem::take(&mut self.pulse.actions);
        for path in (0..=u8::MAX).map(PathId).take(heart.paths.len()) {
            if let Some(reply) = self.datapath.reply(path) {
                if let Some(taken) = heart.taken.get_mut(usize::from(path.0)) {
                    heard |= std::mem::replace(taken, reply.received) != reply.received;
                }
                heart.prober.handle(now, liveness::Input::Reply(&reply), &mut actions);
            }
        }
        if heart.prober.poll_at().is_some_and(|at| at <= now) {
            heart.prober.handle(now, liveness::Input::Timer, &mut actions);
        }
        for action in actions.drain(..) {
            match action {
                liveness::Action::Probe { path, sequence, to, target_session } => {
                    self.probe(path, sequence, to, target_session);
                }
                liveness::Action::Sight(_) => heard = true,
            }
        }
        self.pulse.actions = actions;
        // Also when nothing new was said: that it is fresh is what decisions are made from.
        if heard && let Some(sight) = self.pulse.sight() {
            self.feed(Input::Peer(sight));
        }
    }

    /// The interface of a path can (not) send.
    pub(super) fn path_changed(&mut self, id: InterfaceId, ifindex: Option<u32>, up: bool) {
        let Some(heart) = &mut self.pulse.heart else { return };
        let Some(path) = heart.path_of(id) else { return };
        if let Err(error) = heart.sockets.set_interface(id, ifindex) {
            self.failures.count(Failure::PacketSocket);
            tracing::warn!(%error, "no heartbeats go out of an interface: cannot open a packet socket");
        }
        heart.prober.handle(clock::now(), liveness::Input::Link { path, up }, &mut self.pulse.actions);
    }

    /// Tells the kernel, and by it the peer, what this node is. The lease counts from `now`, which was read before
    /// anything was decided.
    pub(super) fn publish(&mut self, now: Instant) {
        let stats = self.election.stats();
        // Renewed, and as long as the election wants it now; a lease that is over is not renewed by anybody.
        if let (Some(held), Some(lease)) = (&mut self.pulse.held, stats.lease)
            && held.term == lease.term
        {
            held.until = now + lease.length;
        }
        let entry = SelfEntry {
            lease_until_ns: self.pulse.held.map_or(0, |held| held.until.0),
            term: stats.term,
            session: self.pulse.session,
            beat_ns: now.0,
            state: stats.standing.pack(),
        };
        let same =
            SelfEntry { lease_until_ns: entry.lease_until_ns, beat_ns: entry.beat_ns, ..self.pulse.entry } == entry;
        let extends = entry.lease_until_ns >= self.pulse.entry.lease_until_ns && self.pulse.entry.lease_until_ns != 0;
        if same && (extends || entry.lease_until_ns == 0) && now.since(self.pulse.published_at) < PUBLISH_GAP {
            return;
        }
        self.pulse.entry = entry;
        self.pulse.published_at = now;
        if let Err(error) = self.datapath.publish(&entry) {
            tracing::error!(%error, "the kernel does not take this node's state: its gate will close");
        }
    }

    /// Leaves the mastership in the kernel for a successor of this process that is back before `grace` is over.
    pub(super) fn bequeath(&mut self, grace: Duration) {
        let now = clock::now();
        if let Some(held) = &mut self.pulse.held {
            held.until = now + grace;
        }
        let stats = self.election.stats();
        let mut standing = stats.standing;
        standing.flags |= FLAG_RESTARTING;
        let entry = SelfEntry {
            lease_until_ns: self.pulse.held.map_or(0, |held| held.until.0),
            beat_ns: now.0,
            state: standing.pack(),
            ..self.pulse.entry
        };
        if let Err(error) = self.datapath.publish(&entry) {
            tracing::error!(%error, "the mastership cannot be kept over the restart");
        }
    }

    /// Other secrets are valid from now on.
    pub(super) fn set_keys(&mut self, keys: Vec<DatapathKey>) -> Result<(), String> {
        self.datapath.set_keys(&keys).map_err(|error| error.to_string())?;
        if let Some(heart) = &mut self.pulse.heart {
            heart.keys = keys;
        }
        Ok(())
    }

    fn probe(&mut self, path: PathId, sequence: u64, to: Option<[u8; 6]>, target_session: u64) {
        let Some(heart) = &mut self.pulse.heart else { return };
        let Some(id) = heart.paths.get(usize::from(path.0)).copied() else { return };
        let Some(key) = heart.key() else { return };
        let link = self.links.interface(id);
        let now = clock::now();
        let entry = &self.pulse.entry;
        let gate = heartbeat::gate(entry, self.pulse.closed_term, now.0);
        // The ages are what the answer is asked for; a probe comes from a controller that is alive this moment.
        let heartbeat = Heartbeat {
            kind: Kind::Probe,
            sender: heart.node,
            target: heart.peer,
            path: path.0,
            key_epoch: key.epoch,
            session: self.pulse.session,
            sequence,
            sent_ns: now.0,
            other_session: target_session,
            term: entry.term,
            standing: Standing { gate, ..Standing::unpack(entry.state) },
            beat_age_us: 0,
            lease_left_us: 0,
        };
        let frame = heartbeat::emit(to.unwrap_or(heartbeat::GROUP_MAC), link.mac, &heartbeat.seal(key.heartbeat));
        // What cannot be sent is silence on this path, which is judged as such.
        let _ = heart.sockets.send(id, &frame);
    }
}
