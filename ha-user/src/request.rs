//! What the services and the two loops ask of each other, through [`crate::mailbox`].

use crate::status::{ControlStatus, SyncStatus};
use ha_common::role::{Role, SyncHealth};
use ha_common::sync::flow::Flow;
use tokio::sync::oneshot;

/// To the control loop.
#[derive(Debug)]
pub enum ControlRequest {
    Status(oneshot::Sender<ControlStatus>),
    Health(SyncHealth),
    /// Say goodbye, release the addresses, end the loop.
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
    /// Answer by [`ControlRequest::Health`] as soon as everything that changed until now has reached the peers.
    Flush,
    Resync,
    /// Send what is pending, then end the loop.
    Stop,
}
