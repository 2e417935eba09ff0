//! The lease of this node's mastership: its length, its loss, and going on with one after a restart.

use super::Election;
use super::rank::advertised_skew;
use super::transition::Farewell;
use crate::election::timers::{ADVERT_LATENESS, CAREFUL, FENCED_HOLD, advert_interval};
use crate::election::{Action, Cause, Lease, LeaseEvent, LeaseOrder};
use crate::role::Role;
use crate::sight::Sight;
use crate::time::Instant;
use core::time::Duration;

impl Election {
    /// The lease to be renewed now; also while the links of a resuming master are not known yet.
    pub(super) fn lease(&self) -> Option<Lease> {
        let term = self.own_term.or(self.resume)?;
        Some(Lease { term, length: self.lease_length() })
    }

    /// Short while somebody could take over within milliseconds; else long, but over before adverts decide. The first one of a
    /// mastership is short where heartbeats decide: a controller that is stopped between the decision and the opening of the gate
    /// shows the role it had before, and a peer that is back meanwhile takes a group whose controller is gone.
    fn lease_length(&self) -> Duration {
        match self.pair.sight {
            Sight::Alive(_) => self.config.times.lease_short,
            Sight::Silent { .. } if self.is_opening() => self.config.times.lease_short,
            Sight::Silent { .. } | Sight::Unknown => self.config.times.lease_long.min(self.until_adverts_decide()),
        }
    }

    /// This very moment began the mastership.
    fn is_opening(&self) -> bool {
        self.stats.last_transition.is_some_and(|last| last.to == Role::Master && last.at == self.now)
    }

    /// The least time between a freeze of this node and a takeover by a node that goes by adverts: its last advert was
    /// up to one interval before the freeze, and a demotion makes that interval longer.
    fn until_adverts_decide(&self) -> Duration {
        if self.config.advbase == 0 {
            return self.timing.master_down / 2;
        }
        let dead = Duration::from_secs(u64::from(self.config.advbase)) * u32::from(self.config.dead_ratio.max(1));
        let interval = advert_interval(self.config.advbase, advertised_skew(&self.config, self.demotion));
        dead.saturating_sub(interval + ADVERT_LATENESS).max(self.config.times.lease_short)
    }

    pub(super) fn on_lease(&mut self, now: Instant, event: LeaseEvent, actions: &mut Vec<Action>) {
        if let LeaseEvent::Fenced { closed_term } = event {
            self.pair.term = self.pair.term.max(closed_term);
        }
        if self.resume.is_some() {
            self.drop_resume(actions);
            return;
        }
        if self.role != Role::Master {
            return;
        }
        match (event, self.giving.filter(|_| self.is_offering())) {
            // The new master's first probe came before its answer to ours.
            (LeaseEvent::Fenced { .. }, Some(giving)) => self.complete_hand_over(now, giving, actions),
            (LeaseEvent::Fenced { .. }, None) => {
                self.count_rival();
                self.lose(now, Cause::Superseded, actions);
            }
            (LeaseEvent::Lapsed, _) => self.lose(now, Cause::LeaseLost, actions),
        }
        // Who closed the gate lives, even if it is heard in that direction only.
        if matches!(event, LeaseEvent::Fenced { .. }) {
            self.pair.distrust_silence(now, FENCED_HOLD);
        }
    }

    fn lose(&mut self, now: Instant, cause: Cause, actions: &mut Vec<Action>) {
        self.stats.leases_lost += 1;
        self.leave_with(now, Role::Backup, cause, Farewell::Quiet, actions);
        self.pair.be_careful(now);
        self.stands_back_until = Some(now + CAREFUL);
    }

    /// All links are up at last: on with the mastership that the lease of the last process stands for.
    pub(super) fn resume_mastering(&mut self, now: Instant, term: u64, actions: &mut Vec<Action>) {
        self.resume = None;
        self.take(now, term, Cause::Resumed, actions);
    }

    /// A newer master than the one to be resumed.
    pub(super) fn drop_stale_resume(&mut self, _now: Instant, actions: &mut Vec<Action>) {
        let newer = matches!(self.pair.sight, Sight::Alive(report) if self.resume.is_some_and(|own| report.serves() && report.term > own));
        if newer {
            self.drop_resume(actions);
        }
    }

    pub(super) fn drop_resume(&mut self, actions: &mut Vec<Action>) {
        if self.resume.take().is_some() {
            actions.push(Action::Lease(LeaseOrder::Closed));
        }
    }
}
