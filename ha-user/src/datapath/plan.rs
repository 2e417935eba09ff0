//! What the programs must know, taken from the configuration.

use super::pins;
use crate::config::{Resolved, XdpChoice};
use ha_common::abi::PATHS_MAX;
use ha_common::election::{InterfaceId, MemberId};
use ha_common::liveness::PathId;
use ha_common::role::NodeId;
use ha_common::secret::ClusterKey;
use ha_common::wire::siphash::Key;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use zeroize::Zeroize;

/// Interfaces, members and peers as the programs see them.
#[derive(Clone, Debug)]
pub struct Plan {
    pub interfaces: Vec<InterfacePlan>,
    pub sync: SyncPlan,
    /// Of the secrets that are valid, the oldest first.
    pub keys: Vec<DatapathKey>,
    /// `None`: no heartbeats are answered or taken.
    pub heartbeat: Option<HeartbeatPlan>,
    /// What the gate guards; none: every request passes.
    pub vips: Vec<IpAddr>,
    pub choice: XdpChoice,
    /// Where this node's links and its lease outlive the process; `None`: nowhere.
    pub pin_directory: Option<PathBuf>,
}

/// Where sync frames come from and are addressed to.
#[derive(Clone, Debug)]
pub struct SyncPlan {
    pub node: NodeId,
    /// UDP port of the sockets.
    pub port: u16,
    /// Frames may come to this group as well.
    pub group: Option<IpAddr>,
    pub links: Vec<LinkPlan>,
}

/// Addresses on one link.
#[derive(Clone, Debug)]
pub struct LinkPlan {
    /// This node's.
    pub address: IpAddr,
    pub peers: Vec<(NodeId, IpAddr)>,
}

impl SyncPlan {
    /// A single link without a group.
    pub fn of_one_link(node: NodeId, port: u16, address: IpAddr, peers: Vec<(NodeId, IpAddr)>) -> Self {
        Self { node, port, group: None, links: vec![LinkPlan { address, peers }] }
    }

    fn from_config(config: &Resolved) -> Self {
        let links = config.sync_links().into_iter().map(|link| {
            let addresses = || (0..=u8::MAX).map(NodeId).zip(link.addresses.iter().copied());
            let own = addresses().find(|(node, _)| *node == config.node);
            LinkPlan {
                address: own.map_or(IpAddr::from([0; 4]), |(_, address)| address),
                peers: addresses().filter(|(node, _)| *node != config.node).collect(),
            }
        });
        let links = links.collect();
        Self { node: config.node, port: config.sync.port, group: config.sync.transport.group, links }
    }

    /// The other nodes.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.links.first().into_iter().flat_map(|link| link.peers.iter().map(|(node, _)| *node))
    }
}

/// Whose heartbeats are answered.
#[derive(Clone, Copy, Debug)]
pub struct HeartbeatPlan {
    pub node: NodeId,
    pub peer: NodeId,
}

/// What the programs need of a secret; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct DatapathKey {
    pub epoch: u8,
    /// Of [`ha_common::sync::heartbeat_key`].
    pub heartbeat: Key,
    /// Of [`ha_common::sync::stamp_key`].
    pub stamp: Key,
}

impl DatapathKey {
    pub fn new(key: &ClusterKey, cluster: &str) -> Self {
        Self {
            epoch: key.epoch,
            heartbeat: ha_common::sync::heartbeat_key(&key.secret, cluster, key.epoch),
            stamp: ha_common::sync::stamp_key(key, cluster),
        }
    }
}

impl Drop for DatapathKey {
    fn drop(&mut self) {
        self.heartbeat.zeroize();
        self.stamp.zeroize();
    }
}

impl fmt::Debug for DatapathKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the key: no log line or test failure may tell it.
        write!(f, "DatapathKey(epoch {})", self.epoch)
    }
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfacePlan {
    pub name: String,
    pub id: InterfaceId,
    /// The members of the group on this interface with their VHIDs; none on a pure sync link.
    pub members: Vec<(MemberId, u8)>,
    /// Sync frames of this link come in here.
    pub link: Option<u8>,
    /// Heartbeats take this path through it: the position in `[heartbeat] paths`.
    pub path: Option<PathId>,
}

impl Plan {
    /// The plan of this node. Sync interfaces without virtual addresses get the ids after the last of
    /// [`Resolved::interfaces`].
    pub fn from_config(config: &Resolved) -> Self {
        let heartbeat = heartbeat(config);
        let path = |name: &str| {
            heartbeat.as_ref()?;
            let at = config.heartbeat.paths.iter().position(|path| path == name)?;
            u8::try_from(at).ok().filter(|at| u32::from(*at) < PATHS_MAX).map(PathId)
        };
        let links = config.sync_links();
        let link =
            |name: &str| links.iter().position(|link| link.interface == name).and_then(|at| u8::try_from(at).ok());
        let mut interfaces: Vec<InterfacePlan> = (0..=u8::MAX)
            .map(InterfaceId)
            .zip(&config.interfaces)
            .map(|(id, name)| InterfacePlan {
                name: name.clone(),
                id,
                members: members_of(config, id),
                link: link(name),
                path: path(name),
            })
            .collect();
        for name in links.iter().map(|link| &link.interface) {
            if !interfaces.iter().any(|interface| interface.name == *name)
                && let Ok(id) = u8::try_from(interfaces.len())
            {
                let (id, link, path) = (InterfaceId(id), link(name), path(name));
                interfaces.push(InterfacePlan { name: name.clone(), id, members: Vec::new(), link, path });
            }
        }
        Self {
            interfaces,
            sync: SyncPlan::from_config(config),
            keys: config.sync.keys.iter().map(|key| DatapathKey::new(key, &config.cluster)).collect(),
            vips: config.vips.iter().flat_map(|vip| vip.addresses.iter().map(|(address, _)| *address)).collect(),
            heartbeat,
            choice: config.xdp,
            pin_directory: pins::directory_of(config),
        }
    }
}

fn heartbeat(config: &Resolved) -> Option<HeartbeatPlan> {
    let peer = config.only_peer()?;
    config.heartbeat.enabled.then_some(HeartbeatPlan { node: config.node, peer })
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
            link: Some(0),
            path: Some(PathId(0)),
        };
        assert_eq!(plan.interfaces[2], sync);
        assert_eq!(plan.sync.links[0].address, IpAddr::from([10, 77, 9, 2]));
        assert_eq!(plan.sync.links[0].peers, [(NodeId(0), IpAddr::from([10, 77, 9, 1]))]);
    }

    /// Paths are numbered as configured, not as interfaces are; without a pair there is no heartbeat and no path.
    #[test]
    fn paths_of_heartbeats() {
        let mut config = fixture::config();
        config.heartbeat.paths = vec!["eth2".to_owned(), "eth0".to_owned()];
        let plan = Plan::from_config(&config);
        let heartbeat = plan.heartbeat.as_ref().unwrap();
        assert_eq!((heartbeat.node, heartbeat.peer), (NodeId(1), NodeId(0)));
        assert_eq!(plan.keys.iter().map(|key| key.epoch).collect::<Vec<_>>(), [1]);
        assert!(!format!("{plan:?}").contains(&plan.keys[0].heartbeat[0].to_string()));
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
        assert_eq!((plan.interfaces[0].link, plan.interfaces[1].link), (Some(0), None));
    }
}
