//! The control socket: one JSON request line in, one JSON reply line out.
//!
//! Whoever may open the socket (mode 0660) may ask; only root and the daemon's own user may change anything.

pub mod client;
mod flows;
pub mod lock;
pub mod server;

pub use flows::FlowLine;

use crate::operate::{HandOverReport, ReloadReport};
use crate::request::MaintenanceOutcome;
use crate::status::Status;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest request line in bytes.
pub const REQUEST_BYTES_MAX: usize = 4096;
/// Connections served at one time; further ones are closed at once.
const CONNECTIONS_MAX: usize = 64;
/// For a request to arrive, and again for its reply to be taken.
const TRANSFER_WITHIN: Duration = Duration::from_secs(2);
/// Most flows in one reply.
pub const FLOWS_MAX: usize = 100_000;

/// What is asked of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status,
    Flows {
        limit: usize,
    },
    Resync,
    /// Read the configuration anew, and put in force what can be without a restart.
    Reload,
    /// Set a demotion by hand, for some seconds or until it is cleared; weight 0 clears it.
    Demote {
        cause: String,
        weight: u8,
        seconds: Option<u64>,
    },
    /// Another master; see [`crate::loops::Loops::fail_over`].
    Failover {
        to: Option<String>,
        force: bool,
        wait: bool,
        timeout_ms: u64,
    },
    Maintenance {
        on: bool,
        force: bool,
    },
    Stop {
        keep_role: bool,
    },
}

impl Request {
    /// Reads a line from the control socket.
    ///
    /// # Errors
    /// When it is longer than a request, or none: in words for whoever wrote it.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        if line.len() > REQUEST_BYTES_MAX {
            return Err(format!("the request is longer than {REQUEST_BYTES_MAX} bytes"));
        }
        serde_json::from_slice(line).map_err(|error| format!("the request is not understood: {error}"))
    }

    /// Does it change something?
    fn changes(&self) -> bool {
        match self {
            Self::Status | Self::Flows { .. } => false,
            Self::Resync
            | Self::Reload
            | Self::Demote { .. }
            | Self::Failover { .. }
            | Self::Maintenance { .. }
            | Self::Stop { .. } => true,
        }
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Status(Box<Status>),
    Flows(Vec<FlowLine>),
    Done,
    HandOver(HandOverReport),
    Maintenance(MaintenanceOutcome),
    Reload(ReloadReport),
    /// The daemon ends; it is gone when this process is.
    Stopping {
        pid: u32,
    },
    /// The request was not carried out; why, and what to do.
    Error(String),
}
