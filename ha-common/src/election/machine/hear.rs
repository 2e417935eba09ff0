//! What a valid advert means to each role (carp-wire §8).

use super::Election;
use super::member::{Heard, Member};
use super::silence::Hold;
use crate::election::compare::Interval;
use crate::election::timers::CROSSED_JITTER_MAX;
use crate::election::{Action, Cause, ForeignMasters, HandOverEnd, ReceivedAdvert};
use crate::reason::DropReason;
use crate::role::Role;
use crate::sight::Sight;
use crate::time::Instant;
use core::cmp::Ordering;
use core::time::Duration;

impl Election {
    pub(super) fn on_advert(&mut self, now: Instant, received: &ReceivedAdvert, actions: &mut Vec<Action>) {
        let index = usize::from(received.member.0);
        let Some(member) = self.members.get_mut(index) else { return };
        if let Err(reason) = member.admit(received) {
            self.count_refused(index, reason);
            return;
        }
        self.stats.adverts_accepted += 1;
        let heard = Member::heard(received, now);
        self.note_waiting(now, heard.at);
        self.confirm_step_down(heard.interval, actions);
        if let Some(last) = self.stats.heard.get_mut(index) {
            *last = Some((heard.source, heard.at));
        }
        match self.role {
            Role::Init | Role::Fault => self.follow(now, index, heard),
            Role::Backup => self.hear_as_backup(now, index, heard, actions),
            Role::Master => self.hear_as_master(now, index, heard, actions),
        }
    }

    /// After a forced step-down: somebody masters.
    fn confirm_step_down(&mut self, interval: Interval, actions: &mut Vec<Action>) {
        if interval != Interval::GOODBYE && self.stepped_down.take().is_some() {
            self.end_wish(HandOverEnd::Done, actions);
        }
    }

    /// Remembers who masters. A goodbye is not from a master any more.
    fn follow(&mut self, now: Instant, index: usize, heard: Heard) {
        if let Some(member) = self.members.get_mut(index)
            && heard.interval != Interval::GOODBYE
        {
            member.follow(heard, now, self.timing.master_down);
        }
    }

    fn hear_as_backup(&mut self, now: Instant, index: usize, heard: Heard, actions: &mut Vec<Action>) {
        if heard.interval.is_goodbye(self.configured_interval(), self.config.dead_ratio) {
            self.hear_goodbye(now, index, heard, actions);
            return;
        }
        let master_down = self.timing.master_down;
        if let Some(member) = self.members.get_mut(index) {
            member.follow(heard, now, master_down);
            member.arm(heard.at, master_down);
        }
        // Of a peer that is heard by heartbeats the words decide, and whether it is heard must be known.
        if self.pair.sight != Sight::Unknown || self.pair.is_blind(now) {
            return;
        }
        self.judge_adverts(now, actions);
    }

    /// The peer has not answered after this node was away: adverts decide, with those that waited.
    pub(super) fn judge_what_waited(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.role {
            Role::Init | Role::Master | Role::Fault => {}
            // They were goodbyes.
            Role::Backup if self.members.iter().all(|member| member.silence.is_some()) => {
                self.take_over_if_silent(now, actions);
            }
            Role::Backup => self.judge_adverts(now, actions),
        }
    }

    /// What a backup makes of the adverts heard, where they decide.
    fn judge_adverts(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.preempt_if_better(now, actions);
        // A member that was silent before an advert may be the silent half of a foreign peer.
        if self.role == Role::Backup {
            self.take_over_if_silent(now, actions);
        }
    }

    /// The master leaves, or will be silent for longer than we would wait: the group is taken at once and as a unit.
    fn hear_goodbye(&mut self, now: Instant, index: usize, heard: Heard, actions: &mut Vec<Action>) {
        let master_down = self.timing.master_down;
        if !self.members.get(index).is_some_and(|member| member.is_bereft_by(heard.source, now, master_down)) {
            return;
        }
        // The winner of a contact may so far have been heard on one member only. On the others this node still follows
        // whom it followed before, perhaps another loser, whose goodbye says nothing about the winner.
        if self.pair.sight != Sight::Unknown {
            self.members.get_mut(index).into_iter().for_each(Member::forget_masters);
            return;
        }
        let yielded = self.lately_yielded(now);
        if yielded.is_some_and(|yielded| yielded.member != index) {
            return;
        }
        for member in &mut self.members {
            member.forget_masters();
            member.disarm(Some(Cause::Goodbye));
        }
        // Two masters that each lost a tie to the other retire at the same moment, and so would return. A random
        // moment lets one of them be first.
        if yielded.is_some_and(|yielded| yielded.by_tie) && self.hold.is_none() {
            let span = u64::try_from(CROSSED_JITTER_MAX.as_nanos()).unwrap_or(u64::MAX);
            let jitter = Duration::from_nanos(self.prng.draw() % span.max(1));
            self.hold = Some(Hold { until: now + jitter });
        }
        self.take_over_if_silent(now, actions);
    }

    fn hear_as_master(&mut self, now: Instant, index: usize, heard: Heard, actions: &mut Vec<Action>) {
        if heard.interval == Interval::GOODBYE {
            // The loser of a contact confirms that it has retired; to a master it says nothing more.
            self.claim.contested();
            if self.contact.is_some() {
                self.end_contact(now, actions);
            }
            return;
        }
        if self.pair.sight == Sight::Unknown {
            self.meet(now, index, heard, actions);
        } else {
            self.suspect = Some((index, heard));
        }
    }

    /// Judges the last advert of another master by words of the peer that are newer than it.
    pub(super) fn judge_suspect(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some((index, heard)) = self.suspect else { return };
        if matches!(self.pair.sight, Sight::Alive(report) if report.asked <= heard.at) {
            return;
        }
        self.suspect = None;
        if !self.is_foreign(heard.interval, heard.at) {
            return;
        }
        match self.config.foreign_masters {
            ForeignMasters::Follow => self.meet(now, index, heard, actions),
            ForeignMasters::Refuse => self.count_refused(index, DropReason::ForeignMaster),
        }
    }

    fn count_refused(&mut self, index: usize, reason: DropReason) {
        if let Some(count) = self.stats.refused.get_mut(index).and_then(|row| row.get_mut(reason as usize)) {
            *count += 1;
        }
    }

    /// Two masters, of whom CARP's rules leave one.
    fn meet(&mut self, now: Instant, index: usize, heard: Heard, actions: &mut Vec<Action>) {
        self.follow(now, index, heard);
        self.note_contact(now, heard.interval);
        match self.interval().cmp(&heard.interval) {
            Ordering::Less => self.answer(now, index, actions),
            Ordering::Greater => self.yield_to(now, index, Cause::BetterMaster, actions),
            Ordering::Equal if self.wins_tie_against(now, index, &heard) => self.answer(now, index, actions),
            Ordering::Equal => self.yield_to(now, index, Cause::TieBreak, actions),
        }
    }
}
