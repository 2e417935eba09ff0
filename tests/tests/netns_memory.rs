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
/// The tables, the sockets' buffers and the allocator have their size by then.
const WARM_UP: usize = 8;

fn rounds() -> usize {
    let seconds = std::env::var("TWINWALL_MEMORY_SECONDS").map_or(1200, |text| {
        text.parse().unwrap_or_else(|_| panic!("TWINWALL_MEMORY_SECONDS={text} is not a number of seconds"))
    });
    (seconds / ROUND_SECONDS as usize).max(2 * WARM_UP)
}

/// 3000 flows a second begin and end for twenty minutes; every two minutes the standby's daemon is started again. The
/// master's memory, and that of a standby of the same age, stays what it was after two minutes, and at the end nothing is
/// missing.
#[test]
fn netns_long_churn_leaves_memory_flat() {
    let mut rig = Rig::running(ToolName::Twinwall).unwrap();
    set_lifetime(&rig, LIFETIME_SECONDS);
    let mut held: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    for round in 0..rounds() {
        if round > 0 && round % WARM_UP == 0 {
            rig.lab.kill(Node::Fw2);
            rig.start(Node::Fw2).unwrap();
            rig.lab.wait_settled(Node::Fw1, Duration::from_secs(30)).unwrap();
        }
        rig.generate(RATE, RATE * ROUND_SECONDS).unwrap();
        for node in Node::BOTH {
            held[node.index()].push(resident_mib(rig.pid(node).unwrap()).unwrap());
        }
    }
    let standby: Vec<f64> = held[1].chunks_exact(WARM_UP).map(|life| life[WARM_UP - 1]).collect();
    println!("MiB after each {ROUND_SECONDS} s, fw1: {:.1?}; fw2 at the end of each life: {standby:.1?}", held[0]);
    for (name, held) in [("fw1", &held[0][WARM_UP - 1..]), ("fw2", &standby[..])] {
        let allowed = held[0] * 1.05 + 1.0;
        assert!(held.iter().all(|mib| *mib <= allowed), "{name}: more than {allowed:.1} MiB: {held:.1?}");
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
