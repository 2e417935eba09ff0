//! Two sync loops in two namespaces with a cable between them: what one kernel tracks, the other gets. Needs root.

use anyhow::{Context, Result, ensure};
use ha_common::role::{Role, SyncHealth};
use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple, status};
use ha_tests::netns::{Netns, cable, wait_until};
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

const CONFIG: &str = r#"
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
const PATIENCE: Duration = Duration::from_secs(20);

/// The configuration file of the pair, and the place it lies in.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let secret = directory.path().join("secret");
        fs::write(&secret, format!("twinwall-secret-v1 1 {}\n", "5a".repeat(32)))?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        let text = CONFIG.replace("SECRET", secret.to_str().context("path is not text")?);
        fs::write(directory.path().join("twinwall.toml"), text)?;
        Ok(Self { directory })
    }

    fn load(&self, node: &str) -> Result<config::Resolved> {
        let file: PathBuf = self.directory.path().join("twinwall.toml");
        let (resolved, _) = config::load(&Choice { file, node: Some(node.to_owned()), socket: None })?;
        Ok(resolved)
    }
}

/// A namespace with its kernel table, and perhaps a running loop.
struct Node {
    name: &'static str,
    namespace: Netns,
    /// A writer of its own stands for the traffic: its port id is not the loop's.
    traffic: Writer,
    dump: DumpSource,
    running: Option<Running>,
}

struct Running {
    requests: Postman<SyncRequest>,
    control: Mailbox<ControlRequest>,
    thread: JoinHandle<Result<()>>,
}

impl Node {
    fn new(name: &'static str) -> Result<Self> {
        let namespace = Netns::new(name)?;
        let (traffic, dump) = namespace.enter(|| -> Result<_> { Ok((Writer::open()?, DumpSource::open()?)) })??;
        Ok(Self { name, namespace, traffic, dump, running: None })
    }

    /// Starts the loop in a thread inside the namespace, and returns when its sockets are open.
    fn start(&mut self, files: &Files, role: Role) -> Result<()> {
        let config = files.load(self.name)?;
        self.start_with(config, role)
    }

    fn start_with(&mut self, config: config::Resolved, role: Role) -> Result<()> {
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
        requests.post(SyncRequest::Role(role))?;
        self.running = Some(Running { requests, control, thread });
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.requests.post(SyncRequest::Stop)?;
        let deadline = Instant::now() + PATIENCE;
        while !running.thread.is_finished() {
            ensure!(Instant::now() < deadline, "the loop does not stop");
            std::thread::sleep(Duration::from_millis(2));
        }
        running.thread.join().expect("the loop panicked")
    }

    fn post(&self, request: SyncRequest) -> Result<()> {
        Ok(self.running.as_ref().context("the loop does not run")?.requests.post(request)?)
    }

    fn status(&self) -> Result<SyncStatus> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.post(SyncRequest::Status(reply))?;
        Ok(answer.blocking_recv()?)
    }

    /// The newest health that the control loop was told.
    fn health(&self) -> Option<SyncHealth> {
        let control = &self.running.as_ref()?.control;
        std::iter::from_fn(|| control.next())
            .filter_map(|request| match request {
                ControlRequest::Health(health) => Some(health),
                ControlRequest::Status(_)
                | ControlRequest::Demotions(_)
                | ControlRequest::HandOver { .. }
                | ControlRequest::Want { .. }
                | ControlRequest::Maintenance { .. }
                | ControlRequest::Stop { .. } => None,
            })
            .last()
    }

    /// Does what traffic through this node would do to its table.
    fn traffic(&mut self, writes: &[Write]) {
        self.traffic.apply(writes, Conflict::Replace, |outcome| panic!("{outcome:?}"));
    }

    /// The replicated part of the kernel's table.
    fn table(&mut self) -> Result<HashMap<FlowKey, Flow>> {
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

fn rustix_netns() -> std::io::Result<fs::File> {
    fs::File::open("/proc/thread-self/ns/net")
}

const V6_MARK: u32 = 66;

/// The `n`th flow: TCP with SNAT and a mark, UDP, or ping.
fn flow(n: u32) -> Flow {
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

fn creates(range: std::ops::Range<u32>) -> Vec<Write> {
    range.map(|n| Write::Create(flow(n))).collect()
}

fn deletes(range: std::ops::Range<u32>) -> Vec<Write> {
    range.map(|n| Write::Delete { key: flow(n).key, id: 0 }).collect()
}

/// What replication promises to be equal.
fn essence(flow: &Flow) -> (Tuple, u32, u32, Option<(u8, [u8; 2])>) {
    (flow.reply, flow.status & status::REPLICATED, flow.mark, flow.tcp.map(|tcp| (tcp.state, tcp.wscale)))
}

/// The first few differences of two tables, for a failed assertion.
fn differences(a: &HashMap<FlowKey, Flow>, b: &HashMap<FlowKey, Flow>) -> Vec<String> {
    let missing = a.iter().filter(|(key, _)| !b.contains_key(key)).map(|(_, flow)| format!("only in first: {flow:?}"));
    let surplus = b.iter().filter(|(key, _)| !a.contains_key(key)).map(|(_, flow)| format!("only in second: {flow:?}"));
    let unequal = a.iter().filter_map(|(key, flow)| {
        let other = b.get(key)?;
        (essence(flow) != essence(other)).then(|| format!("{flow:?} is not {other:?}"))
    });
    missing.chain(surplus).chain(unequal).take(3).collect()
}

/// Waits until both kernels have equal tables, of this many flows.
fn converge(a: &mut Node, b: &mut Node, flows: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
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

fn connect(a: &Node, b: &Node) -> Result<()> {
    cable((&a.namespace, "sync"), (&b.namespace, "sync"))?;
    a.namespace.ip("addr add 10.77.9.1/24 dev sync")?;
    b.namespace.ip("addr add 10.77.9.2/24 dev sync")
}

/// A master and a backup, connected and running.
fn pair() -> Result<(Files, Node, Node)> {
    let files = Files::new()?;
    let (mut a, mut b) = (Node::new("fw1")?, Node::new("fw2")?);
    connect(&a, &b)?;
    a.start(&files, Role::Master)?;
    b.start(&files, Role::Backup)?;
    Ok((files, a, b))
}

/// New, changed and deleted flows of the master appear in the backup's kernel with NAT, mark and state, IPv6 too;
/// nothing is echoed; both learn that they are in sync, and flows of the nodes themselves stay away.
#[test]
fn netns_changes_are_replicated() -> Result<()> {
    let (_files, mut a, mut b) = pair()?;
    a.traffic(&creates(0..600));
    let mut v6 = flow(1);
    v6.key.original.source = "2001:db8:1::2".parse()?;
    v6.key.original.destination = "2001:db8:2::2".parse()?;
    v6 = Flow { reply: v6.key.original.inverse(), mark: V6_MARK, ..v6 };
    let mut local = flow(1);
    local.key.original.destination = "10.2.0.210".parse()?;
    local = Flow { reply: local.key.original.inverse(), ..local };
    a.traffic(&[Write::Create(local.clone()), Write::Create(v6.clone())]);
    // The kernel itself drops the local one's event, so what is waited for is the one behind it.
    wait_until("all flows are seen", PATIENCE, || a.status().is_ok_and(|status| status.flows >= 601))?;
    assert_eq!(a.status()?.flows, 601, "the local flow is replicated");
    a.traffic(&[Write::Delete { key: local.key, id: 0 }]);
    converge(&mut a, &mut b, 601)?;

    let closing = |n| Flow { timeout: 120, mark: 9, tcp: flow(n).tcp.map(|tcp| Tcp { state: 7, ..tcp }), ..flow(n) };
    a.traffic(&(0..300).map(|n| Write::Update(closing(n))).collect::<Vec<_>>());
    a.traffic(&deletes(300..600));
    converge(&mut a, &mut b, 301)?;

    wait_until("both are in sync", PATIENCE, || {
        let in_sync =
            |node: &Node| node.status().is_ok_and(|status| status.in_sync && status.peers[0].backlog_flows == 0);
        in_sync(&a) && in_sync(&b)
    })?;
    assert!(a.health().is_some_and(|health| health.in_sync && health.peer_alive));
    let (master, backup) = (a.status()?, b.status()?);
    assert_eq!((master.peers[0].flows_received, backup.peers[0].flows_sent), (0, 0), "echo");
    assert!(backup.peers[0].flows_received >= 601 + 300);
    assert!(backup.writes.by_errno["create"]["ok"] >= 601, "{:?}", backup.writes);
    assert_eq!((master.events_lost, master.events_malformed), (0, 0));
    assert!(backup.refused.is_empty() && backup.socket_errors.is_empty(), "{backup:?}");

    let (reply, answer) = tokio::sync::oneshot::channel();
    b.post(SyncRequest::Flows { limit: 1000, reply })?;
    let flows = answer.blocking_recv()?;
    assert_eq!(flows.len(), 301);
    assert!(flows.iter().all(|(_, of_peer)| *of_peer));
    a.stop()?;
    b.stop()
}

/// With a fifth of the datagrams lost in both directions, thousands of creations, changes and deletions still end
/// with equal tables.
#[test]
fn netns_loss_is_repaired() -> Result<()> {
    let (_files, mut a, mut b) = pair()?;
    for node in [&a, &b] {
        let rules = "table inet loss { chain in { type filter hook input priority -400; \
                     iifname \"sync\" meta l4proto udp numgen random mod 100 < 20 drop; }; }";
        node.namespace.run_with_input("nft", &["-f", "-"], rules)?;
    }
    for step in 0..10 {
        a.traffic(&creates(step * 300..(step + 1) * 300));
        a.traffic(
            &(step * 300..step * 300 + 150).map(|n| Write::Update(Flow { mark: 1, ..flow(n) })).collect::<Vec<_>>(),
        );
        a.traffic(&deletes(step * 300..step * 300 + 100));
        std::thread::sleep(Duration::from_millis(20));
    }
    converge(&mut a, &mut b, 2000)?;
    assert!(a.status()?.peers[0].frames_sent > 0);
    Ok(())
}

/// Far more events than the socket's buffer holds, again and again: what was lost is found in the kernel's table.
#[test]
fn netns_lost_events_are_repaired() -> Result<()> {
    let files = Files::new()?;
    let (mut a, mut b) = (Node::new("fw1")?, Node::new("fw2")?);
    connect(&a, &b)?;
    let mut config = files.load("fw1")?;
    (config.sync.netlink_buffer, config.sync.netlink_buffer_max) = (8 * 1024, 16 * 1024);
    a.start_with(config, Role::Master)?;
    b.start(&files, Role::Backup)?;
    for step in 0..5 {
        a.traffic(&creates(step * 1000..(step + 1) * 1000));
        a.traffic(&deletes(step * 1000..step * 1000 + 300));
    }
    converge(&mut a, &mut b, 3500)?;
    assert!(a.status()?.events_lost > 0);
    Ok(())
}

/// A node that was away gets what changed meanwhile, loses what is gone, and a fresh one gets all of ten thousand.
#[test]
fn netns_returning_node_is_completed() -> Result<()> {
    let (files, mut a, mut b) = pair()?;
    a.traffic(&creates(0..10_000));
    converge(&mut a, &mut b, 10_000)?;

    // Away for a while, its kernel table stays as it was.
    b.stop()?;
    a.traffic(&deletes(0..100));
    a.traffic(&creates(10_000..10_050));
    a.traffic(&(200..300).map(|n| Write::Update(Flow { mark: 5, ..flow(n) })).collect::<Vec<_>>());
    b.start(&files, Role::Backup)?;
    converge(&mut a, &mut b, 9_950)?;

    // Back with an empty table.
    b.stop()?;
    b.namespace.run("conntrack", &["-F"])?;
    b.start(&files, Role::Backup)?;
    converge(&mut a, &mut b, 9_950)?;

    // The master's daemon starts anew: its kernel still has the flows.
    a.stop()?;
    a.start(&files, Role::Master)?;
    a.traffic(&deletes(100..200));
    converge(&mut a, &mut b, 9_850)?;
    wait_until("in sync again", PATIENCE, || b.status().is_ok_and(|status| status.in_sync))
}

/// A loop whose sync interface does not exist yet runs, answers, and catches up when the interface comes; an interface
/// that is removed and made again is found again.
#[test]
fn netns_interface_may_come_late() -> Result<()> {
    let files = Files::new()?;
    let (mut a, mut b) = (Node::new("fw1")?, Node::new("fw2")?);
    a.start(&files, Role::Master)?;
    b.start(&files, Role::Backup)?;
    a.traffic(&creates(0..50));
    assert!(!a.status()?.peers[0].alive);
    connect(&a, &b)?;
    converge(&mut a, &mut b, 50)?;

    a.namespace.ip("link del sync")?;
    a.traffic(&creates(50..80));
    connect(&a, &b)?;
    converge(&mut a, &mut b, 80)
}

/// The role moves: what the new master's kernel tracks from then on is what counts, and the old one follows.
#[test]
fn netns_role_change() -> Result<()> {
    let (_files, mut a, mut b) = pair()?;
    a.traffic(&creates(0..100));
    converge(&mut a, &mut b, 100)?;
    a.post(SyncRequest::Role(Role::Backup))?;
    b.post(SyncRequest::Role(Role::Master))?;
    b.traffic(&creates(100..150));
    b.traffic(&deletes(0..20));
    b.traffic(&(20..40).map(|n| Write::Update(Flow { mark: 77, ..flow(n) })).collect::<Vec<_>>());
    converge(&mut a, &mut b, 130)
}
