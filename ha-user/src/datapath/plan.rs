//! What the programs must know, taken from the configuration.

use crate::config::{Resolved, XdpChoice};
use ha_common::election::{InterfaceId, MemberId};
use ha_common::role::NodeId;
use std::net::IpAddr;

/// Interfaces, members and peers as the programs see them.
#[derive(Clone, Debug)]
pub struct Plan {
    pub interfaces: Vec<InterfacePlan>,
    /// This node's address on the sync link, and the UDP port of its socket.
    pub sync_address: IpAddr,
    pub sync_port: u16,
    pub peers: Vec<(NodeId, IpAddr)>,
    pub key_epoch: u8,
    pub choice: XdpChoice,
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
}

impl Plan {
    /// The plan of this node. A sync interface without virtual addresses gets the id after the last of
    /// [`Resolved::interfaces`].
    pub fn from_config(config: &Resolved) -> Self {
        let mut interfaces: Vec<InterfacePlan> = (0..=u8::MAX)
            .map(InterfaceId)
            .zip(&config.interfaces)
            .map(|(id, name)| InterfacePlan {
                name: name.clone(),
                id,
                members: members_of(config, id),
                sync: *name == config.sync.interface,
            })
            .collect();
        if !interfaces.iter().any(|interface| interface.sync)
            && let Ok(id) = u8::try_from(interfaces.len())
        {
            let name = config.sync.interface.clone();
            interfaces.push(InterfacePlan { name, id: InterfaceId(id), members: Vec::new(), sync: true });
        }
        let nodes = || (0..=u8::MAX).map(NodeId).zip(&config.nodes);
        let own = nodes().find(|(id, _)| *id == config.node);
        Self {
            interfaces,
            sync_address: own.map_or(IpAddr::from([0; 4]), |(_, node)| node.sync_address),
            sync_port: config.sync.port,
            peers: nodes().filter(|(id, _)| *id != config.node).map(|(id, node)| (id, node.sync_address)).collect(),
            key_epoch: config.sync.key_epoch,
            choice: config.xdp,
        }
    }
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
        let sync = InterfacePlan { name: "eth2".to_owned(), id: InterfaceId(2), members: Vec::new(), sync: true };
        assert_eq!(plan.interfaces[2], sync);
        assert_eq!(plan.sync_address, IpAddr::from([10, 77, 9, 2]));
        assert_eq!(plan.peers, [(NodeId(0), IpAddr::from([10, 77, 9, 1]))]);
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
