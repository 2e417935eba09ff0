//! Two namespaces with a sync loop each, and what is asked of both.

use anyhow::{Context, Result, ensure};
use ha_common::role::{Role, SyncHealth};
use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple, status};
use ha_tests::netns::{Netns, cable};
use ha_user::config::{self, Choice};
use ha_user::conntrack::dump::{DumpSource, Progress};
use ha_user::conntrack::writer::{Conflict, Write, Writer};
use ha_user::mailbox::{Mailbox, Postman, mailbox};
use ha_user::request::{ControlRequest, SyncRequest};
use ha_user::status::SyncStatus;
use ha_user::sync_loop::SyncLoop;
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const CONFIG: &str = r#"
[cluster]
name = "loop"
secret_file = "SECRET"
[nodes.fw1]
sync_address = "10.77.9.1"
[nodes.fw2]
sync_address = "10.77.9.2"
[sync]
interface = "sync"
[sync.filter]
protocols = ["tcp", "udp", "icmp", "icmpv6"]
[[vip]]
vhid = 1
interface = "lan"
addresses = ["10.2.0.210/24"]
password = "toto"
"#;
/// Convergence takes milliseconds when nothing is lost; two busy cores take longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The configuration file of the pair, and the place it lies in.
pub struct Files {
    directory: TempDir,
}

impl Files {
    pub fn new() -> Result<Self> {
        Self::with(str::to_owned)
    }

    /// With a configuration that is changed by `edit`.
    pub fn with(edit: impl FnOnce(&str) -> String) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let secret = directory.path().join("secret");
        fs::write(&secret, format!("twinwall-secret-v1 1 {}\n", "5a".repeat(32)))?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        let text = edit(CONFIG).replace("SECRET", secret.to_str().context("path is not text")?);
        fs::write(directory.path().join("twinwall.toml"), text)?;
        Ok(Self { directory })
    }

    pub fn load(&self, node: &str) -> Result<config::Resolved> {
        let file: PathBuf = self.directory.path().join("twinwall.toml");
        let (resolved, _) = config::load(&Choice { file, node: Some(node.to_owned()), socket: None })?;
        Ok(resolved)
    }
}

/// A namespace with its kernel table, and perhaps a running loop.
pub struct Node {
    pub name: &'static str,
    pub namespace: Netns,
    /// A writer of its own stands for the traffic: its port id is not the loop's.
    pub traffic: Writer,
    pub dump: DumpSource,
    pub running: Option<Running>,
}

pub struct Running {
    requests: Postman<SyncRequest>,
    control: Mailbox<ControlRequest>,
    thread: JoinHandle<Result<()>>,
}

impl Node {
    pub fn new(name: &'static str) -> Result<Self> {
        let namespace = Netns::new(name)?;
        let (traffic, dump) = namespace.enter(|| -> Result<_> { Ok((Writer::open()?, DumpSource::open()?)) })??;
        Ok(Self { name, namespace, traffic, dump, running: None })
    }

    /// Starts the loop in a thread inside the namespace, and returns when its sockets are open.
    pub fn start(&mut self, files: &Files, role: Role) -> Result<()> {
        let config = files.load(self.name)?;
        self.start_with(config, role)
    }

    pub fn start_with(&mut self, config: config::Resolved, role: Role) -> Result<()> {
        let config = Arc::new(config);
        let (requests, inbox) = mailbox(64)?;
        let (postman, control) = mailbox(1024)?;
        let (ready, opened) = std::sync::mpsc::channel();
        let inside = self.namespace.enter(rustix_netns)??;
        let thread = std::thread::spawn(move || -> Result<()> {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&inside),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )?;
            let sync_loop = SyncLoop::new(config, postman)?;
            ready.send(())?;
            Ok(sync_loop.run(inbox)?)
        });
        opened.recv_timeout(PATIENCE).context("the loop does not start")?;
        requests.post(SyncRequest::Role { role, term: 0 })?;
        self.running = Some(Running { requests, control, thread });
        Ok(())
    }

    pub fn stop(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.requests.post(SyncRequest::Stop)?;
        let deadline = Instant::now() + PATIENCE;
        while !running.thread.is_finished() {
            ensure!(Instant::now() < deadline, "the loop does not stop");
            std::thread::sleep(Duration::from_millis(2));
        }
        running.thread.join().expect("the loop panicked")
    }

    pub fn post(&self, request: SyncRequest) -> Result<()> {
        Ok(self.running.as_ref().context("the loop does not run")?.requests.post(request)?)
    }

    pub fn status(&self) -> Result<SyncStatus> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.post(SyncRequest::Status(reply))?;
        Ok(answer.blocking_recv()?)
    }

    /// The newest health that the control loop was told.
    pub fn health(&self) -> Option<SyncHealth> {
        let control = &self.running.as_ref()?.control;
        std::iter::from_fn(|| control.next())
            .filter_map(|request| match request {
                ControlRequest::Health(health) => Some(health),
                ControlRequest::Status(_)
                | ControlRequest::Demotions(_)
                | ControlRequest::HandOver { .. }
                | ControlRequest::Want { .. }
                | ControlRequest::Maintenance { .. }
                | ControlRequest::Keys { .. }
                | ControlRequest::KeyInUse(_)
                | ControlRequest::Stop { .. } => None,
            })
            .last()
    }

    /// Does what traffic through this node would do to its table.
    pub fn traffic(&mut self, writes: &[Write]) {
        self.traffic.apply(writes, Conflict::Replace, |outcome| panic!("{outcome:?}"));
    }

    /// The replicated part of the kernel's table.
    pub fn table(&mut self) -> Result<HashMap<FlowKey, Flow>> {
        let mut flows = HashMap::new();
        self.dump.start()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let progress = self.dump.read(|flow| {
                let inside = |address: IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[..2] == [10, 1]);
                if inside(flow.key.original.source) || flow.key.original.source.is_ipv6() && flow.mark == V6_MARK {
                    flows.insert(flow.key, flow.clone());
                }
            });
            match progress {
                Progress::Ended { complete: true } => return Ok(flows),
                Progress::Ended { complete: false } => {
                    flows.clear();
                    self.dump.start()?;
                }
                Progress::Running | Progress::Idle => ensure!(Instant::now() < deadline, "the dump does not end"),
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

pub fn rustix_netns() -> std::io::Result<fs::File> {
    fs::File::open("/proc/thread-self/ns/net")
}

pub const V6_MARK: u32 = 66;

/// The `n`th flow: TCP with SNAT and a mark, UDP, or ping.
pub fn flow(n: u32) -> Flow {
    let protocol = [6, 17, 1][n as usize % 3];
    let port = 1024 + u16::try_from(n % 1000).unwrap();
    let original = Tuple {
        source: Ipv4Addr::from(0x0a01_0002 + n / 1000).into(),
        destination: Ipv4Addr::new(10, 2, 0, 2).into(),
        protocol,
        source_port: port,
        destination_port: if protocol == 1 { 8 << 8 } else { 53 },
    };
    let mut flow = Flow {
        key: FlowKey { original, zone: 0 },
        reply: original.inverse(),
        status: status::CONFIRMED | status::SEEN_REPLY | status::ASSURED,
        timeout: 600,
        mark: 0,
        tcp: None,
        id: 0,
        extra: None,
    };
    if protocol == 6 {
        // A translated address of its own per thousand, so that no two reply tuples are equal.
        flow.reply.destination = Ipv4Addr::from(0x0a02_0301 + n / 1000).into();
        flow.reply.destination_port = port + 20_000;
        flow.status |= status::SRC_NAT;
        flow.mark = n + 1;
        flow.tcp = Some(Tcp { state: 3, wscale: [7, 8], flags: [3, 3] });
    }
    flow
}

pub fn creates(range: std::ops::Range<u32>) -> Vec<Write> {
    range.map(|n| Write::Create(flow(n))).collect()
}

pub fn deletes(range: std::ops::Range<u32>) -> Vec<Write> {
    range.map(|n| Write::Delete { key: flow(n).key, id: 0 }).collect()
}

/// What replication promises to be equal.
pub fn essence(flow: &Flow) -> (Tuple, u32, u32, Option<(u8, [u8; 2])>) {
    (flow.reply, flow.status & status::REPLICATED, flow.mark, flow.tcp.map(|tcp| (tcp.state, tcp.wscale)))
}

/// The first few differences of two tables, for a failed assertion.
pub fn differences(a: &HashMap<FlowKey, Flow>, b: &HashMap<FlowKey, Flow>) -> Vec<String> {
    let missing = a.iter().filter(|(key, _)| !b.contains_key(key)).map(|(_, flow)| format!("only in first: {flow:?}"));
    let surplus = b.iter().filter(|(key, _)| !a.contains_key(key)).map(|(_, flow)| format!("only in second: {flow:?}"));
    let unequal = a.iter().filter_map(|(key, flow)| {
        let other = b.get(key)?;
        (essence(flow) != essence(other)).then(|| format!("{flow:?} is not {other:?}"))
    });
    missing.chain(surplus).chain(unequal).take(3).collect()
}

/// Waits until both kernels have equal tables, of this many flows.
pub fn converge(a: &mut Node, b: &mut Node, flows: usize) -> Result<()> {
    converge_within(a, b, flows, PATIENCE)
}

pub fn converge_within(a: &mut Node, b: &mut Node, flows: usize, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let (first, second) = (a.table()?, b.table()?);
        let differences = differences(&first, &second);
        if differences.is_empty() && first.len() == flows {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{} and {} flows, wanted {flows}; {differences:#?}\n{:#?}\n{:#?}",
            first.len(),
            second.len(),
            a.status()?,
            b.status()?
        );
        std::thread::sleep(Duration::from_millis(30));
    }
}

pub fn connect(a: &Node, b: &Node) -> Result<()> {
    cable((&a.namespace, "sync"), (&b.namespace, "sync"))?;
    a.namespace.ip("addr add 10.77.9.1/24 dev sync")?;
    b.namespace.ip("addr add 10.77.9.2/24 dev sync")
}

/// A master and a backup, connected and running.
pub fn pair() -> Result<(Files, Node, Node)> {
    let files = Files::new()?;
    let (mut a, mut b) = (Node::new("fw1")?, Node::new("fw2")?);
    connect(&a, &b)?;
    a.start(&files, Role::Master)?;
    b.start(&files, Role::Backup)?;
    Ok((files, a, b))
}
