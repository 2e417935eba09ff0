//! What the XDP programs and the daemon share in BPF maps: values, ring records, counter rows.
//!
//! Everything is `repr(C)` without holes, and its size is asserted here: both sides are compiled by different
//! compilers and only ever meet in the kernel's memory.

use crate::reason::DropReason;
use crate::wire::bytes::Packet;
use crate::wire::carp::ADVERT_LEN;
use crate::wire::frame::Kind;
use crate::wire::ip::{self, AddressWords};
use crate::wire::siphash::Key;
use core::net::IpAddr;

/// Interfaces with an index below this are found by one array lookup, all others in a hash map.
pub const IFINDEX_DIRECT_MAX: u32 = 1024;
/// Most interfaces that can be served: an interface's number is a byte.
pub const INTERFACES_MAX: u32 = 256;
/// Most (interface, VHID) pairs: a member's number is a byte.
pub const MEMBERS_MAX: u32 = 256;
/// VHIDs of one interface in the member table.
pub const VHIDS_PER_INTERFACE: u32 = 256;
/// Most nodes of a cluster: the sender in a sync header is a byte.
pub const PEERS_MAX: u32 = 256;
/// Most links between the nodes.
pub const LINKS_MAX: u32 = 4;
/// Streams of one peer in the stream table: one per frame kind, and an unused one.
pub const STREAMS_PER_PEER: u32 = 4;
/// Bytes of the advert ring: about 3,000 adverts.
pub const RING_BYTES: u32 = 256 * 1024;

/// Adverts are heard on this interface.
pub const ROLE_CARP: u16 = 1;
/// Sync frames are received on this interface.
pub const ROLE_SYNC: u16 = 2;
/// Heartbeats of the peer are answered on this interface, and its answers are taken.
pub const ROLE_HEARTBEAT: u16 = 4;
/// Most paths that heartbeats may take: interfaces, numbered in the order of the configuration.
pub const PATHS_MAX: u32 = 16;
/// Most virtual addresses that the gate can guard.
pub const VIPS_MAX: u32 = 4096;
/// What is pinned and how it is laid out; another layout is another directory.
pub const PIN_LAYOUT: u32 = 1;

/// What an interface is for. All zero: none of ours.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceEntry {
    /// Row in the interface counters: the daemon's `InterfaceId`.
    pub slot: u16,
    /// [`ROLE_CARP`], [`ROLE_SYNC`] and [`ROLE_HEARTBEAT`].
    pub roles: u16,
    /// The interface's own address: source of the answers to heartbeats.
    pub mac: [u8; 6],
    /// Number of the path that it is for heartbeats, with [`ROLE_HEARTBEAT`].
    pub path: u16,
    /// Number of the sync link that it is, with [`ROLE_SYNC`].
    pub link: u16,
}
const _: () = assert!(size_of::<InterfaceEntry>() == 14);

impl InterfaceEntry {
    /// [`Self::mac`] as words in memory order.
    #[inline(always)]
    pub const fn mac_words(&self) -> [u16; 3] {
        let [a, b, c, d, e, f] = self.mac;
        [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])]
    }
}

/// Which member of the group a VHID on an interface is. All zero: unknown.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberEntry {
    /// 1 when there is such a member.
    pub known: u16,
    /// Row in the member counters: the election's `MemberId`.
    pub member: u16,
}
const _: () = assert!(size_of::<MemberEntry>() == 4);

/// Where the frames of one link are addressed to. All zero: no such link.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkEntry {
    /// This node's address on the link.
    pub address: AddressWords,
    /// The group of all nodes, with [`Self::has_group`].
    pub group: AddressWords,
    /// 4 or 6; zero when there is no such link.
    pub family: u8,
    pub has_group: u8,
}
const _: () = assert!(size_of::<LinkEntry>() == 34);

impl LinkEntry {
    /// A link with this address, and perhaps a group of the same family.
    pub fn new(address: IpAddr, group: Option<IpAddr>) -> Self {
        Self {
            address: ip::address_words(address),
            group: group.map_or([0; 8], ip::address_words),
            family: if address.is_ipv6() { 6 } else { 4 },
            has_group: u8::from(group.is_some()),
        }
    }

    /// True when the packet is addressed to this node or to the group.
    #[inline(always)]
    pub fn admits_destination<P: Packet>(&self, packet: &ip::Header<P>) -> bool {
        let family = if packet.is_v6() { 6 } else { 4 };
        self.family == family
            && (packet.destination_is(&self.address) || (self.has_group != 0 && packet.destination_is(&self.group)))
    }
}

/// Who a sync frame may come from, by link and by the sender in its header. All zero: nobody.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerEntry {
    /// The peer's address on the link.
    pub address: AddressWords,
    /// 4 or 6; zero when this node number is no peer.
    pub family: u8,
    pub reserved: u8,
}
const _: () = assert!(size_of::<PeerEntry>() == 18);

impl PeerEntry {
    /// A peer at this address.
    pub fn new(address: IpAddr) -> Self {
        Self { address: ip::address_words(address), family: if address.is_ipv6() { 6 } else { 4 }, reserved: 0 }
    }

    /// True when the packet comes from this peer's address.
    #[inline(always)]
    pub fn admits_source<P: Packet>(&self, packet: &ip::Header<P>) -> bool {
        packet.is_v6() == (self.family == 6) && packet.source_is(&self.address)
    }
}

/// What the programs hold of the secret of an epoch: the entry of that number in the map `KEYS`. Each epoch has its own, so
/// that another secret comes and goes without one moment in which the one in use is not whole.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyEntry {
    /// Of [`crate::wire::heartbeat`], and of [`crate::wire::frame::put_stamp`].
    pub heartbeat: Key,
    pub stamp: Key,
    /// 1 when the secret of this epoch is valid.
    pub held: u64,
}
const _: () = assert!(size_of::<KeyEntry>() == 40);

/// Entries of the map `KEYS`: one for each epoch.
pub const EPOCHS: u32 = 256;

/// One well-formed advert for a known VHID, as it goes through the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvertRecord {
    /// `bpf_ktime_get_boot_ns` when the program saw it.
    pub received_ns: u64,
    pub source: AddressWords,
    pub destination: AddressWords,
    /// The 36 bytes, as words in memory order.
    pub carp: [u16; ADVERT_LEN / 2],
    pub slot: u8,
    pub member: u8,
    /// 4 or 6.
    pub family: u8,
    pub reserved: u8,
}
const _: () = assert!(size_of::<AdvertRecord>() == 80);

/// Key of the map of virtual addresses: the address, IPv4 as an IPv4-mapped IPv6 address.
pub type VipKey = AddressWords;

/// The key of an IPv4 address given as words in memory order.
#[inline(always)]
pub const fn vip_key_v4(words: [u16; 2]) -> VipKey {
    [0, 0, 0, 0, 0, 0xffff, words[0], words[1]]
}

/// The key of an address.
pub fn vip_key(address: IpAddr) -> VipKey {
    let words = ip::address_words(address);
    if address.is_ipv4() { vip_key_v4([words[0], words[1]]) } else { words }
}

/// What this node is, as its controller last said: the one entry of the map `SELF`, which outlives the process.
///
/// The controller replaces it whole, in the order of the fields; a program reads it in the opposite order, so that who
/// sees a new [`Self::state`] also sees its lease.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelfEntry {
    /// The gate may be open up to then, on the boot clock; zero: this node claims nothing.
    pub lease_until_ns: u64,
    /// The highest term known; the own one while this node is MASTER.
    pub term: u64,
    /// Random, of this process.
    pub session: u64,
    /// When the controller last was alive, on the boot clock.
    pub beat_ns: u64,
    /// [`crate::wire::heartbeat::Standing`], packed.
    pub state: u64,
}
const _: () = assert!(size_of::<SelfEntry>() == 40);

/// What only the programs write: the one entry of the map `FENCE`, which outlives the process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FenceEntry {
    /// The gate never opens again in this term and those before.
    pub closed_term: u64,
    /// How often a lapsed lease closed a term, and how often a newer master did.
    pub lapsed: u64,
    pub superseded: u64,
}
const _: () = assert!(size_of::<FenceEntry>() == 24);

/// The newest answer of the peer on one path, by path number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathEntry {
    /// Of the probe that was answered; zero: none yet.
    pub sequence: u64,
    /// When the answer was received, and how long after the probe was sent.
    pub received_ns: u64,
    pub rtt_ns: u64,
    /// The responder's session, term, packed standing and its ages ([`crate::wire::heartbeat::Heartbeat`]).
    pub session: u64,
    pub term: u64,
    pub state: u64,
    /// Microseconds: beat age in the upper, lease left in the lower half.
    pub ages: u64,
    /// The responder's MAC address in the low 48 bits.
    pub mac: u64,
    /// How many answers were taken.
    pub replies: u64,
    /// [`Self::sum`] of the others: an entry that is being written does not add up.
    pub check: u64,
}
const _: () = assert!(size_of::<PathEntry>() == 80);

impl PathEntry {
    /// What [`Self::check`] must be.
    #[inline(always)]
    pub const fn sum(&self) -> u64 {
        self.sequence
            .wrapping_add(self.received_ns)
            .wrapping_add(self.rtt_ns)
            .wrapping_add(self.session)
            .wrapping_add(self.term)
            .wrapping_add(self.state)
            .wrapping_add(self.ages)
            .wrapping_add(self.mac)
            .wrapping_add(self.replies)
    }
}

/// What was received from one peer in one kind of frame, judged by headers alone: nothing here is authenticated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    pub session: u64,
    /// The sequence number expected next in that session.
    pub next: u64,
    pub frames: u64,
    /// UDP payload bytes.
    pub bytes: u64,
    /// How often numbers were skipped, and how many.
    pub gaps: u64,
    pub lost: u64,
    /// Numbers seen already, or late.
    pub duplicates: u64,
}
const _: () = assert!(size_of::<Stream>() == 56);

impl Stream {
    /// Counts one frame.
    #[inline(always)]
    pub fn observe(&mut self, kind: Kind, session: u64, sequence: u64, bytes: u64) {
        self.frames += 1;
        self.bytes += bytes;
        match kind {
            // Keep-alives carry no number of a stream.
            Kind::Hello => {}
            Kind::Data | Kind::Ack => self.follow(session, sequence),
        }
    }

    #[inline(always)]
    fn follow(&mut self, session: u64, sequence: u64) {
        if session != self.session || self.next == 0 {
            self.session = session;
        } else if sequence > self.next {
            self.gaps += 1;
            self.lost = self.lost.wrapping_add(sequence - self.next);
        } else if sequence < self.next {
            self.duplicates += 1;
            return;
        }
        self.next = sequence.wrapping_add(1);
    }
}

/// Position in the peer table.
#[inline(always)]
pub const fn peer_index(link: u16, sender: u8) -> u32 {
    link as u32 * PEERS_MAX + sender as u32
}

/// Position in the stream table.
#[inline(always)]
pub const fn stream_index(sender: u8, kind: Kind) -> u32 {
    sender as u32 * STREAMS_PER_PEER + kind as u32
}

/// Position in the member table.
#[inline(always)]
pub const fn member_index(slot: u16, vhid: u8) -> u32 {
    slot as u32 * VHIDS_PER_INTERFACE + vhid as u32
}

/// One row of counters, of an interface or of a member; see the `COUNT_` positions and [`refusal_index`].
pub type CounterRow = [u64; COUNTERS];
/// Every packet that the program saw (interfaces only).
pub const COUNT_PACKETS: usize = 0;
/// Well-formed adverts for known VHIDs.
pub const COUNT_ADVERTS: usize = 1;
/// Well-formed sync frames (interfaces only).
pub const COUNT_FRAMES: usize = 2;
/// Heartbeats of the peer that were answered (interfaces only).
pub const COUNT_PROBES: usize = 3;
/// Answers of the peer that were taken (interfaces only).
pub const COUNT_REPLIES: usize = 4;
const COUNT_REFUSED: usize = 5;
/// How many counters a row has.
pub const COUNTERS: usize = COUNT_REFUSED + DropReason::COUNT;

/// Position of a refusal in a row.
#[inline(always)]
pub const fn refusal_index(reason: DropReason) -> usize {
    COUNT_REFUSED + reason as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(stream: &mut Stream, session: u64, sequences: &[u64]) {
        for sequence in sequences {
            stream.observe(Kind::Data, session, *sequence, 100);
        }
    }

    /// Skipped numbers are a gap and losses, repeated or late ones are duplicates.
    #[test]
    fn gaps_and_duplicates_are_counted() {
        let mut stream = Stream::default();
        observe(&mut stream, 7, &[1, 2, 5, 4, 6, 6]);
        let wanted = Stream { session: 7, next: 7, frames: 6, bytes: 600, gaps: 1, lost: 2, duplicates: 2 };
        assert_eq!(stream, wanted);
    }

    /// A new session starts where it starts: nothing was lost.
    #[test]
    fn a_new_session_is_no_gap() {
        let mut stream = Stream::default();
        observe(&mut stream, 7, &[1, 2]);
        observe(&mut stream, 8, &[40, 41]);
        assert_eq!((stream.next, stream.gaps, stream.lost, stream.duplicates), (42, 0, 0, 0));
    }

    /// Keep-alives count, but have no place in the sequence; the largest number does not overflow.
    #[test]
    fn hellos_and_extremes() {
        let mut stream = Stream::default();
        stream.observe(Kind::Hello, 7, 9, 48);
        assert_eq!((stream.frames, stream.next), (1, 0));
        observe(&mut stream, 7, &[1, u64::MAX, 1]);
        assert_eq!(stream.next, 2);
    }

    /// The key of an IPv4 address is that of its mapped form, and no other address's.
    #[test]
    fn keys_of_virtual_addresses() {
        let v4: IpAddr = [10, 77, 0, 1].into();
        assert_eq!(vip_key(v4), vip_key("::ffff:10.77.0.1".parse().unwrap()));
        assert_ne!(vip_key(v4), vip_key("a4d:1::".parse().unwrap()));
    }

    /// Every reason has its own place behind the named counters.
    #[test]
    fn rows_have_a_place_for_every_reason() {
        let last = DropReason::ALL.last().copied().map(refusal_index);
        assert_eq!(last, Some(COUNTERS - 1));
        assert_eq!(refusal_index(DropReason::ALL[0]), COUNT_REPLIES + 1);
    }
}
