//! Preemption: a node with a shorter interval takes over from a living master, once it holds the state.

use super::Election;
use crate::election::timers::{PREEMPT_PEER_GRACE, PREEMPT_WAIT_MAX};
use crate::election::{Action, Cause, Stats};
use crate::role::Role;
use crate::time::Instant;

/// What holds a better node back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Preemption {
    backup_since: Instant,
    waiting_since: Option<Instant>,
    suspended: bool,
}

impl Preemption {
    /// The role changes: a wait is over, and so is a suspension, unless it begins with this change.
    pub(super) fn on_transition(&mut self, now: Instant, to: Role) {
        self.waiting_since = None;
        match to {
            Role::Backup => self.backup_since = now,
            Role::Init | Role::Master | Role::Fault => self.suspended = false,
        }
    }

    /// What was waited for could not be noticed.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.backup_since = now;
        self.waiting_since = None;
    }

    pub(super) fn suspend(&mut self) {
        self.suspended = true;
    }

    /// Begins or goes on waiting for the flows; since when.
    pub(super) fn wait(&mut self, now: Instant) -> Instant {
        *self.waiting_since.get_or_insert(now)
    }

    pub(super) fn stop_waiting(&mut self) {
        self.waiting_since = None;
    }

    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.suspended
    }

    pub(super) fn backup_since(&self) -> Instant {
        self.backup_since
    }

    pub(super) fn publish(&self, stats: &mut Stats) {
        stats.preempt_waiting_since = self.waiting_since;
        stats.preempt_suspended = self.suspended;
    }
}

impl Election {
    /// Called after each advert of a living master that a backup hears.
    pub(super) fn preempt_if_better(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !self.would_preempt(now) {
            self.preemption.waiting_since = None;
            return;
        }
        if self.holds_state(now) {
            self.become_master(now, Cause::Preempt, actions);
            return;
        }
        let since = self.preemption.wait(now);
        if now.since(since) >= PREEMPT_WAIT_MAX {
            self.become_master(now, Cause::Preempt, actions);
        }
    }

    /// Equality does not preempt (carp-wire §8). Every member must either hear a master that is worse or nobody at
    /// all: with a better one on another member, the group would only be taken to be given back.
    pub(super) fn would_preempt(&self, now: Instant) -> bool {
        let delayed = now < self.preemption.backup_since + self.config.preempt_delay;
        if !self.config.preempt || self.preemption.suspended || self.maintenance || self.is_stopping() || delayed {
            return false;
        }
        let own = self.configured_interval();
        self.members.iter().all(|member| {
            member.silence.is_some() || member.best_heard(now, self.timing.master_down).is_some_and(|heard| own < heard)
        })
    }

    /// Whether there is nothing (more) to learn from the master before taking its place. A foreign master has no state
    /// for us; but right after a start a twinwall master is not known to be one yet.
    pub(super) fn holds_state(&self, now: Instant) -> bool {
        if self.health.peer_alive {
            self.health.in_sync
        } else {
            !self.peer_seen && now.since(self.preemption.backup_since) >= PREEMPT_PEER_GRACE
        }
    }
}
