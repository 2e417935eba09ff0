//! The sync engine of a node that is in session with a peer: what strangers send it, and what the peer may.

use crate::bytes::{Bytes, Record};
use ha_common::role::{NodeId, Role};
use ha_common::secret::ClusterKey;
use ha_common::sync::flow::{Expectation, Flow, FlowKey, Tcp, Tuple, status};
use ha_common::sync::puppet::Puppet;
use ha_common::sync::{
    Action, Capabilities, Config, Engine, Input, LinkId, Mode, PeerId, Sending, VERSION, VERSION_MIN, WriteKind,
};
use ha_common::time::Instant;
use ha_common::wire::frame::{self, Header, Kind};
use ha_user::conntrack::attribute::Builder;
use ha_user::conntrack::{encode, expectation};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Kinds of records. A frame's body is preceded by its sequence, a number; zero is the next one.
pub const HELLO: u8 = 0;
pub const DATA: u8 = 1;
pub const ACK: u8 = 2;
/// A happening at the node itself: which one (1), and of which flow (4).
pub const EVENT: u8 = 3;
/// Nanoseconds, a number.
pub const WAIT: u8 = 4;
/// A datagram as it stands here.
pub const RAW: u8 = 5;
/// A header with these fields before a body: kind, sender, key epoch, target, whether of the peer's session (1 each), sequence.
pub const FRAMED: u8 = 6;
/// A genuine data frame with one bit turned over: sequence, position (2), body.
pub const ALTERED: u8 = 7;
const KINDS: u8 = 8;

const FLOWS_MAX: usize = 30;
const FRAME_BYTES_MAX: usize = 1400;
/// The session of the peer.
const SESSION: u64 = 2;
const STEPS_MAX: usize = 64;
/// Whom the flows of the node itself go to.
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Uptime in nanoseconds, 73 years: seconds are counted in 32 bits.
const LATEST: u64 = 1 << 61;

/// Any node is the receiver; whoever sends does not know the secret.
pub fn strangers(input: &[u8]) {
    let mut rig = Rig::new(Bytes(input).u8());
    for record in Bytes(input.get(1..).unwrap_or_default()).records(STEPS_MAX) {
        match record.kind % KINDS {
            // What needs the secret is sent under another one.
            HELLO | DATA | ACK | ALTERED => rig.altered(record),
            EVENT | WAIT | RAW | FRAMED => rig.apply(record),
            KINDS.. => {}
        }
        assert_eq!(rig.engine.stats().peers.first().map(|peer| peer.session), Some(SESSION), "another session");
        // Flows of this node that it had given to the peer may be made again; what strangers name may not.
        let own = |key: &FlowKey| key.original.destination == SERVER;
        for action in &rig.actions {
            let (Action::Create(Flow { key, .. }) | Action::Expect { master: key, .. }) = action else { continue };
            assert!(own(key), "{action:?}");
        }
    }
    rig.settle();
}

/// The peer, which knows the secret, sends whatever it likes.
pub fn peer(input: &[u8]) {
    let mut rig = Rig::new(Bytes(input).u8());
    for record in Bytes(input.get(1..).unwrap_or_default()).records(STEPS_MAX) {
        rig.apply(record);
    }
    rig.settle();
}

struct Rig {
    engine: Engine,
    puppet: Puppet,
    now: Instant,
    actions: Vec<Action>,
    /// Next of data, acknowledgements and hellos.
    next: [u64; 3],
}

/// Node 0 or 1 of a pair; `choice`: its mode (2 bits), and with bit 5 the oldest protocol version.
pub fn config(node: u8, choice: u8) -> Config {
    Config {
        node: NodeId(node),
        session: 1 + u64::from(node),
        nonce: [node; 16],
        cluster: "edge".into(),
        peers: vec![NodeId(1 - node)],
        keys: vec![ClusterKey { epoch: 1, secret: b"a secret of some length".to_vec().into() }],
        version: if choice & 0x20 == 0 { VERSION } else { VERSION_MIN },
        capabilities: Capabilities::ALL,
        frame_bytes_max: FRAME_BYTES_MAX,
        flows_max: FLOWS_MAX,
        window_frames: 16,
        links: 2,
        sending: Sending::Failover,
        hello_interval: Duration::from_millis(100),
        peer_timeout: Duration::from_millis(500),
        mode: [Mode::Ftfw, Mode::Alarm, Mode::Notrack][usize::from(choice & 3) % 3],
        refresh_time: Duration::from_millis(250),
        cache_timeout: Duration::from_secs(2),
        purge_timeout: Duration::from_secs(2),
    }
}

const fn role(choice: u8) -> Role {
    match choice & 3 {
        0 => Role::Backup,
        1 => Role::Master,
        2 => Role::Init,
        _ => Role::Fault,
    }
}

impl Rig {
    fn new(choice: u8) -> Self {
        let mut engine = Engine::new(config(0, choice), 5);
        // Only the node's own version is a matter of choice: its peer tells what it can.
        let mut puppet = Puppet::new(&config(1, choice & 0x1f), NodeId(0));
        let (now, mut actions) = (Instant(1_000_000_000), Vec::new());
        engine.handle(now, Input::Role(role(choice >> 2)), &mut actions);
        let now = puppet.greet(&mut engine, now, role(choice >> 3), &mut actions).expect("a session begins");
        actions.clear();
        Self { engine, puppet, now, actions, next: [1, 1, 100] }
    }

    fn apply(&mut self, record: Record<'_>) {
        let mut body = record.body;
        match record.kind % KINDS {
            HELLO => {
                let sequence = self.sequence(2, &mut body);
                let hello = self.puppet.hello_of(sequence, body.0);
                self.datagram(hello);
            }
            DATA => {
                let sequence = self.sequence(0, &mut body);
                self.datagram(self.puppet.sealed(Kind::Data, sequence, body.0));
            }
            ACK => {
                let sequence = self.sequence(1, &mut body);
                self.datagram(self.puppet.sealed(Kind::Ack, sequence, body.0));
            }
            EVENT => self.event(body),
            WAIT => self.now = Instant(self.now.0.saturating_add(body.number()).min(LATEST)),
            RAW => self.datagram(Some(body.0.to_vec())),
            FRAMED => {
                let bytes = framed(body);
                self.datagram(Some(bytes));
            }
            ALTERED => self.altered(record),
            KINDS.. => {}
        }
        self.handle(Input::Timer);
    }

    /// The sequence that a body begins with.
    fn sequence(&mut self, kind: usize, body: &mut Bytes<'_>) -> u64 {
        let sequence = match body.number() {
            0 => self.next[kind],
            given => given,
        };
        self.next[kind] = sequence.saturating_add(1);
        sequence
    }

    fn altered(&mut self, record: Record<'_>) {
        let mut body = record.body;
        let (sequence, at) = (body.number(), usize::from(body.u16()));
        let Some(mut bytes) = self.puppet.sealed(Kind::Data, sequence.max(1), body.0) else { return };
        let at = at % (bytes.len() * 8);
        bytes[at / 8] ^= 1 << (at % 8);
        let before: u64 = self.engine.stats().refused.iter().sum();
        self.datagram(Some(bytes));
        assert_eq!(self.engine.stats().refused.iter().sum::<u64>(), before + 1, "bit {at} is free");
    }

    fn datagram(&mut self, bytes: Option<Vec<u8>>) {
        if let Some(bytes) = bytes {
            let link = LinkId(u8::from(bytes.len() % 7 == 0));
            self.handle(Input::Datagram { link, bytes: &bytes });
        }
    }

    fn event(&mut self, mut body: Bytes<'_>) {
        let (kind, n) = (body.u8(), body.u32());
        let flow = flow(n);
        let key = &flow.key;
        match kind % 16 {
            0 | 1 => self.handle(Input::Changed(&flow)),
            2 => self.handle(Input::Destroyed { key, id: n >> 8 }),
            3 => self.handle(Input::DumpBegin),
            4 => self.handle(Input::Dumped(&flow)),
            5 => self.handle(Input::DumpEnd { complete: n & 1 == 1 }),
            6 => {
                let write =
                    [WriteKind::Create, WriteKind::Update, WriteKind::Delete, WriteKind::Relax, WriteKind::Expect];
                let write = write[n as usize % write.len()];
                self.handle(Input::WriteFailed { key, write, errno: body.u32().cast_signed() });
            }
            7 => self.handle(Input::Role(role(body.u8()))),
            8 => self.handle(Input::EventsLost),
            9 => self.handle(Input::Resync),
            10 => self.handle(Input::Link { link: LinkId(body.u8()), up: body.flag() }),
            11 => self.handle(Input::FrameBytes(usize::from(body.u16()))),
            12 => self.handle(Input::Flush),
            13 => self.handle(Input::Expected { master: key, expectation: &expected(&flow) }),
            14 => self.handle(Input::ExpectationGone { master: key, expectation: &expected(&flow) }),
            _ => self.handle(Input::Fetched { key, flow: (n & 1 == 1).then_some(&flow) }),
        }
    }

    /// Whatever it is given, the engine keeps its bounds, sends frames, and asks of the kernel what can be asked.
    fn handle(&mut self, input: Input<'_>) {
        self.actions.clear();
        self.engine.handle(self.now, input, &mut self.actions);
        let stats = self.engine.stats();
        assert!(stats.flows + stats.tombstones <= FLOWS_MAX as u64, "{} flows", stats.flows);
        assert!(self.actions.len() <= 1024, "{} actions of one input", self.actions.len());
        let mut request = Builder::default();
        for action in &self.actions {
            request.clear();
            let written = match action {
                Action::Send { peer, datagram, .. } => {
                    assert_eq!(*peer, PeerId(0));
                    assert!(Header::parse(datagram).is_ok(), "{datagram:02x?}");
                    Ok(())
                }
                Action::Create(flow) => encode::create(&mut request, 1, flow),
                Action::Update(flow) => encode::update(&mut request, 1, flow, encode::UpdateParts::ALL),
                Action::Delete { key, id } => encode::delete(&mut request, 1, key, *id),
                Action::Relax(key) => encode::relax(&mut request, 1, key),
                Action::Expect { master, expectation: one } => expectation::create(&mut request, 1, master, one),
                Action::Unexpect { master, expectation: one } => {
                    expectation::delete(&mut request, 1, &one.tuple, master.zone)
                }
                Action::Fetch(key) => encode::get(&mut request, 1, &key.original, key.zone),
                Action::Dump | Action::Health(_) | Action::Event(_) => Ok(()),
            };
            assert!(written.is_ok() || request.bytes().is_empty(), "half a request is left of {action:?}");
        }
    }

    /// Time stands, and the timer comes to rest.
    fn settle(&mut self) {
        let mut turns = 0;
        while self.engine.poll_at().is_some_and(|at| at <= self.now) {
            self.handle(Input::Timer);
            turns += 1;
            assert!(turns < 50, "the timer never settles");
        }
    }
}

fn framed(mut body: Bytes<'_>) -> Vec<u8> {
    let [kind, sender, key_epoch, target, session] = body.array();
    let sequence = body.number();
    let header = Header {
        kind: Kind::ALL[usize::from(kind) % Kind::ALL.len()],
        sender: sender % 3,
        key_epoch: key_epoch % 3,
        body_len: u16::try_from(body.0.len()).unwrap_or(u16::MAX),
        target: target % 3,
        session: if session & 3 == 0 { u64::from(session) } else { SESSION },
        sequence,
    };
    let mut bytes = header.emit().to_vec();
    debug_assert_eq!(bytes.len(), frame::HEADER_LEN);
    bytes.extend_from_slice(body.0);
    bytes
}

/// One of sixty-four flows in one of some states.
fn flow(n: u32) -> Flow {
    let tcp = n & 1 == 1;
    let original = Tuple {
        source: Ipv4Addr::new(10, 0, 0, (n >> 1 & 31) as u8).into(),
        destination: SERVER,
        protocol: if tcp { 6 } else { 17 },
        source_port: 4000,
        destination_port: 53,
    };
    Flow {
        key: FlowKey { original, zone: 0 },
        reply: Tuple { destination: Ipv4Addr::new(203, 0, 113, 1).into(), ..original.inverse() },
        status: status::SEEN_REPLY | status::SRC_NAT | n >> 16 & status::ASSURED,
        timeout: n >> 20,
        mark: n >> 8 & 3,
        tcp: tcp.then_some(Tcp { state: (n >> 10 & 15) as u8, wscale: [7, 7], flags: [3, 3] }),
        id: n >> 8,
        extra: None,
    }
}

fn expected(flow: &Flow) -> Expectation {
    Expectation {
        tuple: Tuple { source_port: 0, ..flow.key.original },
        mask_source: IpAddr::from([255; 4]),
        mask_source_port: 0,
        timeout: 300,
        helper: Some("ftp".into()),
        class: 0,
        flags: 0,
        nat: None,
        function: None,
    }
}
