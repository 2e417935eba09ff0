//! The services' thread: control socket, metrics, signals, and the order of the stop.

use super::reload::Reloader;
use super::worker::Ended;
use super::{CONTROL, DaemonError, HOOKS, SYNC, TRACK};
use crate::hooks;
use crate::ipc::server::ControlSocket;
use crate::loops::Loops;
use crate::mailbox::{PostError, Postman};
use crate::metrics::server::MetricsListener;
use crate::operate::{ReloadReport, StopKind};
use crate::process;
use crate::request::{ControlRequest, HookRequest, SyncRequest, TrackRequest};
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

/// A hand-over takes milliseconds, and less than two seconds when the peer does not confirm; a loop that hangs must not
/// hold up the stop.
const CONTROL_ENDS_WITHIN: Duration = Duration::from_secs(3);
/// What is pending is sent within a second, says the sync loop's contract.
const SYNC_ENDS_WITHIN: Duration = Duration::from_millis(1500);
/// It only has to be woken up.
const TRACK_ENDS_WITHIN: Duration = Duration::from_millis(500);
const POST_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// What is served while the loops run.
pub struct Services {
    pub loops: Loops,
    pub hooks: Postman<HookRequest>,
    pub socket: ControlSocket,
    pub metrics: Option<MetricsListener>,
    pub reloader: Reloader,
    /// Requests to read the configuration anew from the control socket.
    pub reloads: mpsc::Receiver<oneshot::Sender<ReloadReport>>,
    pub ended: mpsc::Receiver<Ended>,
    /// Requests to stop from the control socket.
    pub stops: mpsc::Receiver<StopKind>,
    /// Names of the loops whose end has not been reported.
    pub running: Vec<&'static str>,
}

/// Registered before the loops start, so that no signal finds the default action.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals over; needs a runtime.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl Services {
    /// Serves until a signal or the end of a loop, then stops what still runs.
    ///
    /// # Errors
    /// When a loop ended by itself, or a service could not start.
    pub async fn run(mut self, mut signals: Signals) -> Result<(), DaemonError> {
        let outcome = self.serve(&mut signals).await;
        if let Err(error) = &outcome {
            error!("{error}");
        }
        process::notify(&[NotifyState::Stopping]);
        self.stop(*outcome.as_ref().unwrap_or(&StopKind::Clean)).await;
        outcome.map(drop)
    }

    async fn serve(&mut self, signals: &mut Signals) -> Result<StopKind, DaemonError> {
        let (socket, metrics) = (&self.socket, &self.metrics);
        let control_service = socket.serve(self.loops.clone());
        let metrics_service = async {
            match metrics {
                Some(listener) => listener.serve(self.loops.clone()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(control_service, metrics_service);
        process::notify(&[NotifyState::Ready]);
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => {
                    info!("stopping on SIGTERM");
                    return Ok(StopKind::Clean);
                }
                _ = signals.interrupt.recv() => {
                    info!("stopping on SIGINT");
                    return Ok(StopKind::Clean);
                }
                Some(kind) = self.stops.recv() => {
                    info!(?kind, "stopping on request");
                    return Ok(kind);
                }
                _ = signals.hangup.recv() => drop(self.reloader.reload(&self.loops).await),
                Some(reply) = self.reloads.recv() => {
                    // Whoever asked may have gone away; the log has it.
                    let _ = reply.send(self.reloader.reload(&self.loops).await);
                }
                Some(ended) = self.ended.recv() => {
                    self.running.retain(|running| *running != ended.name);
                    return Err(ended_early(ended));
                }
                served = &mut control_service => return Err(service_ended("control socket", served)),
                served = &mut metrics_service => return Err(service_ended("metrics", served)),
            }
        }
    }

    /// The election first: its goodbye lets the peer take over while the last state is still being sent.
    async fn stop(&mut self, kind: StopKind) {
        let control = self.loops.control.clone();
        let keep_role = kind == StopKind::KeepRole;
        post_stop(CONTROL, &control, || ControlRequest::Stop { keep_role }).await;
        self.await_end(CONTROL, CONTROL_ENDS_WITHIN).await;
        let sync = self.loops.sync.clone();
        post_stop(SYNC, &sync, || SyncRequest::Stop).await;
        self.await_end(SYNC, SYNC_ENDS_WITHIN).await;
        // The hooks have been told of the control loop's end, and ran while the state was sent.
        let (track, hooks) = (self.loops.track.clone(), self.hooks.clone());
        post_stop(TRACK, &track, || TrackRequest::Stop).await;
        post_stop(HOOKS, &hooks, || HookRequest::Stop).await;
        self.await_end(TRACK, TRACK_ENDS_WITHIN).await;
        self.await_end(HOOKS, hooks::END_WITHIN + TRACK_ENDS_WITHIN).await;
        info!("stopped");
    }

    async fn await_end(&mut self, name: &'static str, within: Duration) {
        let news = async {
            while self.running.contains(&name) {
                let Some(ended) = self.ended.recv().await else { return };
                self.running.retain(|running| *running != ended.name);
                if let Err(error) = ended.result {
                    error!(name = ended.name, error, "a loop ended with an error");
                }
            }
        };
        if tokio::time::timeout(within, news).await.is_err() {
            warn!(name, ?within, "the loop has not ended in time; the process ends without it");
        }
    }
}

fn ended_early(ended: Ended) -> DaemonError {
    let reason = ended.result.err().unwrap_or_else(|| "it was not told to".to_owned());
    DaemonError::LoopEnded { name: ended.name, reason }
}

fn service_ended(name: &'static str, served: std::io::Result<()>) -> DaemonError {
    let source = served.err().unwrap_or_else(|| std::io::ErrorKind::Other.into());
    DaemonError::Service { name, source }
}

/// Posts the stop; a mailbox that is full for the moment is tried again.
async fn post_stop<T>(name: &'static str, postman: &Postman<T>, message: impl Fn() -> T) {
    let posted = tokio::time::timeout(CONTROL_ENDS_WITHIN, async {
        loop {
            match postman.post(message()) {
                // A closed mailbox belongs to a loop that has ended.
                Ok(()) | Err(PostError::Closed) => return,
                Err(PostError::Full) => tokio::time::sleep(POST_AGAIN_AFTER).await,
            }
        }
    });
    if posted.await.is_err() {
        warn!(name, "the loop takes no messages");
    }
}
