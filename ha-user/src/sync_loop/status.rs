//! The loop's part of `twinwall status`.

use super::SyncLoop;
use crate::conntrack::errno;
use crate::status::{PeerStatus, SyncStatus, WriteStatus};
use ha_common::reason::DropReason;
use ha_common::sync::filter::FilterReason;
use ha_common::sync::{PeerId, PeerStats, Stats};
use std::collections::BTreeMap;
use std::time::Duration;

impl SyncLoop {
    pub(super) fn status(&self) -> SyncStatus {
        let stats = self.engine.stats();
        let events = self.events.stats();
        let admission = self.admission.stats();
        let socket = self.socket.stats();
        let mut refused: BTreeMap<String, u64> = DropReason::ALL
            .iter()
            .zip(stats.refused)
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.name().to_owned(), count))
            .collect();
        for (reason, count) in
            [(DropReason::FrameSender, socket.strangers), (DropReason::FrameLength, socket.oversized)]
        {
            if count > 0 {
                *refused.entry(reason.name().to_owned()).or_default() += count;
            }
        }
        let mut socket_errors = BTreeMap::new();
        for (number, count) in &socket.errors {
            *socket_errors.entry(errno::name(*number).to_owned()).or_default() += count;
        }
        SyncStatus {
            mode: stats.mode.name().to_owned(),
            in_sync: stats.health.in_sync,
            lag_ms: milliseconds(stats.health.lag),
            flows: stats.flows,
            flows_local: stats.flows_local,
            flows_peer: stats.flows_peer,
            flows_refused_full: stats.flows_refused_full,
            flows_cut: stats.cut,
            stale_ignored: stats.stale_ignored,
            events: events.events,
            events_lost: events.overflows,
            events_malformed: events.malformed + self.dump.malformed(),
            events_filtered: admission.filtered.iter().sum(),
            events_filtered_by: by_reason(&admission.filtered),
            flows_young: u64::try_from(admission.young).unwrap_or(u64::MAX),
            flows_young_full: admission.young_full,
            flows_withdrawn: stats.withdrawn,
            decisions: decisions(&stats),
            refused,
            peers: (0u8..).zip(&stats.peers).map(|(index, peer)| self.peer_status(PeerId(index), peer)).collect(),
            writes: WriteStatus { by_errno: self.writing.counters() },
            socket_errors,
        }
    }

    fn peer_status(&self, peer: PeerId, stats: &PeerStats) -> PeerStatus {
        let node = self.peers.get(usize::from(peer.0)).copied();
        PeerStatus {
            node: self.peer_name(peer).to_owned(),
            address: node.map_or_else(String::new, |node| super::address_of(&self.config, node).to_string()),
            alive: stats.alive,
            sent_sequence: stats.sent_sequence,
            acked_sequence: stats.acked_sequence,
            received_sequence: stats.received_sequence,
            frames_sent: stats.frames_sent,
            frames_received: stats.frames_received,
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            frames_lost: stats.frames_lost,
            flows_sent: stats.flows_sent,
            flows_received: stats.flows_received,
            backlog_flows: stats.backlog_flows,
            in_flight_flows: stats.in_flight_flows,
            bulk_sent: stats.bulk_sent,
            bulk_received: stats.bulk_received,
            bulk_left: stats.bulk_left,
            proven_ms: stats.proven.map(milliseconds),
            differing_buckets: stats.differing_buckets,
            digests_equal: stats.digests_equal,
            digests_different: stats.digests_different,
            digests_unknown: stats.digests_unknown,
            repairs: stats.repairs,
            rtt_ms: milliseconds(stats.rtt),
        }
    }
}

/// Zeros included: a counter that appears with its first event hides that event from `increase()`.
fn by_reason(filtered: &[u64; FilterReason::COUNT]) -> BTreeMap<String, u64> {
    FilterReason::ALL.iter().zip(filtered).map(|(reason, count)| (reason.name().to_owned(), *count)).collect()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Counters of the engine that few flows cause.
fn decisions(stats: &Stats) -> BTreeMap<String, u64> {
    let counters = [
        ("regression_ignored", stats.regressions_ignored),
        ("created_without_master", stats.created_without_master),
        ("expectation_refused", stats.expectations_refused),
        ("expectation_foreign", stats.expectations_foreign),
        ("fetched", stats.fetched),
    ];
    counters.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}
