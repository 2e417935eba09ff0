//! One run of an external program: in a process group of its own, never waited for, ended on time.
//!
//! The program gets a clean environment, no input, and ordinary scheduling; what it writes is read with a bound and only
//! the last line is kept. Memory locks and real-time scheduling are not inherited (mlock(2), SCHED_RESET_ON_FORK).

use crate::poller::Poller;
use ha_common::time::Instant;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid};
use std::ffi::OsStr;
use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// What a program finds in `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A program that writes more finds its output closed.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Kept of the output: enough for a last line.
const TAIL_BYTES: usize = 512;
/// Shown of the last line.
const LINE_CHARS_MAX: usize = 200;
const READ_BYTES: usize = 4096;
/// Reads at one wake-up: together what a pipe can hold.
const READS_MAX: usize = 16;

/// What becomes of processes that the program left behind in its group when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// They are killed: nothing may pile up from a check that is repeated.
    Kill,
    /// They live on: a hook may start a service.
    Keep,
}

/// A started program.
pub struct Run {
    child: Child,
    pid: Pid,
    /// Readable once the program has ended.
    ended: OwnedFd,
    output: Option<PipeReader>,
    tail: Tail,
    /// When it is killed; `None` once it has been.
    deadline: Option<Instant>,
    leftovers: Leftovers,
    reaped: bool,
}

/// What [`Run::advance`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Running,
    /// The deadline has passed: the group was killed just now. The end itself is still to come.
    Overdue,
    Ended(ExitStatus),
}

impl Run {
    /// Starts `program`, to be killed at `deadline`. `environment` is all that it finds beside `PATH`.
    ///
    /// # Errors
    /// When there is no such program, it may not be executed, or processes or descriptors are exhausted.
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        environment: impl IntoIterator<Item = (&'static str, String)>,
        deadline: Instant,
        leftovers: Leftovers,
    ) -> io::Result<Self> {
        let (output, writer) = io::pipe()?;
        ioctl_fionbio(&output, true)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", PATH).envs(environment).current_dir("/");
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
        let mut child = command.spawn()?;
        // Otherwise the pipe's writing end stays open here.
        drop(command);
        let pid = Pid::from_child(&child);
        // The daemon is protected from the OOM killer; its children must not be. Nothing depends on it.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), "0");
        let ended = pidfd_open(pid, PidfdFlags::NONBLOCK).inspect_err(|_| {
            // Without the descriptor nobody would notice its end.
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = child.wait();
        })?;
        let tail = Tail::default();
        Ok(Self { child, pid, ended, output: Some(output), tail, deadline: Some(deadline), leftovers, reaped: false })
    }

    /// Makes the poller wake up when there is output or the program has ended.
    ///
    /// # Errors
    /// When the descriptors cannot be polled.
    pub fn watch(&self, poller: &Poller, token: u64) -> io::Result<()> {
        poller.watch(&self.ended, token)?;
        self.output.as_ref().map_or(Ok(()), |output| poller.watch(output, token))
    }

    /// Reads what was written, kills what is overdue, and takes note of the end. To be called at each wake-up.
    pub fn advance(&mut self, now: Instant) -> Progress {
        self.read();
        if let Some(status) = self.reap() {
            return Progress::Ended(status);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.kill();
            return Progress::Overdue;
        }
        Progress::Running
    }

    /// When [`Self::advance`] is wanted even if nothing happens.
    pub fn poll_at(&self) -> Option<Instant> {
        self.deadline
    }

    /// The last line written so far, for people; empty when there is none.
    pub fn last_line(&self) -> String {
        self.tail.last_line()
    }

    fn read(&mut self) {
        let mut buffer = [0; READ_BYTES];
        for _ in 0..READS_MAX {
            let Some(output) = &self.output else { return };
            match rustix::io::read(output, &mut buffer) {
                Ok(length @ 1..) if self.tail.bytes_read < OUTPUT_BYTES_MAX => {
                    self.tail.take(buffer.get(..length).unwrap_or_default());
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // The end of the output, or too much of it. A closed pipe must not be polled: it would be ready forever.
                Ok(_) | Err(_) => self.output = None,
            }
        }
    }

    fn reap(&mut self) -> Option<ExitStatus> {
        // Its number stays taken until it is reaped, so that the group is surely its own when it is killed.
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.pid), peek) {
            Ok(None) => return None,
            Ok(Some(_)) if self.leftovers == Leftovers::Kill => self.kill(),
            // An error: whoever started the daemon made it ignore SIGCHLD, and the kernel kept no status.
            Ok(Some(_)) | Err(_) => {}
        }
        self.read();
        // A status that cannot be had counts as a failure.
        let status = self.child.try_wait().ok().flatten().unwrap_or_else(|| ExitStatus::from_raw(0xff00));
        self.reaped = true;
        Some(status)
    }

    fn kill(&self) {
        // Whoever left the group by setsid(2), or runs as another user, is out of reach.
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.child.try_wait();
        }
    }
}

/// How a program ended, in a few words: `exit code 1: no neighbours`.
pub fn describe(status: ExitStatus, last_line: &str) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    with_line(how, last_line)
}

/// `what`, and the program's last line if there is one.
pub fn with_line(what: String, last_line: &str) -> String {
    if last_line.is_empty() { what } else { format!("{what}: {last_line}") }
}

#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    bytes_read: usize,
}

impl Tail {
    fn take(&mut self, read: &[u8]) {
        self.bytes_read += read.len();
        self.bytes.extend_from_slice(read);
        let excess = self.bytes.len().saturating_sub(TAIL_BYTES);
        self.bytes.drain(..excess);
    }

    /// The last line that is not blank, fit for a log: without control characters, and cut.
    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        line.chars().filter(|c| !c.is_control()).take(LINE_CHARS_MAX).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(10);

    fn shell(script: &str, timeout: Duration, leftovers: Leftovers) -> Run {
        let deadline = clock::now() + timeout;
        let environment = [("TWINWALL_NODE", "fw1".to_owned())];
        Run::start(Path::new("/bin/sh"), ["-c", script], environment, deadline, leftovers).unwrap()
    }

    /// Runs to the end as a loop would; also says whether the deadline passed first.
    fn finish(run: &mut Run) -> (ExitStatus, bool) {
        let (mut overdue, limit) = (false, clock::now() + LIMIT);
        let mut poller = Poller::new().unwrap();
        run.watch(&poller, 1).unwrap();
        loop {
            match run.advance(clock::now()) {
                Progress::Running => {}
                Progress::Overdue => overdue = true,
                Progress::Ended(status) => return (status, overdue),
            }
            assert!(clock::now() < limit, "the program never ended");
            let wake_up = run.poll_at().unwrap_or(limit).min(limit);
            poller.wait(Some(wake_up), &mut Vec::new()).unwrap();
        }
    }

    /// Waits until no process has this number, or only a zombie that belongs to somebody else.
    pub fn assert_gone(pid: &str) {
        let limit = clock::now() + LIMIT;
        while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(clock::now() < limit, "process {pid} still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Exit codes and the last line of both outputs come back.
    #[test]
    fn exit_code_and_last_line() {
        let mut run = shell("echo first; echo 'no neighbours' >&2; echo; exit 3", LIMIT, Leftovers::Kill);
        let (status, overdue) = finish(&mut run);
        assert_eq!((status.code(), overdue), (Some(3), false));
        assert_eq!(describe(status, &run.last_line()), "exit code 3: no neighbours");
    }

    /// The environment holds what was given and nothing of ours; the directory is the root.
    #[test]
    fn environment_is_clean() {
        let mut run = shell(
            "env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD= | sort | tr '\\n' ' '; pwd",
            LIMIT,
            Leftovers::Kill,
        );
        assert!(finish(&mut run).0.success());
        assert_eq!(run.last_line(), format!("PATH={PATH} TWINWALL_NODE=fw1 /"));
    }

    /// A program that hangs is killed at its deadline, with its child and its grandchild.
    #[test]
    fn the_whole_group_is_killed_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let script = format!(
            "sh -c 'echo $$ >>{0}; sh -c \"echo \\$\\$ >>{0}; sleep 60; :\"; :' & echo $$ >>{0}; sleep 60; :",
            pids.display()
        );
        let begin = clock::now();
        let mut run = shell(&script, Duration::from_millis(500), Leftovers::Keep);
        let (status, overdue) = finish(&mut run);
        assert_eq!((status.signal(), overdue), (Some(9), true));
        assert!(clock::now().since(begin) < Duration::from_secs(5));
        let pids = std::fs::read_to_string(pids).unwrap();
        assert_eq!(pids.lines().count(), 3, "{pids}");
        pids.lines().for_each(assert_gone);
    }

    /// A program that ends in time but leaves a process behind: it is killed or kept as wanted, and its hold on the
    /// output does not delay the end.
    #[test]
    fn leftovers_are_killed_or_kept() {
        for leftovers in [Leftovers::Kill, Leftovers::Keep] {
            let mut run = shell("sleep 60 & echo $!", LIMIT, leftovers);
            assert!(finish(&mut run).0.success());
            let pid = run.last_line();
            match leftovers {
                Leftovers::Kill => assert_gone(&pid),
                Leftovers::Keep => {
                    let process = Pid::from_raw(pid.parse().unwrap()).unwrap();
                    rustix::process::kill_process(process, Signal::KILL).expect("it still runs");
                }
            }
        }
    }

    /// Endless output neither fills memory nor keeps the program alive beyond its deadline.
    #[test]
    fn endless_output_is_bounded() {
        let mut run = shell("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", LIMIT, Leftovers::Kill);
        let (status, overdue) = finish(&mut run);
        assert!(!status.success() && !overdue, "{status}");
        assert!(run.tail.bytes.len() <= TAIL_BYTES && run.tail.bytes_read <= OUTPUT_BYTES_MAX + READ_BYTES);
    }

    /// Dropping a run ends it; a program that does not exist is an error at once.
    #[test]
    fn drop_ends_it() {
        let mut run = shell("echo $$; sleep 60; :", LIMIT, Leftovers::Keep);
        let limit = clock::now() + LIMIT;
        while run.last_line().is_empty() && clock::now() < limit {
            assert_eq!(run.advance(clock::now()), Progress::Running);
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = run.last_line();
        drop(run);
        assert_gone(&pid);
        let no_arguments: [&str; 0] = [];
        let missing = Run::start(Path::new("/nonexistent"), no_arguments, [], clock::now(), Leftovers::Kill);
        assert_eq!(missing.err().map(|error| error.kind()), Some(io::ErrorKind::NotFound));
    }

    /// Control characters do not reach the log, long lines are cut, bytes that are no text are replaced.
    #[test]
    fn lines_are_fit_for_a_log() {
        let mut tail = Tail::default();
        tail.take(b"first\n\x1b[31mred\xff\x07\n \n");
        assert_eq!(tail.last_line(), "[31mred\u{fffd}");
        tail.take(&[b'x'; 4000]);
        assert_eq!(tail.last_line().len(), LINE_CHARS_MAX);
    }
}
