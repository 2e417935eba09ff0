//! The controller's side of heartbeats and lease: what it says of this node, and what the programs heard of the peer.

use super::load::LoadError;
use super::pod::Shared;
use aya::maps::{Array, MapData};
use ha_common::abi::{FenceEntry, PathEntry, SelfEntry};
use ha_common::liveness::{PathId, PathReply};
use ha_common::sight::PeerReport;
use ha_common::time::Instant;
use ha_common::wire::heartbeat::Standing;
use std::time::Duration;

/// The maps that the programs and the controller share at every tick.
pub struct HeartbeatMaps {
    pub own: Array<MapData, Shared<SelfEntry>>,
    pub fence: Array<MapData, Shared<FenceEntry>>,
    pub paths: Array<MapData, Shared<PathEntry>>,
}

impl HeartbeatMaps {
    /// Says what this node is, as one system call of about two microseconds.
    ///
    /// # Errors
    /// When the map refuses the entry.
    pub fn publish(&mut self, entry: &SelfEntry) -> Result<(), LoadError> {
        self.own.set(0, Shared(*entry), 0).map_err(|source| LoadError::Map { name: "SELF", source })
    }

    /// What the programs closed. Everything, if that cannot be read: the controller must not rely on a gate then.
    pub fn fence(&self) -> FenceEntry {
        let unknown = FenceEntry { closed_term: u64::MAX, ..FenceEntry::default() };
        self.fence.get(&0, 0).map_or(unknown, |entry| entry.0)
    }

    /// The newest answer of the peer on a path; `None` when there is none, or one is being written this moment.
    pub fn reply(&self, path: PathId) -> Option<PathReply> {
        reply(path, &self.paths.get(&u32::from(path.0), 0).ok()?.0)
    }
}

fn reply(path: PathId, entry: &PathEntry) -> Option<PathReply> {
    if entry.sequence == 0 || entry.check != entry.sum() {
        return None;
    }
    let received = Instant(entry.received_ns);
    // Microseconds in halves of a word: see `PathEntry::ages`.
    let age = |half: u64| Duration::from_micros(half & u64::from(u32::MAX));
    let [_, _, mac @ ..] = entry.mac.to_be_bytes();
    Some(PathReply {
        path,
        sequence: entry.sequence,
        received,
        rtt: Duration::from_nanos(entry.rtt_ns),
        mac,
        replies: entry.replies,
        report: PeerReport {
            session: entry.session,
            term: entry.term,
            standing: Standing::unpack(entry.state),
            beat_age: age(entry.ages >> 32),
            lease_left: age(entry.ages),
            heard: received,
            asked: received - Duration::from_nanos(entry.rtt_ns),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_common::wire::heartbeat::{Gate, ROLE_MASTER};

    /// An entry that adds up becomes a reply with units and addresses in place; a torn or an empty one is none.
    #[test]
    fn entries_become_replies() {
        let standing = Standing { role: ROLE_MASTER, gate: Gate::Open, ..Standing::default() };
        let mut entry = PathEntry {
            sequence: 7,
            received_ns: 5_000,
            rtt_ns: 30,
            session: 9,
            term: 0x1ff,
            state: standing.pack(),
            ages: 40 << 32 | 29_000,
            mac: 0x0200_0000_0a0b,
            replies: 3,
            check: 0,
        };
        entry.check = entry.sum();
        let taken = reply(PathId(2), &entry).unwrap();
        assert_eq!((taken.path, taken.sequence, taken.replies, taken.mac), (PathId(2), 7, 3, [2, 0, 0, 0, 0x0a, 0x0b]));
        assert_eq!((taken.received, taken.rtt), (Instant(5_000), Duration::from_nanos(30)));
        assert_eq!((taken.report.session, taken.report.term, taken.report.standing), (9, 0x1ff, standing));
        assert_eq!(taken.report.beat_age, Duration::from_micros(40));
        assert_eq!((taken.report.lease_left, taken.report.heard), (Duration::from_millis(29), Instant(5_000)));
        assert_eq!(reply(PathId(2), &PathEntry { term: 0x2ff, ..entry }), None);
        assert_eq!(reply(PathId(2), &PathEntry::default()), None);
    }
}
