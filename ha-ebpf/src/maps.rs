//! The maps: what the daemon configures, what the programs count, and the way adverts take to userspace.
//!
//! Legacy map definitions are enough: nothing here needs BTF, so the daemon need not parse the kernel's.

use crate::fence::Fence;
use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use ha_common::abi::{
    self, AdvertRecord, COUNT_PACKETS, CounterRow, FenceEntry, InterfaceEntry, KeyEntry, LinkEntry, MemberEntry,
    PathEntry, PeerEntry, SelfEntry, Stream, VipKey, refusal_index,
};
use ha_common::reason::DropReason;
use ha_common::wire::genuine::{self, SessionEntry};
use ha_common::wire::heartbeat::Heartbeat;
use ha_common::wire::siphash::Key;

/// UDP port of the sync socket; set at load time.
#[expect(unsafe_code, reason = "the loader finds globals by their symbol")]
#[unsafe(no_mangle)]
pub static SYNC_PORT: Global<u16> = Global::new(0);
/// This node's number, which frames name as their target; set at load time.
#[expect(unsafe_code, reason = "the loader finds globals by their symbol")]
#[unsafe(no_mangle)]
pub static SYNC_NODE: Global<u8> = Global::new(0);

/// 1 when heartbeats are answered and taken; set at load time, as the others of this name.
#[expect(unsafe_code, reason = "the loader finds globals by their symbol")]
#[unsafe(no_mangle)]
pub static HEARTBEAT_ON: Global<u8> = Global::new(0);
/// This node's number, and the peer's.
#[expect(unsafe_code, reason = "the loader finds globals by their symbol")]
#[unsafe(no_mangle)]
pub static HEARTBEAT_NODE: Global<u8> = Global::new(0);
#[expect(unsafe_code, reason = "the loader finds globals by their symbol")]
#[unsafe(no_mangle)]
pub static HEARTBEAT_PEER: Global<u8> = Global::new(0);
/// 1 when requests for virtual addresses need a lease; set at load time.
#[expect(unsafe_code, reason = "the loader finds globals by their symbol")]
#[unsafe(no_mangle)]
pub static GATE_ON: Global<u8> = Global::new(0);

/// By interface index, below [`abi::IFINDEX_DIRECT_MAX`].
#[map]
static INTERFACES: Array<InterfaceEntry> = Array::with_max_entries(abi::IFINDEX_DIRECT_MAX, 0);
/// By interface index, the others.
#[map]
static INTERFACES_HIGH: HashMap<u32, InterfaceEntry> = HashMap::with_max_entries(abi::INTERFACES_MAX, 0);
/// By [`abi::member_index`]; the daemon shrinks it to the interfaces it has.
#[map]
static MEMBERS: Array<MemberEntry> = Array::with_max_entries(abi::INTERFACES_MAX * abi::VHIDS_PER_INTERFACE, 0);
/// By link.
#[map]
static LINKS: Array<LinkEntry> = Array::with_max_entries(abi::LINKS_MAX, 0);
/// By [`abi::peer_index`].
#[map]
static PEERS: Array<PeerEntry> = Array::with_max_entries(abi::LINKS_MAX * abi::PEERS_MAX, 0);
/// By epoch: the secrets that are valid. The daemon changes it while the programs run.
#[map]
static KEYS: Array<KeyEntry> = Array::with_max_entries(abi::EPOCHS, 0);
/// By node number: what the sync loop has told of the peers' sessions.
#[map]
static SESSIONS: Array<SessionEntry> = Array::with_max_entries(abi::PEERS_MAX, 0);
/// By bucket of [`genuine`]: when it will be full again. Not per CPU: what two queues let through together is counted once
/// or twice, and bounded all the same.
#[map]
static HELLOS: Array<u64> = Array::with_max_entries(genuine::HELLO_BUCKETS, 0);
/// By [`abi::stream_index`]. Not per CPU: one peer's frames are one UDP flow on each link, which one receive queue
/// gets; what comes over a second link counts as a duplicate.
#[map]
static STREAMS: Array<Stream> = Array::with_max_entries(abi::PEERS_MAX * abi::STREAMS_PER_PEER, 0);
/// By slot; the daemon shrinks it.
#[map]
static INTERFACE_COUNTERS: PerCpuArray<CounterRow> = PerCpuArray::with_max_entries(abi::INTERFACES_MAX, 0);
/// By member; the daemon shrinks it.
#[map]
static MEMBER_COUNTERS: PerCpuArray<CounterRow> = PerCpuArray::with_max_entries(abi::MEMBERS_MAX, 0);
/// The one entry that the controller replaces. Outlives the process, as does [`FENCE`].
#[map]
static SELF: Array<SelfEntry> = Array::with_max_entries(1, 0);
/// The one entry that only the programs change.
#[map]
static FENCE: Array<FenceEntry> = Array::with_max_entries(1, 0);
/// By path.
#[map]
static PATHS: Array<PathEntry> = Array::with_max_entries(abi::PATHS_MAX, 0);
/// The virtual addresses; the value says nothing.
#[map]
static VIPS: HashMap<VipKey, u8> = HashMap::with_max_entries(abi::VIPS_MAX, 0);
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

/// The link with this number.
#[inline(always)]
pub fn link(number: u16) -> Option<&'static LinkEntry> {
    LINKS.get(u32::from(number))
}

/// The configured peer with this number, as it is on a link.
#[inline(always)]
pub fn peer(link: u16, sender: u8) -> Option<&'static PeerEntry> {
    PEERS.get(abi::peer_index(link, sender)).filter(|entry| entry.family != 0)
}

/// The stamps' key of that epoch, if its secret is valid.
#[inline(always)]
pub fn stamp_key(epoch: u8) -> Option<Key> {
    KEYS.get(u32::from(epoch)).filter(|entry| entry.held != 0).map(|entry| entry.stamp)
}

/// What is known of the session of the peer with this number.
#[inline(always)]
pub fn session(sender: u8) -> Option<&'static SessionEntry> {
    SESSIONS.get(u32::from(sender))
}

/// Whether one more hello may pass by this bucket.
#[inline(always)]
#[expect(unsafe_code, reason = "map values are only reachable by pointer")]
pub fn take_turn(bucket: u32, now_ns: u64) -> bool {
    let Some(full_at) = HELLOS.get_ptr_mut(bucket) else { return true };
    // SAFETY: map values live as long as the program and are aligned to 8 bytes.
    let full_at = unsafe { &mut *full_at };
    let Some(next) = genuine::next_turn(*full_at, now_ns) else { return false };
    *full_at = next;
    true
}

/// The heartbeats' key of that epoch, if its secret is valid.
#[inline(always)]
pub fn heartbeat_key(epoch: u8) -> Option<Key> {
    KEYS.get(u32::from(epoch)).filter(|entry| entry.held != 0).map(|entry| entry.heartbeat)
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

/// What this node is. Read against the order in which the controller writes: who sees a new state sees its lease.
#[inline(always)]
#[expect(unsafe_code, reason = "map values are only reachable by pointer")]
pub fn own() -> Option<SelfEntry> {
    let own = SELF.get_ptr(0)?;
    // SAFETY, for the five reads: a map value lives as long as the program and is aligned to 8 bytes. The controller may
    // replace it meanwhile, word by word, which is why each is read once and in this order.
    let state = unsafe { (&raw const (*own).state).read_volatile() };
    let beat_ns = unsafe { (&raw const (*own).beat_ns).read_volatile() };
    let session = unsafe { (&raw const (*own).session).read_volatile() };
    let term = unsafe { (&raw const (*own).term).read_volatile() };
    let lease_until_ns = unsafe { (&raw const (*own).lease_until_ns).read_volatile() };
    Some(SelfEntry { lease_until_ns, term, session, beat_ns, state })
}

/// True for a virtual address of the group.
#[inline(always)]
#[expect(unsafe_code, reason = "aya: the entry may be removed while it is read")]
pub fn is_vip(key: &VipKey) -> bool {
    // SAFETY: nothing of the entry is read.
    unsafe { VIPS.get(key) }.is_some()
}

/// What is closed for good.
#[inline(always)]
pub fn fence() -> Option<Fence> {
    FENCE.get_ptr_mut(0).map(Fence::at)
}

/// The entry of a path.
#[inline(always)]
pub fn path(number: u8) -> Option<Path> {
    PATHS.get_ptr_mut(u32::from(number)).map(Path)
}

/// An entry of [`PATHS`].
#[derive(Clone, Copy)]
pub struct Path(*mut PathEntry);

impl Path {
    /// Takes an answer down; false when it is not newer than the last.
    #[inline(always)]
    #[expect(unsafe_code, reason = "map values are only reachable by pointer")]
    pub fn take(self, reply: &Heartbeat, now_ns: u64, mac: u64) -> bool {
        // SAFETY: map values live as long as the program and are aligned to 8 bytes. Two queues that take answers of
        // one path at the same time may mix them: then the entry does not add up, and the controller waits for the next.
        let entry = unsafe { &mut *self.0 };
        if reply.sequence <= entry.sequence {
            return false;
        }
        let taken = PathEntry {
            sequence: reply.sequence,
            received_ns: now_ns,
            rtt_ns: now_ns.saturating_sub(reply.sent_ns),
            session: reply.other_session,
            term: reply.term,
            state: reply.standing.pack(),
            ages: u64::from(reply.beat_age_us) << 32 | u64::from(reply.lease_left_us),
            mac,
            replies: entry.replies.wrapping_add(1),
            check: 0,
        };
        *entry = PathEntry { check: taken.sum(), ..taken };
        true
    }
}

/// Room for one advert in the ring; `None` when the daemon has not emptied it.
#[inline(always)]
pub fn reserve_advert() -> Option<aya_ebpf::maps::ring_buf::RingBufEntry<AdvertRecord>> {
    ADVERTS.reserve::<AdvertRecord>(0)
}
