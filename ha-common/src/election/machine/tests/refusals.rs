//! Adverts that do not count: each is refused under its own name and changes nothing else.

use super::*;
use crate::reason::DropReason;
use insta::assert_snapshot;

/// Offers an advert that would make a master retire (1/0 against 1/100) after `spoil` had its way with it.
fn offer(config: Config, spoil: impl Fn(&mut ReceivedAdvert)) -> Rig {
    let mut rig = Rig::master(config);
    let mut advert = rig.advert(LAN, PEER[0], 1, 0);
    spoil(&mut advert);
    let (next, sent) = (rig.election.poll_at(), rig.stats().adverts_sent);
    rig.input(Input::Advert(&advert));
    if rig.role() == Role::Master {
        assert!(rig.actions.is_empty());
        assert_eq!(rig.election.poll_at(), next);
        assert_eq!((rig.stats().heard[0], rig.stats().adverts_accepted), (None, 0));
        assert_eq!((rig.stats().adverts_sent, rig.stats().dual_master_contacts), (sent, 0));
    }
    rig
}

fn refused(rig: &Rig, reason: DropReason) -> bool {
    rig.role() == Role::Master
        && rig.stats().refused[0][reason as usize] == 1
        && rig.stats().refused.iter().flatten().sum::<u64>() == 1
}

/// The advert that the other tests spoil is accepted when it is not spoiled.
#[test]
fn the_unspoiled_advert_counts() {
    let rig = offer(config(100), |_| {});
    assert_eq!(rig.role(), Role::Backup);
    assert_eq!(rig.stats().refused.iter().flatten().sum::<u64>(), 0);
    assert_eq!(rig.stats().adverts_accepted, 1);
}

/// Digest, counter, VHID's password: all end as a bad digest.
#[test]
fn bad_digest() {
    assert!(refused(&offer(config(100), |advert| advert.advert.digest[19] ^= 1), DropReason::BadDigest));
    assert!(refused(&offer(config(100), |advert| advert.advert.counter += 1), DropReason::BadDigest));
    let tata = |advert: &mut ReceivedAdvert| {
        let auth = Authenticator::new(3, &[IpAddr::from([192, 168, 103, 250])], b"tata");
        advert.advert.digest = auth.digest(advert.advert.counter);
    };
    assert!(refused(&offer(config(100), tata), DropReason::BadDigest));
}

/// Another group is refused; the own address is accepted (a unicast peer may know us by it).
#[test]
fn destination() {
    let to = |address: [u8; 4]| offer(config(100), move |advert| advert.destination = address.into());
    assert!(refused(&to([224, 0, 0, 19]), DropReason::Destination));
    assert!(refused(&to(PEER[0]), DropReason::Destination));
    assert!(refused(&to(OWN[1]), DropReason::Destination));
    assert_eq!(to(OWN[0]).role(), Role::Backup);
    let v6 = offer(config(100), |advert| advert.destination = "ff02::13".parse().unwrap());
    assert!(refused(&v6, DropReason::Destination));
    let v6 = offer(config(100), |advert| advert.destination = "ff02::12".parse().unwrap());
    assert_eq!(v6.role(), Role::Backup);
}

/// An advert from our own address is our own, whatever it holds.
#[test]
fn own_advert() {
    assert!(refused(&offer(config(100), |advert| advert.source = OWN[0].into()), DropReason::OwnAdvert));
}

/// Unicast: only from a peer, only to us.
#[test]
fn unicast() {
    let mut config = config(100);
    config.members[0].transport = Transport::Unicast(vec![PEER[0].into()]);
    let to_us = |advert: &mut ReceivedAdvert| advert.destination = OWN[0].into();
    assert_eq!(offer(config.clone(), to_us).role(), Role::Backup);
    assert!(refused(&offer(config.clone(), |_| {}), DropReason::Destination));
    let stranger = |advert: &mut ReceivedAdvert| {
        advert.destination = OWN[0].into();
        advert.source = THIRD[0].into();
    };
    assert!(refused(&offer(config, stranger), DropReason::SourceNotPeer));
}

/// The same advert again is refused even with another priority, which the digest does not cover; with another one in
/// between it must be accepted, as ucarp's counters jump about.
#[test]
fn repeats() {
    let mut rig = Rig::backup(config(100));
    let first = rig.advert(LAN, PEER[0], 1, 0);
    rig.input(Input::Advert(&first));
    rig.now = rig.now + SECOND;
    let wait = rig.election.poll_at();
    let mut repeated = first;
    repeated.advert.advbase = 255;
    repeated.advert.advskew = 255;
    for count in 1..=3 {
        rig.input(Input::Advert(&repeated));
        assert_eq!(rig.role(), Role::Backup);
        assert_eq!(rig.election.poll_at(), wait, "not even the wait is prolonged");
        assert_eq!(rig.stats().refused[0][DropReason::RepeatedAdvert as usize], count);
    }
    rig.hear(LAN, 1, 0);
    rig.input(Input::Advert(&first));
    assert_eq!(rig.stats().adverts_accepted, 3);
}

/// What a recorded advert can do to a pair whose nodes hear each other, with a priority of the attacker's choice, which the
/// digest does not cover: no goodbye and no worse priority makes a backup take over, and no goodbye moves a master. A better
/// priority makes a master retire, as everywhere with CARP: it is that of a foreign master, which is obeyed.
#[test]
fn recorded_adverts_between_nodes_that_hear_each_other() {
    let recorded = |rig: &mut Rig, advbase: u8, advskew: u8| {
        let mut advert = rig.advert(LAN, PEER[0], 1, 100);
        (advert.advert.advbase, advert.advert.advskew) = (advbase, advskew);
        rig.input(Input::Advert(&advert));
    };
    for (advbase, advskew) in [(255, 255), (254, 254), (1, 200)] {
        let mut backup = Rig::behind(Config { preempt: true, ..config(0) });
        let serving = backup.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM);
        recorded(&mut backup, advbase, advskew);
        backup.see_for(SECOND * 5, serving);
        assert_eq!(backup.role(), Role::Backup, "{advbase}/{advskew}");

        let mut master = Rig::ahead(config(0));
        let ready = master.ready();
        recorded(&mut master, advbase, advskew);
        master.see_for(ms(50), ready);
        assert_eq!(master.role(), Role::Master, "{advbase}/{advskew}");
    }
    let mut master = Rig::ahead(config(100));
    let ready = master.ready();
    recorded(&mut master, 0, 0);
    assert_eq!(master.role(), Role::Master, "the peer's own words are waited for");
    master.see_for(ms(50), ready);
    assert_eq!((master.role(), master.cause()), (Role::Backup, Cause::BetterMaster));
}

/// Where foreign masters are refused, the same advert moves no master and holds no backup back, and is counted; without
/// heartbeats it counts as ever.
#[test]
fn foreign_masters_are_refused_while_heartbeats_decide() {
    let refusing = |advskew| Config { foreign_masters: ForeignMasters::Refuse, ..config(advskew) };
    let mut master = Rig::ahead(refusing(100));
    let ready = master.ready();
    master.hear_from(LAN, THIRD[0], 0, 0);
    master.see_for(SECOND, ready);
    assert_eq!(master.role(), Role::Master);
    assert_eq!(master.stats().refused[0][DropReason::ForeignMaster as usize], 1);

    let mut backup = Rig::behind(refusing(100));
    backup.hear_from(LAN, THIRD[0], 0, 0);
    backup.see_for(ms(500), backup.report(ROLE_BACKUP, FLAG_MAINTENANCE, Gate::Closed, PEER_TERM));
    assert_eq!((backup.role(), backup.cause()), (Role::Master, Cause::NoMaster));

    let mut alone = Rig::ahead(refusing(100));
    alone.input(Input::Peer(Sight::Unknown));
    alone.hear_from(LAN, THIRD[0], 0, 0);
    assert_eq!((alone.role(), alone.cause()), (Role::Backup, Cause::BetterMaster));
}

/// A refused advert does not touch the counter: the node goes on in its random phase, and a valid one ends it.
#[test]
fn the_counter_is_adopted_from_valid_adverts_only() {
    let counters = |rig: &mut Rig| {
        rig.run(SECOND * 3);
        let sent = rig.actions.iter().filter_map(|action| match action {
            Action::SendAdvert { member: LAN, advert, .. } => Some(advert.counter),
            Action::SendAdvert { .. }
            | Action::Vips(_)
            | Action::Announce { .. }
            | Action::Transition(_)
            | Action::Lease(_)
            | Action::HandOverEnded(_) => None,
        });
        sent.collect::<Vec<_>>()
    };
    let mut rig = offer(config(100), |advert| advert.advert.digest[0] ^= 1);
    let random = counters(&mut rig);
    assert_ne!(random[1], random[0].wrapping_add(1));
    assert!(!random.contains(&(rig.counter + 1)));

    rig.hear(LAN, 1, 200);
    let adopted = counters(&mut rig);
    // The answer to the advert took the first.
    assert_eq!(adopted, [rig.counter + 2, rig.counter + 3]);
}

/// A member that does not exist is the edge's mistake, not a reason to fail.
#[test]
fn unknown_member() {
    let mut rig = Rig::master(config(100));
    let mut advert = rig.advert(LAN, PEER[0], 1, 0);
    advert.member = MemberId(9);
    rig.input(Input::Advert(&advert));
    assert_snapshot!(format!("{} {}", rig.role(), rig.summary()), @"master");
}
