//! What the programs must know, taken from the configuration.

use super::pins;
use crate::config::{Resolved, XdpChoice};
use ha_common::abi::PATHS_MAX;
use ha_common::election::{InterfaceId, MemberId};
use ha_common::liveness::PathId;
use ha_common::role::NodeId;
use ha_common::wire::siphash::Key;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// Interfaces, members and peers as the programs see them.
#[derive(Clone, Debug)]
pub struct Plan {
    pub interfaces: Vec<InterfacePlan>,
    /// This node's address on the sync link, and the UDP port of its socket.
    pub sync_address: IpAddr,
    pub sync_port: u16,
    pub peers: Vec<(NodeId, IpAddr)>,
    pub key_epoch: u8,
    /// `None`: no heartbeats are answered or taken.
    pub heartbeat: Option<HeartbeatPlan>,
    /// What the gate guards; none: every request passes.
    pub vips: Vec<IpAddr>,
    pub choice: XdpChoice,
    /// Where this node's links and its lease outlive the process; `None`: nowhere.
    pub pin_directory: Option<PathBuf>,
}

/// Whose heartbeats are answered, and how they are keyed.
#[derive(Clone)]
pub struct HeartbeatPlan {
    pub node: NodeId,
    pub peer: NodeId,
    /// Of [`ha_common::sync::heartbeat_key`], for the secret of [`Plan::key_epoch`].
    pub key: Key,
}

impl fmt::Debug for HeartbeatPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the key: no log line or test failure may tell it.
        write!(f, "HeartbeatPlan({} to {})", self.node.0, self.peer.0)
    }
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfacePlan {
    pub name: String,
    pub id: InterfaceId,
    /// The members of the group on this interface with their VHIDs; none on a pure sync link.
    pub members: Vec<(MemberId, u8)>,
    /// Sync frames come in here.
    pub sync: bool,
    /// Heartbeats take this path through it: the position in `[heartbeat] paths`.
    pub path: Option<PathId>,
}

impl Plan {
    /// The plan of this node. A sync interface without virtual addresses gets the id after the last of
    /// [`Resolved::interfaces`].
    pub fn from_config(config: &Resolved) -> Self {
        let heartbeat = heartbeat(config);
        let path = |name: &str| {
            heartbeat.as_ref()?;
            let at = config.heartbeat.paths.iter().position(|path| path == name)?;
            u8::try_from(at).ok().filter(|at| u32::from(*at) < PATHS_MAX).map(PathId)
        };
        let mut interfaces: Vec<InterfacePlan> = (0..=u8::MAX)
            .map(InterfaceId)
            .zip(&config.interfaces)
            .map(|(id, name)| InterfacePlan {
                name: name.clone(),
                id,
                members: members_of(config, id),
                sync: *name == config.sync.interface,
                path: path(name),
            })
            .collect();
        if !interfaces.iter().any(|interface| interface.sync)
            && let Ok(id) = u8::try_from(interfaces.len())
        {
            let name = config.sync.interface.clone();
            let path = path(&name);
            interfaces.push(InterfacePlan { name, id: InterfaceId(id), members: Vec::new(), sync: true, path });
        }
        let nodes = || (0..=u8::MAX).map(NodeId).zip(&config.nodes);
        let own = nodes().find(|(id, _)| *id == config.node);
        Self {
            interfaces,
            sync_address: own.map_or(IpAddr::from([0; 4]), |(_, node)| node.sync_address),
            sync_port: config.sync.port,
            peers: nodes().filter(|(id, _)| *id != config.node).map(|(id, node)| (id, node.sync_address)).collect(),
            key_epoch: config.sync.key_epoch,
            vips: config.vips.iter().flat_map(|vip| vip.addresses.iter().map(|(address, _)| *address)).collect(),
            heartbeat,
            choice: config.xdp,
            pin_directory: pins::directory_of(config),
        }
    }
}

fn heartbeat(config: &Resolved) -> Option<HeartbeatPlan> {
    let peer = config.only_peer()?;
    let sync = &config.sync;
    let key = || ha_common::sync::heartbeat_key(&sync.secret, &config.cluster, sync.key_epoch);
    config.heartbeat.enabled.then(|| HeartbeatPlan { node: config.node, peer, key: key() })
}

fn members_of(config: &Resolved, interface: InterfaceId) -> Vec<(MemberId, u8)> {
    let members = (0..=u8::MAX).map(MemberId).zip(&config.vips);
    members.filter(|(_, vip)| vip.interface == interface).map(|(id, vip)| (id, vip.vhid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    /// A sync interface of its own is added behind the others; members keep their positions in the file.
    #[test]
    fn a_sync_link_of_its_own() {
        let plan = Plan::from_config(&fixture::config());
        assert_eq!(plan.interfaces[1].members, [(MemberId(1), 4)]);
        let sync = InterfacePlan {
            name: "eth2".to_owned(),
            id: InterfaceId(2),
            members: Vec::new(),
            sync: true,
            path: Some(PathId(0)),
        };
        assert_eq!(plan.interfaces[2], sync);
        assert_eq!(plan.sync_address, IpAddr::from([10, 77, 9, 2]));
        assert_eq!(plan.peers, [(NodeId(0), IpAddr::from([10, 77, 9, 1]))]);
    }

    /// Paths are numbered as configured, not as interfaces are; without a pair there is no heartbeat and no path.
    #[test]
    fn paths_of_heartbeats() {
        let mut config = fixture::config();
        config.heartbeat.paths = vec!["eth2".to_owned(), "eth0".to_owned()];
        let plan = Plan::from_config(&config);
        let heartbeat = plan.heartbeat.as_ref().unwrap();
        assert_eq!((heartbeat.node, heartbeat.peer), (NodeId(1), NodeId(0)));
        assert!(!format!("{plan:?}").contains(&heartbeat.key[0].to_string()));
        let paths: Vec<_> = plan.interfaces.iter().map(|interface| interface.path).collect();
        assert_eq!(paths, [Some(PathId(1)), None, Some(PathId(0))]);
        assert_eq!(plan.vips.len(), 3);
        config.heartbeat.enabled = false;
        let plan = Plan::from_config(&config);
        assert!(plan.heartbeat.is_none() && plan.interfaces.iter().all(|interface| interface.path.is_none()));
    }

    /// Sync over the LAN interface gives that interface both jobs, and no further one.
    #[test]
    fn sync_over_the_lan() {
        let mut config = fixture::config();
        config.sync.interface = "eth0".to_owned();
        let plan = Plan::from_config(&config);
        assert_eq!(plan.interfaces.len(), 2);
        assert!(plan.interfaces[0].sync && !plan.interfaces[1].sync);
    }
}
