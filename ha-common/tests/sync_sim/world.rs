//! Two engines, two model kernels and a bad link between them, in simulated time. A seed decides everything.

use crate::kernel::Kernel;
use crate::weather::{FAIR, Random, Weather};
use ha_common::role::{NodeId, Role};
use ha_common::secret::ClusterKey;
use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple, status};
use ha_common::sync::{
    Action, Capabilities, Config, Engine, Event, Input, LinkId, Mode, PeerStats, Sending, VERSION, WriteKind,
};
use ha_common::time::Instant;
use ha_common::wire::frame::{Header, Kind};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
/// The times of the modes, short so that a test can wait for them.
pub const REFRESH_TIME: Duration = Duration::from_millis(250);
pub const CACHE_TIMEOUT: Duration = Duration::from_secs(2);
pub const PURGE_TIMEOUT: Duration = Duration::from_secs(2);

pub struct Node {
    pub engine: Option<Engine>,
    pub kernel: Kernel,
    /// Events are not delivered (the socket's buffer is full).
    pub deaf: bool,
    pub role: Role,
    pub events: Vec<Event>,
    pub in_sync: bool,
    /// What the kernel has yet to say of a dump.
    dump: VecDeque<Option<Flow>>,
    starts: u64,
    /// What it holds when it starts.
    pub keys: Vec<ClusterKey>,
    /// What it speaks when it starts.
    pub version: u32,
    pub capabilities: Capabilities,
}

pub struct World {
    pub mode: Mode,
    pub now: Instant,
    pub nodes: [Node; 2],
    pub weather: Weather,
    pub random: Random,
    /// In flight by arrival: to whom, and what.
    link: BTreeMap<(u64, u64), (usize, Vec<u8>)>,
    sent: u64,
    /// Every datagram ever sent, by sender, when recording.
    pub record: Option<[Vec<Vec<u8>>; 2]>,
    /// Session, kind and sequence of every frame that was ever sealed: the nonces of all keys of each process.
    nonces: HashSet<(u64, Kind, u64)>,
    expiry_at: Instant,
    pub flows_max: usize,
    pub window_frames: usize,
    /// Of a dump, every 100 µs.
    pub dump_lines: usize,
}

/// The secret of this epoch.
pub fn key(epoch: u8) -> ClusterKey {
    ClusterKey { epoch, secret: [b"a secret of some length", &[epoch][..]].concat().into() }
}

pub fn config(node: u8, session: u64) -> Config {
    Config {
        node: NodeId(node),
        session,
        nonce: session.to_be_bytes().repeat(2).try_into().unwrap(),
        cluster: "edge".into(),
        peers: vec![NodeId(1 - node)],
        keys: vec![key(1)],
        version: VERSION,
        capabilities: Capabilities::ALL,
        frame_bytes_max: 1400,
        links: 1,
        sending: Sending::Failover,
        flows_max: 100_000,
        window_frames: 256,
        hello_interval: Duration::from_millis(100),
        peer_timeout: Duration::from_millis(500),
        mode: Mode::Ftfw,
        refresh_time: REFRESH_TIME,
        cache_timeout: CACHE_TIMEOUT,
        purge_timeout: PURGE_TIMEOUT,
    }
}

impl World {
    /// Two stopped nodes with empty kernels.
    pub fn new(mode: Mode, seed: u64, weather: Weather) -> Self {
        let node = || Node {
            engine: None,
            kernel: Kernel::default(),
            deaf: false,
            role: Role::Init,
            events: Vec::new(),
            in_sync: false,
            dump: VecDeque::new(),
            starts: 0,
            keys: vec![key(1)],
            version: VERSION,
            capabilities: Capabilities::ALL,
        };
        Self {
            mode,
            now: Instant(1_000_000_000),
            nodes: [node(), node()],
            weather,
            random: Random(seed),
            link: BTreeMap::new(),
            sent: 0,
            record: None,
            nonces: HashSet::new(),
            expiry_at: Instant(0),
            flows_max: 100_000,
            window_frames: 256,
            dump_lines: 500,
        }
    }

    /// Both started and settled: node 0 master, node 1 backup, in sync.
    pub fn pair(mode: Mode, seed: u64, weather: Weather) -> Self {
        let mut world = Self::new(mode, seed, weather);
        world.start(0, Role::Master);
        world.start(1, Role::Backup);
        world.settle();
        world
    }

    pub fn start(&mut self, node: usize, role: Role) {
        let session = self.random.next();
        let limits = (self.flows_max, self.window_frames);
        let Node { keys, version, capabilities, .. } = &self.nodes[node];
        let config = Config {
            mode: self.mode,
            flows_max: limits.0,
            window_frames: limits.1,
            keys: keys.clone(),
            version: *version,
            capabilities: *capabilities,
            ..config(node as u8, session)
        };
        let engine = Engine::new(config, self.random.next());
        let state = &mut self.nodes[node];
        (state.engine, state.in_sync) = (Some(engine), false);
        state.dump.clear();
        state.starts += 1;
        self.role(node, role);
    }

    /// The node is told to hold these secrets, as by a reload, and at its next start.
    pub fn hold(&mut self, node: usize, epochs: &[u8]) {
        let keys: Vec<_> = epochs.iter().copied().map(key).collect();
        self.give(node, Input::Keys(&keys));
        self.nodes[node].keys = keys;
    }

    /// SIGKILL: the kernel's table stays, the timers of the kernel go on.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].engine = None;
        self.nodes[node].in_sync = false;
    }

    pub fn role(&mut self, node: usize, role: Role) {
        self.nodes[node].role = role;
        self.give(node, Input::Role(role));
    }

    pub fn give(&mut self, node: usize, input: Input<'_>) {
        let mut actions = Vec::new();
        let Some(engine) = &mut self.nodes[node].engine else { return };
        engine.handle(self.now, input, &mut actions);
        for action in actions {
            self.obey(node, action);
        }
    }

    /// Traffic makes or changes a flow on a node.
    pub fn traffic(&mut self, node: usize, flow: &Flow) {
        let state = &mut self.nodes[node];
        let id = state.kernel.flows.get(&flow.key).map(|(flow, _)| flow.id);
        let flow = match id {
            Some(id) => Flow { id, ..flow.clone() },
            None => state.kernel.put(self.now, flow),
        };
        state.kernel.flows.insert(flow.key, (flow.clone(), self.now + Duration::from_secs(flow.timeout.into())));
        if !state.deaf {
            self.give(node, Input::Changed(&flow));
        }
    }

    /// A packet that changes nothing but the time the flow has left: no event.
    pub fn packet(&mut self, node: usize, key: &FlowKey) {
        let now = self.now;
        if let Some((flow, deadline)) = self.nodes[node].kernel.flows.get_mut(key) {
            *deadline = now + Duration::from_secs(flow.timeout.into());
        }
    }

    /// The kernel ends a flow: closed, timed out, or deleted by an operator.
    pub fn end(&mut self, node: usize, key: &FlowKey) {
        let state = &mut self.nodes[node];
        let Some((flow, _)) = state.kernel.flows.remove(key) else { return };
        if !state.deaf {
            self.give(node, Input::Destroyed { key, id: flow.id });
        }
    }

    pub fn flush(&mut self, node: usize) {
        let keys: Vec<_> = self.nodes[node].kernel.flows.keys().copied().collect();
        keys.iter().for_each(|key| self.end(node, key));
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until both are in sync and equal, as the mode has it: proven by digests within five seconds; by
    /// refreshes; or, where nothing repairs, after a resync in fair weather and the time of the leftovers.
    pub fn settle(&mut self) {
        let weather = self.weather;
        let patience = match self.mode {
            Mode::Ftfw => SECOND * 5,
            Mode::Alarm => CACHE_TIMEOUT * 3,
            Mode::Notrack => {
                self.weather = FAIR;
                self.run(SECOND);
                (0..2).for_each(|node| self.give(node, Input::Resync));
                PURGE_TIMEOUT + SECOND * 4
            }
        };
        let end = self.now + patience;
        while !self.is_settled() {
            self.run(MS * 5);
            assert!(
                self.now < end,
                "{}: not settled after {patience:?}: {}; {}",
                self.mode,
                self.difference(),
                self.owners()
            );
        }
        self.weather = weather;
    }

    pub fn is_settled(&self) -> bool {
        let mode = self.mode;
        let idle = |node: &Node| {
            let stats = node.engine.as_ref().unwrap().stats();
            let pending: u64 = stats.peers.iter().map(|peer| peer.backlog_flows + peer.in_flight_flows).sum();
            let proven = |peer: &PeerStats| {
                let proven = peer.proven.is_some_and(|age| age < SECOND / 2) && peer.differing_buckets == 0;
                // The other modes prove nothing, and must not say they did.
                proven == (mode == Mode::Ftfw)
            };
            node.in_sync && pending == 0 && node.dump.is_empty() && stats.peers.iter().all(proven)
        };
        self.nodes.iter().all(idle) && self.difference().is_empty()
    }

    /// What the engines say of the flows in which the kernels differ: whose they are, by node.
    fn owners(&self) -> String {
        let tables = [0, 1].map(|node| self.states(node));
        let differs = |key: &FlowKey| tables[0].get(key) != tables[1].get(key);
        let told = |node: usize| {
            let flows = self.nodes[node].engine.as_ref().unwrap().flows(usize::MAX);
            let differing: Vec<_> = flows.filter(|(flow, _)| differs(&flow.key)).take(3).collect();
            format!("{:?} at node {node}: {differing:?}", self.nodes[node].role)
        };
        format!("{}; {}", told(0), told(1))
    }

    /// Where the two kernels differ; empty when they do not.
    pub fn difference(&self) -> String {
        let tables = [0, 1].map(|node| self.states(node));
        let mut different: Vec<_> = Vec::new();
        for key in tables[0].keys().chain(tables[1].keys().filter(|key| !tables[0].contains_key(key))) {
            if tables[0].get(key) != tables[1].get(key) {
                different.push(format!("{key:?}: {:?} / {:?}", tables[0].get(key), tables[1].get(key)));
            }
        }
        let sizes = format!("{} and {} flows, {} differ: ", tables[0].len(), tables[1].len(), different.len());
        different.truncate(3);
        if different.is_empty() { String::new() } else { sizes + &different.join("; ") }
    }

    fn states(&self, node: usize) -> HashMap<FlowKey, (Tuple, u32, u32, Option<u8>)> {
        let state =
            |flow: &Flow| (flow.reply, flow.status & status::REPLICATED, flow.mark, flow.tcp.map(|tcp| tcp.state));
        self.nodes[node].kernel.flows.iter().map(|(key, (flow, _))| (*key, state(flow))).collect()
    }

    pub fn stats(&self, node: usize) -> ha_common::sync::Stats {
        self.nodes[node].engine.as_ref().unwrap().stats()
    }

    /// One thing happens, the next in time. False when that would be after `end`.
    fn step(&mut self, end: Instant) -> bool {
        let arrival = self.link.first_key_value().map(|((at, _), _)| Instant(*at));
        let timers = self.nodes.iter().filter_map(|node| node.engine.as_ref()?.poll_at());
        let dumps = self.nodes.iter().any(|node| !node.dump.is_empty()).then(|| self.now + MS / 10);
        let next = timers.chain(arrival).chain(dumps).chain([self.expiry_at]).min().unwrap().max(self.now);
        if next > end {
            return false;
        }
        self.now = next;
        if self.now >= self.expiry_at {
            self.expire();
        }
        while let Some(entry) = self.link.first_entry().filter(|entry| entry.key().0 <= next.0) {
            let (to, bytes) = entry.remove();
            self.give(to, Input::Datagram { link: LinkId(0), bytes: &bytes });
        }
        for node in 0..2 {
            self.dump_some(node);
            let due = self.nodes[node].engine.as_ref().and_then(Engine::poll_at).is_some_and(|at| at <= next);
            if due {
                self.give(node, Input::Timer);
            }
        }
        true
    }

    fn expire(&mut self) {
        self.expiry_at = self.now + SECOND;
        for node in 0..2 {
            let flows = &self.nodes[node].kernel.flows;
            let over: Vec<_> =
                flows.iter().filter(|(_, (_, deadline))| *deadline <= self.now).map(|(key, _)| *key).collect();
            over.iter().for_each(|key| self.end(node, key));
        }
    }

    fn dump_some(&mut self, node: usize) {
        for _ in 0..self.dump_lines {
            match self.nodes[node].dump.pop_front() {
                Some(Some(flow)) => {
                    // A dump line tells of the flow as it is when the line is made.
                    let line = self.nodes[node].kernel.flows.get(&flow.key).map(|(flow, _)| flow.clone());
                    line.into_iter().for_each(|flow| self.give(node, Input::Dumped(&flow)));
                }
                Some(None) => self.give(node, Input::DumpEnd { complete: true }),
                None => return,
            }
        }
    }

    fn obey(&mut self, node: usize, action: Action) {
        match action {
            Action::Send { datagram, .. } => self.send(node, datagram),
            Action::Create(flow) => self.write(node, &flow, WriteKind::Create),
            Action::Update(flow) => self.write(node, &flow, WriteKind::Update),
            Action::Delete { key, id } => self.nodes[node].kernel.delete(&key, id),
            // Windows are not simulated.
            Action::Relax(_) => {}
            Action::Fetch(key) => {
                let flow = self.nodes[node].kernel.flows.get(&key).map(|(flow, _)| flow.clone());
                self.give(node, Input::Fetched { key: &key, flow: flow.as_ref() });
            }
            Action::Expect { .. } | Action::Unexpect { .. } => panic!("no flow of the simulation has a helper"),
            Action::Dump => {
                self.give(node, Input::DumpBegin);
                let state = &mut self.nodes[node];
                state.dump = state.kernel.flows.values().map(|(flow, _)| Some(flow.clone())).chain([None]).collect();
            }
            Action::Health(health) => self.nodes[node].in_sync = health.in_sync,
            Action::Event(event) => self.nodes[node].events.push(event),
        }
    }

    fn write(&mut self, node: usize, flow: &Flow, write: WriteKind) {
        let (kernel, now) = (&mut self.nodes[node].kernel, self.now);
        let result = match write {
            WriteKind::Create => kernel.create(now, flow),
            WriteKind::Update => kernel.update(now, flow),
            WriteKind::Delete | WriteKind::Relax | WriteKind::Expect => Ok(()),
        };
        if let Err(errno) = result {
            self.give(node, Input::WriteFailed { key: &flow.key, write, errno });
        }
    }

    fn send(&mut self, from: usize, datagram: Vec<u8>) {
        let header = Header::parse(&datagram).expect("an engine sends frames");
        let is_new = header.kind == Kind::Hello || self.nonces.insert((header.session, header.kind, header.sequence));
        assert!(is_new, "a nonce was used twice: {header:?}");
        if let Some(record) = &mut self.record {
            record[from].push(datagram.clone());
        }
        let copies = 1 + u64::from(self.random.percent(self.weather.duplicate_percent));
        for _ in 0..copies {
            if self.random.percent(self.weather.loss_percent) {
                continue;
            }
            let jitter = self.random.below(self.weather.jitter.as_nanos() as u64 + 1);
            self.sent += 1;
            let arrival = self.now.0 + 100_000 + jitter;
            self.link.insert((arrival, self.sent), (1 - from, datagram.clone()));
        }
    }
}

/// The n-th UDP flow, with source NAT like a firewall's.
pub fn udp(n: u32) -> Flow {
    let original = Tuple {
        source: Ipv4Addr::from_bits(0x0a00_0000 + n / 50_000).into(),
        destination: Ipv4Addr::new(192, 0, 2, 1).into(),
        protocol: 17,
        source_port: (n % 50_000) as u16,
        destination_port: 53,
    };
    let reply = Tuple { destination: Ipv4Addr::new(203, 0, 113, 1).into(), ..original.inverse() };
    Flow {
        key: FlowKey { original, zone: 0 },
        reply,
        status: status::SEEN_REPLY | status::SRC_NAT,
        timeout: 30,
        mark: n,
        tcp: None,
        id: 0,
        extra: None,
    }
}

/// The n-th TCP flow in this state.
pub fn tcp(n: u32, state: u8) -> Flow {
    let mut flow = udp(n);
    for tuple in [&mut flow.key.original, &mut flow.reply] {
        tuple.protocol = 6;
    }
    flow.status |= if state >= 3 { status::ASSURED } else { 0 };
    flow.timeout = if state == 3 { 432_000 } else { 120 };
    flow.tcp = Some(Tcp { state, wscale: [7, 7], flags: [3, 3] });
    flow
}

/// Random traffic on a node over `flows` flows for `time`, `per_second` changes a second.
pub fn churn(world: &mut World, node: usize, flows: u64, per_second: u32, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        let n = world.random.below(flows) as u32;
        let state = 1 + world.random.below(8) as u8;
        let flow = if n.is_multiple_of(3) { udp(n) } else { tcp(n, state) };
        if world.random.percent(25) {
            world.end(node, &flow.key);
        } else {
            world.traffic(node, &flow);
        }
        world.run(SECOND / per_second);
    }
}
