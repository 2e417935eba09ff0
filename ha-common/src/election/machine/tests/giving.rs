//! The master's side of a hand-over.

use super::*;

fn taken(rig: &Rig) -> PeerReport {
    rig.report(ROLE_MASTER, 0, Gate::Open, rig.stats().term + 256)
}

fn phase(rig: &Rig) -> Option<HandOverPhase> {
    rig.stats().hand_over.map(|hand_over| hand_over.phase)
}

/// Flows first, then the offer, then the confirmation; the addresses go when the stragglers are through, and preemption is
/// suspended, because an operator wanted it so.
#[test]
fn make_before_break() {
    let mut rig = Rig::ahead(config(0));
    rig.command(Command::HandOver { force: false });
    assert_eq!((rig.summary().as_str(), phase(&rig)), ("", Some(HandOverPhase::Draining)));
    assert!(!rig.standing().has(FLAG_OFFER));
    rig.now = rig.now + ms(3);
    rig.flushed();
    assert_eq!(phase(&rig), Some(HandOverPhase::Offered));
    assert!(rig.standing().has(FLAG_OFFER));
    rig.see(taken(&rig));
    assert_eq!(rig.summary(), "master>backup(hand_over) closed Done");
    assert!(rig.stats().linger_until.is_some() && rig.stats().preempt_suspended);
    rig.run(ms(99));
    assert_eq!(rig.count("vips"), 0);
    rig.run(ms(1));
    assert_eq!((rig.count("vips-"), rig.stats().linger_until), (1, None));
    assert_eq!((rig.stats().hand_overs, rig.stats().hand_overs_failed), (1, 0));
}

/// The new master's probe closed the gate before its answer was heard: that is the confirmation, too.
#[test]
fn a_fence_confirms() {
    let mut rig = Rig::ahead(config(0));
    rig.command(Command::HandOver { force: false });
    rig.flushed();
    let closed_term = rig.stats().term;
    rig.input(Input::Lease(LeaseEvent::Fenced { closed_term }));
    assert_eq!(rig.summary(), "master>backup(hand_over) closed Done");
}

/// Flows that are not acknowledged are waited for, half a second when somebody insists; then the offer stands for a second
/// and is withdrawn.
#[test]
fn bounded() {
    let mut rig = Rig::ahead(config(0));
    rig.command(Command::HandOver { force: false });
    let ready = rig.ready();
    rig.see_for(ms(499), ready);
    assert_eq!(phase(&rig), Some(HandOverPhase::Draining));
    rig.see_for(ms(1), ready);
    assert_eq!(phase(&rig), Some(HandOverPhase::Offered));
    rig.see_for(ms(999), ready);
    assert!(rig.standing().has(FLAG_OFFER));
    rig.see_for(ms(1), ready);
    assert_eq!((rig.role(), rig.summary().as_str(), phase(&rig)), (Role::Master, "TimedOut", None));
    assert!(!rig.standing().has(FLAG_OFFER));
}

/// Each reason to refuse the operator, and what force changes.
#[test]
fn refusals() {
    let refusal = |rig: &mut Rig, force| {
        rig.command(Command::HandOver { force });
        rig.summary()
    };
    assert_eq!(refusal(&mut Rig::behind(config(0)), false), "Refused(NotMaster)");
    assert_eq!(refusal(&mut Rig::master(config(0)), false), "Refused(PeerUnknown)");
    let mut rig = Rig::ahead(config(0));
    rig.see(rig.report(ROLE_BACKUP, 0, Gate::Closed, PEER_TERM));
    assert_eq!(refusal(&mut rig, false), "Refused(PeerNotReady)");
    assert_eq!(refusal(&mut rig, true), "");
    assert_eq!(refusal(&mut rig, true), "Refused(Busy)");
    let mut rig = Rig::ahead(config(0));
    rig.see(PeerReport { standing: Standing { demotion: 1, ..rig.ready().standing }, ..rig.ready() });
    assert_eq!(refusal(&mut rig, false), "Refused(PeerNotReady)");
    for unable in
        [rig.report(ROLE_FAULT, 0, Gate::Closed, 0), rig.report(ROLE_BACKUP, FLAG_MAINTENANCE, Gate::Closed, 0)]
    {
        rig.see(unable);
        assert_eq!(refusal(&mut rig, true), "Refused(PeerNotReady)");
    }
}

/// An offer to a peer that is no longer ready, or no longer heard, is withdrawn.
#[test]
fn an_offer_is_withdrawn() {
    for gone in [false, true] {
        let mut rig = Rig::ahead(config(0));
        rig.command(Command::HandOver { force: false });
        rig.flushed();
        assert!(rig.standing().has(FLAG_OFFER));
        if gone {
            rig.input(Input::Peer(Sight::Silent { last: rig.ready() }));
            assert_eq!(rig.summary(), "Refused(PeerUnknown)");
        } else {
            rig.see(rig.report(ROLE_BACKUP, 0, Gate::Closed, PEER_TERM));
            assert_eq!(rig.summary(), "Refused(PeerNotReady)");
        }
        assert!(rig.role() == Role::Master && !rig.standing().has(FLAG_OFFER));
    }
}

/// A clean stop hands over, keeps the addresses for the stragglers, and is done when they are gone. The links and the
/// peer move it no more.
#[test]
fn stop_hands_over() {
    let mut rig = Rig::ahead(config(0));
    rig.command(Command::Stop);
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Master, ""));
    rig.flushed();
    rig.see(taken(&rig));
    assert_eq!(rig.summary(), "master>init(stop) closed");
    rig.link(0, link(0));
    rig.input(Input::Peer(Sight::Silent { last: taken(&rig) }));
    assert!(!rig.election.is_stopped());
    rig.run(ms(100));
    assert_eq!(rig.summary(), "vips-");
    assert!(rig.election.is_stopped());
}

/// Nobody takes it: after a second in all the stop goes on with goodbyes. Without a peer that is ready it begins with them.
#[test]
fn stop_is_bounded() {
    let goodbye = "master>init(stop) closed adv0=255/255 adv1=255/255 adv0=255/255 adv1=255/255 vips-";
    let mut rig = Rig::ahead(config(0));
    rig.command(Command::Stop);
    let ready = rig.ready();
    rig.see_for(ms(999), ready);
    assert_eq!(rig.role(), Role::Master);
    rig.see_for(ms(1), ready);
    assert_eq!(rig.summary(), goodbye);
    assert!(rig.election.is_stopped());
    let mut rig = Rig::ahead(config(0));
    rig.see(rig.report(ROLE_BACKUP, 0, Gate::Closed, PEER_TERM));
    rig.command(Command::Stop);
    assert_eq!(rig.summary(), goodbye);
}

/// The peer wants the group: it gets it if it is better in this node's eyes, or if its operator asks.
#[test]
fn wanted_by_the_peer() {
    for (flags, own_skew, demotion, expected) in [
        (FLAG_WANT, 100, 0, Some(Cause::Preempt)),
        (FLAG_WANT, 0, 0, None),
        (FLAG_WANT, 0, 1, Some(Cause::Demoted)),
        (FLAG_ASKED, 0, 0, Some(Cause::HandOver)),
    ] {
        let mut rig = Rig::ahead(config(own_skew));
        rig.input(Input::Demotion(demotion));
        rig.see(rig.report(ROLE_BACKUP, FLAG_READY | flags, Gate::Closed, PEER_TERM));
        assert_eq!(rig.stats().hand_over.map(|hand_over| hand_over.cause), expected, "{flags} {own_skew}");
    }
}

/// A hand-over that nobody insists on is given up when the flows do not arrive, and tried again after five seconds.
#[test]
fn a_preemption_waits_for_flows() {
    let mut rig = Rig::ahead(config(100));
    let wants = rig.report(ROLE_BACKUP, FLAG_READY | FLAG_WANT, Gate::Closed, PEER_TERM);
    rig.see(wants);
    assert_eq!(phase(&rig), Some(HandOverPhase::Draining));
    rig.see_for(ms(501), wants);
    assert_eq!(phase(&rig), None);
    rig.see_for(ms(4998), wants);
    assert_eq!(phase(&rig), None);
    rig.see_for(ms(2), wants);
    assert_eq!(phase(&rig), Some(HandOverPhase::Draining));
}

/// Maintenance on a master: away to a peer that is ready, and until there is one, on with the service.
#[test]
fn maintenance_of_a_master() {
    let mut rig = Rig::ahead(config(0));
    rig.see(rig.report(ROLE_BACKUP, 0, Gate::Closed, PEER_TERM));
    rig.command(Command::Maintenance(true));
    assert_eq!((rig.role(), rig.stats().wait), (Role::Master, Some(Wait::PeerNotReady)));
    rig.input(Input::Peer(Sight::Silent { last: rig.ready() }));
    assert_eq!((rig.role(), rig.stats().wait), (Role::Master, Some(Wait::PeerUnknown)));
    let ready = rig.ready();
    rig.see(ready);
    rig.flushed();
    rig.see(taken(&rig));
    assert_eq!(rig.cause(), Cause::Maintenance);
    assert!(!rig.standing().has(FLAG_READY));
}
