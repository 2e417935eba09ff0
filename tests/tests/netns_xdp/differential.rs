//! The same frames through the XDP program and through the host's parser: verdict, counters and delivered adverts agree.

use crate::beats_differential::{BeatOracle, Judged};
use crate::corpus::{self, Sample};
use crate::rig::{RING_ADVERTS, Rig};
use ha_common::abi::{
    self, COUNT_ADVERTS, COUNT_FRAMES, COUNT_PACKETS, COUNT_PROBES, COUNT_REPLIES, CounterRow, PeerEntry, Stream,
    refusal_index,
};
use ha_common::election::ReceivedAdvert;
use ha_common::reason::DropReason;
use ha_common::wire::advert::{Refusal, inspect};
use ha_common::wire::carp::Advert;
use ha_common::wire::frame::{self, Header, Kind};
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

struct Oracle {
    local: IpAddr,
    peer: IpAddr,
    /// Heartbeats and the gate.
    beats: BeatOracle,
    counted: Expected,
    delivered: Vec<(IpAddr, IpAddr, Advert)>,
}

impl Oracle {
    fn new(is_v6: bool) -> Self {
        let (local, peer) = corpus::sync_addresses(is_v6);
        let row = [0; abi::COUNTERS];
        let counted = Expected { interface: row, member: row, stream: Stream::default() };
        Self { local, peer, beats: BeatOracle::new(corpus::master(1, true)), counted, delivered: Vec::new() }
    }

    /// The verdict on one frame; counts as the program must.
    fn judge(&mut self, bytes: &[u8]) -> u32 {
        self.counted.interface[COUNT_PACKETS] += 1;
        match self.beats.judge(bytes) {
            None => {}
            Some(Ok(Judged::Admitted)) => return PASS,
            Some(Ok(Judged::Taken)) => {
                self.counted.interface[COUNT_REPLIES] += 1;
                return DROP;
            }
            Some(Ok(Judged::Answered(_))) => {
                self.counted.interface[COUNT_PROBES] += 1;
                return TX;
            }
            Some(Err(reason)) => {
                self.counted.interface[refusal_index(reason)] += 1;
                return DROP;
            }
        }
        let Some(header) = ip::Header::of_frame(bytes) else { return PASS };
        match header.protocol() {
            carp::PROTOCOL => self.judge_advert(bytes, header),
            udp::PROTOCOL => self.judge_datagram(bytes, &header),
            _ => PASS,
        }
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

    fn judge_datagram<'a>(&mut self, bytes: &'a [u8], header: &ip::Header<&'a [u8]>) -> u32 {
        let local = ip::address_words(self.local);
        if header.is_v6() != self.local.is_ipv6() {
            return PASS;
        }
        if !header.destination_is(&local) {
            return PASS;
        }
        let Some(payload) = frame::datagram(bytes, header, corpus::SYNC_PORT) else { return PASS };
        let peer = PeerEntry::new(self.peer);
        let admitted = Header::read(bytes, payload).and_then(|frame| {
            if !frame.is_for(corpus::NODE) {
                Err(DropReason::FrameTarget)
            } else if frame.sender != corpus::PEER_NODE || !peer.admits_source(header) {
                Err(DropReason::FrameSender)
            } else if corpus::key_of(frame.key_epoch).is_none() {
                Err(DropReason::FrameKeyEpoch)
            } else {
                Ok(frame)
            }
        });
        match admitted {
            Ok(frame) => {
                self.counted.interface[COUNT_FRAMES] += 1;
                if frame.kind == Kind::Data {
                    self.counted.stream.observe(frame.kind, frame.session, frame.sequence, payload.len as u64);
                }
                PASS
            }
            Err(reason) => {
                self.counted.interface[refusal_index(reason)] += 1;
                DROP
            }
        }
    }
}

/// Sends frames through both and compares.
struct Pair {
    rig: Rig,
    oracle: Oracle,
    received: Vec<ReceivedAdvert>,
}

impl Pair {
    fn new(is_v6: bool) -> Self {
        let mut rig = Rig::new(is_v6).expect("this test needs root (CAP_BPF) and a build with BPF");
        rig.heartbeat().publish(&corpus::master(1, true)).unwrap();
        Self { rig, oracle: Oracle::new(is_v6), received: Vec::new() }
    }

    fn feed(&mut self, name: &str, bytes: &[u8]) {
        if bytes.len() < FRAME_BYTES_MIN {
            return;
        }
        let wanted = self.oracle.judge(bytes);
        let run = self.rig.run(EDGE, bytes, 1).unwrap();
        assert_eq!(run.action, wanted, "{name}: {bytes:02x?}");
        self.received.extend(std::iter::from_fn(|| self.rig.next_advert()));
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

/// 20,000 frames made from the corpus by seeded edits (bytes overwritten, inserted, removed, tags added): both agree.
#[test]
fn netns_generated_frames_agree() {
    let mut pair = Pair::new(false);
    let mut random = Random(0x7477_696e_7761_6c6c);
    let corpus = corpus::all();
    for round in 0..20_000 {
        let mut bytes = corpus[random.below(corpus.len())].bytes.clone();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len().min(100));
            match random.below(4) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes.insert(at, random.below(256) as u8),
                2 => drop(bytes.remove(at)),
                _ => drop(bytes.splice(12..12, [0x81, 0x00, 0x20, 0x01])),
            }
        }
        pair.feed(&format!("round {round}"), &bytes);
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
