//! One flow of the shadow table, packed: a million of them is what a busy firewall has.

use super::PeerId;
use super::flow::{Extra, Flow, FlowKey, Tcp, Tuple};
use super::table::Slot;
use core::net::{IpAddr, Ipv4Addr};

/// Who answers for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This node: its kernel saw the traffic, or it is master.
    Local,
    /// Found in the kernel at start; nobody has claimed it yet.
    Found,
    /// That peer; this node's kernel holds a copy.
    Peer(PeerId),
}

/// One bit each: what is special about an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u16);

impl Flags {
    /// Known to be missing in the kernel, in this state at least.
    pub const ABSENT: Flags = Flags(1);
    /// A real event was seen while this node was not master.
    pub const LIVE_HERE: Flags = Flags(2);
    /// Given away at a demotion while the table was still being sent.
    pub const HANDOVER: Flags = Flags(4);
    /// The tombstone is kept because an older frame may still arrive.
    pub const HELD_FOR_GAP: Flags = Flags(8);
    /// The tombstone is kept because a running dump may still list the flow.
    pub const HELD_FOR_DUMP: Flags = Flags(16);
    /// The kernel refuses new timeouts (`IPS_FIXED_TIMEOUT`).
    pub const FIXED_TIMEOUT: Flags = Flags(32);
    /// This kernel's entry was written by this node, hence with liberal window checks. Or it was found here, without any, and a peer has
    /// told of it: it may have more time left than that says.
    pub const WRITTEN: Flags = Flags(64);
    /// Nobody names it any more: its timeout in the kernel was cut, and is not written again before somebody does.
    pub const CUT: Flags = Flags(128);
    /// Its sequence adjustment is read from time to time.
    pub const FETCHED: Flags = Flags(256);
    /// Absent, because the kernel has refused an update: it still has an earlier state.
    pub const OUTDATED: Flags = Flags(512);
    /// It waits to be tried again.
    pub const RETRIED: Flags = Flags(1024);
    /// Given away at a demotion, and named by nobody since: of what packets did to it before, events may have been lost.
    pub const GIVEN: Flags = Flags(2048);

    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }
    pub fn set(&mut self, flag: Flags) {
        self.0 |= flag.0;
    }
    pub fn clear(&mut self, flag: Flags) {
        self.0 &= !flag.0;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Free,
    Live,
    Tombstone,
}

/// Both directions of a flow. IPv4, which most flows are, stands in place.
#[derive(Debug)]
enum Tuples {
    /// Source and destination of the original, then of the reply direction.
    V4 {
        addresses: [u32; 4],
        ports: [u16; 4],
    },
    Wide(Box<[Tuple; 2]>),
}

/// Stands for the next slot where an entry is not linked into the keep-alive wheel.
pub(super) const UNLINKED: Slot = Slot::MAX - 1;

/// The TCP state of a flow that has none.
const NO_TCP: u8 = u8::MAX;

/// A flow with what replication needs to know about it.
#[derive(Debug)]
pub(super) struct Entry {
    tuples: Tuples,
    extra: Option<Box<Extra>>,
    version: u64,
    /// Seconds left when it was last told.
    pub timeout: u32,
    mark: u32,
    /// `CTA_ID` in this node's kernel; zero when unknown.
    pub id: u32,
    /// Second (of the engine's clock) at which the kernel's timeout is written again.
    pub refresh_at: u32,
    /// Of the slot and not the entry: the next slot in the same bucket of the keep-alive wheel, or [`UNLINKED`].
    pub wheel_next: Slot,
    /// The kernel has no status bits beyond these sixteen.
    status: u16,
    zone: u16,
    /// Low bits of the peer's bulk epoch in which it was last named.
    pub epoch: u16,
    protocol: u8,
    tcp_state: u8,
    /// Original direction in the low four bits.
    tcp_wscale: u8,
    tcp_flags: [u8; 2],
    /// [`Owner`] as a number: 0 local, 1 found, from 2 on the peers.
    owner: u8,
    pub(super) life: Life,
    pub flags: Flags,
    /// Bit per peer: the newest state is to be sent.
    pub dirty: u8,
    /// Bit per peer, of the slot and not the entry: an item for this slot stands in the peer's queue.
    pub queued: u8,
    /// Bit per peer: the removal is not yet acknowledged.
    pub owed: u8,
    /// Failed or repeated creations since the last success.
    pub retries: u8,
    /// Generation of the dump that listed it, or during which it changed.
    pub dump: u8,
}

impl Entry {
    /// A live entry that nobody has seen yet.
    pub fn new(flow: &Flow, owner: Owner, version: u64) -> Self {
        let mut entry = Self {
            tuples: Tuples::V4 { addresses: [0; 4], ports: [0; 4] },
            extra: None,
            version,
            timeout: 0,
            mark: 0,
            id: 0,
            refresh_at: 0,
            wheel_next: UNLINKED,
            status: 0,
            zone: 0,
            epoch: 0,
            protocol: 0,
            tcp_state: NO_TCP,
            tcp_wscale: 0,
            tcp_flags: [0; 2],
            owner: 0,
            life: Life::Live,
            flags: Flags::default(),
            dirty: 0,
            queued: 0,
            owed: 0,
            retries: 0,
            dump: 0,
        };
        entry.put(owner, version);
        entry.set_flow(flow);
        entry
    }

    /// The flow as it was last told.
    pub fn flow(&self) -> Flow {
        let [original, reply] = self.tuples();
        let tcp = self.has_tcp().then_some(Tcp {
            state: self.tcp_state,
            wscale: [self.tcp_wscale & 0xf, self.tcp_wscale >> 4],
            flags: self.tcp_flags,
        });
        Flow {
            key: FlowKey { original, zone: self.zone },
            reply,
            status: u32::from(self.status),
            timeout: self.timeout,
            mark: self.mark,
            tcp,
            id: self.id,
            extra: self.extra.clone(),
        }
    }

    /// Takes over everything of a flow; its key must be the entry's.
    pub fn set_flow(&mut self, flow: &Flow) {
        self.tuples = Tuples::pack(&flow.key.original, &flow.reply);
        self.zone = flow.key.zone;
        self.protocol = flow.key.original.protocol;
        self.status = flow.status as u16;
        self.timeout = flow.timeout;
        self.mark = flow.mark;
        self.id = flow.id;
        match flow.tcp {
            Some(tcp) => {
                self.tcp_state = tcp.state.min(NO_TCP - 1);
                self.tcp_wscale = tcp.wscale[0] & 0xf | tcp.wscale[1] << 4;
                self.tcp_flags = tcp.flags;
            }
            None => self.tcp_state = NO_TCP,
        }
        self.extra.clone_from(&flow.extra);
    }

    pub fn key(&self) -> FlowKey {
        FlowKey { original: self.tuples()[0], zone: self.zone }
    }

    pub fn has_key(&self, key: &FlowKey) -> bool {
        self.zone == key.zone && self.protocol == key.original.protocol && self.tuples()[0] == key.original
    }

    /// Lamport time of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn is_in_wheel(&self) -> bool {
        self.wheel_next != UNLINKED
    }

    pub fn has_tcp(&self) -> bool {
        self.tcp_state != NO_TCP
    }

    pub fn tcp_state(&self) -> Option<u8> {
        self.has_tcp().then_some(self.tcp_state)
    }

    pub fn status(&self) -> u32 {
        u32::from(self.status)
    }

    pub fn extra(&self) -> Option<&Extra> {
        self.extra.as_deref()
    }

    pub fn owner(&self) -> Owner {
        match self.owner {
            0 => Owner::Local,
            1 => Owner::Found,
            peer => Owner::Peer(PeerId(peer - 2)),
        }
    }

    pub fn is_live(&self) -> bool {
        self.life == Life::Live
    }

    /// The kernel should have it, and lacks it or has an earlier state.
    pub fn is_lacking(&self) -> bool {
        self.is_live() && self.flags.has(Flags::ABSENT)
    }

    pub fn is_tombstone(&self) -> bool {
        self.life == Life::Tombstone
    }

    /// Live and owned by this node.
    pub fn is_local(&self) -> bool {
        self.is_live() && self.owner() == Owner::Local
    }

    pub fn is_owned_by(&self, peer: PeerId) -> bool {
        self.is_live() && self.owner() == Owner::Peer(peer)
    }

    /// Owner and version: for the table alone, which keeps sums of them.
    pub(super) fn put(&mut self, owner: Owner, version: u64) {
        self.owner = match owner {
            Owner::Local => 0,
            Owner::Found => 1,
            Owner::Peer(peer) => peer.0.saturating_add(2),
        };
        self.version = version;
    }

    /// The entry is free: what it holds beside itself is given back.
    pub(super) fn let_go(&mut self) {
        self.tuples = Tuples::V4 { addresses: [0; 4], ports: [0; 4] };
        self.extra = None;
    }

    fn tuples(&self) -> [Tuple; 2] {
        match &self.tuples {
            Tuples::V4 { addresses: [a, b, c, d], ports: [e, f, g, h] } => {
                let tuple = |source: u32, destination: u32, source_port, destination_port| Tuple {
                    source: Ipv4Addr::from_bits(source).into(),
                    destination: Ipv4Addr::from_bits(destination).into(),
                    protocol: self.protocol,
                    source_port,
                    destination_port,
                };
                [tuple(*a, *b, *e, *f), tuple(*c, *d, *g, *h)]
            }
            Tuples::Wide(tuples) => **tuples,
        }
    }
}

impl Tuples {
    fn pack(original: &Tuple, reply: &Tuple) -> Self {
        match (original.source, original.destination, reply.source, reply.destination) {
            (IpAddr::V4(a), IpAddr::V4(b), IpAddr::V4(c), IpAddr::V4(d)) if original.protocol == reply.protocol => {
                Self::V4 {
                    addresses: [a, b, c, d].map(Ipv4Addr::to_bits),
                    ports: [original.source_port, original.destination_port, reply.source_port, reply.destination_port],
                }
            }
            _ => Self::Wide(Box::new([*original, *reply])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::tests::any_flow;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Packing loses nothing of any flow that can come from a peer.
        #[test]
        fn packing_is_lossless(flow in any_flow(), id: u32, owner in 0u8..9, version: u64) {
            let owner = match owner {
                0 => Owner::Local,
                1 => Owner::Found,
                peer => Owner::Peer(PeerId(peer - 2)),
            };
            let flow = Flow { id, ..flow };
            let entry = Entry::new(&flow, owner, version);
            prop_assert_eq!(entry.key(), flow.key);
            prop_assert!(entry.has_key(&flow.key));
            prop_assert_eq!((entry.owner(), entry.version()), (owner, version));
            prop_assert_eq!(entry.flow(), flow);
        }
    }

    /// The promise behind "one million flows": an entry costs no more than 88 bytes.
    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 88, "an entry has {} bytes", size_of::<Entry>());
    }
}
