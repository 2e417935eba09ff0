//! The sync loop around the engine: events, dump lines, datagrams and requests in; writes first, then datagrams out. The
//! order and the bounds are those of the loop in production.

use crate::conntrack::{Applied, Conntrack, Event, Number};
use crate::hostile::Fingerprint;
use crate::options::Options;
use crate::random::Random;
use crate::writing::{Done, Report, Write, Writing};
use ha_common::role::{NodeId, Role, SyncHealth};
use ha_common::secret::ClusterKey;
use ha_common::sync::filter::{Admission, Filter};
use ha_common::sync::flow::{Flow, FlowKey};
use ha_common::sync::{self, Action, Capabilities, Config, Engine, Input, LinkId, LinkSet, PeerId, VERSION};
use ha_common::time::{Instant, earliest};
use ha_common::wire::frame::{Header, Kind};
use std::collections::VecDeque;
use std::time::Duration;

/// Rounds of actions per call; more wait for the next wake-up.
const ROUNDS_MAX: usize = 4;
/// Events and datagrams are gathered for so long.
const WAKE_GAP: Duration = Duration::from_millis(1);
/// Lines of a dump that come at once.
const DUMP_LINES: usize = 64;
const REQUESTS_PER_WAKE: usize = 16;
const EVENTS_PER_PORTION: usize = 256;
const PORTIONS_PER_WAKE: usize = 64;
const DATAGRAMS_PER_WAKE: usize = 64;
/// How long a stop waits for what is pending.
const DRAIN_MAX: Duration = Duration::from_millis(200);

pub const CLUSTER: &str = "edge";

pub enum Request {
    Role(Role, u64),
    Flush,
    Resync,
    Keys(Vec<ClusterKey>),
    Stop,
}

pub struct Datagram {
    pub link: LinkId,
    pub bytes: Vec<u8>,
    /// Sent by a stranger: it must change nothing.
    pub is_hostile: bool,
}

pub struct Outgoing {
    pub peer: PeerId,
    pub links: LinkSet,
    pub bytes: Vec<u8>,
}

/// What one wake-up leads to outside of the loop.
#[derive(Default)]
pub struct Effects {
    pub datagrams: Vec<Outgoing>,
    pub health: Option<SyncHealth>,
    /// The kernel's table has been read, from this time on.
    pub table_read: Option<Instant>,
    pub key_in_use: Option<u8>,
    pub events: Vec<sync::Event>,
    pub applied: Vec<Applied>,
    /// A check that failed.
    pub violation: Option<String>,
    pub hostile_frames: u64,
    /// Genuine frames that the engine took: what a stranger can send again.
    pub taken: Vec<(LinkId, Vec<u8>)>,
}

pub struct SyncLoop {
    pub engine: Engine,
    /// Of this process.
    pub session: u64,
    admission: Admission,
    actions: Vec<Action>,
    pub mailbox: VecDeque<Request>,
    pub inbox: VecDeque<Datagram>,
    dump: Option<(Number, Instant)>,
    dump_begun: Instant,
    /// A dump is to begin when so many writes are done.
    dump_after: Option<u64>,
    dump_pause: Duration,
    /// The table is to be read again, as soon as the last reading is long enough ago.
    rereads: bool,
    /// Lines that wait in the socket: the kernel made them a pause ago. `None`: they are read as they are made.
    lines: Option<Vec<Flow>>,
    writing: Writing,
    /// Acknowledgements that wait until so many writes are done.
    held: VecDeque<(u64, Outgoing)>,
    gather_until: Instant,
    woken: bool,
    stop_by: Option<Instant>,
    pub role: Role,
    /// Most actions that one call may return.
    actions_max: usize,
    actions_most: usize,
    random: Random,
}

impl SyncLoop {
    pub fn new(now: Instant, node: usize, options: &Options, keys: &[ClusterKey], mut random: Random) -> Self {
        let session = random.next() | 1;
        let mut nonce = [0; 16];
        nonce.iter_mut().for_each(|byte| *byte = random.next() as u8);
        let version = options.nodes[node].version;
        let ms = Duration::from_millis;
        let nodes = options.nodes.len();
        let config = Config {
            node: NodeId(node as u8),
            session,
            nonce,
            cluster: CLUSTER.into(),
            peers: (0..nodes).filter(|other| *other != node).map(|other| NodeId(other as u8)).collect(),
            keys: keys.to_vec(),
            version,
            capabilities: if version == VERSION { Capabilities::ALL } else { Capabilities::FIRST },
            frame_bytes_max: options.frame_bytes_max,
            links: options.links,
            sending: options.sending,
            flows_max: options.flows_max,
            window_frames: options.window_frames,
            hello_interval: ms(100),
            peer_timeout: options.peer_timeout,
            mode: options.mode,
            refresh_time: ms(500),
            cache_timeout: ms(4000),
            purge_timeout: ms(3000),
        };
        let seed = random.next();
        Self {
            engine: Engine::new(config, seed),
            session,
            admission: Admission::new(Filter { min_age: options.min_age, ..Filter::default() }, seed),
            actions: Vec::new(),
            mailbox: VecDeque::new(),
            inbox: VecDeque::new(),
            dump: None,
            dump_begun: now,
            dump_after: None,
            dump_pause: options.dump_pause,
            rereads: false,
            lines: options.traps.then(Vec::new),
            writing: Writing::new(options.write_cost),
            held: VecDeque::new(),
            gather_until: now,
            woken: true,
            stop_by: None,
            role: Role::Init,
            // A change of role or the end of a transfer may write every flow once, and take back what it wrote.
            actions_max: 2 * options.flows_max + (nodes - 1) * (4 * options.window_frames + 64),
            actions_most: 0,
            random,
        }
    }

    /// When the loop wakes up, on its own clock; `events`: some wait in the kernel.
    pub fn wake_at(&self, now: Instant, events: bool) -> Option<Instant> {
        if self.woken || !self.mailbox.is_empty() || !self.actions.is_empty() {
            return Some(now);
        }
        let frames = !self.inbox.is_empty() && !self.writing.is_full();
        let gathered = (events || frames).then_some(self.gather_until);
        let own =
            [gathered, self.dump.map(|(_, at)| at), self.writing.poll_at(), self.admission.poll_at(), self.stop_by];
        own.into_iter().fold(self.engine.poll_at(), earliest)
    }

    /// Everything that is ready, in the order of the loop, then the timers.
    pub fn wake(&mut self, now: Instant, kernel: &mut Conntrack, effects: &mut Effects) {
        self.woken = false;
        self.gather_until = now.max(self.gather_until) + WAKE_GAP;
        self.woken |= self.on_events(now, kernel);
        self.execute(now, kernel, effects);
        self.on_mailbox(now, kernel, effects);
        self.execute(now, kernel, effects);
        self.on_dump(now, kernel, effects);
        self.execute(now, kernel, effects);
        self.on_datagrams(now, effects);
        self.execute(now, kernel, effects);
        self.with_reports(now, kernel, effects, |writing, kernel, done| writing.collect(now, kernel, done));
        self.execute(now, kernel, effects);
        self.admission.on_timer(now, &mut self.engine, &mut self.actions);
        if self.engine.poll_at().is_some_and(|at| at <= now) {
            self.give(now, Input::Timer);
        }
        self.execute(now, kernel, effects);
    }

    /// Before a stop ends: what was pending has arrived, or its time is over.
    pub fn is_finished(&self, now: Instant) -> bool {
        let Some(stop_by) = self.stop_by else { return false };
        let pending = |peer: &sync::PeerStats| peer.alive && peer.backlog_flows + peer.in_flight_flows > 0;
        now >= stop_by || !(self.writing.is_busy() || self.engine.stats().peers.iter().any(pending))
    }

    /// The kernel says that a link has or has not a carrier.
    pub fn link(&mut self, now: Instant, link: LinkId, up: bool) {
        self.give(now, Input::Link { link, up });
    }

    /// Flows were not remembered for want of room.
    pub fn is_table_full(&self) -> bool {
        self.engine.stats().flows_refused_full > 0
    }

    /// A flow is to be written that the kernel may lack.
    pub fn creates(&self, key: &FlowKey) -> bool {
        self.writing.creates(key)
    }

    /// The kernel's table is being read.
    pub fn is_dumping(&self) -> bool {
        self.dump.is_some()
    }

    /// Nothing waits in the loop itself.
    pub fn is_idle(&self) -> bool {
        self.dump.is_none() && self.dump_after.is_none() && !self.rereads && !self.writing.is_busy()
    }

    fn on_mailbox(&mut self, now: Instant, kernel: &mut Conntrack, effects: &mut Effects) {
        for _ in 0..REQUESTS_PER_WAKE {
            let Some(request) = self.mailbox.pop_front() else { return };
            match request {
                Request::Role(role, term) => {
                    // What was ordered as master is done by a master's rule: it may be older than what is read next.
                    if role != Role::Master {
                        self.execute(now, kernel, effects);
                    }
                    // What happened before belongs to the role of that time.
                    while self.on_events(now, kernel) {}
                    self.role = role;
                    self.writing.keep_live = role == Role::Master;
                    self.give(now, Input::Term(term));
                    self.give(now, Input::Role(role));
                    // What was ordered before and is not done meets what packets do from now on, and no event tells.
                    if role == Role::Master && self.writing.is_busy() {
                        self.give(now, Input::Reread);
                        self.rereads = true;
                    }
                }
                Request::Flush => {
                    // What the kernel has told already belongs to it.
                    self.woken |= self.on_events(now, kernel);
                    self.admission.release(now, &mut self.engine, &mut self.actions);
                    self.give(now, Input::Flush);
                }
                Request::Resync => self.give(now, Input::Resync),
                Request::Keys(keys) => self.give(now, Input::Keys(&keys)),
                Request::Stop => {
                    self.admission.release(now, &mut self.engine, &mut self.actions);
                    self.stop_by = Some(now + DRAIN_MAX);
                }
            }
        }
    }

    /// True when more may wait.
    fn on_events(&mut self, now: Instant, kernel: &mut Conntrack) -> bool {
        let Some(socket) = &mut kernel.socket else { return false };
        for _ in 0..EVENTS_PER_PORTION * PORTIONS_PER_WAKE {
            let Some(event) = socket.next() else {
                // A socket that has overflowed drops events until it is empty: only then the loss is told.
                if std::mem::take(&mut socket.lost) {
                    self.admission.events_lost(now, &mut self.engine, &mut self.actions);
                }
                return false;
            };
            let Self { engine, admission, actions, .. } = self;
            match event {
                Event::Changed(flow) => admission.changed(now, &flow, engine, actions),
                Event::Destroyed(flow) => admission.destroyed(now, &flow.key, &flow.reply, flow.id, engine, actions),
            }
        }
        true
    }

    fn on_dump(&mut self, now: Instant, kernel: &Conntrack, effects: &mut Effects) {
        let Some((mut from, at)) = self.dump.filter(|(_, at)| *at <= now) else { return };
        let made: Vec<Flow> = self.lines.as_mut().map(std::mem::take).unwrap_or_default();
        made.iter().for_each(|flow| self.admission.dumped(now, flow, &mut self.engine, &mut self.actions));
        for _ in 0..DUMP_LINES {
            let Some((number, flow)) = kernel.line(from) else {
                if self.lines.as_ref().is_some_and(|lines| !lines.is_empty()) {
                    break;
                }
                self.dump = None;
                effects.table_read = Some(self.dump_begun);
                return self.give(now, Input::DumpEnd { complete: true });
            };
            match &mut self.lines {
                Some(lines) => lines.push(flow.clone()),
                None => self.admission.dumped(now, flow, &mut self.engine, &mut self.actions),
            }
            from = number + 1;
        }
        self.dump = Some((from, at.max(now) + self.dump_pause));
    }

    fn on_datagrams(&mut self, now: Instant, effects: &mut Effects) {
        for _ in 0..DATAGRAMS_PER_WAKE {
            if self.writing.is_full() {
                return;
            }
            let Some(datagram) = self.inbox.pop_front() else { return };
            let input = Input::Datagram { link: datagram.link, bytes: &datagram.bytes };
            if datagram.is_hostile {
                let (before, waiting) = (Fingerprint::of(&self.engine), self.actions.len());
                self.give(now, input);
                effects.hostile_frames += 1;
                let change = before.difference(&Fingerprint::of(&self.engine), self.actions.len() - waiting);
                effects.violation = effects.violation.take().or(change);
            } else if self.random.percent(10) {
                let refused = |engine: &Engine| engine.stats().refused.iter().sum::<u64>();
                let before = refused(&self.engine);
                self.give(now, input);
                if refused(&self.engine) == before && self.is_believed(&datagram.bytes) {
                    effects.taken.push((datagram.link, datagram.bytes));
                }
            } else {
                self.give(now, input);
            }
        }
        self.woken = true;
    }

    /// A hello that overtook the one by which its session came to be believed was only answered: sent again it is the newest word
    /// that its sender has, whoever brings it.
    fn is_believed(&self, bytes: &[u8]) -> bool {
        let Some(header) = Header::parse(bytes).ok().filter(|header| header.kind == Kind::Hello) else { return true };
        let peers = self.engine.stats().peers;
        peers.iter().any(|peer| peer.session == header.session && peer.hello_sequence >= header.sequence)
    }

    fn execute(&mut self, now: Instant, kernel: &mut Conntrack, effects: &mut Effects) {
        if self.actions_most > self.actions_max {
            let told = format!("bounds: {} actions of one call", self.actions_most);
            effects.violation = effects.violation.take().or(Some(told));
        }
        for _ in 0..ROUNDS_MAX {
            if self.actions.is_empty() {
                break;
            }
            let actions = std::mem::take(&mut self.actions);
            let mut writes = Vec::new();
            for action in actions {
                self.sort(now, action, &mut writes, effects);
            }
            self.with_reports(now, kernel, effects, |writing, kernel, done| {
                writing.submit(now, &mut writes, kernel, done);
            });
            self.hold_back(effects);
        }
        self.hold_back(effects);
        self.start_dump_if_due(now);
    }

    fn start_dump_if_due(&mut self, now: Instant) {
        if self.dump_after.is_some_and(|writes| writes <= self.writing.completed()) {
            (self.dump_after, self.rereads) = (None, false);
            self.give(now, Input::DumpBegin);
            (self.dump, self.dump_begun) = (Some((0, now)), now);
            self.lines.iter_mut().for_each(Vec::clear);
        }
    }

    fn give(&mut self, now: Instant, input: Input<'_>) {
        let before = self.actions.len();
        self.engine.handle(now, input, &mut self.actions);
        self.actions_most = self.actions_most.max(self.actions.len() - before);
    }

    fn sort(&mut self, now: Instant, action: Action, writes: &mut Vec<Write>, effects: &mut Effects) {
        match action {
            Action::Create(flow) => self.write(now, flow.key, Write::Create(flow), writes),
            Action::Update(flow) => self.write(now, flow.key, Write::Update(flow), writes),
            Action::Delete { key, id } => self.write(now, key, Write::Delete { key, id }, writes),
            Action::Relax(_) => writes.push(Write::Relax),
            Action::Fetch(key) => writes.push(Write::Fetch(key)),
            Action::Expect { .. } | Action::Unexpect { .. } => panic!("no flow of the simulation has a helper"),
            Action::Send { peer, links, datagram } => effects.datagrams.push(Outgoing { peer, links, bytes: datagram }),
            Action::Dump => self.dump_after = Some(self.writing.submitted() + writes.len() as u64),
            Action::Health(health) => effects.health = Some(health),
            Action::Event(event) => {
                if let sync::Event::KeyChanged { to, .. } = event {
                    effects.key_in_use = Some(to);
                }
                effects.events.push(event);
            }
        }
    }

    fn write(&mut self, now: Instant, key: FlowKey, write: Write, writes: &mut Vec<Write>) {
        let Self { admission, engine, actions, .. } = self;
        if admission.may_write(now, &key, engine, actions) {
            writes.push(write);
        }
    }

    /// Acknowledgements wait for the writes that they stand for.
    fn hold_back(&mut self, effects: &mut Effects) {
        if self.writing.is_busy() {
            let is_ack = |out: &mut Outgoing| Header::parse(&out.bytes).is_ok_and(|header| header.kind == Kind::Ack);
            let submitted = self.writing.submitted();
            self.held.extend(effects.datagrams.extract_if(.., is_ack).map(|ack| (submitted, ack)));
        }
        while self.held.front().is_some_and(|(writes, _)| *writes <= self.writing.completed()) {
            effects.datagrams.extend(self.held.pop_front().map(|(_, ack)| ack));
        }
    }

    fn with_reports(
        &mut self,
        now: Instant,
        kernel: &mut Conntrack,
        effects: &mut Effects,
        act: impl FnOnce(&mut Writing, &mut Conntrack, &mut Done),
    ) {
        let mut done = Done::default();
        act(&mut self.writing, kernel, &mut done);
        effects.applied.append(&mut done.applied);
        for report in done.reports {
            let Self { engine, actions, .. } = self;
            match report {
                Report::Failed { key, write, errno } => {
                    engine.handle(now, Input::WriteFailed { key: &key, write, errno }, actions);
                }
                // Later writes of the same batch may have met it.
                Report::Kept(flow) => {
                    engine.handle(now, Input::Changed(&flow), actions);
                    engine.handle(now, Input::Reread, actions);
                }
                Report::Fetched { key, flow } => {
                    engine.handle(now, Input::Fetched { key: &key, flow: flow.as_ref() }, actions);
                }
            }
        }
    }
}

/// The secret of this epoch.
pub fn key(epoch: u8) -> ClusterKey {
    ClusterKey { epoch, secret: [b"a secret of some length", &[epoch][..]].concat().into() }
}
