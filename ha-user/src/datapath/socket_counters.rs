//! The socket path's counters, in the same rows as the programs' maps.

use super::counters::Source;
use super::plan::Plan;
use ha_common::abi::{COUNT_ADVERTS, COUNT_FRAMES, COUNT_PACKETS, COUNTERS, CounterRow, Stream, refusal_index};
use ha_common::election::{InterfaceId, MemberId};
use ha_common::reason::DropReason;
use ha_common::role::NodeId;
use ha_common::wire::frame::Kind;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bumped by the socket readers, read by [`super::Counters`]; what is not in the plan is not counted.
#[derive(Clone)]
pub struct SocketCounters(Arc<Rows>);

struct Rows {
    interfaces: BTreeMap<InterfaceId, Row>,
    members: BTreeMap<MemberId, Row>,
    /// Which member a VHID on an interface is.
    vhids: BTreeMap<(InterfaceId, u8), MemberId>,
    streams: BTreeMap<(NodeId, u8), Mutex<Stream>>,
}

type Row = [AtomicU64; COUNTERS];

impl SocketCounters {
    pub(super) fn new(plan: &Plan) -> Self {
        let row = || std::array::from_fn(|_| AtomicU64::new(0));
        let members = || plan.interfaces.iter().flat_map(|i| i.members.iter().map(|(id, vhid)| (i.id, *id, *vhid)));
        let streams = |node: NodeId| Kind::ALL.map(|kind| ((node, kind as u8), Mutex::default()));
        Self(Arc::new(Rows {
            interfaces: plan.interfaces.iter().map(|interface| (interface.id, row())).collect(),
            members: members().map(|(_, member, _)| (member, row())).collect(),
            vhids: members().map(|(interface, member, vhid)| ((interface, vhid), member)).collect(),
            streams: plan.sync.peers().flat_map(streams).collect(),
        }))
    }

    /// Something was read from the interface's socket.
    pub fn packet(&self, interface: InterfaceId) {
        self.count(interface, COUNT_PACKETS);
    }

    /// The member that this VHID is on the interface; `None` means [`DropReason::VhidUnknown`].
    pub fn member(&self, interface: InterfaceId, vhid: u8) -> Option<MemberId> {
        self.0.vhids.get(&(interface, vhid)).copied()
    }

    /// A well-formed advert for a known VHID.
    pub fn advert(&self, interface: InterfaceId, member: MemberId) {
        self.count(interface, COUNT_ADVERTS);
        self.count_member(member, COUNT_ADVERTS);
    }

    /// An advert was refused; `vhid` as it claims, zero when it claims none.
    pub fn advert_refused(&self, interface: InterfaceId, vhid: u8, reason: DropReason) {
        self.count(interface, refusal_index(reason));
        if let Some(member) = self.member(interface, vhid) {
            self.count_member(member, refusal_index(reason));
        }
    }

    /// A well-formed sync frame of a configured peer; `bytes` is the UDP payload.
    pub fn frame(&self, interface: InterfaceId, node: NodeId, kind: Kind, session: u64, sequence: u64, bytes: u64) {
        self.count(interface, COUNT_FRAMES);
        if let Some(stream) = self.0.streams.get(&(node, kind as u8)) {
            // A poisoned stream still holds numbers, which is all that is wanted of it.
            stream.lock().unwrap_or_else(PoisonError::into_inner).observe(kind, session, sequence, bytes);
        }
    }

    /// A sync frame was refused.
    pub fn frame_refused(&self, interface: InterfaceId, reason: DropReason) {
        self.count(interface, refusal_index(reason));
    }

    fn count(&self, interface: InterfaceId, at: usize) {
        bump(self.0.interfaces.get(&interface), at);
    }

    fn count_member(&self, member: MemberId, at: usize) {
        bump(self.0.members.get(&member), at);
    }
}

impl Source for SocketCounters {
    fn interface(&self, interface: InterfaceId) -> CounterRow {
        read(self.0.interfaces.get(&interface))
    }

    fn member(&self, member: MemberId) -> CounterRow {
        read(self.0.members.get(&member))
    }

    fn stream(&self, node: NodeId, kind: Kind) -> Stream {
        let stream = self.0.streams.get(&(node, kind as u8));
        stream.map(|stream| *stream.lock().unwrap_or_else(PoisonError::into_inner)).unwrap_or_default()
    }
}

fn bump(row: Option<&Row>, at: usize) {
    if let Some(counter) = row.and_then(|row| row.get(at)) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn read(row: Option<&Row>) -> CounterRow {
    row.map(|row| row.each_ref().map(|counter| counter.load(Ordering::Relaxed))).unwrap_or([0; COUNTERS])
}
