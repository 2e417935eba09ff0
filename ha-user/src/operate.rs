//! What operators ask for: which loop is asked what, and what is written down before.

use crate::loops::{ANSWER_WITHIN, Loops, Silent, ask, ask_within};
use crate::mailbox::PostError;
use crate::maintenance::{MaintenanceError, MaintenanceFile};
use crate::request::{ControlRequest, HandOverOutcome, HandOverRefusal, MaintenanceOutcome};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tracing::{error, info};

/// Handing over for maintenance takes two seconds at the most.
pub const MAINTENANCE_WITHIN: Duration = Duration::from_secs(4);
/// The file is read at once, and each loop that is told of a change answers within its time.
pub const RELOAD_WITHIN: Duration = Duration::from_secs(4);
/// A refusal comes at once; what is not refused after this has begun.
const BEGUN_AFTER: Duration = Duration::from_millis(50);
/// Whoever waits for a hand-over waits so long at most.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What became of a request for a change of the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandOverReport {
    /// The node that was to become master.
    pub to: String,
    /// `None`: begun, and not ended when the wait was over.
    pub outcome: Option<HandOverOutcome>,
}

/// How the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopKind {
    /// Hand over, say goodbye, leave nothing behind.
    Clean,
    /// It will be back at once: its mastership stays in the kernel for the restart grace.
    KeepRole,
}

/// What became of a request to read the configuration anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    pub file: String,
    /// Warnings and errors of the file, each with its place and remedy.
    pub problems: Vec<String>,
    pub outcome: ReloadOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The file cannot be used: nothing has changed.
    Refused,
    /// What of the changes is in force, what could not be put in force (and why), and what waits for a restart.
    Done { applied: Vec<String>, failed: Vec<String>, restart: Vec<String> },
}

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    #[error(transparent)]
    Silent(#[from] Silent),
    #[error(transparent)]
    Maintenance(#[from] MaintenanceError),
    #[error("no node {name:?} is configured (choose from {})", nodes.join(", "))]
    UnknownNode { name: String, nodes: Vec<String> },
    #[error("the state directory's thread died; see the log")]
    Died,
}

impl Loops {
    /// Changes the master to `to`; without it to the peer when this node is master, else to this node.
    ///
    /// # Errors
    /// When there is no such node, or the loop does not answer.
    pub async fn fail_over(
        &self,
        to: Option<&str>,
        force: bool,
        wait: bool,
        within: Duration,
    ) -> Result<HandOverReport, OperateError> {
        let is_master =
            ask("control", |reply| self.control.post(ControlRequest::Status(reply))).await?.role == "master";
        let to = match to {
            Some(name) if self.nodes.iter().any(|node| node == name) => name.to_owned(),
            Some(name) => return Err(OperateError::UnknownNode { name: name.to_owned(), nodes: self.nodes.clone() }),
            None if is_master => self.peer(),
            None => self.node.clone(),
        };
        let gets = to == self.node;
        let refused = match (gets, is_master) {
            (true, true) => Some(HandOverRefusal::AlreadyMaster),
            (false, false) => Some(HandOverRefusal::NotMaster),
            (true, false) | (false, true) => None,
        };
        if let Some(refusal) = refused {
            return Ok(HandOverReport { to, outcome: Some(HandOverOutcome::Refused(refusal)) });
        }
        info!(to, force, "an operator asks for a change of the master");
        let within = if wait { within.min(WAIT_MAX) } else { BEGUN_AFTER };
        let asked = ask_within("control", within, |reply| {
            let request = match gets {
                true => ControlRequest::Want { reply },
                false => ControlRequest::HandOver { force, reply },
            };
            self.control.post(request)
        });
        match asked.await {
            Ok(outcome) => Ok(HandOverReport { to, outcome: Some(outcome) }),
            Err(Silent::Late(_)) => Ok(HandOverReport { to, outcome: None }),
            Err(silent @ (Silent::Refused(..) | Silent::Ended(_))) => Err(silent.into()),
        }
    }

    /// Writes down that maintenance is on or off, and then tells the control loop. What the loop refuses is taken back.
    ///
    /// # Errors
    /// When the state directory cannot be written (then nothing has changed), or the loop does not answer.
    pub async fn maintain(&self, on: bool, force: bool) -> Result<MaintenanceOutcome, OperateError> {
        // One after the other: else one request could take back what another wrote.
        let file = self.maintenance.lock().await;
        let was_on = on_disk(&file, MaintenanceFile::is_on).await?;
        on_disk(&file, move |file| file.set(on)).await?;
        let asked = ask_within("control", MAINTENANCE_WITHIN, |reply| {
            self.control.post(ControlRequest::Maintenance { on, force, reply })
        });
        let answer = asked.await;
        match &answer {
            Ok(MaintenanceOutcome::Set { .. }) => info!(on, "maintenance, by an operator's word"),
            // A loop that is late, or ends, may act on it yet: what is on disk stays, and holds at the next start.
            Err(Silent::Late(_) | Silent::Ended(_)) => {}
            Ok(MaintenanceOutcome::Refused(_) | MaintenanceOutcome::Unconfirmed { .. }) | Err(Silent::Refused(..)) => {
                if let Err(error) = on_disk(&file, move |file| file.set(was_on)).await {
                    error!(%error, "maintenance was refused, and will be in force at the next start all the same");
                }
            }
        }
        Ok(answer?)
    }

    /// Reads the configuration anew.
    ///
    /// # Errors
    /// When the services do not answer.
    pub async fn reload(&self) -> Result<ReloadReport, Silent> {
        // One at a time, and few that wait.
        ask_within("service", RELOAD_WITHIN, |reply| {
            self.reload.try_send(reply).map_err(|error| match error {
                TrySendError::Full(_) => PostError::Full,
                TrySendError::Closed(_) => PostError::Closed,
            })
        })
        .await
    }

    /// The other node of a pair.
    fn peer(&self) -> String {
        self.nodes.iter().find(|node| **node != self.node).cloned().unwrap_or_default()
    }
}

/// Disks are slow at times: in a thread of its own, so that the services go on.
async fn on_disk<T: Send + 'static>(
    file: &MaintenanceFile,
    work: impl FnOnce(&MaintenanceFile) -> Result<T, MaintenanceError> + Send + 'static,
) -> Result<T, OperateError> {
    let file = file.clone();
    Ok(tokio::task::spawn_blocking(move || work(&file)).await.map_err(|_| OperateError::Died)??)
}

/// For how long a client has to wait for the daemon's answer to a request that takes `within`.
pub fn answer_within(within: Duration) -> Duration {
    within.min(WAIT_MAX) + ANSWER_WITHIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loops::tests::loops;
    use crate::mailbox::Mailbox;
    use crate::status::ControlStatus;
    use std::sync::Arc;
    use tokio::sync::Mutex;

    /// Answers the control loop's requests: its role, and what it says to the others, which it notes.
    async fn serve(control: Mailbox<ControlRequest>, role: &str, outcome: Option<HandOverOutcome>) -> Vec<String> {
        let mut seen = Vec::new();
        let mut unanswered = Vec::new();
        for _ in 0..100 {
            match control.next() {
                Some(ControlRequest::Status(reply)) => {
                    let _ = reply.send(ControlStatus { role: role.to_owned(), ..ControlStatus::default() });
                }
                Some(ControlRequest::HandOver { force, reply }) => {
                    seen.push(format!("hand over {force}"));
                    unanswered.extend(answer(reply, outcome.clone()));
                }
                Some(ControlRequest::Want { reply }) => {
                    seen.push("want".to_owned());
                    unanswered.extend(answer(reply, outcome.clone()));
                }
                Some(other) => panic!("{other:?}"),
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
        seen
    }

    type Reply = tokio::sync::oneshot::Sender<HandOverOutcome>;

    fn answer(reply: Reply, outcome: Option<HandOverOutcome>) -> Option<Reply> {
        match outcome {
            Some(outcome) => reply.send(outcome).map_or(None, |()| None),
            None => Some(reply),
        }
    }

    /// The direction follows from role and name; what makes no sense is refused without asking the loop for it.
    #[tokio::test]
    async fn who_is_asked_for_what() {
        let done = || Some(HandOverOutcome::Done { took_ms: 3.0 });
        let refused = |refusal| Some(HandOverOutcome::Refused(refusal));
        let cases = [
            ("master", None, "fw2", "hand over true", done()),
            ("master", Some("fw2"), "fw2", "hand over true", done()),
            ("backup", None, "fw1", "want", done()),
            ("master", Some("fw1"), "fw1", "", refused(HandOverRefusal::AlreadyMaster)),
            ("backup", Some("fw2"), "fw2", "", refused(HandOverRefusal::NotMaster)),
        ];
        for (role, to, expected_to, expected_request, expected) in cases {
            let (loops, control, _sync) = loops();
            let asked = loops.fail_over(to, true, true, Duration::from_secs(5));
            let (report, seen) = tokio::join!(asked, serve(control, role, done()));
            let report = report.unwrap();
            assert_eq!((report.to.as_str(), &report.outcome), (expected_to, &expected), "{role} {to:?}");
            assert_eq!(seen.join(","), expected_request, "{role} {to:?}");
        }
        let (loops, control, _sync) = loops();
        let asked = loops.fail_over(Some("fw3"), false, false, Duration::from_secs(5));
        let (report, _) = tokio::join!(asked, serve(control, "master", None));
        assert!(report.unwrap_err().to_string().contains("choose from fw1, fw2"));
    }

    /// A hand-over that goes on is reported as begun, at once without `wait` and after its time with it.
    #[tokio::test]
    async fn a_hand_over_that_goes_on() {
        for wait in [false, true] {
            let (loops, control, _sync) = loops();
            let asked = loops.fail_over(None, false, wait, Duration::from_millis(100));
            let (report, seen) = tokio::join!(asked, serve(control, "master", None));
            assert_eq!(report.unwrap(), HandOverReport { to: "fw2".to_owned(), outcome: None });
            assert_eq!(seen, ["hand over false"]);
        }
    }

    /// Maintenance is on disk when the loop is told, goes away when the loop refuses, and stays when it agrees.
    #[tokio::test]
    async fn maintenance_is_written_first() {
        let directory = tempfile::tempdir().unwrap();
        let file = MaintenanceFile::new(directory.path(), "fw1");
        let (mut loops, control, _sync) = loops();
        loops.maintenance = Arc::new(Mutex::new(file.clone()));
        let refusal = MaintenanceOutcome::Refused(HandOverRefusal::PeerUnknown);
        let agreed = MaintenanceOutcome::Set { took_ms: None };
        for (on, outcome, after) in [(true, &refusal, false), (true, &agreed, true), (false, &agreed, false)] {
            let control_loop = async {
                loop {
                    match control.next() {
                        Some(ControlRequest::Maintenance { on: told, force, reply }) => {
                            assert_eq!((told, force, file.is_on().unwrap()), (on, false, on));
                            reply.send(outcome.clone()).unwrap();
                            return;
                        }
                        Some(other) => panic!("{other:?}"),
                        None => tokio::time::sleep(Duration::from_millis(2)).await,
                    }
                }
            };
            let (answer, ()) = tokio::join!(loops.maintain(on, false), control_loop);
            assert_eq!(answer.unwrap(), *outcome);
            assert_eq!(file.is_on().unwrap(), after);
        }
        drop(control);
        assert!(matches!(loops.maintain(true, true).await, Err(OperateError::Silent(Silent::Refused(..)))));
        assert!(!file.is_on().unwrap());
    }

    /// Without a state directory nothing is asked of the loop.
    #[tokio::test]
    async fn no_state_directory_no_maintenance() {
        let (loops, control, _sync) = loops();
        let error = loops.maintain(true, true).await.unwrap_err();
        assert!(error.to_string().contains("state_directory"), "{error}");
        assert!(control.next().is_none());
    }
}
