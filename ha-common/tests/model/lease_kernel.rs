//! What the programs and the maps of one node do.

use ha_common::abi::SelfEntry;
use ha_common::liveness::{PathId, PathReply};
use ha_common::sight::PeerReport;
use ha_common::time::Instant;
use ha_common::wire::heartbeat::{self, Gate, Heartbeat, Kind, Standing};
use std::time::Duration;

pub const PATHS: usize = 3;

#[derive(Default)]
pub struct Kernel {
    pub entry: SelfEntry,
    pub closed_term: u64,
    pub replies: [Option<PathReply>; PATHS],
    /// The virtual addresses are configured.
    pub vips: bool,
}

impl Kernel {
    pub fn gate(&self, now: Instant) -> Gate {
        heartbeat::gate(&self.entry, self.closed_term, now.0)
    }

    pub fn is_open(&self, now: Instant) -> bool {
        self.gate(now) == Gate::Open
    }

    /// The answer, after what the probe and the time have closed.
    pub fn on_probe(&mut self, now: Instant, probe: &Heartbeat) -> Option<Heartbeat> {
        // No daemon has loaded the program yet.
        if self.entry.session == 0 {
            return None;
        }
        if probe.supersedes(&self.entry) {
            self.closed_term = self.closed_term.max(self.entry.term);
        }
        let gate = self.gate(now);
        if gate == Gate::Lapsed {
            self.closed_term = self.closed_term.max(self.entry.term);
        }
        Some(probe.answer(&self.entry, gate, now.0))
    }

    pub fn on_reply(&mut self, now: Instant, reply: &Heartbeat) {
        let Some(slot) = self.replies.get_mut(usize::from(reply.path)) else { return };
        let stale = slot.is_some_and(|known| known.sequence >= reply.sequence);
        if reply.session != self.entry.session || stale {
            return;
        }
        let report = PeerReport {
            session: reply.other_session,
            term: reply.term,
            standing: reply.standing,
            beat_age: Duration::from_micros(reply.beat_age_us.into()),
            lease_left: Duration::from_micros(reply.lease_left_us.into()),
            heard: now,
            asked: Instant(reply.sent_ns),
        };
        *slot = Some(PathReply {
            path: PathId(reply.path),
            sequence: reply.sequence,
            received: now,
            rtt: now.since(Instant(reply.sent_ns)),
            mac: [2, 0, 0, 0, 0, reply.path],
            replies: slot.map_or(0, |known| known.replies) + 1,
            report,
        });
    }

    /// A probe of this node, with the state of its gate.
    pub fn probe(&self, now: Instant, node: u8, path: u8, sequence: u64, target_session: u64) -> Heartbeat {
        Heartbeat {
            kind: Kind::Probe,
            sender: node,
            target: 1 - node,
            path,
            key_epoch: 1,
            session: self.entry.session,
            sequence,
            sent_ns: now.0,
            other_session: target_session,
            term: self.entry.term,
            standing: Standing { gate: self.gate(now), ..Standing::unpack(self.entry.state) },
            beat_age_us: 0,
            lease_left_us: 0,
        }
    }
}
