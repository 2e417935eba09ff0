//! Partial silence: patience with a twinwall peer, a claim against half of a foreign one.

use super::*;

/// LAN is silent, WAN is heard. A living twinwall peer masters both: the node waits, and says so.
#[test]
fn patience_with_a_living_twinwall_peer() {
    let mut rig = Rig::backup(config(100));
    rig.sync(true, true);
    rig.run_hearing(SECOND * 60, &[WAN], 1, 0);
    assert_eq!(rig.role(), Role::Backup);
    assert!(rig.stats().partial_silence);
    assert_eq!(rig.stats().silent, [true, false]);
    // When the session dies as well, the peer may be half dead; when all is silent, it is dead.
    rig.sync(false, false);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::MasterDown));
    assert!(rig.stats().claiming);
    assert!(!rig.stats().partial_silence);
}

/// A foreign peer's silent half is taken after its master-down time, and the other half is claimed with 0/1 for
/// thirty seconds; then the configured values return.
#[test]
fn a_half_dead_foreign_peer_is_outbid() {
    let mut rig = Rig::backup(config(100));
    let start = rig.now;
    rig.run_hearing(SECOND * 4, &[WAN], 1, 0);
    let transition = rig.stats().last_transition.unwrap();
    assert_eq!((transition.to, transition.cause), (Role::Master, Cause::MasterDown));
    assert_eq!(transition.at, start + ms(3000) + Duration::from_nanos(390_625_000));
    assert!(rig.actions.iter().map(short).any(|action| action == "adv1=0/1"), "{}", rig.summary());
    // The living half has not heard of it yet: it is answered with the claim, and yields.
    rig.hear(WAN, 1, 0);
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Master, "adv1=0/1 announce1"));
    rig.run(SECOND * 29);
    assert_eq!(rig.count("adv1=1/100"), 0);
    assert!(rig.count("adv1=0/1") >= 20);
    rig.run(SECOND * 3);
    assert!(rig.count("adv1=1/100") >= 1);
    assert!(!rig.stats().claiming);
    assert_eq!(rig.stats().claims, 1);
}

/// Repeated claims against the same half-dead peer last longer each time.
#[test]
fn claims_double() {
    let mut rig = Rig::backup(config(100));
    let mut lengths = Vec::new();
    for _ in 0..5 {
        rig.run_hearing(SECOND * 4, &[WAN], 1, 0);
        assert!(rig.stats().claiming);
        rig.hear(WAN, 1, 0);
        let start = rig.now;
        while rig.stats().claiming {
            rig.run(SECOND);
        }
        lengths.push(rig.now.since(start).as_secs());
        // The foreign peer preempts on its living half.
        rig.hear(WAN, 1, 0);
        assert_eq!(rig.cause(), Cause::BetterMaster);
    }
    for (length, expected) in lengths.iter().zip([30, 60, 120, 240, 300]) {
        assert!(length.abs_diff(expected) <= 1, "{lengths:?}");
    }
}

/// A foreign peer that is dead altogether is taken over at its first silent member, and the claim ends as soon as the
/// other member's time is over.
#[test]
fn a_dead_foreign_peer_is_no_case_for_a_claim() {
    let mut rig = Rig::backup(config(100));
    rig.hear(LAN, 1, 0);
    rig.run(ms(700));
    rig.hear(WAN, 1, 0);
    rig.run(ms(2700));
    assert_eq!(rig.role(), Role::Master);
    assert!(rig.stats().claiming);
    rig.run(ms(700));
    assert!(!rig.stats().claiming);
}

/// Adverts of one host reach the members microseconds apart; that is not partial silence.
#[test]
fn almost_equal_deadlines_are_one() {
    let mut rig = Rig::backup(config(100));
    rig.hear(LAN, 1, 0);
    rig.now = rig.now + ms(49);
    rig.hear(WAN, 1, 0);
    rig.run(SECOND * 4);
    assert_eq!(rig.role(), Role::Master);
    assert_eq!(rig.stats().claims, 0);
}

/// If the member about to be silent is heard after all, the silent one is judged again.
#[test]
fn a_late_advert_is_judged_too() {
    let mut rig = Rig::backup(config(100));
    rig.hear(LAN, 1, 0);
    rig.now = rig.now + ms(49);
    rig.hear(WAN, 1, 0);
    rig.run(ms(3350));
    assert_eq!((rig.role(), rig.stats().silent.as_slice()), (Role::Backup, [true, false].as_slice()));
    rig.hear(WAN, 1, 0);
    assert!(rig.stats().claiming);
}

/// Against a master that claims already, a claim would not win: the node waits until that claim is over.
#[test]
fn no_claim_against_a_claim() {
    let mut rig = Rig::backup(config(100));
    rig.run_hearing(SECOND * 30, &[WAN], 0, 1);
    assert_eq!(rig.role(), Role::Backup);
    assert!(rig.stats().partial_silence);
    rig.run_hearing(SECOND * 4, &[WAN], 1, 0);
    assert!(rig.stats().claiming);
}

/// A claiming master compares with what it advertises: 1/0 is worse than 0/1, and 0/1 is a tie.
#[test]
fn a_claim_is_compared_as_advertised() {
    let mut rig = Rig::backup(config(100));
    rig.run_hearing(SECOND * 4, &[WAN], 1, 0);
    rig.hear(WAN, 1, 0);
    assert_eq!(rig.role(), Role::Master);
    rig.hear(WAN, 0, 1);
    assert_eq!(rig.cause(), Cause::TieBreak);
    assert!(!rig.stats().claiming, "a backup claims nothing");
}

/// A twinwall node that yields to a claim says goodbye; that, too, shows that the claim is needed.
#[test]
fn a_goodbye_contests_a_claim() {
    let mut rig = Rig::backup(config(100));
    rig.run_hearing(SECOND * 4, &[WAN], 1, 0);
    rig.hear(WAN, 255, 255);
    rig.run(SECOND * 20);
    assert!(rig.stats().claiming);
}
