//! The ways into and out of MASTER. A transition is always the first of its actions.

use super::Election;
use crate::election::compare::Interval;
use crate::election::{Action, Cause, HandOverEnd, LeaseOrder, Transition, VipState};
use crate::role::Role;
use crate::sight::Sight;
use crate::time::Instant;

/// How often a goodbye is said: a lost one costs the peer its whole master-down time.
const GOODBYES: usize = 2;

/// How a master takes its leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Whoever waits for adverts may take over at once.
    Goodbye,
    /// Somebody else is master already, or may be: a goodbye would only confuse those who follow it.
    Quiet,
    /// The same, and the addresses stay for a moment, for the packets under way to this node.
    Linger,
}

impl Election {
    /// Takes the whole group in a new term.
    pub(super) fn become_master(&mut self, now: Instant, cause: Cause, actions: &mut Vec<Action>) {
        let term = self.new_term();
        self.take(now, term, cause, actions);
    }

    /// Takes the whole group: lease, addresses, announcements, adverts, in this order, so that the kernel lets traffic
    /// in and the addresses answer when the announcement draws it to them.
    pub(super) fn take(&mut self, now: Instant, term: u64, cause: Cause, actions: &mut Vec<Action>) {
        let last_heard = self.last_sign_of_life();
        self.own_term = Some(term);
        self.transition(now, Role::Master, cause, last_heard, actions);
        self.mastered = true;
        self.pair.term = self.pair.term.max(term);
        self.pair.candidacy = None;
        self.pair.rival = false;
        self.hold = None;
        self.linger_until = None;
        self.stands_back_until = None;
        self.wanted = None;
        for member in &mut self.members {
            member.disarm(None);
            member.advert_at = Some(now);
        }
        actions.extend(self.lease().map(|lease| Action::Lease(LeaseOrder::Open(lease))));
        actions.push(Action::Vips(VipState::Present));
        self.announcer.start(now);
        self.announce_all(actions);
        for index in 0..self.members.len() {
            self.advertise(now, index, actions);
        }
        if self.stepped_down.take().is_some() {
            self.end_wish(HandOverEnd::TimedOut, actions);
        }
    }

    fn last_sign_of_life(&self) -> Option<Instant> {
        let advert = self.stats.heard.iter().flatten().map(|(_, at)| *at).max();
        let heartbeat = match self.pair.sight {
            Sight::Alive(report) | Sight::Silent { last: report } => Some(report.heard),
            Sight::Unknown => None,
        };
        heartbeat.or(advert)
    }

    /// Goes to a role that holds no addresses, from whatever role, with goodbyes where they are due.
    pub(super) fn leave(&mut self, now: Instant, to: Role, cause: Cause, actions: &mut Vec<Action>) {
        self.leave_with(now, to, cause, Farewell::Goodbye, actions);
    }

    /// The gate is closed first. Out of MASTER the goodbyes go next: the peer can take over while the addresses are being
    /// removed here. Out of INIT the addresses that a crash may have left behind are removed.
    pub(super) fn leave_with(
        &mut self,
        now: Instant,
        to: Role,
        cause: Cause,
        farewell: Farewell,
        actions: &mut Vec<Action>,
    ) {
        let from = self.role;
        self.transition(now, to, cause, None, actions);
        let held = self.own_term.take().or(self.resume.take()).is_some();
        if held {
            actions.push(Action::Lease(LeaseOrder::Closed));
        }
        if from == Role::Master {
            if farewell == Farewell::Goodbye {
                self.say_goodbye(actions);
            }
            if matches!(cause, Cause::LinkDown | Cause::LeaseLost | Cause::Demoted) {
                self.damper.note_loss(now);
            }
        }
        let lingered = self.linger_until.take().is_some();
        if from == Role::Master && farewell == Farewell::Linger {
            self.linger_until = Some(now + self.config.times.linger);
        } else if matches!(from, Role::Master | Role::Init) || cause == Cause::Stop || lingered {
            actions.push(Action::Vips(VipState::Absent));
        }
        self.announcer.stop();
        self.claim.end(now);
        self.contact = None;
        self.suspect = None;
        self.hold = None;
        self.pair.vacant_since = None;
        for member in &mut self.members {
            member.advert_at = None;
            member.disarm(None);
            if to == Role::Backup {
                member.arm(now, self.timing.master_down);
            }
        }
        if from == Role::Master && farewell != Farewell::Linger {
            self.forget_giving(actions);
        }
        self.giving = None;
        if self.stepped_down.take().is_some() {
            self.end_wish(HandOverEnd::TimedOut, actions);
        }
    }

    /// On every member, so that a foreign peer which only won one VHID takes the rest; except where the link is gone.
    fn say_goodbye(&mut self, actions: &mut Vec<Action>) {
        for _ in 0..GOODBYES {
            for member in self.members.iter_mut().filter(|member| member.fault().is_none()) {
                self.stats.adverts_sent += member.send(Interval::GOODBYE, &mut self.prng, actions);
            }
        }
    }

    fn transition(
        &mut self,
        at: Instant,
        to: Role,
        cause: Cause,
        last_heard: Option<Instant>,
        actions: &mut Vec<Action>,
    ) {
        let term = self.own_term.filter(|_| to == Role::Master && self.pair.is_watched).unwrap_or(0);
        let transition = Transition { at, from: self.role, to, cause, last_heard, term };
        self.role = to;
        self.preemption.on_transition(at, to);
        self.stats.transitions += 1;
        if let Some(count) = self.stats.transitions_by_cause.get_mut(cause as usize) {
            *count += 1;
        }
        self.stats.last_transition = Some(transition);
        actions.push(Action::Transition(transition));
    }
}
