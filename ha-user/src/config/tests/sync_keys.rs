//! The keys of `[sync]`: links, filter, modes.

use super::*;

const FILTER_KEYS: &str = r#"
[sync.filter]
protocols = { ignore = ["udp", 47] }
addresses = { accept = ["10.0.0.0/8", "2001:db8::/32"], ignore = ["10.9.0.1"] }
ports = ["tcp/443", "8000-8999", 53]
tcp_states = ["established", "CLOSED"]
zones = { ignore = [7] }
marks = ["0x10/0xf0", 5]
assured_only = true
min_age = "2s"
"#;

/// The packaged pair with these keys more in `[sync]`.
fn with_sync_keys(keys: &str) -> String {
    let before = "sync = { interface = \"eth0\" }";
    assert!(PACKAGED.contains(before));
    PACKAGED.replace(before, &format!("sync = {{ interface = \"eth0\", {keys} }}"))
}

/// A second link, its addresses in the order of the nodes, duplicated sending, a group and buffers; without them one
/// link, failover and unicast.
#[test]
fn link_keys() {
    let files = Files::new();
    let (plain, _) = files.resolve(PACKAGED).unwrap();
    assert_eq!(plain.sync.transport, links::Transport::default());
    assert_eq!(plain.sync_links().len(), 1);
    let text = with_sync_keys(
        "links = \"duplicate\", transport = \"multicast\", receive_buffer = 100000, \
         link = [{ interface = \"eth3\", addresses = { fw2 = \"10.78.0.2\", fw1 = \"10.78.0.1\" } }]",
    );
    let (resolved, _) = files.resolve(&text).unwrap();
    let transport = &resolved.sync.transport;
    assert_eq!(transport.sending, ha_common::sync::Sending::Duplicate);
    assert_eq!(transport.group, Some(IpAddr::from([225, 0, 0, 50])));
    assert_eq!((transport.receive_buffer, transport.send_buffer), (100_000, 4 << 20));
    let links = resolved.sync_links();
    assert_eq!((links[0].interface.as_str(), links[0].addresses[1]), ("eth0", IpAddr::from([192, 168, 103, 209])));
    assert_eq!(links[1].addresses, [IpAddr::from([10, 78, 0, 1]), IpAddr::from([10, 78, 0, 2])]);
}

/// What is wrong with links is named with its remedy: a repeated interface or address, a node without an address or
/// unknown, another family, no group, a group without multicast, and too many links.
#[test]
fn wrong_link_keys() {
    let files = Files::new();
    let link = |interface: &str, fw1: &str, fw2: &str| {
        format!("{{ interface = \"{interface}\", addresses = {{ fw1 = \"{fw1}\", fw2 = \"{fw2}\" }} }}")
    };
    let four: Vec<_> =
        (1..=4).map(|n| link(&format!("eth{}", n + 3), &format!("10.78.{n}.1"), &format!("10.78.{n}.2"))).collect();
    let cases = [
        (format!("link = [{}]", link("eth0", "10.78.0.1", "10.78.0.2")), "eth0 stands at sync.interface already"),
        (format!("link = [{}]", link("eth3", "192.168.103.208", "10.78.0.2")), "stands at nodes.fw1.sync_address already"),
        ("link = [{ interface = \"eth3\", addresses = { fw1 = \"10.78.0.1\" } }]".to_owned(), "no address of node fw2"),
        (
            "link = [{ interface = \"eth3\", addresses = { fw1 = \"10.78.0.1\", fw2 = \"10.78.0.2\", x = \"10.78.0.3\" } }]"
                .to_owned(),
            "there is no node \"x\"",
        ),
        (format!("link = [{}]", link("eth3", "fd00::1", "fd00::2")), "not of the family"),
        ("transport = \"multicast\", group = \"10.0.0.1\"".to_owned(), "is no multicast group"),
        ("group = \"225.0.0.50\"".to_owned(), "says nothing without multicast"),
        (format!("link = [{}]", four.join(", ")), "there are 4 further links"),
    ];
    for (keys, wanted) in cases {
        let report = files.report(&with_sync_keys(&keys));
        assert!(report.contains(wanted), "{keys}: {report}");
    }
}

/// Every key of the filter in each of its forms; a list is what is accepted. The nodes' own addresses are in it by
/// themselves.
#[test]
fn filter_keys() {
    let text = PACKAGED.replace("sync = { interface = \"eth0\" }", "sync.interface = \"eth2\"") + FILTER_KEYS;
    let (resolved, report) = Files::new().resolve(&text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.problems, []);
    let filter = &resolved.sync.filter;
    let protocols = [6, 17, 47, 132].map(|protocol| filter.protocols.contains(protocol));
    assert_eq!(protocols, [true, false, false, true]);
    let inside: IpAddr = "10.1.2.3".parse().unwrap();
    let accept = filter.addresses.accept.as_ref().unwrap();
    assert!(accept.contains(inside) && accept.contains("2001:db8:9::1".parse().unwrap()));
    assert!(filter.addresses.ignore.contains([10, 9, 0, 1].into()) && !filter.addresses.ignore.contains(inside));
    let ports: Vec<_> =
        filter.ports.accept.iter().flatten().map(|port| (port.protocol, port.first, port.last)).collect();
    assert_eq!(ports, [(Some(6), 443, 443), (None, 8000, 8999), (None, 53, 53)]);
    assert_eq!(filter.tcp_states.0, 1 << 3 | 1 << 8);
    assert_eq!((&filter.zones.accept, filter.zones.ignore.as_slice()), (&None, &[7][..]));
    let marks: Vec<_> = filter.marks.accept.iter().flatten().map(|mark| (mark.value, mark.mask)).collect();
    assert_eq!(marks, [(0x10, 0xf0), (5, u32::MAX)]);
    assert_eq!((filter.assured_only, filter.min_age), (true, Duration::from_secs(2)));
    for own in ["127.8.8.8", "::1", "157.159.40.139", "192.168.103.209"] {
        assert!(filter.local.contains(own.parse().unwrap()), "{own}");
    }
}

/// Without the table every forwarded flow is replicated, whatever its protocol.
#[test]
fn filter_defaults() {
    let filter = packaged().sync.filter;
    assert_eq!(filter, Filter { local: filter.local.clone(), ..Filter::default() });
}

/// Each wrong form of a criterion is refused at its place with its remedy.
#[test]
fn wrong_filter_keys() {
    let text = PACKAGED.replace("sync = { interface = \"eth0\" }", "sync.interface = \"eth2\"")
        + r#"
[sync.filter]
protocols = ["tpc", "quic", 256, true]
addresses = { accept = ["10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/+8", "example.org", 5], ignored = [] }
ignore_addresses = []
ports = ["tcp", "icmp/1", "9-1", 0, "70000", "tcp/80-"]
tcp_states = ["ESTABLISHD", "OPEN"]
zones = [65536, "a"]
marks = ["0x10/0x0f", "ten", -1, "0xfffffffff"]
assured_only = "yes"
min_age = "2h"
"#;
    insta::assert_snapshot!(Files::new().report(&text));
    let both = PACKAGED.replace("sync = { interface = \"eth0\" }", "sync.interface = \"eth2\"")
        + "[sync.filter]\nignore_addresses = [\"10.0.0.1\"]\naddresses = { ignore = [\"10.0.0.2\"] }\nzones = {}\n";
    insta::assert_snapshot!(Files::new().report(&both), @"
    t.toml:21:9: error: sync.filter.zones.accept: is missing
        remedy: write zones = [ … ], or zones = { ignore = [ … ] }
    t.toml:19:20: warning: sync.filter.ignore_addresses: says the same as addresses.ignore, which is there as well
        remedy: write all of them into addresses.ignore, and remove ignore_addresses
    ");
}

/// The three modes by name with their times; a cache timeout that one lost frame would end is refused, and times of
/// another mode are warned of.
#[test]
fn sync_modes() {
    use ha_common::sync::Mode;
    use std::time::Duration;
    let with = |keys: &str| PACKAGED.replacen("interface = \"eth0\" }", &format!("interface = \"eth0\"{keys} }}"), 1);
    let resolve = |keys: &str| Files::new().resolve(&with(keys)).unwrap_or_else(|error| panic!("{error}"));
    let (alarm, report) = resolve(", mode = \"alarm\", refresh_time = \"5s\", cache_timeout = \"600s\"");
    let seconds = Duration::from_secs;
    assert_eq!((alarm.sync.mode.mode, report.warnings()), (Mode::Alarm, resolve("").1.warnings()));
    assert_eq!((alarm.sync.mode.refresh_time, alarm.sync.mode.cache_timeout), (seconds(5), seconds(600)));
    let (notrack, report) = resolve(", mode = \"notrack\", refresh_time = \"5s\", purge_timeout = \"20s\"");
    assert_eq!((notrack.sync.mode.mode, notrack.sync.mode.purge_timeout), (Mode::Notrack, seconds(20)));
    assert_eq!(report.warnings(), resolve("").1.warnings() + 1);
    assert_eq!(resolve("").0.sync.mode, crate::config::sync_mode::SyncMode::default());
    let wrong = Files::new().report(&with(", mode = \"alarm\", refresh_time = \"20s\", cache_timeout = \"30s\""));
    assert!(wrong.contains("sync.cache_timeout: 30s is less than two refresh times (20s)"), "{wrong}");
}
