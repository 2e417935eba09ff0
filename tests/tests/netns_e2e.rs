//! Real daemons on real kernels: what a client keeps when a node fails.

use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::topology::{LAN_VIP, Node, Port, SERVER, SERVER6, WAN_VIP};
use ha_tests::traffic::session::{Failure, Kind};
use ha_tests::traffic::{Load, Traffic};
use rustix::process::Signal;
use std::time::Duration;

/// CARP's dead time of 3 s, and slack for two busy processors.
const TAKEOVER: Duration = Duration::from_secs(8);
/// TCP tries again 6.2 s after its last packet when three seconds were not enough.
const SESSIONS: Duration = Duration::from_secs(12);

fn load() -> Load {
    Load { tcp: 20, udp: 20, icmp: 5, ..Load::default() }
}

fn traffic(lab: &Lab) -> Traffic {
    let traffic = Traffic::start(&lab.pair.client, &lab.pair.server, SERVER.into(), &load()).unwrap();
    traffic.expect_survival(0, Duration::from_secs(5)).unwrap();
    traffic
}

fn wait_taken(lab: &Lab, node: Node) {
    wait_until(&format!("{} takes over", node.name()), TAKEOVER, || lab.holds(node)).unwrap();
}

/// NATed TCP sessions (with `tcp_loose` off), UDP flows and pings go on after the master's host died, and again
/// after the returned node took over from the second dead one: every record, through the same mapped ports.
#[test]
fn netns_sessions_survive_the_death_of_either_host() {
    let mut lab = Lab::running(&Settings::default()).unwrap();
    let traffic = traffic(&lab);
    std::thread::sleep(Duration::from_millis(500));
    for failing in Node::BOTH {
        lab.crash_host(failing).unwrap();
        wait_taken(&lab, failing.peer());
        let taken = traffic.now();
        traffic.expect_survival(taken, SESSIONS).unwrap();
        lab.pair.reboot(failing).unwrap();
        lab.start(failing).unwrap();
        lab.wait_settled(failing.peer(), TAKEOVER).unwrap();
    }
    traffic.expect_survival(traffic.now(), SESSIONS).unwrap();
}

/// The control for the test above: with the sync cable out, not one session survives the same fault. TCP stands
/// still, UDP and ICMP come from other ports.
#[test]
fn netns_without_the_sync_cable_no_session_survives() {
    let mut lab = Lab::running(&Settings::default()).unwrap();
    lab.plug(Node::Fw1, Port::Sync, false).unwrap();
    let traffic = traffic(&lab);
    lab.crash_host(Node::Fw1).unwrap();
    wait_taken(&lab, Node::Fw2);
    let taken = traffic.now();
    std::thread::sleep(Duration::from_secs(5));
    for kind in Kind::ALL {
        assert_eq!(traffic.tally(kind, taken).survived, 0, "{}", kind.name());
    }
    let renumbered = traffic.sessions().iter().filter(|session| session.failure() == Some(Failure::Renumbered));
    assert!(renumbered.count() >= 20, "{}", traffic.casualties(taken));
}

/// A clean stop says goodbye: the peer holds the addresses within a second rather than after the dead time of
/// three, sessions go on, and the stopped node leaves nothing behind.
#[test]
fn netns_a_clean_stop_hands_over_at_once() {
    let mut lab = Lab::running(&Settings::default()).unwrap();
    let traffic = traffic(&lab);
    let stopped = traffic.now();
    lab.stop(Node::Fw1).unwrap();
    wait_until("fw2 takes over", Duration::from_secs(1), || lab.holder() == Some(Node::Fw2)).unwrap();
    let taken = traffic.now();
    traffic.expect_survival(taken, SESSIONS).unwrap();
    let silence = traffic.probe().longest_gap(stopped, traffic.now());
    assert!(silence.milliseconds() < 500.0, "{silence:?}");
    let addresses = lab.pair[Node::Fw1].run("ip", &["-d", "addr"]).unwrap();
    assert!(!addresses.contains("xdp"), "{addresses}");
    assert!(!lab.files(Node::Fw1).socket.exists());
}

/// The group is the unit: whichever single cable of the master is pulled, both addresses are on the other node,
/// none on the first, and sessions go on; so no LAN master here and WAN master there.
#[test]
fn netns_one_pulled_cable_moves_both_addresses() {
    for port in [Port::Lan, Port::Wan] {
        let lab = Lab::running(&Settings::default()).unwrap();
        let traffic = traffic(&lab);
        std::thread::sleep(Duration::from_millis(500));
        lab.plug(Node::Fw1, port, false).unwrap();
        wait_until("both addresses are on fw2 alone", TAKEOVER, || lab.holder() == Some(Node::Fw2)).unwrap();
        traffic.expect_survival(traffic.now(), SESSIONS).unwrap();
        assert_eq!(lab.status(Node::Fw1).unwrap().role(), "fault");
        lab.plug(Node::Fw1, port, true).unwrap();
        lab.wait_settled(Node::Fw2, TAKEOVER).unwrap();
    }
}

/// A frozen master keeps its addresses (there is no lease yet): the peer takes over after the dead time, and when
/// the first goes on, one of them is master within seconds. Sessions survive all of it.
#[test]
fn netns_a_frozen_master_is_replaced_and_settles() {
    let lab = Lab::running(&Settings::default()).unwrap();
    let traffic = traffic(&lab);
    std::thread::sleep(Duration::from_millis(500));
    lab.signal(Node::Fw1, Signal::STOP);
    wait_taken(&lab, Node::Fw2);
    traffic.expect_survival(traffic.now(), SESSIONS).unwrap();
    lab.signal(Node::Fw1, Signal::CONT);
    wait_until("one master", TAKEOVER, || lab.settled_on(&lab.answers()).is_some())
        .map_err(|error| error.context(lab.describe(&lab.answers())))
        .unwrap();
    traffic.expect_survival(traffic.now(), SESSIONS).unwrap();
}

/// IPv6 has the same promise: sessions to an IPv6 server through IPv6 virtual addresses outlive the master.
#[test]
fn netns_ipv6_sessions_survive() {
    let settings = Settings { ipv6: true, ..Settings::default() };
    let mut lab = Lab::running(&settings).unwrap();
    let load = Load { icmp: 0, ..load() };
    let traffic = Traffic::start(&lab.pair.client, &lab.pair.server, SERVER6.parse().unwrap(), &load).unwrap();
    traffic.expect_survival(0, Duration::from_secs(5)).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    lab.crash_host(Node::Fw1).unwrap();
    wait_taken(&lab, Node::Fw2);
    traffic.expect_survival(traffic.now(), SESSIONS).unwrap();
}

/// The default gateway exists only on the master, and the addresses have the configured prefix and the label of
/// twinwall; all of it moves with the mastership.
#[test]
fn netns_gateway_prefix_and_label_follow_the_master() {
    let mut lab = Lab::running(&Settings::default()).unwrap();
    let look = |lab: &Lab, node: Node| {
        let space = &lab.pair[node];
        let routes = space.run("ip", &["-4", "route", "show", "default"]).unwrap();
        (routes, space.run("ip", &["-4", "-o", "addr", "show"]).unwrap())
    };
    for (master, backup) in [(Node::Fw1, Node::Fw2), (Node::Fw2, Node::Fw1)] {
        let (routes, addresses) = look(&lab, master);
        assert!(routes.contains(&format!("via {SERVER}")), "{routes}");
        let labelled =
            |vip: &str, label: &str| addresses.lines().any(|line| line.contains(vip) && line.contains(label));
        assert!(labelled(&format!("{LAN_VIP}/24"), "eth0:twinwall"), "{addresses}");
        assert!(labelled(&format!("{WAN_VIP}/26"), "eth1:twinwall"), "{addresses}");
        let (routes, addresses) = look(&lab, backup);
        assert_eq!(routes, "");
        assert!(!addresses.contains("twinwall"), "{addresses}");
        if master == Node::Fw1 {
            lab.stop(Node::Fw1).unwrap();
            wait_taken(&lab, Node::Fw2);
            lab.start(Node::Fw1).unwrap();
            lab.wait_settled(Node::Fw2, TAKEOVER).unwrap();
        }
    }
}
