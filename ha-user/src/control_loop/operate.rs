//! What operators ask for: hand-over, maintenance, and the ways to end.

use super::ControlLoop;
use crate::clock;
use crate::request::{HandOverOutcome, HandOverRefusal, MaintenanceOutcome, SyncRequest};
use ha_common::election::{Command, HandOverEnd, HandOverPhase, Input, Refusal};
use ha_common::role::Role;
use ha_common::time::Instant;
use tokio::sync::oneshot;

/// Requests that wait for the same hand-over; more are refused.
const WAITING_MAX: usize = 16;

/// Who waits for the end of a hand-over.
#[derive(Default)]
pub(super) struct Operators {
    waiting: Vec<Waiting>,
    /// By position in [`HandOverRefusal::ALL`].
    pub(super) refused: [u64; HandOverRefusal::ALL.len()],
}

struct Waiting {
    since: Instant,
    reply: Reply,
}

enum Reply {
    HandOver(oneshot::Sender<HandOverOutcome>),
    Maintenance(oneshot::Sender<MaintenanceOutcome>),
}

impl ControlLoop {
    pub(super) fn hand_over(&mut self, command: Command, reply: oneshot::Sender<HandOverOutcome>) {
        self.ask(command, Reply::HandOver(reply));
    }

    /// A master gives the group away first, and is under maintenance once that is done; any other node is at once.
    pub(super) fn maintenance(&mut self, on: bool, force: bool, reply: oneshot::Sender<MaintenanceOutcome>) {
        if on && self.election.stats().role == Role::Master {
            self.ask(Command::HandOver { force }, Reply::Maintenance(reply));
        } else {
            self.feed(Input::Command(Command::Maintenance(on)));
            drop(reply.send(MaintenanceOutcome::Set { took_ms: None }));
        }
    }

    /// The election answers each request by [`ha_common::election::Action::HandOverEnded`], now or later.
    fn ask(&mut self, command: Command, reply: Reply) {
        let waiting = Waiting { since: clock::now(), reply };
        if self.operators.waiting.len() >= WAITING_MAX {
            waiting.answer(HandOverEnd::Refused(Refusal::Busy), clock::now());
            return;
        }
        self.operators.waiting.push(waiting);
        self.feed(Input::Command(command));
    }

    /// Tells everybody who waits.
    pub(super) fn hand_over_ended(&mut self, end: HandOverEnd) {
        let now = clock::now();
        match end {
            HandOverEnd::Done | HandOverEnd::TimedOut => {}
            HandOverEnd::Refused(refusal) => {
                if let Some(count) = self.operators.refused.get_mut(words(refusal) as usize) {
                    *count += 1;
                }
            }
        }
        tracing::info!(?end, "hand-over ended");
        let waiting = std::mem::take(&mut self.operators.waiting);
        let maintenance = waiting.iter().any(|waiting| matches!(waiting.reply, Reply::Maintenance(_)));
        if maintenance && end == HandOverEnd::Done {
            self.feed(Input::Command(Command::Maintenance(true)));
        }
        for waiting in waiting {
            waiting.answer(end, now);
        }
    }

    /// A hand-over that has just begun waits for the newest flows: the sync loop is asked to say when they have arrived.
    pub(super) fn drain_if_handing_over(&mut self) {
        let hand_over = self.election.stats().hand_over;
        let draining = hand_over.filter(|over| over.phase == HandOverPhase::Draining).map(|over| over.since);
        if draining.is_some() && draining != self.draining {
            // A full mailbox only costs the wait: the election goes on without the answer.
            let _ = self.sync.post(SyncRequest::Flush);
        }
        self.draining = draining;
    }
}

impl Waiting {
    fn answer(self, end: HandOverEnd, now: Instant) {
        let ms = now.since(self.since).as_secs_f64() * 1e3;
        // Whoever asked may have given up waiting: that is its affair.
        match self.reply {
            Reply::HandOver(reply) => drop(reply.send(match end {
                HandOverEnd::Done => HandOverOutcome::Done { took_ms: ms },
                HandOverEnd::Refused(refusal) => HandOverOutcome::Refused(words(refusal)),
                HandOverEnd::TimedOut => HandOverOutcome::Unconfirmed { waited_ms: ms },
            })),
            Reply::Maintenance(reply) => drop(reply.send(match end {
                HandOverEnd::Done => MaintenanceOutcome::Set { took_ms: Some(ms) },
                HandOverEnd::Refused(refusal) => MaintenanceOutcome::Refused(words(refusal)),
                HandOverEnd::TimedOut => MaintenanceOutcome::Unconfirmed { waited_ms: ms },
            })),
        }
    }
}

/// The core's refusal in the words of the interface.
fn words(refusal: Refusal) -> HandOverRefusal {
    match refusal {
        Refusal::PeerUnknown => HandOverRefusal::PeerUnknown,
        Refusal::PeerNotReady => HandOverRefusal::PeerUnfit,
        Refusal::NotMaster => HandOverRefusal::NotMaster,
        Refusal::AlreadyMaster => HandOverRefusal::AlreadyMaster,
        Refusal::NotReady => HandOverRefusal::Unfit,
        Refusal::Busy => HandOverRefusal::InProgress,
    }
}
