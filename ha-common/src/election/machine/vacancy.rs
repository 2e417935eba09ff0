//! A backup that hears its peer by heartbeats: when it takes the group, and on what grounds nobody else can.

use super::Election;
use super::pair::Candidacy;
use super::rank::{Rank, is_able};
use crate::election::lease::owner;
use crate::election::timers::{CONTROLLER_GONE, FRESH, VACANCY_MAX};
use crate::election::{Action, Cause, Wait};
use crate::role::Role;
use crate::sight::{PeerReport, Sight};
use crate::time::Instant;
use crate::wire::heartbeat::{FLAG_OFFER, ROLE_MASTER};

impl Election {
    /// Takes the group if it is vacant, offered, or its master dead, and this node is the one to have it.
    pub(super) fn look_for_vacancy(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let verdict = match self.pair.sight {
            // Adverts decide; what they wait for is told all the same.
            Sight::Unknown if self.maintenance => Verdict::Wait(Some(Wait::Maintenance)),
            Sight::Unknown => Verdict::Wait(self.preemption.waits_since().map(|_| Wait::NotInSync)),
            Sight::Silent { last } => self.judge_silent_peer(now, &last),
            Sight::Alive(report) => self.judge_words(now, &report),
        };
        if !matches!(self.pair.sight, Sight::Alive(_)) {
            self.pair.vacant_since = None;
        }
        match verdict {
            Verdict::Served => self.pair.vacant_since = None,
            Verdict::Wait(wait) => self.wait = wait,
            Verdict::Announce => self.announce_candidacy(now),
            Verdict::TakeOver(cause) => self.become_master(now, cause, actions),
        }
    }

    /// Its kernel answers on no path: with it, its gate is gone.
    fn judge_silent_peer(&self, now: Instant, last: &PeerReport) -> Verdict {
        if let Some(wait) = self.cannot_take() {
            return Verdict::Wait(wait);
        }
        if self.follows_foreign(now) {
            return Verdict::Served;
        }
        if !self.pair.trusts_silence(now) {
            return Verdict::Wait(Some(Wait::Quarantine));
        }
        let mastered = last.standing.role == ROLE_MASTER;
        Verdict::TakeOver(if mastered { Cause::PeerDead } else { Cause::NoMaster })
    }

    fn judge_words(&mut self, now: Instant, report: &PeerReport) -> Verdict {
        if report.serves() && !report.standing.has(FLAG_OFFER) {
            return Verdict::Served;
        }
        if let Some(wait) = self.cannot_take() {
            return Verdict::Wait(wait);
        }
        // What was said long ago may not be true any more.
        if now.since(report.asked) > FRESH {
            return Verdict::Wait(self.wait);
        }
        if report.serves() {
            return Verdict::TakeOver(self.cause_of_hand_over(report));
        }
        if report.has_lapsed() {
            return self.judge_lapsed(now, report);
        }
        if report.standing.role == ROLE_MASTER || self.follows_foreign(now) {
            return Verdict::Served;
        }
        self.judge_vacancy(now, report)
    }

    /// The peer's gate is closed for good in its term; in another it has to ask this node.
    fn judge_lapsed(&self, now: Instant, report: &PeerReport) -> Verdict {
        // A promise for a candidacy that became this very mastership is kept.
        if self.pair.has_promised(now) && report.term < self.pair.term {
            return Verdict::Wait(Some(Wait::PeerFirst));
        }
        if self.pair.is_careful(now) {
            return Verdict::Wait(Some(Wait::Quarantine));
        }
        Verdict::TakeOver(Cause::LeaseLapsed)
    }

    fn judge_vacancy(&mut self, now: Instant, report: &PeerReport) -> Verdict {
        let since = *self.pair.vacant_since.get_or_insert(now);
        if self.pair.has_promised(now) {
            return Verdict::Wait(Some(Wait::PeerFirst));
        }
        let absent = report.beat_age >= CONTROLLER_GONE;
        let peer = self.config.peer_node.map(|node| Rank::of(report.standing, node));
        let peer = peer.map(|rank| if absent { rank.without_controller() } else { rank });
        let own = Rank::of(self.standing(now), self.config.node);
        if peer.is_some_and(|peer| peer < own) && now.since(since) < VACANCY_MAX {
            return Verdict::Wait(Some(Wait::PeerFirst));
        }
        // The last master let go by itself: it has to ask before it is master again. A controller that does not run
        // has to be careful when it runs again.
        let let_go = report.term == self.pair.term && owner(report.term) == self.config.peer_node;
        if (let_go || absent) && !self.pair.is_careful(now) {
            return Verdict::TakeOver(Cause::NoMaster);
        }
        match self.pair.candidacy.filter(|candidacy| candidacy.is_valid(now)) {
            Some(candidacy) if candidacy.term == report.term => Verdict::TakeOver(Cause::NoMaster),
            Some(_) => Verdict::Wait(Some(Wait::Announced)),
            None => Verdict::Announce,
        }
    }

    fn announce_candidacy(&mut self, now: Instant) {
        let term = self.new_term();
        self.pair.candidacy = Some(Candidacy { term, since: now });
        self.wait = Some(Wait::Announced);
    }

    /// What keeps this node from taking anything, named where it is not plain from the role.
    fn cannot_take(&self) -> Option<Option<Wait>> {
        if self.maintenance {
            return Some(Some(Wait::Maintenance));
        }
        if self.hold.is_some() {
            return Some(Some(Wait::Suspended));
        }
        (self.role != Role::Backup || self.is_stopping()).then_some(None)
    }

    /// Whether the peer can take the group at all.
    pub(super) fn is_able_peer(report: &PeerReport) -> bool {
        is_able(report.standing) && report.beat_age < CONTROLLER_GONE
    }
}

/// What a backup does about its peer.
enum Verdict {
    /// Somebody masters, or is about to.
    Served,
    Wait(Option<Wait>),
    Announce,
    TakeOver(Cause),
}
