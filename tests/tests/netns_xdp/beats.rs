//! The rules of heartbeats, fence and gate, one by one, by test runs.

use crate::corpus::{self, NODE_MAC, SESSION, VIPS};
use crate::rig::Rig;
use ha_common::abi::{FenceEntry, SelfEntry};
use ha_common::liveness::PathReply;
use ha_common::reason::DropReason;
use ha_common::wire::heartbeat::{self, FLAG_READY, Gate, Heartbeat, ROLE_BACKUP, ROLE_MASTER, Standing};
use ha_user::clock;
use ha_user::datapath::{InterfaceCounters, Path};
use std::net::IpAddr;
use std::time::Duration;

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

fn rig() -> Rig {
    Rig::new(false).expect("this test needs root (CAP_BPF) and a build with BPF")
}

fn counts(rig: &Rig) -> InterfaceCounters {
    rig.counters().snapshot().interfaces.into_iter().find(|row| row.path == Path::Xdp).unwrap()
}

/// What the node answers to a probe of the peer.
fn answer(rig: &mut Rig, probe: &Heartbeat) -> Heartbeat {
    let (action, out) = rig.judge(&corpus::heartbeat_frame(probe)).unwrap();
    assert_eq!(action, TX);
    Heartbeat::read(&out[..], corpus::key_of).unwrap().unwrap()
}

/// A probe of a peer that is MASTER of `term` with its gate open.
fn serving(term: u64) -> Heartbeat {
    let standing = Standing { role: ROLE_MASTER, gate: Gate::Open, ..Standing::default() };
    Heartbeat { term, standing, ..corpus::probe() }
}

fn fence(rig: &mut Rig) -> (u64, u64, u64) {
    let FenceEntry { closed_term, lapsed, superseded } = rig.heartbeat().fence();
    (closed_term, lapsed, superseded)
}

/// Probes to the own address, to the group, and padded ones come back byte for byte as the host would answer them, from a
/// BACKUP, a MASTER and a node that has said nothing yet.
#[test]
fn netns_probes_are_answered_byte_for_byte() {
    let mut rig = rig();
    let standing = Standing { role: ROLE_BACKUP, flags: FLAG_READY, advskew: 100, ..Standing::default() };
    let backup = SelfEntry { lease_until_ns: 0, term: 0x1ff, state: standing.pack(), ..corpus::master(0, true) };
    let silent = SelfEntry { beat_ns: u64::MAX, ..SelfEntry::default() };
    for (own, gate) in [(silent, Gate::Closed), (backup, Gate::Closed), (corpus::master(0x2fe, true), Gate::Open)] {
        rig.heartbeat().publish(&own).unwrap();
        let probe = Heartbeat { sequence: own.term + 7, ..corpus::probe() };
        let mut frame = corpus::heartbeat_frame(&probe);
        let prober: [u8; 6] = frame[6..12].try_into().unwrap();
        let words = probe.answer(&own, gate, 0).seal(corpus::HEARTBEAT_KEY);
        let wanted = heartbeat::emit(prober, NODE_MAC, &words);
        assert_eq!(rig.judge(&frame).unwrap(), (TX, wanted.to_vec()), "{own:?}");
        frame[..6].copy_from_slice(&heartbeat::GROUP_MAC);
        frame.extend([0xee; 9]);
        let (action, out) = rig.judge(&frame).unwrap();
        assert_eq!((action, &out[..94], &out[94..]), (TX, &wanted[..], &[0xee; 9][..]), "{own:?}");
    }
    let counts = counts(&rig);
    assert_eq!((counts.probes, counts.replies, counts.refused.iter().sum::<u64>()), (6, 0, 0));
    assert_eq!(fence(&mut rig), (0, 0, 0));
}

/// A peer that serves in a later term closes the own one, once, however often it says so; the answer admits it. Neither a
/// lower nor the same term does, nor what was said to another session, nor a peer whose gate is not open.
#[test]
fn netns_a_newer_master_closes_the_term() {
    let mut rig = rig();
    rig.heartbeat().publish(&corpus::master(0x5ff, true)).unwrap();
    let closed = Standing { gate: Gate::Closed, ..serving(0).standing };
    let harmless = [
        serving(0x5fe),
        serving(0x5ff),
        Heartbeat { other_session: SESSION + 1, ..serving(0x6fe) },
        Heartbeat { standing: closed, ..serving(0x6fe) },
    ];
    for probe in harmless {
        assert_eq!(answer(&mut rig, &probe).standing.gate, Gate::Open, "{probe:?}");
    }
    assert_eq!(fence(&mut rig), (0, 0, 0));
    for _ in 0..3 {
        assert_eq!(answer(&mut rig, &serving(0x6fe)).standing.gate, Gate::Lapsed);
    }
    assert_eq!(fence(&mut rig), (0x5ff, 0, 1));
    // The controller renews before it has looked: the gate stays closed.
    rig.heartbeat().publish(&corpus::master(0x5ff, true)).unwrap();
    assert_eq!(answer(&mut rig, &corpus::probe()).standing.gate, Gate::Lapsed);
    rig.heartbeat().publish(&corpus::master(0x7ff, true)).unwrap();
    assert_eq!(answer(&mut rig, &corpus::probe()).standing.gate, Gate::Open);
    assert_eq!(fence(&mut rig), (0x5ff, 0, 1));
}

/// A BACKUP that hears of a newer master has nothing to close.
#[test]
fn netns_a_backup_is_not_superseded() {
    let mut rig = rig();
    let standing = Standing { role: ROLE_BACKUP, ..Standing::default() };
    rig.heartbeat().publish(&SelfEntry { state: standing.pack(), ..corpus::master(0x1ff, true) }).unwrap();
    assert_eq!(answer(&mut rig, &serving(0x2fe)).standing.gate, Gate::Closed);
    assert_eq!(fence(&mut rig), (0, 0, 0));
}

/// A lapse that was told to the peer, or that cost a client its answer, is for good: renewing the same term does not
/// open the gate again, a higher term does. Counted once for each term.
#[test]
fn netns_a_lapse_is_for_good() {
    let IpAddr::V4(vip) = VIPS[0] else { panic!("the first address is IPv4") };
    let request = corpus::arp_request(vip);
    let mut rig = rig();
    for (term, told) in [(0x1ff, true), (0x2ff, false)] {
        rig.heartbeat().publish(&corpus::master(term, true)).unwrap();
        assert_eq!(rig.judge(&request).unwrap().0, PASS);
        rig.heartbeat().publish(&corpus::master(term, false)).unwrap();
        for _ in 0..2 {
            if told {
                assert_eq!(answer(&mut rig, &corpus::probe()).standing.gate, Gate::Lapsed);
            } else {
                assert_eq!(rig.judge(&request).unwrap().0, DROP);
            }
        }
        rig.heartbeat().publish(&corpus::master(term, true)).unwrap();
        assert_eq!(rig.judge(&request).unwrap().0, DROP);
        assert_eq!(answer(&mut rig, &corpus::probe()).standing.gate, Gate::Lapsed);
    }
    assert_eq!(fence(&mut rig), (0x2ff, 2, 0));
    rig.heartbeat().publish(&corpus::master(0x3ff, true)).unwrap();
    assert_eq!(rig.judge(&request).unwrap().0, PASS);
}

/// Without an open gate requests for a virtual address are dropped and counted, by ARP and by neighbour discovery;
/// requests for others, answers and gratuitous ones pass. Before a controller has said anything, everything passes.
#[test]
fn netns_the_gate_guards_virtual_addresses() {
    let [IpAddr::V4(v4), IpAddr::V6(v6)] = VIPS else { panic!("one of each family") };
    let mut probed = corpus::arp_request(v4);
    // The sender of an ARP probe (RFC 5227) is all zeros.
    probed[28..32].fill(0);
    let guarded = [corpus::arp_request(v4), probed, corpus::solicitation(v6)];
    let mut rig = rig();
    let standing = Standing { role: ROLE_BACKUP, ..Standing::default() };
    let backup = SelfEntry { state: standing.pack(), lease_until_ns: 0, ..corpus::master(9, true) };
    let steps = [
        (SelfEntry::default(), PASS, 0),
        (backup, DROP, 3),
        (corpus::master(9, true), PASS, 3),
        (SelfEntry { lease_until_ns: 0, ..corpus::master(9, true) }, DROP, 6),
        (corpus::master(9, false), DROP, 9),
    ];
    for (own, verdict, closed) in steps {
        rig.heartbeat().publish(&own).unwrap();
        for frame in &guarded {
            assert_eq!(rig.judge(frame).unwrap(), (verdict, frame.clone()), "{own:?}");
        }
        for sample in corpus::neighbours().iter().filter(|sample| !guarded.contains(&sample.bytes)) {
            assert_eq!(rig.judge(&sample.bytes).unwrap().0, PASS, "{} {own:?}", sample.name);
        }
        assert_eq!(counts(&rig).refused[DropReason::LeaseClosed as usize], closed, "{own:?}");
    }
}

/// The peer's answer to this session is taken with its words and its time; an older number, another session and another
/// interface's path are stale. A new session starts where it starts only on fresh maps, as every start has them.
#[test]
fn netns_answers_are_taken() {
    let mut rig = rig();
    assert_eq!(rig.heartbeat().reply(corpus::PATH), None);
    rig.heartbeat().publish(&corpus::master(0x1ff, true)).unwrap();
    let sent = clock::now();
    let reply = Heartbeat { sent_ns: sent.0, term: 0x2fe, standing: serving(0).standing, ..corpus::reply(5) };
    let stale = [
        Heartbeat { sequence: 4, ..reply },
        reply,
        Heartbeat { session: SESSION + 1, sequence: 6, ..reply },
        Heartbeat { path: corpus::PATH.0 + 1, sequence: 6, ..reply },
        Heartbeat { path: 200, sequence: 6, ..reply },
    ];
    for heartbeat in [[reply].as_slice(), &stale].concat() {
        assert_eq!(rig.judge(&corpus::heartbeat_frame(&heartbeat)).unwrap().0, DROP);
    }
    let PathReply { sequence, received, rtt, mac, replies, report, .. } = rig.heartbeat().reply(corpus::PATH).unwrap();
    assert_eq!((sequence, mac, replies), (5, corpus::heartbeat_frame(&reply)[6..12].try_into().unwrap(), 1));
    assert!(sent < received && received <= clock::now());
    assert_eq!(rtt, Duration::from_nanos(received.0 - sent.0));
    assert_eq!((report.session, report.term, report.standing), (0xbeef, 0x2fe, reply.standing));
    assert_eq!((report.beat_age, report.heard), (Duration::from_micros(5), received));
    let counts = counts(&rig);
    assert_eq!((counts.replies, counts.refused[DropReason::HeartbeatStale as usize]), (1, stale.len() as u64));
}
