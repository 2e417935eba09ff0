//! The filter three times: as a program in the kernel, in user space, and in front of the engine.

use crate::bytes::Bytes;
use crate::engine::config;
use ha_common::role::Role;
use ha_common::sync::filter::{
    Admission, Filter, Lists, MarkMatch, PortMatch, Prefix, PrefixSet, ProtocolSet, TcpStates,
};
use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple};
use ha_common::sync::{Engine, Input};
use ha_common::time::Instant;
use ha_user::conntrack::attribute::Builder;
use ha_user::conntrack::{encode, filter_program, uapi};
use socket2::SockRef;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;

const OWN_PORT: u32 = 0x0102_0304;
/// As many as the program can hold of each kind.
const PREFIXES_MAX: usize = 8;
const EVENTS_MAX: usize = 16;

thread_local! {
    /// A datagram sent to the first comes out of the second, if the program on it lets it.
    static KERNEL: (UnixDatagram, UnixDatagram) = {
        let (sender, receiver) = UnixDatagram::pair().expect("a pair of sockets");
        receiver.set_nonblocking(true).expect("a socket that does not block");
        (sender, receiver)
    };
}

/// First a filter, then events: what the program drops the filter refuses for its protocol or addresses, and nothing else;
/// and the engine hears of exactly the flows that the filter accepts.
pub fn run(input: &[u8]) {
    let mut input = Bytes(input);
    let filter = filter(&mut input);
    let program = filter_program::generate(&filter, OWN_PORT);
    assert!(program.len() <= 2048, "the program has {} instructions", program.len());
    let attached = KERNEL.with(|(_, receiver)| SockRef::from(receiver).attach_filter(&program));
    assert!(attached.is_ok(), "the kernel refuses the program: {attached:?}");
    let identity = Filter {
        protocols: filter.protocols,
        local: filter.local.clone(),
        addresses: filter.addresses.clone(),
        ..Filter::default()
    };
    for record in input.records(EVENTS_MAX) {
        let Some(flow) = event(record.body) else { continue };
        let wanted = identity.judge_identity(&flow.key, &flow.reply);
        assert_eq!(passes(&message(&flow, 0)), wanted.is_ok(), "{wanted:?} {flow:?} {filter:?}");
        assert!(!passes(&message(&flow, OWN_PORT)), "an event of the daemon's own");
        admit(&filter, &flow);
    }
}

/// A fresh engine knows the flow afterwards if the filter accepts it.
fn admit(filter: &Filter, flow: &Flow) {
    let mut engine = Engine::new(config(0, 0), 5);
    let (now, mut actions) = (Instant(1_000_000_000), Vec::new());
    engine.handle(now, Input::Role(Role::Master), &mut actions);
    let mut admission = Admission::new(filter.clone(), 5);
    admission.changed(now, flow, &mut engine, &mut actions);
    let known = engine.stats().flows == 1;
    assert_eq!(known, filter.judge(flow).is_ok(), "{flow:?} {filter:?}");
}

fn filter(input: &mut Bytes<'_>) -> Filter {
    let [choice, protocols, ignored, local] = input.array();
    let accept = (choice & 1 == 1).then(|| prefixes(input, usize::from(choice >> 5)));
    let marks = (choice & 2 == 2).then(|| vec![MarkMatch { value: input.u32(), mask: input.u32() }]);
    let ports = (choice & 4 == 4).then(|| {
        let (first, last) = (input.u16(), input.u16());
        vec![PortMatch { protocol: None, first: first.min(last), last: first.max(last) }]
    });
    Filter {
        protocols: match protocols {
            0..=127 => ProtocolSet::ALL,
            128..=191 => [6, 17].into_iter().collect(),
            192.. => (0..=255).filter(|protocol| protocol % 11 != protocols % 11).collect(),
        },
        local: prefixes(input, usize::from(local)),
        addresses: Lists { accept, ignore: prefixes(input, usize::from(ignored)) },
        ports: Lists { accept: ports, ignore: Vec::new() },
        zones: Lists { accept: (choice & 8 == 8).then(|| vec![0]), ignore: Vec::new() },
        marks: Lists { accept: marks, ignore: Vec::new() },
        tcp_states: if choice & 16 == 16 { TcpStates(input.u16()) } else { TcpStates::ALL },
        assured_only: choice & 0x60 == 0x60,
        ..Filter::default()
    }
}

fn prefixes(input: &mut Bytes<'_>, count: usize) -> PrefixSet {
    (0..count % (PREFIXES_MAX + 1)).map(|_| prefix(input)).collect()
}

fn prefix(input: &mut Bytes<'_>) -> Prefix {
    let (choice, length) = (input.u8(), input.u8());
    Prefix::new(address(input, choice & 1 == 1), length)
}

/// Few different ones, or any.
fn address(input: &mut Bytes<'_>, v6: bool) -> IpAddr {
    let near = input.u8();
    match (v6, near) {
        (false, 0..=127) => IpAddr::from([10, 0, near >> 4, near & 15]),
        (false, 128..) => IpAddr::from(input.array::<4>()),
        (true, 0..=127) => IpAddr::from([0x2001, 0xdb8, 0, u16::from(near >> 4), 0, 0, 0, u16::from(near & 15)]),
        (true, 128..) => IpAddr::from(input.array::<16>()),
    }
}

fn event(mut input: Bytes<'_>) -> Option<Flow> {
    let (choice, protocol) = (input.u8(), input.u8());
    let v6 = choice & 1 == 1;
    let original = Tuple {
        source: address(&mut input, v6),
        destination: address(&mut input, v6),
        protocol,
        source_port: input.u16(),
        destination_port: input.u16(),
    };
    let mut reply = original.inverse();
    if choice & 2 == 2 {
        reply.source = address(&mut input, v6);
    }
    let tcp = (protocol == 6).then(|| Tcp { state: input.u8() % 10, wscale: [7, 7], flags: [3, 3] });
    let (status, mark) = (input.u32(), input.u32());
    let zone = u16::from(choice >> 2 & 1);
    // What is dying is no news.
    let status = status & ha_common::sync::flow::status::REPLICATED;
    Some(Flow { key: FlowKey { original, zone }, reply, status, timeout: 100, mark, tcp, id: 0, extra: None })
}

/// An event with what stands before and behind the tuples in real ones, caused by the socket `port`.
fn message(flow: &Flow, port: u32) -> Vec<u8> {
    let mut out = Builder::default();
    let family = if flow.key.original.source.is_ipv4() { uapi::FAMILY_V4 } else { uapi::FAMILY_V6 };
    let message = out.begin(uapi::CT_NEW, 0, 0, family);
    encode::put_tuple(&mut out, uapi::CTA_TUPLE_ORIG, &flow.key.original);
    encode::put_tuple(&mut out, uapi::CTA_TUPLE_REPLY, &flow.reply);
    out.put_be16(uapi::CTA_ZONE, flow.key.zone);
    out.put_be32(uapi::CTA_STATUS, flow.status);
    out.end(message);
    let mut bytes = out.bytes().to_vec();
    if let Some(place) = bytes.get_mut(12..16) {
        place.copy_from_slice(&port.to_ne_bytes());
    }
    bytes
}

fn passes(bytes: &[u8]) -> bool {
    KERNEL.with(|(sender, receiver)| {
        let mut buffer = [0; 2048];
        // A program that drops a datagram on a local socket makes no error: it is as if it had been taken.
        sender.send(bytes).expect("there is room for one datagram");
        receiver.recv(&mut buffer).is_ok_and(|length| buffer.get(..length) == Some(bytes))
    })
}
