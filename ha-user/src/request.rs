//! What the services and the two loops ask of each other, through [`crate::mailbox`].

use crate::demotion::Demotion;
use crate::status::{ControlStatus, SyncStatus};
use ha_common::role::{Role, SyncHealth};
use ha_common::sync::flow::Flow;
use std::time::Duration;
use tokio::sync::oneshot;

/// To the control loop.
#[derive(Debug)]
pub enum ControlRequest {
    Status(oneshot::Sender<ControlStatus>),
    Health(SyncHealth),
    /// Everything that demotes this node now: at most [`crate::demotion::DEMOTIONS_MAX`].
    Demotions(Vec<Demotion>),
    /// Say goodbye, release the addresses, end the loop.
    Stop,
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
    Role(Role),
    Resync,
    /// Send what is pending, then end the loop.
    Stop,
}
