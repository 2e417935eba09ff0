//! Preemption, and what it waits for.

use super::*;

/// Without a sync session the other node is taken for a foreign one after a grace of three seconds; then its next
/// advert is enough.
#[test]
fn a_foreign_worse_master_is_preempted_after_the_grace() {
    let mut rig = Rig::backup(config(0));
    let start = rig.now;
    rig.run_hearing(SECOND * 5, &[LAN, WAN], 1, 100);
    let transition = rig.stats().last_transition.unwrap();
    assert_eq!((transition.to, transition.cause), (Role::Master, Cause::Preempt));
    assert_eq!(transition.at, start + SECOND * 3);
}

/// A node that did not run during the grace gives its peer another one: it could not notice that the peer is none of the
/// foreign ones.
#[test]
fn a_grace_that_was_slept_through_is_none() {
    let mut rig = Rig::backup(config(0));
    rig.now = rig.now + ms(3100);
    rig.hear(LAN, 1, 100);
    rig.hear(WAN, 1, 100);
    assert_eq!(rig.role(), Role::Backup);
    rig.run_hearing(SECOND * 5, &[LAN, WAN], 1, 100);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Preempt));
}

/// No preempt by configuration, by equality, or by a better master.
#[test]
fn only_the_strictly_better_preempts() {
    for (preempt, advskew, peer_skew) in [(false, 0, 100), (true, 100, 100), (true, 100, 0)] {
        let mut rig = Rig::backup(Config { preempt, ..config(advskew) });
        rig.sync(true, true);
        rig.run_hearing(SECOND * 60, &[LAN, WAN], 1, peer_skew);
        assert_eq!(rig.role(), Role::Backup, "{preempt} {advskew} {peer_skew}");
        assert_eq!(rig.stats().preempt_waiting_since, None);
    }
}

/// A twinwall master is preempted when its table is here, at the next advert.
#[test]
fn waits_for_the_state() {
    let mut rig = Rig::backup(config(0));
    rig.sync(true, false);
    let start = rig.now;
    rig.run_hearing(SECOND * 10, &[LAN, WAN], 1, 100);
    assert_eq!(rig.role(), Role::Backup);
    assert_eq!(rig.stats().preempt_waiting_since, Some(start), "since both members were heard");
    rig.sync(true, true);
    rig.hear(LAN, 1, 100);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Preempt));
    assert_eq!(rig.stats().preempt_waiting_since, None);
}

/// The wait is bounded: thirty seconds, counted from when it began, also if the sync session is lost meanwhile.
#[test]
fn the_wait_is_bounded() {
    for alive in [true, false] {
        let mut rig = Rig::backup(config(0));
        rig.sync(true, false);
        rig.run_hearing(SECOND * 10, &[LAN, WAN], 1, 100);
        rig.sync(alive, false);
        rig.run_hearing(SECOND * 20, &[LAN, WAN], 1, 100);
        assert_eq!(rig.role(), Role::Backup, "alive: {alive}");
        rig.hear(LAN, 1, 100);
        assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Preempt), "alive: {alive}");
    }
}

/// A wait that is interrupted by a better master begins anew.
#[test]
fn an_interrupted_wait_begins_anew() {
    let mut rig = Rig::backup(config(50));
    rig.sync(true, false);
    rig.run_hearing(SECOND * 20, &[LAN, WAN], 1, 100);
    assert!(rig.stats().preempt_waiting_since.is_some());
    rig.run_hearing(SECOND * 20, &[LAN, WAN], 1, 0);
    assert_eq!(rig.stats().preempt_waiting_since, None);
    rig.run_hearing(SECOND * 20, &[LAN, WAN], 1, 100);
    assert_eq!(rig.role(), Role::Backup);
}

/// The group is only taken when it can be kept: a better or equal master on the other member forbids it, and a member
/// that was not heard yet is waited for.
#[test]
fn every_member_must_be_winnable() {
    for (wan_skew, expected) in [(0, Role::Backup), (50, Role::Backup), (100, Role::Master)] {
        let mut rig = Rig::backup(config(50));
        rig.sync(true, true);
        rig.hear(LAN, 1, 100);
        assert_eq!(rig.role(), Role::Backup, "WAN not heard yet");
        rig.hear(WAN, 1, wan_skew);
        rig.hear(LAN, 1, 100);
        assert_eq!(rig.role(), expected, "{wan_skew}");
    }
}

/// A member on which nobody is heard for the master-down time does not forbid it.
#[test]
fn a_silent_member_does_not_forbid_it() {
    let mut rig = Rig::backup(config(50));
    rig.sync(true, true);
    rig.run_hearing(SECOND * 5, &[LAN], 1, 100);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Preempt));
}

/// What was heard before a fault counts no more after it: each member is waited for anew.
#[test]
fn stale_masters_are_not_preempted() {
    let mut rig = Rig::backup(config(50));
    rig.sync(true, true);
    rig.hear(LAN, 1, 100);
    rig.link(1, LinkState::default());
    rig.run(SECOND * 60);
    rig.link(1, link(1));
    rig.hear(WAN, 1, 100);
    assert_eq!(rig.role(), Role::Backup);
    rig.hear(LAN, 1, 100);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Preempt));
}
