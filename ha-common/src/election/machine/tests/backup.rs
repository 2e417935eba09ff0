//! A backup: silence, goodbyes, step-down.

use super::*;

/// An alone node masters after exactly its master-down time, and says since when it heard nobody.
#[test]
fn masters_after_the_master_down_time() {
    let mut rig = Rig::backup(config(100));
    let start = rig.now;
    assert_eq!(rig.election.poll_at(), Some(start + SECOND * 3 + Duration::from_nanos(390_625_000)));
    rig.run(ms(3390));
    assert_eq!(rig.role(), Role::Backup);
    rig.run(ms(1));
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::MasterDown));
    assert_eq!(rig.stats().last_transition.unwrap().last_heard, None);
}

/// A master that is not better is respected without preempt, and each advert prolongs the wait on its member.
#[test]
fn adverts_rearm_their_own_member() {
    let mut rig = Rig::backup(Config { preempt: false, ..config(0) });
    rig.sync(true, true);
    rig.run_hearing(SECOND * 20, &[LAN, WAN], 1, 200);
    assert_eq!(rig.role(), Role::Backup);
    let last = rig.stats().heard[0].unwrap().1;
    rig.run(SECOND * 5);
    let transition = rig.stats().last_transition.unwrap();
    assert_eq!((transition.to, transition.at), (Role::Master, last + SECOND * 3));
    assert_eq!(transition.last_heard, Some(last));
}

/// The wait counts from when the kernel saw the advert, not from when the loop came to read it; a reception time in
/// the future does not count.
#[test]
fn the_wait_counts_from_reception() {
    for (received, expected) in [(-500i64, 2500), (0, 3000), (5000, 3000)] {
        let mut rig = Rig::backup(config(0));
        rig.run(SECOND);
        for member in [LAN, WAN] {
            let mut advert = rig.advert(member, PEER[usize::from(member.0)], 1, 0);
            advert.received = Instant(rig.now.0.saturating_add_signed(received * 1_000_000));
            rig.input(Input::Advert(&advert));
        }
        let read = rig.now;
        // A peer that may be heard by heartbeats has a moment to answer before what waited counts.
        rig.run(ms(50));
        assert_eq!(rig.election.poll_at(), Some(read + ms(expected)), "{received}");
    }
}

/// The goodbye of the master, on one member alone, moves the group at once.
#[test]
fn a_goodbye_takes_the_group_at_once() {
    let mut rig = Rig::backup(config(100));
    rig.run_hearing(SECOND * 5, &[LAN, WAN], 1, 0);
    rig.hear(WAN, 255, 255);
    insta::assert_snapshot!(
        rig.summary(),
        @"backup>master(goodbye) lease=1 vips+ announce0 announce1 adv0=1/100 adv1=1/100"
    );
    assert_eq!(rig.stats().last_transition.unwrap().last_heard, Some(rig.now));
}

/// The goodbye of a third node that lost a contact says nothing about the master that is followed, neither if it was
/// heard before nor if it was heard after it.
#[test]
fn the_goodbye_of_another_node_is_ignored() {
    let mut rig = Rig::backup(config(200));
    rig.hear_from(LAN, THIRD[0], 1, 100);
    rig.hear(LAN, 1, 0);
    rig.hear_from(LAN, THIRD[0], 1, 100);
    let wait = rig.election.poll_at();
    rig.hear_from(LAN, THIRD[0], 255, 255);
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Backup, ""));
    assert_eq!(rig.election.poll_at(), wait, "nor does it prolong or shorten the wait");
    rig.hear(LAN, 255, 255);
    assert_eq!(rig.cause(), Cause::Goodbye);
}

/// Once the followed master is long silent, another one is followed.
#[test]
fn a_dead_master_is_not_followed() {
    let mut rig = Rig::backup(Config { preempt: false, ..config(0) });
    rig.hear(LAN, 1, 0);
    rig.hear(WAN, 1, 0);
    rig.run(ms(2900));
    rig.hear_from(LAN, THIRD[0], 1, 100);
    rig.hear_from(WAN, THIRD[1], 1, 100);
    rig.run(ms(200));
    rig.hear_from(LAN, THIRD[0], 1, 100);
    rig.hear_from(LAN, THIRD[0], 255, 255);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Goodbye));
}

/// A node that has heard nobody yet takes a goodbye as word that the place is free.
#[test]
fn a_goodbye_before_anything_else_counts() {
    let mut rig = Rig::backup(config(100));
    rig.hear(LAN, 255, 255);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Goodbye));
}

/// A stepping-down master leaves the place free for 3.39 s even for its own silence, then takes it back.
#[test]
fn step_down_and_nobody_takes_it() {
    let mut rig = Rig::master(config(100));
    rig.input(Input::Command(Command::HandOver { force: true }));
    assert_eq!(
        rig.summary(),
        "master>backup(step_down) closed adv0=255/255 adv1=255/255 adv0=255/255 adv1=255/255 vips-"
    );
    rig.run(ms(3390));
    assert_eq!(rig.role(), Role::Backup);
    rig.run(ms(1));
    assert_eq!((rig.role(), rig.count("TimedOut")), (Role::Master, 1), "the operator is told that nobody took it");
}

/// With a short master-down time the hold is three seconds all the same, even if the peer that took over says goodbye
/// meanwhile: that only counts when the hold is over.
#[test]
fn step_down_holds_three_seconds() {
    let mut rig = Rig::master(Config { advbase: 0, advskew: 64, ..config(0) });
    rig.input(Input::Command(Command::HandOver { force: true }));
    rig.run(SECOND);
    rig.hear(LAN, 1, 0);
    rig.hear(LAN, 255, 255);
    rig.run(ms(1999));
    assert_eq!(rig.role(), Role::Backup);
    rig.run(ms(1));
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Goodbye));
}

/// After a step-down the better node does not preempt back, until it has been master again.
#[test]
fn step_down_suspends_preemption() {
    let mut rig = Rig::master(config(0));
    rig.sync(true, true);
    rig.input(Input::Command(Command::HandOver { force: true }));
    rig.run_hearing(SECOND * 60, &[LAN, WAN], 1, 100);
    assert_eq!((rig.role(), rig.count("Done")), (Role::Backup, 1));
    assert!(rig.stats().preempt_suspended);
    rig.hear(LAN, 255, 255);
    assert_eq!(rig.role(), Role::Master);
    assert!(!rig.stats().preempt_suspended);
}

/// Only a master can step down; the operator is told so.
#[test]
fn step_down_of_a_backup_does_nothing() {
    let mut rig = Rig::backup(config(100));
    rig.input(Input::Command(Command::HandOver { force: true }));
    assert_eq!(rig.summary(), "Refused(NotMaster)");
    rig.run(ms(3391));
    assert_eq!(rig.role(), Role::Master);
}

/// After a stop nothing moves the node any more, and it wants no timer.
#[test]
fn stop_is_final() {
    let mut rig = Rig::master(config(100));
    rig.input(Input::Command(Command::Stop));
    assert_eq!(rig.summary(), "master>init(stop) closed adv0=255/255 adv1=255/255 adv0=255/255 adv1=255/255 vips-");
    assert_eq!(rig.election.poll_at(), None);
    rig.hear(LAN, 255, 255);
    rig.link(0, LinkState::default());
    rig.link(0, link(0));
    rig.input(Input::Timer);
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Init, ""));
}

/// When a goodbye and then silence brought the takeover about, the goodbye is the cause.
#[test]
fn a_goodbye_is_the_better_cause() {
    let mut rig = Rig::master(config(100));
    rig.input(Input::Command(Command::HandOver { force: true }));
    rig.hear(LAN, 255, 255);
    rig.hear(LAN, 1, 0);
    rig.run(SECOND * 5);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Goodbye));
}

/// Of two masters with equal intervals the one that wins their tie is followed: the other's goodbye says nothing.
#[test]
fn the_winner_of_a_tie_is_followed() {
    for order in [[PEER[0], THIRD[0]], [THIRD[0], PEER[0]]] {
        let mut rig = Rig::backup(config(200));
        for source in order {
            rig.hear_from(LAN, source, 1, 100);
        }
        rig.hear_from(LAN, THIRD[0], 255, 255);
        assert_eq!(rig.role(), Role::Backup);
        rig.hear(LAN, 255, 255);
        assert_eq!(rig.role(), Role::Master);
    }
}

/// A master that is dead for the master-down time gives way to the next, whose place a fourth node's goodbye does not
/// free. LAN alone is silent for that long, and the sync link shows that the peer is a twinwall node.
#[test]
fn who_is_followed_after_a_death() {
    let partly_silent = || {
        let mut rig = Rig::backup(Config { preempt: false, ..config(0) });
        rig.sync(true, true);
        rig.hear(LAN, 1, 0);
        rig.run_hearing(SECOND * 4, &[WAN], 1, 0);
        assert!(rig.stats().partial_silence);
        rig
    };
    let mut rig = partly_silent();
    rig.hear_from(LAN, THIRD[0], 1, 100);
    rig.hear_from(LAN, [192, 168, 103, 7], 255, 255);
    assert_eq!(rig.role(), Role::Backup);

    let mut rig = partly_silent();
    rig.hear_from(LAN, THIRD[0], 255, 255);
    assert_eq!(rig.role(), Role::Master, "nobody is followed on LAN any more");
}

/// A master that said goodbye is forgotten at once, so that the next one is followed although it is worse.
#[test]
fn who_is_followed_after_a_goodbye() {
    let mut rig = Rig::backup(config(200));
    rig.hear(LAN, 1, 0);
    rig.hear(LAN, 255, 255);
    rig.hear_from(LAN, THIRD[0], 1, 100);
    assert_eq!(rig.cause(), Cause::BetterMaster);
    rig.hear_from(LAN, THIRD[0], 255, 255);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Goodbye));
}

/// A goodbye heard during a fault is not remembered as a master.
#[test]
fn a_goodbye_during_a_fault() {
    let mut rig = Rig::backup(config(100));
    rig.link(1, LinkState::default());
    rig.hear(LAN, 255, 255);
    rig.link(1, link(1));
    rig.hear_from(LAN, THIRD[0], 255, 255);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Goodbye));
}
