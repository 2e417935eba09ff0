//! The election hears what real ucarp 1.5.2 said: captures of carp-wire §15 (password `toto`, vhid 3, .210).

use ha_common::election::auth::Authenticator;
use ha_common::election::{
    Action, Config, Damping, Election, ForeignMasters, Input, InterfaceId, LinkState, Member, MemberId, PairTimes,
    ReceivedAdvert, Transport,
};
use ha_common::reason::DropReason;
use ha_common::role::{NodeId, Role};
use ha_common::time::Instant;
use ha_common::wire::advert::{Verdict, parse_frame};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 210));
/// A third address on the segment of the capture, which loses ties against .208 and .209.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 211);

/// The adverts of a capture (Ethernet, little-endian, microseconds) that the shared parser lets through.
fn adverts(name: &str) -> Vec<ReceivedAdvert> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/pcaps").join(name);
    let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut rest = &file[24..];
    let mut adverts = Vec::new();
    while let Some((head, body)) = rest.split_at_checked(16) {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let (frame, next) = body.split_at(word(8) as usize);
        rest = next;
        if let Verdict::Advert(heard) = parse_frame(frame)
            && heard.vhid() == 3
        {
            adverts.push(ReceivedAdvert {
                member: MemberId(0),
                source: heard.source(),
                destination: heard.destination(),
                advert: heard.advert(),
                received: Instant(u64::from(word(0)) * 1_000_000_000 + u64::from(word(4)) * 1000),
            });
        }
    }
    assert!(!adverts.is_empty(), "{name}");
    adverts
}

fn backup(advskew: u8, start: Instant) -> Election {
    let config = Config {
        node: NodeId(0),
        peer_node: None,
        advbase: 1,
        advskew,
        dead_ratio: 3,
        preempt: false,
        announce_burst: vec![],
        announce_refresh: None,
        members: vec![Member {
            vhid: 3,
            interface: InterfaceId(0),
            addresses: vec![VIP],
            password: b"toto".to_vec().into(),
            transport: Transport::Multicast { v4: Ipv4Addr::new(224, 0, 0, 18), v6: "ff02::12".parse().unwrap() },
        }],
        resume: None,
        maintenance: false,
        term_seen: 0,
        preempt_delay: std::time::Duration::ZERO,
        times: PairTimes::default(),
        damping: Damping::default(),
        foreign_masters: ForeignMasters::default(),
    };
    let mut election = Election::new(config, 1);
    let state = LinkState { up: true, source_v4: Some(OWN), source_v6: None };
    election.handle(start, Input::Link { interface: InterfaceId(0), state }, &mut Vec::new());
    assert_eq!(election.stats().role, Role::Backup);
    election
}

/// Feeds a capture in its own time, timers included, and gives the transitions (seconds since the first advert).
fn replay(election: &mut Election, adverts: &[ReceivedAdvert]) -> Vec<(f64, Role)> {
    let start = adverts[0].received;
    let mut actions = Vec::new();
    for advert in adverts {
        while let Some(at) = election.poll_at().filter(|at| *at < advert.received) {
            election.handle(at, Input::Timer, &mut actions);
        }
        election.handle(advert.received, Input::Advert(advert), &mut actions);
    }
    let transitions = actions.iter().filter_map(|action| match action {
        Action::Transition(transition) => Some((transition.at.since(start).as_secs_f64(), transition.to)),
        Action::SendAdvert { .. }
        | Action::Vips(_)
        | Action::Announce { .. }
        | Action::Lease(_)
        | Action::HandOverEnded(_) => None,
    });
    transitions.collect()
}

/// Every advert that ucarp itself sent carries the digest we compute.
#[test]
fn digests_of_real_ucarp() {
    let auth = Authenticator::new(3, &[VIP], b"toto");
    let genuine = ["graceful-shutdown", "hard-kill-failover", "master-election", "preempt", "sigusr2-demote"];
    let mut verified = 0;
    for name in genuine {
        for received in adverts(&format!("ucarp-{name}.pcap")) {
            assert!(auth.verify(received.advert.counter, &received.advert.digest), "{name}: {received:?}");
            verified += 1;
        }
    }
    assert_eq!(verified, 50);
}

/// No advert of genuine traffic (random phase, takeovers, hand-over with jumping counters) is refused.
#[test]
fn genuine_traffic_is_accepted() {
    for name in ["graceful-shutdown", "hard-kill-failover", "master-election", "preempt", "sigusr2-demote"] {
        let adverts = adverts(&format!("ucarp-{name}.pcap"));
        let mut election = backup(200, adverts[0].received);
        replay(&mut election, &adverts);
        assert_eq!(election.stats().adverts_accepted, adverts.len() as u64, "{name}");
        assert_eq!(election.stats().refused[0].iter().sum::<u64>(), 0, "{name}");
    }
}

/// A third node beside the pair of the hard-kill capture (takeover 4.0 s after the last advert) takes over after its
/// own 3.2 s if that is sooner, and yields when the better one comes; a more patient one never masters.
#[test]
fn beside_a_hard_kill() {
    let adverts = adverts("ucarp-hard-kill-failover.pcap");
    let mut eager = backup(50, adverts[0].received);
    let transitions = replay(&mut eager, &adverts);
    let [(up, Role::Master), (down, Role::Backup)] = transitions[..] else { panic!("{transitions:?}") };
    assert!((up - (2.000_455 + 3.195_312)).abs() < 0.001, "{up}");
    assert!((down - 6.006_503).abs() < 0.001, "{down}");

    let mut patient = backup(255, adverts[0].received);
    patient.handle(adverts[0].received, Input::Timer, &mut Vec::new());
    let mut transitions = Vec::new();
    let first = &adverts[..3];
    transitions.extend(replay(&mut patient, first));
    assert_eq!(transitions, [], "and it waits for its own time: 3.996 s");
    assert_eq!(patient.poll_at(), Some(adverts[2].received + Duration::from_nanos(3_996_093_750)));
}

/// The forged packets that pass the shared parser: bad digests and another group are refused, the bow-out is the last
/// one accepted before the takeover that it causes, and counter 1 is accepted twice, with another advert in between.
#[test]
fn forged_packets() {
    let adverts = adverts("ucarp-forged-rejects.pcap");
    let mut election = backup(0, adverts[0].received);
    let transitions = replay(&mut election, &adverts);
    let refused = |reason: DropReason| election.stats().refused[0][reason as usize];
    assert_eq!(refused(DropReason::BadDigest), 4, "one bit, password, address, two addresses");
    assert_eq!(refused(DropReason::Destination), 1);
    assert_eq!(refused(DropReason::RepeatedAdvert), 0);
    assert_eq!(election.stats().refused[0].iter().sum::<u64>(), 5);
    // Goodbye at 58.86 s; then .208 with the same interval, which wins the tie.
    let [(up, Role::Master), (down, Role::Backup)] = transitions[..] else { panic!("{transitions:?}") };
    assert!((up - 58.863).abs() < 0.001 && (down - 59.630).abs() < 0.001, "{transitions:?}");
}
