//! Liveness of the peer by heartbeats: probes out, answers in, a [`Sight`] for the election.
//!
//! [`Prober`] is a pure state machine with the four functions of the core contract: `new`, `handle`, `poll_at`,
//! `stats`. It knows nothing of terms and roles: it carries them.
//!
//! - [`prober`](Prober): the tick, which report is the newest, and the verdict.
//! - `path.rs`: one path: what was sent and answered, and at which pace it is probed.
//! - `silence.rs`: how much silence is proven, and how much is death.
//! - `worst_gap.rs`, `histogram.rs`, `stats.rs`: what is remembered and shown.

mod histogram;
mod path;
mod prober;
mod silence;
mod stats;
mod worst_gap;

pub use histogram::Histogram;
pub use prober::Prober;
pub use stats::{PathStats, Refusal, Refused, Stats};

use crate::election::InterfaceId;
use crate::role::NodeId;
use crate::sight::{PeerReport, Sight};
use crate::time::Instant;
use core::time::Duration;

/// Everything the prober needs to know at start.
#[derive(Clone, Debug)]
pub struct Config {
    pub node: NodeId,
    pub peer: NodeId,
    /// Between two probes of one path.
    pub interval: Duration,
    /// Silence of so many intervals is suspicious at least.
    pub multiplier: u32,
    /// Bounds of the time after which silence on all paths is death: at least `interval * multiplier`, adapted to the worst
    /// gap seen lately, at most this.
    pub dead_after_max: Duration,
    /// Interfaces that probes go out of; position is the path's number. At most 16.
    pub paths: Vec<InterfaceId>,
}

/// Position in [`Config::paths`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId(pub u8);

/// The newest answer on one path, as the XDP program left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathReply {
    pub path: PathId,
    /// Of the probe that was answered.
    pub sequence: u64,
    /// When the program saw it.
    pub received: Instant,
    pub rtt: Duration,
    /// The responder's hardware address on that path.
    pub mac: [u8; 6],
    /// How many answers were taken on this path so far.
    pub replies: u64,
    /// `heard` is `received`.
    pub report: PeerReport,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// `poll_at` has come. Replies that arrived since the last tick are handed in before.
    Timer,
    /// The newest answer of one path; one that was handed in before changes nothing.
    Reply(&'a PathReply),
    /// The interface of a path can (not) send.
    Link { path: PathId, up: bool },
}

/// What must be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send one probe. `to`: the peer's hardware address, `None` for the group's. Term, standing and time are the
    /// loop's to fill in.
    Probe { path: PathId, sequence: u64, to: Option<[u8; 6]>, target_session: u64 },
    /// The peer is seen differently, or said something new: for the election.
    Sight(Sight),
}
