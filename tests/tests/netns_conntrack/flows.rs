//! Flows of every kind, and when the kernel's entry is the one that was written.

use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple, status};

/// A namespace's table is empty but for what IPv6 multicast may add; every flow here is from one of these.
pub const PORT: u16 = 80;

pub fn tuple(source: &str, destination: &str, protocol: u8, ports: (u16, u16)) -> Tuple {
    Tuple {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol,
        source_port: ports.0,
        destination_port: ports.1,
    }
}

/// An untranslated flow that has seen traffic both ways.
pub fn plain(original: Tuple) -> Flow {
    Flow {
        key: FlowKey { original, zone: 0 },
        reply: original.inverse(),
        status: status::SEEN_REPLY | status::ASSURED | status::CONFIRMED,
        timeout: 600,
        mark: 0,
        tcp: (original.protocol == 6).then_some(Tcp { state: 3, wscale: [7, 9], flags: [0x03, 0x03] }),
        id: 0,
        extra: None,
    }
}

/// One flow of every kind that is replicated.
pub fn every_kind() -> Vec<Flow> {
    let v4 = |n: u16, protocol, ports| tuple(&format!("10.1.0.{n}"), "10.2.0.1", protocol, ports);
    let v6 = |n: u16, protocol, ports| tuple(&format!("2001:db8:1::{n}"), "2001:db8:2::1", protocol, ports);
    let mut flows = vec![
        plain(v4(1, 6, (1001, PORT))),
        Flow { mark: 0xdead_beef, ..plain(v4(2, 6, (1002, PORT))) },
        Flow { key: FlowKey { original: v4(3, 6, (1003, PORT)), zone: 7 }, ..plain(v4(3, 6, (1003, PORT))) },
        plain(v4(4, 17, (1004, 53))),
        Flow { status: status::CONFIRMED, ..plain(v4(5, 17, (1005, 53))) },
        plain(v4(6, 136, (1006, 53))),
        plain(v4(7, 132, (1007, 36412))),
        plain(v4(8, 47, (0x1008, 0x2008))),
        plain(v4(9, 50, (0, 0))),
        plain(v4(10, 1, (0x77, 8 << 8))),
        plain(v4(11, 1, (0x78, 13 << 8))),
        plain(v6(1, 6, (1001, PORT))),
        plain(v6(2, 17, (1002, 53))),
        plain(v6(3, 58, (0x79, 128 << 8))),
        Flow {
            status: status::CONFIRMED | status::SEEN_REPLY | status::FIXED_TIMEOUT,
            ..plain(v4(12, 17, (1012, 53)))
        },
    ];
    // Every TCP state, and a flow that did not negotiate window scaling.
    flows.extend((1..=9).map(|state| Flow {
        tcp: Some(Tcp { state, wscale: [0, 0], flags: [0, 0] }),
        ..plain(v4(20 + u16::from(state), 6, (1020, PORT)))
    }));
    flows.extend(translated());
    flows
}

/// Source, destination and both translations, with and without a change of port or id.
fn translated() -> Vec<Flow> {
    let nat = |original: Tuple, reply: Tuple, bits: u32| Flow { reply, ..with_status(plain(original), bits) };
    let (src, dst) = (status::SRC_NAT, status::DST_NAT);
    vec![
        nat(tuple("10.1.1.1", "10.2.0.1", 6, (5001, PORT)), tuple("10.2.0.1", "10.2.0.210", 6, (PORT, 5001)), src),
        nat(tuple("10.1.1.2", "10.2.0.1", 6, (5001, PORT)), tuple("10.2.0.1", "10.2.0.210", 6, (PORT, 51629)), src),
        nat(tuple("10.1.1.3", "10.2.0.1", 17, (5003, 53)), tuple("10.2.0.1", "10.2.0.210", 17, (53, 5003)), src),
        nat(tuple("10.2.0.9", "10.2.0.210", 6, (5004, 8080)), tuple("10.1.0.2", "10.2.0.9", 6, (PORT, 5004)), dst),
        nat(
            tuple("10.2.0.9", "10.2.0.210", 6, (5005, 8080)),
            tuple("10.1.0.2", "10.1.0.1", 6, (PORT, 6005)),
            src | dst,
        ),
        nat(tuple("10.1.1.6", "10.2.0.1", 1, (0x51, 8 << 8)), tuple("10.2.0.1", "10.2.0.210", 1, (0x51, 0)), src),
        nat(tuple("10.1.1.7", "10.2.0.1", 1, (0x51, 8 << 8)), tuple("10.2.0.1", "10.2.0.210", 1, (0x52, 0)), src),
        nat(tuple("10.1.1.8", "10.2.0.1", 47, (0x10, 0x20)), tuple("10.2.0.1", "10.2.0.210", 47, (0x20, 0x10)), src),
        nat(tuple("10.1.1.9", "10.2.0.1", 50, (0, 0)), tuple("10.2.0.1", "10.2.0.210", 50, (0, 0)), src),
        nat(
            tuple("2001:db8:1::9", "2001:db8:2::1", 6, (5001, PORT)),
            tuple("2001:db8:2::1", "2001:db8:2::210", 6, (PORT, 61000)),
            src,
        ),
        nat(
            tuple("2001:db8:1::9", "2001:db8:2::210", 17, (5001, 53)),
            tuple("2001:db8:1::53", "2001:db8:1::9", 17, (5353, 5001)),
            dst,
        ),
        nat(
            tuple("2001:db8:1::9", "2001:db8:2::1", 58, (0x61, 128 << 8)),
            tuple("2001:db8:2::1", "2001:db8:2::210", 58, (0x61, 129 << 8)),
            src,
        ),
        nat(
            tuple("10.1.1.10", "10.2.0.1", 132, (5010, 36412)),
            tuple("10.2.0.1", "10.2.0.210", 132, (36412, 5010)),
            src,
        ),
    ]
}

pub fn with_status(flow: Flow, bits: u32) -> Flow {
    Flow { status: flow.status | bits, ..flow }
}

/// What of the status travels, and the NAT set-up that the kernel derived from our attributes.
const COMPARED: u32 = status::REPLICATED | status::CONFIRMED;

/// The entry is the flow: identity, translation, status, mark, state, and the timeout within what passed.
pub fn assert_same(entry: &Flow, flow: &Flow) {
    assert_eq!(entry.key, flow.key);
    assert_eq!(entry.reply, flow.reply, "{flow:?}");
    assert_eq!(entry.status & COMPARED, flow.status & COMPARED, "{flow:?} {entry:?}");
    assert_eq!(entry.mark, flow.mark, "{flow:?}");
    assert!(flow.timeout.abs_diff(entry.timeout) <= 5, "{flow:?} {entry:?}");
    match (entry.tcp, flow.tcp) {
        (Some(entry), Some(wanted)) => {
            assert_eq!(entry.state, wanted.state);
            assert_eq!(entry.wscale, wanted.wscale);
            // Liberal in both directions, or the first packets after a takeover are INVALID.
            assert_eq!(entry.flags.map(|flags| flags & 0x0b), wanted.flags.map(|flags| flags & 0x03 | 0x08));
        }
        (entry, wanted) => assert_eq!(entry.is_some(), wanted.is_some(), "{flow:?}"),
    }
}
