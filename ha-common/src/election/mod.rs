//! CARP election of a group: which node holds the virtual addresses.
//!
//! [`Election`] is a pure state machine with the four functions of the core contract: `new`, `handle`,
//! `poll_at`, `stats`. Time is an argument, effects are returned as [`Action`]s.
//!
//! The group is the unit: one role for all members, in [`machine`]. What concerns one VHID by itself (digest,
//! counter, who is heard) is the member's; what moves the group (silence, preemption, claim, links) is the group's.

pub mod auth;
pub mod compare;
pub mod timers;

mod announce;
mod cause;
mod claim;
mod counter;
mod hand_over;
mod lease;
mod machine;
mod prng;

pub use cause::{Cause, Wait};
pub use hand_over::{HandOver, HandOverEnd, HandOverPhase, Refusal};
pub use lease::{Lease, LeaseEvent, LeaseOrder};
pub use machine::Election;

use crate::reason::DropReason;
use crate::role::{NodeId, Role, SyncHealth};
use crate::sight::Sight;
use crate::time::Instant;
use crate::wire::carp::Advert;
use crate::wire::heartbeat::Standing;
use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Position of a member (one VHID on one interface) in [`Config::members`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u8);

/// Position of an interface in the resolved configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId(pub u8);

/// Everything the election needs to know at start.
#[derive(Clone, Debug)]
pub struct Config {
    pub node: NodeId,
    /// The other node of a cluster of two; `None` in larger ones. A tie between the two goes to the lower id, so that
    /// all members agree; without it (or with a foreign peer) a tie goes by address, like ucarp's.
    pub peer_node: Option<NodeId>,
    /// Seconds, 0..=254; 255 is the bow-out.
    pub advbase: u8,
    /// 1/256 s, 0..=254.
    pub advskew: u8,
    /// Master-down time is `advbase * dead_ratio + advskew / 256` seconds (see [`timers::master_down_time`]).
    pub dead_ratio: u8,
    /// Take over from a live master whose interval is longer.
    pub preempt: bool,
    /// Gratuitous ARP / unsolicited NA after a takeover: offsets from the takeover.
    pub announce_burst: Vec<Duration>,
    /// Repeat the announcement while master; `None` never.
    pub announce_refresh: Option<Duration>,
    pub members: Vec<Member>,
    /// The term of a live lease of this node, found at start: go on as its master. The loop renews the lease from its
    /// first tick on, as [`Stats::lease`] says.
    pub resume: Option<u64>,
    /// Under maintenance since before this start.
    pub maintenance: bool,
    /// The highest term found at start, in the inherited entry and fence; 0 when there is none.
    pub term_seen: u64,
    /// How long a better node is BACKUP before it asks for the group.
    pub preempt_delay: Duration,
    pub times: PairTimes,
    pub damping: Damping,
    pub foreign_masters: ForeignMasters,
}

/// What adverts of a master that is not the peer mean, while the peer's heartbeats are heard or their silence is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForeignMasters {
    /// A better one is obeyed, as CARP wants it: there may be a third router.
    #[default]
    Follow,
    /// They are refused: nobody but the two nodes takes part, and an advert can be repeated by anybody with a better priority.
    Refuse,
}

/// How long things last between two nodes that hear each other's heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairTimes {
    /// Length of a lease while the peer could take over by heartbeats.
    pub lease_short: Duration,
    /// Length of a lease otherwise; shorter than any master-down time.
    pub lease_long: Duration,
    /// How long the old master keeps addresses and routes after a hand-over, for packets under way to it.
    pub linger: Duration,
    /// How long a hand-over waits for the last changes of flows to be acknowledged.
    pub drain: Duration,
    /// How long an offer stands before it is withdrawn.
    pub confirm: Duration,
}

impl Default for PairTimes {
    fn default() -> Self {
        Self {
            lease_short: Duration::from_millis(40),
            lease_long: Duration::from_millis(1500),
            linger: Duration::from_millis(100),
            drain: Duration::from_millis(500),
            confirm: Duration::from_secs(1),
        }
    }
}

/// When a node that loses the group again and again by its own fault ranks behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damping {
    /// So many losses within [`Self::window`]; 0: never.
    pub losses: u32,
    pub window: Duration,
    /// How long it ranks behind the first time; each time after that twice as long.
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Damping {
    fn default() -> Self {
        Self {
            losses: 3,
            window: Duration::from_secs(60),
            first: Duration::from_secs(30),
            longest: Duration::from_secs(300),
        }
    }
}

/// One VHID on one interface.
#[derive(Clone, Debug)]
pub struct Member {
    pub vhid: u8,
    pub interface: InterfaceId,
    /// The virtual addresses, any order; the HMAC sorts them (IPv4 ascending, then IPv6 ascending).
    pub addresses: Vec<IpAddr>,
    /// At most 19 bytes (`carp-wire` section 4).
    pub password: crate::secret::Secret,
    pub transport: Transport,
}

/// Where adverts go and from where they are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Multicast groups per family (defaults 224.0.0.18 and ff02::12).
    Multicast { v4: Ipv4Addr, v6: Ipv6Addr },
    /// Unicast to and from exactly these peers.
    Unicast(Vec<IpAddr>),
}

/// What an interface is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Administratively up and with carrier.
    pub up: bool,
    /// The node's own (not virtual) first address: source of adverts and tie-break.
    pub source_v4: Option<Ipv4Addr>,
    /// The link-local address: source of IPv6 adverts.
    pub source_v6: Option<Ipv6Addr>,
}

/// A well-formed advert (all checks of the shared parser passed) for a VHID known on its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedAdvert {
    pub member: MemberId,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub advert: Advert,
    /// When the kernel saw it.
    pub received: Instant,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// `poll_at` has come, or a spurious wake-up.
    Timer,
    Advert(&'a ReceivedAdvert),
    Link {
        interface: InterfaceId,
        state: LinkState,
    },
    Sync(SyncHealth),
    /// What is known of the peer by heartbeats. Wanted at every tick in which it was heard: whatever is decided from it
    /// What is known of the peer by heartbeats, with the newest ages: wanted at every tick, because words that were heard
    /// long ago are not acted upon.
    Peer(Sight),
    Lease(LeaseEvent),
    /// Sum of the demotions of this node (tracked interfaces, scripts, …); zero is healthy.
    Demotion(u16),
    Command(Command),
}

/// What the operator or the process wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Hand over to a peer that is ready, else say goodbye; release everything, stay silent afterwards. It is done when
    /// [`Election::is_stopped`].
    Stop,
    /// MASTER: give the group to the peer; ends with [`Action::HandOverEnded`]. `force`: also to a peer that is not
    /// ready, and to an unknown one by a goodbye (ucarp's SIGUSR2).
    HandOver {
        force: bool,
    },
    /// BACKUP: get the group from the peer; ends with [`Action::HandOverEnded`].
    Want,
    Maintenance(bool),
}

/// What must be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send one advert (checksum and framing are the edge's; digest and counter are final).
    SendAdvert { member: MemberId, source: IpAddr, destination: IpAddr, advert: Advert },
    /// Bring the addresses and routes of the whole group into this state, in one netlink batch.
    Vips(VipState),
    /// Gratuitous ARP / unsolicited NA for all addresses of this member.
    Announce { member: MemberId },
    /// The role changed; always the first action of a transition.
    Transition(Transition),
    /// Right behind the transition, before anything that draws traffic or leaves it: the kernel must know first.
    Lease(LeaseOrder),
    /// What the operator asked for has come to an end.
    HandOverEnded(HandOverEnd),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipState {
    Present,
    Absent,
}

/// One role change with its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub at: Instant,
    pub from: Role,
    pub to: Role,
    pub cause: Cause,
    /// When the old master was last heard (takeovers only).
    pub last_heard: Option<Instant>,
    /// Of a mastership that begins: its number, where both nodes count by heartbeats and the newer one's is higher. Else 0.
    pub term: u64,
}

/// Why a member keeps the whole node out of the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing is known of the interface yet.
    LinkUnknown,
    /// The interface is down, without carrier or missing.
    LinkDown,
    /// Adverts go out by IPv4, but the interface has no IPv4 address of its own.
    NoSourceV4,
    /// Adverts go out by IPv6, but the interface has no link-local address.
    NoSourceV6,
}

impl Fault {
    /// The snake-case name used in status, logs and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinkUnknown => "link_unknown",
            Self::LinkDown => "link_down",
            Self::NoSourceV4 => "no_source_v4",
            Self::NoSourceV6 => "no_source_v6",
        }
    }
}

/// Counters and present state of the election.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub role: Role,
    pub transitions: u64,
    /// The same by cause, in the order of [`Cause::ALL`].
    pub transitions_by_cause: [u64; Cause::COUNT],
    pub adverts_sent: u64,
    pub adverts_accepted: u64,
    /// Refusals decided here, by [`DropReason`] index, per member.
    pub refused: Vec<[u64; DropReason::COUNT]>,
    /// How often contact with another master began while this node was master.
    pub dual_master_contacts: u64,
    pub last_transition: Option<Transition>,
    /// Per member: the master heard last, and when. A goodbye is the last that is heard of a master.
    pub heard: Vec<Option<(IpAddr, Instant)>>,
    /// Per member: what keeps this node in [`Role::Fault`] (or [`Role::Init`]).
    pub faults: Vec<Option<Fault>>,
    /// Per member: past the master-down time, while BACKUP.
    pub silent: Vec<bool>,
    /// BACKUP, and some but not all members are silent: the nodes are cut off from each other on a part of their
    /// segments, or half of a foreign peer is dead and its other half cannot be outbid.
    pub partial_silence: bool,
    /// This node would preempt, but waits since then for its table to be in sync (at most 30 s).
    pub preempt_waiting_since: Option<Instant>,
    /// The operator's step-down suspends preemption until this node has been master or in fault again.
    pub preempt_suspended: bool,
    /// MASTER, and advertising 0/1 to take all members from a foreign peer that holds some.
    pub claiming: bool,
    pub claims: u64,
    /// MASTER: the lease to renew at every tick, at its length now.
    pub lease: Option<Lease>,
    /// The highest term known; the own one while MASTER.
    pub term: u64,
    /// What the peer is to know, for the node's entry; the gate is the edge's.
    pub standing: Standing,
    pub hand_over: Option<HandOver>,
    /// Why this node does not take the group, or does not give it away, though it should.
    pub wait: Option<Wait>,
    /// BACKUP after a hand-over: addresses and routes are kept for the packets under way until then.
    pub linger_until: Option<Instant>,
    /// Ranks behind until then, because it lost the group too often.
    pub damped_until: Option<Instant>,
    pub maintenance: bool,
    /// As last told by [`Input::Demotion`].
    pub demotion: u16,
    /// Hand-overs that ended, completed or not.
    pub hand_overs: u64,
    pub hand_overs_failed: u64,
    pub leases_lost: u64,
}
