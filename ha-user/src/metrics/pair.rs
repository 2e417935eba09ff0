//! Metrics of what two nodes know of each other: heartbeats, lease, hand-over, and how long transitions took.

use super::text::{Kind, Page};
use crate::status::{ControlStatus, HandOverStatus, LeaseStatus, PathStatus, PeerSightStatus};

/// Every state has its own series, so that a change is a change of value and not of label.
const SIGHTS: [&str; 3] = ["unknown", "alive", "silent"];
const GATES: [&str; 3] = ["closed", "open", "lapsed"];
const HAND_OVER_STATES: [&str; 4] = ["offering", "wanting", "lingering", "none"];

pub fn write(page: &mut Page, status: &ControlStatus) {
    page.single(
        Kind::Gauge,
        "twinwall_maintenance",
        "1 while this node takes nothing, by an operator's word.",
        status.maintenance,
    );
    page.single(
        Kind::Gauge,
        "twinwall_resumed",
        "1 when this process took over the mastership of its predecessor at its start.",
        status.resumed,
    );
    page.single(
        Kind::Counter,
        "twinwall_control_stand_ins_total",
        "How often a second thread had to go on with the election because the first one's processor did not run it.",
        status.stand_ins,
    );
    if let Some(peer) = &status.peer {
        write_peer(page, peer);
    }
    write_paths(page, &status.paths);
    write_lease(page, &status.lease);
    write_hand_over(page, &status.hand_over);
    let mut waits =
        page.family(Kind::Gauge, "twinwall_wait_seconds", "How long this node has been waiting for what it would do.");
    for wait in &status.waits {
        waits.sample(&[("what", &wait.what), ("reason", &wait.reason)], wait.seconds);
    }
    let mut stages = page.family(
        Kind::Histogram,
        "twinwall_transition_seconds",
        "How long the stages of transitions took, each since the one before; stage total is the whole.",
    );
    for row in &status.stage_times {
        stages.histogram(&[("cause", &row.cause), ("stage", &row.stage)], &row.times);
    }
}

fn write_peer(page: &mut Page, peer: &PeerSightStatus) {
    let mut sight = page.family(
        Kind::Gauge,
        "twinwall_peer_sight",
        "1 for how heartbeats show the peer: alive, silent, or unknown (it never answered).",
    );
    for known in SIGHTS {
        sight.sample(&[("peer", &peer.node), ("sight", known)], peer.sight == known);
    }
    let mut gate =
        page.family(Kind::Gauge, "twinwall_peer_gate", "1 for whether the peer's kernel answers for the addresses.");
    for known in GATES {
        gate.sample(&[("peer", &peer.node), ("gate", known)], peer.gate == known);
    }
    let labels = [("peer", peer.node.as_str())];
    page.family(Kind::Gauge, "twinwall_peer_term", "Term that the peer said last.").sample(&labels, peer.term);
    page.family(Kind::Gauge, "twinwall_peer_demotion", "Sum of the peer's demotions.")
        .sample(&labels, u64::from(peer.demotion));
    page.family(
        Kind::Gauge,
        "twinwall_peer_beat_age_seconds",
        "How long the peer's controller had not been alive when it was last heard.",
    )
    .sample(&labels, peer.beat_age_ms / 1e3);
    if let Some(seconds) = peer.heard_seconds_ago {
        page.family(Kind::Gauge, "twinwall_peer_heard_age_seconds", "Since the peer's kernel last answered.")
            .sample(&labels, seconds);
    }
    page.family(Kind::Gauge, "twinwall_peer_dead_after_seconds", "Silence on all paths that would be death now.")
        .sample(&labels, peer.dead_after_ms / 1e3);
}

/// A counter of a path.
type Counter = (&'static str, &'static str, fn(&PathStatus) -> u64);

const PATH_COUNTERS: [Counter; 4] = [
    ("twinwall_heartbeat_probes_sent_total", "Probes sent on the path.", |path| path.probes_sent),
    ("twinwall_heartbeat_replies_total", "Answers to them that were taken.", |path| path.replies),
    ("twinwall_heartbeat_lost_total", "Probes that were not answered.", |path| path.lost),
    ("twinwall_heartbeat_probes_answered_total", "Probes of the peer that this node's kernel answered.", |path| {
        path.answered
    }),
];

fn write_paths(page: &mut Page, paths: &[PathStatus]) {
    let mut up = page.family(Kind::Gauge, "twinwall_heartbeat_path_up", "1 while answers come on the path.");
    for path in paths {
        up.sample(&[("path", &path.interface)], path.up);
    }
    for (name, help, value) in PATH_COUNTERS {
        let mut family = page.family(Kind::Counter, name, help);
        for path in paths {
            family.sample(&[("path", &path.interface)], value(path));
        }
    }
    let mut jitter = page.family(
        Kind::Gauge,
        "twinwall_heartbeat_jitter_seconds",
        "Smoothed difference of consecutive round trips.",
    );
    for (path, jitter_ms) in paths.iter().filter_map(|path| Some((path, path.jitter_ms?))) {
        jitter.sample(&[("path", &path.interface)], jitter_ms / 1e3);
    }
    let mut rtt =
        page.family(Kind::Histogram, "twinwall_heartbeat_rtt_seconds", "Round trips of heartbeats, kernel to kernel.");
    for path in paths {
        rtt.histogram(&[("path", &path.interface)], &path.rtt);
    }
}

fn write_lease(page: &mut Page, lease: &LeaseStatus) {
    page.single(Kind::Gauge, "twinwall_lease_live", "1 while this node may answer for the addresses.", lease.live);
    page.single(Kind::Gauge, "twinwall_lease_term", "Highest term known, the own one while master.", lease.term);
    page.single(
        Kind::Gauge,
        "twinwall_lease_length_seconds",
        "For how long the lease is renewed at each tick now.",
        lease.length_ms / 1e3,
    );
    let mut enforced = page.family(
        Kind::Gauge,
        "twinwall_lease_enforced",
        "1 where XDP keeps requests for the addresses out when the lease is over.",
    );
    for (interface, is_enforced) in &lease.enforced {
        enforced.sample(&[("interface", interface)], *is_enforced);
    }
    page.single(Kind::Counter, "twinwall_lease_lapsed_total", "Times that this node's lease ran out.", lease.lapsed);
    page.single(
        Kind::Counter,
        "twinwall_lease_superseded_total",
        "Times that a newer master closed this node's gate.",
        lease.superseded,
    );
}

fn write_hand_over(page: &mut Page, hand_over: &HandOverStatus) {
    let mut state =
        page.family(Kind::Gauge, "twinwall_hand_over", "1 for the state of a planned change of the master.");
    for known in HAND_OVER_STATES {
        state.sample(&[("state", known)], hand_over.state == known);
    }
    let mut ended = page.family(
        Kind::Counter,
        "twinwall_hand_overs_total",
        "Planned changes of the master that were asked for, by how they ended.",
    );
    ended.sample(&[("outcome", "done")], hand_over.done);
    ended.sample(&[("outcome", "unconfirmed")], hand_over.unconfirmed);
    for (refusal, count) in &hand_over.refused {
        ended.sample(&[("outcome", refusal)], *count);
    }
}
