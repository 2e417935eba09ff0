//! What the prober shows.

use super::histogram::Histogram;
use crate::sight::Sight;
use crate::time::Instant;
use core::time::Duration;

/// Why an answer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// On a path that is not configured.
    UnknownPath,
    /// To a probe that was not sent yet, or from the future.
    Impossible,
    /// To an older probe than the newest answered.
    Stale,
    /// Of another process of the peer than was heard last, to a probe from before that: it may be the one before.
    OldSession,
}

impl Refusal {
    pub const ALL: [Refusal; 4] = [Self::UnknownPath, Self::Impossible, Self::Stale, Self::OldSession];

    /// The snake-case name used as metric label and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownPath => "unknown_path",
            Self::Impossible => "impossible",
            Self::Stale => "stale",
            Self::OldSession => "old_session",
        }
    }
}

/// How many answers were not taken, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused([u64; Refusal::ALL.len()]);

impl Refused {
    pub(super) fn count(&mut self, refusal: Refusal) {
        self.0[refusal as usize] += 1;
    }

    pub const fn of(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize]
    }
}

/// Counters and present values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// In the order of [`super::Config::paths`].
    pub paths: Vec<PathStats>,
    pub sight: Sight,
    /// Silence on all paths that is death now.
    pub dead_after: Duration,
    /// The longest gap between two answers on any path lately, without own lateness.
    pub worst_gap: Duration,
    /// Ticks that came more than half an interval late, and by how much at most.
    pub late: u64,
    pub lateness_max: Duration,
    /// How often the peer was found silent, and how often it spoke again as the same process within a second: false
    /// alarms, or a network that was cut that shortly.
    pub silences: u64,
    pub recovered: u64,
    pub refused: Refused,
}

/// One path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathStats {
    /// Its link is up, and answers come.
    pub up: bool,
    pub sent: u64,
    pub replies: u64,
    /// Probes without an answer; those of the last 100 ms are counted only once a later one was answered.
    pub lost: u64,
    /// Of the newest answer of each tick.
    pub rtt: Histogram,
    /// The newest of them.
    pub rtt_last: Option<Duration>,
    /// Smoothed difference of successive round trips (RFC 3550 section 6.4.1).
    pub jitter: Duration,
    pub last_heard: Option<Instant>,
    /// The peer's hardware address there.
    pub mac: Option<[u8; 6]>,
}
