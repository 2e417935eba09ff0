//! The lab tells a pair that replicates state from one that does not: shown with tools that exist.

use ha_tests::netns::wait_until;
use ha_tests::peers::{Conntrackd, Ucarp, UcarpOptions};
use ha_tests::topology::{Naming, Node, Pair, Port, SERVER};
use ha_tests::traffic::session::{Failure, Kind};
use ha_tests::traffic::{Load, Traffic};
use std::time::Duration;

fn small_load() -> Load {
    Load { tcp: 20, udp: 20, icmp: 5, ..Load::default() }
}

/// With conntrackd's state on the standby every NATed session goes on after the addresses have moved by hand;
/// the same without conntrackd loses every one of them: TCP stands still, UDP and ICMP are seen as new flows.
/// So survival in this lab means replicated state and nothing else. (conntrackd 1.4.7 does not carry the mapped
/// identifier of an ICMP flow, so there the pings are not asked.)
#[test]
fn netns_only_replicated_state_survives() {
    for replicate in [true, false] {
        let pair = Pair::new(Naming::OfProcess).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let daemons: Vec<_> = Node::BOTH
            .into_iter()
            .filter(|_| replicate)
            .map(|node| Conntrackd::start(&pair, node, dir.path()).unwrap())
            .collect();
        pair.move_vips_by_hand(Node::Fw1).unwrap();
        let load = Load { icmp: if replicate { 0 } else { 5 }, ..small_load() };
        let traffic = Traffic::start(&pair.client, &pair.server, SERVER.into(), &load).unwrap();
        traffic.expect_survival(0, Duration::from_secs(5)).unwrap();
        // conntrackd sends what is assured at once; half a second is ample.
        std::thread::sleep(Duration::from_millis(500));
        pair.silence(Node::Fw1).unwrap();
        pair.move_vips_by_hand(Node::Fw2).unwrap();
        let moved = traffic.now();
        if replicate {
            traffic.expect_survival(moved, Duration::from_secs(8)).unwrap();
        } else {
            std::thread::sleep(Duration::from_secs(3));
            for kind in Kind::ALL {
                assert_eq!(traffic.tally(kind, moved).survived, 0, "{}", kind.name());
            }
            let renumbered = |session: &&std::sync::Arc<_>| {
                let session: &ha_tests::traffic::session::Session = session;
                session.failure() == Some(Failure::Renumbered)
            };
            // The datagram sessions were carried on, but as other flows: the server saw new ports.
            assert!(traffic.sessions().iter().filter(renumbered).count() >= 24, "{}", traffic.casualties(moved));
        }
        drop(daemons);
    }
}

/// Two ucarp pairs (LAN and WAN) elect the first started node; the other one takes over when it is killed, within
/// the 3 to 4 seconds that ucarp needs. Shows that the lab's ports, address watch and faults work with real CARP.
#[test]
fn netns_ucarp_pair_fails_over() {
    let pair = Pair::new(Naming::OfProcess).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let start = |node: Node| {
        [Port::Lan, Port::Wan].map(|port| Ucarp::start(&pair[node], &UcarpOptions::of(node, port), dir.path()).unwrap())
    };
    let mut first = start(Node::Fw1);
    wait_until("fw1 is master", Duration::from_secs(8), || pair.vips_held(Node::Fw1).unwrap() == [true; 2]).unwrap();
    let _second = start(Node::Fw2);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(pair.vips_held(Node::Fw2).unwrap(), [false; 2]);
    pair.silence(Node::Fw1).unwrap();
    for process in &mut first {
        process.process().kill();
    }
    let took = std::time::Instant::now();
    wait_until("fw2 is master", Duration::from_secs(8), || pair.vips_held(Node::Fw2).unwrap() == [true; 2]).unwrap();
    let took = took.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&took), "{took:?}");
}
