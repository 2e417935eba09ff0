//! The runner with real programs.

use super::*;
use crate::config::hooks::Hooks;
use crate::mailbox::{Postman, mailbox};
use ha_common::role::Role;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// A runner in a thread, with hooks that write their arguments to a log.
struct Fixture {
    directory: tempfile::TempDir,
    hooks: Postman<HookRequest>,
    record: Arc<Record>,
    thread: Option<JoinHandle<Result<(), HookError>>>,
}

impl Fixture {
    /// `body` runs in every hook after it has written its line.
    fn new(body: &str, timeout: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let script = |name: &str| {
            let path = directory.path().join(name);
            let text = format!("#!/bin/sh\necho {name} \"$@\" >>{}\n{body}\n", log.display());
            write_program(&path, &text);
            vec![path]
        };
        let (up, down, any) = (script("up"), script("down"), script("any"));
        let hooks = Hooks { up, down, any, timeout, xparam: None };
        let config = Arc::new(Resolved { hooks, ..crate::fixture::config() });
        let (hooks, requests) = mailbox(16).unwrap();
        let record = Arc::new(Record::default());
        let runner = HookRunner::new(config, Arc::clone(&record)).unwrap();
        let thread = Some(std::thread::spawn(move || runner.run(requests)));
        Self { directory, hooks, record, thread }
    }

    fn post(&self, from: Role, to: Role) {
        self.hooks.post(HookRequest::Event(Event::new(from, to, "start", 254, 0))).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn wait_for(&self, what: &str, ready: impl Fn(&Self) -> bool) {
        let limit = clock::now() + Duration::from_secs(10);
        while !ready(self) {
            assert!(clock::now() < limit, "{what}; log {:?}, {:?}", self.log(), self.record.status());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn count(&self, hook: &str, result: &str) -> u64 {
        self.record.status().runs[hook][result]
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.hooks.post(HookRequest::Stop).unwrap();
            thread.join().unwrap().unwrap();
        }
    }
}

/// Writes a program by way of a rename, so that no other test's fork holds it open for writing when it is executed.
fn write_program(path: &Path, text: &str) {
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", "printf %s \"$1\" >\"$0.new\" && chmod 755 \"$0.new\" && mv \"$0.new\" \"$0\""])
        .arg(path)
        .arg(text)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o755);
}

/// A takeover and its end: every program runs once, in order, one after the other.
#[test]
fn hooks_run_in_order() {
    let mut fixture = Fixture::new("", Duration::from_secs(5));
    fixture.post(Role::Backup, Role::Master);
    fixture.wait_for("three runs", |fixture| fixture.log().len() == 3 && fixture.count("any", "ok") == 1);
    fixture.post(Role::Master, Role::Fault);
    fixture.stop();
    assert_eq!(
        fixture.log(),
        [
            "up eth0 10.77.1.210",
            "up eth1 10.77.2.139",
            "any GROUP edge MASTER 254",
            "down eth0 10.77.1.210",
            "down eth1 10.77.2.139",
            "any GROUP edge FAULT 254",
        ]
    );
    assert_eq!([("up", 2), ("down", 2), ("any", 2)].map(|(hook, _)| fixture.count(hook, "ok")), [2, 2, 2]);
}

/// A hook that hangs is killed in time; of the changes meanwhile only the newest is told, and the rest is counted.
#[test]
fn the_newest_change_wins() {
    let mut fixture = Fixture::new("test -e \"$0.hang\" && sleep 60; :", Duration::from_millis(400));
    std::fs::write(fixture.path("up.hang"), "").unwrap();
    fixture.post(Role::Backup, Role::Master);
    fixture.wait_for("the hook hangs", |fixture| fixture.log().len() == 1);
    fixture.post(Role::Master, Role::Backup);
    fixture.post(Role::Backup, Role::Fault);
    fixture.wait_for("the newest change is told", |fixture| fixture.count("any", "ok") == 1);
    fixture.stop();
    let expected =
        ["up eth0 10.77.1.210", "down eth0 10.77.1.210", "down eth1 10.77.2.139", "any GROUP edge FAULT 254"];
    assert_eq!(fixture.log(), expected);
    assert_eq!((fixture.count("up", "timed_out"), fixture.count("up", "skipped")), (1, 1));
    assert_eq!((fixture.count("down", "ok"), fixture.count("down", "skipped")), (2, 2));
    assert_eq!(fixture.count("any", "skipped"), 2);
}

/// Failures are counted by kind, do not stop the hooks after them, and the last one is shown.
#[test]
fn failures_are_counted() {
    let mut fixture = Fixture::new("echo out of order; exit 7", Duration::from_secs(5));
    std::fs::remove_file(fixture.path("up")).unwrap();
    fixture.post(Role::Backup, Role::Master);
    fixture.wait_for("the last hook has run", |fixture| fixture.count("any", "failed") == 1);
    fixture.stop();
    assert_eq!(fixture.count("up", "could_not_start"), 2);
    let last = fixture.record.status().last.unwrap();
    assert_eq!((last.hook.as_str(), last.result.as_str()), ("any", "failed"));
    assert_eq!(last.detail, "exit code 7: out of order");
}

/// The end waits for hooks that are still to run.
#[test]
fn the_end_waits_for_the_last_change() {
    let mut fixture = Fixture::new("sleep 0.1", Duration::from_secs(5));
    fixture.post(Role::Master, Role::Init);
    fixture.stop();
    assert_eq!(fixture.log().last().map(String::as_str), Some("any GROUP edge STOP 254"));
    assert_eq!(fixture.count("any", "ok"), 1);
}
