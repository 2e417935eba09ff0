//! The codec against itself, against bytes that the kernel took, and against netlink-packet-netfilter.

mod rare;

use super::attribute::{Attributes, Builder, Malformed, Messages};
use super::encode::{self, UpdateParts};
use super::{decode, uapi};
use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple, status};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload, Nla};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Tuple as OracleTuple,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn tuple(source: &str, destination: &str, protocol: u8, ports: (u16, u16)) -> Tuple {
    Tuple {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol,
        source_port: ports.0,
        destination_port: ports.1,
    }
}

/// The flow of `ctnetlink` section 17: DNAT 10.20.0.210:8080 to 10.10.0.2:80.
fn worked_example() -> Flow {
    Flow {
        key: FlowKey { original: tuple("10.20.0.2", "10.20.0.210", 6, (56724, 8080)), zone: 0 },
        reply: tuple("10.10.0.2", "10.20.0.2", 6, (80, 56724)),
        status: 0x1ae,
        timeout: 431_997,
        mark: 0,
        tcp: Some(Tcp { state: 3, wscale: [0; 2], flags: [0; 2] }),
        id: 0,
        extra: None,
    }
}

const WORKED_EXAMPLE: &str = "d4000000 0001 0506 00000000 00000000 02 00 0000 \
    3400 0180 1400 0180 0800 0100 0a140002 0800 0200 0a1400d2 \
      1c00 0280 0500 0100 06 000000 0600 0200 dd94 0000 0600 0300 1f90 0000 \
    3400 0280 1400 0180 0800 0100 0a1400d2 0800 0200 0a140002 \
      1c00 0280 0500 0100 06 000000 0600 0200 1f90 0000 0600 0300 dd94 0000 \
    0800 0300 000001ae 0800 0700 0006977d 0800 0800 00000000 \
    2000 0480 1c00 0180 0500 0100 03 000000 0600 0400 0808 0000 0600 0500 0808 0000 \
    2000 0d80 0800 0100 0a0a0002 1400 0380 0600 0100 0050 0000 0600 0200 0050 0000";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Our create message equals the one captured from libnetfilter_conntrack, but for the acknowledgement that
/// we do not ask for and the NAT status bits that the kernel ignores.
#[cfg(target_endian = "little")]
#[test]
fn create_equals_the_captured_bytes() {
    let mut expected = hex(WORKED_EXAMPLE);
    expected[6] &= !0x04;
    let status_at = expected.windows(4).position(|bytes| bytes == [0, 0, 1, 0xae]).unwrap();
    expected[status_at..status_at + 4].copy_from_slice(&0x0e_u32.to_be_bytes());
    let mut builder = Builder::default();
    encode::create(&mut builder, 0, &worked_example()).unwrap();
    assert_eq!(builder.bytes(), expected);
}

/// The message as the kernel dumps the flow: translated reply tuple, no NAT attributes, flag masks zero.
fn dumped(flow: &Flow) -> Vec<u8> {
    let mut out = Builder::default();
    let family = if flow.key.original.source.is_ipv4() { uapi::FAMILY_V4 } else { uapi::FAMILY_V6 };
    let message = out.begin(uapi::CT_NEW, 0, 0, family);
    encode::put_tuple(&mut out, uapi::CTA_TUPLE_ORIG, &flow.key.original);
    encode::put_tuple(&mut out, uapi::CTA_TUPLE_REPLY, &flow.reply);
    if flow.key.zone != 0 {
        out.put_be16(uapi::CTA_ZONE, flow.key.zone);
    }
    out.put_be32(uapi::CTA_STATUS, flow.status);
    out.put_be32(uapi::CTA_TIMEOUT, flow.timeout);
    if flow.mark != 0 {
        out.put_be32(uapi::CTA_MARK, flow.mark);
    }
    if let Some(tcp) = flow.tcp {
        let info = out.nest(uapi::CTA_PROTOINFO);
        let nest = out.nest(uapi::CTA_PROTOINFO_TCP);
        out.put(uapi::CTA_PROTOINFO_TCP_STATE, &[tcp.state]);
        out.put(uapi::CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, &[tcp.wscale[0]]);
        out.put(uapi::CTA_PROTOINFO_TCP_WSCALE_REPLY, &[tcp.wscale[1]]);
        out.put(uapi::CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &[tcp.flags[0], 0]);
        out.put(uapi::CTA_PROTOINFO_TCP_FLAGS_REPLY, &[tcp.flags[1], 0]);
        out.end(nest);
        out.end(info);
    }
    out.put_be32(uapi::CTA_ID, flow.id);
    out.end(message);
    out.bytes().to_vec()
}

fn decoded(message: &[u8]) -> Result<Flow, Malformed> {
    let (_, payload) = Messages::new(message).next().ok_or(Malformed::Message)??;
    decode::flow(payload)
}

/// The flow that a create message describes, read by netlink-packet-netfilter: tuples, status, timeout, mark,
/// state and flags of TCP. It knows neither ICMP, zones nor NAT (`ctnetlink` section 19).
fn oracle(message: &[u8]) -> Flow {
    let message = NetlinkMessage::<NetfilterMessage>::deserialize(message).unwrap();
    let NetlinkPayload::InnerMessage(message) = message.payload else { panic!("not a netfilter message") };
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner else {
        panic!("not a conntrack message")
    };
    let empty = tuple("0.0.0.0", "0.0.0.0", 0, (0, 0));
    let key = FlowKey { original: empty, zone: 0 };
    let mut flow = Flow { key, reply: empty, status: 0, timeout: 0, mark: 0, tcp: None, id: 0, extra: None };
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(nest) => flow.key.original = oracle_tuple(&nest),
            ConntrackAttribute::CtaTupleReply(nest) => flow.reply = oracle_tuple(&nest),
            ConntrackAttribute::CtaStatus(status) => flow.status = status.bits(),
            ConntrackAttribute::CtaTimeout(timeout) => flow.timeout = timeout,
            ConntrackAttribute::CtaMark(mark) => flow.mark = mark,
            ConntrackAttribute::CtaProtoInfo(nest) => flow.tcp = Some(oracle_tcp(&nest)),
            other => assert!(matches!(other.kind() & 0x3fff, uapi::CTA_ZONE | uapi::CTA_ID)),
        }
    }
    flow
}

fn oracle_tuple(nest: &[OracleTuple]) -> Tuple {
    let mut tuple = tuple("0.0.0.0", "0.0.0.0", 0, (0, 0));
    for part in nest {
        match part {
            OracleTuple::Ip(ip) => {
                for address in ip {
                    match address {
                        IPTuple::SourceAddress(address) => tuple.source = *address,
                        IPTuple::DestinationAddress(address) => tuple.destination = *address,
                        other => panic!("{other:?}"),
                    }
                }
            }
            OracleTuple::Proto(proto) => {
                for field in proto {
                    match field {
                        ProtoTuple::Protocol(number) => tuple.protocol = (*number).into(),
                        ProtoTuple::SourcePort(port) => tuple.source_port = *port,
                        ProtoTuple::DestinationPort(port) => tuple.destination_port = *port,
                        other => panic!("{other:?}"),
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }
    tuple
}

fn oracle_tcp(nest: &[ProtoInfo]) -> Tcp {
    let mut tcp = Tcp::default();
    let Some(ProtoInfo::TCP(fields)) = nest.first() else { panic!("{nest:?}") };
    for field in fields {
        match field {
            ProtoInfoTCP::State(state) => tcp.state = *state,
            ProtoInfoTCP::OriginalWindowScale(scale) => tcp.wscale[0] = *scale,
            ProtoInfoTCP::ReplyWindowScale(scale) => tcp.wscale[1] = *scale,
            ProtoInfoTCP::OriginalFlags(flags) => tcp.flags[0] = flags.flags,
            ProtoInfoTCP::ReplyFlags(flags) => tcp.flags[1] = flags.flags,
            other => panic!("{other:?}"),
        }
    }
    tcp
}

fn any_tuple(v6: bool, protocol: u8) -> impl Strategy<Value = Tuple> {
    let address = move || {
        any::<[u8; 16]>().prop_map(move |bytes| {
            if v6 {
                IpAddr::V6(Ipv6Addr::from(bytes))
            } else {
                IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
            }
        })
    };
    let portless = !matches!(protocol, 1 | 6 | 17 | 33 | 47 | 58 | 132 | 136);
    (address(), address(), any::<(u16, u16)>()).prop_map(move |(source, destination, ports)| {
        let (source_port, destination_port) = if portless { (0, 0) } else { ports };
        Tuple { source, destination, protocol, source_port, destination_port }
    })
}

fn any_flow(protocols: &'static [u8]) -> impl Strategy<Value = Flow> {
    (any::<bool>(), proptest::sample::select(protocols)).prop_flat_map(|(v6, protocol)| {
        let tuples = (any_tuple(v6, protocol), any_tuple(v6, protocol));
        let numbers = (any::<u16>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
        let tcp = (0..=9u8, any::<[u8; 2]>(), any::<[u8; 2]>());
        (tuples, numbers, tcp).prop_map(move |((original, reply), (zone, status, timeout, mark, id), tcp)| Flow {
            key: FlowKey { original, zone },
            reply,
            status,
            timeout,
            mark,
            tcp: (protocol == 6).then_some(Tcp { state: tcp.0, wscale: tcp.1, flags: tcp.2 }),
            id,
            extra: None,
        })
    })
}

proptest! {
    /// What the kernel would dump for any flow of any protocol decodes to that flow.
    #[test]
    fn dump_round_trip(flow in any_flow(&[1, 6, 17, 33, 47, 50, 58, 132, 136])) {
        prop_assert_eq!(decoded(&dumped(&flow)), Ok(flow));
    }

    /// netlink-packet-netfilter reads the same flow from a dump message as we do.
    #[test]
    fn dump_agrees_with_oracle(flow in any_flow(&[6, 17])) {
        let message = dumped(&flow);
        let ours = decoded(&message).unwrap();
        let key = FlowKey { zone: 0, ..ours.key };
        prop_assert_eq!(oracle(&message), Flow { key, id: 0, ..ours });
    }

    /// A create request carries the plain inverse reply tuple, settable status bits, and the liberal flag in
    /// both directions, whatever the flow.
    #[test]
    fn create_is_acceptable(flow in any_flow(&[1, 6, 17, 47, 58, 136])) {
        let mut builder = Builder::default();
        encode::create(&mut builder, 1, &flow).unwrap();
        let sent = decoded(builder.bytes()).unwrap();
        prop_assert_eq!(sent.key, flow.key);
        prop_assert_eq!(sent.reply, flow.key.original.inverse());
        prop_assert_eq!(sent.status & !0x40e, 0);
        prop_assert_eq!(sent.status & status::CONFIRMED, status::CONFIRMED);
        prop_assert_eq!((sent.timeout, sent.mark), (flow.timeout, flow.mark));
        if let (Some(sent), Some(tcp)) = (sent.tcp, flow.tcp) {
            prop_assert_eq!(sent.state, tcp.state);
            for direction in 0..2 {
                prop_assert_eq!(sent.flags[direction], tcp.flags[direction] & 0x07 | 0x08);
                prop_assert!(sent.wscale[direction] <= 14);
            }
        }
    }

    /// No bytes make the decoder panic: arbitrary ones, and a message with one byte changed or cut anywhere.
    #[test]
    fn decoder_is_total(
        noise in proptest::collection::vec(any::<u8>(), 0..300),
        flow in any_flow(&[1, 6, 17, 58]),
        at in any::<proptest::sample::Index>(),
        value in any::<u8>(),
    ) {
        let _ = decoded(&noise);
        let _ = decode::flow(&noise);
        let mut message = dumped(&flow);
        let at = at.index(message.len());
        let _ = decode::flow(&message[16..16.max(at)]);
        message[at] = value;
        let _ = decoded(&message);
        let _ = decode::flow(&message[16..]);
    }

    /// A delete always names its entry by a tuple: without one the kernel would flush the table.
    #[test]
    fn delete_has_a_tuple(flow in any_flow(&[1, 6, 50, 58])) {
        let mut builder = Builder::default();
        encode::delete(&mut builder, 1, &flow.key, flow.id).unwrap();
        let (header, payload) = Messages::new(builder.bytes()).next().unwrap().unwrap();
        prop_assert_eq!(header.kind, uapi::CT_DELETE);
        let kinds: Vec<u16> = Attributes::new(&payload[4..]).map(|attribute| attribute.unwrap().0).collect();
        prop_assert_eq!(kinds[0], uapi::CTA_TUPLE_ORIG);
        prop_assert_eq!(kinds.contains(&uapi::CTA_ID), flow.id != 0);
        prop_assert_eq!(kinds.contains(&uapi::CTA_ZONE), flow.key.zone != 0);
    }
}

/// The kinds of the top-level attributes of a request.
fn kinds(builder: &Builder) -> Vec<u16> {
    let (_, payload) = Messages::new(builder.bytes()).next().unwrap().unwrap();
    Attributes::new(&payload[4..]).map(|attribute| attribute.unwrap().0).collect()
}

/// NAT attributes appear for the directions that are translated, and for an untranslated destination beside a translated
/// source where the protocol has ports; never in an update, where the kernel would refuse them.
#[test]
fn nat_attributes() {
    let plain = {
        let original = tuple("10.0.0.1", "10.0.1.1", 17, (1000, 53));
        let key = FlowKey { original, zone: 0 };
        Flow { key, reply: original.inverse(), status: 0xe, timeout: 30, mark: 0, tcp: None, id: 0, extra: None }
    };
    let snat = Flow { reply: tuple("10.0.1.1", "10.9.9.9", 17, (53, 1000)), ..plain.clone() };
    let port_only = Flow { reply: tuple("10.0.1.1", "10.0.0.1", 17, (53, 2000)), ..plain.clone() };
    let dnat = Flow { reply: tuple("10.8.8.8", "10.0.0.1", 17, (53, 1000)), ..plain.clone() };
    let to_itself = Flow { status: 0x19e, ..plain.clone() };
    let echo = {
        let original = tuple("10.0.0.1", "10.0.1.1", 1, (7, 0x0800));
        let reply = Tuple { destination: "10.9.9.9".parse().unwrap(), ..original.inverse() };
        Flow { key: FlowKey { original, zone: 0 }, reply, ..plain.clone() }
    };
    let cases = [
        (plain, vec![]),
        (echo, vec![uapi::CTA_NAT_SRC]),
        (snat, vec![uapi::CTA_NAT_SRC, uapi::CTA_NAT_DST]),
        (port_only, vec![uapi::CTA_NAT_SRC, uapi::CTA_NAT_DST]),
        (dnat, vec![uapi::CTA_NAT_DST]),
        (to_itself, vec![uapi::CTA_NAT_SRC, uapi::CTA_NAT_DST]),
    ];
    for (flow, expected) in cases {
        let mut builder = Builder::default();
        encode::create(&mut builder, 1, &flow).unwrap();
        let is_nat = |kind: &u16| matches!(*kind, uapi::CTA_NAT_SRC | uapi::CTA_NAT_DST);
        let found: Vec<u16> = kinds(&builder).into_iter().filter(is_nat).collect();
        assert_eq!(found, expected, "{flow:?}");
        builder.clear();
        encode::update(&mut builder, 1, &flow, UpdateParts::ALL).unwrap();
        assert!(!kinds(&builder).iter().any(is_nat));
    }
}

/// A flow whose tuples mix families cannot be written, and leaves no half message behind.
#[test]
fn mixed_families_are_refused() {
    let mut flow = worked_example();
    flow.reply.source = "2001:db8::1".parse().unwrap();
    let mut builder = Builder::default();
    assert_eq!(encode::create(&mut builder, 1, &flow), Err(encode::MixedFamilies));
    flow.key.original.source = "2001:db8::1".parse().unwrap();
    assert_eq!(encode::update(&mut builder, 1, &flow, UpdateParts::ALL), Err(encode::MixedFamilies));
    assert!(builder.bytes().is_empty());
}

/// An entry that a flowtable forwards has no timeout and no state in its dump: it counts as established.
#[test]
fn offloaded_flows_are_completed() {
    let mut out = Builder::default();
    let message = out.begin(uapi::CT_NEW, 0, 0, uapi::FAMILY_V4);
    let example = worked_example();
    encode::put_tuple(&mut out, uapi::CTA_TUPLE_ORIG, &example.key.original);
    encode::put_tuple(&mut out, uapi::CTA_TUPLE_REPLY, &example.reply);
    out.put_be32(uapi::CTA_STATUS, uapi::STATUS_OFFLOAD | status::CONFIRMED);
    out.end(message);
    let flow = decoded(out.bytes()).unwrap();
    assert_eq!((flow.timeout, flow.tcp.map(|tcp| tcp.state)), (432_000, Some(uapi::TCP_ESTABLISHED)));
    assert_ne!(flow.status & status::ASSURED, 0);
}

/// Port attributes of a protocol that has none, which no kernel sends, are no part of the identity.
#[test]
fn ports_belong_to_protocols_that_have_them() {
    let tcp = tuple("10.0.0.1", "10.0.0.2", 6, (1, 2));
    let mut out = Builder::default();
    let message = out.begin(uapi::CT_NEW, 0, 0, uapi::FAMILY_V4);
    encode::put_tuple(&mut out, uapi::CTA_TUPLE_ORIG, &tcp);
    encode::put_tuple(&mut out, uapi::CTA_TUPLE_REPLY, &tcp.inverse());
    out.end(message);
    let number = [5, 0, 1, 0, 6];
    let mut bytes = out.bytes().to_vec();
    for at in 0..bytes.len() - number.len() {
        if bytes[at..].starts_with(&number) {
            bytes[at + 4] = 253;
        }
    }
    let flow = decoded(&bytes).unwrap();
    assert_eq!(flow.key.original, tuple("10.0.0.1", "10.0.0.2", 253, (0, 0)));
    assert_eq!(flow.reply, flow.key.original.inverse());
}

/// What lacks an identity, contradicts itself or lies in two zones is refused under its own name.
#[test]
fn refusals_have_names() {
    let v4 = tuple("10.0.0.1", "10.0.0.2", 6, (1, 2));
    let message = |orig: Option<&Tuple>, reply: Option<&Tuple>, two_zones: bool| {
        let mut out = Builder::default();
        let message = out.begin(uapi::CT_NEW, 0, 0, uapi::FAMILY_V4);
        if let Some(tuple) = orig {
            encode::put_tuple(&mut out, uapi::CTA_TUPLE_ORIG, tuple);
        }
        if let Some(tuple) = reply {
            encode::put_tuple(&mut out, uapi::CTA_TUPLE_REPLY, tuple);
        }
        if two_zones {
            encode::put_tuple_in_zone(&mut out, uapi::CTA_TUPLE_ORIG, &v4, Some(1));
            encode::put_tuple_in_zone(&mut out, uapi::CTA_TUPLE_REPLY, &v4, Some(2));
        }
        out.end(message);
        decoded(out.bytes())
    };
    let v6 = tuple("2001:db8::1", "2001:db8::2", 6, (1, 2));
    let udp = Tuple { protocol: 17, ..v4 };
    assert_eq!(message(Some(&v4), None, false), Err(Malformed::TupleMissing));
    assert_eq!(message(None, Some(&v4), false), Err(Malformed::TupleMissing));
    assert_eq!(message(Some(&v4), Some(&v6), false), Err(Malformed::TuplesDiffer));
    assert_eq!(message(Some(&v4), Some(&udp), false), Err(Malformed::TuplesDiffer));
    assert_eq!(message(Some(&v4), Some(&v4), true), Err(Malformed::TwoZones));
    assert_eq!(decode::flow(&[]), Err(Malformed::Message));
}
