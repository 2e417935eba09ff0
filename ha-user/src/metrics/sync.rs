//! Metrics of the replicated state.

use super::text::{Kind, Number, Page};
use crate::status::{PeerLinkStatus, PeerStatus, SyncStatus};

pub fn write(page: &mut Page, status: &SyncStatus) {
    page.single(
        Kind::Gauge,
        "twinwall_sync_in_sync",
        "1 while this node holds all of the peer's state and no gap is open.",
        status.in_sync,
    );
    page.single(
        Kind::Gauge,
        "twinwall_sync_lag_seconds",
        "Age of the oldest flow change that the peer has not acknowledged.",
        status.lag_ms / 1000.0,
    );
    let mut flows = page.family(Kind::Gauge, "twinwall_sync_flows", "Flows known, by the node whose packets they are.");
    flows.sample(&[("owner", "local")], status.flows_local);
    flows.sample(&[("owner", "peer")], status.flows_peer);
    page.single(
        Kind::Gauge,
        "twinwall_sync_flows_absent",
        "Flows that this node's kernel lacks: it refuses them.",
        status.flows_absent,
    );
    let counters = [
        (
            "twinwall_sync_flows_refused_total",
            "Flows not replicated because flows_max was reached.",
            status.flows_refused_full,
        ),
        (
            "twinwall_sync_flows_cut_total",
            "Flows that nobody named any more, whose timeouts were cut to purge_timeout.",
            status.flows_cut,
        ),
        ("twinwall_sync_stale_ignored_total", "Peer states older than this node's, ignored.", status.stale_ignored),
        (
            "twinwall_sync_flows_withdrawn_total",
            "Flows taken back from the peers because the filter does not accept them any more.",
            status.flows_withdrawn,
        ),
        (
            "twinwall_sync_flows_young_full_total",
            "Flows told to the peer before min_age because too many waited.",
            status.flows_young_full,
        ),
        ("twinwall_conntrack_events_total", "Conntrack events read from the kernel.", status.events),
        (
            "twinwall_conntrack_event_losses_total",
            "Times the kernel dropped conntrack events (ENOBUFS); each is followed by a resync.",
            status.events_lost,
        ),
    ];
    for (name, help, value) in counters {
        page.single(Kind::Counter, name, help, value);
    }
    let mut filtered = page.family(
        Kind::Counter,
        "twinwall_conntrack_events_filtered_total",
        "Events and dumped entries of flows that are not replicated, by the criterion that decided.",
    );
    for (reason, count) in &status.events_filtered_by {
        filtered.sample(&[("reason", reason)], *count);
    }
    page.single(
        Kind::Gauge,
        "twinwall_sync_flows_young",
        "Flows that are not told to the peer because they are younger than min_age.",
        status.flows_young,
    );
    let mut decisions = page.family(
        Kind::Counter,
        "twinwall_sync_decisions_total",
        "What was decided about the order of writes and about attributes that few flows have.",
    );
    for (decision, count) in &status.decisions {
        decisions.sample(&[("decision", decision)], *count);
    }
    let mut refused = page.family(
        Kind::Counter,
        "twinwall_sync_frames_refused_total",
        "Sync frames refused by the engine, by reason.",
    );
    for (reason, count) in &status.refused {
        refused.sample(&[("reason", reason)], *count);
    }
    let mut writes =
        page.family(Kind::Counter, "twinwall_conntrack_writes_total", "Writes into the kernel's table, by outcome.");
    for (operation, by_errno) in &status.writes.by_errno {
        for (errno, count) in by_errno {
            writes.sample(&[("operation", operation), ("errno", errno)], *count);
        }
    }
    write_peers(page, &status.peers);
}

/// A number of a peer.
type OfPeer<T> = (&'static str, &'static str, fn(&PeerStatus) -> T);

const PEER_TRUTHS: [OfPeer<bool>; 3] = [
    ("twinwall_peer_alive", "1 while a keyed session with the peer exists.", |peer| peer.alive),
    ("twinwall_sync_bulk_sent", "1 when the peer has this node's whole table.", |peer| peer.bulk_sent),
    ("twinwall_sync_bulk_received", "1 when this node has the peer's whole table.", |peer| peer.bulk_received),
];
const PEER_GAUGES: [OfPeer<u64>; 8] = [
    ("twinwall_sync_key_epoch", "Epoch of the secret that is in use with the peer.", |peer| u64::from(peer.key_epoch)),
    ("twinwall_sync_sent_sequence", "Last data sequence number sent to the peer.", |peer| peer.sent_sequence),
    ("twinwall_sync_acked_sequence", "Last data sequence number the peer acknowledged.", |peer| peer.acked_sequence),
    ("twinwall_sync_received_sequence", "Last data sequence number received in order.", |peer| peer.received_sequence),
    ("twinwall_sync_backlog_flows", "Changed flows not yet sent to the peer.", |peer| peer.backlog_flows),
    ("twinwall_sync_in_flight_flows", "Flows sent and not yet acknowledged.", |peer| peer.in_flight_flows),
    ("twinwall_sync_bulk_left_slots", "Slots of this node's table still to be looked at in a transfer.", |peer| {
        peer.bulk_left
    }),
    (
        "twinwall_sync_differing_buckets",
        "Of 4096 buckets of flows, those in which the peer's copies are known to differ.",
        |peer| u64::from(peer.differing_buckets),
    ),
];
const PEER_COUNTERS: [OfPeer<u64>; 10] = [
    ("twinwall_sync_link_failovers_total", "Times that state took another link than before.", |peer| {
        peer.link_failovers
    }),
    ("twinwall_sync_frames_sent_total", "Frames sent to the peer.", |peer| peer.frames_sent),
    ("twinwall_sync_frames_received_total", "Frames accepted from the peer.", |peer| peer.frames_received),
    ("twinwall_sync_frames_lost_total", "Frames that were lost on the way and repaired.", |peer| peer.frames_lost),
    ("twinwall_sync_sent_bytes_total", "Bytes of the frames sent to the peer.", |peer| peer.bytes_sent),
    ("twinwall_sync_received_bytes_total", "Bytes of the frames accepted from the peer.", |peer| peer.bytes_received),
    ("twinwall_sync_flows_sent_total", "Flow changes sent to the peer.", |peer| peer.flows_sent),
    ("twinwall_sync_flows_received_total", "Flow changes received from the peer.", |peer| peer.flows_received),
    ("twinwall_sync_digests_different_total", "Digests that the peer found different.", |peer| peer.digests_different),
    ("twinwall_sync_repairs_total", "Transfers of the buckets that differed.", |peer| peer.repairs),
];

fn write_peers(page: &mut Page, peers: &[PeerStatus]) {
    write_of_peer(page, Kind::Gauge, &PEER_TRUTHS, peers);
    write_of_peer(page, Kind::Gauge, &PEER_GAUGES, peers);
    write_of_peer(page, Kind::Counter, &PEER_COUNTERS, peers);
    let mut proven = page.family(
        Kind::Gauge,
        "twinwall_sync_proven_age_seconds",
        "Since the digest by which the peer was last proven to hold all of this node's flows.",
    );
    for peer in peers {
        if let Some(age) = peer.proven_ms {
            proven.sample(&[("peer", &peer.node)], age / 1000.0);
        }
    }
    let rtt: OfPeer<f64> =
        ("twinwall_sync_rtt_seconds", "Round-trip time of the last acknowledged frame.", |peer| peer.rtt_ms / 1000.0);
    write_of_peer(page, Kind::Gauge, &[rtt], peers);
    write_links(page, peers);
}

type OfLink<T> = (&'static str, &'static str, fn(&PeerLinkStatus) -> T);

const LINK_TRUTHS: [OfLink<bool>; 2] = [
    ("twinwall_sync_link_works", "1 while both nodes hear each other over the link.", |link| link.works),
    ("twinwall_sync_link_active", "1 while state takes the link to the peer.", |link| link.active),
];
const LINK_COUNTERS: [OfLink<u64>; 2] = [
    ("twinwall_sync_link_frames_total", "Frames that came over the link first.", |link| link.frames),
    ("twinwall_sync_link_copies_total", "Frames that had come over another link before.", |link| link.copies),
];

fn write_links(page: &mut Page, peers: &[PeerStatus]) {
    write_of_link(page, Kind::Gauge, &LINK_TRUTHS, peers);
    write_of_link(page, Kind::Counter, &LINK_COUNTERS, peers);
}

fn write_of_link<T: Number>(page: &mut Page, kind: Kind, metrics: &[OfLink<T>], peers: &[PeerStatus]) {
    for (name, help, value) in metrics {
        let mut family = page.family(kind, name, help);
        for peer in peers {
            for link in &peer.links {
                family.sample(&[("peer", &peer.node), ("link", &link.interface)], value(link));
            }
        }
    }
}

fn write_of_peer<T: Number>(page: &mut Page, kind: Kind, metrics: &[OfPeer<T>], peers: &[PeerStatus]) {
    for (name, help, value) in metrics {
        let mut family = page.family(kind, name, help);
        for peer in peers {
            family.sample(&[("peer", &peer.node)], value(peer));
        }
    }
}
