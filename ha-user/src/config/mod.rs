//! The configuration: TOML text → `schema` → checked and completed by `resolve` into [`Resolved`] for one node.

mod error;
pub mod heartbeat;
pub mod hooks;
mod identity;
pub mod links;
mod reader;
mod resolve;
mod schema;
pub mod secret;
mod spelling;
mod sync_filter;
pub mod sync_mode;
pub mod timing;
pub mod track;
mod values;
mod vips;

pub use error::{ConfigError, Problem, Report, Severity};
pub use ha_common::sync::filter::Filter;
pub(crate) use values::parse_duration;

use error::Problems;
use ha_common::election::{ForeignMasters, InterfaceId, Transport};
use ha_common::role::NodeId;
use ha_common::secret::{ClusterKey, Secret};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeTable;
use zeroize::Zeroizing;

/// Everything one node needs, checked; made once per start or reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub cluster: String,
    /// This node's position in `nodes`.
    pub node: NodeId,
    /// In name order; the index is the [`NodeId`].
    pub nodes: Vec<Node>,
    /// Names of the interfaces that carry virtual addresses; the index is the [`InterfaceId`].
    pub interfaces: Vec<String>,
    /// In file order; the index is the `MemberId` of the election.
    pub vips: Vec<Vip>,
    pub election: Election,
    pub sync: Sync,
    pub xdp: XdpChoice,
    /// Where links and lease outlive the process; `None`: nowhere.
    pub pin_directory: Option<PathBuf>,
    pub metrics_listen: Option<SocketAddr>,
    pub control_socket: PathBuf,
    pub log: Log,
    pub track: track::Track,
    pub hooks: hooks::Hooks,
    pub heartbeat: heartbeat::Heartbeat,
    /// What must outlive a reboot is kept there.
    pub state_directory: PathBuf,
}

impl Resolved {
    /// All links between the nodes, the best first.
    pub fn sync_links(&self) -> Vec<links::Link> {
        let addresses = self.nodes.iter().map(|node| node.sync_address).collect();
        let first = links::Link { interface: self.sync.interface.clone(), addresses };
        [first].into_iter().chain(self.sync.transport.further.iter().cloned()).collect()
    }

    /// The other node of a pair; `None` in larger clusters, where nobody is the only peer.
    pub fn only_peer(&self) -> Option<NodeId> {
        let others = (0u8..).map(NodeId).take(self.nodes.len()).filter(|node| *node != self.node);
        let [peer] = others.collect::<Vec<_>>()[..] else { return None };
        Some(peer)
    }

    /// This node's name.
    pub fn own_name(&self) -> &str {
        self.nodes.get(usize::from(self.node.0)).map_or("", |node| &node.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub sync_address: IpAddr,
    pub advskew: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    pub vhid: u8,
    pub interface: InterfaceId,
    /// Address and prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// IPv4 address label (at most 15 bytes, begins with the interface's name); default `IFACE:twinwall` cut to fit, `None` for none.
    pub label: Option<String>,
    /// Default gateway that exists only on the master.
    pub gateway: Option<IpAddr>,
    pub password: Secret,
    pub transport: Transport,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// Seconds.
    pub advbase: u8,
    pub dead_ratio: u8,
    pub preempt: bool,
    pub foreign_masters: ForeignMasters,
    pub announce_burst: Vec<Duration>,
    pub announce_refresh: Option<Duration>,
    /// How long an interface must be back before it counts as up, and be lost before it counts as down.
    pub link_up_delay: Duration,
    pub link_down_delay: Duration,
    pub timing: timing::Timing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    pub interface: String,
    pub port: u16,
    /// The secrets that are valid, the newest last.
    pub keys: Vec<ClusterKey>,
    pub filter: Filter,
    /// SO_RCVBUF of the event socket and how far it may grow, bytes (conntrackd's NetlinkBufferSize, MaxGrowth).
    pub netlink_buffer: usize,
    pub netlink_buffer_max: usize,
    pub flows_max: usize,
    pub hello_interval: Duration,
    pub peer_timeout: Duration,
    pub transport: links::Transport,
    pub mode: sync_mode::SyncMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpChoice {
    /// Native, else generic, else sockets.
    #[default]
    Auto,
    Native,
    Generic,
    /// Sockets only.
    Off,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// An env-filter directive: `info`, `twinwall=debug,warn`.
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Where the configuration is looked for unless told otherwise.
pub const DEFAULT_FILE: &str = "/etc/twinwall/twinwall.toml";
/// Home of control sockets and locks.
pub const RUN_DIRECTORY: &str = "/run/twinwall";
/// Home of what outlives the process, on a BPF file system.
pub const PIN_DIRECTORY: &str = "/sys/fs/bpf/twinwall";
/// Home of what must outlive a reboot.
pub const STATE_DIRECTORY: &str = "/var/lib/twinwall";
/// A pair's file has half a kilobyte; what is larger than this is another file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the command line says about the configuration.
#[derive(Clone, Debug)]
pub struct Choice {
    pub file: PathBuf,
    pub node: Option<String>,
    pub socket: Option<PathBuf>,
}

/// Reads, checks and completes the file for this node.
///
/// # Errors
/// All errors of the file together. On success the report holds the warnings.
pub fn load(choice: &Choice) -> Result<(Resolved, Report), ConfigError> {
    let text = read_file(&choice.file)?;
    resolve_text(&text, choice, &identity::Machine::this(), Severity::Error)
}

/// As [`load`], but on any machine: that it is none of the nodes is only a warning, and the file is then
/// completed for the first node.
///
/// # Errors
/// As [`load`].
pub fn check(choice: &Choice) -> Result<(Resolved, Report), ConfigError> {
    check_text(&read_file(&choice.file)?, choice)
}

/// As [`check`], for the text of a file; `choice.file` is its name in messages.
///
/// # Errors
/// As [`load`].
pub fn check_text(text: &str, choice: &Choice) -> Result<(Resolved, Report), ConfigError> {
    resolve_text(text, choice, &identity::Machine::this(), Severity::Warning)
}

fn resolve_text(
    text: &str,
    choice: &Choice,
    machine: &identity::Machine,
    stranger: Severity,
) -> Result<(Resolved, Report), ConfigError> {
    let mut problems = Problems::new(text);
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    for error in &syntax_errors {
        let at = error::At { span: error.span().unwrap_or(0..0), key: String::new() };
        problems.error(&at, format!("this is not TOML: {}", error.message()), "");
    }
    // What the parser recovered after a syntax error is a guess: checking it would invent errors.
    if !syntax_errors.is_empty() {
        return Err(ConfigError::Invalid(problems.into_report(&choice.file)));
    }
    let file = schema::File::read(&document, &mut problems);
    let name = choice.node.as_deref();
    let node = file
        .nodes
        .as_ref()
        .and_then(|nodes| identity::identify(nodes, &file.nodes_at, name, machine, stranger, &mut problems));
    let node = node.unwrap_or(0);
    let resolved = resolve::resolve(&file, node, choice.socket.as_deref(), &mut problems);
    match resolved {
        Some(resolved) if !problems.any_error() => Ok((resolved, problems.into_report(&choice.file))),
        Some(_) | None => Err(ConfigError::Invalid(problems.into_report(&choice.file))),
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { file: path.to_owned(), limit: FILE_BYTES_MAX });
    }
    // Passwords may stand in it.
    String::from_utf8(bytes)
        .map(Zeroizing::new)
        .map_err(|error| ConfigError::NotText { file: path.to_owned(), offset: error.utf8_error().valid_up_to() })
}

#[cfg(test)]
pub(crate) mod tests;
