//! No false failover: load on the machine and a standby that stumbles change no role. `TWINWALL_LONG_SECONDS` (600) is
//! how long the long tests last.

use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::load::{Burners, FrameFlood};
use ha_tests::observer::Observer;
use ha_tests::topology::{Node, Port};
use ha_tests::torture::plan::Random;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_secs(20);
/// Frames a second on each of LAN, WAN and sync cable.
const FLOOD: u32 = 100_000;

fn long() -> Duration {
    let seconds = std::env::var("TWINWALL_LONG_SECONDS").map_or(600, |text| {
        text.parse().unwrap_or_else(|_| panic!("TWINWALL_LONG_SECONDS={text} is not a number of seconds"))
    });
    Duration::from_secs(seconds)
}

/// Lets `load` happen to a settled pair; afterwards no role has changed, and fw1 alone has ever answered.
fn expect_no_role_change(load: impl FnOnce(&Lab)) {
    let lab = Lab::running(&Settings::default()).unwrap();
    let transitions = || Node::BOTH.map(|node| lab.status(node).unwrap().transitions());
    let before = transitions();
    let observer = Observer::start(&lab.pair).unwrap();
    load(&lab);
    std::thread::sleep(Duration::from_secs(1));
    let logs = || Node::BOTH.map(|node| format!("{}:\n{}", node.name(), lab.files(node).log_tail())).join("\n");
    assert_eq!(transitions(), before, "{}", logs());
    let seen = observer.timeline(0).unwrap();
    assert!(seen.answered_since(Node::Fw1, 0) && !seen.answered_since(Node::Fw2, 0), "{}", logs());
    println!("longest silence {:?}", Duration::from_nanos(seen.longest_silence(0, observer.now())));
}

fn saturate(duration: Duration) {
    expect_no_role_change(|lab| {
        let _burners = Burners::start().unwrap();
        let floods = Port::ALL.map(|port| {
            let to = Node::BOTH.map(|node| node.mac(port));
            FrameFlood::start(&lab.pair.switch, port.name(), to, FLOOD).unwrap()
        });
        std::thread::sleep(duration);
        let rates = floods.each_ref().map(FrameFlood::rate);
        println!("frames a second on LAN, WAN and sync: {rates:?}");
        // A machine that cannot send that many is saturated by what it does send; hardly any would be no load.
        assert!(rates.iter().all(|rate| *rate > u64::from(FLOOD) / 10), "{rates:?}");
    });
}

/// The standby's daemon stands still for 50 ms again and again, at random intervals from a fixed seed: its probes are
/// late by its own fault, and the master is not to blame.
fn stumble(duration: Duration) {
    expect_no_role_change(|lab| {
        let mut random = Random(50);
        let end = Instant::now() + duration;
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20 + random.below(400)));
            lab.freeze(Node::Fw2);
            std::thread::sleep(Duration::from_millis(50));
            lab.thaw(Node::Fw2);
        }
    });
}

/// All processors busy at normal priority and 100k frames a second on every link, for 20 s: no role changes.
#[test]
fn netns_alone_saturation_changes_no_role() {
    saturate(SHORT);
}

/// The same for ten minutes.
#[test]
fn netns_long_saturation_changes_no_role() {
    saturate(long());
}

/// A standby that is stopped for 50 ms at random, for 20 s, takes nothing over.
#[test]
fn netns_alone_a_stumbling_standby_takes_nothing() {
    stumble(SHORT);
}

/// The same for ten minutes.
#[test]
fn netns_long_a_stumbling_standby_takes_nothing() {
    stumble(long());
}
