//! The part of the page about the replicated state: how much of it is where, and what is proven of that.

use super::super::ink::{GREEN, Ink, RED, YELLOW, flows, milliseconds, table, times};
use crate::status::{PeerStatus, SyncStatus};
use ha_common::sync::{DIGEST_BUCKETS, Mode};

/// The verdict, what stands in its way, and a row for each peer.
pub fn section(sync: &SyncStatus, ink: &Ink) -> String {
    let behind = format!("{} behind", milliseconds(sync.lag_ms));
    let verdict = if sync.peers.iter().all(|peer| !peer.alive) {
        ink.paint(RED, "no peer is there")
    } else if !sync.in_sync || sync.peers.iter().any(|peer| peer.alive && !peer.bulk_sent) {
        ink.paint(YELLOW, &format!("not in sync: {:.0} % at the peer, {behind}", percent(sync)))
    } else if sync.flows_absent > 0 {
        let (held, all) = (sync.flows.saturating_sub(sync.flows_absent), sync.flows.max(1));
        let share = (held as f64 / all as f64 * 100.0).floor();
        ink.paint(YELLOW, &format!("not in sync: {share:.0} % of the flows are in this kernel, {behind}"))
    } else {
        proof(sync, &behind, ink)
    };
    let mut text = ink.title("State") + &format!("  {verdict}\n");
    let (held, local, peers) = (flows(sync.flows), sync.flows_local, sync.flows_peer);
    text += &format!("  {held}: {local} of this node, {peers} of peers\n");
    if sync.flows_absent > 0 {
        let absent = flows(sync.flows_absent);
        let told = format!("  this kernel refused {absent}, tried again (dmesg, nf_conntrack_max)\n");
        text += &ink.paint(YELLOW, &told);
    }
    if sync.flows_refused_full > 0 {
        let refused = format!("  not replicated: {}, raise [sync] flows_max\n", flows(sync.flows_refused_full));
        text += &ink.paint(YELLOW, &refused);
    }
    if sync.events_lost > 0 {
        let lost = format!("  the kernel dropped events {}, repaired by a resync\n", times(sync.events_lost));
        text += &ink.paint(YELLOW, &lost);
    }
    let mut rows = vec![
        ["peer", "address", "session", "sent", "acked", "received", "waiting", "lost", "round trip"].map(str::to_owned),
    ];
    rows.extend(sync.peers.iter().map(peer_row));
    text + &table(&rows)
}

fn peer_row(peer: &PeerStatus) -> [String; 9] {
    [
        peer.node.clone(),
        peer.address.clone(),
        if peer.alive { "up" } else { "DOWN" }.to_owned(),
        peer.sent_sequence.to_string(),
        peer.acked_sequence.to_string(),
        peer.received_sequence.to_string(),
        (peer.backlog_flows + peer.in_flight_flows).to_string(),
        peer.frames_lost.to_string(),
        if peer.alive { milliseconds(peer.rtt_ms) } else { "-".to_owned() },
    ]
}

/// The modes in which nothing is acknowledged and no digest is sent.
const UNPROVEN: [Mode; 2] = [Mode::Alarm, Mode::Notrack];

/// What the digests say of the worst live peer.
fn proof(sync: &SyncStatus, behind: &str, ink: &Ink) -> String {
    /// Several proofs a second are made while little changes.
    const FRESH_MS: f64 = 2000.0;
    let alive = || sync.peers.iter().filter(|peer| peer.alive);
    if let Some(mode) = UNPROVEN.into_iter().find(|mode| mode.name() == sync.mode) {
        return ink.paint(YELLOW, &format!("sent: 100 %, {behind}, not proven (mode {mode})"));
    }
    let differing = alive().map(|peer| peer.differing_buckets).max().unwrap_or(0);
    if differing > 0 {
        let buckets = f64::from(DIGEST_BUCKETS);
        // Rounded down: never 100 while something differs.
        let equal = ((buckets - f64::from(differing)) / buckets * 1000.0).floor() / 10.0;
        return ink.paint(YELLOW, &format!("{equal:.1} % proven equal, the rest is sent again, {behind}"));
    }
    match alive().map(|peer| peer.proven_ms).reduce(|a, b| Some(a?.max(b?))).flatten() {
        Some(age) if age <= FRESH_MS => {
            ink.paint(GREEN, &format!("in sync: 100 %, {behind}, proven {} ago", milliseconds(age)))
        }
        Some(age) => ink.paint(YELLOW, &format!("in sync, {behind}, last proven {} ago", milliseconds(age))),
        None => ink.paint(YELLOW, &format!("in sync, {behind}, not proven yet")),
    }
}

/// How much of this node's state the worst live peer has.
fn percent(sync: &SyncStatus) -> f64 {
    let waiting = |peer: &PeerStatus| peer.backlog_flows + peer.in_flight_flows + peer.bulk_left;
    let waiting = sync.peers.iter().filter(|peer| peer.alive).map(waiting).max();
    let total = sync.flows_local.max(1);
    let there = total.saturating_sub(waiting.unwrap_or(total));
    // Never 100 while it is not proven.
    (there as f64 * 100.0 / total as f64).min(99.0)
}

#[cfg(test)]
mod tests {
    use super::super::render;
    use super::super::tests::status;
    use super::*;

    /// "100 %" is said only of what digests have proven just now.
    #[test]
    fn in_sync_is_said_when_it_is_proven() {
        let verdict = |change: fn(&mut PeerStatus)| {
            let mut status = status();
            status.sync.peers.iter_mut().for_each(change);
            let page = render(&status, false);
            page.lines().find(|line| line.contains("behind")).unwrap().trim().to_owned()
        };
        assert_eq!(verdict(|_| {}), "in sync: 100 %, 0.8 ms behind, proven 120.0 ms ago");
        assert!(verdict(|peer| peer.proven_ms = None).contains("not proven yet"));
        assert!(verdict(|peer| peer.proven_ms = Some(60_000.0)).contains("last proven"));
        assert!(verdict(|peer| peer.differing_buckets = 1).starts_with("99.9 % proven equal"));
        assert!(verdict(|peer| peer.bulk_sent = false).contains("not in sync: 99 %"));
    }

    /// Where nothing is acknowledged, nothing is called in sync.
    #[test]
    fn unreliable_modes_are_not_proven() {
        for mode in UNPROVEN {
            let mut status = status();
            status.sync.mode = mode.name().to_owned();
            let page = render(&status, false);
            assert!(page.contains("not proven") && !page.contains("in sync"), "{page}");
        }
    }

    /// What stands in the way of replication is told of, in the singular where it is one.
    #[test]
    fn obstacles_are_told() {
        let sync = SyncStatus { flows_absent: 1, flows_refused_full: 2, events_lost: 1, ..SyncStatus::default() };
        let page = section(&sync, &Ink { colour: false });
        assert!(page.contains("this kernel refused 1 flow, tried again"), "{page}");
        assert!(page.contains("not replicated: 2 flows, raise [sync] flows_max"), "{page}");
        assert!(page.contains("the kernel dropped events once, repaired by a resync"), "{page}");
    }
}
