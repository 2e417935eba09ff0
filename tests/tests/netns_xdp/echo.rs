//! Heartbeats between two nodes on a cable: the answer comes out of the driver path.

use crate::pair::{DEVICE, LINK, PATH, Prober, namespaces, plan};
use ha_common::abi::SelfEntry;
use ha_common::wire::heartbeat::{Gate, ROLE_MASTER, Standing};
use ha_user::clock;
use ha_user::datapath::{Attachment, Datapath};
use std::thread::sleep;
use std::time::Duration;

const PROBES: usize = 300;

/// 300 probes at 500 Hz to a node whose process sleeps: all are answered with its words and its own hardware address, in
/// far less than a scheduler's tick; when the address changes, the answers bear the new one.
#[test]
fn netns_probes_are_answered_by_the_driver_path() {
    let [prober_ns, node_ns] = namespaces();
    let mut node = node_ns.enter(|| Datapath::start(&plan(1, None))).unwrap();
    assert_eq!(node.attachment(LINK), Some(&Attachment::Native));
    assert!(node.is_enforced(LINK) && !node.is_pinned(LINK));
    let standing = Standing { role: ROLE_MASTER, advskew: 7, ..Standing::default() };
    let now = clock::now().0;
    let lease_until_ns = now + 60_000_000_000;
    node.publish(&SelfEntry { lease_until_ns, term: 0x1fe, session: 77, beat_ns: now, state: standing.pack() })
        .unwrap();
    let mut times = Vec::new();
    let mut prober = prober_ns.enter(|| Prober::start(0, 5)).unwrap();
    for _ in 0..PROBES {
        let reply = prober.ask().expect("every probe is answered");
        assert_eq!((reply.report.session, reply.report.term), (77, 0x1fe));
        assert_eq!(reply.report.standing, Standing { gate: Gate::Open, ..standing });
        assert!(reply.report.lease_left <= Duration::from_secs(60) && reply.rtt < Duration::from_millis(100));
        times.push(reply.rtt);
        sleep(Duration::from_millis(2));
    }
    times.sort_unstable();
    let (middle, worst) = (times[PROBES / 2], times[PROBES - 1]);
    println!("round trip: median {middle:?}, worst {worst:?}");
    assert!(middle < Duration::from_millis(4), "{middle:?}");
    let mac = |text: String| text.lines().find_map(|line| Some(line.split_once("link/ether ")?.1[..17].to_owned()));
    let shown = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let answered = prober.datapath.reply(PATH).unwrap();
    assert_eq!(Some(shown(answered.mac)), mac(node_ns.run("ip", &["link", "show", DEVICE]).unwrap()));
    node_ns.ip(&format!("link set {DEVICE} address 02:00:00:00:77:01")).unwrap();
    node_ns.enter(|| assert_eq!(node.attach(LINK), Some(&Attachment::Native))).unwrap();
    assert_eq!(shown(prober.ask().unwrap().mac), "02:00:00:00:77:01");
}
