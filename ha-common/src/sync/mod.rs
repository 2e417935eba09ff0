//! The sync engine: which flow changes go to the peer, and what of the peer's goes into the kernel.
//!
//! [`Engine`] is a pure state machine with the four functions of the core contract. It keeps a shadow
//! of the conntrack table, and per peer an outbox of dirty flows and an inbox of received frames.

mod answers;
mod bulk;
mod capabilities;
mod digest;
mod encode;
mod encode_extra;
mod engine;
mod entry;
mod expect;
mod extra;
mod fetch;
mod filling;
pub mod filter;
#[cfg(test)]
mod fixture;
pub mod flow;
mod frame_size;
#[cfg(test)]
mod given_tests;
mod health;
mod hearing;
mod inbox;
mod keepalive;
mod keys;
mod links;
mod local;
mod modes;
mod order;
mod outbox;
mod pace;
mod peer;
mod prove;
#[cfg(any(test, feature = "puppet"))]
pub mod puppet;
mod purge;
#[cfg(test)]
mod rare_tests;
mod recent;
mod reconcile;
mod refresh;
#[cfg(test)]
mod refused_tests;
mod relax;
mod remote;
mod retries;
mod rtt;
mod seal;
mod selection;
mod session;
mod stamp;
mod strays;
mod table;
mod ties;
mod window;

pub use capabilities::{Capabilities, VERSION, VERSION_MIN};
pub use engine::Engine;
pub use extra::{EXPECTATIONS_MAX, NAME_BYTES_MAX};
pub use keepalive::VISIT_MAX;
pub use links::{LINKS_MAX, LinkId, LinkSet, LinkStats, Sending};
pub use modes::Mode;
pub use order::is_tcp_set_back;
pub use seal::{heartbeat_key, stamp_key};
pub use selection::Standing;

use crate::reason::DropReason;
use crate::role::{NodeId, Role, SyncHealth};
use crate::secret::ClusterKey;
use core::time::Duration;
use flow::{Expectation, Flow, FlowKey};

/// Into how many buckets the flows of a node are divided for the proof that a peer holds them.
pub const DIGEST_BUCKETS: u32 = digest::BUCKETS as u32;

/// Position of a peer in [`Config::peers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerId(pub u8);

/// Everything the engine needs to know at start.
#[derive(Clone, Debug)]
pub struct Config {
    pub node: NodeId,
    /// True randomness, fresh at every start of the process and never stored: the security of the session
    /// keys rests on it.
    pub session: u64,
    pub nonce: [u8; 16],
    pub cluster: String,
    pub peers: Vec<NodeId>,
    /// The secrets that are valid, the newest last: at most [`crate::secret::KEYS_MAX`].
    pub keys: Vec<ClusterKey>,
    /// The protocol version to speak, [`VERSION_MIN`] to [`VERSION`], and what of it: [`Capabilities::ALL`].
    pub version: u32,
    pub capabilities: Capabilities,
    /// Largest UDP payload to build.
    pub frame_bytes_max: usize,
    /// Most flows remembered; further ones are counted and not replicated.
    pub flows_max: usize,
    /// Unacknowledged data frames per peer before the outbox waits.
    pub window_frames: usize,
    /// How many links there are to each peer, 1 to [`LINKS_MAX`], and how they are used.
    pub links: u8,
    pub sending: Sending,
    pub hello_interval: Duration,
    /// Silence after which a peer is gone.
    pub peer_timeout: Duration,
    /// The same on all nodes.
    pub mode: Mode,
    /// ALARM: every flow is sent again within this time.
    pub refresh_time: Duration,
    /// ALARM: a living peer's flow that was not named for so long is deleted.
    pub cache_timeout: Duration,
    /// To this the timeouts of flows are cut that may be left over: whole seconds.
    pub purge_timeout: Duration,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    Timer,
    /// A UDP payload from the sync socket of a link.
    Datagram {
        link: LinkId,
        bytes: &'a [u8],
    },
    /// The kernel created or changed a flow (a conntrack event not caused by this daemon).
    Changed(&'a Flow),
    /// The kernel deleted a flow (not by this daemon's request). `id` is the kernel's CTA_ID.
    Destroyed {
        key: &'a FlowKey,
        id: u32,
    },
    /// A helper of the kernel waits for a connection that the flow `master` has announced (not by this daemon's request).
    Expected {
        master: &'a FlowKey,
        expectation: &'a Expectation,
    },
    /// The expectation is fulfilled, over or withdrawn.
    ExpectationGone {
        master: &'a FlowKey,
        expectation: &'a Expectation,
    },
    /// The kernel's answer to [`Action::Fetch`]; `None`: it has no such entry.
    Fetched {
        key: &'a FlowKey,
        flow: Option<&'a Flow>,
    },
    /// Events were lost (ENOBUFS): what the shadow holds may be wrong.
    EventsLost,
    /// A dump requested by [`Action::Dump`] begins, goes on, has ended (`complete` false: it failed).
    DumpBegin,
    Dumped(&'a Flow),
    /// Expectations are dumped after all flows.
    DumpedExpectation {
        master: &'a FlowKey,
        expectation: &'a Expectation,
    },
    DumpEnd {
        complete: bool,
    },
    /// The kernel's answer to a write; only failures need be reported.
    WriteFailed {
        key: &'a FlowKey,
        write: WriteKind,
        errno: i32,
    },
    Role(Role),
    /// The number of the mastership that the next [`Input::Role`] begins, higher than those of all masterships before; 0: none such is
    /// known.
    Term(u64),
    /// The kernel says that a link has or has not a carrier; at first each has.
    Link {
        link: LinkId,
        up: bool,
    },
    /// The largest UDP payload that the links carry has changed, as [`Config::frame_bytes_max`].
    FrameBytes(usize),
    /// Tell by [`SyncHealth::flushed`] as soon as everything that changed before now has reached the peers.
    Flush,
    /// Ask the peers for their whole table, and send ours.
    Resync,
    /// This flow of this node is not to be replicated any more; the kernel keeps it.
    Withdraw {
        key: &'a FlowKey,
    },
    /// The filter is another one: what it refuses is withdrawn, and what is replicated only now is looked for.
    Retain(&'a filter::Filter),
    /// The kernel has flows of which the events say too little, or writes of before will be done after what packets do: dump the
    /// table, if this node is master.
    Reread,
    /// These secrets are valid from now on, as [`Config::keys`]. See [`Engine::peer_without`].
    Keys(&'a [ClusterKey]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteKind {
    Create,
    Update,
    Delete,
    Relax,
    Expect,
}

/// What must be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send this datagram to the peer's sync address on each of these links.
    Send { peer: PeerId, links: LinkSet, datagram: Vec<u8> },
    /// Create the flow in the kernel (it is not there as far as we know; EEXIST: replace it).
    Create(Flow),
    /// Update status, timeout, mark and protocol state of an existing flow (ENOENT: tell, and create nothing).
    Update(Flow),
    /// Delete the flow. `id` zero: unknown.
    Delete { key: FlowKey, id: u32 },
    /// Open the windows of a TCP entry, and leave everything else as the kernel has it (ENOENT: nothing).
    Relax(FlowKey),
    /// Make an expectation of the flow `master`, after that flow.
    Expect { master: FlowKey, expectation: Box<Expectation> },
    /// Delete an expectation of the flow `master` (ENOENT: it has gone by itself).
    Unexpect { master: FlowKey, expectation: Box<Expectation> },
    /// Read the entry from the kernel and answer by [`Input::Fetched`]: what changes in it makes no event.
    Fetch(FlowKey),
    /// Dump the whole table and feed it back.
    Dump,
    /// The health changed (role and lag changes are coalesced).
    Health(SyncHealth),
    /// Something an operator wants to read in the log.
    Event(Event),
}

/// Notable happenings, for the log and `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    PeerUp {
        peer: PeerId,
        session: u64,
    },
    PeerDown {
        peer: PeerId,
        silent: Duration,
    },
    /// What goes to the peer takes another link from now on.
    LinkChanged {
        peer: PeerId,
        from: LinkId,
        to: LinkId,
    },
    /// What goes to the peer is keyed with the secret of this epoch from now on.
    KeyChanged {
        peer: PeerId,
        from: u8,
        to: u8,
    },
    /// The peer replicates in another mode than this node: each does what its own mode wants.
    ModeDiffers {
        peer: PeerId,
        mode: Mode,
    },
    /// The peer holds another secret of an epoch that is held here as well: it cannot be used.
    KeyConflict {
        peer: PeerId,
        epoch: u8,
    },
    BulkSent {
        peer: PeerId,
        flows: u64,
    },
    BulkReceived {
        peer: PeerId,
        flows: u64,
        purged: u64,
    },
    /// A digest has shown that the peer's copies of this node's flows differ in so many of 4096 buckets: they are sent again.
    TablesDiffer {
        peer: PeerId,
        buckets: u32,
    },
    /// The flows of the buckets that differed were sent, or received, again.
    RepairSent {
        peer: PeerId,
        flows: u64,
    },
    RepairReceived {
        peer: PeerId,
        flows: u64,
        purged: u64,
    },
    EventsLost,
    TableFull,
}

/// Counters of one peer.
#[derive(Clone, Debug, Default)]
pub struct PeerStats {
    pub alive: bool,
    pub session: u64,
    /// Its role, as its newest hello said, and the number of that hello in its session.
    pub role: Role,
    pub hello_sequence: u64,
    /// The protocol version of the peer, what it understands, and its mode, if it tells; zero and nothing before its
    /// first hello.
    pub version: u32,
    pub capabilities: Capabilities,
    pub mode: Option<Mode>,
    /// The epoch of the secret that frames to the peer are keyed with.
    pub key_epoch: u8,
    /// The epochs that it accepts, as its last hello said; none before the first.
    pub key_epochs_accepted: Vec<u8>,
    /// Last data sequence sent / acknowledged cumulatively by the peer / received in order.
    pub sent_sequence: u64,
    pub acked_sequence: u64,
    pub received_sequence: u64,
    pub frames_sent: u64,
    pub frames_received: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub frames_lost: u64,
    pub flows_sent: u64,
    pub flows_received: u64,
    /// Dirty flows not yet sent, and sent but not yet acknowledged.
    pub backlog_flows: u64,
    pub in_flight_flows: u64,
    /// Both tables were exchanged completely in this session.
    pub bulk_sent: bool,
    pub bulk_received: bool,
    /// Slots of this node's table that the transfer to the peer has still to look at.
    pub bulk_left: u64,
    /// Smoothed round trip of a data frame and its acknowledgement.
    pub rtt: Duration,
    /// By [`LinkId`].
    pub links: Vec<LinkStats>,
    /// How often data took another link than before.
    pub link_failovers: u64,
    /// Size of the next data frame, bytes.
    pub frame_bytes: usize,
    /// How long ago the digest was sent by which the peer was last found to hold all of this node's flows.
    pub proven: Option<Duration>,
    /// Of [`DIGEST_BUCKETS`] buckets of flows, those in which the peer's copies are known to differ.
    pub differing_buckets: u32,
    /// Digests that the peer found equal, and different; and those it could not judge because frames were under way.
    pub digests_equal: u64,
    pub digests_different: u64,
    pub digests_unknown: u64,
    /// Repairs of differing buckets.
    pub repairs: u64,
}

/// Counters of the engine.
#[derive(Clone, Debug)]
pub struct Stats {
    pub mode: Mode,
    /// The epochs of the secrets that are valid, the newest last.
    pub key_epochs: Vec<u8>,
    pub health: SyncHealth,
    pub flows: u64,
    pub flows_local: u64,
    /// Found in the kernel at the start and claimed by nobody yet.
    pub flows_found: u64,
    pub flows_peer: u64,
    /// Of all flows, those that this node's kernel lacks at present: it refused them, or their master is awaited.
    pub flows_absent: u64,
    /// Removals remembered until every peer knows of them.
    pub tombstones: u64,
    pub flows_refused_full: u64,
    /// Peer state older than what this node has: ignored.
    pub stale_ignored: u64,
    pub refused: [u64; DropReason::COUNT],
    pub events_lost: u64,
    /// Dumps of the kernel's table asked for.
    pub dumps: u64,
    /// Copies of a peer's flows that vanished here and were created again.
    pub restored: u64,
    /// Timeouts of a peer's flows written again to keep them alive.
    pub refreshed: u64,
    /// Flows that nobody named, whose timeout was cut.
    pub cut: u64,
    pub writes_failed: u64,
    /// Writes given up: refused for good, or too often.
    pub writes_abandoned: u64,
    /// Flows of this node that the filter does not accept any more: taken back from the peers.
    pub withdrawn: u64,
    /// Older TCP states that a peer told of flows whose packets pass here.
    pub regressions_ignored: u64,
    /// Related flows created without their master, because it is not here.
    pub created_without_master: u64,
    /// Expectations beyond [`EXPECTATIONS_MAX`] of one flow.
    pub expectations_refused: u64,
    /// Expectations of flows that are not replicated: they were dropped while they waited for their flow, or listed without it.
    pub expectations_foreign: u64,
    /// Entries read again because their sequence adjustment makes no event.
    pub fetched: u64,
    pub peers: Vec<PeerStats>,
}
