//! A processor has something more urgent to do than the control loop of the master, for longer than a lease: the mastership
//! goes on.

use ha_tests::daemon::{CONTROL, Settings};
use ha_tests::lab::Lab;
use ha_tests::realtime;
use ha_tests::topology::Node;
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longer than a lease, 40 ms, and the time until the peer is sure.
const TAKEN: Duration = Duration::from_millis(60);
const PAUSE: Duration = Duration::from_millis(100);
const TIMES: u32 = 30;
/// A turn of the loop takes some 50 us.
const LOOK_AGAIN: Duration = Duration::from_micros(100);
const LOOKS_MAX: u32 = 100;
/// Above the control loop's.
const URGENT: i32 = 70;

/// The thread of the daemon that runs the control loop: its number, and its files in `/proc`.
fn control_thread(lab: &mut Lab, node: Node) -> (Pid, PathBuf) {
    let pid = lab.daemon(node).unwrap().process().pid();
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
    let named = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == CONTROL);
    let task = tasks.map(|task| task.unwrap()).find(|task| named(&task.path())).unwrap();
    (Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap()).unwrap(), task.path())
}

/// Whether the thread waits for something other than a processor.
fn sleeps(task: &Path) -> bool {
    let stat = fs::read_to_string(task.join("stat")).unwrap();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
}

/// Something of a higher priority takes the processor `set`, again and again, as the thread that is bound to it sleeps: so a kernel that
/// does not interrupt its system calls keeps a real-time thread waiting, but never stops it in the middle of what it does.
fn take(set: CpuSet, from: PathBuf) {
    let taker = std::thread::spawn(move || {
        sched_setaffinity(None, &set).unwrap();
        realtime::enter_at(URGENT);
        for _ in 0..TIMES {
            for _ in 0..LOOKS_MAX {
                if sleeps(&from) {
                    break;
                }
                std::thread::sleep(LOOK_AGAIN);
            }
            let end = Instant::now() + TAKEN;
            while Instant::now() < end {}
            std::thread::sleep(PAUSE);
        }
    });
    taker.join().unwrap();
}

/// The master's control thread is bound to a processor that is taken from it for longer than a lease: another thread goes on
/// with the election, and no role changes. Where there is one processor, nothing could.
#[test]
fn netns_alone_a_busy_processor_costs_no_mastership() {
    let allowed = sched_getaffinity(None).unwrap();
    assert!(allowed.count() > 1, "this test needs two processors");
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)).unwrap();
    let mut set = CpuSet::new();
    set.set(last);
    let mut lab = Lab::running(&Settings::default()).unwrap();
    let before = [Node::Fw1, Node::Fw2].map(|node| lab.status(node).unwrap().transitions());
    let (thread, task) = control_thread(&mut lab, Node::Fw1);
    sched_setaffinity(Some(thread), &set).unwrap();
    take(set, task);
    let log = lab.files(Node::Fw1).log_tail();
    assert_eq!([Node::Fw1, Node::Fw2].map(|node| lab.status(node).unwrap().transitions()), before, "{log}");
    let status = lab.status(Node::Fw1).unwrap();
    let stand_ins = status.0.pointer("/election/stand_ins").and_then(serde_json::Value::as_u64).unwrap_or(0);
    println!("{stand_ins} times another thread stood in");
    assert!(stand_ins >= u64::from(TIMES) / 2, "the processor was not taken: {stand_ins}\n{log}");
    lab.wait_settled(Node::Fw1, Duration::from_secs(5)).unwrap();
}
