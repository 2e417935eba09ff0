//! ALARM and NOTRACK between real daemons and kernels: what they repair, and what they never send.

use ha_tests::conntrack::{differences, table};
use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::topology::{CLIENT, Node, SERVER};
use ha_tests::traffic::flood::Flood;
use ha_tests::traffic::{Load, Traffic};
use std::collections::BTreeSet;
use std::time::Duration;

/// Kinds of sync frames, the sixth byte of a datagram (`wire::frame::Kind`).
const DATA: u8 = 2;
const ACK: u8 = 3;

fn settings(sync: &'static str) -> Settings {
    Settings { sync, ..Settings::default() }
}

fn tables(lab: &Lab) -> [BTreeSet<String>; 2] {
    Node::BOTH.map(|node| table(&lab.pair[node], &format!("src={CLIENT}")).unwrap())
}

fn flood(lab: &Lab) -> Flood {
    Flood::open(&lab.pair.client, &lab.pair.server, SERVER).unwrap()
}

/// Counts the frames of each kind that a node receives from now on.
fn count_frames(lab: &Lab, node: Node) {
    let rule = |kind: u8| format!("udp dport 3780 @th,104,8 {kind} counter name kind{kind};");
    let counters = format!("counter kind{DATA} {{}}; counter kind{ACK} {{}};");
    let rules = format!(
        "table inet kinds {{ {counters} chain in {{ type filter hook input priority -500; {} {} }}; }}",
        rule(DATA),
        rule(ACK)
    );
    lab.pair[node].run_with_input("nft", &["-f", "-"], &rules).unwrap();
}

fn frames(lab: &Lab, node: Node, kind: u8) -> u64 {
    let listed = lab.pair[node].run("nft", &["list", "counter", "inet", "kinds", &format!("kind{kind}")]).unwrap();
    let count = listed.split_once("packets ").and_then(|(_, rest)| rest.split_whitespace().next());
    count.unwrap().parse().unwrap()
}

/// With every fifth datagram lost in both directions, a thousand new flows are all on the standby after some refreshes,
/// and of five hundred that end, those whose removal was lost go with the cache timeout. No frame is acknowledged.
#[test]
fn netns_alarm_converges_by_refresh() {
    let lab = Lab::running(&settings("mode = \"alarm\"\nrefresh_time = \"1s\"\ncache_timeout = \"8s\"")).unwrap();
    for node in Node::BOTH {
        lab.pair.lose_sync_datagrams(node, 20).unwrap();
        count_frames(&lab, node);
    }
    for node in Node::BOTH {
        for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            lab.pair[node].sysctl(&format!("net.netfilter.{timeout}"), "300").unwrap();
        }
    }
    let flood = flood(&lab);
    for first in (10_000..11_000).step_by(50) {
        flood.talk(first..first + 50).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut last = tables(&lab);
    let mut equal = |at_least: usize, limit: u64| {
        let equal = wait_until("both tables are equal", Duration::from_secs(limit), || {
            last = tables(&lab);
            last[0] == last[1] && last[0].len() >= at_least
        });
        equal.map_err(|error| error.context(differences(&last[0], &last[1], 5))).unwrap();
    };
    equal(1000, 10);
    for port in (10_000..11_000).step_by(20) {
        lab.pair[Node::Fw1].run("conntrack", &["-D", "-p", "udp", "--dport", &port.to_string()]).unwrap();
    }
    assert_eq!(tables(&lab)[0].len(), 950);
    equal(950, 20);
    for node in Node::BOTH {
        assert!(lab.pair.sync_datagrams_lost(node).unwrap() > 0, "nothing was lost on the way to {}", node.name());
        assert_eq!(frames(&lab, node, ACK), 0);
    }
    assert!(frames(&lab, Node::Fw2, DATA) > 0, "the counter counts nothing");
}

/// In NOTRACK sessions are carried without one acknowledgement, and survive the master's death. The control: in FT-FW the
/// same counter sees acknowledgements.
#[test]
fn netns_notrack_carries_sessions_without_acknowledgements() {
    let mut lab = Lab::running(&settings("mode = \"notrack\"")).unwrap();
    Node::BOTH.into_iter().for_each(|node| count_frames(&lab, node));
    let load = Load { tcp: 20, udp: 20, icmp: 5, ..Load::default() };
    let traffic = Traffic::start(&lab.pair.client, &lab.pair.server, SERVER.into(), &load).unwrap();
    traffic.expect_survival(0, Duration::from_secs(5)).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(frames(&lab, Node::Fw2, DATA) > 0, "the counter counts nothing");
    assert_eq!(Node::BOTH.map(|node| frames(&lab, node, ACK)), [0, 0]);
    let status = lab.status(Node::Fw1).unwrap();
    assert_eq!(status.number("/sync/peers/0/acked_sequence"), 0);
    assert_eq!(status.number("/sync/peers/0/digests_equal"), 0);
    lab.crash_host(Node::Fw1).unwrap();
    wait_until("fw2 takes over", Duration::from_secs(8), || lab.holds(Node::Fw2)).unwrap();
    traffic.expect_survival(traffic.now(), Duration::from_secs(12)).unwrap();

    let reliable = Lab::running(&Settings::default()).unwrap();
    count_frames(&reliable, Node::Fw1);
    flood(&reliable).talk(10_000..10_100).unwrap();
    wait_until("an acknowledgement", Duration::from_secs(5), || frames(&reliable, Node::Fw1, ACK) > 0).unwrap();
}
