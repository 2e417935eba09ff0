//! Generated heartbeats and requests through the XDP program and through a model made of the host's parsers.

use crate::corpus::{self, HEARTBEAT_KEY, NODE, NODE_MAC, PEER_NODE};
use crate::differential::Random;
use crate::rig::Rig;
use ha_common::abi::{FenceEntry, SelfEntry};
use ha_common::reason::DropReason;
use ha_common::wire::heartbeat::{self, Gate, Heartbeat, Kind, Standing};
use ha_common::wire::{arp, ethernet, ip, ndisc};
use ha_user::datapath::Path;
use std::net::IpAddr;

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

/// What becomes of a frame that is not refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Judged {
    Answered(Vec<u8>),
    Taken,
    Admitted,
}

/// What the program must do, for entries whose times are far from now.
pub struct BeatOracle {
    pub own: SelfEntry,
    pub fence: FenceEntry,
    /// Number and count of the answers taken.
    pub taken: (u64, u64),
}

impl BeatOracle {
    pub fn new(own: SelfEntry) -> Self {
        Self { own, fence: FenceEntry::default(), taken: (0, 0) }
    }

    /// `None`: nothing about heartbeats or the gate.
    pub fn judge(&mut self, frame: &[u8]) -> Option<Result<Judged, DropReason>> {
        if let Some(heard) = Heartbeat::read(frame, corpus::key_of) {
            return Some(heard.and_then(|heard| self.hear(frame, &heard)));
        }
        if !corpus::VIPS.contains(&asked_for(frame)?) || self.own.session == 0 {
            return None;
        }
        Some(if self.settle(false) == Gate::Open { Ok(Judged::Admitted) } else { Err(DropReason::LeaseClosed) })
    }

    fn hear(&mut self, frame: &[u8], heard: &Heartbeat) -> Result<Judged, DropReason> {
        if (heard.sender, heard.target) != (PEER_NODE, NODE) {
            return Err(DropReason::HeartbeatSender);
        }
        match heard.kind {
            Kind::Probe => {
                let gate = self.settle(heard.supersedes(&self.own));
                let words = heard.answer(&self.own, gate, 0).seal(HEARTBEAT_KEY);
                let prober = frame[6..12].try_into().expect("six bytes");
                let mut answer = heartbeat::emit(prober, NODE_MAC, &words).to_vec();
                answer.extend(&frame[answer.len()..]);
                Ok(Judged::Answered(answer))
            }
            Kind::Reply => {
                let ours = self.own.session != 0 && heard.session == self.own.session && heard.path == corpus::PATH.0;
                if !ours || heard.sequence <= self.taken.0 {
                    return Err(DropReason::HeartbeatStale);
                }
                self.taken = (heard.sequence, self.taken.1 + 1);
                Ok(Judged::Taken)
            }
        }
    }

    fn settle(&mut self, superseded: bool) -> Gate {
        // Leases end at 1 or never: any time in between is now.
        let now = 2;
        let gate = heartbeat::gate(&self.own, self.fence.closed_term, now);
        if (superseded || gate == Gate::Lapsed) && self.fence.closed_term < self.own.term {
            self.fence.closed_term = self.own.term;
            if gate == Gate::Lapsed {
                self.fence.lapsed += 1;
            } else {
                self.fence.superseded += 1;
            }
        }
        heartbeat::gate(&self.own, self.fence.closed_term, now)
    }
}

fn asked_for(frame: &[u8]) -> Option<IpAddr> {
    let payload = ethernet::payload(frame)?;
    if payload.ether_type == arp::TYPE_ARP {
        let [a, b] = arp::asked(frame, payload.offset)?;
        return Some(ip::address(&[a, b, 0, 0, 0, 0, 0, 0], false));
    }
    match ip::Header::behind(frame, payload)? {
        ip::Header::V6(header) if header.next_header() == ndisc::NEXT_HEADER_ICMPV6 => {
            Some(ip::address(&ndisc::asked(frame, &header)?, true))
        }
        ip::Header::V4(_) | ip::Header::V6(_) => None,
    }
}

/// A heartbeat with words drawn from the few values that the rules tell apart, sealed rightly, and sometimes altered
/// afterwards; or a request for an address.
fn generated(random: &mut Random, round: u64) -> Vec<u8> {
    let mut pick = |values: &[u64]| values[random.below(values.len())];
    let standing = Standing {
        role: pick(&[1, 2]) as u8,
        flags: pick(&[0, 1, 24]) as u8,
        gate: [Gate::Closed, Gate::Open, Gate::Lapsed][pick(&[0, 1, 1, 2]) as usize],
        ..Standing::default()
    };
    let heartbeat = Heartbeat {
        kind: if pick(&[0, 0, 1]) == 0 { Kind::Probe } else { Kind::Reply },
        sender: pick(&[1, 1, 1, 1, 1, 1, 0, 2]) as u8,
        target: pick(&[0, 0, 0, 0, 0, 0, 1, 9]) as u8,
        path: pick(&[3, 3, 3, 3, 3, 4, 16, 255]) as u8,
        session: pick(&[corpus::SESSION, corpus::SESSION, 0, 7]),
        other_session: pick(&[corpus::SESSION, corpus::SESSION, corpus::SESSION, 0, 7]),
        sequence: round / 50 + pick(&[0, 1, 2]),
        term: pick(&[0, 0x1fe, 0x2fe, 0x3fe, 0x8fe]),
        standing,
        ..corpus::probe()
    };
    let mut frame = match (pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), corpus::VIPS) {
        (0, [IpAddr::V4(vip), _]) => corpus::arp_request(vip),
        (1, [_, IpAddr::V6(vip)]) => corpus::solicitation(vip),
        _ => corpus::heartbeat_frame(&heartbeat),
    };
    match pick(&[0, 0, 0, 0, 0, 1, 2, 3]) {
        1 => {
            let at = random.below(frame.len());
            frame[at] ^= 1 << random.below(8);
        }
        2 => frame.truncate(14 + random.below(frame.len() - 14)),
        3 => frame.extend(vec![0xaa; random.below(40)]),
        _ => {}
    }
    frame
}

/// 10,000 generated frames, while the controller says something new every few: verdict, answer, fence, path and counters
/// are what the model has after each.
#[test]
fn netns_generated_heartbeats_agree() {
    let mut rig = Rig::new(false).expect("this test needs root (CAP_BPF) and a build with BPF");
    let mut random = Random(0x6865_6172_7462_6561);
    let mut oracle = BeatOracle::new(SelfEntry::default());
    let (mut probes, mut refused) = (0, [0; DropReason::COUNT]);
    for round in 0..10_000u64 {
        if random.below(6) == 0 {
            // Terms rise slowly, so that closed ones are said again as well.
            let term = (1 + round / 1000 + random.below(2) as u64) << 8 | 0xff;
            let session = [corpus::SESSION, corpus::SESSION, corpus::SESSION, 0][random.below(4)];
            oracle.own = SelfEntry { session, ..corpus::master(term, random.below(4) != 0) };
            if random.below(4) == 0 {
                oracle.own.state = Standing::default().pack();
            }
            rig.heartbeat().publish(&oracle.own).unwrap();
        }
        let frame = generated(&mut random, round);
        let wanted = match oracle.judge(&frame) {
            None | Some(Ok(Judged::Admitted)) => (PASS, frame.clone()),
            Some(Ok(Judged::Taken)) => (DROP, frame.clone()),
            Some(Ok(Judged::Answered(answer))) => {
                probes += 1;
                (TX, answer)
            }
            Some(Err(reason)) => {
                refused[reason as usize] += 1;
                (DROP, frame.clone())
            }
        };
        assert_eq!(rig.judge(&frame).unwrap(), wanted, "round {round}: {frame:02x?}");
        assert_eq!(rig.heartbeat().fence(), oracle.fence, "round {round}");
    }
    let row = rig.counters().snapshot().interfaces.into_iter().find(|row| row.path == Path::Xdp).unwrap();
    assert_eq!((row.probes, row.replies, row.refused), (probes, oracle.taken.1, refused));
    assert_eq!(rig.heartbeat().reply(corpus::PATH).map(|reply| reply.sequence), Some(oracle.taken.0));
    // The generator reaches every rule.
    assert!(oracle.fence.lapsed > 0 && oracle.fence.superseded > 0 && probes > 1000 && oracle.taken.1 > 100);
    let reasons = ["length", "version", "sender", "key_epoch", "tag", "stale"].map(|name| format!("heartbeat_{name}"));
    for reason in DropReason::ALL.iter().filter(|reason| reasons.iter().any(|name| name == reason.name())) {
        assert!(refused[*reason as usize] > 0, "{reason:?}");
    }
    assert!(refused[DropReason::LeaseClosed as usize] > 0);
}
