//! One path: what was sent and answered, and at which pace it is probed.

use super::histogram::Histogram;
use super::stats::{PathStats, Refusal};
use super::{PathId, PathReply};
use crate::time::Instant;
use core::time::Duration;

/// A path is silent after unanswered probes for so long; from then on they go to the group.
pub(super) const SILENT_AFTER: Duration = Duration::from_millis(100);
/// Silent for so long: probed at a slower pace.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// An answer may be newer than the time at which the loop looked at the clock, but not by so much.
const FUTURE_MAX: Duration = Duration::from_secs(1);
/// Fewer unanswered probes are never a reason, however long the interval is.
const PROBES_MIN: u32 = 4;

/// How many probes without an answer are so much time, at full pace.
pub(super) fn probes_in(time: Duration, interval: Duration) -> u32 {
    let probes = time.as_nanos() / interval.as_nanos().max(1);
    u32::try_from(probes).unwrap_or(u32::MAX).max(PROBES_MIN)
}

/// What a path may be told of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    New,
    /// Handed in before.
    Known,
}

#[derive(Debug)]
pub(super) struct Path {
    pub link_up: bool,
    /// Probes since the last answer: a measure of silence in which a stop of this node does not count.
    unanswered: u32,
    silent_after: u32,
    slow_after: u32,
    /// Number of the last probe sent, of the newest answered, and of the last answer refused.
    sequence: u64,
    answered: u64,
    refused: u64,
    /// Not before then the next one.
    next: Instant,
    last_heard: Option<Instant>,
    mac: Option<[u8; 6]>,
    replies: u64,
    /// As the program last counted them.
    replies_there: u64,
    lost: u64,
    rtt: Histogram,
    last_rtt: Option<Duration>,
    /// Times 16, as RFC 3550 appendix A.8 keeps it.
    jitter_scaled: Duration,
}

impl Path {
    pub fn new(interval: Duration) -> Self {
        Self {
            link_up: false,
            unanswered: 0,
            silent_after: probes_in(SILENT_AFTER, interval),
            slow_after: probes_in(SLOW_AFTER, interval),
            sequence: 0,
            answered: 0,
            refused: 0,
            next: Instant::default(),
            last_heard: None,
            mac: None,
            replies: 0,
            replies_there: 0,
            lost: 0,
            rtt: Histogram::default(),
            last_rtt: None,
            jitter_scaled: Duration::ZERO,
        }
    }

    /// Something changed there: probe at full pace again for a while.
    pub fn hurry(&mut self, now: Instant) {
        self.unanswered = 0;
        self.next = self.next.min(now);
    }

    /// When the next probe may go; `None` without a link.
    pub fn probe_at(&self) -> Option<Instant> {
        self.link_up.then_some(self.next)
    }

    /// Sends the next probe: its number and whom it goes to. `slow`: the pace when it has been silent for long.
    pub fn probe(&mut self, now: Instant, slow: Duration) -> (u64, Option<[u8; 6]>) {
        let to = if self.unanswered < self.silent_after { self.mac } else { None };
        self.sequence += 1;
        self.unanswered = self.unanswered.saturating_add(1);
        // At full pace the tick decides.
        self.next = if self.unanswered > self.slow_after { now + slow } else { now };
        (self.sequence, to)
    }

    /// Whether an answer can be one of this path's: nothing is changed but for what was refused.
    ///
    /// # Errors
    /// Once for each answer that cannot.
    pub fn check(&mut self, now: Instant, reply: &PathReply) -> Result<Taken, Refusal> {
        if reply.sequence == self.answered || reply.sequence == self.refused {
            return Ok(Taken::Known);
        }
        let refusal = if reply.sequence > self.sequence || reply.received > now + FUTURE_MAX {
            Refusal::Impossible
        } else if reply.sequence < self.answered {
            Refusal::Stale
        } else {
            return Ok(Taken::New);
        };
        self.refused = reply.sequence;
        Err(refusal)
    }

    /// Never look at that answer again.
    pub fn refuse(&mut self, reply: &PathReply) {
        self.refused = reply.sequence;
    }

    /// Takes an answer that was checked.
    pub fn take(&mut self, now: Instant, reply: &PathReply) {
        let numbers = reply.sequence.saturating_sub(self.answered);
        // Between two looks at it the program may have taken several; it begins anew when it is loaded anew.
        let came = match reply.replies.checked_sub(self.replies_there) {
            Some(came) => came.clamp(1, numbers.max(1)),
            None => 1,
        };
        self.lost = self.lost.saturating_add(numbers.saturating_sub(came));
        self.replies = self.replies.saturating_add(came);
        self.replies_there = reply.replies;
        self.answered = reply.sequence;
        self.last_heard = self.last_heard.max(Some(reply.received));
        self.mac = Some(reply.mac);
        self.hurry(now);
        self.rtt.record(reply.rtt);
        if let Some(last) = self.last_rtt.replace(reply.rtt) {
            let faded = self.jitter_scaled - self.jitter_scaled / 16;
            self.jitter_scaled = faded.saturating_add(last.abs_diff(reply.rtt));
        }
    }

    /// Heard at `when` or later.
    pub fn was_heard_since(&self, when: Instant) -> bool {
        self.last_heard.is_some_and(|heard| heard >= when)
    }

    pub fn stats(&self) -> PathStats {
        let silent = self.unanswered >= self.silent_after;
        let waiting = if silent { self.sequence - self.answered } else { 0 };
        PathStats {
            up: self.link_up && self.last_heard.is_some() && !silent,
            sent: self.sequence,
            replies: self.replies,
            lost: self.lost.saturating_add(waiting),
            rtt: self.rtt.clone(),
            jitter: self.jitter_scaled / 16,
            last_heard: self.last_heard,
            mac: self.mac,
        }
    }
}

/// The path of a number, if it is configured.
pub(super) fn find(paths: &mut [Path], id: PathId) -> Option<&mut Path> {
    paths.get_mut(usize::from(id.0))
}
