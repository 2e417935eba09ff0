//! The daemon: set up with all privileges, give most of them away, run the two loops and the services.

mod counts;
mod reload;
mod services;
mod worker;

use crate::clock;
use crate::config::{Choice, Resolved};
use crate::control_loop::{ControlError, ControlLoop};
use crate::datapath::{self, Datapath, Plan};
use crate::heap;
use crate::hooks::{HookError, HookPost, HookRunner, Record};
use crate::ipc::lock::{InstanceLock, LockError};
use crate::ipc::server::{ControlSocket, SocketError};
use crate::logging;
use crate::loops::Loops;
use crate::mailbox::{Postman, mailbox};
use crate::maintenance::MaintenanceFile;
use crate::metrics::server::{ListenError, MetricsListener};
use crate::operate::{ReloadReport, StopKind};
use crate::process::{self, PrivilegeError};
use crate::request::{HookRequest, SyncRequest};
use crate::sync_loop::{SyncLoop, SyncLoopError};
use crate::track::{TrackError, Tracker};
use ha_common::time::Instant;
use reload::Reloader;
use services::{Services, Signals};
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{Mutex, oneshot};
use tracing::{error, info, warn};
use worker::{Ended, Workers};

/// Names of the loops: of their threads, in logs, and in errors.
const CONTROL: &str = "control";
const SYNC: &str = "sync";
const TRACK: &str = "track";
const HOOKS: &str = "hooks";
/// Messages waiting for a loop; more means that it hangs.
const MAILBOX_MAX: usize = 256;
/// Requests to reload that wait for the one being carried out.
const RELOADS_WAITING_MAX: usize = 4;
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
    #[error(transparent)]
    Track(#[from] TrackError),
    #[error(transparent)]
    Hooks(#[from] HookError),
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
    heap::share_one_arena();
    process::abort_on_panic();
    process::check_privileges()?;
    // Held to the end: the next start must not begin before this process is gone.
    let _lock = InstanceLock::take(&resolved.control_socket)?;
    process::raise_limits();
    let socket = ControlSocket::bind(&resolved.control_socket)?;
    let metrics = resolved.metrics_listen.map(MetricsListener::bind).transpose()?;
    if let Some(directory) = &resolved.pin_directory {
        datapath::pins::mount_file_system(directory);
    }
    // Threads inherit what is left: so before the first one.
    process::drop_privileges(resolved.sync.port < PRIVILEGED_PORTS)?;
    // Dropped last: it writes what is left.
    let _log = logging::write_in_a_thread();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| DaemonError::Resource { what: "make the services' runtime", source })?;
    let signals = runtime.block_on(async { Signals::new() });
    let signals = signals.map_err(|source| DaemonError::Resource { what: "take over the signals", source })?;
    let resolved = Arc::new(resolved);
    // One request to stop is enough.
    let (stop, stops) = channel(1);
    let (reload, reloads) = channel(RELOADS_WAITING_MAX);
    let (loops, hooks, ended) = start_loops(&resolved, started, Ways { stop, reload })?;
    info!(node = loops.node, cluster = loops.cluster, version = env!("CARGO_PKG_VERSION"), "twinwall runs");
    let running = vec![CONTROL, SYNC, TRACK, HOOKS];
    let reloader = Reloader::new(choice, Resolved::clone(&resolved));
    let services = Services { loops, hooks, socket, metrics, reloader, reloads, ended, stops, running };
    runtime.block_on(services.run(signals))
}

/// How the control socket reaches the services.
struct Ways {
    stop: Sender<StopKind>,
    reload: Sender<oneshot::Sender<ReloadReport>>,
}

/// The services' end of the loops, of the hooks, and of the news that one has ended.
type Started = (Loops, Postman<HookRequest>, Receiver<Ended>);

/// Starts all loops in threads of their own. The control loop last: when another cannot start, this node has not taken
/// part in an election yet.
fn start_loops(resolved: &Arc<Resolved>, started: Instant, ways: Ways) -> Result<Started, DaemonError> {
    let maintenance = MaintenanceFile::new(&resolved.state_directory, resolved.own_name());
    let is_maintained = read_maintenance(&maintenance);
    let no_mailbox = |source| DaemonError::Resource { what: "make a mailbox", source };
    let (control, control_mailbox) = mailbox(MAILBOX_MAX).map_err(no_mailbox)?;
    let (sync, sync_mailbox) = mailbox(MAILBOX_MAX).map_err(no_mailbox)?;
    let (track, track_mailbox) = mailbox(MAILBOX_MAX).map_err(no_mailbox)?;
    let (hooks, hooks_mailbox) = mailbox(MAILBOX_MAX).map_err(no_mailbox)?;
    let (workers, ended) = Workers::new();
    let set_up_sync = {
        let (resolved, control) = (Arc::clone(resolved), control.clone());
        move || SyncLoop::new(resolved, control).map(|sync_loop| (sync_loop, ()))
    };
    workers.start(SYNC, set_up_sync, |sync_loop| sync_loop.run(sync_mailbox))?;
    let record = Arc::new(Record::default());
    let set_up_hooks = {
        let (resolved, record) = (Arc::clone(resolved), Arc::clone(&record));
        move || HookRunner::new(resolved, record).map(|runner| (runner, ()))
    };
    workers.start(HOOKS, set_up_hooks, |runner| runner.run(hooks_mailbox))?;
    let set_up_track = {
        let (resolved, control) = (Arc::clone(resolved), control.clone());
        move || Tracker::new(&resolved, control).map(|tracker| (tracker, ()))
    };
    workers.start(TRACK, set_up_track, |tracker| tracker.run(track_mailbox))?;
    let set_up_control = {
        let (resolved, sync, hooks) = (Arc::clone(resolved), sync.clone(), HookPost::new(hooks.clone()));
        move || {
            let mut datapath = Datapath::start(&Plan::from_config(&resolved));
            if let Some(sessions) = datapath.take_sessions() {
                // A mailbox that nobody has had the time to fill takes it.
                sync.post(SyncRequest::Sessions(sessions))
                    .map_err(|error| ControlError::Sessions(error.to_string()))?;
            }
            let counters = datapath.counters();
            let control_loop = ControlLoop::new(resolved, datapath, sync, is_maintained)?.hooks(hooks);
            Ok::<_, ControlError>((control_loop, counters))
        }
    };
    let counters = workers.start(CONTROL, set_up_control, |control_loop| control_loop.run(control_mailbox))?;
    let loops = Loops {
        control,
        sync,
        track,
        hooks: record,
        node: resolved.own_name().to_owned(),
        nodes: resolved.nodes.iter().map(|node| node.name.clone()).collect(),
        cluster: resolved.cluster.clone(),
        maintenance: Arc::new(Mutex::new(maintenance)),
        reload: ways.reload,
        stop: ways.stop,
        started,
        started_unix_seconds: clock::unix_seconds(),
        datapath: Arc::new(counts::reader(counters, resolved)),
    };
    Ok((loops, hooks, ended))
}

/// Whether the node starts under maintenance. When that cannot be told it does not: a pair without any master is worse
/// than one that takes over while somebody works on it.
fn read_maintenance(file: &MaintenanceFile) -> bool {
    let is_on = file.is_on().unwrap_or_else(|error| {
        error!(%error, "whether maintenance is on cannot be told: it is taken for off");
        false
    });
    if is_on {
        warn!("maintenance is on: this node takes nothing (end it with `twinwall maintenance off`)");
    }
    is_on
}
