//! Never two masters, whatever happens to one of them or to a path between them: an observer asks a thousand times a
//! second on both sides, and nothing that it sees may be the work of two.

use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::observer::{Observer, Timeline};
use ha_tests::topology::{Node, Port};
use ha_tests::traffic::Traffic;
use ha_tests::watched::watched_pair;
use std::time::Duration;

/// From the freeze or the death of a master until the other one answers: its lease of 40 ms, the notice of its end, and
/// ample margin for a busy machine. The bench measures how long it really takes.
const TAKEOVER: Duration = Duration::from_millis(500);
/// From the healing of a partition until there is one master: the first heartbeat that comes through decides.
const HEALED: Duration = Duration::from_millis(250);
/// TCP sends a lost segment again after 200 ms, 400 ms, and so on, so all have gone on by then.
const SESSIONS: Duration = Duration::from_secs(8);
const SETTLED: Duration = Duration::from_secs(10);

/// A pair with fw1 as master, sessions through it, and the observer.
struct Watched {
    observer: Observer,
    traffic: Traffic,
    lab: Lab,
}

impl Watched {
    fn new() -> Self {
        let (observer, traffic, lab) = watched_pair().unwrap();
        Self { observer, traffic, lab }
    }

    fn timeline(&self) -> Timeline {
        self.observer.timeline(0).unwrap()
    }

    /// Since it began, no two nodes answered at once, and LAN and WAN were not apart for longer than a takeover.
    fn expect_one_master(&self) {
        let seen = self.timeline();
        let violations = seen.violations();
        let first = violations.first();
        assert_eq!(violations.len(), 0, "both for {} ns; first {first:?}", seen.longest_double());
        assert!(seen.longest_apart() < 100_000_000, "{:?}", seen.apart());
    }

    /// fw2 is master and fw1, which goes on, never answers again; every session lives.
    fn expect_taken_over_for_good(&self, resumed: u64) {
        self.lab.wait_settled(Node::Fw2, SETTLED).unwrap();
        self.traffic.expect_survival(self.traffic.now(), SESSIONS).unwrap();
        assert!(!self.timeline().answered_since(Node::Fw1, resumed), "the resumed node answered");
        self.expect_one_master();
    }

    /// fw2 answers on both sides, soon.
    fn expect_takeover(&self, since: u64) {
        let _ = wait_until("fw2 answers", TAKEOVER, || self.timeline().answered_since(Node::Fw2, since));
        let seen = self.timeline();
        assert!(
            seen.answered_since(Node::Fw2, since),
            "fw2 did not answer within {TAKEOVER:?}; it says:\n{}",
            self.lab.files(Node::Fw2).log_tail()
        );
    }

    fn transitions(&self) -> [u64; 2] {
        Node::BOTH.map(|node| self.lab.status(node).unwrap().transitions())
    }
}

/// A frozen master: its kernel goes on, its lease does not. The other one takes over, and the one that is resumed (after
/// a moment, after seconds, after what TCP would give up over) never answers again.
#[test]
fn netns_a_frozen_master_never_answers_again() {
    for frozen in [200, 2_000, 10_000] {
        let watched = Watched::new();
        let begin = watched.observer.now();
        watched.lab.freeze(Node::Fw1);
        std::thread::sleep(Duration::from_millis(frozen));
        let resumed = watched.observer.now();
        watched.lab.thaw(Node::Fw1);
        watched.expect_takeover(begin);
        std::thread::sleep(Duration::from_secs(1));
        watched.expect_taken_over_for_good(resumed);
    }
}

/// The IPv6 addresses of a frozen master fall silent as well, for good, before the other one answers for them.
#[test]
fn netns_a_frozen_masters_ipv6_addresses_fall_silent() {
    let lab = Lab::running(&Settings { ipv6: true, ..Settings::default() }).unwrap();
    let observer = Observer::start_ipv6(&lab.pair).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(observer.timeline(0).unwrap().answered_since(Node::Fw1, 0));
    let begin = observer.now();
    lab.freeze(Node::Fw1);
    std::thread::sleep(TAKEOVER);
    let resumed = observer.now();
    lab.thaw(Node::Fw1);
    std::thread::sleep(Duration::from_secs(1));
    let seen = observer.timeline(0).unwrap();
    assert!(seen.answered_since(Node::Fw2, begin) && !seen.answered_since(Node::Fw1, resumed));
    assert_eq!((seen.violations(), seen.longest_double()), (vec![], 0));
}

/// A killed daemon leaves its addresses and programs in a living kernel; the lease in it ends, the other one takes over,
/// and the addresses answer nobody, neither before nor after the daemon's next start.
#[test]
fn netns_a_killed_masters_kernel_falls_silent() {
    let mut watched = Watched::new();
    let begin = watched.observer.now();
    watched.lab.kill(Node::Fw1);
    watched.expect_takeover(begin);
    assert!(watched.lab.holds(Node::Fw1), "the kernel is expected to keep the addresses");
    let taken = watched.observer.now();
    std::thread::sleep(Duration::from_secs(2));
    watched.lab.start(Node::Fw1).unwrap();
    watched.expect_taken_over_for_good(taken);
}

/// A paused machine: nothing leaves it and no process runs, then both go on as if no time had passed. It must see that
/// it is no longer master before anyone hears it.
#[test]
fn netns_a_paused_host_never_answers_again() {
    for paused in [200, 3_000] {
        let watched = Watched::new();
        let begin = watched.observer.now();
        watched.lab.pause_host(Node::Fw1).unwrap();
        std::thread::sleep(Duration::from_millis(paused));
        watched.expect_takeover(begin);
        let resumed = watched.observer.now();
        watched.lab.resume_host(Node::Fw1).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        watched.expect_taken_over_for_good(resumed);
    }
}

/// Each single path between the firewalls, cut in one direction or in both for longer than CARP's dead time: the other
/// paths still tell that the master lives, so no role changes, and none does when the path is healed.
#[test]
fn netns_a_cut_path_moves_nothing() {
    let watched = Watched::new();
    let before = watched.transitions();
    for path in Port::ALL {
        for cut in [vec![Node::Fw1], vec![Node::Fw2], Node::BOTH.to_vec()] {
            for from in &cut {
                watched.lab.pair.cut(*from, path).unwrap();
            }
            std::thread::sleep(Duration::from_millis(4_500));
            assert_eq!(watched.transitions(), before, "{path:?} cut for {cut:?}");
            watched.lab.pair.heal_all().unwrap();
            watched.lab.wait_settled(Node::Fw1, SETTLED).unwrap();
            assert_eq!(watched.transitions(), before, "{path:?} healed");
        }
    }
    watched.traffic.expect_survival(watched.traffic.now(), SESSIONS).unwrap();
    assert!(!watched.timeline().answered_since(Node::Fw2, 0));
    watched.expect_one_master();
}

/// Two firewalls that do not hear each other at all are both master: nobody could tell them otherwise. Healed, the first
/// heartbeat decides: within the bound one of them is silent for good, and the sessions go on.
#[test]
fn netns_a_healed_partition_has_one_master() {
    let watched = Watched::new();
    let begin = watched.observer.now();
    watched.lab.pair.partition().unwrap();
    std::thread::sleep(Duration::from_secs(5));
    assert!(watched.timeline().answered_since(Node::Fw2, begin), "this partition parted nobody");
    watched.lab.pair.heal_all().unwrap();
    std::thread::sleep(HEALED);
    let healed = watched.observer.now();
    wait_until("one master", SETTLED, || watched.lab.settled_on(&watched.lab.answers()).is_some()).unwrap();
    watched.traffic.expect_survival(watched.traffic.now(), SESSIONS).unwrap();
    let after = watched.observer.timeline(healed).unwrap();
    assert_eq!((after.violations(), after.apart()), (vec![], vec![]));
    let answering = Node::BOTH.map(|node| after.answered_since(node, healed));
    assert!(answering == [true, false] || answering == [false, true], "{answering:?}");
    let winner = if answering[0] { Node::Fw1 } else { Node::Fw2 };
    // The winner has met nobody if its first heartbeat has silenced the other before that was heard.
    let loser = winner.peer();
    let log = std::fs::read_to_string(watched.lab.dir().join(format!("{}.log", loser.name()))).unwrap();
    let event = log.lines().find(|line| line.contains("another master was met")).expect("an event");
    assert!(event.contains(&format!("peer=\"{}\"", winner.name())), "{event}");
}
