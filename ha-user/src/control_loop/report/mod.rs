//! The answer to `status`: plain values from the election, the links, the datapath and the counters.

mod pair;

use super::ControlLoop;
use crate::datapath::Snapshot;
use crate::demotion::Demotion;
use crate::status::{ControlStatus, DemotionStatus, InterfaceStatus, MemberStatus, TransitionStatus};
use ha_common::election::{InterfaceId, MemberId, Stats, Transition};
use ha_common::reason::DropReason;
use ha_common::time::Instant;
use std::collections::BTreeMap;

impl ControlLoop {
    pub(super) fn report(&self, now: Instant) -> ControlStatus {
        let stats = self.election.stats();
        let snapshot = self.datapath.counters().snapshot();
        let role_since = stats.last_transition.map_or(self.started, |transition| transition.at);
        ControlStatus {
            role: stats.role.name().to_owned(),
            role_since_seconds: now.since(role_since).as_secs_f64(),
            transitions: stats.transitions,
            last_transition: stats.last_transition.map(|transition| self.transition(&transition, now)),
            members: self.members(stats, &snapshot, now),
            interfaces: self.ids().map(|id| self.interface(id, &snapshot, now)).collect(),
            adverts_sent: stats.adverts_sent,
            adverts_accepted: stats.adverts_accepted,
            dual_master_contacts: stats.dual_master_contacts,
            vip_errors: self.errors(),
            demotions: self.demotions.iter().map(|demotion| demotion_status(demotion, now)).collect(),
            tracked: self.config.track.causes().collect(),
            maintenance: stats.maintenance,
            resumed: self.resumed,
            stand_ins: self.stand_ins,
            peer: self.peer_sight(now),
            paths: self.path_statuses(&snapshot, now),
            lease: self.lease_status(now),
            hand_over: self.hand_over_status(now),
            waits: self.waits(now),
            history: self.explainer.history(now),
            stage_times: self.explainer.stage_times(),
        }
    }

    fn transition(&self, transition: &Transition, now: Instant) -> TransitionStatus {
        // A takeover's duration belongs to that transition only, and only where an old master was heard.
        let takeover = self.takeover.filter(|(of, _)| of == transition && of.last_heard.is_some());
        TransitionStatus {
            from: transition.from.name().to_owned(),
            to: transition.to.name().to_owned(),
            cause: transition.cause.name().to_owned(),
            seconds_ago: now.since(transition.at).as_secs_f64(),
            takeover_ms: takeover.map(|(_, duration)| duration.as_secs_f64() * 1e3),
        }
    }

    fn members(&self, stats: &Stats, snapshot: &Snapshot, now: Instant) -> Vec<MemberStatus> {
        let members = (0..=u8::MAX).map(MemberId).zip(&self.config.vips);
        let status = members.map(|(id, vip)| {
            let heard = stats.heard.get(usize::from(id.0)).copied().flatten();
            let received = snapshot.members.iter().filter(|row| row.member == id);
            let election = stats.refused.get(usize::from(id.0));
            MemberStatus {
                vhid: vip.vhid,
                interface: self.name(vip.interface).to_owned(),
                addresses: vip.addresses.iter().map(|(address, len)| format!("{address}/{len}")).collect(),
                held: vip.addresses.iter().all(|(address, _)| self.addresses.holds(*address)),
                master_heard: heard.map(|(source, _)| source.to_string()),
                master_heard_seconds_ago: heard.map(|(_, at)| now.since(at).as_secs_f64()),
                refused: refusals(received.clone().map(|row| &row.refused).chain(election)),
                adverts_received: received.map(|row| row.adverts).sum(),
            }
        });
        status.collect()
    }

    fn interface(&self, id: InterfaceId, snapshot: &Snapshot, now: Instant) -> InterfaceStatus {
        let attachment = self.datapath.attachment(id);
        let is_loose =
            self.config.pin_directory.is_some() && self.datapath.is_enforced(id) && !self.datapath.is_pinned(id);
        let note = attachment.and_then(|attachment| attachment.note());
        let note = note.or(is_loose.then_some("not pinned: its program ends with the daemon"));
        let rows = || snapshot.interfaces.iter().filter(|row| row.interface == id);
        let mut counters = refusals(rows().map(|row| &row.refused));
        counters.insert("packets".to_owned(), rows().map(|row| row.packets).sum());
        counters.insert("adverts".to_owned(), rows().map(|row| row.adverts).sum());
        counters.insert("frames".to_owned(), rows().map(|row| row.frames).sum());
        InterfaceStatus {
            name: self.name(id).to_owned(),
            up: self.link_counts_as_up(id),
            up_in_seconds: self.up_in(id, now),
            flapping: self.link_flaps(id, now),
            datapath: attachment.map_or("socket", |attachment| attachment.name()).to_owned(),
            datapath_note: note.map(str::to_owned),
            counters,
        }
    }

    /// How long until a link that came back counts as up.
    fn up_in(&self, id: InterfaceId, now: Instant) -> Option<f64> {
        let damper = &self.interfaces.get(usize::from(id.0))?.damper;
        damper.poll_at().filter(|_| !damper.is_up()).map(|at| at.since(now).as_secs_f64())
    }

    fn errors(&self) -> BTreeMap<String, u64> {
        let edges = self.failures.iter().map(|(failure, count)| (failure.name().to_owned(), count));
        let vips = self.addresses.errors().map(|(failure, count)| (failure.name().to_owned(), count));
        let overruns = ("link_events_lost".to_owned(), self.links.overruns);
        edges.chain(vips).chain([overruns]).collect()
    }
}

fn demotion_status(demotion: &Demotion, now: Instant) -> DemotionStatus {
    DemotionStatus {
        cause: demotion.cause.to_string(),
        weight: demotion.weight,
        seconds: now.since(demotion.since).as_secs_f64(),
        detail: demotion.detail.clone(),
    }
}

/// Every reason with the sum of all rows, zeros included, so that a metric exists before its first event.
fn refusals<'a>(rows: impl Iterator<Item = &'a [u64; DropReason::COUNT]>) -> BTreeMap<String, u64> {
    let mut sums = [0u64; DropReason::COUNT];
    for row in rows {
        for (sum, count) in sums.iter_mut().zip(row) {
            *sum = sum.saturating_add(*count);
        }
    }
    DropReason::ALL.iter().zip(sums).map(|(reason, sum)| (reason.name().to_owned(), sum)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of both paths and of the election add up under the reason's name, and no reason is missing.
    #[test]
    fn refusals_add_up() {
        let mut row = [0; DropReason::COUNT];
        row[DropReason::TtlNot255 as usize] = 2;
        let sums = refusals([&row, &row].into_iter());
        assert_eq!(sums.get("ttl_not_255"), Some(&4));
        assert_eq!(sums.get("bad_digest"), Some(&0));
        assert_eq!(sums.len(), DropReason::COUNT);
    }
}
