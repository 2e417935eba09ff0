//! Network namespaces that clean up after themselves.
//!
//! A namespace is named `tw-<pid>-<n>-<hint>` after the process that made it, so that what a killed process
//! left behind can be told from what a living one uses ([`sweep_stale`]). All of this needs root.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where `ip netns` mounts the namespaces.
const NETNS_DIR: &str = "/run/netns";
/// Prefix of the names that belong to a process.
const PREFIX: &str = "tw-";

/// One network namespace; dropping it ends every process still inside and removes it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
    keep: bool,
}

impl Netns {
    /// Makes a namespace of this process, with `lo` up.
    ///
    /// # Errors
    /// Without root, or when `ip` (iproute2) is missing.
    pub fn new(hint: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("{PREFIX}{}-{n}-{hint}", std::process::id()))
    }

    /// Makes a namespace with exactly this name, for a lab that outlives the process together with [`Netns::keep`].
    ///
    /// # Errors
    /// As [`Netns::new`], and when the name is taken.
    pub fn named(name: &str) -> Result<Self> {
        require_root()?;
        checked(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Self { name: name.to_owned(), file: open(name)?, keep: false };
        namespace.ip("link set lo up")?;
        // Duplicate address detection would keep an IPv6 address of the lab tentative for seconds.
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0")?;
            namespace.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
        }
        Ok(namespace)
    }

    /// The name that `ip netns` knows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From now on dropping leaves the namespace and its processes alone.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Runs a command inside to its end and returns what it wrote to standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails; the error holds its standard error.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.args(args);
        self.inside(&mut command)?;
        checked(&mut command).with_context(|| format!("in namespace {}", self.name))
    }

    /// Feeds `input` to a command inside; otherwise as [`Netns::run`].
    ///
    /// # Errors
    /// As [`Netns::run`].
    pub fn run_with_input(&self, program: &str, args: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.inside(&mut command)?;
        let mut child = command.spawn().with_context(|| format!("cannot start {program} (is it installed?)"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let shown = format!("{program} {} <<< {input}", args.join(" "));
        stdout_of(&shown, output).with_context(|| format!("in namespace {}", self.name))
    }

    /// Runs lines of `ip` commands (without the word `ip`) in one process.
    ///
    /// # Errors
    /// At the first line that fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.run_with_input("ip", &["-batch", "-"], lines).map(drop)
    }

    /// Starts a process inside. It ends when the returned guard is dropped.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Process> {
        self.inside(&mut command)?;
        Process::start(command)
    }

    /// Runs a closure in a thread that has moved into the namespace: sockets made in it belong there.
    ///
    /// # Errors
    /// When the thread cannot enter the namespace. The closure's own result is handed through.
    ///
    /// # Panics
    /// With the closure's panic.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> Result<T> {
                self.move_thread()?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace for the rest of its life. Only for threads made for it.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn move_thread(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter network namespace {}", self.name))
    }

    /// Writes one kernel parameter, named with dots as `sysctl` does.
    ///
    /// # Errors
    /// When the parameter does not exist in this kernel or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.enter(|| fs::write(&path, value))?.with_context(|| format!("cannot set {key}={value} in {}", self.name))
    }

    /// Every process that lives in the namespace.
    pub fn pids(&self) -> Vec<Pid> {
        pids_in(&self.name)
    }

    fn inside(&self, command: &mut Command) -> Result<()> {
        let namespace = self.file.try_clone()?;
        enter_before_exec(command, namespace);
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.keep {
            remove(&self.name);
        }
    }
}

#[expect(unsafe_code, reason = "a child must change its namespace between fork and exec")]
fn enter_before_exec(command: &mut Command, namespace: File) {
    use std::os::unix::process::CommandExt;
    // SAFETY: the closure runs in the forked child; it makes one system call (setns), takes no lock and
    // allocates nothing, so it is async-signal-safe. It owns the descriptor that it uses.
    unsafe {
        command.pre_exec(move || Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?));
    }
}

/// A process of the lab; dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    program: String,
    keep: bool,
}

impl Process {
    /// Starts a process in the caller's own namespace; see [`Netns::spawn`] for another one.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot start {program} (is it installed?)"))?;
        Ok(Self { child, program, keep: false })
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal; a process that has ended already is not an error.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    /// Ends it as a power cut would, and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// From now on dropping leaves the process running.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Its exit status when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} (pid {}) still runs after {limit:?}", self.program, self.pid().as_raw_nonzero());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.keep {
            self.kill();
        }
    }
}

/// Refuses with the remedy when this process is not root.
///
/// # Errors
/// When the effective user is not root.
pub fn require_root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the lab makes network namespaces and needs root: run it as root (for example: sudo -E cargo xtask run)"
    );
    Ok(())
}

/// Removes the namespaces (and ends the processes inside) of labs whose process is gone.
pub fn sweep_stale() {
    for name in names() {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}

/// The names of all namespaces that `ip netns` knows.
pub fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Ends every process inside, then deletes the namespace. A namespace that does not exist is fine.
pub fn remove(name: &str) {
    let path = Path::new(NETNS_DIR).join(name);
    // A process may fork while it is looked for: look again until nobody is left, boundedly.
    for _ in 0..20 {
        let pids = pids_in(name);
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if path.exists() {
        let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
    }
}

fn open(name: &str) -> Result<File> {
    let path = Path::new(NETNS_DIR).join(name);
    File::open(&path).with_context(|| format!("cannot open namespace {}", path.display()))
}

fn pids_in(name: &str) -> Vec<Pid> {
    // `ip netns pids` compares namespaces of group leaders; this process's own threads never count.
    let Ok(output) = Command::new("ip").args(["netns", "pids", name]).stderr(Stdio::null()).output() else {
        return Vec::new();
    };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let numbers = String::from_utf8_lossy(&output.stdout);
    numbers
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .filter(|pid| *pid != own)
        .filter_map(Pid::from_raw)
        .collect()
}

/// Runs a command to its end; an error names it and holds its standard error.
///
/// # Errors
/// When it cannot be started or fails.
pub fn checked(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().with_context(|| format!("cannot start: {shown} (is it installed?)"))?;
    stdout_of(&shown, output)
}

fn stdout_of(shown: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Connects two namespaces by a cable; each end is `(namespace, interface name)`. Both ends come up.
///
/// # Errors
/// When a name is taken or longer than 15 bytes.
pub fn cable(a: (&Netns, &str), b: (&Netns, &str)) -> Result<()> {
    let (a_ns, a_name) = a;
    let (b_ns, b_name) = b;
    a_ns.ip(&format!("link add {a_name} type veth peer name {b_name} netns {}", b_ns.name()))?;
    a_ns.ip(&format!("link set {a_name} up"))?;
    b_ns.ip(&format!("link set {b_name} up"))
}

/// Makes a bridge that forwards at once, without spanning tree or multicast snooping.
///
/// # Errors
/// When the name is taken.
pub fn bridge(namespace: &Netns, name: &str) -> Result<()> {
    namespace
        .ip(&format!("link add {name} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\nlink set {name} up"))
}

/// Waits until `ready` holds, looking every 20 ms.
///
/// # Errors
/// After `limit`, naming `what`.
pub fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !ready() {
        ensure!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
