//! The maps: what the daemon configures, what the programs count, and the way adverts take to userspace.
//!
//! Legacy map definitions are enough: nothing here needs BTF, so the daemon need not parse the kernel's.

use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use ha_common::abi::{
    self, AdvertRecord, COUNT_PACKETS, CounterRow, InterfaceEntry, MemberEntry, PeerEntry, Stream, refusal_index,
};
use ha_common::reason::DropReason;
use ha_common::wire::ip::AddressWords;

/// UDP port of the sync socket; set at load time.
#[expect(unsafe_code, reason = "the loader finds globals by their symbol")]
#[unsafe(no_mangle)]
pub static SYNC_PORT: Global<u16> = Global::new(0);
/// This node's sync address; set at load time.
#[expect(unsafe_code, reason = "the loader finds globals by their symbol")]
#[unsafe(no_mangle)]
pub static SYNC_ADDRESS: Global<AddressWords> = Global::new([0; 8]);
/// 4 or 6, the family of [`SYNC_ADDRESS`]; zero when there is no sync link.
#[expect(unsafe_code, reason = "the loader finds globals by their symbol")]
#[unsafe(no_mangle)]
pub static SYNC_FAMILY: Global<u8> = Global::new(0);

/// By interface index, below [`abi::IFINDEX_DIRECT_MAX`].
#[map]
static INTERFACES: Array<InterfaceEntry> = Array::with_max_entries(abi::IFINDEX_DIRECT_MAX, 0);
/// By interface index, the others.
#[map]
static INTERFACES_HIGH: HashMap<u32, InterfaceEntry> = HashMap::with_max_entries(abi::INTERFACES_MAX, 0);
/// By [`abi::member_index`]; the daemon shrinks it to the interfaces it has.
#[map]
static MEMBERS: Array<MemberEntry> = Array::with_max_entries(abi::INTERFACES_MAX * abi::VHIDS_PER_INTERFACE, 0);
/// By sender.
#[map]
static PEERS: Array<PeerEntry> = Array::with_max_entries(abi::PEERS_MAX, 0);
/// By [`abi::stream_index`]. Not per CPU: one peer's frames are one UDP flow, which one receive queue gets.
#[map]
static STREAMS: Array<Stream> = Array::with_max_entries(abi::PEERS_MAX * abi::STREAMS_PER_PEER, 0);
/// By slot; the daemon shrinks it.
#[map]
static INTERFACE_COUNTERS: PerCpuArray<CounterRow> = PerCpuArray::with_max_entries(abi::INTERFACES_MAX, 0);
/// By member; the daemon shrinks it.
#[map]
static MEMBER_COUNTERS: PerCpuArray<CounterRow> = PerCpuArray::with_max_entries(abi::MEMBERS_MAX, 0);
#[map]
static ADVERTS: RingBuf = RingBuf::with_byte_size(abi::RING_BYTES, 0);

/// What the interface with this index is for; `None` when it is none of ours.
#[inline(always)]
pub fn interface(ifindex: u32) -> Option<InterfaceEntry> {
    let entry = match INTERFACES.get(ifindex) {
        Some(entry) => *entry,
        None => high_interface(ifindex)?,
    };
    if entry.roles == 0 { None } else { Some(entry) }
}

#[inline(always)]
#[expect(unsafe_code, reason = "aya: the entry may be replaced while it is read")]
fn high_interface(ifindex: u32) -> Option<InterfaceEntry> {
    // SAFETY: the entry is four bytes, copied at once, and written before the program is attached.
    unsafe { INTERFACES_HIGH.get(ifindex) }.copied()
}

/// The row of the member that this VHID is on the interface; `None` when it is unknown.
#[inline(always)]
pub fn member(slot: u16, vhid: u8) -> Option<u16> {
    let entry = MEMBERS.get(abi::member_index(slot, vhid))?;
    if entry.known == 0 { None } else { Some(entry.member) }
}

/// The configured peer with this number.
#[inline(always)]
pub fn peer(sender: u8) -> Option<&'static PeerEntry> {
    PEERS.get(u32::from(sender)).filter(|entry| entry.family != 0)
}

/// What was received in one stream of a peer.
#[inline(always)]
#[expect(unsafe_code, reason = "map values are only reachable by pointer")]
pub fn stream(index: u32) -> Option<&'static mut Stream> {
    let stream = STREAMS.get_ptr_mut(index)?;
    // SAFETY: map values live as long as the program and are aligned to 8 bytes. A second queue that counts the
    // same stream at the same time can lose an increment, not more.
    Some(unsafe { &mut *stream })
}

/// The counters of one interface or one member on this CPU.
#[derive(Clone, Copy)]
pub struct Row(*mut CounterRow);

impl Row {
    #[inline(always)]
    pub fn of_interface(slot: u16) -> Option<Self> {
        INTERFACE_COUNTERS.get_ptr_mut(u32::from(slot)).map(Self)
    }

    #[inline(always)]
    pub fn of_member(member: u16) -> Option<Self> {
        MEMBER_COUNTERS.get_ptr_mut(u32::from(member)).map(Self)
    }

    #[inline(always)]
    pub fn count_packet(self) {
        self.count(COUNT_PACKETS);
    }

    #[inline(always)]
    pub fn count_refusal(self, reason: DropReason) {
        self.count(refusal_index(reason));
    }

    #[inline(always)]
    #[expect(unsafe_code, reason = "map values are only reachable by pointer")]
    pub fn count(self, at: usize) {
        if at < abi::COUNTERS {
            // SAFETY: the row has COUNTERS entries and belongs to this CPU; XDP programs do not interrupt one another.
            unsafe { *self.0.cast::<u64>().add(at) += 1 };
        }
    }
}

/// Room for one advert in the ring; `None` when the daemon has not emptied it.
#[inline(always)]
pub fn reserve_advert() -> Option<aya_ebpf::maps::ring_buf::RingBufEntry<AdvertRecord>> {
    ADVERTS.reserve::<AdvertRecord>(0)
}
