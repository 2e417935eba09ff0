//! Everything of a run: hosts, paths, clients, checks, and the time that they share. One thing happens after the other.

use crate::checks::{Checks, Violation};
use crate::clients::Clients;
use crate::clock::Clock;
use crate::conntrack::Conntrack;
use crate::faults::Fault;
use crate::host::{Host, Missed};
use crate::hostile::Stranger;
use crate::model::daemon::Settings;
use crate::model::lease_kernel::Kernel;
pub use crate::model::lease_kernel::PATHS;
use crate::network::{Network, Path};
use crate::options::{Kind, NodeOptions, Options};
use crate::random::Random;
use crate::sync_loop::{Effects, Request, key};
use crate::timeline::{Note, Timeline};
use crate::traps::Traps;
use ha_common::election::Input;
use ha_common::role::{Role, SyncHealth};
use ha_common::sync;
use ha_common::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// The sync link; LAN and WAN are 0 and 1, as the segments of adverts.
pub const SYNC: usize = 2;
pub const BEGIN: Instant = Instant(1_000_000_000_000);
const EXPIRY: Duration = Duration::from_millis(500);
/// A loop that wakes up so often at one moment never settles.
const WAKES_MAX: u32 = 2000;

pub struct World {
    pub options: Options,
    pub now: Instant,
    pub hosts: Vec<Host>,
    pub paths: [Path; PATHS],
    pub network: Network,
    pub clients: Clients,
    pub stranger: Stranger,
    pub random: Random,
    /// Of the paths alone, so that what a node sends does not decide what happens next.
    pub weather: Random,
    pub traps: Traps,
    pub timeline: Timeline,
    pub checks: Checks,
    pub violation: Option<Violation>,
    pub faults: [u64; Fault::ALL.len()],
    /// The newest secret that any node was told of.
    pub secret: u8,
    pub traffic_at: Option<Instant>,
    hostile_at: Option<Instant>,
    expiry_at: Instant,
    audit_at: Instant,
    wakes: u32,
    pub counts: Counts,
}

/// What was exercised.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub steps: u64,
    pub hostile: u64,
    pub hostile_refused_early: u64,
    pub transfers: u64,
    pub repairs: u64,
    pub events_lost: u64,
    pub transitions: u64,
    pub hand_overs: u64,
    pub restarts: u64,
    pub key_changes: u64,
    pub table_full: u64,
}

impl World {
    pub fn new(seed: u64, lines: usize) -> Self {
        let options = Options::draw(seed);
        let mut random = Random::new(seed, 2);
        let hosts = options.nodes.iter().map(|node| host(&options, *node, &mut random)).collect();
        Self {
            now: BEGIN,
            hosts,
            paths: [Path::new(); PATHS],
            network: Network::default(),
            clients: Clients::new(BEGIN, options.sessions, &mut random),
            stranger: Stranger::new(options.nodes.len()),
            weather: Random::new(seed, 3),
            traps: Traps::new(seed, options.traps),
            timeline: Timeline::new(BEGIN, lines),
            checks: Checks::new(BEGIN, options.nodes.len(), options.sessions),
            violation: None,
            faults: [0; Fault::ALL.len()],
            secret: 1,
            traffic_at: Some(BEGIN),
            hostile_at: options.hostile.then_some(BEGIN),
            expiry_at: BEGIN,
            audit_at: BEGIN,
            wakes: 0,
            counts: Counts::default(),
            random,
            options,
        }
    }

    pub fn note(&mut self, node: impl Into<Option<usize>>, note: Note) {
        self.timeline.note(self.now, node, note);
    }

    pub fn fail(&mut self, check: &'static str, detail: String) {
        self.violation.get_or_insert(Violation { check, detail });
    }

    // -- processes --

    pub fn boot_or_start(&mut self, node: usize) {
        if !self.hosts[node].has_power() {
            let uptime = self.random.between(Duration::from_secs(5), Duration::from_secs(20));
            let host = &mut self.hosts[node];
            host.kernel = Some(Kernel::default());
            host.clock = Clock::new(self.now, Instant(0) + uptime, self.options.nodes[node].drift);
        }
        let host = &self.hosts[node];
        if host.control.is_none() || host.sync.is_none() {
            // A loop that is left of a process that ends does not outlive it.
            self.kill(node);
            self.start_sync(node);
            self.start_control(node);
        }
    }

    /// The process ends at once; its kernel goes on.
    pub fn kill(&mut self, node: usize) {
        self.checks.process_ended(self.now, node);
        self.counts.restarts += 1;
        self.hosts[node].control = None;
        self.end_sync(node);
    }

    pub fn end_sync(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        host.sync = None;
        host.conntrack.socket = None;
        host.health = SyncHealth::default();
        self.checks.process_ended(self.now, node);
    }

    /// The process ends for a restart that keeps its role.
    pub fn leave(&mut self, node: usize) {
        let (now, grace) = (self.now, Duration::from_secs(5));
        let host = &mut self.hosts[node];
        let local = host.local(now);
        if host.control_runs(now)
            && let (Some(control), Some(kernel)) = (host.control.take(), &mut host.kernel)
        {
            control.bequeath(local, grace, kernel);
        }
        self.kill(node);
    }

    pub fn power_loss(&mut self, node: usize) {
        self.kill(node);
        let host = &mut self.hosts[node];
        host.kernel = None;
        host.conntrack.entries.clear();
        host.sessions.iter_mut().for_each(|entry| *entry = Default::default());
        self.checks.power_lost(self.now, node);
    }

    pub fn set_link(&mut self, node: usize, path: usize, up: bool) {
        self.hosts[node].link_up[path] = up;
        self.tell_link(node, path);
        if path == SYNC || self.options.links > 1 && path == 0 {
            let link = if path == SYNC { 0 } else { 1 };
            let now = self.now;
            let host = &mut self.hosts[node];
            let local = host.local(now);
            // A loop that does not run reads the state later: the timers of the links do without.
            if host.sync_runs(now)
                && let Some(sync) = &mut host.sync
            {
                sync.link(local, ha_common::sync::LinkId(link), up);
            }
            self.wake_sync(node);
        }
    }

    // -- requests --

    pub fn is_told_master(&self, node: usize) -> bool {
        self.hosts[node].sync.as_ref().is_some_and(|sync| sync.role == Role::Master)
    }

    pub fn ask_sync(&mut self, node: usize, request: Request) {
        if let Some(sync) = &mut self.hosts[node].sync {
            sync.mailbox.push_back(request);
            self.wake_sync(node);
        }
    }

    pub fn wake_sync(&mut self, node: usize) {
        let now = self.now;
        self.hosts[node].schedule_sync(now);
    }

    pub fn control(&mut self, node: usize, input: Input<'_>) {
        let now = self.now;
        let host = &mut self.hosts[node];
        if !host.control_runs(now) {
            return host.missed.keep(&input);
        }
        let local = host.local(now);
        if let (Some(control), Some(kernel)) = (&mut host.control, &mut host.kernel) {
            let sent = control.input(local, input, kernel);
            self.after_control(node, sent);
        }
    }

    // -- time --

    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.violation.is_none() {
            let next = self.next_at();
            if next > end {
                self.now = end;
                return;
            }
            self.wakes = if next > self.now { 0 } else { self.wakes + 1 };
            if self.wakes > WAKES_MAX {
                self.fail("bounds", format!("more than {WAKES_MAX} steps at one moment"));
            }
            self.now = next.max(self.now);
            self.step();
        }
    }

    fn next_at(&self) -> Instant {
        let hosts = self.hosts.iter().flat_map(|host| [host.tick_due(), host.sync_due()]).flatten();
        let own = [self.network.next_at(), self.traffic_at, self.hostile_at];
        hosts.chain(own.into_iter().flatten()).fold(self.expiry_at.min(self.audit_at), Instant::min)
    }

    fn step(&mut self) {
        self.counts.steps += 1;
        let now = self.now;
        if let Some(flight) = self.network.arrived(now) {
            self.deliver(flight);
        } else if let Some(node) = self.hosts.iter().position(|host| host.tick_due().is_some_and(|at| at <= now)) {
            self.tick(node);
        } else if let Some(node) = self.hosts.iter().position(|host| host.sync_due().is_some_and(|at| at <= now)) {
            self.run_sync(node);
        } else if self.traffic_at.is_some_and(|at| at <= now) {
            self.traffic_at = Some(now + self.random.between(Duration::ZERO, self.options.traffic_pause * 2));
            self.traffic();
        } else if self.hostile_at.is_some_and(|at| at <= now) {
            let pause = if self.options.kind == Kind::Quiet { 1000 } else { 10 };
            self.hostile_at = Some(now + self.random.between(Duration::ZERO, Duration::from_millis(pause)));
            self.attack();
        } else if self.expiry_at <= now {
            self.expiry_at = now + EXPIRY;
            self.expire();
        } else {
            self.audit_at = now + self.checks.audit_pause();
            self.audit();
        }
        self.observe();
    }

    fn run_sync(&mut self, node: usize) {
        let now = self.now;
        let mut effects = Effects::default();
        let host = &mut self.hosts[node];
        let local = host.local(now);
        let Some(sync) = &mut host.sync else { return };
        sync.wake(local, &mut host.conntrack, &mut effects);
        let finished = sync.is_finished(local);
        host.schedule_sync(now);
        self.after_sync(node, effects);
        if finished {
            self.end_sync(node);
        }
    }

    /// What a wake-up of the sync loop led to.
    fn after_sync(&mut self, node: usize, effects: Effects) {
        self.timeline.mix(self.now, effects.datagrams.len() as u64);
        if let Some(detail) = effects.violation {
            let check = if detail.starts_with("hostile") { "hostile" } else { "bounds" };
            self.fail(check, detail);
        }
        self.counts.hostile += effects.hostile_frames;
        self.written(node, &effects.applied);
        if let Some(begun) = effects.table_read {
            self.table_read(node, begun);
        }
        for event in effects.events {
            self.count(event);
            if matches!(event, sync::Event::PeerUp { .. }) {
                self.hosts[node].met_at = self.now;
            }
            self.note(node, Note::Sync(event));
        }
        for (link, bytes) in effects.taken {
            self.stranger.record_taken(node, link, bytes);
        }
        self.tell_sessions(node);
        for outgoing in effects.datagrams {
            self.transmit_frame(node, outgoing);
        }
        if let Some(epoch) = effects.key_in_use {
            self.hosts[node].key_in_use = Some(epoch);
        }
        if let Some(health) = effects.health {
            self.hosts[node].health = health;
            if self.hosts[node].control_runs(self.now) {
                self.control(node, Input::Sync(health));
            } else {
                self.hosts[node].missed.health = Some(health);
            }
        }
    }

    fn count(&mut self, event: sync::Event) {
        let counts = &mut self.counts;
        match event {
            sync::Event::BulkReceived { .. } => counts.transfers += 1,
            sync::Event::RepairReceived { .. } => counts.repairs += 1,
            sync::Event::EventsLost => counts.events_lost += 1,
            sync::Event::KeyChanged { .. } => counts.key_changes += 1,
            sync::Event::TableFull => counts.table_full += 1,
            sync::Event::PeerUp { .. }
            | sync::Event::PeerDown { .. }
            | sync::Event::LinkChanged { .. }
            | sync::Event::ModeDiffers { .. }
            | sync::Event::KeyConflict { .. }
            | sync::Event::BulkSent { .. }
            | sync::Event::TablesDiffer { .. }
            | sync::Event::RepairSent { .. } => {}
        }
    }
}

fn host(options: &Options, node: NodeOptions, random: &mut Random) -> Host {
    let settings =
        Settings { advskew: node.advskew, preempt: options.preempt, maintenance: false, preempt_delay: Duration::ZERO };
    Host {
        clock: Clock::new(BEGIN, Instant(0) + node.uptime, node.drift),
        kernel: Some(Kernel::default()),
        conntrack: Conntrack::new(options.entries_max, Random::new(random.next(), 4)),
        control: None,
        sync: None,
        settings,
        keys: vec![key(1)],
        key_in_use: None,
        sessions: vec![Default::default(); options.nodes.len()],
        link_up: [true; PATHS],
        tick_at: BEGIN,
        sync_at: BEGIN,
        control_frozen_until: BEGIN,
        sync_frozen_until: BEGIN,
        freeze_in_tick: None,
        freeze_at_offer: None,
        paused_until: BEGIN,
        stalls: VecDeque::new(),
        missed: Missed::default(),
        told: (0, 0),
        draining: None,
        offered: None,
        health: SyncHealth::default(),
        met_at: BEGIN,
    }
}
