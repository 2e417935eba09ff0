//! The backup's side of a hand-over, and what it tells of itself.

use super::*;

/// A peer that serves at 1/`advskew`, and offers or not.
fn master(rig: &Rig, advskew: u8, flags: u8) -> PeerReport {
    let report = rig.report(ROLE_MASTER, flags, Gate::Open, PEER_TERM);
    PeerReport { standing: Standing { advskew, ..report.standing }, ..report }
}

/// An offer is taken at once, in a newer term; a node that cannot take it does not.
#[test]
fn an_offer_is_taken() {
    let mut rig = Rig::behind(config(100));
    rig.see(master(&rig, 0, FLAG_OFFER));
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::HandOver));
    assert_eq!(rig.stats().term, 6 << 8 | 254);
    let mut rig = Rig::behind(config(100));
    rig.command(Command::Maintenance(true));
    rig.see(master(&rig, 0, FLAG_OFFER));
    assert_eq!(rig.role(), Role::Backup);
}

/// A better node says that it wants the group once it is in sync and its delay is over, and names what it waits for; the
/// offer that follows is its preemption.
#[test]
fn a_better_node_wants() {
    let mut rig = Rig::behind(Config { preempt_delay: SECOND, ..config(0) });
    let report = master(&rig, 100, 0);
    rig.see(report);
    assert_eq!((rig.stats().wait, rig.standing().has(FLAG_WANT)), (Some(Wait::NotInSync), false));
    rig.sync(true, true);
    rig.see(report);
    assert_eq!((rig.stats().wait, rig.standing().has(FLAG_READY)), (Some(Wait::PreemptDelay), true));
    rig.see_for(SECOND, report);
    assert_eq!((rig.stats().wait, rig.standing().has(FLAG_WANT)), (None, true));
    rig.see(master(&rig, 100, FLAG_OFFER));
    assert_eq!(rig.cause(), Cause::Preempt);
}

/// Without sync the wait ends after 30 s: the node is as ready as it will be.
#[test]
fn the_wait_for_flows_is_bounded() {
    let mut rig = Rig::behind(config(0));
    let report = master(&rig, 100, 0);
    rig.see_for(ms(29_990), report);
    assert!(!rig.standing().has(FLAG_WANT) && !rig.standing().has(FLAG_READY));
    rig.see_for(ms(20), report);
    assert!(rig.standing().has(FLAG_WANT) && rig.standing().has(FLAG_READY));
}

/// Equality, a worse interval, and `preempt` off want nothing; a demoted master is another matter.
#[test]
fn who_wants() {
    for (preempt, peer_skew, peer_demotion, own_demotion, wants) in [
        (true, 100, 0, 0, true),
        (true, 50, 0, 0, false),
        (true, 0, 0, 0, false),
        (false, 100, 0, 0, false),
        (false, 0, 1, 0, true),
        (true, 100, 0, 1, false),
        (false, 0, 2, 1, true),
    ] {
        let mut rig = Rig::behind(Config { preempt, ..config(50) });
        rig.sync(true, true);
        rig.input(Input::Demotion(own_demotion));
        let report = master(&rig, peer_skew, 0);
        rig.see(PeerReport { standing: Standing { demotion: peer_demotion, ..report.standing }, ..report });
        assert_eq!(rig.standing().has(FLAG_WANT), wants, "{preempt} {peer_skew} {peer_demotion} {own_demotion}");
    }
}

/// The operator's wish: refused with a reason, fulfilled, or given up.
#[test]
fn asking() {
    let mut rig = Rig::behind(config(100));
    rig.command(Command::Want);
    assert_eq!(rig.summary(), "Refused(NotReady)");
    rig.sync(true, true);
    rig.command(Command::Want);
    assert_eq!((rig.summary().as_str(), rig.standing().has(FLAG_ASKED)), ("", true));
    rig.command(Command::Want);
    assert_eq!(rig.summary(), "Refused(Busy)");
    rig.see(master(&rig, 0, FLAG_OFFER));
    assert_eq!((rig.cause(), rig.count("Done")), (Cause::HandOver, 1));
    rig.command(Command::Want);
    assert_eq!(rig.summary(), "Refused(AlreadyMaster)");

    let mut rig = Rig::behind(config(100));
    rig.sync(true, true);
    rig.command(Command::Want);
    rig.see_for(SECOND * 2, master(&rig, 0, 0));
    assert_eq!((rig.summary().as_str(), rig.standing().has(FLAG_ASKED)), ("TimedOut", false));
    let mut rig = Rig::backup(config(100));
    rig.command(Command::Want);
    assert_eq!(rig.summary(), "Refused(PeerUnknown)");
}

/// What is told: role, rank, demotion (never more than a byte), and that a node in fault is not ready.
#[test]
fn standing() {
    let mut rig = Rig::behind(config(100));
    rig.sync(true, true);
    rig.input(Input::Demotion(300));
    let told = rig.standing();
    assert_eq!((told.role, told.flags, told.demotion), (ROLE_BACKUP, FLAG_READY, 255));
    assert_eq!((told.advbase, told.advskew, told.gate), (1, 100, Gate::Closed));
    rig.link(0, LinkState::default());
    assert_eq!((rig.standing().role, rig.standing().flags), (ROLE_FAULT, 0));
}

/// Adverts carry the demotion in their skew, and never become a goodbye by it.
#[test]
fn demotion_in_adverts() {
    for (demotion, expected) in [(0, "adv0=1/100"), (10, "adv0=1/110"), (1000, "adv0=1/254")] {
        let mut rig = Rig::master(config(100));
        rig.input(Input::Demotion(demotion));
        rig.run(SECOND * 2);
        assert_eq!(rig.count(expected), 1, "{}", rig.summary());
    }
}
