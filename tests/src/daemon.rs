//! A twinwall node of the lab: started, asked, stopped and killed as an administrator or an accident would.

use crate::extra_vips::extra_vips;
use crate::netns::{Netns, Process, wait_until};
use crate::topology::{LAN_VIP, LAN_VIP6, Node, SERVER, WAN_VIP, WAN_VIP6};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// The thread of a daemon that runs its election; the name of the one that stands in for it begins so, too.
pub const CONTROL: &str = "control";
/// Where `/metrics` listens in each firewall's namespace.
pub const METRICS: &str = "127.0.0.1:9112";
/// The state directory of both nodes, in the lab's; each has files of its own there.
pub const STATE: &str = "state";

/// What differs from the configuration of the mission's pair.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `[datapath] xdp`.
    pub xdp: &'static str,
    pub advskew: [u8; 2],
    /// Seconds without an advert are `dead_ratio` × 1 s and the skew.
    pub dead_ratio: u8,
    pub preempt: bool,
    /// `[election] link_up_delay`.
    pub link_up_delay: &'static str,
    /// Further keys of `[election]`.
    pub election: &'static str,
    pub password: &'static str,
    /// Adds the IPv6 twins to both groups. ucarp knows a single IPv4 address.
    pub ipv6: bool,
    /// Further addresses in the LAN's group.
    pub more_vips: u16,
    /// Keys of `[sync]`, beside the interface.
    pub sync: &'static str,
    /// Keys of `[sync.filter]`.
    pub filter: &'static str,
    /// `[log] level`.
    pub log: &'static str,
    /// TOML that is appended: further tables.
    pub extra: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            xdp: "auto",
            advskew: [0, 100],
            dead_ratio: 3,
            preempt: false,
            link_up_delay: "500ms",
            election: "",
            password: "toto",
            ipv6: false,
            more_vips: 0,
            sync: "mode = \"ftfw\"",
            filter: "protocols = [\"tcp\", \"udp\", \"icmp\"]",
            log: "debug",
            extra: String::new(),
        }
    }
}

impl Settings {
    /// The configuration file, the same for both nodes; the secret is expected in `dir`.
    pub fn to_toml(&self, dir: &Path) -> String {
        let Self {
            xdp,
            advskew: [skew1, skew2],
            dead_ratio,
            preempt,
            link_up_delay,
            election,
            password,
            ipv6,
            more_vips,
            sync,
            filter,
            log,
            extra,
        } = self;
        let secret = dir.join("secret");
        let pins = crate::bpffs::directory(dir);
        let (lan6, wan6) = if *ipv6 {
            (format!(", \"{LAN_VIP6}/64\""), format!(", \"{WAN_VIP6}/64\""))
        } else {
            (String::new(), String::new())
        };
        let more: String = extra_vips(*more_vips).map(|vip| format!(", \"{vip}/32\"")).collect();
        format!(
            r#"[cluster]
name = "edge"
secret_file = "{}"

[nodes.fw1]
sync_address = "{}"
advskew = {skew1}
[nodes.fw2]
sync_address = "{}"
advskew = {skew2}

[sync]
interface = "eth2"
{sync}
[sync.filter]
{filter}

[[vip]]
vhid = 3
interface = "eth0"
addresses = ["{LAN_VIP}/24"{lan6}{more}]
password = "{password}"
[[vip]]
vhid = 4
interface = "eth1"
addresses = ["{WAN_VIP}/26"{wan6}]
gateway = "{SERVER}"
password = "{password}"

[election]
dead_ratio = {dead_ratio}
preempt = {preempt}
link_up_delay = "{link_up_delay}"
{election}

[datapath]
xdp = "{xdp}"
pin_directory = "{}"

[log]
level = "{log}"

[daemon]
state_directory = "{}"

{extra}"#,
            secret.display(),
            Node::Fw1.sync(),
            Node::Fw2.sync(),
            pins.display(),
            dir.join(STATE).display(),
        )
    }

    /// Writes the configuration to `dir`, and a secret unless one is there; returns the configuration's path.
    ///
    /// # Errors
    /// When the directory cannot be written or `twinwall keygen` fails.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join("twinwall.toml");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(self.to_toml(dir).as_bytes())?;
        let secret = dir.join("secret");
        if !secret.exists() {
            crate::netns::checked(Command::new(binary()?).args(["keygen", "--output"]).arg(&secret))?;
        }
        Ok(path)
    }
}

/// The daemon's binary: `TWINWALL_BIN`, else the target directory's release build (which the xtask verbs bring up to
/// date first), else its debug build.
///
/// # Errors
/// When none has been built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TWINWALL_BIN") {
        return Ok(path.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let built = ["release", "debug"].map(|profile| target.join(profile).join("twinwall"));
    built.into_iter().find(|path| path.exists()).context("the daemon is not built: run `cargo xtask build` first")
}

/// What `twinwall status --json` answered.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// `init`, `backup`, `master` or `fault`.
    pub fn role(&self) -> &str {
        self.at("/election/role").as_str().unwrap_or("?")
    }

    /// Role changes since the start.
    pub fn transitions(&self) -> u64 {
        self.number("/election/transitions")
    }

    /// The peer's whole table is here and no gap is open.
    pub fn in_sync(&self) -> bool {
        self.at("/sync/in_sync").as_bool().unwrap_or(false)
    }

    /// Age of the oldest change that the peer has not acknowledged, milliseconds.
    pub fn lag_ms(&self) -> f64 {
        self.at("/sync/lag_ms").as_f64().unwrap_or(0.0)
    }

    /// Any whole number, by JSON pointer; 0 when it is not there.
    pub fn number(&self, pointer: &str) -> u64 {
        self.at(pointer).as_u64().unwrap_or(0)
    }

    /// Refusals of this reason. An interface counts all that its datapath refused, a member those that name its VHID
    /// and what the election refused: the larger of both sums is the number.
    pub fn refused(&self, reason: &str) -> u64 {
        let sum = |rows: &str, field: &str| {
            let rows = self.at(rows).as_array().into_iter().flatten();
            rows.filter_map(|row| row.get(field)?.get(reason)?.as_u64()).sum::<u64>()
        };
        sum("/election/members", "refused").max(sum("/election/interfaces", "counters"))
    }

    /// `native`, `generic` or `socket` of an interface.
    pub fn datapath(&self, interface: &str) -> &str {
        let rows = self.at("/election/interfaces").as_array().into_iter().flatten();
        let mut rows = rows.filter(|row| row.get("name").and_then(Value::as_str) == Some(interface));
        rows.next().and_then(|row| row.get("datapath")?.as_str()).unwrap_or("?")
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    files: Files,
}

/// Where a node's socket and log are; it can be asked through them by anyone, daemon or not.
#[derive(Clone, Debug)]
pub struct Files {
    pub node: Node,
    pub config: PathBuf,
    pub socket: PathBuf,
    pub log: PathBuf,
}

/// Causes of a takeover from a master that is still there.
const OFFERED: [&str; 5] = ["hand_over", "maintenance", "preempt", "demoted", "stop"];

impl Files {
    /// The node's files in the lab's directory.
    pub fn of(node: Node, dir: &Path) -> Self {
        let name = node.name();
        Self {
            node,
            config: dir.join("twinwall.toml"),
            socket: dir.join(format!("{name}.sock")),
            log: dir.join(format!("{name}.log")),
        }
    }

    /// A `twinwall` command that speaks to this node.
    ///
    /// # Errors
    /// When the daemon is not built.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        Ok(self.command_of(&binary()?, arguments))
    }

    fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("TWINWALL_SOCKET", &self.socket).stdin(Stdio::null());
        command
    }

    /// Asks the daemon for its status.
    ///
    /// # Errors
    /// When nobody answers on the socket within 2 s (a frozen daemon does not).
    pub fn status(&self) -> Result<Status> {
        // Into a file: a long answer would fill a pipe that nobody reads until the end.
        let mut said = tempfile::tempfile()?;
        let mut command = self.command(&["status", "--json"])?;
        command.stdout(said.try_clone()?).stderr(Stdio::null());
        let status = Process::start(command)?.wait(Duration::from_secs(2))?;
        let mut answer = String::new();
        said.rewind()?;
        said.read_to_string(&mut answer)?;
        ensure!(status.success(), "{}: status failed, {status}", self.node.name());
        Ok(Status(serde_json::from_str(&answer).context("status --json is not JSON")?))
    }

    /// The `twinwall run` command of this node.
    ///
    /// # Errors
    /// When the daemon is not built or its log cannot be opened.
    pub fn run_command(&self) -> Result<Command> {
        self.run_command_of(&binary()?)
    }

    fn run_command_of(&self, program: &Path) -> Result<Command> {
        let mut command = self.command_of(program, &["run", "--config"]);
        command.arg(&self.config).args(["--node", self.node.name()]);
        let log = File::options().create(true).append(true).open(&self.log)?;
        command.stdout(log.try_clone()?).stderr(log);
        // An interrupt at the terminal is for the one who made the lab; the daemon is ended in order.
        command.process_group(0);
        Ok(command)
    }

    /// How many takeovers the log tells of that the old master had offered: both gates are open for a moment then.
    pub fn takeovers_by_offer(&self) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let offered = |line: &str| OFFERED.iter().any(|cause| line.contains(&format!("cause=\"{cause}\"")));
        log.lines()
            .filter(|line| line.contains("role changes") && line.contains("to=\"master\"") && offered(line))
            .count()
    }

    /// The end of the log, for messages, without what loading the programs says about each call in them.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().filter(|line| !line.contains("aya_obj")).collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Daemon {
    /// Starts the node and waits until it answers on its socket.
    ///
    /// # Errors
    /// When it ends or does not answer within 5 s; the error holds the end of its log.
    pub fn start(namespace: &Netns, node: Node, dir: &Path) -> Result<Self> {
        Self::start_program(namespace, node, dir, &binary()?)
    }

    /// The same with the program of another build.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_program(namespace: &Netns, node: Node, dir: &Path, program: &Path) -> Result<Self> {
        let files = Files::of(node, dir);
        let mut daemon = Self { process: namespace.spawn(files.run_command_of(program)?)?, files };
        let mut ended = None;
        wait_until("the daemon answers", Duration::from_secs(5), || {
            ended = daemon.process.ended();
            ended.is_some() || daemon.files.status().is_ok()
        })
        .with_context(|| format!("{}:\n{}", node.name(), daemon.files.log_tail()))?;
        if let Some(status) = ended {
            bail!("{} ended at its start, {status}:\n{}", node.name(), daemon.files.log_tail());
        }
        Ok(daemon)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its socket, configuration and log.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// SIGTERM, and the exit status.
    ///
    /// # Errors
    /// When it still runs after 5 s.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.process.wait(Duration::from_secs(5))
    }
}

/// Fetches `/metrics` of the daemon in this namespace.
///
/// # Errors
/// When nobody listens or the answer is not 200.
pub fn scrape(namespace: &Netns) -> Result<String> {
    let answer = namespace.enter(|| -> Result<String> {
        let mut stream = TcpStream::connect(METRICS).with_context(|| format!("no metrics on {METRICS}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })??;
    let (head, body) = answer.split_once("\r\n\r\n").context("/metrics: no HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("/metrics: {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

/// The value of the first sample in a scrape whose name and labels contain all of these words.
pub fn sample(metrics: &str, words: &[&str]) -> Option<f64> {
    let matching = |line: &&str| !line.starts_with('#') && words.iter().all(|word| line.contains(word));
    metrics.lines().find(matching)?.rsplit(' ').next()?.parse().ok()
}
