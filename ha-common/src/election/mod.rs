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
mod claim;
mod counter;
mod machine;
mod prng;

pub use machine::Election;

use crate::reason::DropReason;
use crate::role::{NodeId, Role, SyncHealth};
use crate::time::Instant;
use crate::wire::carp::Advert;
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
    Command(Command),
}

/// What the operator or the process wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Say goodbye, release everything, stay silent afterwards.
    Stop,
    /// Give the mastership to whoever takes it (ucarp's SIGUSR2, but with a goodbye).
    StepDown,
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
}

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why the role changed; the name is a metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $variant,)* }
        impl Cause {
            /// Every cause, in the order of the counters in [`Stats::transitions_by_cause`].
            pub const ALL: &'static [Cause] = &[$(Cause::$variant,)*];
            /// How many causes exist.
            pub const COUNT: usize = Self::ALL.len();
            /// The snake-case name used as metric label and in logs.
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
        }
    };
}

causes! {
    /// The first decision after start.
    Start = "start",
    /// No advert within the master-down time.
    MasterDown = "master_down",
    /// The master said goodbye (advbase 255, or an interval longer than our master-down time).
    Goodbye = "goodbye",
    /// The live master's interval is longer than ours and `preempt` is on.
    Preempt = "preempt",
    /// Another master has a shorter interval.
    BetterMaster = "better_master",
    /// Another master with equal interval wins the tie-break.
    TieBreak = "tie_break",
    /// A member's interface went down or vanished.
    LinkDown = "link_down",
    /// All members' interfaces are back.
    LinkUp = "link_up",
    /// Operator's step-down.
    StepDown = "step_down",
    /// Clean stop.
    Stop = "stop",
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
}
