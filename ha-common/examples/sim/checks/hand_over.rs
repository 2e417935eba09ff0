//! What is offered was flushed, and who takes an offered group has what the giver had.

use crate::world::World;
use ha_common::election::PairTimes;
use ha_common::sync::Mode;
use ha_common::time::Instant;

impl World {
    /// An offer stands or not, of a hand-over that began `since`. Before the end of the time for it nothing is offered that is
    /// not flushed.
    pub fn offers(&mut self, node: usize, since: Option<Instant>) {
        let now = self.now;
        let host = &mut self.hosts[node];
        let before = host.offered;
        host.offered = since.map(|since| before.unwrap_or(since));
        let Some(since) = since.filter(|_| before.is_none()) else { return };
        let (waited, flushed) = (host.local(now).since(since), host.health.flushed);
        if flushed < since && waited < PairTimes::default().drain {
            self.fail("hand-over", format!("node {node} offers the group {waited:?} after it began to, unflushed"));
        }
    }

    /// A backup takes what it is offered. When everything of before the offer was flushed, it holds that.
    pub fn check_hand_over(&mut self, node: usize) {
        let offered = |other: usize| self.hosts[other].offered.map(|since| (other, since));
        let giver = (0..self.hosts.len()).filter(|other| *other != node).find_map(offered);
        let Some((giver, since)) = giver else { return };
        let (from, to) = (&self.hosts[giver], &self.hosts[node]);
        let flushed = from.health.flushed >= since && from.health.in_sync;
        if !flushed || self.options.mode != Mode::Ftfw || self.may_overflow() {
            return;
        }
        let since = self.world_time(giver, since);
        // No real host boots while an offer stands, or before the giver's engine has missed it and met it anew.
        let dark_at = self.checks.flows.dark_at(node);
        if dark_at >= since || dark_at > from.met_at {
            return;
        }
        // Whoever forces a hand-over may give the group to a node that has not got the whole table yet: then only what has changed
        // since the two have met is promised.
        let from_when = if to.health.in_sync { Instant(0) } else { from.met_at };
        let missing = from.conntrack.entries.iter().find(|(number, entry)| {
            let session = self.clients.sessions[**number as usize];
            // What packets made on both is concurrent, unless the giver had the other's state first.
            let flows = &self.checks.flows;
            let concurrent = flows.own_last(node, **number).is_some_and(|mark| !flows.has_held(giver, **number, mark));
            // What its kernel or an operator has ended is restored, with pauses.
            let is_ended = flows.last_ended_at(node, **number) > session.changed;
            let settled =
                session.is_open && session.node == giver && session.changed < since && session.changed > from_when;
            // The engines know of neither: a state whose event was lost here, an end whose event was lost there.
            let unheard =
                from.conntrack.is_unheard(**number, entry.flow.mark) || to.conntrack.ended_unheard.contains(number);
            let refused = to.conntrack.refused.contains(number);
            // A write that packets overtook has set its state back, and its engine knows the later one.
            let overtaken = to.conntrack.overtaken.contains(number);
            // Of what the giver's kernel is still to lose to a word that its engine takes for newer the giver says nothing: that write
            // is judged as others.
            let key = session.flow(**number).key;
            let is_lost =
                from.conntrack.refused.contains(number) || from.sync.as_ref().is_some_and(|sync| sync.creates(&key));
            settled
                && !concurrent
                && !is_ended
                && !unheard
                && !refused
                && !overtaken
                && !is_lost
                && to.conntrack.mark(**number).is_none_or(|mark| mark < entry.flow.mark)
        });
        if let Some((number, entry)) = missing {
            let (had, has) = (entry.flow.mark, to.conntrack.mark(*number));
            self.fail("hand-over", format!("session {number}: state {had} at node {giver}, {has:?} at node {node}"));
        }
    }
}
