//! The ways into and out of MASTER. A transition is always the first of its actions.

use super::Election;
use crate::election::compare::Interval;
use crate::election::{Action, Cause, Transition, VipState};
use crate::role::Role;
use crate::time::Instant;

/// How often a goodbye is said: a lost one costs the peer its whole master-down time.
const GOODBYES: usize = 2;

impl Election {
    /// Takes the whole group: addresses, announcements, adverts, in this order, so that the addresses answer when the
    /// announcement draws traffic to them.
    pub(super) fn become_master(&mut self, now: Instant, cause: Cause, actions: &mut Vec<Action>) {
        let last_heard = self.stats.heard.iter().flatten().map(|(_, at)| *at).max();
        self.transition(now, Role::Master, cause, last_heard, actions);
        self.hold = None;
        for member in &mut self.members {
            member.disarm(None);
            member.advert_at = Some(now);
        }
        actions.push(Action::Vips(VipState::Present));
        self.announcer.start(now);
        self.announce_all(actions);
        for index in 0..self.members.len() {
            self.advertise(now, index, actions);
        }
    }

    /// Goes to a role that holds no addresses, from whatever role. Out of MASTER the goodbyes go first: the peer can
    /// take over while the addresses are being removed here. Out of INIT the addresses that a crash may have left
    /// behind are removed.
    pub(super) fn leave(&mut self, now: Instant, to: Role, cause: Cause, actions: &mut Vec<Action>) {
        let from = self.role;
        self.transition(now, to, cause, None, actions);
        if from == Role::Master {
            self.say_goodbye(actions);
        }
        if matches!(from, Role::Master | Role::Init) || cause == Cause::Stop {
            actions.push(Action::Vips(VipState::Absent));
        }
        self.announcer.stop();
        self.claim.end(now);
        self.contact = None;
        self.hold = None;
        for member in &mut self.members {
            member.advert_at = None;
            member.disarm(None);
            if to == Role::Backup {
                member.arm(now, self.timing.master_down);
            }
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
        let transition = Transition { at, from: self.role, to, cause, last_heard };
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
