//! What a backup makes of silence: takeover, patience, or a claim.

use super::Election;
use crate::election::claim::CLAIM_INTERVAL;
use crate::election::timers::SILENCE_SLACK;
use crate::election::{Action, Cause};
use crate::role::Role;
use crate::sight::Sight;
use crate::time::Instant;

/// A backup that stays out of the election for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) until: Instant,
}

/// What silence on some or all members calls for.
enum Verdict {
    /// Somebody masters, as far as can be heard.
    Patience,
    TakeOver(Cause),
    /// Take over from a half-dead foreign peer; by then all members are silent if the other half is dead as well.
    Claim {
        moot_at: Instant,
    },
}

impl Election {
    /// Gives up the masters whose deadline has passed.
    pub(super) fn look_for_silence(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for member in &mut self.members {
            if member.deadline.is_some_and(|deadline| deadline <= now) {
                member.disarm(Some(Cause::MasterDown));
            }
        }
        if self.hold.is_some_and(|hold| hold.until <= now) {
            self.hold = None;
        }
        self.take_over_if_silent(now, actions);
    }

    /// Maintenance begins or ends. A silence that was found meanwhile has no deadline any more: it counts now.
    pub(super) fn maintain(&mut self, now: Instant, on: bool, actions: &mut Vec<Action>) {
        self.maintenance = on;
        match self.role {
            Role::Backup => self.take_over_if_silent(now, actions),
            Role::Init | Role::Master | Role::Fault => {}
        }
    }

    pub(super) fn take_over_if_silent(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.judge_silence(now) {
            Verdict::Patience => {}
            Verdict::TakeOver(cause) => self.become_master(now, cause, actions),
            Verdict::Claim { moot_at } => {
                self.claim.begin(now, moot_at);
                self.stats.claims += 1;
                self.become_master(now, Cause::MasterDown, actions);
            }
        }
    }

    fn judge_silence(&self, now: Instant) -> Verdict {
        // Heartbeats decide, as long as there are any.
        if self.pair.sight != Sight::Unknown || self.pair.is_blind(now) {
            return Verdict::Patience;
        }
        // A goodbye explains a takeover better than the silence that followed it.
        let silent = self.members.iter().filter_map(|member| member.silence);
        let Some(cause) = silent.min_by_key(|cause| *cause != Cause::Goodbye) else { return Verdict::Patience };
        if self.hold.is_some() || self.maintenance || self.is_stopping() {
            return Verdict::Patience;
        }
        let audible = || self.members.iter().filter(|member| member.silence.is_none());
        let Some(moot_at) = audible().filter_map(|member| member.deadline).max() else {
            return Verdict::TakeOver(cause);
        };
        // A twinwall peer is never master of a part of its group: it is master, and we are cut off from it on some
        // segments. Taking over would make two masters there.
        if self.health.peer_alive {
            return Verdict::Patience;
        }
        // The deadlines of a dead peer's members do not pass at the very same moment.
        if audible().all(|member| member.deadline.is_some_and(|deadline| deadline <= now + SILENCE_SLACK)) {
            return Verdict::Patience;
        }
        // A claim that does not beat the master heard (because that one claims, too) would only make two masters.
        let heard = audible().filter_map(|member| member.best_heard(now, self.timing.master_down)).min();
        match heard {
            Some(heard) if heard <= CLAIM_INTERVAL => Verdict::Patience,
            Some(_) | None => Verdict::Claim { moot_at },
        }
    }
}
