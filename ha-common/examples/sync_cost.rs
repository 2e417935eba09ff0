//! What a flow costs in the engine: events in, sealed frames out, and the same on the other side.
//!
//! `cargo run --release -p ha-common --features protocol --example sync_cost`

use ha_common::role::{NodeId, Role};
use ha_common::secret::ClusterKey;
use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple, status};
use ha_common::sync::{Action, Capabilities, Config, Engine, Input, LinkId, Mode, Sending, VERSION};
use ha_common::time::Instant;
use std::net::Ipv4Addr;
use std::time::Duration;

const FLOWS: u32 = 200_000;
/// Events between two looks at the sockets, as after a batch read.
const BATCH: u32 = 64;

fn config(node: u8) -> Config {
    Config {
        node: NodeId(node),
        session: u64::from(node) + 1,
        nonce: [node; 16],
        cluster: "edge".into(),
        peers: vec![NodeId(1 - node)],
        keys: vec![ClusterKey { epoch: 0, secret: b"secret".to_vec().into() }],
        version: VERSION,
        capabilities: Capabilities::ALL,
        frame_bytes_max: 1400,
        links: 1,
        sending: Sending::Failover,
        flows_max: 2_000_000,
        window_frames: 512,
        hello_interval: Duration::from_millis(100),
        peer_timeout: Duration::from_secs(3600),
        mode: Mode::Ftfw,
        refresh_time: Duration::from_secs(15),
        cache_timeout: Duration::from_secs(180),
        purge_timeout: Duration::from_secs(60),
    }
}

fn flow(n: u32) -> Flow {
    let original = Tuple {
        source: Ipv4Addr::from_bits(0x0a00_0000 + n / 60_000).into(),
        destination: Ipv4Addr::new(192, 0, 2, 1).into(),
        protocol: 6,
        source_port: (n % 60_000) as u16,
        destination_port: 443,
    };
    Flow {
        key: FlowKey { original, zone: 0 },
        reply: Tuple { destination: Ipv4Addr::new(203, 0, 113, 1).into(), ..original.inverse() },
        status: status::SEEN_REPLY | status::ASSURED | status::SRC_NAT,
        timeout: 432_000,
        mark: 0,
        tcp: Some(Tcp { state: 3, wscale: [7, 7], flags: [3, 3] }),
        id: n + 1,
        extra: None,
    }
}

/// Two engines and the time spent in each.
struct Pair {
    engines: [Engine; 2],
    spent: [Duration; 2],
    now: Instant,
    bytes: usize,
    writes: u64,
}

impl Pair {
    /// Gives an input to one side and lets them talk until both are silent.
    fn give(&mut self, node: usize, input: Input<'_>) {
        let mut actions = Vec::new();
        self.handle(node, input, &mut actions);
        self.deliver(node, actions);
    }

    fn handle(&mut self, node: usize, input: Input<'_>, out: &mut Vec<Action>) {
        let start = std::time::Instant::now();
        self.engines[node].handle(self.now, input, out);
        self.spent[node] += start.elapsed();
    }

    fn deliver(&mut self, mut from: usize, mut actions: Vec<Action>) {
        while !actions.is_empty() {
            let mut answers = Vec::new();
            for action in actions {
                match action {
                    Action::Send { datagram, .. } => {
                        self.bytes += datagram.len();
                        self.handle(1 - from, Input::Datagram { link: LinkId(0), bytes: &datagram }, &mut answers);
                    }
                    Action::Create(_)
                    | Action::Update(_)
                    | Action::Delete { .. }
                    | Action::Relax(_)
                    | Action::Expect { .. }
                    | Action::Unexpect { .. } => self.writes += 1,
                    Action::Fetch(_) | Action::Dump | Action::Health(_) | Action::Event(_) => {}
                }
            }
            (actions, from) = (answers, 1 - from);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for node in 0..2 {
            self.give(node, Input::Timer);
        }
    }
}

fn main() {
    let engines = [0, 1].map(|node| Engine::new(config(node), 1));
    let mut pair = Pair { engines, spent: Default::default(), now: Instant(1 << 30), bytes: 0, writes: 0 };
    pair.give(0, Input::Role(Role::Master));
    pair.give(1, Input::Role(Role::Backup));
    for node in 0..2 {
        pair.give(node, Input::DumpEnd { complete: true });
    }
    (0..50).for_each(|_| pair.pass(Duration::from_millis(20)));
    for what in ["new", "changed", "gone"] {
        (pair.spent, pair.bytes, pair.writes) = (Default::default(), 0, 0);
        for first in (0..FLOWS).step_by(BATCH as usize) {
            let mut actions = Vec::new();
            for n in first..(first + BATCH).min(FLOWS) {
                let mut flow = flow(n);
                flow.mark = u32::from(what == "changed");
                match what {
                    "gone" => pair.handle(0, Input::Destroyed { key: &flow.key, id: flow.id }, &mut actions),
                    _ => pair.handle(0, Input::Changed(&flow), &mut actions),
                }
            }
            pair.deliver(0, actions);
            pair.pass(Duration::from_micros(500));
        }
        (0..50).for_each(|_| pair.pass(Duration::from_millis(1)));
        let each = |time: Duration| time.as_nanos() as f64 / f64::from(FLOWS);
        println!(
            "{what:8} {:6.0} ns/flow sender {:6.0} ns/flow receiver {:5.1} bytes/flow, {} writes",
            each(pair.spent[0]),
            each(pair.spent[1]),
            pair.bytes as f64 / f64::from(FLOWS),
            pair.writes
        );
    }
}
