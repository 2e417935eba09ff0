//! Memory of the real daemons under real churn. `TWINWALL_MEMORY_SECONDS` (1200) is how long it lasts.

use ha_tests::bench::sync::flow_table::Difference;
use ha_tests::bench::sync::rig::Rig;
use ha_tests::bench::sync::tool::ToolName;
use ha_tests::bench::sync::usage::resident_mib;
use ha_tests::topology::Node;
use std::time::Duration;

/// New flows a second, and how long each lives: 30,000 at a time.
const RATE: u32 = 3000;
const LIFETIME_SECONDS: u32 = 10;
const ROUND_SECONDS: u32 = 15;
/// How long a standby lives in the first half.
const ROUNDS_OF_LIFE: usize = 8;

fn rounds() -> usize {
    let seconds = std::env::var("TWINWALL_MEMORY_SECONDS").map_or(1200, |text| {
        text.parse().unwrap_or_else(|_| panic!("TWINWALL_MEMORY_SECONDS={text} is not a number of seconds"))
    });
    (seconds / ROUND_SECONDS as usize).max(3 * ROUNDS_OF_LIFE)
}

/// 3000 flows a second begin and end for twenty minutes; in the first half the standby's daemon is started again every two
/// minutes, the last of them lives through the second half. Memory is bounded by the worst backlog, and that of a machine with
/// other work can come late: so the last third of each node's time needs no more than the rest did. At the end nothing is
/// missing.
#[test]
fn netns_long_churn_leaves_memory_flat() {
    let mut rig = Rig::running(ToolName::Twinwall).unwrap();
    set_lifetime(&rig, LIFETIME_SECONDS);
    let mut held: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    let rounds = rounds();
    for round in 0..rounds {
        if round > 0 && round % ROUNDS_OF_LIFE == 0 && round <= rounds / 2 {
            held[Node::Fw2.index()].clear();
            rig.lab.kill(Node::Fw2);
            rig.start(Node::Fw2).unwrap();
            rig.lab.wait_settled(Node::Fw1, Duration::from_secs(30)).unwrap();
        }
        rig.generate(RATE, RATE * ROUND_SECONDS).unwrap();
        for node in Node::BOTH {
            held[node.index()].push(resident_mib(rig.pid(node).unwrap()).unwrap());
        }
    }
    println!("MiB after each {ROUND_SECONDS} s, fw1: {:.1?}; fw2 in its last life: {:.1?}", held[0], held[1]);
    for (name, held) in [("fw1", &held[0]), ("fw2", &held[1])] {
        let (early, late) = held.split_at(held.len() * 2 / 3);
        let most = |held: &[f64]| held.iter().copied().fold(0.0, f64::max);
        let allowed = most(early) * 1.05 + 1.0;
        assert!(most(late) <= allowed, "{name}: more than {allowed:.1} MiB: {held:.1?}");
    }
    // Flows that end while the tables are read would count as differences: the last ones live on.
    set_lifetime(&rig, 3600);
    rig.generate(RATE, RATE * ROUND_SECONDS).unwrap();
    std::thread::sleep(Duration::from_secs(LIFETIME_SECONDS.into()));
    rig.lab.wait_settled(Node::Fw1, Duration::from_secs(30)).unwrap();
    let [master, standby] = Node::BOTH.map(|node| rig.table(node).unwrap());
    assert_eq!(master.difference(&standby), Difference::default());
    assert!(master.count() >= (RATE * ROUND_SECONDS) as usize);
}

fn set_lifetime(rig: &Rig, seconds: u32) {
    for node in Node::BOTH {
        for key in ["udp_timeout", "udp_timeout_stream"] {
            rig.lab.pair[node].sysctl(&format!("net.netfilter.nf_conntrack_{key}"), &seconds.to_string()).unwrap();
        }
    }
}
