//! The standby's kernel table is the master's: bulk, deletes, losses, flows that make no event, pings in flight.

use ha_tests::conntrack::{differences, seconds_left, table};
use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::topology::{CLIENT, Node, SERVER};
use ha_tests::traffic::flood::Flood;
use ha_tests::traffic::icmp::{self, ECHO_REPLY, ECHO_REQUEST, Echo};
use ha_tests::traffic::{Load, Traffic};
use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The flows of the client, as both kernels list them.
fn tables(lab: &Lab) -> [BTreeSet<String>; 2] {
    Node::BOTH.map(|node| table(&lab.pair[node], &format!("src={CLIENT}")).unwrap())
}

fn expect_equal(lab: &Lab, at_least: usize, limit: Duration) {
    let mut last = tables(lab);
    wait_until("both tables are equal", limit, || {
        last = tables(lab);
        last[0] == last[1] && last[0].len() >= at_least
    })
    .map_err(|error| error.context(differences(&last[0], &last[1], 5)))
    .unwrap();
}

fn flood(lab: &Lab) -> Flood {
    Flood::open(&lab.pair.client, &lab.pair.server, SERVER).unwrap()
}

/// Ten thousand NATed flows with marks, and TCP sessions among them, exist before the standby starts: it gets all
/// of them with equal tuples, mapped ports, states and marks. Marks are set on the master only.
#[test]
fn netns_a_fresh_node_gets_ten_thousand_flows() {
    let mut lab = Lab::new(&Settings::default(), ha_tests::topology::Naming::OfProcess).unwrap();
    lab.start(Node::Fw1).unwrap();
    lab.wait_role(Node::Fw1, "master", Duration::from_secs(8)).unwrap();
    let marks = "table inet marks { chain forward { type filter hook forward priority mangle; \
                 ct state new ct mark set numgen inc mod 1000 offset 1; }; }";
    lab.pair[Node::Fw1].run_with_input("nft", &["-f", "-"], marks).unwrap();
    let flood = flood(&lab);
    flood.talk(10_000..20_000).unwrap();
    let load = Load { tcp: 50, udp: 0, icmp: 5, probe: None, ..Load::default() };
    let traffic = Traffic::start(&lab.pair.client, &lab.pair.server, SERVER.into(), &load).unwrap();
    traffic.expect_survival(0, Duration::from_secs(5)).unwrap();
    lab.start(Node::Fw2).unwrap();
    lab.wait_settled(Node::Fw1, Duration::from_secs(30)).unwrap();
    expect_equal(&lab, 10_055, Duration::from_secs(5));
    let standby = &tables(&lab)[1];
    let unmarked: Vec<&String> = standby.iter().filter(|line| line.contains("mark=0")).take(8).collect();
    let marked = standby.iter().filter(|line| !line.contains("mark=0")).count();
    assert!(marked >= 10_055, "only {marked} of {} flows are marked on the standby: not {unmarked:?}", standby.len());
}

/// Flows deleted on the master vanish from the standby, and no other flow does.
#[test]
fn netns_deletes_propagate() {
    let lab = Lab::running(&Settings::default()).unwrap();
    flood(&lab).talk(10_000..10_400).unwrap();
    expect_equal(&lab, 400, Duration::from_secs(5));
    for port in 10_000..10_050 {
        lab.pair[Node::Fw1].run("conntrack", &["-D", "-p", "udp", "--dport", &port.to_string()]).unwrap();
    }
    let remaining = tables(&lab)[0].len();
    assert_eq!(remaining, 350);
    expect_equal(&lab, remaining, Duration::from_secs(3));
}

/// With every fifth datagram lost on the sync cable in both directions, two thousand flows that come and partly go
/// still end as equal tables on both nodes.
#[test]
fn netns_lossy_sync_converges() {
    let lab = Lab::running(&Settings::default()).unwrap();
    for node in Node::BOTH {
        lab.pair.lose_sync_datagrams(node, 20).unwrap();
    }
    let flood = flood(&lab);
    for first in (10_000..12_000).step_by(250) {
        flood.talk(first..first + 250).unwrap();
        lab.pair[Node::Fw1].run("conntrack", &["-D", "-p", "udp", "--dport", &first.to_string()]).unwrap();
    }
    expect_equal(&lab, 1992, Duration::from_secs(20));
    for node in Node::BOTH {
        assert!(lab.pair.sync_datagrams_lost(node).unwrap() > 0, "nothing was lost on the way to {}", node.name());
    }
}

/// A UDP flow whose client sends a packet every 20 s makes no event when it is refreshed. Its entry must stay on
/// the standby for as long as it lives on the master, and go when it ends. Here with a fraction of the master's
/// timeouts and of the clients' pause: forty flows stay over many timeouts, the first of them are given new time
/// (before half of the two minutes that the standby grants has passed), and when the client falls silent all end.
#[test]
fn netns_quiet_udp_flows_stay_on_the_standby() {
    let lab = Lab::running(&Settings::default()).unwrap();
    let master = &lab.pair[Node::Fw1];
    // Instead of the kernel's 30 s and 120 s.
    master.sysctl("net.netfilter.nf_conntrack_udp_timeout", "3").unwrap();
    master.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", "6").unwrap();
    let flood = flood(&lab);
    let left = |node: Node| seconds_left(&lab.pair[node], "dport=100").unwrap();
    let begin = Instant::now();
    flood.talk(10_000..10_040).unwrap();
    wait_until("the flows are on the standby", Duration::from_secs(1), || left(Node::Fw2).len() == 40).unwrap();
    let mut before = left(Node::Fw2);
    let mut renewed = false;
    while !renewed || begin.elapsed() < Duration::from_secs(20) {
        assert!(begin.elapsed() < Duration::from_secs(52), "no entry of the standby was given new time: {before:?}");
        std::thread::sleep(Duration::from_millis(2000));
        flood.talk(10_000..10_040).unwrap();
        assert_eq!(left(Node::Fw1).len(), 40, "flows ended on the master: the test's pace is wrong");
        let now = left(Node::Fw2);
        assert_eq!(now.len(), 40, "the standby lost flows that live on the master");
        renewed |= now.iter().any(|(flow, seconds)| before.get(flow).is_some_and(|before| seconds > before));
        before = now;
    }
    wait_until("the flows end on the master", Duration::from_secs(10), || left(Node::Fw1).is_empty()).unwrap();
    wait_until("and on the standby", Duration::from_secs(2), || left(Node::Fw2).is_empty()).unwrap();
}

/// An echo request that went out through the master is answered only after the master's host is dead and the
/// standby has taken over: the reply, addressed to the identifier that the master had chosen, reaches the client
/// with its own identifier.
#[test]
fn netns_a_ping_in_flight_survives() {
    let mut lab = Lab::running(&Settings::default()).unwrap();
    let client = lab.pair.client.enter(icmp::socket).unwrap().unwrap();
    let server = lab.pair.server.enter(icmp::socket).unwrap().unwrap();
    let sent = Echo { kind: ECHO_REQUEST, identifier: 0x1234, sequence: 1, payload: b"are you there?" };
    client.send_to(&sent.bytes(), &SocketAddr::from((SERVER, 0)).into()).unwrap();
    let (packet, request) = await_echo(&server, ECHO_REQUEST);
    let from = icmp::source(&packet).unwrap();
    assert_ne!(request.0, sent.identifier, "the firewall is expected to map the identifier");
    std::thread::sleep(Duration::from_millis(300));
    lab.crash_host(Node::Fw1).unwrap();
    wait_until("fw2 takes over", Duration::from_secs(8), || lab.holds(Node::Fw2)).unwrap();
    // The announcement of the new master must have reached the server before it answers.
    std::thread::sleep(Duration::from_millis(200));
    let reply = Echo { kind: ECHO_REPLY, identifier: request.0, sequence: request.1, payload: sent.payload };
    server.send_to(&reply.bytes(), &SocketAddr::from((from, 0)).into()).unwrap();
    let (_, received) = await_echo(&client, ECHO_REPLY);
    assert_eq!(received, (sent.identifier, sent.sequence));
}

/// The next echo message of this type: its packet, identifier and sequence number.
fn await_echo(socket: &socket2::Socket, kind: u8) -> (Vec<u8>, (u16, u16)) {
    let mut found = None;
    let mut buffer = [0; 2048];
    wait_until("an echo message", Duration::from_secs(3), || {
        let Ok(length) = (&*socket).read(&mut buffer) else { return false };
        let packet = buffer[..length].to_vec();
        let numbers =
            Echo::from_packet(&packet).filter(|echo| echo.kind == kind).map(|echo| (echo.identifier, echo.sequence));
        found = numbers.map(|numbers| (packet, numbers));
        found.is_some()
    })
    .unwrap();
    found.unwrap()
}
