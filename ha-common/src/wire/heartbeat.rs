//! Heartbeats: how a node learns within milliseconds that its peer's kernel, controller and gate are alive.
//!
//! An Ethernet frame of its own type, so that it needs no address of the peer and passes no firewall rule. The peer's
//! XDP program answers a probe in the driver path: it turns the frame around and puts its own words in.
//!
//! ```text
//! word  field (big endian, behind the Ethernet header)
//!  0    magic "TWE1" (4), version = 1, kind, sender: NodeId, target: NodeId
//!  1    path (1), key epoch (1), reserved (6)
//!  2    session of the prober
//!  3    sequence of the probe, from 1
//!  4    when it was sent, ns on the prober's boot clock
//!  5    probe: session of the target as last heard, 0 if never; answer: session of the responder
//!  6    term of the sender: the highest it knows, its own while it is MASTER
//!  7    standing of the sender
//!  8    age of the sender's controller's last beat (4) and what is left of its lease (4), µs
//!  9    SipHash-2-4 of words 0..=8
//! ```

use super::bytes::{Packet, Window};
use super::ethernet;
use super::siphash::{Key, siphash24};
use crate::abi::SelfEntry;
use crate::reason::DropReason;

/// IEEE 802 Local Experimental EtherType 1.
pub const TYPE_HEARTBEAT: u16 = 0x88b5;
/// Words behind the Ethernet header, the tag included.
pub const WORDS: usize = 10;
/// Length of the frame in bytes.
pub const FRAME_LEN: usize = ethernet::HEADER_LEN + WORDS * 8;
/// Where probes go while the peer's own address is not known: CARP's group, which every switch floods.
pub const GROUP_MAC: [u8; 6] = [0x01, 0x00, 0x5e, 0x00, 0x00, 0x12];

const MAGIC: u32 = u32::from_be_bytes(*b"TWE1");
const VERSION: u8 = 1;
const TAG: usize = WORDS - 1;

/// Probe or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Probe = 1,
    Reply = 2,
}

/// Whether a node's kernel lets requests for the virtual addresses in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Gate {
    /// Closed: this node claims nothing (or says it in the middle of a change).
    #[default]
    Closed = 0,
    Open = 1,
    /// This node says that it is MASTER, but its lease is over: closed for good in this term.
    Lapsed = 2,
}

/// What a node says of itself, packed into one word. The gate is filled in by the program that answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// [`ROLE_INIT`], [`ROLE_BACKUP`], [`ROLE_MASTER`], [`ROLE_FAULT`].
    pub role: u8,
    /// The `FLAG_` bits.
    pub flags: u8,
    /// Sum of the demotions; zero for a healthy node.
    pub demotion: u8,
    pub advbase: u8,
    pub advskew: u8,
    pub gate: Gate,
}

pub const ROLE_INIT: u8 = 0;
pub const ROLE_BACKUP: u8 = 1;
pub const ROLE_MASTER: u8 = 2;
pub const ROLE_FAULT: u8 = 3;

/// MASTER: the peer may take the group now.
pub const FLAG_OFFER: u8 = 1;
/// BACKUP: wants the group because it ranks better, and is fit for it.
pub const FLAG_WANT: u8 = 2;
/// BACKUP: as [`FLAG_WANT`], by an operator's word.
pub const FLAG_ASKED: u8 = 4;
/// Could take the group and hold its sessions.
pub const FLAG_READY: u8 = 8;
/// The daemon is being restarted and will be back within the lease.
pub const FLAG_RESTARTING: u8 = 16;
/// Under maintenance: takes nothing.
pub const FLAG_MAINTENANCE: u8 = 32;

impl Standing {
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.role as u64) << 56
            | (self.flags as u64) << 48
            | (self.demotion as u64) << 40
            | (self.advbase as u64) << 32
            | (self.advskew as u64) << 24
            | (self.gate as u64) << 16
    }

    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            role: (word >> 56) as u8,
            flags: (word >> 48) as u8,
            demotion: (word >> 40) as u8,
            advbase: (word >> 32) as u8,
            advskew: (word >> 24) as u8,
            gate: match (word >> 16) as u8 {
                1 => Gate::Open,
                2 => Gate::Lapsed,
                _ => Gate::Closed,
            },
        }
    }

    #[inline(always)]
    pub const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// MASTER with its gate open: clients are answered there.
    #[inline(always)]
    pub const fn serves(self) -> bool {
        self.role == ROLE_MASTER && matches!(self.gate, Gate::Open)
    }
}

/// The state of this node's gate at `now_ns`, from what its controller said and what the programs closed.
#[inline(always)]
pub const fn gate(own: &SelfEntry, closed_term: u64, now_ns: u64) -> Gate {
    if Standing::unpack(own.state).role != ROLE_MASTER || own.lease_until_ns == 0 || own.term == 0 {
        Gate::Closed
    } else if own.term > closed_term && now_ns < own.lease_until_ns {
        Gate::Open
    } else {
        Gate::Lapsed
    }
}

/// One heartbeat as a value (host order).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub kind: Kind,
    pub sender: u8,
    pub target: u8,
    pub path: u8,
    pub key_epoch: u8,
    pub session: u64,
    pub sequence: u64,
    pub sent_ns: u64,
    pub other_session: u64,
    pub term: u64,
    pub standing: Standing,
    /// Microseconds, saturating.
    pub beat_age_us: u32,
    /// Microseconds, saturating; zero when there is none.
    pub lease_left_us: u32,
}

impl Heartbeat {
    /// The words on the wire, tag included.
    #[inline(always)]
    pub fn seal(&self, key: Key) -> [u64; WORDS] {
        let head = (MAGIC as u64) << 32
            | (VERSION as u64) << 24
            | (self.kind as u64) << 16
            | (self.sender as u64) << 8
            | self.target as u64;
        let body = [
            head,
            (self.path as u64) << 56 | (self.key_epoch as u64) << 48,
            self.session,
            self.sequence,
            self.sent_ns,
            self.other_session,
            self.term,
            self.standing.pack(),
            (self.beat_age_us as u64) << 32 | self.lease_left_us as u64,
        ];
        let tag = siphash24(key, &body);
        [body[0], body[1], body[2], body[3], body[4], body[5], body[6], body[7], body[8], tag]
    }

    /// Reads the heartbeat in an Ethernet frame. `None`: the frame is somebody else's. `key_of` gives the key of an epoch,
    /// if this node holds it.
    ///
    /// # Errors
    /// The first check that fails: length, version and kind, key epoch, tag. Who it is from and for is the caller's.
    #[inline(always)]
    pub fn read<P: Packet>(frame: P, key_of: impl FnOnce(u8) -> Option<Key>) -> Option<Result<Heartbeat, DropReason>> {
        let header = frame.window::<{ ethernet::HEADER_LEN + 4 }>(0)?;
        if header.be16(12) != TYPE_HEARTBEAT || header.be32(14) != MAGIC {
            return None;
        }
        Some(Self::read_body(frame, key_of))
    }

    #[inline(always)]
    fn read_body<P: Packet>(frame: P, key_of: impl FnOnce(u8) -> Option<Key>) -> Result<Heartbeat, DropReason> {
        let Some(body) = frame.window::<{ WORDS * 8 }>(ethernet::HEADER_LEN) else {
            return Err(DropReason::HeartbeatLength);
        };
        let kind = match (body.byte(4), body.byte(5)) {
            (VERSION, 1) => Kind::Probe,
            (VERSION, 2) => Kind::Reply,
            _ => return Err(DropReason::HeartbeatVersion),
        };
        let key_epoch = body.byte(9);
        let Some(key) = key_of(key_epoch) else { return Err(DropReason::HeartbeatKeyEpoch) };
        let words: [u64; TAG] = core::array::from_fn(|i| body.be64(i * 8));
        if siphash24(key, &words) != body.be64(TAG * 8) {
            return Err(DropReason::HeartbeatTag);
        }
        Ok(Heartbeat {
            kind,
            sender: (words[0] >> 8) as u8,
            target: words[0] as u8,
            path: (words[1] >> 56) as u8,
            key_epoch,
            session: words[2],
            sequence: words[3],
            sent_ns: words[4],
            other_session: words[5],
            term: words[6],
            standing: Standing::unpack(words[7]),
            beat_age_us: (words[8] >> 32) as u32,
            lease_left_us: words[8] as u32,
        })
    }

    /// True when this node, a MASTER by `own`, learns from this probe that the peer has taken the group in a later term.
    ///
    /// Only what was said to this very process counts: a recorded frame cannot close the gate of a later one.
    #[inline(always)]
    pub const fn supersedes(&self, own: &SelfEntry) -> bool {
        self.standing.serves()
            && self.term > own.term
            && own.session != 0
            && self.other_session == own.session
            && Standing::unpack(own.state).role == ROLE_MASTER
    }

    /// The answer to this probe by the node that `own` describes, whose gate is `gate` at `now_ns`.
    #[inline(always)]
    pub fn answer(&self, own: &SelfEntry, gate: Gate, now_ns: u64) -> Heartbeat {
        Heartbeat {
            kind: Kind::Reply,
            sender: self.target,
            target: self.sender,
            other_session: own.session,
            term: own.term,
            standing: Standing { gate, ..Standing::unpack(own.state) },
            beat_age_us: micros(now_ns.saturating_sub(own.beat_ns)),
            lease_left_us: micros(own.lease_until_ns.saturating_sub(now_ns)),
            ..*self
        }
    }
}

#[inline(always)]
const fn micros(ns: u64) -> u32 {
    let us = ns / 1000;
    if us > u32::MAX as u64 { u32::MAX } else { us as u32 }
}

/// The whole frame of a heartbeat.
pub fn emit(destination: [u8; 6], source: [u8; 6], words: &[u64; WORDS]) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..ethernet::HEADER_LEN].copy_from_slice(&ethernet::emit(destination, source, TYPE_HEARTBEAT));
    for (bytes, word) in frame[ethernet::HEADER_LEN..].chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [1, 2];
    const PROBE: Heartbeat = Heartbeat {
        kind: Kind::Probe,
        sender: 0,
        target: 1,
        path: 2,
        key_epoch: 7,
        session: 0x0102_0304_0506_0708,
        sequence: 42,
        sent_ns: 1_000_000,
        other_session: 9,
        term: 0x5ff,
        standing: Standing {
            role: ROLE_MASTER,
            flags: FLAG_OFFER | FLAG_READY,
            demotion: 3,
            advbase: 1,
            advskew: 100,
            gate: Gate::Open,
        },
        beat_age_us: 17,
        lease_left_us: 29_000,
    };

    fn frame() -> [u8; FRAME_LEN] {
        emit(GROUP_MAC, [2; 6], &PROBE.seal(KEY))
    }

    fn read(frame: &[u8]) -> Option<Result<Heartbeat, DropReason>> {
        Heartbeat::read(frame, |epoch| (epoch == 7).then_some(KEY))
    }

    /// What is sealed is read again, also with trailing padding; the answer turns it around.
    #[test]
    fn round_trip_and_answer() {
        assert_eq!(read(&frame()), Some(Ok(PROBE)));
        let padded: Vec<u8> = frame().into_iter().chain([0; 7]).collect();
        assert_eq!(read(&padded), Some(Ok(PROBE)));
        let own =
            SelfEntry { session: 77, term: 3, state: Standing::default().pack(), beat_ns: 500, ..SelfEntry::default() };
        let answer = PROBE.answer(&own, Gate::Closed, 1_000_500);
        assert_eq!((answer.sender, answer.target, answer.other_session, answer.term), (1, 0, 77, 3));
        assert_eq!(
            (answer.sequence, answer.sent_ns, answer.beat_age_us, answer.lease_left_us),
            (42, 1_000_000, 1000, 0)
        );
    }

    /// Every single flipped bit behind the Ethernet header is refused or makes the frame somebody else's; so is every truncation.
    #[test]
    fn nothing_altered_is_accepted() {
        for bit in ethernet::HEADER_LEN * 8..FRAME_LEN * 8 {
            let mut altered = frame();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(read(&altered), Some(Ok(_))), "bit {bit}");
        }
        for len in 0..FRAME_LEN {
            assert!(!matches!(read(&frame()[..len]), Some(Ok(_))), "length {len}");
        }
        assert_eq!(Heartbeat::read(&frame()[..], |_| Some([1, 3])), Some(Err(DropReason::HeartbeatTag)));
        assert_eq!(Heartbeat::read(&frame()[..], |_| None), Some(Err(DropReason::HeartbeatKeyEpoch)));
    }

    /// Only a serving peer with a later term, talking to this very session, supersedes a MASTER.
    #[test]
    fn who_supersedes() {
        let master = Standing { role: ROLE_MASTER, ..Standing::default() };
        let own = SelfEntry { session: 9, term: 0x4ff, state: master.pack(), ..SelfEntry::default() };
        assert!(PROBE.supersedes(&own));
        assert!(!PROBE.supersedes(&SelfEntry { term: PROBE.term, ..own }));
        assert!(!PROBE.supersedes(&SelfEntry { session: 8, ..own }));
        assert!(!Heartbeat { other_session: 0, ..PROBE }.supersedes(&SelfEntry { session: 0, ..own }));
        assert!(!PROBE.supersedes(&SelfEntry { state: Standing::default().pack(), ..own }));
        let closed = Standing { gate: Gate::Closed, ..PROBE.standing };
        assert!(!Heartbeat { standing: closed, ..PROBE }.supersedes(&own));
    }

    /// The gate is open exactly in a live lease of a term that is not closed, and MASTER without one has lapsed.
    #[test]
    fn the_gate_follows_lease_and_fence() {
        let master = Standing { role: ROLE_MASTER, ..Standing::default() }.pack();
        let own = SelfEntry { lease_until_ns: 100, term: 5, state: master, ..SelfEntry::default() };
        assert_eq!(gate(&own, 4, 99), Gate::Open);
        assert_eq!(gate(&own, 4, 100), Gate::Lapsed);
        assert_eq!(gate(&own, 5, 99), Gate::Lapsed);
        assert_eq!(gate(&SelfEntry { lease_until_ns: 0, ..own }, 0, 99), Gate::Closed);
        assert_eq!(gate(&SelfEntry { state: 0, ..own }, 0, 99), Gate::Closed);
        assert_eq!(gate(&SelfEntry { term: 0, ..own }, 0, 99), Gate::Closed);
    }
}
