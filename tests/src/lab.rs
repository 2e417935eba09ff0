//! The pair with its daemons: what `cargo xtask run` and the end-to-end tests drive.

use crate::bpffs::Pins;
use crate::daemon::{Daemon, Files, Settings, Status};
use crate::netns::wait_until;
use crate::topology::{Naming, Node, Pair, Port};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Where the kept lab has its configuration, sockets and logs.
pub const KEPT_DIR: &str = "/run/twinwall-lab";

/// The pair, its configuration and its daemons.
///
/// Fields are dropped in order: daemons before the namespaces that they live in and what they have pinned.
#[derive(Debug)]
pub struct Lab {
    daemons: [Option<Daemon>; 2],
    pub pair: Pair,
    pins: Pins,
    dir: Directory,
}

/// What both daemons answered; `None` where nobody did.
pub type Answers = [Option<Status>; 2];

#[derive(Debug)]
enum Directory {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Directory {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Kept(path) => path,
        }
    }
}

impl Lab {
    /// Builds the namespaces and writes the configuration; no daemon runs yet.
    ///
    /// # Errors
    /// As [`Pair::new`], and when the daemon is not built.
    pub fn new(settings: &Settings, naming: Naming) -> Result<Self> {
        let pair = Pair::new(naming)?;
        let dir = match naming {
            Naming::OfProcess => Directory::Temporary(tempfile::Builder::new().prefix("tw-lab").tempdir()?),
            Naming::Kept => {
                let _ = fs::remove_dir_all(KEPT_DIR);
                fs::create_dir_all(KEPT_DIR).with_context(|| format!("cannot make {KEPT_DIR}"))?;
                Directory::Kept(PathBuf::from(KEPT_DIR))
            }
        };
        let pins = Pins::of(dir.path())?;
        let lab = Self { daemons: [None, None], pair, pins, dir };
        settings.write(lab.dir())?;
        Ok(lab)
    }

    /// A lab with both daemons, fw1 master and both in sync.
    ///
    /// # Errors
    /// When the pair does not settle.
    pub fn running(settings: &Settings) -> Result<Self> {
        let mut lab = Self::new(settings, Naming::OfProcess)?;
        lab.start_both()?;
        Ok(lab)
    }

    /// The directory of configuration, secret, sockets and logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts both daemons and waits until fw1 is master and both are in sync.
    ///
    /// # Errors
    /// When that takes more than 15 s.
    pub fn start_both(&mut self) -> Result<()> {
        self.start(Node::Fw1)?;
        self.start(Node::Fw2)?;
        self.wait_role(Node::Fw1, "master", Duration::from_secs(10))?;
        self.wait_settled(Node::Fw1, Duration::from_secs(10))
    }

    /// Starts one daemon.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start(&mut self, node: Node) -> Result<()> {
        self.daemons[node.index()] = Some(Daemon::start(&self.pair[node], node, self.dir())?);
        Ok(())
    }

    /// Starts the daemon of another build.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_program(&mut self, node: Node, program: &Path) -> Result<()> {
        self.daemons[node.index()] = Some(Daemon::start_program(&self.pair[node], node, self.dir(), program)?);
        Ok(())
    }

    /// A running daemon.
    ///
    /// # Errors
    /// When none was started or it was stopped.
    pub fn daemon(&mut self, node: Node) -> Result<&mut Daemon> {
        self.daemons[node.index()].as_mut().with_context(|| format!("no daemon runs on {}", node.name()))
    }

    /// Ends the daemon as a crash would.
    pub fn kill(&mut self, node: Node) {
        if let Some(mut daemon) = self.daemons[node.index()].take() {
            daemon.process().kill();
        }
    }

    /// Stops the daemon as an administrator would.
    ///
    /// # Errors
    /// When it does not end within 5 s.
    pub fn stop(&mut self, node: Node) -> Result<()> {
        let daemon = self.daemons[node.index()].take().with_context(|| format!("no daemon runs on {}", node.name()))?;
        daemon.stop().map(drop)
    }

    /// Sends a signal to the daemon, if one runs.
    pub fn signal(&self, node: Node, signal: Signal) {
        if let Some(daemon) = &self.daemons[node.index()] {
            daemon.signal(signal);
        }
    }

    /// The host dies: at one instant the switch hears nothing of it any more; then the daemon, the cables and what the
    /// daemon has pinned go.
    ///
    /// # Errors
    /// When `nft` or `ip` fails.
    pub fn crash_host(&mut self, node: Node) -> Result<()> {
        self.pair.silence(node)?;
        self.kill(node);
        self.pair.unplug_all(node)?;
        self.pins.forget(node);
        Ok(())
    }

    /// Fw1's host dies, and fw2 takes over.
    ///
    /// # Errors
    /// When that takes more than eight seconds.
    pub fn fail_over(&mut self) -> Result<()> {
        self.crash_host(Node::Fw1)?;
        wait_until("fw2 takes over", Duration::from_secs(8), || self.holds(Node::Fw2))
    }

    /// `twinwall failover --wait` on the master.
    ///
    /// # Errors
    /// When it is refused or not confirmed.
    pub fn hand_over(&self, master: Node) -> Result<()> {
        let mut command = self.files(master).command(&["failover", "--wait"])?;
        let output = command.stdout(Stdio::null()).output().context("cannot start twinwall failover")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "twinwall failover --wait: {}: {}", output.status, said.trim());
        Ok(())
    }

    /// The daemon stands still from now on; its host's kernel goes on.
    pub fn freeze(&self, node: Node) {
        self.signal(node, Signal::STOP);
    }

    /// The frozen daemon goes on.
    pub fn thaw(&self, node: Node) {
        self.signal(node, Signal::CONT);
    }

    /// The host stands still, as a paused virtual machine does: nothing leaves it, its daemon does not run.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn pause_host(&self, node: Node) -> Result<()> {
        self.freeze(node);
        self.pair.silence(node)
    }

    /// The paused host goes on, as if no time had passed.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn resume_host(&self, node: Node) -> Result<()> {
        self.pair.unsilence(node)?;
        self.thaw(node);
        Ok(())
    }

    /// The files of a node, through which it can be asked.
    pub fn files(&self, node: Node) -> Files {
        Files::of(node, self.dir())
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// When its daemon does not answer.
    pub fn status(&self, node: Node) -> Result<Status> {
        self.files(node).status()
    }

    /// Waits until the node has this role.
    ///
    /// # Errors
    /// After `limit`, with the role that it had last and the end of its log.
    pub fn wait_role(&self, node: Node, role: &str, limit: Duration) -> Result<()> {
        let mut last = String::from("silent");
        wait_until(&format!("{} is {role}", node.name()), limit, || {
            last = self.status(node).map_or_else(|_| "silent".to_owned(), |status| status.role().to_owned());
            last == role
        })
        .with_context(|| format!("it is {last}; its log ends with:\n{}", self.files(node).log_tail()))
    }

    /// Waits until `master` alone holds the virtual addresses, the other is backup and both are in sync.
    ///
    /// # Errors
    /// After `limit`, with what both said last.
    pub fn wait_settled(&self, master: Node, limit: Duration) -> Result<()> {
        let mut last = self.answers();
        wait_until(&format!("the pair is settled on {}", master.name()), limit, || {
            last = self.answers();
            self.settled_on(&last) == Some(master)
        })
        .with_context(|| self.describe(&last))
    }

    /// What both daemons answer now.
    pub fn answers(&self) -> Answers {
        Node::BOTH.map(|node| self.status(node).ok())
    }

    /// The node that alone holds the virtual addresses and is master, while the other is backup and both are in sync.
    pub fn settled_on(&self, answers: &Answers) -> Option<Node> {
        let master = self.holder()?;
        let is = |node: Node, role: &str| {
            let answer = answers[node.index()].as_ref();
            answer.is_some_and(|status| status.role() == role && status.in_sync() && status.lag_ms() < 1000.0)
        };
        (is(master, "master") && is(master.peer(), "backup")).then_some(master)
    }

    /// What both nodes say and hold, for messages.
    pub fn describe(&self, answers: &Answers) -> String {
        let of = |node: Node| {
            let said = answers[node.index()].as_ref().map_or_else(
                || "silent".to_owned(),
                |status| format!("{}, in sync: {}, lag {} ms", status.role(), status.in_sync(), status.lag_ms()),
            );
            let held = self.pair.vips_held(node).unwrap_or_default();
            format!("{}: {said}, holds LAN and WAN address: {held:?}", node.name())
        };
        Node::BOTH.map(of).join("; ")
    }

    /// The one node that holds both virtual addresses; `None` when nobody or both do, or they are apart.
    pub fn holder(&self) -> Option<Node> {
        let holds = |node: Node| self.pair.vips_held(node).ok();
        match (holds(Node::Fw1)?, holds(Node::Fw2)?) {
            ([true, true], [false, false]) => Some(Node::Fw1),
            ([false, false], [true, true]) => Some(Node::Fw2),
            _ => None,
        }
    }

    /// Whether the node's kernel holds both virtual addresses, whatever the other one's does.
    pub fn holds(&self, node: Node) -> bool {
        self.pair.vips_held(node).is_ok_and(|held| held == [true; 2])
    }

    /// Plugs one cable of a firewall in or out.
    ///
    /// # Errors
    /// As [`Pair::plug`].
    pub fn plug(&self, node: Node, port: Port, up: bool) -> Result<()> {
        self.pair.plug(node, port, up)
    }

    /// Namespaces, daemons and files stay when this value is dropped. The server's kernel answers pings from now on, as
    /// a person expects; in measured runs a process does, which sees their identifiers.
    ///
    /// # Errors
    /// When the server's namespace cannot be entered.
    pub fn keep(&mut self) -> Result<()> {
        self.pair.keep();
        self.pins.keep();
        for daemon in self.daemons.iter_mut().flatten() {
            daemon.process().keep();
        }
        self.pair.server.sysctl("net.ipv4.icmp_echo_ignore_all", "0")
    }
}
