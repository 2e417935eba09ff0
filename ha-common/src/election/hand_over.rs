//! Words about a hand-over: the new master is up before the old one lets go.

use super::Cause;
use crate::time::Instant;

/// A hand-over under way, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    pub since: Instant,
    pub phase: HandOverPhase,
    /// Why this node gives the group away or wants it.
    pub cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOverPhase {
    /// MASTER: the peer does not hold the newest flows yet. The sync engine is to be asked to flush; the hand-over goes on
    /// when [`crate::role::SyncHealth::flushed`] is not before [`HandOver::since`].
    Draining,
    /// MASTER: the peer may take the group, and has not confirmed that it did.
    Offered,
    /// BACKUP: the peer was asked for the group.
    Asked,
}

impl HandOverPhase {
    /// The snake-case name used in status and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Offered => "offered",
            Self::Asked => "asked",
        }
    }
}

/// How an operator's wish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOverEnd {
    /// The other node is master (or, for [`super::Command::Want`], this one), and confirmed it.
    Done,
    Refused(Refusal),
    /// Nobody took the group, or nobody gave it, within the time; everything is as it was.
    TimedOut,
}

/// Why a hand-over does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The peer is not heard by heartbeats.
    PeerUnknown,
    /// The peer does not hold the flows, is in fault, under maintenance, or worse than this node.
    PeerNotReady,
    /// To give the group away one must have it.
    NotMaster,
    /// This node has the group already.
    AlreadyMaster,
    /// This node is in fault, under maintenance or does not hold the flows.
    NotReady,
    /// Another hand-over is under way, or the node stops.
    Busy,
}

impl Refusal {
    /// The snake-case name used in answers and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PeerUnknown => "peer_unknown",
            Self::PeerNotReady => "peer_not_ready",
            Self::NotMaster => "not_master",
            Self::AlreadyMaster => "already_master",
            Self::NotReady => "not_ready",
            Self::Busy => "busy",
        }
    }
}
