//! The tools that twinwall lives beside or replaces, started as their packages start them: ucarp, conntrackd, keepalived.

pub mod keepalived;

use crate::netns::{Netns, Process, wait_until};
use crate::topology::{LAN_VIP, Node, Pair, Port, WAN_VIP};
use anyhow::{Context, Result};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// One ucarp process: one VHID on one interface.
#[derive(Debug)]
pub struct Ucarp {
    process: Process,
    log: PathBuf,
}

/// What Debian's if-up script takes from /etc/network/interfaces.
#[derive(Clone, Debug)]
pub struct UcarpOptions {
    pub interface: String,
    pub address: Ipv4Addr,
    pub vhid: u8,
    pub vip: Ipv4Addr,
    pub prefix: u8,
    pub password: String,
    pub advskew: u8,
    /// `ucarp-master yes`: `-P`.
    pub preempt: bool,
    /// `-n`: the down script is not run at the start.
    pub is_neutral: bool,
    /// Shell lines after the address is there.
    pub more_up: Vec<String>,
    /// Shell lines after it is gone.
    pub more_down: Vec<String>,
}

impl UcarpOptions {
    /// The mission's vhid 3 (LAN) or 4 (WAN) on this node.
    pub fn of(node: Node, port: Port) -> Self {
        let (address, vhid, vip, prefix) = match port {
            Port::Lan | Port::Sync => (node.lan(), 3, LAN_VIP, 24),
            Port::Wan => (node.wan(), 4, WAN_VIP, 26),
        };
        Self {
            interface: port.interface().to_owned(),
            address,
            vhid,
            vip,
            prefix,
            password: "toto".to_owned(),
            advskew: 0,
            preempt: false,
            is_neutral: false,
            more_up: Vec::new(),
            more_down: Vec::new(),
        }
    }
}

impl Ucarp {
    /// Starts it with up and down scripts that add and remove the address, as `vip-up` and `vip-down` do.
    ///
    /// # Errors
    /// When ucarp is not installed (Debian package `ucarp`) or a file cannot be written to `dir`.
    pub fn start(namespace: &Netns, options: &UcarpOptions, dir: &Path) -> Result<Self> {
        let UcarpOptions { interface, vip, prefix, vhid, .. } = options;
        let stem = format!("{}-{vhid}", namespace.name());
        let lines =
            |verb: &str, more: &[String]| format!("ip addr {verb} {vip}/{prefix} dev {interface}\n{}", more.join("\n"));
        let up = script(dir, &format!("{stem}-up"), &lines("add", &options.more_up))?;
        let down = script(dir, &format!("{stem}-down"), &lines("del", &options.more_down))?;
        let log = dir.join(format!("{stem}.log"));
        let mut command = Command::new("ucarp");
        command.arg("-i").arg(interface).args(["-s", &options.address.to_string()]);
        command.args(["-v", &vhid.to_string(), "-p", &options.password, "-a", &vip.to_string()]);
        command.args(["-b", "1", "-k", &options.advskew.to_string(), "-z", "-u"]).arg(up).arg("-d").arg(down);
        if options.preempt {
            command.arg("-P");
        }
        if options.is_neutral {
            command.arg("-n");
        }
        let output = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Self { process: namespace.spawn(command)?, log })
    }

    /// The process, to signal it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// conntrackd between the two firewalls.
#[derive(Debug)]
pub struct Conntrackd {
    process: Process,
    config: String,
}

/// How conntrackd tells the other one of changes.
#[derive(Clone, Copy, Debug)]
pub enum Delivery {
    /// FT-FW: what is lost is sent again.
    Reliable,
    /// NOTRACK: what is lost is lost.
    BestEffort,
}

/// How conntrackd tells, and keeps what the other one tells.
#[derive(Clone, Copy, Debug)]
pub struct Replication {
    pub delivery: Delivery,
    /// In its own cache until it is told to commit, as shipped; else straight in the kernel.
    pub is_cached: bool,
    /// Buckets of each of its tables; a commit walks all of them.
    pub hash_size: u32,
    /// Flows at most.
    pub hash_limit: u32,
}

impl Conntrackd {
    /// Starts it on one firewall, writing straight into the kernel, and waits until it answers.
    ///
    /// # Errors
    /// When conntrackd is not installed (Debian package `conntrackd`) or does not answer within 10 s.
    pub fn start(pair: &Pair, node: Node, dir: &Path) -> Result<Self> {
        Self::start_with(
            pair,
            node,
            dir,
            Replication { delivery: Delivery::Reliable, is_cached: false, hash_size: 8192, hash_limit: 65_536 },
        )
    }

    /// As [`Conntrackd::start`], with other tables.
    ///
    /// # Errors
    /// As [`Conntrackd::start`].
    pub fn start_with(pair: &Pair, node: Node, dir: &Path, replication: Replication) -> Result<Self> {
        let stem = dir.join(format!("conntrackd-{}", node.name()));
        let file = |suffix: &str| stem.with_extension(suffix);
        let config = file("conf");
        fs::write(&config, conntrackd_config(node, replication, &file("lock"), &file("ctl"), &file("log")))?;
        let mut command = Command::new("conntrackd");
        command.arg("-C").arg(&config).stdout(fs::File::create(file("out"))?).stderr(fs::File::create(file("err"))?);
        let process = pair[node].spawn(command)?;
        let config = config.into_os_string().into_string().ok().context("the directory's name is not UTF-8")?;
        wait_until("conntrackd answers", Duration::from_secs(10), || {
            pair[node].run("conntrackd", &["-C", &config, "-s"]).is_ok()
        })?;
        Ok(Self { process, config })
    }

    /// The steps of `primary-backup.sh` for a node that becomes primary: commit, flush, resync with the kernel, tell all.
    pub fn primary_script(&self) -> String {
        self.steps(&["-c", "-f", "-R", "-B"])
    }

    /// Its steps for a node that becomes backup (or is in fault): shorten the kernel's timers, ask for everything.
    pub fn backup_script(&self) -> String {
        self.steps(&["-t", "-n"])
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Commits its cache of the other node's flows into the kernel (`-c`), and returns when that is done.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn commit(&self, namespace: &Netns) -> Result<()> {
        self.order(namespace, "-c").map(drop)
    }

    /// Asks the other node for everything (`-n`).
    ///
    /// # Errors
    /// When it does not answer.
    pub fn request_resync(&self, namespace: &Netns) -> Result<()> {
        self.order(namespace, "-n").map(drop)
    }

    /// How many flows of the other node it has in its cache.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn cached_from_peer(&self, namespace: &Netns) -> Result<u64> {
        self.cached(namespace, "external")
    }

    /// How many flows of its own node it has in its cache.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn cached_own(&self, namespace: &Netns) -> Result<u64> {
        self.cached(namespace, "internal")
    }

    fn cached(&self, namespace: &Netns, cache: &str) -> Result<u64> {
        let said = self.order(namespace, "-s")?;
        let head = format!("cache {cache}:");
        let mut lines = said.lines().skip_while(|line| *line != head);
        let count = lines.find(|line| line.contains("current active connections")).context("no such cache")?;
        count.split_whitespace().next_back().context("no number")?.parse().context("no number")
    }

    fn order(&self, namespace: &Netns, order: &str) -> Result<String> {
        namespace.run("conntrackd", &["-C", &self.config, order])
    }

    fn steps(&self, steps: &[&str]) -> String {
        steps.iter().map(|step| format!("conntrackd -C {} {step}\n", self.config)).collect()
    }
}

fn script(dir: &Path, name: &str, lines: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{lines}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn conntrackd_config(node: Node, replication: Replication, lock: &Path, control: &Path, log: &Path) -> String {
    let Replication { delivery, is_cached, hash_size, hash_limit } = replication;
    let mode = match delivery {
        Delivery::Reliable => "FTFW",
        Delivery::BestEffort => "NOTRACK",
    };
    let uncached = if is_cached { "No" } else { "Yes" };
    let (own, peer) = (node.sync(), node.peer().sync());
    let (lock, control, log) = (lock.display(), control.display(), log.display());
    let ignored: String = Node::BOTH
        .into_iter()
        .flat_map(|node| [node.lan(), node.wan(), node.sync()])
        .chain([LAN_VIP, WAN_VIP, Ipv4Addr::LOCALHOST])
        .map(|address| format!("   IPv4_address {address}\n"))
        .collect();
    format!(
        "Sync {{\n Mode {mode} {{\n  DisableExternalCache {uncached}\n }}\n UDP {{\n  IPv4_address {own}\n  \
         IPv4_Destination_Address {peer}\n  Port 3780\n  Interface eth2\n  SndSocketBuffer 1249280\n  RcvSocketBuffer 1249280\n  Checksum on\n }}\n}}\n\
         General {{\n HashSize {hash_size}\n HashLimit {hash_limit}\n LogFile {log}\n LockFile {lock}\n UNIX {{\n  Path {control}\n }}\n \
         NetlinkBufferSize 2097152\n NetlinkBufferSizeMaxGrowth 8388608\n Filter From Userspace {{\n  \
         Protocol Accept {{\n   TCP\n   UDP\n   ICMP\n  }}\n  Address Ignore {{\n{ignored}  }}\n }}\n}}\n"
    )
}
