//! What `status` says of the pair: the peer and its paths, the lease, hand-overs, and what is waited for.

use crate::control_loop::ControlLoop;
use crate::datapath::Snapshot;
use crate::request::HandOverRefusal;
use crate::status::{HandOverStatus, HistogramStatus, LeaseStatus, PathStatus, PeerSightStatus, WaitStatus};
use ha_common::election::{HandOverPhase, InterfaceId};
use ha_common::liveness::{Histogram, PathStats};
use ha_common::role::Role;
use ha_common::sight::{PeerReport, Sight, role_of};
use ha_common::time::Instant;
use ha_common::wire::heartbeat::{
    self, FLAG_ASKED, FLAG_MAINTENANCE, FLAG_OFFER, FLAG_READY, FLAG_RESTARTING, FLAG_WANT, Gate,
};
use std::time::Duration;

const FLAGS: [(u8, &str); 6] = [
    (FLAG_OFFER, "offer"),
    (FLAG_WANT, "want"),
    (FLAG_ASKED, "asked"),
    (FLAG_READY, "ready"),
    (FLAG_RESTARTING, "restarting"),
    (FLAG_MAINTENANCE, "maintenance"),
];

impl ControlLoop {
    /// The peer as heartbeats show it; `None` without heartbeats.
    pub(super) fn peer_sight(&self, now: Instant) -> Option<PeerSightStatus> {
        let stats = self.pulse.prober()?.stats();
        let (sight, report) = match stats.sight {
            Sight::Unknown => ("unknown", None),
            Sight::Alive(report) => ("alive", Some(report)),
            Sight::Silent { last } => ("silent", Some(last)),
        };
        let peer = self.config.only_peer();
        let name = peer.and_then(|peer| self.config.nodes.get(usize::from(peer.0))).map(|node| node.name.clone());
        let status = PeerSightStatus {
            node: name.unwrap_or_default(),
            sight: sight.to_owned(),
            dead_after_ms: ms(stats.dead_after),
            ..PeerSightStatus::default()
        };
        Some(report.map_or_else(|| status.clone(), |report| said(&report, now, status.clone())))
    }

    /// Every path of heartbeats, in the order of the configuration.
    pub(super) fn path_statuses(&self, snapshot: &Snapshot, now: Instant) -> Vec<PathStatus> {
        let Some(prober) = self.pulse.prober() else { return Vec::new() };
        let stats = prober.stats();
        let paths = self.pulse.paths().iter().zip(&stats.paths);
        paths.map(|(id, path)| self.path_status(*id, path, snapshot, now)).collect()
    }

    fn path_status(&self, id: InterfaceId, path: &PathStats, snapshot: &Snapshot, now: Instant) -> PathStatus {
        let rows = snapshot.interfaces.iter().filter(|row| row.interface == id);
        let quantile = |per_mille| path.rtt.quantile(per_mille).map(ms);
        let heard = path.last_heard;
        PathStatus {
            interface: self.name(id).to_owned(),
            up: path.up,
            rtt_last_ms: path.rtt_last.map(ms),
            rtt_p50_ms: quantile(500),
            rtt_p99_ms: quantile(990),
            jitter_ms: heard.map(|_| ms(path.jitter)),
            heard_seconds_ago: heard.map(|at| now.since(at).as_secs_f64()),
            probes_sent: path.sent,
            replies: path.replies,
            lost: path.lost,
            answered: rows.map(|row| row.probes).sum(),
            rtt: histogram(&path.rtt),
        }
    }

    pub(super) fn lease_status(&self, now: Instant) -> LeaseStatus {
        let stats = self.election.stats();
        let fence = self.datapath.fence();
        let entry = self.pulse.entry();
        let live = heartbeat::gate(entry, fence.closed_term, now.0) == Gate::Open;
        let interfaces = self.ids().take(self.config.interfaces.len());
        LeaseStatus {
            term: stats.term,
            live,
            remaining_ms: if live { ms(Instant(entry.lease_until_ns).since(now)) } else { 0.0 },
            length_ms: stats.lease.map_or(0.0, |lease| ms(lease.length)),
            enforced: interfaces.map(|id| (self.name(id).to_owned(), self.datapath.is_enforced(id))).collect(),
            lapsed: fence.lapsed,
            superseded: fence.superseded,
        }
    }

    pub(super) fn hand_over_status(&self, now: Instant) -> HandOverStatus {
        let stats = self.election.stats();
        let (state, since) = match (stats.hand_over, stats.linger_until) {
            (Some(over), _) => match over.phase {
                HandOverPhase::Draining | HandOverPhase::Offered => ("offering", Some(over.since)),
                HandOverPhase::Asked => ("wanting", Some(over.since)),
            },
            (None, Some(_)) => ("lingering", stats.last_transition.map(|transition| transition.at)),
            (None, None) => ("none", None),
        };
        let refused = HandOverRefusal::ALL.iter().zip(self.operators.refused);
        HandOverStatus {
            state: state.to_owned(),
            since_seconds: since.map(|since| now.since(since).as_secs_f64()),
            done: stats.hand_overs.saturating_sub(stats.hand_overs_failed),
            unconfirmed: stats.hand_overs_failed,
            refused: refused.map(|(refusal, count)| (refusal.name().to_owned(), count)).collect(),
        }
    }

    /// What this node does not do yet, and why.
    pub(super) fn waits(&self, now: Instant) -> Vec<WaitStatus> {
        let stats = self.election.stats();
        let Some(wait) = stats.wait else { return Vec::new() };
        let what = match stats.role {
            Role::Master => "hand_over",
            Role::Init | Role::Backup | Role::Fault => "takeover",
        };
        let since = self.waiting.filter(|(of, _)| *of == wait).map_or(now, |(_, since)| since);
        vec![WaitStatus {
            what: what.to_owned(),
            reason: wait.name().to_owned(),
            seconds: now.since(since).as_secs_f64(),
        }]
    }
}

fn said(report: &PeerReport, now: Instant, status: PeerSightStatus) -> PeerSightStatus {
    let standing = report.standing;
    let flags = FLAGS.iter().filter(|(flag, _)| standing.has(*flag)).map(|(_, name)| (*name).to_owned());
    PeerSightStatus {
        role: role_of(standing.role).name().to_owned(),
        term: report.term,
        gate: gate_name(standing.gate).to_owned(),
        demotion: standing.demotion,
        flags: flags.collect(),
        beat_age_ms: ms(report.beat_age),
        lease_left_ms: ms(report.lease_left),
        heard_seconds_ago: Some(now.since(report.heard).as_secs_f64()),
        ..status
    }
}

const fn gate_name(gate: Gate) -> &'static str {
    match gate {
        Gate::Closed => "closed",
        Gate::Open => "open",
        Gate::Lapsed => "lapsed",
    }
}

fn histogram(of: &Histogram) -> HistogramStatus {
    HistogramStatus {
        buckets: of.buckets().map(|(bound, count)| (bound.as_secs_f64(), count)).collect(),
        sum_seconds: of.sum().as_secs_f64(),
        count: of.count(),
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
