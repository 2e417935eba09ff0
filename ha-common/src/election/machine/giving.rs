//! A master that gives the group away: the new master is up before the old one lets go.

use super::Election;
use super::rank::Merit;
use super::transition::Farewell;
use crate::election::timers::{FRESH, HAND_OVER_RETRY};
use crate::election::{Action, Cause, HandOver, HandOverEnd, HandOverPhase, Refusal, VipState, Wait};
use crate::role::Role;
use crate::sight::{PeerReport, Sight};
use crate::time::Instant;
use crate::wire::heartbeat::{FLAG_ASKED, FLAG_READY, FLAG_WANT};

/// A hand-over under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Giving {
    pub(super) cause: Cause,
    since: Instant,
    /// Somebody waits for [`Action::HandOverEnded`].
    operator: bool,
    force: bool,
    offered_at: Option<Instant>,
}

impl Giving {
    fn new(now: Instant, cause: Cause) -> Self {
        Self { cause, since: now, operator: false, force: false, offered_at: None }
    }

    /// It is going to happen, flows or no flows.
    fn is_insistent(&self) -> bool {
        self.operator || matches!(self.cause, Cause::Stop | Cause::HandOver)
    }

    /// This node leaves anyway: a worse peer is better than none.
    fn is_leaving(&self) -> bool {
        matches!(self.cause, Cause::Stop | Cause::Maintenance)
    }
}

impl Election {
    /// The peer may take the group.
    pub(super) fn is_offering(&self) -> bool {
        self.giving.is_some_and(|giving| giving.offered_at.is_some())
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// The operator's wish on the master.
    pub(super) fn hand_over(&mut self, now: Instant, force: bool, actions: &mut Vec<Action>) {
        let new = Giving::new(now, Cause::HandOver);
        // One that is under way already goes on, for the operator.
        let giving = Giving { cause: Cause::HandOver, operator: true, force, ..self.giving.unwrap_or(new) };
        let busy = self.giving.is_some_and(|giving| giving.operator) || self.stopping;
        let refusal = match (self.role, self.sight_now(now)) {
            (Role::Init | Role::Backup | Role::Fault, _) => Some(Refusal::NotMaster),
            (Role::Master, _) if busy => Some(Refusal::Busy),
            (Role::Master, Some(report)) => self.refuse_peer(&giving, &report),
            (Role::Master, None) if force => return self.step_down(now, actions),
            (Role::Master, None) => Some(Refusal::PeerUnknown),
        };
        match refusal {
            Some(refusal) => self.end_wish(HandOverEnd::Refused(refusal), actions),
            None => self.giving = Some(giving),
        }
    }

    /// The peer's words, if it is alive and they are fresh.
    pub(super) fn sight_now(&self, now: Instant) -> Option<PeerReport> {
        match self.pair.sight {
            Sight::Alive(report) if now.since(report.asked) <= FRESH => Some(report),
            Sight::Alive(_) | Sight::Silent { .. } | Sight::Unknown => None,
        }
    }

    /// Why this peer does not get the group.
    fn refuse_peer(&self, giving: &Giving, report: &PeerReport) -> Option<Refusal> {
        let ready = report.standing.has(FLAG_READY);
        let own = u8::try_from(self.demotion).unwrap_or(u8::MAX);
        let no_worse = giving.is_leaving() || report.standing.demotion <= own;
        let fit = Self::is_able_peer(report) && (giving.force || ready && no_worse);
        (!fit).then_some(Refusal::PeerNotReady)
    }

    /// Begins, goes on with and ends hand-overs, at every input of a master.
    pub(super) fn drive_hand_over(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.giving.is_none() {
            self.giving = self.reason_to_give(now).map(|cause| Giving::new(now, cause));
        }
        let Some(giving) = self.giving else { return };
        let refusal = match self.sight_now(now) {
            // One late answer is no reason to give up.
            None if matches!(self.pair.sight, Sight::Alive(_)) => None,
            None => Some(Refusal::PeerUnknown),
            // It is taking the group at this moment.
            Some(report) if report.serves() => None,
            Some(report) => self.refuse_peer(&giving, &report),
        };
        if let Some(refusal) = refusal {
            return self.give_up(now, HandOverEnd::Refused(refusal), actions);
        }
        let times = self.config.times;
        match giving.offered_at {
            None if self.health.in_sync && self.health.flushed >= giving.since => self.offer(now),
            None if now < giving.since + times.drain => {}
            None if giving.is_insistent() => self.offer(now),
            None => self.give_up(now, HandOverEnd::TimedOut, actions),
            Some(offered_at) if now >= self.confirmed_until(&giving, offered_at) => {
                self.give_up(now, HandOverEnd::TimedOut, actions);
            }
            Some(_) => {}
        }
    }

    fn offer(&mut self, now: Instant) {
        if let Some(giving) = &mut self.giving {
            giving.offered_at = Some(now);
        }
    }

    /// Why this master should give the group away by itself.
    fn reason_to_give(&mut self, now: Instant) -> Option<Cause> {
        let report = self.sight_now(now);
        let asked = report.is_some_and(|report| report.standing.has(FLAG_ASKED));
        let better = report.filter(|report| {
            let own = Merit::of(self.standing(now));
            report.standing.has(FLAG_WANT) && Merit::of(report.standing) < own
        });
        let cause = if self.maintenance {
            Cause::Maintenance
        } else if asked {
            Cause::HandOver
        } else if let Some(better) = better {
            let demoted = u16::from(better.standing.demotion) < self.demotion;
            if demoted { Cause::Demoted } else { Cause::Preempt }
        } else {
            return None;
        };
        let wait = match report {
            None => Some(Wait::PeerUnknown),
            Some(report) => self.refuse_peer(&Giving::new(now, cause), &report).map(|_| Wait::PeerNotReady),
        };
        self.wait = wait;
        (wait.is_none() && (asked || now >= self.retry_from)).then_some(cause)
    }

    /// The peer serves in a newer term, by this node's offer.
    pub(super) fn complete_hand_over(&mut self, now: Instant, giving: Giving, actions: &mut Vec<Action>) {
        let to = if self.stopping { Role::Init } else { Role::Backup };
        self.leave_with(now, to, giving.cause, Farewell::Linger, actions);
        if giving.cause == Cause::HandOver {
            self.preemption.suspend();
        }
        if giving.operator {
            self.end_wish(HandOverEnd::Done, actions);
        }
    }

    /// The offer is withdrawn; this node stays master, unless it stops.
    fn give_up(&mut self, now: Instant, end: HandOverEnd, actions: &mut Vec<Action>) {
        let Some(giving) = self.giving.take() else { return };
        self.retry_from = now + HAND_OVER_RETRY;
        if self.stopping {
            self.leave(now, Role::Init, Cause::Stop, actions);
        }
        if giving.operator {
            self.end_wish(end, actions);
        }
    }

    /// Whatever ended the mastership also ended the hand-over.
    pub(super) fn forget_giving(&mut self, actions: &mut Vec<Action>) {
        if let Some(giving) = self.giving.take()
            && giving.operator
        {
            self.end_wish(HandOverEnd::Refused(Refusal::NotMaster), actions);
        }
    }

    /// Clean stop: by a hand-over if somebody can take the group, else by goodbyes. See [`Self::settle_stop`].
    pub(super) fn stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.stopping = true;
        let stop = Giving::new(now, Cause::Stop);
        let takes = self.sight_now(now).is_some_and(|report| self.refuse_peer(&stop, &report).is_none());
        if self.role == Role::Master && takes {
            // A hand-over that an operator waits for ends with this one.
            let before = self.giving.unwrap_or(stop);
            self.giving = Some(Giving { cause: Cause::Stop, since: now, ..before });
        } else if self.linger_until.is_none() {
            self.leave(now, Role::Init, Cause::Stop, actions);
        }
    }

    /// After [`crate::election::Command::Stop`]: the end, once there is nothing left to do.
    pub(super) fn settle_stop(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !self.stopping || self.role == Role::Master || self.linger_until.is_some() {
            return;
        }
        if self.stats.last_transition.is_none_or(|last| last.cause != Cause::Stop) {
            self.leave(now, Role::Init, Cause::Stop, actions);
        }
        self.stopped = true;
    }

    /// The end of the time for stragglers.
    pub(super) fn end_linger(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.linger_until.is_some_and(|until| until <= now) {
            self.linger_until = None;
            actions.push(Action::Vips(VipState::Absent));
        }
    }

    /// For status: what is under way on either side.
    pub(super) fn hand_over_in_progress(&self) -> Option<HandOver> {
        if let Some(giving) = self.giving {
            let phase = if giving.offered_at.is_some() { HandOverPhase::Offered } else { HandOverPhase::Draining };
            return Some(HandOver { since: giving.since, phase, cause: giving.cause });
        }
        let cause = Cause::HandOver;
        self.asked_since.map(|since| HandOver { since, phase: HandOverPhase::Asked, cause })
    }

    /// When an offer is withdrawn. Who stops does not wait for both, the flows and the confirmation, in full.
    fn confirmed_until(&self, giving: &Giving, offered_at: Instant) -> Instant {
        let from = if self.stopping { giving.since } else { offered_at };
        from + self.config.times.confirm.max(self.config.times.drain)
    }

    /// When the hand-over under way must be looked at, whatever is heard.
    pub(super) fn giving_poll_at(&self) -> Option<Instant> {
        let giving = self.giving?;
        let step = match giving.offered_at {
            None => giving.since + self.config.times.drain,
            Some(offered_at) => self.confirmed_until(&giving, offered_at),
        };
        (step > self.now).then_some(step)
    }
}
