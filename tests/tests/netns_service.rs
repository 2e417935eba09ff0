//! The daemon as a process: what it may do, what it says to a signal, and who may ask it.

use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::topology::{Naming, Node};
use rustix::process::Signal;
use std::fs;
use std::time::{Duration, Instant};

/// CAP_NET_ADMIN, NET_RAW, IPC_LOCK, SYS_NICE, PERFMON, BPF (`linux/capability.h`).
const KEPT: u64 = 1 << 12 | 1 << 13 | 1 << 14 | 1 << 23 | 1 << 38 | 1 << 39;

/// Started as root, every thread ends with the documented capabilities and no way to more, and XDP is native
/// all the same.
#[test]
fn netns_privileges_are_dropped_in_every_thread() {
    let mut lab = Lab::new(&Settings::default(), Naming::OfProcess).unwrap();
    lab.start(Node::Fw1).unwrap();
    let pid = lab.daemon(Node::Fw1).unwrap().process().pid().as_raw_nonzero();
    let threads: Vec<_> =
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(threads.len() >= 3, "services and two loops: {threads:?}");
    for thread in threads {
        let text = fs::read_to_string(thread.join("status")).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            let held = u64::from_str_radix(&field(set), 16).unwrap();
            assert_eq!(held & !KEPT, 0, "{set} {held:x} of {}", field("Name:"));
        }
        assert_eq!(field("NoNewPrivs:"), "1");
    }
    assert_eq!(lab.status(Node::Fw1).unwrap().datapath("eth0"), "native");
}

/// SIGHUP changes nothing while the daemon runs: a wrong file is reported at its place, a right one by the table
/// that a restart would change.
#[test]
fn netns_hangup_reports_what_a_restart_would_change() {
    let mut lab = Lab::new(&Settings::default(), Naming::OfProcess).unwrap();
    lab.start(Node::Fw1).unwrap();
    let config = lab.dir().join("twinwall.toml");
    let right = fs::read_to_string(&config).unwrap();
    let says = |text: &str, expected: &str| {
        fs::write(&config, text).unwrap();
        lab.signal(Node::Fw1, Signal::HUP);
        wait_until(expected, Duration::from_secs(2), || lab.files(Node::Fw1).log_tail().contains(expected)).unwrap();
    };
    says(&right.replace("advskew = 100", "advscew = 100"), "did you mean `advskew`?");
    says(&right.replace("advskew = 100", "advskew = 101"), "take effect at the next start");
    says(&right, "nothing has changed");
    assert_eq!(lab.status(Node::Fw1).unwrap().transitions(), 1, "INIT to BACKUP, and no more");
}

/// A frozen daemon cannot answer: `status` ends in bounded time with an error that says so, and works again after.
#[test]
fn netns_status_of_a_frozen_daemon_ends() {
    let mut lab = Lab::new(&Settings::default(), Naming::OfProcess).unwrap();
    lab.start(Node::Fw1).unwrap();
    lab.signal(Node::Fw1, Signal::STOP);
    let begin = Instant::now();
    let output = lab.files(Node::Fw1).command(&["status"]).unwrap().output().unwrap();
    let took = begin.elapsed();
    lab.signal(Node::Fw1, Signal::CONT);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("does not answer"), "{error}");
    lab.status(Node::Fw1).unwrap();
}
