//! The daemon: set up with all privileges, give most of them away, run the two loops and the services.

mod counts;
mod reload;
mod services;
mod worker;

use crate::clock;
use crate::config::{Choice, Resolved};
use crate::control_loop::{ControlError, ControlLoop};
use crate::datapath::{Datapath, Plan};
use crate::ipc::lock::{InstanceLock, LockError};
use crate::ipc::server::{ControlSocket, SocketError};
use crate::loops::Loops;
use crate::mailbox::mailbox;
use crate::metrics::server::{ListenError, MetricsListener};
use crate::process::{self, PrivilegeError};
use crate::sync_loop::{SyncLoop, SyncLoopError};
use services::{Services, Signals};
use std::sync::Arc;
use tracing::info;
use worker::Workers;

/// Names of the two loops: of their threads, in logs, and in errors.
const CONTROL: &str = "control";
const SYNC: &str = "sync";
/// Messages waiting for a loop; more means that it hangs.
const MAILBOX_MAX: usize = 256;
/// Ports below need CAP_NET_BIND_SERVICE.
const PRIVILEGED_PORTS: u16 = 1024;

/// Why the daemon did not start, or ended otherwise than by a stop.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Sync(#[from] SyncLoopError),
    #[error("cannot {what}: {source}")]
    Resource { what: &'static str, source: std::io::Error },
    #[error("the {name} loop ended: {reason}")]
    LoopEnded { name: &'static str, reason: String },
    #[error("the {name} cannot be served: {source}")]
    Service { name: &'static str, source: std::io::Error },
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the node cannot start, or a loop ends by itself; what was set up is released in either case.
pub fn run(choice: Choice, resolved: Resolved) -> Result<(), DaemonError> {
    let started = clock::now();
    process::abort_on_panic();
    process::check_privileges()?;
    // Held to the end: the next start must not begin before this process is gone.
    let _lock = InstanceLock::take(&resolved.control_socket)?;
    process::raise_limits();
    let socket = ControlSocket::bind(&resolved.control_socket)?;
    let metrics = resolved.metrics_listen.map(MetricsListener::bind).transpose()?;
    process::drop_privileges(resolved.sync.port < PRIVILEGED_PORTS)?;

    let resource = |what| move |source| DaemonError::Resource { what, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(resource("make the services' runtime"))?;
    let signals = runtime.block_on(async { Signals::new() }).map_err(resource("take over the signals"))?;

    let resolved = Arc::new(resolved);
    let (control, control_mailbox) = mailbox(MAILBOX_MAX).map_err(resource("make a mailbox"))?;
    let (sync, sync_mailbox) = mailbox(MAILBOX_MAX).map_err(resource("make a mailbox"))?;

    let (workers, ended) = Workers::new();
    // The sync loop first: when it cannot start, this node has not taken part in an election yet.
    workers.start(
        SYNC,
        {
            let (resolved, control) = (Arc::clone(&resolved), control.clone());
            move || SyncLoop::new(resolved, control).map(|sync_loop| (sync_loop, ()))
        },
        |sync_loop| sync_loop.run(sync_mailbox),
    )?;
    let counters = workers.start(
        CONTROL,
        {
            let (resolved, sync) = (Arc::clone(&resolved), sync.clone());
            move || {
                let datapath = Datapath::start(&Plan::from_config(&resolved));
                let counters = datapath.counters();
                ControlLoop::new(resolved, datapath, sync).map(|control_loop| (control_loop, counters))
            }
        },
        |control_loop| control_loop.run(control_mailbox),
    )?;
    let loops = Loops {
        control,
        sync,
        node: resolved.own_name().to_owned(),
        cluster: resolved.cluster.clone(),
        started,
        started_unix_seconds: clock::unix_seconds(),
        datapath: Arc::new(counts::reader(counters, &resolved)),
    };
    info!(node = loops.node, cluster = loops.cluster, version = env!("CARGO_PKG_VERSION"), "twinwall runs");
    let services = Services { loops, socket, metrics, choice, resolved, ended, running: vec![CONTROL, SYNC] };
    runtime.block_on(services.run(signals))
}
