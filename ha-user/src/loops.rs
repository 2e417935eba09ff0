//! The services' end of the two loops: questions with a bounded wait.

use crate::clock;
use crate::hooks::Record;
use crate::mailbox::{PostError, Postman};
use crate::maintenance::MaintenanceFile;
use crate::operate::{ReloadReport, StopKind};
use crate::request::{ControlRequest, SyncRequest, TrackRequest};
use crate::status::{DatapathStatus, Status};
use ha_common::sync::flow::Flow;
use ha_common::time::Instant;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};

/// A loop that takes longer to answer is busy or hangs, and whoever asked is told so.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What the services know of the running daemon.
#[derive(Clone)]
pub struct Loops {
    pub control: Postman<ControlRequest>,
    pub sync: Postman<SyncRequest>,
    pub track: Postman<TrackRequest>,
    pub hooks: Arc<Record>,
    pub node: String,
    /// Names of all nodes.
    pub nodes: Vec<String>,
    pub cluster: String,
    pub started: Instant,
    /// Seconds since 1970, for Prometheus.
    pub started_unix_seconds: f64,
    /// Reads the datapath's counters: a few microseconds a row, from any thread.
    pub datapath: Arc<dyn Fn() -> DatapathStatus + Send + Sync>,
    pub maintenance: Arc<Mutex<MaintenanceFile>>,
    /// Has the configuration read anew.
    pub reload: mpsc::Sender<oneshot::Sender<ReloadReport>>,
    /// Ends the daemon.
    pub stop: mpsc::Sender<StopKind>,
}

/// A loop that did not answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Silent {
    #[error("the {0} loop did not answer within {ANSWER_WITHIN:?}: it is busy or hangs (see the log)")]
    Late(&'static str),
    #[error("the {0} loop took no question: {1} (see the log)")]
    Refused(&'static str, PostError),
    #[error("the {0} loop ended before it answered (see the log)")]
    Ended(&'static str),
}

impl Loops {
    /// Both loops' state; what did not answer is named in `unanswered` and left at its default.
    pub async fn status(&self) -> Status {
        let election = ask("control", |reply| self.control.post(ControlRequest::Status(reply)));
        let sync = ask("sync", |reply| self.sync.post(SyncRequest::Status(reply)));
        let (election, sync) = tokio::join!(election, sync);
        let unanswered = [election.as_ref().err(), sync.as_ref().err()].into_iter().flatten();
        Status {
            node: self.node.clone(),
            cluster: self.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: clock::now().since(self.started).as_secs_f64(),
            control_answered: election.is_ok(),
            sync_answered: sync.is_ok(),
            unanswered: unanswered.map(Silent::to_string).collect(),
            election: election.unwrap_or_default(),
            sync: sync.unwrap_or_default(),
            hooks: self.hooks.status(),
        }
    }

    /// At most `limit` flows, and whether the peer owns each.
    ///
    /// # Errors
    /// When the sync loop does not answer.
    pub async fn flows(&self, limit: usize) -> Result<Vec<(Flow, bool)>, Silent> {
        ask("sync", |reply| self.sync.post(SyncRequest::Flows { limit, reply })).await
    }

    /// Sets a demotion by hand, or clears it with weight 0.
    ///
    /// # Errors
    /// In words, when the tracker does not answer or refuses.
    pub async fn demote(&self, name: String, weight: u8, during: Option<Duration>) -> Result<(), String> {
        let asked = ask("track", |reply| self.track.post(TrackRequest::Demote { name, weight, during, reply }));
        let answer = asked.await.map_err(|silent| silent.to_string())?;
        answer.map_err(|refused| refused.to_string())
    }

    /// Exchanges the whole tables with the peers again.
    ///
    /// # Errors
    /// When the sync loop takes no request.
    pub fn resync(&self) -> Result<(), Silent> {
        self.sync.post(SyncRequest::Resync).map_err(|error| Silent::Refused("sync", error))
    }
}

/// Asks a loop a question that it answers at once.
pub(crate) fn ask<T>(
    name: &'static str,
    post: impl FnOnce(oneshot::Sender<T>) -> Result<(), PostError>,
) -> impl Future<Output = Result<T, Silent>> {
    ask_within(name, ANSWER_WITHIN, post)
}

/// Asks a loop for something that takes its time.
pub(crate) fn ask_within<T>(
    name: &'static str,
    within: Duration,
    post: impl FnOnce(oneshot::Sender<T>) -> Result<(), PostError>,
) -> impl Future<Output = Result<T, Silent>> {
    let (sender, receiver) = oneshot::channel();
    let posted = post(sender);
    async move {
        posted.map_err(|error| Silent::Refused(name, error))?;
        match tokio::time::timeout(within, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Silent::Ended(name)),
            Err(_) => Err(Silent::Late(name)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mailbox::{Mailbox, mailbox};
    use crate::status::{ControlStatus, SyncStatus};

    /// Loops over two mailboxes that the test serves itself.
    pub fn loops() -> (Loops, Mailbox<ControlRequest>, Mailbox<SyncRequest>) {
        let (control, control_mailbox) = mailbox(8).unwrap();
        let (sync, sync_mailbox) = mailbox(8).unwrap();
        let (track, _) = mailbox(8).unwrap();
        let loops = Loops {
            control,
            sync,
            track,
            hooks: Arc::default(),
            node: "fw1".to_owned(),
            nodes: vec!["fw1".to_owned(), "fw2".to_owned()],
            cluster: "edge".to_owned(),
            started: clock::now(),
            started_unix_seconds: 0.0,
            datapath: Arc::new(DatapathStatus::default),
            maintenance: Arc::new(Mutex::new(MaintenanceFile::new("/dev/null".as_ref(), "fw1"))),
            // Their other ends are gone: no test ends a daemon or reads its file.
            reload: mpsc::channel(1).0,
            stop: mpsc::channel(1).0,
        };
        (loops, control_mailbox, sync_mailbox)
    }

    /// One loop answers, the other has ended and a third case is silent: the answer comes in bounded time
    /// and names who said nothing.
    #[tokio::test]
    async fn silence_is_named() {
        let (loops, control, sync) = loops();
        drop(sync);
        let asked = tokio::spawn({
            let loops = loops.clone();
            async move { loops.status().await }
        });
        tokio::task::yield_now().await;
        let Some(ControlRequest::Status(reply)) = control.next() else { panic!("a status request") };
        reply.send(ControlStatus { role: "master".to_owned(), ..ControlStatus::default() }).unwrap();
        let status = asked.await.unwrap();
        assert_eq!(status.election.role, "master");
        assert_eq!(status.unanswered, [Silent::Refused("sync", PostError::Closed).to_string()]);
        let status = loops.status().await;
        assert_eq!(status.unanswered[0], Silent::Late("control").to_string());
        assert_eq!(status.sync.flows, SyncStatus::default().flows);
    }
}
