//! The daemon's own life: killed at any instant, and without a disk to write to.

use super::stage::{PATIENCE, Stage};
use super::{Extent, Fault};
use crate::daemon::{STATE, Settings};
use crate::lab::Lab;
use crate::netns::{Process, wait_until};
use crate::topology::{Naming, Node};
use crate::torture::plan::Random;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A plain start after a kill.
const START_MAX: Duration = Duration::from_secs(1);

pub const KILL_LOOP: Fault = Fault {
    name: "kill-loop",
    harm: "SIGKILL to the daemon of a random node at a random instant within 700 ms of its start, and a plain start, again and again",
    promise: "each start answers within 1 s; in the end one master, tables equal, every session alive, no file or program more than before",
    prove: kill_loop,
};

fn kill_loop(extent: Extent) -> Result<String> {
    let mut stage = Stage::new()?;
    let kills = extent.pick(12, 1000);
    let mut random = Random(0x6b69_6c6c);
    let before = leavings(&stage.lab)?;
    let mut starts = Vec::new();
    for kill in 0..kills {
        let node = Node::BOTH[usize::try_from(random.below(2))?];
        std::thread::sleep(Duration::from_micros(random.below(700_000)));
        stage.lab.kill(node);
        let begin = Instant::now();
        stage.lab.start(node).with_context(|| format!("kill {kill}, of {}", node.name()))?;
        let took = begin.elapsed();
        ensure!(took <= START_MAX, "kill {kill}: the start of {} took {took:?}", node.name());
        starts.push(took);
    }
    let mut master = None;
    wait_until("the pair settles", PATIENCE, || {
        master = stage.lab.settled_on(&stage.lab.answers());
        master.is_some()
    })?;
    stage.expect_well(master.context("nobody is master")?)?;
    let after = leavings(&stage.lab)?;
    ensure!(after == before, "left behind: {:?}", after.symmetric_difference(&before).collect::<Vec<_>>());
    starts.sort_unstable();
    let [median, worst] = [starts[starts.len() / 2], starts[starts.len() - 1]].map(|took| took.as_secs_f64() * 1e3);
    Ok(format!(
        "{kills} kills: start median {median:.0} ms, worst {worst:.0} ms; 45 of 45 sessions; nothing left behind"
    ))
}

/// Files of the lab but logs, and everything pinned.
fn leavings(lab: &Lab) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for directory in [lab.dir().to_owned(), lab.dir().join(STATE), crate::bpffs::directory(lab.dir())] {
        walk(&directory, &mut found)?;
    }
    found.retain(|path| !path.ends_with(".log"));
    Ok(found)
}

fn walk(directory: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        found.insert(entry.path().display().to_string());
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), found)?;
        }
    }
    Ok(())
}

pub const STATE_DISK_FULL: Fault = Fault {
    name: "state-disk-full",
    harm: "the state directory is on a disk without a free byte",
    promise: "the daemon runs and fails over; `maintenance on`, which must outlive a reboot, is refused by name and changes nothing",
    prove: state_disk_full,
};

fn state_disk_full(_: Extent) -> Result<String> {
    let mut lab = Lab::new(&Settings::default(), Naming::OfProcess)?;
    let state = lab.dir().join(STATE);
    fs::create_dir_all(&state)?;
    let full = format!(
        "mount -t tmpfs -o size=4k none '{0}' && head -c 4096 /dev/zero > '{0}/filler'; exec \"$@\"",
        state.display()
    );
    let _fw1 = start_apart(&lab, Node::Fw1, &full)?;
    lab.wait_role(Node::Fw1, "master", PATIENCE)?;
    lab.start(Node::Fw2)?;
    lab.wait_settled(Node::Fw1, PATIENCE)?;
    let refused = lab.files(Node::Fw1).command(&["maintenance", "on"])?.output()?;
    let said = String::from_utf8_lossy(&refused.stderr).trim().to_owned();
    ensure!(!refused.status.success(), "maintenance was accepted: {said}");
    ensure!(said.contains("No space left on device"), "the reason is not named: {said}");
    ensure!(lab.status(Node::Fw1)?.role() == "master", "the refused maintenance moved the master");
    // Heartbeats of daemons that have just started may not be answered yet.
    wait_until("a failover by hand", PATIENCE, || lab.hand_over(Node::Fw1).is_ok())?;
    lab.wait_settled(Node::Fw2, PATIENCE)?;
    Ok(format!("refused: \"{}\"; failover by hand works", message(&lab, &said)))
}

/// Starts a node's daemon in a mount namespace of its own, after what the shell does there (`"$@"` is the daemon).
fn start_apart(lab: &Lab, node: Node, script: &str) -> Result<Process> {
    let files = lab.files(node);
    let log = File::options().create(true).append(true).open(&files.log)?;
    let mut command = apart(files.run_command()?, script);
    command.stdout(log.try_clone()?).stderr(log);
    let process = lab.pair[node].spawn(command)?;
    wait_until("the daemon answers", Duration::from_secs(5), || files.status().is_ok())
        .with_context(|| files.log_tail())?;
    Ok(process)
}

fn apart(daemon: Command, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(daemon.get_program()).args(daemon.get_args());
    for (key, value) in daemon.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    command.stdin(Stdio::null());
    command
}

pub const RUN_READ_ONLY: Fault = Fault {
    name: "run-read-only",
    harm: "the daemon is started where the directory of its socket is read-only",
    promise: "it ends at once, naming path and cause; a start after the repair works",
    prove: run_read_only,
};

fn run_read_only(_: Extent) -> Result<String> {
    let mut lab = Lab::new(&Settings::default(), Naming::OfProcess)?;
    let read_only = read_only(lab.dir());
    let files = lab.files(Node::Fw1);
    let said_path = lab.dir().join("said");
    let mut command = apart(files.run_command()?, &format!("{read_only}; exec \"$@\""));
    command.stderr(File::create(&said_path)?).stdout(File::create(lab.dir().join("out"))?);
    let mut process = lab.pair[Node::Fw1].spawn(command)?;
    let status = process.wait(Duration::from_secs(5))?;
    let said = fs::read_to_string(&said_path)? + &fs::read_to_string(lab.dir().join("out"))?;
    ensure!(!status.success(), "it ran: {said}");
    let line = said.lines().find(|line| line.contains("Read-only file system"));
    let Some(line) = line.filter(|line| line.contains("fw1")) else { bail!("neither path nor cause is named: {said}") };
    let line = message(&lab, line);
    lab.start(Node::Fw1)?;
    lab.wait_role(Node::Fw1, "master", PATIENCE)?;
    Ok(format!("\"{line}\"; the next start is master"))
}

/// A line of a log or of an answer, without its date, and with the usual directory instead of the lab's.
pub fn message(lab: &Lab, line: &str) -> String {
    let said = line.rsplit_once("ERROR ").map_or(line, |(_, said)| said).trim();
    let said = said.split_once(": ").filter(|(module, _)| module.starts_with("ha_user")).map_or(said, |(_, said)| said);
    said.replace(&lab.dir().display().to_string(), "/run/twinwall")
}

/// A shell command that makes a directory read-only for the mount namespace it runs in.
fn read_only(directory: &Path) -> String {
    format!("mount --bind '{0}' '{0}' && mount -o remount,ro,bind '{0}'", directory.display())
}

pub const DISK_READ_ONLY_LATER: Fault = Fault {
    name: "disk-read-only-later",
    harm: "under the running master, socket and state directory turn read-only",
    promise: "status, failover and sessions go on; what has to be written is refused by name",
    prove: disk_read_only_later,
};

fn disk_read_only_later(_: Extent) -> Result<String> {
    let mut stage = Stage::new()?;
    // A mount namespace of its own, so that nobody else's disk changes.
    stage.lab.stop(Node::Fw1)?;
    let _apart = start_apart(&stage.lab, Node::Fw1, "exec \"$@\"")?;
    stage.expect_well(Node::Fw2)?;
    stage.lab.hand_over(Node::Fw2)?;
    stage.expect_well(Node::Fw1)?;
    let pid = stage.lab.status(Node::Fw1)?.number("/pid").to_string();
    let script = read_only(stage.lab.dir());
    crate::netns::checked(Command::new("nsenter").args(["--mount", "--target", &pid, "sh", "-c", &script]))?;
    stage.expect_well(Node::Fw1)?;
    let refused = stage.lab.files(Node::Fw1).command(&["maintenance", "on"])?.output()?;
    let said = String::from_utf8_lossy(&refused.stderr).trim().to_owned();
    ensure!(!refused.status.success() && said.contains("Read-only file system"), "maintenance: {said}");
    stage.lab.hand_over(Node::Fw1)?;
    stage.expect_well(Node::Fw2)?;
    Ok("45 of 45 sessions, failover by hand works, `maintenance on` is refused by name".to_owned())
}
