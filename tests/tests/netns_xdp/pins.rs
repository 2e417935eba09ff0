//! What outlives the process: a killed node's programs answer until the next process takes them over.

use crate::pair::{DEVICE, LINK, Prober, namespaces, plan};
use ha_common::abi::{FenceEntry, SelfEntry};
use ha_common::wire::heartbeat::{Gate, ROLE_MASTER, Standing};
use ha_tests::netns::{Netns, wait_until};
use ha_user::clock;
use ha_user::config::XdpChoice;
use ha_user::datapath::{Attachment, Datapath, Inherited};
use ha_user::process;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(5);
/// Set in the process that is to be killed: where it pins.
const HOLD_VARIABLE: &str = "TWINWALL_TEST_HOLD_PINS";
/// How long the killed process' lease is.
const LEASE: Duration = Duration::from_millis(1500);
/// What it says of itself.
const TERM: u64 = 0x3fe;
const SESSION: u64 = 77;

/// A BPF file system of the test's own.
struct BpfFs(TempDir);

impl BpfFs {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().to_str().unwrap();
        assert!(Command::new("mount").args(["-t", "bpf", "bpf", target]).status().unwrap().success(), "needs root");
        Self(directory)
    }

    fn node(&self) -> PathBuf {
        self.0.path().join("fw2")
    }

    /// The node's only directory of pins, if there is one.
    fn pins(&self) -> Option<PathBuf> {
        let namespace = entries(&self.node()).pop()?;
        entries(&namespace).pop()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).map_or(Vec::new(), |entries| entries.map(|entry| entry.unwrap().path()).collect())
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        entries(directory).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn is_attached(node: &Netns) -> bool {
    node.run("ip", &["link", "show", "dev", DEVICE]).unwrap().contains("prog/xdp")
}

fn master(lease: Duration) -> SelfEntry {
    let state = Standing { role: ROLE_MASTER, ..Standing::default() }.pack();
    let now = clock::now().0;
    SelfEntry { lease_until_ns: now + lease.as_nanos() as u64, term: TERM, session: SESSION, beat_ns: now, state }
}

fn start(node: &Netns, file_system: &BpfFs) -> Datapath {
    node.enter(|| Datapath::start(&plan(1, Some(file_system.node())))).unwrap()
}

/// A MASTER is killed: its programs go on answering, with the lease that it had and then as lapsed. The next process finds
/// what it said, and exchanges the program while 1 kHz of probes lose none. Its clean end leaves nothing.
#[test]
fn netns_programs_outlive_a_killed_owner() {
    if let Some(directory) = std::env::var_os(HOLD_VARIABLE) {
        let mut datapath = Datapath::start(&plan(1, Some(directory.into())));
        datapath.publish(&master(LEASE)).unwrap();
        // Longer than the parent waits before it kills this process.
        sleep(4 * PATIENCE);
        return;
    }
    let (file_system, [prober_ns, node_ns]) = (BpfFs::mount(), namespaces());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "pins::netns_programs_outlive_a_killed_owner"]);
    command.env(HOLD_VARIABLE, file_system.node()).stdout(Stdio::null());
    let mut child = node_ns.spawn(command).unwrap();
    let mut prober = prober_ns.enter(|| Prober::start(0, 5)).unwrap();
    let mut gate = || prober.ask().map(|reply| (reply.report.session, reply.report.standing.gate));
    wait_until("the owner serves", PATIENCE, || gate() == Some((SESSION, Gate::Open))).unwrap();
    child.kill();
    let shown: Vec<_> = std::iter::repeat_with(&mut gate).take(20).collect();
    assert!(shown.iter().all(|shown| *shown == Some((SESSION, Gate::Open))), "{shown:?}");
    wait_until("the lease ends", PATIENCE, || gate() == Some((SESSION, Gate::Lapsed))).unwrap();
    assert!(is_attached(&node_ns));

    let done = AtomicBool::new(false);
    let (mut node, mut prober) = std::thread::scope(|scope| {
        let probing = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(prober.ask().is_some(), "probe {} was not answered", prober.sent);
                sleep(Duration::from_millis(1));
            }
            prober
        });
        sleep(Duration::from_millis(20));
        let node = start(&node_ns, &file_system);
        sleep(Duration::from_millis(20));
        done.store(true, Ordering::Relaxed);
        (node, probing.join().unwrap())
    });
    let Some(Inherited { entry, fence }) = node.inherited() else { panic!("nothing was inherited") };
    assert_eq!((entry.term, entry.session), (TERM, SESSION));
    assert_eq!(fence, FenceEntry { closed_term: TERM, lapsed: 1, superseded: 0 });
    assert_eq!((node.attachment(LINK), node.is_pinned(LINK)), (Some(&Attachment::Native), true));
    // The program is the new one's: it counts in the new maps, and reads what the new process says.
    node.publish(&SelfEntry { session: SESSION + 1, term: TERM + 0x100, ..master(LEASE) }).unwrap();
    let reply = prober.ask().unwrap();
    assert_eq!((reply.report.session, reply.report.standing.gate), (SESSION + 1, Gate::Open));
    assert!(node.counters().snapshot().interfaces[0].probes > 0);
    node.unpin();
    wait_until("nothing is attached", PATIENCE, || !is_attached(&node_ns)).unwrap();
    assert!(!file_system.node().exists());
}

/// A process that ends without saying so leaves its pins: one link for the interface, and two maps. Another layout and a
/// map of another size are replaced, also then without a moment in which nothing is attached.
#[test]
fn netns_other_layouts_are_replaced() {
    let (file_system, [_peer, node_ns]) = (BpfFs::mount(), namespaces());
    let mut node = start(&node_ns, &file_system);
    assert_eq!(node.inherited(), None);
    node.publish(&master(LEASE)).unwrap();
    drop(node);
    let current = file_system.pins().unwrap();
    let pinned = names(&current);
    assert_eq!((pinned.len(), &pinned[..2]), (3, &["FENCE".to_owned(), "SELF".to_owned()][..]));
    assert!(pinned[2].starts_with("link-") && pinned[2].ends_with("-native"), "{pinned:?}");

    fs::rename(&current, current.with_file_name("v0")).unwrap();
    let node = start(&node_ns, &file_system);
    assert_eq!((node.inherited(), node.is_pinned(LINK)), (None, true));
    drop(node);
    assert_eq!(names(current.parent().unwrap()), [current.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(names(&current), pinned);

    fs::remove_file(current.join("SELF")).unwrap();
    fs::rename(current.join("FENCE"), current.join("SELF")).unwrap();
    let mut node = start(&node_ns, &file_system);
    assert_eq!(node.inherited(), None);
    node.publish(&master(LEASE)).unwrap();
    assert!(is_attached(&node_ns));
    drop(node);
    let node = start(&node_ns, &file_system);
    assert_eq!(node.inherited().map(|inherited| inherited.entry.term), Some(TERM));
}

/// What the process before attached in another mode than is configured now is replaced; XDP switched off detaches it; an
/// interface that was re-created, or is no longer configured, leaves no pin.
#[test]
fn netns_pins_follow_the_configuration() {
    let (file_system, nodes) = (BpfFs::mount(), namespaces());
    let node_ns = &nodes[1];
    drop(start(node_ns, &file_system));
    let mut other = plan(1, Some(file_system.node()));
    other.choice = XdpChoice::Generic;
    let generic = node_ns.enter(|| Datapath::start(&other)).unwrap();
    assert_eq!((generic.attachment(LINK).unwrap().name(), generic.is_pinned(LINK)), ("generic", true));
    let pins = || names(&file_system.pins().unwrap());
    assert!(pins().len() == 3 && pins()[2].ends_with("-generic"), "{:?}", pins());
    drop(generic);
    let taken_over = start(node_ns, &file_system);
    assert!(taken_over.attachment(LINK).unwrap().note().unwrap().contains("taken over"));
    drop(taken_over);

    let mut node = start(node_ns, &file_system);
    node_ns.ip(&format!("link del {DEVICE}")).unwrap();
    node_ns.enter(|| node.attach(LINK).cloned()).unwrap();
    assert_eq!(pins(), ["FENCE", "SELF"]);
    ha_tests::netns::cable((&nodes[0], DEVICE), (node_ns, DEVICE)).unwrap();
    assert_eq!(node_ns.enter(|| node.attach(LINK).cloned()).unwrap(), Some(Attachment::Native));
    assert_eq!(pins().len(), 3);
    drop(node);

    other.interfaces.clear();
    drop(node_ns.enter(|| Datapath::start(&other)).unwrap());
    assert_eq!(pins(), ["FENCE", "SELF"]);
    drop(start(node_ns, &file_system));
    assert!(is_attached(node_ns));
    let mut off = plan(1, Some(file_system.node()));
    off.choice = XdpChoice::Off;
    drop(node_ns.enter(|| Datapath::start(&off)).unwrap());
    wait_until("nothing is attached", PATIENCE, || !is_attached(node_ns)).unwrap();
    assert!(!file_system.node().exists());
}

/// With the capabilities that the daemon keeps, everything that pins need works: making them, taking them over, attaching
/// to an interface that was re-created, and removing them.
#[test]
fn netns_pins_need_no_more_than_the_daemon_keeps() {
    let (file_system, nodes) = (BpfFs::mount(), namespaces());
    let (pin_directory, node_ns) = (file_system.node(), &nodes[1]);
    let work = node_ns.enter(|| {
        process::drop_privileges(false).unwrap();
        let plan = plan(1, Some(pin_directory));
        let mut node = Datapath::start(&plan);
        assert!(node.is_pinned(LINK));
        node.publish(&master(LEASE)).unwrap();
        drop(node);
        let node = Datapath::start(&plan);
        assert_eq!(node.inherited().map(|inherited| inherited.entry.session), Some(SESSION));
        assert!(node.is_pinned(LINK));
        node
    });
    let mut node = work.unwrap();
    node_ns.ip(&format!("link del {DEVICE}")).unwrap();
    node_ns.enter(|| assert_eq!(node.attach(LINK).map(Attachment::name), Some("socket"))).unwrap();
    ha_tests::netns::cable((&nodes[0], DEVICE), (node_ns, DEVICE)).unwrap();
    let work = node_ns.enter(|| {
        process::drop_privileges(false).unwrap();
        assert_eq!(node.attach(LINK), Some(&Attachment::Native));
        assert!(node.is_pinned(LINK));
        node.unpin();
    });
    work.unwrap();
    assert!(!file_system.node().exists());
}
