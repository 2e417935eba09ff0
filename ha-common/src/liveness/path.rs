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
            rtt_last: self.last_rtt,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sight::PeerReport;
    use crate::wire::heartbeat::Standing;

    const MS: Duration = Duration::from_millis(1);
    const MAC: [u8; 6] = [2; 6];
    const START: Instant = Instant(1_000_000_000);

    fn reply(sequence: u64, replies: u64) -> PathReply {
        let report = PeerReport {
            session: 1,
            term: 0,
            standing: Standing::default(),
            beat_age: Duration::ZERO,
            lease_left: Duration::ZERO,
            heard: START,
            asked: START,
        };
        PathReply { path: PathId(0), sequence, received: START, rtt: MS / 10, mac: MAC, replies, report }
    }

    /// A path whose link is up, with so many probes sent.
    fn probed(probes: u32) -> Path {
        let mut path = Path::new(MS);
        path.link_up = true;
        (0..probes).for_each(|_| _ = path.probe(START, MS * 50));
        path
    }

    /// Probes go to the learned address until a hundred are unanswered, then to the group; after a thousand they slow
    /// down; one answer restores both at once.
    #[test]
    fn silence_changes_address_and_pace() {
        let mut path = probed(1);
        path.take(START, &reply(1, 1));
        let sent: Vec<_> = (0..1002).map(|_| (path.probe(START, MS * 50).1, path.probe_at())).collect();
        assert_eq!((sent[99].0, sent[100].0), (Some(MAC), None));
        assert_eq!((sent[999].1, sent[1000].1), (Some(START), Some(START + MS * 50)));
        path.take(START, &reply(1003, 2));
        assert_eq!(path.probe_at(), Some(START));
        assert_eq!(path.probe(START, MS * 50), (1004, Some(MAC)));
        path.link_up = false;
        assert_eq!(path.probe_at(), None);
    }

    /// Losses are the numbers that no answer came for, also when several answers came between two looks, and when the
    /// program counts from one again; claims of more answers than probes are not believed.
    #[test]
    fn losses_are_estimated() {
        let mut path = probed(100);
        let mut after = |sequence, replies| {
            path.take(START, &reply(sequence, replies));
            let stats = path.stats();
            (stats.replies, stats.lost)
        };
        assert_eq!(after(1, 1), (1, 0));
        assert_eq!(after(5, 3), (3, 2));
        assert_eq!(after(6, 1), (4, 2));
        assert_eq!(after(8, u64::MAX), (6, 2));
        assert!(path.stats().up);
    }

    /// Jitter follows RFC 3550: a sixteenth of the difference of two round trips, smoothed.
    #[test]
    fn jitter_is_smoothed() {
        let mut path = probed(10);
        path.take(START, &reply(1, 1));
        assert_eq!(path.stats().jitter, Duration::ZERO);
        path.take(START, &PathReply { rtt: MS / 10 + MS * 16, ..reply(2, 2) });
        assert_eq!(path.stats().jitter, MS);
        path.take(START, &PathReply { rtt: MS / 10 + MS * 16, ..reply(3, 3) });
        assert_eq!(path.stats().jitter, MS * 15 / 16);
    }
}
