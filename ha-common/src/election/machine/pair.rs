//! What a node knows of its only peer by heartbeats: words, terms, promises, and which adverts are the peer's.

use super::Election;
use super::member::Heard;
use crate::election::claim::CLAIM_INTERVAL;
use crate::election::compare::Interval;
use crate::election::lease::{next_term, owner};
use crate::election::timers::{AWAY, CAREFUL, PROMISE, SILENCE_PROVEN, STRAGGLERS, TAKE_OVER_WINDOW};
use crate::election::{Action, ForeignMasters};
use crate::role::Role;
use crate::sight::{PeerReport, Sight};
use crate::time::Instant;
use crate::wire::heartbeat::{ROLE_MASTER, Standing};
use core::time::Duration;

/// The two nodes' dealings with each other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pair {
    pub(super) sight: Sight,
    /// Something was told of the peer in the life of this process, if only that it is not heard.
    pub(super) is_watched: bool,
    /// This node was away, and heard nothing before. Until then its peer may answer, and is not judged by adverts that waited.
    pub(super) blind_until: Option<Instant>,
    /// The highest term known, own or the peer's, of a mastership or of a candidacy.
    pub(super) term: u64,
    /// Until then this node takes nothing on the peer's words alone: it may have promised something that it does not
    /// remember, or have read the words long ago. `None` before the first input.
    pub(super) careful_until: Option<Instant>,
    /// The peer's silence proves nothing before the second time, unless the peer was heard after the first.
    distrust: Option<(Instant, Instant)>,
    /// The peer's candidacy that this node has answered.
    pub(super) promised_until: Option<Instant>,
    pub(super) candidacy: Option<Candidacy>,
    /// Nobody masters since then, as far as can be heard.
    pub(super) vacant_since: Option<Instant>,
    /// The peer is heard without a gap: from when to when.
    heard: Option<(Instant, Instant)>,
    /// The peer's last mastership, as it was heard of.
    served: Option<Served>,
    /// MASTER: the peer serves as well.
    pub(super) rival: bool,
}

/// Masterships of the peer, one soon after the other: when that was first and last said, and in which words.
#[derive(Clone, Copy, Debug)]
struct Served {
    from: Instant,
    to: Instant,
    standing: Standing,
}

/// This node's announcement that it takes over, which the peer must answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidacy {
    pub(super) term: u64,
    pub(super) since: Instant,
}

impl Candidacy {
    /// An answer that comes later may be older than what the peer does now.
    pub(super) fn is_valid(self, now: Instant) -> bool {
        now.since(self.since) <= TAKE_OVER_WINDOW
    }
}

impl Pair {
    /// Nothing is known but a term.
    pub(super) fn new(term: u64) -> Self {
        Self { term, ..Self::default() }
    }

    /// This node's memory or view may be old.
    pub(super) fn be_careful(&mut self, now: Instant) {
        self.careful_until = Some(self.careful_until.unwrap_or(now).max(now + CAREFUL));
        if matches!(self.sight, Sight::Silent { .. }) {
            self.distrust_silence(now, SILENCE_PROVEN);
        }
    }

    /// The silence so far proves nothing.
    pub(super) fn distrust_silence(&mut self, now: Instant, hold: Duration) {
        let until = self.distrust.map_or(now, |(_, until)| until).max(now + hold);
        self.distrust = Some((now, until));
    }

    /// Silence since the last thing that was heard is what it seems.
    pub(super) fn trusts_silence(&self, now: Instant) -> bool {
        self.distrust.is_none_or(|(_, until)| until <= now)
    }

    pub(super) fn is_careful(&self, now: Instant) -> bool {
        self.careful_until.is_none_or(|until| now < until)
    }

    pub(super) fn is_blind(&self, now: Instant) -> bool {
        self.blind_until.is_some_and(|until| now < until)
    }

    pub(super) fn has_promised(&self, now: Instant) -> bool {
        self.promised_until.is_some_and(|until| now < until)
    }
}

impl Election {
    /// Called before every input: a controller that did not run for a while knows only old words.
    pub(super) fn note_absence(&mut self, now: Instant) {
        let was_away = now.since(self.now) > AWAY && self.pair.is_watched;
        if was_away || self.pair.careful_until.is_none() {
            self.pair.be_careful(now);
        }
        if was_away && self.pair.sight == Sight::Unknown {
            self.pair.blind_until = Some(now + AWAY);
        }
        // Without heartbeats yet: no deadline of a backup is later than that. The grace for the peer to show up begins anew.
        let overslept = now.since(self.now) > self.timing.master_down + AWAY;
        if overslept && self.config.peer_node.is_some() && self.role == Role::Backup {
            self.preemption.begin_anew(now);
        }
    }

    /// An advert waited for a controller that was not told anything of its peer yet: it was away as it started.
    pub(super) fn note_waiting(&mut self, now: Instant, received: Instant) {
        let is_first = !self.pair.is_watched && self.pair.blind_until.is_none();
        if self.config.peer_node.is_some() && is_first && now.since(received) > AWAY {
            self.pair.blind_until = Some(now + AWAY);
        }
    }

    pub(super) fn on_peer(&mut self, now: Instant, sight: Sight, actions: &mut Vec<Action>) {
        if self.config.peer_node.is_none() {
            return;
        }
        let before = core::mem::replace(&mut self.pair.sight, sight);
        self.pair.is_watched = true;
        self.pair.blind_until = self.pair.blind_until.filter(|_| sight == Sight::Unknown);
        match sight {
            Sight::Alive(report) => {
                self.hear_words(now, &report);
                // It may have been master as well, cut off.
                if self.role == Role::Master && !matches!(before, Sight::Alive(_)) {
                    self.end_contact(now, actions);
                }
            }
            Sight::Silent { .. } => {}
            // Adverts decide again, and from now on: their silence so far was not listened to.
            Sight::Unknown if before != Sight::Unknown && self.role == Role::Backup => {
                for member in &mut self.members {
                    member.arm(now, self.timing.master_down);
                }
            }
            Sight::Unknown => {}
        }
        self.drop_stale_resume(now, actions);
    }

    fn hear_words(&mut self, now: Instant, report: &PeerReport) {
        self.peer_seen = true;
        self.pair.distrust = self.pair.distrust.filter(|(since, _)| report.asked <= *since);
        let from = self.pair.heard.filter(|(_, to)| now.since(*to) < AWAY).map_or(now, |(from, _)| from);
        self.pair.heard = Some((from, now));
        let masters = report.standing.role == ROLE_MASTER;
        let newer = report.term > self.pair.term && owner(report.term) == self.config.peer_node;
        // A mastership may have been over before anything was heard of it.
        if masters || newer {
            let recent = self.pair.served.filter(|served| now < served.to + STRAGGLERS);
            let from = recent.map_or(now, |served| served.from);
            self.pair.served = Some(Served { from, to: now, standing: report.standing });
        }
        if report.term > self.pair.term {
            self.pair.term = report.term;
            self.pair.candidacy = None;
            // Publishing this term from now on is the answer to the candidacy, and a promise not to take over.
            if !masters && newer {
                self.pair.promised_until = Some(now + PROMISE);
            }
        }
    }

    /// A term above all that is known.
    pub(super) fn new_term(&mut self) -> u64 {
        self.pair.term = next_term(self.pair.term, self.config.node);
        self.pair.term
    }

    /// Whether an advert came from a master that is not the peer. Only a peer that is heard can be told apart.
    ///
    /// The peer's own words say whether it masters and what it advertises; a demotion may just have changed its skew. Its
    /// first advert may be here before its words, and its last one after them; and while its words were not heard, it may
    /// have been master for a while.
    pub(super) fn is_foreign(&self, interval: Interval, received: Instant) -> bool {
        let fits = |standing: Standing| {
            let is_regular = interval.advbase == u16::from(standing.advbase) && interval.advskew >= standing.advskew;
            is_regular || interval == CLAIM_INTERVAL || interval == Interval::GOODBYE
        };
        let of_peer = self.pair.served.is_some_and(|served| {
            received + CAREFUL >= served.from && received < served.to + STRAGGLERS && fits(served.standing)
        });
        let unheard = self.pair.heard.is_none_or(|(from, _)| received < from + CAREFUL);
        match self.pair.sight {
            Sight::Unknown => false,
            Sight::Alive(report) => !(of_peer || unheard && fits(report.standing)),
            // The last advert may have been under way for longer than the last heartbeat.
            Sight::Silent { last } => !(of_peer && received.since(last.heard) < CAREFUL),
        }
    }

    /// A foreign master is heard on some member, and is not one that this node would preempt.
    pub(super) fn follows_foreign(&self, now: Instant) -> bool {
        if self.config.foreign_masters == ForeignMasters::Refuse {
            return false;
        }
        let alive =
            |heard: &Heard| heard.at + self.timing.master_down > now && self.is_foreign(heard.interval, heard.at);
        let any = self.members.iter().flat_map(|member| member.followed.iter().flatten()).any(alive);
        any && !(self.would_preempt(now) && self.holds_state(now))
    }
}
