//! The daemon's life on a host: crashes, restarts, a second start, and what a monitoring system sees.

use ha_tests::daemon::{Daemon, Settings, sample, scrape};
use ha_tests::lab::Lab;
use ha_tests::netns::{Netns, wait_until};
use ha_tests::topology::{Naming, Node, SERVER};
use ha_tests::traffic::{Load, Traffic};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// SIGKILL at any instant, then a plain start: each time the daemon answers within a second, whatever it was doing
/// (starting, waiting, being master), and the pair ends with one master and nothing left behind.
#[test]
fn netns_killed_at_any_instant_it_starts_again() {
    let mut lab = Lab::running(&Settings::default()).unwrap();
    lab.kill(Node::Fw2);
    // From just forked to settled; a fixed set of instants, so that a failure can be repeated.
    for after in [0, 1, 3, 7, 15, 30, 60, 120, 250, 500, 1000] {
        let mut process = lab.pair[Node::Fw2].spawn(lab.files(Node::Fw2).run_command().unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(after));
        process.kill();
        let begin = Instant::now();
        let daemon = Daemon::start(&lab.pair[Node::Fw2], Node::Fw2, lab.dir());
        let took = begin.elapsed();
        drop(daemon.unwrap_or_else(|error| panic!("killed after {after} ms: {error:#}")));
        assert!(took < Duration::from_secs(1), "killed after {after} ms, the start took {took:?}");
    }
    lab.start(Node::Fw2).unwrap();
    lab.wait_settled(Node::Fw1, Duration::from_secs(8)).unwrap();
}

/// A killed master leaves its addresses in the kernel; started again while the other one is master, it removes
/// them, becomes backup, and its programs are attached again.
#[test]
fn netns_a_killed_master_cleans_up_at_its_next_start() {
    let mut lab = Lab::running(&Settings::default()).unwrap();
    lab.kill(Node::Fw1);
    assert!(lab.holds(Node::Fw1), "the kernel is expected to keep the addresses");
    wait_until("fw2 takes over", Duration::from_secs(8), || lab.holds(Node::Fw2)).unwrap();
    let begin = Instant::now();
    lab.start(Node::Fw1).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    wait_until("the left addresses are gone", Duration::from_secs(1), || lab.holder() == Some(Node::Fw2)).unwrap();
    lab.wait_settled(Node::Fw2, Duration::from_secs(8)).unwrap();
    assert_eq!(lab.status(Node::Fw1).unwrap().datapath("eth0"), "native");
}

/// A second start on the same node refuses, names the process that runs, and does not disturb it.
#[test]
fn netns_a_second_start_names_the_first() {
    let mut lab = Lab::new(&Settings::default(), Naming::OfProcess).unwrap();
    lab.start(Node::Fw1).unwrap();
    let mut second = lab.files(Node::Fw1).run_command().unwrap();
    second.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut second = lab.pair[Node::Fw1].spawn(second).unwrap();
    let status = second.wait(Duration::from_secs(3)).unwrap();
    assert!(!status.success());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut second.child().stderr.take().unwrap(), &mut said).unwrap();
    let pid = lab.daemon(Node::Fw1).unwrap().process().pid().as_raw_nonzero().to_string();
    assert!(said.contains(&pid), "pid {pid} is not named: {said}");
    assert_eq!(lab.status(Node::Fw1).unwrap().number("/pid").to_string(), pid);
}

/// `promtool check metrics` has nothing to complain about, and between two scrapes of the backup the counters
/// of received adverts rise, as XDP counted them.
#[test]
fn netns_metrics_are_sound_and_count() {
    let lab = Lab::running(&Settings::default()).unwrap();
    let load = Load { tcp: 5, udp: 5, icmp: 2, probe: None, ..Load::default() };
    let _traffic = Traffic::start(&lab.pair.client, &lab.pair.server, SERVER.into(), &load).unwrap();
    for node in Node::BOTH {
        promtool(&scrape(&lab.pair[node]).unwrap());
    }
    let backup = &lab.pair[Node::Fw2];
    assert_eq!(lab.status(Node::Fw2).unwrap().datapath("eth0"), "native");
    let adverts = |space: &Netns| {
        let metrics = scrape(space).unwrap();
        let of = |interface: &str| {
            let label = format!("interface=\"{interface}\"");
            sample(&metrics, &["adverts", &label]).unwrap_or_else(|| panic!("no adverts of {interface}:\n{metrics}"))
        };
        [of("eth0"), of("eth1")]
    };
    let before = adverts(backup);
    std::thread::sleep(Duration::from_millis(2500));
    let after = adverts(backup);
    for (before, after) in before.into_iter().zip(after) {
        assert!(after >= before + 2.0, "{before} adverts, 2.5 s later {after}");
    }
}

fn promtool(metrics: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut checking = command.spawn().expect("promtool (Debian package prometheus) is needed");
    checking.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = checking.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{metrics}");
}

/// Stopped cleanly, a node leaves no address, route, XDP program or socket, and its peer is not disturbed.
#[test]
fn netns_a_clean_stop_leaves_nothing() {
    let mut lab = Lab::running(&Settings::default()).unwrap();
    for node in [Node::Fw2, Node::Fw1] {
        lab.stop(node).unwrap();
        assert_eq!(lab.pair.vips_held(node).unwrap(), [false; 2]);
        let links = lab.pair[node].run("ip", &["link"]).unwrap();
        assert!(!links.contains("xdp"), "{links}");
        assert_eq!(lab.pair[node].run("ip", &["route", "show", "default"]).unwrap(), "");
        assert!(!lab.files(node).socket.exists());
    }
}
