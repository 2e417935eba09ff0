//! The kernel's network lock is held by somebody else while a master falls: the takeover waits for it, the mastership
//! does not.

use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::network_lock::NetworkLock;
use ha_tests::topology::Node;
use std::time::Duration;

/// Several leases.
const HELD: Duration = Duration::from_millis(300);
/// The lease of a frozen master lapses 40 ms after its freeze; a busy machine tells of it later.
const HELD_AT_LEAST_MS: f64 = 100.0;
const SETTLED: Duration = Duration::from_secs(10);

/// How long the last takeover took until the addresses were there, by the log.
fn takeover_ms(lab: &Lab, node: Node) -> f64 {
    let log = lab.files(node).log_tail();
    let line = log.lines().rev().find(|line| line.contains("virtual addresses taken")).unwrap_or_default();
    let value = line.split("takeover_ms=").nth(1).and_then(|rest| rest.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

/// A master freezes while the kernel's network lock is held: the peer takes over once and stays master, although its
/// addresses come later than its first leases would have lasted; the addresses are there when the lock is free.
#[test]
fn netns_alone_a_takeover_outlasts_the_networks_lock() {
    let lab = Lab::running(&Settings::default()).unwrap();
    let before = lab.status(Node::Fw2).unwrap().transitions();
    let lock = NetworkLock::hold().unwrap();
    lab.freeze(Node::Fw1);
    std::thread::sleep(HELD);
    drop(lock);
    std::thread::sleep(HELD);
    lab.thaw(Node::Fw1);
    lab.wait_settled(Node::Fw2, SETTLED).unwrap();
    let (took, log) = (takeover_ms(&lab, Node::Fw2), lab.files(Node::Fw2).log_tail());
    println!("the addresses were there after {took} ms");
    assert!(took >= HELD_AT_LEAST_MS, "the lock was not held during the takeover: {took} ms\n{log}");
    assert_eq!(lab.status(Node::Fw2).unwrap().transitions(), before + 1, "{log}");
    assert!(lab.holds(Node::Fw2) && !lab.holds(Node::Fw1), "{log}");
}

/// A clean stop of the master while the lock is held: the peer is master at once, and the addresses leave the old one as
/// soon as the lock is free, before its process ends.
#[test]
fn netns_alone_a_stop_waits_for_the_networks_lock() {
    let mut lab = Lab::running(&Settings::default()).unwrap();
    let lock = NetworkLock::hold().unwrap();
    let release = std::thread::spawn(move || {
        std::thread::sleep(HELD);
        drop(lock);
    });
    lab.stop(Node::Fw1).unwrap();
    release.join().unwrap();
    assert!(!lab.holds(Node::Fw1), "{}", lab.files(Node::Fw1).log_tail());
    lab.wait_role(Node::Fw2, "master", SETTLED).unwrap();
    assert!(lab.holds(Node::Fw2));
    let log = lab.files(Node::Fw2).log_tail();
    assert!(!log.contains("lease_lost"), "{log}");
}
