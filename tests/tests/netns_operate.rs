//! What operators do to a running pair: planned failovers, maintenance, restarts; and what they are told afterwards.

use ha_tests::daemon::{STATE, Settings, sample, scrape};
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::observer::Observer;
use ha_tests::topology::Node;
use ha_tests::traffic::Traffic;
use ha_tests::watched::watched_pair;
use std::process::Output;
use std::time::{Duration, Instant};

/// A hand-over takes milliseconds; on a machine that runs other tests beside it still ends well within this.
const MOVED: Duration = Duration::from_secs(2);
/// CARP's dead time of 3 s, and slack for two busy processors.
const TAKEOVER: Duration = Duration::from_secs(8);
const SETTLED: Duration = Duration::from_secs(10);
/// TCP sends a lost segment again after 200 ms, 400 ms, and so on, so all have gone on by then.
const SESSIONS: Duration = Duration::from_secs(8);

/// A pair with fw1 as master, sessions and a probe of 1 kHz through it, and the observer of both sides.
struct Operated {
    observer: Observer,
    traffic: Traffic,
    lab: Lab,
}

impl Operated {
    fn new() -> Self {
        let (observer, traffic, lab) = watched_pair().unwrap();
        Self { observer, traffic, lab }
    }

    /// Probes that were sent and never answered; what is under way is not lost.
    fn lost(&self) -> u64 {
        let probe = self.traffic.probe();
        let missing = (0..50).map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            probe.sent().saturating_sub(probe.received())
        });
        missing.min().unwrap_or(0)
    }

    /// The node is master alone, no probe was lost since `lost`, no two nodes answered at once, and every session lives.
    fn expect_moved(&self, to: Node, lost: u64) {
        self.lab.wait_settled(to, SETTLED).unwrap();
        assert_eq!(self.lost(), lost, "probes were lost on the way to {}", to.name());
        self.expect_never_two();
        self.traffic.expect_survival(self.traffic.now(), SESSIONS).unwrap();
    }

    fn expect_never_two(&self) {
        let violations = self.observer.timeline(0).unwrap().violations();
        assert_eq!(violations.len(), 0, "two nodes answered: {:?}", violations.first());
    }
}

/// Runs a `twinwall` command on a node.
fn twinwall(lab: &Lab, node: Node, arguments: &[&str]) -> Output {
    lab.files(node).command(arguments).unwrap().output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn expect(output: &Output, code: i32, words: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
    assert!(said(output).contains(words), "{}", said(output));
}

/// The group is given away by the master, asked for by the backup, and sent to a node by name, back and forth: each time
/// the new master has confirmed when the command ends, not one probe is lost, and nobody answers beside another.
#[test]
fn netns_a_planned_failover_loses_nothing() {
    let operated = Operated::new();
    let lost = operated.lost();
    let moves: [(&[&str], Node); 4] = [
        (&["failover", "--wait"], Node::Fw2),
        (&["failover", "--wait"], Node::Fw1),
        (&["failover", "--wait", "--to", "fw2"], Node::Fw2),
        (&["failover", "--wait", "--to", "fw1"], Node::Fw1),
    ];
    for (arguments, to) in moves {
        expect(&twinwall(&operated.lab, Node::Fw1, arguments), 0, &format!("{} is master", to.name()));
        assert_eq!(operated.lab.status(to).unwrap().role(), "master");
        operated.expect_moved(to, lost);
    }
    expect(&twinwall(&operated.lab, Node::Fw1, &["failover", "--to", "fw1"]), 0, "nothing to do");
    expect(&twinwall(&operated.lab, Node::Fw1, &["failover", "--to", "fw9"]), 1, "choose from fw1, fw2");
}

/// With its peer's host dead a master refuses to give the group away, and says why; so it does for maintenance, which
/// is then not remembered either.
#[test]
fn netns_nobody_to_hand_over_to() {
    let mut lab = Lab::running(&Settings::default()).unwrap();
    lab.crash_host(Node::Fw2).unwrap();
    wait_until("fw1 finds fw2 silent", TAKEOVER, || {
        lab.status(Node::Fw1).is_ok_and(|status| status.0.pointer("/election/peer/sight") == Some(&"silent".into()))
    })
    .unwrap();
    expect(&twinwall(&lab, Node::Fw1, &["failover", "--wait"]), 5, "does not answer heartbeats");
    expect(&twinwall(&lab, Node::Fw1, &["maintenance", "on"]), 5, "stays as it was");
    assert!(!lab.dir().join(STATE).join("fw1.maintenance").exists());
    assert_eq!(lab.holder(), Some(Node::Fw1));
}

/// Maintenance moves the group without loss, outlives SIGKILL and a new start, and takes nothing even when the other
/// host dies; when it is ended the node is of use at once.
#[test]
fn netns_maintenance_outlives_a_restart() {
    let mut operated = Operated::new();
    let lost = operated.lost();
    expect(&twinwall(&operated.lab, Node::Fw1, &["maintenance", "on"]), 0, "the peer is master");
    operated.expect_moved(Node::Fw2, lost);
    operated.lab.kill(Node::Fw1);
    operated.lab.start(Node::Fw1).unwrap();
    expect(&twinwall(&operated.lab, Node::Fw1, &["status"]), 0, "MAINTENANCE");
    operated.lab.wait_settled(Node::Fw2, SETTLED).unwrap();
    operated.lab.crash_host(Node::Fw2).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    assert!(!operated.lab.holds(Node::Fw1), "a node under maintenance took the group");
    expect(&twinwall(&operated.lab, Node::Fw1, &["maintenance", "off"]), 0, "maintenance is off");
    wait_until("fw1 takes over", TAKEOVER, || operated.lab.holds(Node::Fw1)).unwrap();
    assert!(!operated.lab.dir().join(STATE).join("fw1.maintenance").exists());
}

/// Where the state directory cannot be written, maintenance fails with words that name it, and nothing moves.
#[test]
fn netns_maintenance_needs_its_directory() {
    let lab = Lab::running(&Settings::default()).unwrap();
    std::fs::write(lab.dir().join(STATE), "in the way").unwrap();
    expect(&twinwall(&lab, Node::Fw1, &["maintenance", "on", "--force"]), 1, "state_directory");
    assert_eq!(lab.holder(), Some(Node::Fw1));
    assert_eq!(lab.status(Node::Fw1).unwrap().role(), "master");
}

/// The daemon of the master ends to be restarted and is back half a second later: the other node stays backup, not one
/// probe is lost, and the new process goes on in the same term.
#[test]
fn netns_a_restart_moves_nothing() {
    let mut operated = Operated::new();
    let lost = operated.lost();
    let term = operated.lab.status(Node::Fw1).unwrap().number("/election/lease/term");
    let transitions = operated.lab.status(Node::Fw2).unwrap().transitions();
    expect(&twinwall(&operated.lab, Node::Fw1, &["stop", "--keep-role"]), 0, "");
    operated.lab.daemon(Node::Fw1).unwrap().process().wait(Duration::from_secs(1)).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(operated.lab.holds(Node::Fw1), "the kernel keeps the addresses");
    operated.lab.start(Node::Fw1).unwrap();
    operated.expect_moved(Node::Fw1, lost);
    let status = operated.lab.status(Node::Fw1).unwrap();
    assert_eq!(status.number("/election/lease/term"), term);
    assert_eq!(status.0.pointer("/election/resumed"), Some(&true.into()));
    assert_eq!(operated.lab.status(Node::Fw2).unwrap().transitions(), transitions);
}

/// A daemon that kept its role and does not come back loses it when the grace of five seconds is over, and not before:
/// then the other node is master, and nobody answered beside it.
#[test]
fn netns_a_restart_that_does_not_come_back() {
    let mut operated = Operated::new();
    let begin = Instant::now();
    expect(&twinwall(&operated.lab, Node::Fw1, &["stop", "--keep-role"]), 0, "");
    operated.lab.daemon(Node::Fw1).unwrap().process().wait(Duration::from_secs(1)).unwrap();
    wait_until("fw2 takes over", Duration::from_secs(5) + TAKEOVER, || operated.lab.holds(Node::Fw2)).unwrap();
    assert!(begin.elapsed() > Duration::from_secs(4), "{:?}", begin.elapsed());
    operated.expect_never_two();
    operated.traffic.expect_survival(operated.traffic.now(), SESSIONS).unwrap();
}

/// `twinwall stop` on the master: the group has moved without a lost probe when the command ends, and nothing is left
/// behind.
#[test]
fn netns_a_clean_stop_loses_nothing() {
    let mut operated = Operated::new();
    let lost = operated.lost();
    expect(&twinwall(&operated.lab, Node::Fw1, &["stop"]), 0, "");
    operated.lab.daemon(Node::Fw1).unwrap().process().wait(Duration::from_secs(1)).unwrap();
    wait_until("fw2 alone holds the addresses", MOVED, || operated.lab.holder() == Some(Node::Fw2)).unwrap();
    assert_eq!(operated.lost(), lost, "probes were lost");
    operated.traffic.expect_survival(operated.traffic.now(), SESSIONS).unwrap();
    let links = operated.lab.pair[Node::Fw1].run("ip", &["link"]).unwrap();
    assert!(!links.contains("xdp"), "{links}");
    assert!(!operated.lab.files(Node::Fw1).socket.exists());
}

/// After a crash the new master tells how it came about, stage by stage up to the first packet forwarded: in its log,
/// in `status`, and in the histogram.
#[test]
fn netns_a_failover_explains_itself() {
    let mut operated = Operated::new();
    operated.lab.crash_host(Node::Fw1).unwrap();
    wait_until("fw2 takes over", TAKEOVER, || operated.lab.holds(Node::Fw2)).unwrap();
    let log = operated.lab.files(Node::Fw2).log;
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until("it is explained", Duration::from_secs(3), || {
        told().lines().any(|line| line.contains("failover explained") && line.contains("forwarded"))
    })
    .unwrap();
    let status = operated.lab.status(Node::Fw2).unwrap();
    let last = status.0.pointer("/election/history/0").expect("a history").clone();
    assert_eq!(last["to"], "master", "{last}");
    let stages: Vec<&str> = last["stages"].as_array().unwrap().iter().filter_map(|s| s["stage"].as_str()).collect();
    for stage in ["detected", "lease", "vips", "first_announced", "announced", "forwarded"] {
        assert!(stages.contains(&stage), "{stage} is missing: {last}");
    }
    let sum: f64 = last["stages"].as_array().unwrap().iter().filter_map(|stage| stage["ms"].as_f64()).sum();
    assert!((sum - last["total_ms"].as_f64().unwrap()).abs() < 0.01, "{last}");
    expect(&twinwall(&operated.lab, Node::Fw2, &["status"]), 0, "detected");
    let metrics = scrape(&operated.lab.pair[Node::Fw2]).unwrap();
    let counted = sample(&metrics, &["twinwall_transition_seconds_count", "stage=\"forwarded\""]);
    assert_eq!(counted, Some(1.0), "{metrics}");
}
