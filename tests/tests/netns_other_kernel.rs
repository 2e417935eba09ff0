//! A failover that asks nothing of the machine's speed: it runs in an emulated machine as well (`cargo xtask test --kernel`).

use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::topology::{Naming, Node, SERVER};
use ha_tests::traffic::{Load, Traffic};
use std::time::Duration;

/// An emulator is some twenty times slower than the machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Heartbeats are off, so CARP's timers decide: TCP, UDP and ICMP sessions with source NAT go through the master, its host dies, the
/// other node takes both addresses, and every session goes on from the same mapped port.
#[test]
fn netns_a_failover_by_carps_timers_alone() {
    let settings = Settings { log: "info", extra: "[heartbeat]\nenabled = false\n".to_owned(), ..Settings::default() };
    let mut lab = Lab::new(&settings, Naming::OfProcess).unwrap();
    lab.start(Node::Fw1).unwrap();
    lab.wait_role(Node::Fw1, "master", PATIENCE).unwrap();
    lab.start(Node::Fw2).unwrap();
    lab.wait_settled(Node::Fw1, PATIENCE).unwrap();
    for node in Node::BOTH {
        assert_eq!(lab.status(node).unwrap().datapath("eth0"), "native", "{}", lab.files(node).log_tail());
    }
    let slow = Duration::from_millis(500);
    let load = Load {
        tcp: 10,
        udp: 10,
        icmp: 3,
        tcp_interval: slow,
        udp_interval: slow,
        icmp_interval: slow,
        probe: None,
        ..Load::default()
    };
    let traffic = Traffic::start(&lab.pair.client, &lab.pair.server, SERVER.into(), &load).unwrap();
    traffic.expect_survival(0, PATIENCE).unwrap();
    // The newest change of a session reaches the standby within milliseconds of the emulated time.
    std::thread::sleep(Duration::from_secs(2));
    lab.crash_host(Node::Fw1).unwrap();
    lab.wait_role(Node::Fw2, "master", PATIENCE).unwrap();
    traffic.expect_survival(traffic.now(), PATIENCE).unwrap();
    assert!(lab.holds(Node::Fw2));
}
