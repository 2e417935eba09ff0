//! Meaning: defaults, and what must hold between values. Every error is reported, not the first alone.

use super::error::{At, Found, Problems};
use super::{
    Election, Log, LogFormat, Node, PIN_DIRECTORY, RUN_DIRECTORY, Resolved, STATE_DIRECTORY, Sync, XdpChoice,
    heartbeat, links, schema, secret, sync_filter, sync_mode, timing, vips,
};
use ha_common::election::ForeignMasters;
use ha_common::role::NodeId;
use ha_common::secret::ClusterKey;
use ha_common::wire::frame::DEFAULT_PORT;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// A pair is what is tested; more nodes are accepted up to the size of one liveness word.
const NODES_MIN: usize = 2;
const NODES_MAX: usize = 8;
/// conntrackd's usual NetlinkBufferSize and NetlinkBufferSizeMaxGrowth, bytes.
const NETLINK_BUFFER: usize = 2 << 20;
const NETLINK_BUFFER_MAX: usize = 8 << 20;
/// About 200 MiB of shadow table.
const FLOWS_MAX: usize = 1_000_000;
const HELLO_INTERVAL: Duration = Duration::from_millis(200);
const PEER_TIMEOUT: Duration = Duration::from_millis(1000);
/// ucarp's defaults (`carp-wire` section 10).
const ADVBASE: u8 = 1;
const DEAD_RATIO: u8 = 3;
/// `carp-wire` section 16, point 9.
const ANNOUNCE_BURST_MS: [u64; 5] = [0, 100, 500, 2000, 5000];
const ANNOUNCE_BURST_MAX: usize = 32;
const ANNOUNCE_REFRESH: Duration = Duration::from_secs(60);
/// A switch port that just came up often does not forward yet, and a bad cable comes and goes.
const LINK_UP_DELAY: Duration = Duration::from_millis(500);
const METRICS_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9112);

/// Completes the file for the node at index `node` of `file.nodes`. `None` when a problem prevents it.
pub fn resolve(
    file: &schema::File,
    node: usize,
    socket: Option<&Path>,
    problems: &mut Problems<'_>,
) -> Option<Resolved> {
    let nodes = resolve_nodes(file, problems);
    let (interfaces, vips) = vips::resolve(file, problems);
    let heartbeat = heartbeat::resolve(file, &interfaces, problems);
    let election = resolve_election(file, heartbeat.interval, problems);
    let log = resolve_log(&file.log, problems);
    check_sync_place(file, problems);
    let keys = file.cluster.as_ref().and_then(|cluster| read_secret(cluster.secret_file.as_ref()?, problems));
    let sync = file.sync.as_ref().and_then(|sync| resolve_sync(sync, file, &vips, keys?, problems));
    let cluster = file.cluster.as_ref()?.name.as_ref()?.value.clone();
    let (nodes, sync) = (nodes?, sync?);
    let name = &nodes.get(node)?.name;
    let control_socket =
        socket.map_or_else(|| PathBuf::from(format!("{RUN_DIRECTORY}/{name}.sock")), Path::to_path_buf);
    Some(Resolved {
        cluster,
        node: NodeId(u8::try_from(node).ok()?),
        interfaces,
        vips,
        election,
        sync,
        xdp: value_or(file.xdp.as_ref(), XdpChoice::Auto),
        pin_directory: value_or(file.pin_directory.as_ref(), Some(PIN_DIRECTORY.into())),
        metrics_listen: value_or(file.metrics_listen.as_ref(), Some(METRICS_LISTEN)),
        control_socket,
        log,
        track: file.track.clone(),
        hooks: file.hooks.clone(),
        heartbeat,
        state_directory: value_or(file.state_directory.as_ref(), STATE_DIRECTORY.into()),
        nodes,
    })
}

/// Reports `text` as met before, or remembers it.
pub fn refuse_repeated<K: Ord>(
    seen: &mut BTreeMap<K, String>,
    key: K,
    at: &At,
    shown: impl Display,
    remedy: &str,
    problems: &mut Problems<'_>,
) {
    match seen.get(&key) {
        Some(first) => problems.error(at, format!("{shown} stands at {first} already"), remedy),
        None => {
            seen.insert(key, at.key.clone());
        }
    }
}

/// What the file says, else `default`.
pub fn value_or<T: Clone>(found: Option<&Found<T>>, default: T) -> T {
    found.map_or(default, |found| found.value.clone())
}

fn resolve_nodes(file: &schema::File, problems: &mut Problems<'_>) -> Option<Vec<Node>> {
    let described = file.nodes.as_ref()?;
    let count = described.len();
    if !(NODES_MIN..=NODES_MAX).contains(&count) {
        let remedy = format!("describe {NODES_MIN} to {NODES_MAX}, each as [nodes.NAME]");
        problems.error(&file.nodes_at, format!("{count} nodes are described"), remedy);
    }
    let mut seen = BTreeMap::new();
    let mut family: Option<&Found<IpAddr>> = None;
    for node in described {
        check_node_name(&node.name, problems);
        let Some(address) = &node.sync_address else { continue };
        check_host_address(address, problems);
        refuse_repeated(&mut seen, address.value, &address.at, address.value, "give each node its own", problems);
        let first = *family.get_or_insert(address);
        if first.value.is_ipv4() != address.value.is_ipv4() {
            let message = format!("{} is not of the family of {} ({})", address.value, first.value, first.at.key);
            problems.error(&address.at, message, "use IPv4 or IPv6 for all sync addresses");
        }
    }
    warn_of_equal_skews(described, problems);
    let nodes = described.iter().map(|node| {
        Some(Node {
            name: node.name.value.clone(),
            sync_address: node.sync_address.as_ref()?.value,
            advskew: value_or(node.advskew.as_ref(), 0),
        })
    });
    nodes.collect()
}

/// The name becomes a file name, a label and a word in logs.
fn check_node_name(name: &Found<String>, problems: &mut Problems<'_>) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let text = &name.value;
    if text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(allowed) {
        problems.error(
            &name.at,
            format!("\"{text}\" is no node name"),
            "use the host name: 1 to 64 letters, digits, '-', '_' and '.'",
        );
    }
}

fn warn_of_equal_skews(nodes: &[schema::Node], problems: &mut Problems<'_>) {
    let mut by_skew: BTreeMap<u8, &schema::Node> = BTreeMap::new();
    for node in nodes {
        let skew = value_or(node.advskew.as_ref(), 0);
        let Some(first) = by_skew.get(&skew) else {
            by_skew.insert(skew, node);
            continue;
        };
        let at = node.advskew.as_ref().map_or_else(
            || At { key: format!("{}.advskew", node.name.at.key), ..node.name.at.clone() },
            |advskew| advskew.at.clone(),
        );
        problems.warning(
            &at,
            format!(
                "{skew} is also the advskew of {}: the tie-break of addresses decides between them",
                first.name.value
            ),
            "give the standby a higher advskew, like 100",
        );
    }
}

/// An address that a host can have on an interface.
pub fn check_host_address(address: &Found<IpAddr>, problems: &mut Problems<'_>) {
    let broadcast = address.value == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.value.is_unspecified() || address.value.is_multicast() || address.value.is_loopback() || broadcast {
        let message = format!("{} is no address of an interface", address.value);
        problems.error(&address.at, message, "write a unicast address, not loopback, multicast or all zeros");
    }
}

fn resolve_election(whole: &schema::File, heartbeat: Duration, problems: &mut Problems<'_>) -> Election {
    let file = &whole.election;
    let mut announce_burst: Vec<Duration> = match &file.announce_burst_ms {
        Some(list) => list.value.iter().map(|ms| Duration::from_millis(ms.value.into())).collect(),
        None => ANNOUNCE_BURST_MS.map(Duration::from_millis).to_vec(),
    };
    if let Some(list) = &file.announce_burst_ms {
        if announce_burst.len() > ANNOUNCE_BURST_MAX {
            let message = format!("has {} offsets", announce_burst.len());
            problems.error(&list.at, message, format!("write 1 to {ANNOUNCE_BURST_MAX}, like [0, 100, 500]"));
        }
        if !announce_burst.is_sorted_by(|a, b| a < b) {
            problems.warning(&list.at, "the offsets do not rise", "write each offset once, in rising order");
        }
    }
    announce_burst.sort();
    announce_burst.dedup();
    let advbase = value_or(file.advbase.as_ref(), ADVBASE);
    let dead_ratio = value_or(file.dead_ratio.as_ref(), DEAD_RATIO);
    let timing = timing::resolve(whole, advbase, dead_ratio, heartbeat, problems);
    Election {
        advbase,
        dead_ratio,
        preempt: value_or(file.preempt.as_ref(), false),
        foreign_masters: value_or(file.foreign_masters.as_ref(), ForeignMasters::default()),
        announce_burst,
        announce_refresh: value_or(file.announce_refresh.as_ref(), Some(ANNOUNCE_REFRESH)),
        link_up_delay: value_or(file.link_up_delay.as_ref(), LINK_UP_DELAY),
        link_down_delay: value_or(file.link_down_delay.as_ref(), Duration::ZERO),
        timing,
    }
}

fn read_secret(file: &Found<PathBuf>, problems: &mut Problems<'_>) -> Option<Vec<ClusterKey>> {
    match secret::read(&file.value) {
        Ok(keys) => Some(keys),
        Err(error) => {
            problems.error(&file.at, error.to_string(), "");
            None
        }
    }
}

/// State is sensitive and heavy: a link of its own serves it better than a LAN that carries clients.
fn check_sync_place(file: &schema::File, problems: &mut Problems<'_>) {
    let Some(interface) = file.sync.as_ref().and_then(|sync| sync.interface.as_ref()) else { return };
    let shared = file.vips.iter().find_map(|vip| vip.interface.as_ref().filter(|i| i.value == interface.value));
    if let Some(vip_interface) = shared {
        problems.warning(
            &interface.at,
            format!("{} also carries clients ({})", interface.value, vip_interface.at.key),
            "a dedicated link keeps state traffic private and undisturbed",
        );
    }
}

fn resolve_sync(
    sync: &schema::Sync,
    file: &schema::File,
    vips: &[super::Vip],
    keys: Vec<ClusterKey>,
    problems: &mut Problems<'_>,
) -> Option<Sync> {
    let netlink_buffer = value_or(sync.netlink_buffer.as_ref(), NETLINK_BUFFER);
    let netlink_buffer_max = value_or(sync.netlink_buffer_max.as_ref(), NETLINK_BUFFER_MAX.max(netlink_buffer));
    if let Some(max) = sync.netlink_buffer_max.as_ref().filter(|max| max.value < netlink_buffer) {
        let message = format!("{} is less than netlink_buffer ({netlink_buffer})", max.value);
        problems.error(&max.at, message, "raise it, or lower netlink_buffer");
    }
    let (hello_interval, peer_timeout) = resolve_liveness(sync, problems);
    Some(Sync {
        interface: sync.interface.as_ref()?.value.clone(),
        port: value_or(sync.port.as_ref(), DEFAULT_PORT),
        keys,
        filter: sync_filter::resolve(&sync.filter, file, vips, problems),
        netlink_buffer,
        netlink_buffer_max,
        flows_max: value_or(sync.flows_max.as_ref(), FLOWS_MAX),
        hello_interval,
        peer_timeout,
        transport: links::resolve(file, problems),
        mode: sync_mode::resolve(&sync.mode, problems),
    })
}

/// Hello interval and peer timeout: a single lost hello must not look like a dead peer.
fn resolve_liveness(sync: &schema::Sync, problems: &mut Problems<'_>) -> (Duration, Duration) {
    let mut take = |found: Option<&Found<Option<Duration>>>, default| {
        found.map_or(default, |found| {
            found.value.unwrap_or_else(|| {
                problems.error(&found.at, "cannot be \"off\"", "write a duration, or remove the key");
                default
            })
        })
    };
    let hello = take(sync.hello_interval.as_ref(), HELLO_INTERVAL);
    let timeout = take(sync.peer_timeout.as_ref(), PEER_TIMEOUT.max(hello.saturating_mul(5)));
    if let Some(found) = sync.peer_timeout.as_ref().filter(|_| timeout < hello.saturating_mul(2)) {
        let message = format!("{timeout:?} is less than two hello intervals ({hello:?})");
        problems.error(&found.at, message, "raise it, or lower hello_interval");
    }
    (hello, timeout)
}

fn resolve_log(file: &schema::Log, problems: &mut Problems<'_>) -> Log {
    let filter = value_or(file.level.as_ref(), "info".to_owned());
    if let Some(level) = &file.level
        && let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&filter)
    {
        problems.error(
            &level.at,
            format!("\"{filter}\" is no log level: {error}"),
            "write error, warn, info, debug or trace",
        );
    }
    Log { filter, format: value_or(file.format.as_ref(), LogFormat::Text) }
}

/// A password of 1 to 19 bytes (`carp-wire` section 4: the 20-byte field ends with a zero).
pub fn check_password(
    password: Zeroizing<Vec<u8>>,
    at: &At,
    problems: &mut Problems<'_>,
) -> Option<Zeroizing<Vec<u8>>> {
    const PASSWORD_BYTES_MAX: usize = 19;
    let length = password.len();
    if length == 0 {
        problems.error(at, "the password is empty", "write 1 to 19 bytes");
    } else if length > PASSWORD_BYTES_MAX {
        problems.error(at, format!("the password has {length} bytes"), "shorten it to 19 bytes: CARP carries no more");
    } else if password.contains(&0) {
        problems.error(at, "the password contains a zero byte", "remove it: ucarp's password ends there");
    } else {
        return Some(password);
    }
    None
}
