//! What the services and the two loops ask of each other, through [`crate::mailbox`].

use crate::datapath::{DatapathKey, SessionTable};
use crate::demotion::Demotion;
use crate::status::{ControlStatus, SyncStatus};
use ha_common::role::{Role, SyncHealth};
use ha_common::secret::ClusterKey;
use ha_common::sync::filter::Filter;
use ha_common::sync::flow::Flow;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;
use tokio::sync::oneshot;

/// To the control loop.
#[derive(Debug)]
pub enum ControlRequest {
    Status(oneshot::Sender<ControlStatus>),
    Health(SyncHealth),
    /// Everything that demotes this node now: at most [`crate::demotion::DEMOTIONS_MAX`].
    Demotions(Vec<Demotion>),
    /// This node is master and is to give the group to its peer. Answered when the peer has confirmed, or at once when
    /// refused. `force`: also to a peer that would lose sessions.
    HandOver {
        force: bool,
        reply: oneshot::Sender<HandOverOutcome>,
    },
    /// This node is to get the group. Answered when it is master, or at once when refused.
    Want {
        reply: oneshot::Sender<HandOverOutcome>,
    },
    /// Take nothing any more (and hand over what is here), or be of use again. What is asked is on disk already.
    Maintenance {
        on: bool,
        force: bool,
        reply: oneshot::Sender<MaintenanceOutcome>,
    },
    /// These secrets are valid from now on. Answered when the programs have them.
    Keys {
        keys: Vec<DatapathKey>,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// The peer accepts the secret of this epoch: heartbeats are keyed with it from now on.
    KeyInUse(u8),
    /// End the loop. `keep_role` false: hand over, say goodbye, release the addresses; true: the process is about to be
    /// restarted, and its mastership stays in the kernel for the restart grace.
    Stop {
        keep_role: bool,
    },
}

/// How a hand-over ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandOverOutcome {
    /// The new master has confirmed, so long after the request.
    Done { took_ms: f64 },
    /// Nothing was begun.
    Refused(HandOverRefusal),
    /// It was begun, and nobody confirmed: the offer is withdrawn, and the old master goes on.
    Unconfirmed { waited_ms: f64 },
}

/// How a request for maintenance ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaintenanceOutcome {
    /// It is as was asked; with the time that handing the group over took, if it was here.
    Set { took_ms: Option<f64> },
    /// Nothing has changed.
    Refused(HandOverRefusal),
    /// The group was here and the peer did not confirm: nothing has changed.
    Unconfirmed { waited_ms: f64 },
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $forcible:literal, $words:literal;)*) => {
        /// Why a hand-over was not begun; the name is used in JSON and as metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum HandOverRefusal { $($(#[$doc])* $variant,)* }
        impl HandOverRefusal {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            /// Whether `--force` does it all the same.
            pub const fn forcible(self) -> bool { match self { $(Self::$variant => $forcible,)* } }
            const fn words(self) -> &'static str { match self { $(Self::$variant => $words,)* } }
        }
    };
}

refusals! {
    /// To give: there is nothing here.
    NotMaster = "not_master", false, "this node is not master";
    /// To get: it is here.
    AlreadyMaster = "already_master", false, "this node is master already";
    /// Not heard by heartbeats: dead, ucarp, without XDP, or never started.
    PeerUnknown = "peer_unknown", true, "the peer does not answer heartbeats, so nobody can confirm";
    PeerUnfit = "peer_unfit", true, "the peer is in fault, under maintenance, worse, or lacks sessions: see its `twinwall status`";
    /// To get: this node must not have it.
    Unfit = "unfit", false, "this node is in fault, under maintenance, or lacks sessions: see `twinwall status`";
    InProgress = "in_progress", false, "a hand-over is going on already, or the daemon is stopping";
}

impl fmt::Display for HandOverRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())?;
        if self.forcible() { f.write_str(" (--force does it all the same)") } else { Ok(()) }
    }
}

/// To the tracker.
#[derive(Debug)]
pub enum TrackRequest {
    /// Set a demotion by hand, until it is cleared or for a while; weight 0 clears it.
    Demote {
        name: String,
        weight: u8,
        during: Option<Duration>,
        reply: oneshot::Sender<Result<(), crate::track::Refused>>,
    },
    /// End, and the scripts that run with it.
    Stop,
}

/// To the thread that runs the hooks.
#[derive(Debug)]
pub enum HookRequest {
    /// The role changed: the programs for it are to run.
    Event(crate::hooks::Event),
    /// End once what was posted before has been told, or after [`crate::hooks::END_WITHIN`].
    Stop,
}

/// To the sync loop.
#[derive(Debug)]
pub enum SyncRequest {
    Status(oneshot::Sender<SyncStatus>),
    /// At most `limit` flows of the shadow table, and whether the peer owns each.
    Flows {
        limit: usize,
        reply: oneshot::Sender<Vec<(Flow, bool)>>,
    },
    /// `term`: of a mastership, as the election's transition says.
    Role {
        role: Role,
        term: u64,
    },
    /// Answer by [`ControlRequest::Health`] as soon as everything that changed until now has reached the peers.
    Flush,
    Resync,
    /// Replicate these flows from now on. Answered when the filter is in force; what it changes follows.
    Filter {
        filter: Box<Filter>,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Another size of the event socket's buffer, and how far it may grow, bytes.
    NetlinkBuffer {
        bytes: usize,
        bytes_max: usize,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// These secrets are valid from now on. Answered when they are in force; refused when a living peer holds none of them.
    Keys {
        keys: Vec<ClusterKey>,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// The programs are loaded: they are to be told whose sessions are current.
    Sessions(SessionTable),
    /// Send what is pending, then end the loop.
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal has one name, in JSON and in metrics, and only those that force overrides say so.
    #[test]
    fn refusals_have_one_name() {
        for refusal in HandOverRefusal::ALL {
            assert_eq!(serde_json::to_string(refusal).unwrap(), format!("\"{}\"", refusal.name()));
            assert_eq!(refusal.to_string().contains("--force"), refusal.forcible());
        }
    }
}
