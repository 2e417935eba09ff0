//! The datapath's counters as plain values with names: so that `/metrics` need not know the datapath.

use crate::config::Resolved;
use crate::datapath::{Counters, Snapshot};
use crate::status::{DatapathStatus, InterfaceCounts, StreamCounts, VhidCounts};
use ha_common::reason::DropReason;
use ha_common::wire::frame::Kind;

/// A function that reads everything, for any thread.
pub fn reader(counters: Counters, config: &Resolved) -> impl Fn() -> DatapathStatus + Send + Sync + 'static {
    let nodes: Vec<String> = config.nodes.iter().map(|node| node.name.clone()).collect();
    move || named(&counters.snapshot(), &nodes)
}

fn named(snapshot: &Snapshot, nodes: &[String]) -> DatapathStatus {
    let interfaces = snapshot.interfaces.iter().map(|row| InterfaceCounts {
        interface: row.name.clone(),
        path: row.path.name(),
        packets: row.packets,
        adverts: row.adverts,
        frames: row.frames,
        refused: by_reason(&row.refused),
    });
    let vhids = snapshot.members.iter().map(|row| VhidCounts {
        interface: row.interface_name.clone(),
        vhid: row.vhid,
        path: row.path.name(),
        adverts: row.adverts,
        refused: by_reason(&row.refused),
    });
    let streams = snapshot.peers.iter().filter_map(|row| {
        Some(StreamCounts {
            peer: nodes.get(usize::from(row.node.0))?.clone(),
            kind: kind_name(row.kind),
            path: row.path.name(),
            frames: row.stream.frames,
            bytes: row.stream.bytes,
            gaps: row.stream.gaps,
            lost: row.stream.lost,
            duplicates: row.stream.duplicates,
        })
    });
    DatapathStatus { interfaces: interfaces.collect(), vhids: vhids.collect(), streams: streams.collect() }
}

/// Zeros included: a counter that appears with its first event hides that event from `increase()`.
fn by_reason(refused: &[u64; DropReason::COUNT]) -> Vec<(&'static str, u64)> {
    DropReason::ALL.iter().zip(refused).map(|(reason, count)| (reason.name(), *count)).collect()
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Hello => "hello",
        Kind::Data => "data",
        Kind::Ack => "ack",
    }
}
