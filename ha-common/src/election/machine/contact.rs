//! Contact: this node is master and hears another one, for instance after a partition has healed.

use super::Election;
use super::member::Heard;
use super::transition::Farewell;
use crate::election::compare::{Interval, wins_tie};
use crate::election::timers::{ANSWER_SPACING, CONTACT_QUIET_MAX, TIE_DISPUTE, advert_interval};
use crate::election::{Action, Cause};
use crate::role::Role;
use crate::sight::Sight;
use crate::time::Instant;
use crate::wire::heartbeat::{FLAG_OFFER, ROLE_MASTER};

/// One contact, from the first advert of another master until none has been heard for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contact {
    since: Instant,
    pub(super) quiet_at: Instant,
}

/// A contact that this node lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Yielded {
    pub(super) at: Instant,
    /// Where the winner was heard.
    pub(super) member: usize,
    pub(super) by_tie: bool,
}

impl Election {
    /// Retires in favour of the master just heard on one member.
    pub(super) fn yield_to(&mut self, now: Instant, member: usize, cause: Cause, actions: &mut Vec<Action>) {
        self.leave(now, Role::Backup, cause, actions);
        self.yielded = Some(Yielded { at: now, member, by_tie: cause == Cause::TieBreak });
    }

    /// The contact lost within the last master-down time.
    pub(super) fn lately_yielded(&self, now: Instant) -> Option<Yielded> {
        self.yielded.filter(|yielded| now.since(yielded.at) < self.timing.master_down)
    }

    /// A peer that is heard by heartbeats and serves as well: the newer term stays, and is known to both.
    pub(super) fn look_for_rival(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Sight::Alive(report) = self.pair.sight else { return };
        let own = self.own_term.unwrap_or(0);
        match (report.serves(), self.giving.filter(|_| self.is_offering())) {
            (true, Some(giving)) if report.term > own => self.complete_hand_over(now, giving, actions),
            (true, _) if report.term > own => {
                self.count_rival();
                self.leave_with(now, Role::Backup, Cause::Superseded, Farewell::Quiet, actions);
            }
            _ if report.standing.role == ROLE_MASTER => {
                // A gate that was closed in a living lease was closed by this node's probes. Who offers the group is about
                // to let go of it, as planned.
                let was_open = report.serves() || !report.lease_left.is_zero();
                let was_open = was_open && !report.standing.has(FLAG_OFFER);
                if was_open {
                    self.count_rival();
                }
            }
            _ if self.pair.rival => {
                self.pair.rival = false;
                self.end_contact(now, actions);
            }
            (true | false, _) => {}
        }
    }

    /// The peer serves while this node's gate is open, or was until the peer's probe closed it: one contact, as long as it lasts.
    pub(super) fn count_rival(&mut self) {
        self.stats.dual_master_contacts += u64::from(!self.pair.rival);
        self.pair.rival = true;
    }

    /// Begins or prolongs the contact.
    pub(super) fn note_contact(&mut self, now: Instant, other: Interval) {
        self.claim.contested();
        let theirs = advert_interval(u8::try_from(other.advbase).unwrap_or(u8::MAX), other.advskew);
        let quiet = (theirs.max(self.timing.advert) * 2).min(CONTACT_QUIET_MAX);
        if self.contact.is_none() {
            self.stats.dual_master_contacts += 1;
        }
        let since = self.contact.map_or(now, |contact| contact.since);
        self.contact = Some(Contact { since, quiet_at: now + quiet });
    }

    /// The other master is gone: whoever learned its hardware address must learn ours.
    pub(super) fn end_contact(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.contact = None;
        self.announcer.start(now);
        self.announce_all(actions);
    }

    /// Reasserts this node against a worse master: an advert, for it to retire, and an announcement. Not more often
    /// than [`ANSWER_SPACING`], so that two masters (or a flood of replayed adverts) do not echo each other.
    pub(super) fn answer(&mut self, now: Instant, index: usize, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get_mut(index) else { return };
        if !member.may_answer(now, ANSWER_SPACING) {
            return;
        }
        // The answer takes the place of the next regular advert.
        member.advert_at = Some(now);
        let id = member.id;
        self.advertise(now, index, actions);
        actions.push(Action::Announce { member: id });
    }

    /// Who stays at equal intervals.
    ///
    /// With a twinwall peer the lower node id stays: by addresses, each node could win on one of the members. With
    /// any other, addresses decide per VHID as they do in ucarp, and losing one member loses the group. When the
    /// contact lasts, the two nodes do not use the same rule (one of them has never met the other on the sync link),
    /// and the addresses decide, because on each segment exactly one address wins.
    pub(super) fn wins_tie_against(&self, now: Instant, index: usize, heard: &Heard) -> bool {
        let disputed = self.contact.is_some_and(|contact| now.since(contact.since) >= TIE_DISPUTE);
        if let Some(peer) = self.config.peer_node.filter(|_| self.peer_seen && !disputed) {
            return self.config.node < peer;
        }
        let own = self.members.get(index).and_then(|member| member.own_address(heard.source));
        // Without an own address of that family nothing of ours is heard there: the other family decides.
        own.is_none_or(|own| wins_tie(own, heard.source))
    }
}
