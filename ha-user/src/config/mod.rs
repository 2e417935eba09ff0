//! The configuration: TOML text → [`schema`] → checked and completed into [`Resolved`] for one node.

use ha_common::election::{InterfaceId, Transport};
use ha_common::role::NodeId;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

/// Everything one node needs, checked; made once per start or reload.
#[derive(Clone, Debug)]
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
    pub metrics_listen: Option<SocketAddr>,
    pub control_socket: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub sync_address: IpAddr,
    pub advskew: u8,
}

#[derive(Clone, Debug)]
pub struct Vip {
    pub vhid: u8,
    pub interface: InterfaceId,
    /// Address and prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// IPv4 address label (at most 15 bytes, begins with the interface's name); default `IFACE:twinwall` cut to fit, `None` for none.
    pub label: Option<String>,
    /// Default gateway that exists only on the master.
    pub gateway: Option<IpAddr>,
    pub password: Zeroizing<Vec<u8>>,
    pub transport: Transport,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// Seconds.
    pub advbase: u8,
    pub dead_ratio: u8,
    pub preempt: bool,
    pub announce_burst: Vec<Duration>,
    pub announce_refresh: Option<Duration>,
}

#[derive(Clone, Debug)]
pub struct Sync {
    pub interface: String,
    pub port: u16,
    pub secret: Zeroizing<Vec<u8>>,
    pub key_epoch: u8,
    pub filter: Filter,
    /// SO_RCVBUF of the event socket and how far it may grow, bytes (conntrackd's NetlinkBufferSize, MaxGrowth).
    pub netlink_buffer: usize,
    pub netlink_buffer_max: usize,
    pub flows_max: usize,
    pub hello_interval: Duration,
    pub peer_timeout: Duration,
}

/// Which flows are replicated at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// IP protocol numbers accepted.
    pub protocols: Vec<u8>,
    /// Flows from or to these addresses are the nodes' own and stay local: loopback, VIPs, sync addresses,
    /// plus what the file adds. The sync loop adds the node's interface addresses at run time.
    pub ignore_addresses: Vec<IpAddr>,
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
