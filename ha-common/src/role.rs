//! The two small values that election and sync exchange: [`Role`] one way, [`SyncHealth`] the other.

use crate::time::Instant;
use core::fmt;
use core::time::Duration;

/// Index of a node in the configuration's `[nodes]` table, in the table's (name) order; unique in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u8);

/// What this node is for its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Before the first decision after start.
    #[default]
    Init,
    /// Hears a master, or waits for the master-down timer.
    Backup,
    /// Holds the virtual addresses.
    Master,
    /// A member's interface is down or missing: this node may not become master.
    Fault,
}

impl Role {
    /// The lower-case name used in status, logs and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Master => "master",
            Self::Fault => "fault",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the sync engine tells the election: is the peer there, and does it (do we) hold all of its state?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncHealth {
    /// A keyed session with at least one peer exists and was heard within the peer timeout.
    pub peer_alive: bool,
    /// The peer's table was received completely in this session and no gap is open.
    pub in_sync: bool,
    /// Age of the oldest flow change not yet acknowledged by the peer; zero when nothing is pending.
    pub lag: Duration,
    /// The time of the newest request to flush of which every change made before is acknowledged by all living peers.
    pub flushed: Instant,
}
