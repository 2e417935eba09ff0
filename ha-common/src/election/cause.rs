//! Why the role changes, and why it does not.

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why the role changed; the name is a metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $variant,)* }
        impl Cause {
            /// Every cause, in the order of the counters in [`super::Stats::transitions_by_cause`].
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
    /// The better node takes over from a living master: alone, or by a hand-over that it asked for.
    Preempt = "preempt",
    /// Another master has a shorter interval.
    BetterMaster = "better_master",
    /// Another master with equal interval wins the tie-break.
    TieBreak = "tie_break",
    /// A member's interface went down or vanished.
    LinkDown = "link_down",
    /// All members' interfaces are back.
    LinkUp = "link_up",
    /// Operator's forced step-down.
    StepDown = "step_down",
    /// Clean stop.
    Stop = "stop",
    /// The serving peer is silent on every path.
    PeerDead = "peer_dead",
    /// The peer's kernel says that the peer's lease is over.
    LeaseLapsed = "lease_lapsed",
    /// This node's own lease is over: its controller did not run, or its term was closed.
    LeaseLost = "lease_lost",
    /// Nobody masters, and this node is the better one that can.
    NoMaster = "no_master",
    /// The peer is master of a newer term.
    Superseded = "superseded",
    /// The group was handed over by an operator's wish.
    HandOver = "hand_over",
    /// A live lease was found at start.
    Resumed = "resumed",
    /// The group was handed over because this node is under maintenance.
    Maintenance = "maintenance",
    /// The group was handed over because this node is demoted more than its peer.
    Demoted = "demoted",
}

/// Why this node does not take the group, or does not give it away, though it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// BACKUP and better, but the peer's flows are not all here.
    NotInSync,
    /// BACKUP and better, but not for long enough.
    PreemptDelay,
    /// BACKUP and better, but it lost the group too often lately.
    Damped,
    /// Under maintenance: takes nothing; MASTER: gives the group away as soon as somebody is ready.
    Maintenance,
    /// An operator moved the group: a better rank alone does not move it back.
    Suspended,
    /// MASTER that is to give the group away: the peer cannot take it.
    PeerNotReady,
    /// MASTER that is to give the group away: the peer is not heard.
    PeerUnknown,
    /// Nobody masters: just started, lost the lease or was not running; old words may be under way.
    Quarantine,
    /// Nobody masters: the peer was promised the group, or ranks better and is about to take it.
    PeerFirst,
    /// Nobody masters: the peer has been told that this node takes over, and has not answered yet.
    Announced,
}

impl Wait {
    /// The snake-case name used in status, logs and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotInSync => "not_in_sync",
            Self::PreemptDelay => "preempt_delay",
            Self::Damped => "damped",
            Self::Maintenance => "maintenance",
            Self::Suspended => "suspended",
            Self::PeerNotReady => "peer_not_ready",
            Self::PeerUnknown => "peer_unknown",
            Self::Quarantine => "quarantine",
            Self::PeerFirst => "peer_first",
            Self::Announced => "announced",
        }
    }
}
