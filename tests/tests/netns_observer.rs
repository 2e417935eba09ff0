//! The observer sees what is: shown with addresses that are put on the firewalls by hand, without any daemon.

use ha_tests::observer::{Observer, Side};
use ha_tests::topology::{LAN_VIP, LAN_VIP6, Naming, Node, Pair, WAN_VIP, WAN_VIP6};
use std::time::Duration;

const MS: u64 = 1_000_000;

/// One node with the addresses answers every request, and nothing is amiss; moved by hand, the other one does.
/// Held by both for 200 ms, the observer says so, on both sides and for as long as it lasted; and it says so of the
/// addresses being on different nodes. So a lab without violations has none.
#[test]
fn netns_observer_sees_two_masters() {
    let pair = Pair::new(Naming::OfProcess).unwrap();
    pair.move_vips_by_hand(Node::Fw1).unwrap();
    let observer = Observer::start(&pair).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(observer.asked().iter().all(|asked| *asked > 300), "{:?} requests in half a second", observer.asked());
    let single = observer.timeline(0).unwrap();
    assert_eq!((single.violations(), single.apart()), (vec![], vec![]));
    assert_eq!(Side::BOTH.map(|side| single.reigns(side).len()), [1, 1]);
    assert!(single.longest_silence(100 * MS, 450 * MS) < 150 * MS, "{}", single.longest_silence(100 * MS, 450 * MS));

    let begin = observer.now();
    let [lan, wan] = [format!("{LAN_VIP}/24 dev eth0"), format!("{WAN_VIP}/26 dev eth1")];
    pair[Node::Fw2].ip(&format!("addr add {lan}\naddr add {wan}")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    pair[Node::Fw1].ip(&format!("addr del {lan}\naddr del {wan}")).unwrap();
    let end = observer.now();
    std::thread::sleep(Duration::from_millis(100));
    let double = observer.timeline(0).unwrap();
    for side in Side::BOTH {
        let seen = double.violations().iter().filter(|violation| violation.side == side).count();
        assert!(seen > 50, "{seen} on {side:?}");
    }
    let length = double.longest_double();
    assert!((150 * MS..=end - begin).contains(&length), "{length} ns of {}", end - begin);
    assert!(!double.answered_since(Node::Fw1, end));

    observer.forget(observer.now());
    pair[Node::Fw1].ip(&format!("addr add {lan}")).unwrap();
    pair[Node::Fw2].ip(&format!("addr del {lan}")).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let apart = observer.timeline(0).unwrap();
    assert!(apart.longest_apart() > 100 * MS, "{:?}", apart.apart());
}

/// The same for the IPv6 addresses, which are asked for by neighbour solicitations.
#[test]
fn netns_observer_sees_two_masters_in_ipv6() {
    let pair = Pair::new(Naming::OfProcess).unwrap();
    let addresses = format!("addr add {LAN_VIP6}/64 dev eth0\naddr add {WAN_VIP6}/64 dev eth1");
    pair[Node::Fw1].ip(&addresses).unwrap();
    let observer = Observer::start_ipv6(&pair).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let single = observer.timeline(0).unwrap();
    assert_eq!(Side::BOTH.map(|side| single.reigns(side).len()), [1, 1]);
    assert_eq!(single.violations(), []);
    assert!(single.longest_silence(100 * MS, 250 * MS) < 100 * MS, "{}", single.longest_silence(100 * MS, 250 * MS));
    pair[Node::Fw2].ip(&addresses).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    for side in Side::BOTH {
        let double = observer.timeline(0).unwrap();
        let seen = double.violations().iter().filter(|violation| violation.side == side).count();
        assert!(seen > 50, "{seen} on {side:?}");
    }
}
