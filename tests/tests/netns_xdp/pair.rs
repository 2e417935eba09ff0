//! Two nodes of a pair on one cable, in namespaces of their own, each with the programs on its end.

use crate::corpus::{self, HEARTBEAT_KEY};
use ha_common::abi::SelfEntry;
use ha_common::election::{InterfaceId, MemberId};
use ha_common::liveness::{PathId, PathReply};
use ha_common::role::NodeId;
use ha_common::wire::heartbeat::{self, Heartbeat, Kind, Standing};
use ha_tests::netns::{Netns, cable};
use ha_user::clock;
use ha_user::config::XdpChoice;
use ha_user::datapath::{Datapath, HeartbeatPlan, InterfacePlan, Plan, SyncPlan};
use ha_user::heartbeat_socket::HeartbeatSockets;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

pub const LINK: InterfaceId = InterfaceId(0);
pub const PATH: PathId = PathId(0);
/// Name of the interface in both namespaces.
pub const DEVICE: &str = "lan0";

/// The namespaces of node 0 and node 1, joined by a cable.
pub fn namespaces() -> [Netns; 2] {
    let nodes = [Netns::new("a").expect("this test needs root"), Netns::new("b").expect("this test needs root")];
    cable((&nodes[0], DEVICE), (&nodes[1], DEVICE)).unwrap();
    nodes
}

/// The plan of one of the two.
pub fn plan(node: u8, pin_directory: Option<PathBuf>) -> Plan {
    let peer = NodeId(1 - node);
    Plan {
        interfaces: vec![InterfacePlan {
            name: DEVICE.to_owned(),
            id: LINK,
            members: vec![(MemberId(0), corpus::VHID)],
            link: None,
            path: Some(PATH),
        }],
        sync: SyncPlan::of_one_link(
            NodeId(node),
            corpus::SYNC_PORT,
            corpus::sync_addresses(false).0,
            vec![(peer, corpus::sync_addresses(false).1)],
        ),
        keys: vec![corpus::KEY],
        heartbeat: Some(HeartbeatPlan { node: NodeId(node), peer }),
        vips: corpus::VIPS.to_vec(),
        choice: XdpChoice::Auto,
        pin_directory,
    }
}

/// A node that sends probes and looks at the answers, as a controller does. To be made and used in its namespace.
pub struct Prober {
    node: u8,
    session: u64,
    pub datapath: Datapath,
    sockets: HeartbeatSockets,
    pub sent: u64,
}

impl Prober {
    pub fn start(node: u8, session: u64) -> Self {
        let mut datapath = Datapath::start(&plan(node, None));
        let own = SelfEntry { session, state: Standing::default().pack(), ..SelfEntry::default() };
        datapath.publish(&own).unwrap();
        let mut sockets = HeartbeatSockets::new(1);
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        sockets.set_interface(LINK, Some(name_to_index(any, DEVICE).unwrap())).unwrap();
        Self { node, session, datapath, sockets, sent: 0 }
    }

    /// Sends the next probe to the group.
    pub fn probe(&mut self) {
        self.sent += 1;
        let probe = Heartbeat {
            kind: Kind::Probe,
            sender: self.node,
            target: 1 - self.node,
            path: PATH.0,
            session: self.session,
            sequence: self.sent,
            sent_ns: clock::now().0,
            ..corpus::probe()
        };
        let frame = heartbeat::emit(heartbeat::GROUP_MAC, corpus::NODE_MAC, &probe.seal(HEARTBEAT_KEY));
        self.sockets.send(LINK, &frame).unwrap();
    }

    /// Sends a probe and waits for its answer; `None` after 200 ms.
    pub fn ask(&mut self) -> Option<PathReply> {
        self.probe();
        for _ in 0..2000 {
            if let Some(reply) = self.datapath.reply(PATH).filter(|reply| reply.sequence == self.sent) {
                return Some(reply);
            }
            sleep(Duration::from_micros(100));
        }
        None
    }
}
