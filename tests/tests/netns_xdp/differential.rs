//! The same frames through the XDP program and through the host's parser: verdict, counters and delivered adverts agree.

use crate::beats_differential::{BeatOracle, Judged};
use crate::corpus::{self, Sample};
use crate::rig::{RING_ADVERTS, Rig};
use ha_common::abi::{
    self, COUNT_ADVERTS, COUNT_FRAMES, COUNT_PACKETS, COUNT_PROBES, COUNT_REPLIES, CounterRow, PeerEntry, SelfEntry,
    Stream, refusal_index,
};
use ha_common::election::ReceivedAdvert;
use ha_common::reason::DropReason;
use ha_common::role::NodeId;
use ha_common::wire::advert::{Refusal, inspect};
use ha_common::wire::carp::Advert;
use ha_common::wire::frame::{self, Header, Kind};
use ha_common::wire::genuine::{Admission, SessionEntry};
use ha_common::wire::{carp, ip, udp};
use ha_user::datapath::load::EDGE;
use ha_user::datapath::{Path, Snapshot};
use std::net::IpAddr;
use std::time::Duration;

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
/// Frames shorter than an Ethernet header cannot be test runs.
const FRAME_BYTES_MIN: usize = 14;

/// What the host says should be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    interface: CounterRow,
    member: CounterRow,
    stream: Stream,
}

/// What the program may do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Exactly(u32),
    /// Pass, or drop as one too many of the time ([`DropReason::FrameRate`]).
    Limited,
}

struct Oracle {
    local: IpAddr,
    peer: IpAddr,
    /// Heartbeats and the gate.
    beats: BeatOracle,
    /// What the programs were told of the peer's session.
    session: SessionEntry,
    counted: Expected,
    delivered: Vec<(IpAddr, IpAddr, Advert)>,
}

impl Oracle {
    fn new(is_v6: bool) -> Self {
        let (local, peer) = corpus::sync_addresses(is_v6);
        let row = [0; abi::COUNTERS];
        let counted = Expected { interface: row, member: row, stream: Stream::default() };
        let (beats, session) = (BeatOracle::new(corpus::master(1, true)), SessionEntry::default());
        Self { local, peer, beats, session, counted, delivered: Vec::new() }
    }

    /// The verdict on one frame; counts as the program must.
    fn judge(&mut self, bytes: &[u8]) -> Wanted {
        self.counted.interface[COUNT_PACKETS] += 1;
        if let Some(verdict) = self.judge_beat(bytes) {
            return Wanted::Exactly(verdict);
        }
        let Some(header) = ip::Header::of_frame(bytes) else { return Wanted::Exactly(PASS) };
        match header.protocol() {
            carp::PROTOCOL => Wanted::Exactly(self.judge_advert(bytes, header)),
            udp::PROTOCOL => self.judge_datagram(bytes, &header),
            _ => Wanted::Exactly(PASS),
        }
    }

    fn judge_beat(&mut self, bytes: &[u8]) -> Option<u32> {
        Some(match self.beats.judge(bytes)? {
            Ok(Judged::Admitted) => PASS,
            Ok(Judged::Taken) => {
                self.counted.interface[COUNT_REPLIES] += 1;
                DROP
            }
            Ok(Judged::Answered(_)) => {
                self.counted.interface[COUNT_PROBES] += 1;
                TX
            }
            Err(reason) => {
                self.counted.interface[refusal_index(reason)] += 1;
                DROP
            }
        })
    }

    fn judge_advert<'a>(&mut self, bytes: &'a [u8], header: ip::Header<&'a [u8]>) -> u32 {
        let heard = match inspect(bytes, header) {
            Ok(heard) => heard,
            Err(refusal) => return self.refuse_advert(refusal),
        };
        if heard.vhid() != corpus::VHID {
            return self.refuse_advert(Refusal { reason: DropReason::VhidUnknown, vhid: None });
        }
        self.counted.interface[COUNT_ADVERTS] += 1;
        self.counted.member[COUNT_ADVERTS] += 1;
        self.delivered.push((heard.source(), heard.destination(), heard.advert()));
        PASS
    }

    fn refuse_advert(&mut self, refusal: Refusal) -> u32 {
        self.counted.interface[refusal_index(refusal.reason)] += 1;
        if refusal.vhid == Some(corpus::VHID) {
            self.counted.member[refusal_index(refusal.reason)] += 1;
        }
        if refusal.reason.is_passed_on() { PASS } else { DROP }
    }

    fn judge_datagram<'a>(&mut self, bytes: &'a [u8], header: &ip::Header<&'a [u8]>) -> Wanted {
        let local = ip::address_words(self.local);
        if header.is_v6() != self.local.is_ipv6() || !header.destination_is(&local) {
            return Wanted::Exactly(PASS);
        }
        let Some(payload) = frame::datagram(bytes, header, corpus::SYNC_PORT) else { return Wanted::Exactly(PASS) };
        let peer = PeerEntry::new(self.peer);
        let admitted = Header::read(bytes, payload).and_then(|frame| {
            if !frame.is_for(corpus::NODE) {
                Err(DropReason::FrameTarget)
            } else if frame.sender != corpus::PEER_NODE || !peer.admits_source(header) {
                Err(DropReason::FrameSender)
            } else if corpus::key_of(frame.key_epoch).is_none() {
                Err(DropReason::FrameKeyEpoch)
            } else {
                let is_stamped = frame::is_stamped(bytes, payload, corpus::STAMP_KEY);
                self.session.judge(&frame, is_stamped).map(|admission| (frame, admission))
            }
        });
        match admitted {
            Ok((_, Admission::Limited { .. })) => Wanted::Limited,
            Ok((frame, Admission::Free)) => {
                self.counted.interface[COUNT_FRAMES] += 1;
                if frame.kind == Kind::Data {
                    self.counted.stream.observe(frame.kind, frame.session, frame.sequence, payload.len as u64);
                }
                Wanted::Exactly(PASS)
            }
            Err(reason) => {
                self.counted.interface[refusal_index(reason)] += 1;
                Wanted::Exactly(DROP)
            }
        }
    }

    /// What became of a frame that was limited.
    fn was(&mut self, verdict: u32) {
        let counter = if verdict == PASS { COUNT_FRAMES } else { refusal_index(DropReason::FrameRate) };
        self.counted.interface[counter] += 1;
    }
}

/// Sends frames through both and compares.
pub struct Pair {
    rig: Rig,
    oracle: Oracle,
    received: Vec<ReceivedAdvert>,
}

impl Pair {
    pub fn new(is_v6: bool) -> Self {
        let mut rig = Rig::new(is_v6).expect("this test needs root (CAP_BPF) and a build with BPF");
        rig.heartbeat().publish(&corpus::master(1, true)).unwrap();
        Self { rig, oracle: Oracle::new(is_v6), received: Vec::new() }
    }

    /// One frame through both; one that is too short for a test run is left out.
    pub fn feed(&mut self, name: &str, bytes: &[u8]) {
        if bytes.len() < FRAME_BYTES_MIN {
            return;
        }
        let wanted = self.oracle.judge(bytes);
        let action = self.rig.run(EDGE, bytes, 1).unwrap().action;
        match wanted {
            Wanted::Exactly(verdict) => assert_eq!(action, verdict, "{name}: {bytes:02x?}"),
            Wanted::Limited => {
                assert!(action == PASS || action == DROP, "{name}: {action}: {bytes:02x?}");
                self.oracle.was(action);
            }
        }
        self.received.extend(std::iter::from_fn(|| self.rig.next_advert()));
    }

    /// Both are told of the peer's session.
    pub fn tell(&mut self, session: SessionEntry) {
        self.rig.sessions.set(NodeId(corpus::PEER_NODE), session).unwrap();
        self.oracle.session = session;
    }

    /// Both are told whether this node is master with a live lease.
    pub fn serve(&mut self, own: SelfEntry) {
        self.rig.heartbeat().publish(&own).unwrap();
        self.oracle.beats.own = own;
    }

    /// As [`Self::compare`], and forgets the adverts that were delivered so far. Their number.
    pub fn compare_and_forget(&mut self) -> usize {
        self.compare();
        self.oracle.delivered.clear();
        std::mem::take(&mut self.received).len()
    }

    /// How often the host refused a frame for this reason.
    pub fn refused(&self, reason: DropReason) -> u64 {
        self.oracle.counted.interface[refusal_index(reason)]
    }

    /// Compares all that was counted and delivered since the start.
    fn compare(&self) {
        let delivered: Vec<_> = self.received.iter().map(|a| (a.source, a.destination, a.advert)).collect();
        assert_eq!(delivered, self.oracle.delivered);
        assert_eq!(counted(&self.rig.counters().snapshot()), self.oracle.counted);
    }
}

/// The program's counters in the oracle's form.
fn counted(snapshot: &Snapshot) -> Expected {
    let interface = snapshot.interfaces.iter().find(|entry| entry.path == Path::Xdp).unwrap();
    let member = snapshot.members.iter().find(|entry| entry.path == Path::Xdp).unwrap();
    let stream = snapshot.peers.iter().find(|entry| entry.path == Path::Xdp && entry.kind == Kind::Data).unwrap();
    let mut rows = [[0; abi::COUNTERS]; 2];
    rows[0][COUNT_PACKETS] = interface.packets;
    rows[0][COUNT_ADVERTS] = interface.adverts;
    rows[0][COUNT_FRAMES] = interface.frames;
    rows[0][COUNT_PROBES] = interface.probes;
    rows[0][COUNT_REPLIES] = interface.replies;
    rows[1][COUNT_ADVERTS] = member.adverts;
    for reason in DropReason::ALL {
        rows[0][refusal_index(*reason)] = interface.refused[*reason as usize];
        rows[1][refusal_index(*reason)] = member.refused[*reason as usize];
    }
    Expected { interface: rows[0], member: rows[1], stream: stream.stream }
}

/// xorshift64*: enough disorder, the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// Every sample of the corpus gets the verdict in its name, from the program and from the host.
#[test]
fn netns_corpus_verdicts_agree() {
    let mut pair = Pair::new(false);
    for Sample { name, bytes, refused } in corpus::all() {
        let before = pair.oracle.counted.interface;
        pair.feed(&name, &bytes);
        let newly =
            |reason: DropReason| pair.oracle.counted.interface[refusal_index(reason)] - before[refusal_index(reason)];
        let refusals: Vec<_> = DropReason::ALL.iter().copied().filter(|reason| newly(*reason) > 0).collect();
        assert_eq!(refusals, Vec::from_iter(refused), "{name}");
    }
    pair.compare();
    assert_eq!(pair.received.len(), 6);
}

/// Every single flipped bit and every truncation of every sample: both agree on verdict, reason and delivery.
#[test]
fn netns_flipped_bits_and_truncations_agree() {
    let mut pair = Pair::new(false);
    for Sample { name, bytes, .. } in corpus::all() {
        // What follows the headers is not looked at, except by length.
        for bit in 0..bytes.len().min(120) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            pair.feed(&name, &flipped);
        }
        for len in FRAME_BYTES_MIN..bytes.len() {
            pair.feed(&name, &bytes[..len]);
        }
    }
    pair.compare();
}

/// Skipped, repeated and restarted sequence numbers over IPv6 are counted as the host counts them.
#[test]
fn netns_sync_sequence_gaps_agree() {
    let mut pair = Pair::new(true);
    for sequence in [1, 2, 3, 7, 6, 8, 8, 9] {
        pair.feed("IPv6 sync frame", &corpus::sync_frame_v6(sequence, 64));
        pair.feed("IPv4 frame beside an IPv6 link", &corpus::sync_frame(sequence, 64));
    }
    pair.compare();
    let stream = pair.oracle.counted.stream;
    assert_eq!((stream.frames, stream.gaps, stream.lost, stream.duplicates), (8, 1, 3, 2));
}

/// When nobody empties the ring, further adverts are counted as such and still pass.
#[test]
fn netns_full_ring_is_counted_and_passes() {
    let mut rig = Rig::new(false).expect("this test needs root (CAP_BPF) and a build with BPF");
    let frame = corpus::advert_frame();
    let run = rig.run(EDGE, &frame, RING_ADVERTS + 100).unwrap();
    assert_eq!(run.action, PASS);
    assert!(run.duration < Duration::from_micros(100), "{:?} for one advert", run.duration);
    let full = counted(&rig.counters().snapshot());
    let lost = full.interface[refusal_index(DropReason::RingFull)];
    assert!((100..110).contains(&lost), "{lost}");
    assert_eq!(full.member[refusal_index(DropReason::RingFull)], lost);
    rig.drain();
    rig.run(EDGE, &frame, 1).unwrap();
    assert!(rig.next_advert().is_some());
}

/// The programs stay far below the verifier's limit of a million instructions.
#[test]
fn netns_verifier_budget() {
    let mut rig = Rig::new(false).expect("this test needs root (CAP_BPF) and a build with BPF");
    if let Some(count) = rig.verified_instructions(EDGE).unwrap() {
        assert!(count < 30_000, "{count}");
    }
}
