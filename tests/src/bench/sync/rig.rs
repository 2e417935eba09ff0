//! The bench's pair: the lab's two firewalls, and straight cables for what is measured.
//!
//! ```text
//!   client flows ── flows fw1 sink ── sink server (drops)        fw1 eth2 ═══ eth2 fw2
//! ```
//!
//! The lab's bridges carry only what the election needs. The flows and the state have cables of their own, so that the
//! processors are spent on the firewall and on the tool, not on the switch.

use super::flow_table::FlowTable;
use super::generator::{DESTINATIONS, Generator, SOURCE, Sent};
use super::tool::ToolName;
use crate::daemon::CONTROL;
use crate::daemon::Settings;
use crate::lab::Lab;
use crate::netns::{Netns, cable, checked};
use crate::peers::Conntrackd;
use crate::topology::{Naming, Node, Pair, Port, WAN_VIP};
use anyhow::{Context, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// The generator, and with it fw1's packet path, and fw2's daemon run here.
const CPU_GENERATOR: usize = 0;
/// fw1's daemon runs here.
const CPU_MASTER: usize = 1;
/// Flows live longer than a measurement.
const TIMEOUT_SECONDS: &str = "3600";
/// So many flows fit into every machine's table as it is.
pub const ORDINARY: u32 = 50_000;
/// Entries and buckets of the machine's connection tables, at least.
const ENTRIES: u32 = 4_194_304;
const BUCKETS: u32 = 1_048_576;
/// Conntrack entries that are no flows of the generator (adverts, heartbeats) stay below this.
const OTHERS_MAX: u64 = 64;

/// Daemons are dropped before the namespaces that they live in.
pub struct Rig {
    conntrackd: [Option<Conntrackd>; 2],
    /// Where the daemons' threads ran before they were bound.
    unpinned: Vec<(Pid, CpuSet)>,
    pub lab: Lab,
    tool: Option<ToolName>,
    generator: Generator,
    counters: [Counter; 2],
    /// Entries before the first flow.
    others: [u64; 2],
    generated: u32,
}

impl Rig {
    /// Builds it; no daemon runs. `None` is the generator alone.
    ///
    /// # Errors
    /// As [`Lab::new`], and when `ip`, `nft` or a kernel parameter refuses.
    pub fn new(tool: Option<ToolName>) -> Result<Self> {
        let lab = Lab::new(&Settings { log: "info", ..Settings::default() }, Naming::OfProcess)?;
        lay_straight_cables(&lab.pair)?;
        let fw1 = &lab.pair[Node::Fw1];
        let to = mac_of(fw1, "flows")?;
        let generator = Generator::open(&lab.pair.client, "flows", to)?;
        for node in Node::BOTH {
            for key in ["udp_timeout", "udp_timeout_stream"] {
                lab.pair[node].sysctl(&format!("net.netfilter.nf_conntrack_{key}"), TIMEOUT_SECONDS)?;
            }
        }
        let counters = [Counter::open(fw1)?, Counter::open(&lab.pair[Node::Fw2])?];
        Ok(Self {
            conntrackd: [None, None],
            unpinned: Vec::new(),
            lab,
            tool,
            generator,
            counters,
            others: [0; 2],
            generated: 0,
        })
    }

    /// A rig whose daemons run, pinned, and know each other.
    ///
    /// # Errors
    /// As [`Rig::new`], and when the pair does not settle.
    pub fn running(tool: ToolName) -> Result<Self> {
        let mut rig = Self::new(Some(tool))?;
        rig.start(Node::Fw1)?;
        rig.start(Node::Fw2)?;
        if tool == ToolName::Twinwall {
            rig.lab.wait_settled(Node::Fw1, Duration::from_secs(15))?;
        }
        rig.pin()?;
        // Connections between the daemons and first adverts are over after this.
        std::thread::sleep(Duration::from_millis(500));
        rig.mark_others()?;
        Ok(rig)
    }

    /// Starts the tool's daemon on one node and returns when it answers.
    ///
    /// # Errors
    /// When it ends or does not answer.
    pub fn start(&mut self, node: Node) -> Result<()> {
        match self.tool.and_then(ToolName::replication) {
            Some(replication) => {
                let daemon = Conntrackd::start_with(&self.lab.pair, node, self.lab.dir(), replication)?;
                self.conntrackd[node.index()] = Some(daemon);
                Ok(())
            }
            None => self.lab.start(node),
        }
    }

    /// conntrackd of this node.
    ///
    /// # Errors
    /// When the tool is another one, or it does not run.
    pub fn conntrackd(&self, node: Node) -> Result<&Conntrackd> {
        self.conntrackd[node.index()].as_ref().context("no conntrackd runs on this node")
    }

    /// The daemon's process.
    ///
    /// # Errors
    /// When none runs.
    pub fn pid(&mut self, node: Node) -> Result<Pid> {
        match &self.conntrackd[node.index()] {
            Some(daemon) => Ok(daemon.process().pid()),
            None => Ok(self.lab.daemon(node)?.process().pid()),
        }
    }

    /// fw1's daemon has processor 1 to itself; fw2's shares processor 0 with the generator. On two processors fw2's
    /// conntrackd loses its real-time class, in which it would starve the packets that it is to tell of; twinwall's
    /// real-time threads do the election only: they keep their class, and stay where they are not alone with what carries
    /// state, which is the other node's processor.
    fn pin(&mut self) -> Result<()> {
        for (node, cpu) in [(Node::Fw1, CPU_MASTER), (Node::Fw2, CPU_GENERATOR)] {
            let mut set = CpuSet::new();
            set.set(cpu);
            let mut other = CpuSet::new();
            other.set(CPU_MASTER + CPU_GENERATOR - cpu);
            self.set_affinity(node, |name| if name.starts_with(CONTROL) { &other } else { &set })?;
        }
        if self.conntrackd[Node::Fw2.index()].is_some() {
            let pid = self.pid(Node::Fw2)?.as_raw_nonzero().to_string();
            checked(Command::new("chrt").args(["--all-tasks", "--other", "--pid", "0", &pid]))?;
        }
        Ok(())
    }

    /// Lets the daemons' threads run again where they themselves want to: where no packets flow any more nobody needs a processor for
    /// itself.
    pub fn unpin(&mut self) {
        for (thread, set) in self.unpinned.drain(..) {
            // One that has ended since cannot be bound, and need not be.
            let _ = sched_setaffinity(Some(thread), &set);
        }
    }

    /// Binds each thread of the node's daemon, by its name.
    fn set_affinity<'a>(&mut self, node: Node, set_of: impl Fn(&str) -> &'a CpuSet) -> Result<()> {
        let pid = self.pid(node)?;
        for task in fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
            let task = task?;
            let Some(thread) = task.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw) else {
                continue;
            };
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            // A thread that has just ended cannot be bound, and need not be.
            if let Ok(before) = sched_getaffinity(Some(thread)) {
                self.unpinned.push((thread, before));
                let _ = sched_setaffinity(Some(thread), set_of(name.trim()));
            }
        }
        Ok(())
    }

    /// twinwall's fw1 dies: at one instant nobody hears it on any path any more, then its daemon goes.
    ///
    /// # Errors
    /// When `nft` or `ip` fails.
    pub fn crash_master(&mut self) -> Result<()> {
        self.lab.pair.silence(Node::Fw1)?;
        self.lab.pair[Node::Fw1].ip("link set eth2 down")?;
        self.lab.kill(Node::Fw1);
        Ok(())
    }

    /// What is in the tables now is not the generator's.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn mark_others(&mut self) -> Result<()> {
        self.others = [self.counters[0].read()?, self.counters[1].read()?];
        anyhow::ensure!(
            self.others.iter().all(|others| *others < OTHERS_MAX),
            "the tables are not empty at the begin: {:?} entries",
            self.others
        );
        Ok(())
    }

    /// Makes so many new flows on fw1.
    ///
    /// # Errors
    /// As [`Generator::send`].
    pub fn generate(&mut self, rate: u32, count: u32) -> Result<Sent> {
        self.generated += count;
        self.generator.send(rate, count, CPU_GENERATOR)
    }

    /// The generator's flows in a node's kernel. What else came into the table since the begin, a few entries, counts too:
    /// exact is [`Rig::table`].
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn count(&self, node: Node) -> Result<u64> {
        let index = node.index();
        Ok(self.counters[index].read()?.saturating_sub(self.others[index]))
    }

    /// As [`Rig::count`] for the standby, wherever its tool keeps them.
    ///
    /// # Errors
    /// When kernel or conntrackd cannot be asked.
    pub fn arrived(&self) -> Result<u64> {
        if self.tool.is_some_and(ToolName::is_cached) {
            return self.conntrackd(Node::Fw2)?.cached_from_peer(&self.lab.pair[Node::Fw2]);
        }
        self.count(Node::Fw2)
    }

    /// The generator's flows in a node's kernel, each of them.
    ///
    /// # Errors
    /// As [`FlowTable::read`].
    pub fn table(&self, node: Node) -> Result<FlowTable> {
        FlowTable::read(&self.lab.pair[node], self.generated)
    }

    /// Waits until as many flows have arrived as are wanted (the standby's own connections count as well, a handful), or, when
    /// none is wanted, all have gone; or until nothing has changed for `unchanged`. How many there are, and since when.
    ///
    /// # Errors
    /// When kernel or conntrackd cannot be asked.
    pub fn settle(&self, wanted: u64, unchanged: Duration, limit: Duration) -> Result<(u64, Instant)> {
        let begin = Instant::now();
        let reached = |count: u64| if wanted == 0 { count == 0 } else { count >= wanted };
        let (mut last, mut since) = (self.arrived()?, Instant::now());
        while !reached(last) && since.elapsed() < unchanged && begin.elapsed() < limit {
            std::thread::sleep(if self.tool.is_some_and(ToolName::is_cached) {
                // Each look costs conntrackd an answer.
                Duration::from_millis(50)
            } else {
                Duration::from_millis(5)
            });
            let now = self.arrived()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        if wanted > 0 && reached(last) {
            // What the standby's own connections stood for.
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok((last, since))
    }
}

/// The kernel's count of a namespace's connections; the open file belongs to that namespace whoever reads it.
struct Counter(File);

impl Counter {
    fn open(node: &Netns) -> Result<Self> {
        let path = "/proc/sys/net/netfilter/nf_conntrack_count";
        Ok(Self(node.enter(|| File::open(path))?.with_context(|| format!("cannot open {path}"))?))
    }

    fn read(&self) -> Result<u64> {
        let mut text = [0; 24];
        let length = self.0.read_at(&mut text, 0)?;
        let text = text.get(..length).unwrap_or_default();
        std::str::from_utf8(text)?.trim().parse().context("nf_conntrack_count is no number")
    }
}

/// Limits of the machine's connection tables that were raised; dropped, they are what they were before. Reading or removing a
/// table is one system call over all its buckets, and as slow for whoever comes next.
pub struct RaisedLimits(Vec<(&'static str, String)>);

impl RaisedLimits {
    /// Raises the limits where they are lower, and never lowers them.
    ///
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Self> {
        let mut raised = Self(Vec::new());
        for (path, wanted) in [
            ("/proc/sys/net/netfilter/nf_conntrack_max", ENTRIES),
            ("/sys/module/nf_conntrack/parameters/hashsize", BUCKETS),
        ] {
            let text =
                fs::read_to_string(path).with_context(|| format!("cannot read {path} (modprobe nf_conntrack)"))?;
            if text.trim().parse::<u32>()? < wanted {
                let before = text.trim();
                eprintln!(
                    "{path} is raised from {before} to {wanted} for the whole machine, until the end of the bench"
                );
                fs::write(path, wanted.to_string()).with_context(|| format!("cannot write {path}"))?;
                raised.0.push((path, before.to_owned()));
            }
        }
        Ok(raised)
    }
}

impl Drop for RaisedLimits {
    fn drop(&mut self) {
        for (path, before) in self.0.iter().rev() {
            if let Err(error) = fs::write(path, before) {
                eprintln!("cannot set {path} to {before} again: {error}");
            }
        }
    }
}

fn lay_straight_cables(pair: &Pair) -> Result<()> {
    let (fw1, fw2) = (&pair[Node::Fw1], &pair[Node::Fw2]);
    for node in Node::BOTH {
        pair.delete_interface(node, Port::Sync)?;
    }
    fw1.ip(&format!("link add eth2 type veth peer name eth2 netns {}", fw2.name()))?;
    for node in Node::BOTH {
        let mac = node.mac(Port::Sync).map(|byte| format!("{byte:02x}")).join(":");
        pair[node].ip(&format!("link set eth2 address {mac} up\naddr add {}/30 dev eth2", node.sync()))?;
    }
    cable((&pair.client, "flows"), (fw1, "flows"))?;
    cable((fw1, "sink"), (&pair.server, "sink"))?;
    for (space, interface) in [(&pair.client, "flows"), (fw1, "flows"), (fw1, "sink"), (&pair.server, "sink")] {
        // Neighbour and multicast discovery would add connections.
        space.sysctl(&format!("net.ipv6.conf.{interface}.disable_ipv6"), "1")?;
    }
    let sink = mac_of(&pair.server, "sink")?.map(|byte| format!("{byte:02x}")).join(":");
    pair.client.ip(&format!("addr add {SOURCE}/24 dev flows"))?;
    fw1.ip(&format!(
        "addr add 10.99.0.1/24 dev flows\naddr add 10.99.1.1/24 dev sink\n\
         neigh replace 10.99.1.100 lladdr {sink} dev sink nud permanent\nroute add {DESTINATIONS}/15 via 10.99.1.100"
    ))?;
    let rules = format!(
        "add rule inet firewall forward iifname flows oifname sink ct state new accept\n\
         add rule inet firewall postrouting oifname sink snat ip to {WAN_VIP}\n"
    );
    fw1.run_with_input("nft", &["-f", "-"], &rules)?;
    // The sink drops as early as it can.
    let rules = "table netdev sink { chain in { type filter hook ingress device sink priority 0; policy drop; }; }\n";
    pair.server.run_with_input("nft", &["-f", "-"], rules).map(drop)
}

fn mac_of(node: &Netns, interface: &str) -> Result<[u8; 6]> {
    let text = node.run("ip", &["-o", "link", "show", "dev", interface])?;
    let mac = text.split_once("link/ether ").and_then(|(_, rest)| rest.split(' ').next()).context("no MAC address")?;
    let bytes: Vec<u8> = mac.split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().ok().with_context(|| format!("{mac} is no MAC address"))
}
