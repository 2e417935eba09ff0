//! The loop's part of `twinwall status`.

use super::SyncLoop;
use crate::conntrack::errno;
use crate::status::{PeerLinkStatus, PeerStatus, SyncLinkStatus, SyncStatus, WriteStatus};
use ha_common::reason::DropReason;
use ha_common::sync::filter::FilterReason;
use ha_common::sync::{LinkId, PeerId, PeerStats, Stats};
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
        // Copies were meant to come: they are shown by link.
        refused.remove(DropReason::FrameCopy.name());
        if socket.strangers > 0 {
            *refused.entry(DropReason::FrameSender.name().to_owned()).or_default() += socket.strangers;
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
            flows_absent: stats.flows_absent,
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
            key_epochs: stats.key_epochs,
            refused,
            peers: (0u8..).zip(&stats.peers).map(|(index, peer)| self.peer_status(PeerId(index), peer)).collect(),
            writes: WriteStatus { by_errno: self.writing.counters() },
            socket_errors,
            links: self.link_status(),
        }
    }

    fn link_status(&self) -> Vec<SyncLinkStatus> {
        let links = (0u8..).zip(self.config.sync_links()).zip(&self.socket.stats().links);
        let status = links.map(|((id, link), counts)| SyncLinkStatus {
            interface: link.interface,
            open: self.socket.is_open(LinkId(id)),
            mtu: self.socket.presence(LinkId(id)).map_or(0, |presence| presence.mtu as u64),
            datagrams_sent: counts.sent,
            datagrams_received: counts.received,
            send_calls: counts.send_calls,
        });
        status.collect()
    }

    fn peer_status(&self, peer: PeerId, stats: &PeerStats) -> PeerStatus {
        let node = self.peers.get(usize::from(peer.0)).copied();
        PeerStatus {
            node: self.peer_name(peer).to_owned(),
            address: node.map_or_else(String::new, |node| super::address_of(&self.config, node).to_string()),
            alive: stats.alive,
            protocol: stats.version,
            capabilities: stats.capabilities.names().map(str::to_owned).collect(),
            mode: stats.mode.map_or_else(String::new, |mode| mode.name().to_owned()),
            key_epoch: stats.key_epoch,
            key_epochs_accepted: stats.key_epochs_accepted.clone(),
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
            frame_bytes: stats.frame_bytes as u64,
            link_failovers: stats.link_failovers,
            links: self.peer_links(stats),
        }
    }
    fn peer_links(&self, stats: &PeerStats) -> Vec<PeerLinkStatus> {
        let links = self.config.sync_links().into_iter().zip(&stats.links).map(|(link, stats)| PeerLinkStatus {
            interface: link.interface,
            works: stats.works,
            active: stats.active,
            frames: stats.frames,
            copies: stats.copies,
            silent_ms: stats.silent.map(milliseconds),
        });
        links.collect()
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
