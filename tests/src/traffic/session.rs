//! One session as the client sees it, readable from every thread while it runs.

use super::record::Record;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Tcp,
    Udp,
    Icmp,
}

impl Kind {
    /// All, in the order of the summaries.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];

    /// The name in summaries and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// Why a session did not survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failure {
    /// The connection was reset or timed out.
    Reset = 1,
    /// The other side closed it.
    Closed = 2,
    /// A record came back damaged, twice or out of order.
    Corrupt = 3,
    /// The server sees it come from another port or identifier: it is tracked anew, its state was lost.
    Renumbered = 4,
}

impl Failure {
    const ALL: [Self; 4] = [Self::Reset, Self::Closed, Self::Corrupt, Self::Renumbered];

    /// In words, for summaries.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Corrupt => "corrupt",
            Self::Renumbered => "renumbered",
        }
    }
}

/// The shared part of a session: written by the client's thread only, read by anyone.
#[derive(Debug)]
pub struct Session {
    pub kind: Kind,
    pub number: u32,
    /// Nanoseconds since the traffic's epoch when the last correct reply came; 0: none yet.
    last_reply: AtomicU64,
    replies: AtomicU64,
    /// What the server saw first; 0: nothing yet.
    seen: AtomicU64,
    failure: AtomicU8,
}

impl Session {
    pub(super) fn new(kind: Kind, number: u32) -> Self {
        Self {
            kind,
            number,
            last_reply: AtomicU64::new(0),
            replies: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            failure: AtomicU8::new(0),
        }
    }

    /// When the last correct reply came, nanoseconds since the traffic's epoch; 0 when none came.
    pub fn last_reply(&self) -> u64 {
        self.last_reply.load(Ordering::Relaxed)
    }

    /// Correct replies so far.
    pub fn replies(&self) -> u64 {
        self.replies.load(Ordering::Relaxed)
    }

    /// What ended it.
    pub fn failure(&self) -> Option<Failure> {
        let code = self.failure.load(Ordering::Relaxed);
        Failure::ALL.into_iter().find(|failure| *failure as u8 == code)
    }

    /// Whether it has gone on, unharmed, after this time.
    pub fn survived(&self, since: u64) -> bool {
        self.failure().is_none() && self.last_reply() > since
    }

    /// Notes a reply that has arrived; false when it shows that the session is lost.
    pub(super) fn note_reply(&self, now: u64, record: Record, expected: Option<u64>, seen: u64) -> bool {
        if record.session != self.number || expected.is_some_and(|sequence| sequence != record.sequence) {
            self.fail(Failure::Corrupt);
            return false;
        }
        let first = self.seen.compare_exchange(0, seen, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err_and(|first| first != seen) {
            self.fail(Failure::Renumbered);
            return false;
        }
        self.replies.fetch_add(1, Ordering::Relaxed);
        self.last_reply.store(now, Ordering::Relaxed);
        true
    }

    /// The first failure stays.
    pub(super) fn fail(&self, failure: Failure) {
        let _ = self.failure.compare_exchange(0, failure as u8, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session that the server sees under another port has failed, whatever comes later; the first failure
    /// is the one that is told.
    #[test]
    fn renumbering_and_disorder_end_a_session() {
        let session = Session::new(Kind::Udp, 3);
        let record = Record { session: 3, sequence: 9 };
        assert!(session.note_reply(10, record, None, 1000));
        assert!(session.survived(9) && !session.survived(10));
        assert!(!session.note_reply(20, record, None, 1001));
        assert_eq!((session.failure(), session.survived(5)), (Some(Failure::Renumbered), false));
        session.fail(Failure::Reset);
        assert_eq!(session.failure(), Some(Failure::Renumbered));

        let ordered = Session::new(Kind::Tcp, 3);
        assert!(!ordered.note_reply(10, record, Some(8), 1000));
        assert_eq!(ordered.failure(), Some(Failure::Corrupt));
    }
}
