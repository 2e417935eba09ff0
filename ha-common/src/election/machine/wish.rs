//! A backup that should have the group, or is told to get it: it asks the master, who hands over.

use super::Election;
use super::rank::Merit;
use crate::election::timers::{ASKING_MAX, FRESH, PREEMPT_WAIT_MAX};
use crate::election::{Action, Cause, HandOverEnd, Refusal, Wait};
use crate::role::Role;
use crate::sight::{PeerReport, Sight, role_byte};
use crate::time::Instant;
use crate::wire::heartbeat::{FLAG_ASKED, FLAG_MAINTENANCE, FLAG_OFFER, FLAG_READY, FLAG_WANT, ROLE_MASTER, Standing};

/// What a damped node's demotion seems to be while it is not MASTER.
const DAMPED_DEMOTION: u16 = 100;

impl Election {
    /// What this node tells its peer.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let mut flags = 0;
        let mut flag = |is: bool, bit: u8| flags |= if is { bit } else { 0 };
        flag(self.is_offering(), FLAG_OFFER);
        flag(self.wanted.is_some(), FLAG_WANT);
        flag(self.asked_since.is_some(), FLAG_ASKED);
        flag(self.is_ready(now), FLAG_READY);
        flag(self.maintenance, FLAG_MAINTENANCE);
        let penalty = if self.role != Role::Master && self.damper.is_damped(now) { DAMPED_DEMOTION } else { 0 };
        Standing {
            role: if self.resume.is_some() { ROLE_MASTER } else { role_byte(self.role) },
            flags,
            demotion: u8::try_from(self.demotion.saturating_add(penalty)).unwrap_or(u8::MAX),
            advbase: self.config.advbase,
            advskew: self.config.advskew,
            ..Standing::default()
        }
    }

    /// Could take the group and hold its sessions. A node that has just lost its lease stands back for a peer that can.
    fn is_ready(&self, now: Instant) -> bool {
        let fit = self.role == Role::Backup && !self.maintenance && self.hold.is_none() && !self.is_stopping();
        let stands_back = self.stands_back_until.is_some_and(|until| now < until) && self.peer_is_ready();
        fit && !stands_back && (self.holds_flows(now) || self.mastered_last())
    }

    fn peer_is_ready(&self) -> bool {
        matches!(self.pair.sight, Sight::Alive(report) if report.standing.has(FLAG_READY))
    }

    /// This node had the group last: nobody knows the flows better.
    fn mastered_last(&self) -> bool {
        crate::election::lease::owner(self.pair.term) == Some(self.config.node) && self.mastered
    }

    /// In sync, or out of patience.
    fn holds_flows(&self, now: Instant) -> bool {
        self.health.peer_alive && self.health.in_sync
            || self.preemption.waits_since().is_some_and(|since| now.since(since) >= PREEMPT_WAIT_MAX)
    }

    /// Whether this node asks for the group now, and if it would but must wait, why.
    pub(super) fn wish(&mut self, now: Instant) {
        self.wanted = None;
        let Sight::Alive(report) = self.pair.sight else { return };
        if !report.serves() || self.is_stopping() {
            return;
        }
        let Some(cause) = self.reason_to_want(now, &report) else {
            self.preemption.stop_waiting();
            return;
        };
        if self.maintenance {
            self.wait = Some(Wait::Maintenance);
            return;
        }
        let synced = self.health.peer_alive && self.health.in_sync;
        let patient = if synced { None } else { Some(self.preemption.wait(now)) };
        let wait = if cause == Cause::Preempt && self.preemption.is_suspended() {
            Some(Wait::Suspended)
        } else if self.damper.is_damped(now) {
            Some(Wait::Damped)
        } else if patient.is_some_and(|since| now.since(since) < PREEMPT_WAIT_MAX) {
            Some(Wait::NotInSync)
        } else if cause == Cause::Preempt && now < self.preemption.backup_since() + self.config.preempt_delay {
            Some(Wait::PreemptDelay)
        } else {
            None
        };
        self.wait = self.wait.or(wait);
        self.wanted = if wait.is_none() { Some(cause) } else { None };
    }

    /// A worse demotion moves the group in any case, a worse interval only with `preempt`. Equality moves nothing.
    fn reason_to_want(&self, now: Instant, report: &PeerReport) -> Option<Cause> {
        // The penalty of a damped node is no reason against wanting: it is what the node waits for.
        let own =
            Merit::of(Standing { demotion: u8::try_from(self.demotion).unwrap_or(u8::MAX), ..self.standing(now) });
        let theirs = Merit::of(report.standing);
        if own.demotion < theirs.demotion {
            Some(Cause::Demoted)
        } else if self.config.preempt && own < theirs {
            Some(Cause::Preempt)
        } else {
            None
        }
    }

    /// Why an offer that this node sees was made: as it asked for it, else by the other side's operator.
    pub(super) fn cause_of_hand_over(&self, report: &PeerReport) -> Cause {
        if report.standing.has(FLAG_MAINTENANCE) {
            return Cause::Maintenance;
        }
        match (self.asked_since, self.wanted) {
            (None, Some(cause)) => cause,
            (Some(_), _) | (None, None) => Cause::HandOver,
        }
    }

    /// The operator on this node wants the group here.
    pub(super) fn ask(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let refusal = match (self.role, self.pair.sight) {
            (Role::Master, _) => Some(Refusal::AlreadyMaster),
            (Role::Init | Role::Fault, _) => Some(Refusal::NotReady),
            (Role::Backup, _) if self.asked_since.is_some() || self.is_stopping() => Some(Refusal::Busy),
            (Role::Backup, Sight::Alive(report)) if now.since(report.asked) <= FRESH && report.serves() => {
                (!self.is_ready(now)).then_some(Refusal::NotReady)
            }
            (Role::Backup, Sight::Alive(_) | Sight::Silent { .. } | Sight::Unknown) => Some(Refusal::PeerUnknown),
        };
        match refusal {
            Some(refusal) => self.end_wish(HandOverEnd::Refused(refusal), actions),
            None => self.asked_since = Some(now),
        }
    }

    /// Ends the operator's wish when it is fulfilled or cannot be any more.
    pub(super) fn settle_wish(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(since) = self.asked_since else { return };
        let end = match self.role {
            Role::Master => HandOverEnd::Done,
            Role::Init | Role::Fault => HandOverEnd::Refused(Refusal::NotReady),
            Role::Backup if now.since(since) >= self.asking_max() => HandOverEnd::TimedOut,
            Role::Backup => return,
        };
        self.asked_since = None;
        self.end_wish(end, actions);
    }

    /// The master may wait for its flows and for the confirmation.
    pub(super) fn asking_max(&self) -> core::time::Duration {
        self.config.times.drain + self.config.times.confirm + ASKING_MAX
    }

    pub(super) fn end_wish(&mut self, end: HandOverEnd, actions: &mut Vec<Action>) {
        self.stats.hand_overs += 1;
        self.stats.hand_overs_failed += u64::from(end != HandOverEnd::Done);
        actions.push(Action::HandOverEnded(end));
    }
}
