//! Which sync frames cannot be genuine, told by their headers before anything is copied or opened.
//!
//! The sync loop tells the programs whose session is current; what it does not tell refuses nothing. Sessions end and begin
//! by hellos alone, so a hello of an unknown session is never refused for that, only when too many of them come: an entry
//! that is stale, because either side has started anew or the daemon is dead, keeps no peer out.

use super::frame::{Header, Kind};
use crate::reason::DropReason;

/// What is known of a peer's session: the entry of the map `SESSIONS` at its node number. All zero: nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionEntry {
    /// The session that is believed; zero: none.
    pub session: u64,
    /// By kind: frames of lower sequences are older than anything that would be taken.
    pub hello_from: u64,
    pub data_from: u64,
    pub ack_from: u64,
    /// 1: the peer stamps its headers.
    pub stamps: u64,
}
const _: () = assert!(size_of::<SessionEntry>() == 40);

/// Hellos of unknown sessions that are let through at once, and the time after which one more is, by bucket.
pub const HELLO_BURST: u64 = 32;
pub const HELLO_INTERVAL_NS: u64 = 10_000_000;
/// Buckets of one peer for hellos with a right stamp. Only recordings can fill them, each that of its session: a peer that
/// really starts anew has a fresh one.
const BUCKETS_STAMPED: u32 = 64;
/// Nodes with stamped buckets of their own; a cluster has at most eight.
const NODES: u32 = 16;
/// Entries of the map `HELLOS`: the stamped buckets, and one for each possible sender of hellos without a right stamp.
pub const HELLO_BUCKETS: u32 = BUCKETS_STAMPED * NODES + 256;

/// A frame that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Free,
    /// It passes if this bucket has a turn left ([`next_turn`]).
    Limited {
        bucket: u32,
    },
}

impl SessionEntry {
    /// Judges the header of a frame of this peer. `is_stamped`: it bears the stamp of a secret that is valid here.
    ///
    /// # Errors
    /// [`DropReason::FrameSession`], [`DropReason::FrameAuth`] or [`DropReason::FrameReplay`].
    #[inline(always)]
    pub fn judge(&self, header: &Header, is_stamped: bool) -> Result<Admission, DropReason> {
        let is_current = self.session != 0 && header.session == self.session;
        let from = match header.kind {
            Kind::Hello => self.hello_from,
            Kind::Data => self.data_from,
            Kind::Ack => self.ack_from,
        };
        if !is_current {
            return match header.kind {
                Kind::Hello => Ok(Admission::Limited { bucket: bucket(header, is_stamped) }),
                Kind::Data | Kind::Ack if self.session == 0 => Ok(Admission::Free),
                Kind::Data | Kind::Ack => Err(DropReason::FrameSession),
            };
        }
        if self.stamps != 0 && !is_stamped {
            return Err(DropReason::FrameAuth);
        }
        if header.sequence < from {
            return Err(DropReason::FrameReplay);
        }
        Ok(Admission::Free)
    }
}

#[inline(always)]
const fn bucket(header: &Header, is_stamped: bool) -> u32 {
    if is_stamped {
        (header.sender as u32 % NODES) * BUCKETS_STAMPED + (header.session % BUCKETS_STAMPED as u64) as u32
    } else {
        BUCKETS_STAMPED * NODES + header.sender as u32
    }
}

/// The bucket's next state if it has a turn at `now_ns`, else `None`. The state is the time at which it will be full again
/// (the generic cell rate algorithm); zero: full.
#[inline(always)]
pub const fn next_turn(full_at_ns: u64, now_ns: u64) -> Option<u64> {
    let from = if full_at_ns > now_ns { full_at_ns } else { now_ns };
    if from - now_ns > (HELLO_BURST - 1) * HELLO_INTERVAL_NS { None } else { Some(from + HELLO_INTERVAL_NS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: SessionEntry = SessionEntry { session: 7, hello_from: 10, data_from: 100, ack_from: 50, stamps: 1 };

    fn header(kind: Kind, session: u64, sequence: u64) -> Header {
        Header { kind, sender: 1, key_epoch: 1, body_len: 16, target: 1, session, sequence }
    }

    /// Frames of the current session pass with their stamp from their floor on; others of it do not.
    #[test]
    fn the_current_session() {
        for (kind, from) in [(Kind::Hello, 10), (Kind::Data, 100), (Kind::Ack, 50)] {
            assert_eq!(ENTRY.judge(&header(kind, 7, from), true), Ok(Admission::Free));
            assert_eq!(ENTRY.judge(&header(kind, 7, from - 1), true), Err(DropReason::FrameReplay));
            assert_eq!(ENTRY.judge(&header(kind, 7, from), false), Err(DropReason::FrameAuth));
            let older = SessionEntry { stamps: 0, ..ENTRY };
            assert_eq!(older.judge(&header(kind, 7, from), false), Ok(Admission::Free));
        }
    }

    /// Whatever is in the entry, a hello of another session is let through at a limited rate; sealed frames of another
    /// session are refused when one is known, and left to the engine when none is.
    #[test]
    fn other_sessions() {
        for entry in [ENTRY, SessionEntry::default(), SessionEntry { session: u64::MAX, hello_from: u64::MAX, ..ENTRY }]
        {
            for is_stamped in [true, false] {
                let judged = entry.judge(&header(Kind::Hello, 8, 1), is_stamped);
                assert!(matches!(judged, Ok(Admission::Limited { bucket }) if bucket < HELLO_BUCKETS));
            }
        }
        for kind in [Kind::Data, Kind::Ack] {
            assert_eq!(ENTRY.judge(&header(kind, 8, 1000), true), Err(DropReason::FrameSession));
            assert_eq!(SessionEntry::default().judge(&header(kind, 0, 0), false), Ok(Admission::Free));
        }
    }

    /// Forged hellos cannot use up the turns of stamped ones, nor recordings those of another session or peer.
    #[test]
    fn buckets_are_apart() {
        let hello = |sender, session| Header { sender, ..header(Kind::Hello, session, 1) };
        let stamped = bucket(&hello(1, 8), true);
        for other in [bucket(&hello(1, 8), false), bucket(&hello(1, 9), true), bucket(&hello(2, 8), true)] {
            assert_ne!(stamped, other);
        }
        assert!(bucket(&hello(255, u64::MAX), true) < HELLO_BUCKETS && bucket(&hello(255, 0), false) < HELLO_BUCKETS);
    }

    /// A burst, then one each interval, and a full burst again after silence; extremes do not overflow.
    #[test]
    fn turns() {
        let mut full_at = 0;
        let mut take = |now: u64| next_turn(full_at, now).map(|next| full_at = next).is_some();
        let now = 1_000_000_000_000;
        assert_eq!((0..100).filter(|_| take(now)).count() as u64, HELLO_BURST);
        assert_eq!((0..100).filter(|_| take(now + HELLO_INTERVAL_NS)).count(), 1);
        assert_eq!((0..100).filter(|_| take(now + 10 * HELLO_INTERVAL_NS * HELLO_BURST)).count() as u64, HELLO_BURST);
        assert_eq!(next_turn(u64::MAX, 0), None);
    }
}
