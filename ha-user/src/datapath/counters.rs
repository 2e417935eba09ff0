//! All counters of the receive paths in one shape, readable from any thread.

use super::plan::Plan;
use super::pod::Shared;
use super::socket_counters::SocketCounters;
use aya::maps::{Array, MapData, PerCpuArray};
use ha_common::abi::{
    COUNT_ADVERTS, COUNT_FRAMES, COUNT_PACKETS, COUNT_PROBES, COUNT_REPLIES, COUNTERS, CounterRow, Stream,
    refusal_index, stream_index,
};
use ha_common::election::{InterfaceId, MemberId};
use ha_common::reason::DropReason;
use ha_common::role::NodeId;
use ha_common::wire::frame::Kind;
use std::sync::Arc;

/// The maps that the programs count in.
pub struct CounterMaps {
    pub interfaces: PerCpuArray<MapData, CounterRow>,
    pub members: PerCpuArray<MapData, CounterRow>,
    pub streams: Array<MapData, Shared<Stream>>,
}

/// Which path counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    Xdp,
    Socket,
}

impl Path {
    /// The value of the metric label `path`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Socket => "socket",
        }
    }
}

/// One reading of everything. Entries of both paths are there whenever the path exists, even if they are zero.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub interfaces: Vec<InterfaceCounters>,
    pub members: Vec<MemberCounters>,
    pub peers: Vec<PeerCounters>,
}

#[derive(Clone, Debug)]
pub struct InterfaceCounters {
    pub interface: InterfaceId,
    pub name: String,
    pub path: Path,
    /// Packets that the path saw at all.
    pub packets: u64,
    /// Well-formed adverts for known VHIDs.
    pub adverts: u64,
    /// Well-formed sync frames.
    pub frames: u64,
    /// Heartbeats of the peer that were answered, and its answers that were taken.
    pub probes: u64,
    pub replies: u64,
    /// By [`DropReason`] index.
    pub refused: [u64; DropReason::COUNT],
}

#[derive(Clone, Debug)]
pub struct MemberCounters {
    pub member: MemberId,
    pub vhid: u8,
    pub interface: InterfaceId,
    pub interface_name: String,
    pub path: Path,
    pub adverts: u64,
    /// By [`DropReason`] index.
    pub refused: [u64; DropReason::COUNT],
}

#[derive(Clone, Debug)]
pub struct PeerCounters {
    pub node: NodeId,
    pub kind: Kind,
    pub path: Path,
    pub stream: Stream,
}

/// Reads the counters of both paths; cheap to clone.
#[derive(Clone)]
pub struct Counters {
    plan: Arc<Plan>,
    maps: Option<Arc<CounterMaps>>,
    socket: SocketCounters,
}

impl Counters {
    /// For a plan, with the maps of its programs if there are any.
    pub fn new(plan: &Plan, maps: Option<Arc<CounterMaps>>) -> Self {
        Self { socket: SocketCounters::new(plan), plan: Arc::new(plan.clone()), maps }
    }

    /// The counters that the socket path bumps.
    pub fn socket(&self) -> SocketCounters {
        self.socket.clone()
    }

    /// Reads everything: about two microseconds for each row.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (path, source) in self.sources() {
            self.read(path, source, &mut snapshot);
        }
        snapshot
    }

    fn sources(&self) -> impl Iterator<Item = (Path, &dyn Source)> {
        let xdp = self.maps.as_deref().map(|maps| (Path::Xdp, maps as &dyn Source));
        xdp.into_iter().chain([(Path::Socket, &self.socket as &dyn Source)])
    }

    fn read(&self, path: Path, source: &dyn Source, into: &mut Snapshot) {
        for plan in &self.plan.interfaces {
            let row = source.interface(plan.id);
            into.interfaces.push(InterfaceCounters {
                interface: plan.id,
                name: plan.name.clone(),
                path,
                packets: row[COUNT_PACKETS],
                adverts: row[COUNT_ADVERTS],
                frames: row[COUNT_FRAMES],
                probes: row[COUNT_PROBES],
                replies: row[COUNT_REPLIES],
                refused: refusals(&row),
            });
            for (member, vhid) in &plan.members {
                let row = source.member(*member);
                into.members.push(MemberCounters {
                    member: *member,
                    vhid: *vhid,
                    interface: plan.id,
                    interface_name: plan.name.clone(),
                    path,
                    adverts: row[COUNT_ADVERTS],
                    refused: refusals(&row),
                });
            }
        }
        for node in self.plan.sync.peers() {
            for kind in Kind::ALL {
                into.peers.push(PeerCounters { node, kind, path, stream: source.stream(node, kind) });
            }
        }
    }
}

/// Where rows are read from. A row that cannot be read is zero: the plan and the maps have the same sizes.
pub(super) trait Source {
    fn interface(&self, interface: InterfaceId) -> CounterRow;
    fn member(&self, member: MemberId) -> CounterRow;
    fn stream(&self, node: NodeId, kind: Kind) -> Stream;
}

impl Source for CounterMaps {
    fn interface(&self, interface: InterfaceId) -> CounterRow {
        sum(&self.interfaces, interface.0)
    }

    fn member(&self, member: MemberId) -> CounterRow {
        sum(&self.members, member.0)
    }

    fn stream(&self, node: NodeId, kind: Kind) -> Stream {
        self.streams.get(&stream_index(node.0, kind), 0).map(|shared| shared.0).unwrap_or_default()
    }
}

/// The row over all CPUs.
fn sum(map: &PerCpuArray<MapData, CounterRow>, index: u8) -> CounterRow {
    let mut total = [0u64; COUNTERS];
    if let Ok(per_cpu) = map.get(&u32::from(index), 0) {
        for row in per_cpu.iter() {
            for (sum, value) in total.iter_mut().zip(row) {
                *sum = sum.wrapping_add(*value);
            }
        }
    }
    total
}

fn refusals(row: &CounterRow) -> [u64; DropReason::COUNT] {
    let mut refused = [0; DropReason::COUNT];
    for (reason, count) in DropReason::ALL.iter().zip(&mut refused) {
        *count = row[refusal_index(*reason)];
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::XdpChoice;
    use crate::datapath::{InterfacePlan, SyncPlan};

    /// Without XDP there is one entry per interface, member, and peer and kind, and it shows what the socket path counted.
    #[test]
    fn the_socket_path_shows_in_the_same_shape() {
        let members = vec![(MemberId(0), 3)];
        let lan = InterfacePlan { name: "eth0".to_owned(), id: InterfaceId(0), members, link: Some(0), path: None };
        let plan = Plan {
            interfaces: vec![lan],
            sync: SyncPlan::of_one_link(NodeId(0), 3780, [10, 0, 0, 1].into(), vec![(NodeId(1), [10, 0, 0, 2].into())]),
            keys: Vec::new(),
            heartbeat: None,
            vips: Vec::new(),
            choice: XdpChoice::Off,
            pin_directory: None,
        };
        let counters = Counters::new(&plan, None);
        let socket = counters.socket();
        socket.packet(InterfaceId(0));
        socket.advert(InterfaceId(0), MemberId(0));
        socket.advert_refused(InterfaceId(0), 3, DropReason::TtlNot255);
        socket.advert_refused(InterfaceId(0), 9, DropReason::VhidUnknown);
        socket.frame(InterfaceId(0), NodeId(1), Kind::Data, 7, 1, 100);
        let snapshot = counters.snapshot();
        let interface = &snapshot.interfaces[0];
        assert_eq!((interface.path, interface.packets, interface.adverts, interface.frames), (Path::Socket, 1, 1, 1));
        assert_eq!(interface.refused.iter().sum::<u64>(), 2);
        let member = &snapshot.members[0];
        assert_eq!((member.adverts, member.refused[DropReason::TtlNot255 as usize]), (1, 1));
        assert_eq!(member.refused.iter().sum::<u64>(), 1);
        assert_eq!(snapshot.peers.len(), Kind::ALL.len());
        assert_eq!(snapshot.peers[1].stream.bytes, 100);
    }
}
