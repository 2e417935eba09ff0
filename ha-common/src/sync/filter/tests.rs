//! Each criterion by itself.

use super::*;
use crate::sync::flow::{FlowKey, Tcp};

const CLIENT: &str = "10.20.0.2";
const SERVER: &str = "10.10.0.2";
const VIP: &str = "10.10.0.210";

fn flow(original: (&str, &str), reply: (&str, &str), status: u32) -> Flow {
    let tuple = |(source, destination): (&str, &str), (source_port, destination_port)| Tuple {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: 6,
        source_port,
        destination_port,
    };
    let key = FlowKey { original: tuple(original, (1000, 80)), zone: 0 };
    Flow { key, reply: tuple(reply, (80, 1000)), status, timeout: 60, mark: 0, tcp: None, id: 0, extra: None }
}

fn plain() -> Flow {
    flow((CLIENT, SERVER), (SERVER, CLIENT), status::SEEN_REPLY)
}

fn prefixes(list: &[(&str, u8)]) -> PrefixSet {
    list.iter().map(|(address, length)| Prefix::new(address.parse().unwrap(), *length)).collect()
}

fn judge_with_own(original: (&str, &str), reply: (&str, &str), status: u32) -> Result<(), FilterReason> {
    let own = [VIP, "10.20.0.1", "2001:db8::1"].map(|address| Prefix::host(address.parse().unwrap()));
    let filter = Filter { local: own.into_iter().collect(), ..Filter::default() };
    filter.judge(&flow(original, reply, status))
}

/// Forwarded flows are replicated, whatever their translation: none, source NAT to the virtual address,
/// destination NAT from it, and both.
#[test]
fn forwarded_flows_are_accepted() {
    let accepted = |original, reply, status| assert_eq!(judge_with_own(original, reply, status), Ok(()));
    accepted((CLIENT, SERVER), (SERVER, CLIENT), 0);
    accepted((CLIENT, SERVER), (SERVER, VIP), status::SRC_NAT);
    accepted((SERVER, VIP), (CLIENT, SERVER), status::DST_NAT);
    accepted((CLIENT, VIP), (SERVER, VIP), status::SRC_NAT | status::DST_NAT);
    accepted(("2001:db8::2", "2001:db8::3"), ("2001:db8::3", "2001:db8::2"), 0);
}

/// Flows that begin or end on the node itself stay local: to and from a virtual or interface address, also
/// redirected to one, and loopback, multicast, broadcast, DHCP and link-local ones.
#[test]
fn local_flows_are_ignored() {
    let local = |original, reply, status| {
        assert_eq!(judge_with_own(original, reply, status), Err(FilterReason::LocalAddress), "{original:?}");
    };
    local((CLIENT, VIP), (VIP, CLIENT), 0);
    local((VIP, SERVER), (SERVER, VIP), 0);
    local(("10.20.0.1", SERVER), (SERVER, VIP), status::SRC_NAT);
    local((CLIENT, SERVER), ("10.20.0.1", CLIENT), status::DST_NAT);
    local(("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), 0);
    local((CLIENT, "224.0.0.251"), ("224.0.0.251", CLIENT), 0);
    local(("0.0.0.0", "255.255.255.255"), ("255.255.255.255", "0.0.0.0"), 0);
    local(("fe80::2", "fe80::1"), ("fe80::1", "fe80::2"), 0);
    local(("2001:db8::2", "2001:db8::1"), ("2001:db8::1", "2001:db8::2"), 0);
}

/// The constant networks are what the standard library's names mean, at the ends of every network and beside them.
#[test]
fn what_is_never_forwarded() {
    let by_name = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_multicast() || v6.is_unspecified() || v6.is_unicast_link_local(),
    };
    let texts = [
        "126.255.255.255",
        "127.0.0.0",
        "127.255.255.255",
        "128.0.0.0",
        "223.255.255.255",
        "224.0.0.0",
        "239.255.255.255",
        "240.0.0.0",
        "255.255.255.254",
        "255.255.255.255",
        "0.0.0.0",
        "0.0.0.1",
        "::",
        "::1",
        "::2",
        "fe7f::1",
        "fe80::",
        "febf:ffff::1",
        "fec0::1",
        "feff::1",
        "ff00::",
        "ff02::12",
    ];
    for text in texts {
        let address = text.parse().unwrap();
        assert_eq!(never_forwarded(address), by_name(address), "{text}");
    }
}

/// Only the wanted protocols, by number, at both ends of the set.
#[test]
fn protocols() {
    let filter = Filter { protocols: [6, 17, 0, 255].into_iter().collect(), ..Filter::default() };
    let mut flow = plain();
    for (protocol, expected) in [(6, true), (17, true), (0, true), (255, true), (132, false), (1, false), (254, false)]
    {
        flow.key.original.protocol = protocol;
        assert_eq!(filter.judge(&flow).is_ok(), expected, "{protocol}");
    }
    let all_but_udp = ProtocolSet::ALL.without([17].into_iter().collect());
    assert!(all_but_udp.contains(6) && !all_but_udp.contains(17));
}

/// As conntrackd's lists: the original source, or the host that really answers, is looked at, not the address that the
/// client was told of; ignored wins over accepted.
#[test]
fn addresses() {
    let lists = |accept: Option<&[(&str, u8)]>, ignore: &[(&str, u8)]| Filter {
        addresses: Lists { accept: accept.map(prefixes), ignore: prefixes(ignore) },
        ..Filter::default()
    };
    let dnat = flow((CLIENT, "192.0.2.1"), (SERVER, CLIENT), status::DST_NAT);
    for (filter, expected) in [
        (lists(None, &[("10.20.0.0", 16)]), false),
        (lists(None, &[(SERVER, 32)]), false),
        (lists(None, &[("192.0.2.1", 32)]), true),
        (lists(None, &[("10.20.0.3", 32), ("2001:db8::", 32)]), true),
        (lists(Some(&[("10.20.0.0", 24)]), &[]), true),
        (lists(Some(&[("10.10.0.0", 24)]), &[]), true),
        (lists(Some(&[("192.0.2.0", 24)]), &[]), false),
        (lists(Some(&[("10.0.0.0", 8)]), &[(CLIENT, 32)]), false),
    ] {
        let expected = if expected { Ok(()) } else { Err(FilterReason::Address) };
        assert_eq!(filter.judge(&dnat), expected, "{:?}", filter.addresses);
    }
}

/// The service's port on either side of destination NAT, of one protocol or any; protocols without ports do not care.
#[test]
fn ports() {
    let range = |protocol, first, last| PortMatch { protocol, first, last };
    let accept = |list| Filter { ports: Lists { accept: Some(list), ignore: Vec::new() }, ..Filter::default() };
    let ignore = |list| Filter { ports: Lists { accept: None, ignore: list }, ..Filter::default() };
    let mut flow = plain();
    flow.reply.source_port = 8080;
    assert!(accept(vec![range(None, 80, 80)]).judge(&flow).is_ok());
    assert!(accept(vec![range(Some(6), 8000, 8099)]).judge(&flow).is_ok());
    assert_eq!(accept(vec![range(Some(17), 1, 65535)]).judge(&flow), Err(FilterReason::Port));
    assert_eq!(accept(vec![range(None, 1000, 1000)]).judge(&flow), Err(FilterReason::Port));
    assert_eq!(ignore(vec![range(None, 443, 443), range(None, 8080, 8080)]).judge(&flow), Err(FilterReason::Port));
    assert!(ignore(vec![range(Some(17), 80, 80)]).judge(&flow).is_ok());
    flow.key.original.protocol = 1;
    assert!(accept(vec![range(None, 1, 1)]).judge(&flow).is_ok());
}

/// Zones by number, marks by the bits of their mask, ASSURED, TCP states by name; what an event leaves out is not held
/// against the flow.
#[test]
fn zones_marks_assured_and_states() {
    let mut flow = Flow { mark: 0x1234, ..plain() };
    flow.key.zone = 7;
    let zones = |accept, ignore| Filter { zones: Lists { accept, ignore }, ..Filter::default() };
    assert!(zones(Some(vec![0, 7]), vec![]).judge(&flow).is_ok());
    assert_eq!(zones(Some(vec![0]), vec![]).judge(&flow), Err(FilterReason::Zone));
    assert_eq!(zones(None, vec![7]).judge(&flow), Err(FilterReason::Zone));
    let marks = |value, mask| vec![MarkMatch { value, mask }];
    let marked = |accept, ignore| Filter { marks: Lists { accept, ignore }, ..Filter::default() };
    assert!(marked(Some(marks(0x1200, 0xff00)), vec![]).judge(&flow).is_ok());
    assert_eq!(marked(Some(marks(0x1234, 0xffff_ffff)), marks(4, 0xf)).judge(&flow), Err(FilterReason::Mark));
    assert_eq!(marked(Some(marks(0x1200, u32::MAX)), vec![]).judge(&flow), Err(FilterReason::Mark));
    let assured = Filter { assured_only: true, ..Filter::default() };
    assert_eq!(assured.judge(&flow), Err(FilterReason::NotAssured));
    flow.status |= status::ASSURED;
    assert!(assured.judge(&flow).is_ok());
    let states = Filter { tcp_states: TcpStates(1 << 3), ..Filter::default() };
    for (state, expected) in [(None, true), (Some(3), true), (Some(1), false), (Some(15), false), (Some(200), false)] {
        flow.tcp = state.map(|state| Tcp { state, ..Tcp::default() });
        assert_eq!(states.judge(&flow).is_ok(), expected, "{state:?}");
        assert!(states.keeps(&flow), "a state takes nothing back");
    }
    assert!(!assured.keeps(&plain()) && !marked(None, marks(0, 1)).keeps(&plain()));
}
