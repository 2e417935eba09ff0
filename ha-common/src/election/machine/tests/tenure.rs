//! Leases: their length, their loss, and what a new process makes of one.

use super::*;

/// Short while a peer could take over by heartbeat, long otherwise, and never longer than half the time after which adverts
/// decide.
#[test]
fn lengths() {
    let mut rig = Rig::ahead(config(0));
    assert_eq!(rig.stats().lease.unwrap().length, PairTimes::default().lease_short);
    rig.input(Input::Peer(Sight::Silent { last: rig.ready() }));
    assert_eq!(rig.stats().lease.unwrap().length, ms(1500));
    assert_eq!(Rig::master(config(0)).stats().lease.unwrap().length, ms(1500));
    let fast = Rig::master(Config { advbase: 0, advskew: 64, ..config(0) });
    assert_eq!(fast.stats().lease.unwrap().length, ms(375));
    let mut demoted = Rig::master(config(0));
    demoted.input(Input::Demotion(254));
    let length = demoted.stats().lease.unwrap().length;
    assert!((ms(950)..ms(965)).contains(&length), "3 s less an interval of 1.99 s and 50 ms: {length:?}");
    assert_eq!(Rig::backup(config(0)).stats().lease, None);
}

/// A mastership that begins because the peer is silent is opened with a short lease: who is stopped before the gate is open opens
/// none with what was decided long ago. The next input makes it long.
#[test]
fn the_first_lease_is_short() {
    let mut rig = Rig::behind(config(0));
    rig.see_for(SECOND, rig.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM));
    rig.input(Input::Peer(Sight::Silent { last: rig.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM) }));
    let opened = rig.actions.iter().find_map(|action| match action {
        Action::Lease(LeaseOrder::Open(lease)) => Some(lease.length),
        _ => None,
    });
    let short = PairTimes::default().lease_short;
    assert_eq!((rig.role(), opened, rig.stats().lease.unwrap().length), (Role::Master, Some(short), short));
    rig.now = rig.now + ms(1);
    rig.input(Input::Timer);
    assert_eq!(rig.stats().lease.unwrap().length, ms(1500));
}

/// A lost lease: BACKUP without a goodbye; a peer that is ready goes first.
#[test]
fn a_lapsed_lease() {
    let mut rig = Rig::ahead(config(0));
    rig.input(Input::Lease(LeaseEvent::Lapsed));
    assert_eq!(rig.summary(), "master>backup(lease_lost) closed vips-");
    assert_eq!((rig.stats().lease, rig.stats().leases_lost), (None, 1));
    assert!(!rig.standing().has(FLAG_READY));
    let ready = rig.ready();
    rig.see_for(ms(140), ready);
    assert_eq!((rig.role(), rig.stats().wait), (Role::Backup, Some(Wait::PeerFirst)));
}

/// Nobody else can: the group is asked for at once, and taken in a new term.
#[test]
fn a_lapsed_lease_and_nobody_else() {
    let mut rig = Rig::ahead(config(0));
    let term = rig.stats().term;
    rig.input(Input::Lease(LeaseEvent::Lapsed));
    let unready = rig.report(ROLE_BACKUP, 0, Gate::Closed, term);
    rig.see(unready);
    let candidacy = rig.stats().term;
    assert!(candidacy > term);
    rig.see(PeerReport { term: candidacy, ..unready });
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::NoMaster));
    assert!(rig.stats().term > candidacy);
}

/// The peer was known to be silent before: that must be proven anew. An unknown peer is CARP's affair.
#[test]
fn a_lapsed_lease_and_a_silent_peer() {
    let mut rig = Rig::ahead(config(0));
    rig.input(Input::Peer(Sight::Silent { last: rig.ready() }));
    rig.input(Input::Lease(LeaseEvent::Lapsed));
    rig.run(ms(249));
    assert_eq!((rig.role(), rig.stats().wait), (Role::Backup, Some(Wait::Quarantine)));
    rig.run(ms(21));
    assert_eq!(rig.role(), Role::Master);

    let mut rig = Rig::master(config(0));
    rig.input(Input::Lease(LeaseEvent::Lapsed));
    rig.run(ms(3000) - ms(1));
    assert_eq!(rig.role(), Role::Backup);
    rig.run(ms(2));
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::MasterDown));
}

/// A term that the peer's probe closed: the peer lives, so that its silence proves nothing until it is heard.
#[test]
fn a_fenced_term() {
    let mut rig = Rig::ahead(config(0));
    let closed_term = rig.stats().term;
    rig.input(Input::Lease(LeaseEvent::Fenced { closed_term }));
    assert_eq!((rig.cause(), rig.count("adv")), (Cause::Superseded, 0));
    assert_eq!(rig.stats().dual_master_contacts, 1, "the other one never sees this gate open");
    rig.input(Input::Peer(Sight::Silent { last: rig.ready() }));
    rig.run(ms(2990));
    assert_eq!(rig.role(), Role::Backup);
    rig.now = rig.now + ms(1);
    rig.see(rig.report(ROLE_MASTER, 0, Gate::Open, closed_term + 256));
    rig.now = rig.now + ms(5);
    rig.input(Input::Peer(Sight::Silent { last: rig.report(ROLE_MASTER, 0, Gate::Open, closed_term + 256) }));
    assert_eq!(rig.cause(), Cause::PeerDead);
}

/// Of two masters the newer term stays, and announces again when the other is gone; the older leaves without a goodbye.
/// The peer's adverts say nothing while its heartbeats are heard, however good they are.
#[test]
fn two_masters() {
    let mut rig = Rig::ahead(config(100));
    let own = rig.stats().term;
    let ready = rig.ready();
    rig.see_for(ms(200), ready);
    rig.hear(LAN, 1, 0);
    assert_eq!(rig.role(), Role::Master, "it may be the peer's");
    rig.now = rig.now + ms(1);
    rig.see(rig.ready());
    assert_eq!(rig.cause(), Cause::BetterMaster, "a third master, as the peer does not serve");

    let mut rig = Rig::ahead(config(100));
    rig.see(rig.report(ROLE_MASTER, 0, Gate::Open, own - 256));
    rig.hear(LAN, 1, 0);
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Master, ""));
    assert_eq!(rig.stats().dual_master_contacts, 1);
    rig.see(rig.report(ROLE_BACKUP, 0, Gate::Closed, own - 256));
    assert_eq!(rig.summary(), "announce0 announce1");
    rig.see(rig.report(ROLE_MASTER, 0, Gate::Open, own + 256));
    assert_eq!(rig.summary(), "master>backup(superseded) closed vips-");
    assert_eq!(rig.stats().dual_master_contacts, 2, "another contact");
}

/// A new process goes on with a live lease, in the same term, once all links are up; until then it is renewed.
#[test]
fn resuming() {
    let term = 9 << 8 | 254;
    let resume = || Rig::new(Config { resume: Some(term), term_seen: term, ..config(100) });
    let mut rig = resume();
    rig.link(0, link(0));
    assert_eq!((rig.role(), rig.stats().lease.map(|lease| lease.term)), (Role::Init, Some(term)));
    assert_eq!(rig.standing().role, ROLE_MASTER);
    rig.link(1, link(1));
    assert_eq!(rig.summary(), "init>master(resumed) lease=9 vips+ announce0 announce1 adv0=1/100 adv1=1/100");
    assert_eq!(rig.stats().term, term);

    // Not with a dead link, not when the kernel closed the term, and not against a newer master.
    let mut rig = resume();
    rig.link(0, link(0));
    rig.link(1, LinkState::default());
    assert_eq!((rig.summary().as_str(), rig.stats().lease), ("init>fault(link_down) closed vips-", None));
    let mut rig = resume();
    rig.input(Input::Lease(LeaseEvent::Fenced { closed_term: term }));
    assert_eq!((rig.summary().as_str(), rig.stats().lease), ("closed", None));
    let mut rig = resume();
    rig.see(rig.report(ROLE_MASTER, 0, Gate::Open, term + 256));
    assert_eq!((rig.summary().as_str(), rig.standing().role), ("closed", 0));
    let rig = Rig::new(Config { resume: Some(term), term_seen: term + 1, ..config(100) });
    assert_eq!(rig.stats().lease, None);
}

/// Three losses by its own fault within a minute, and the node ranks behind for 30 s: it does not ask for the group,
/// and lets a peer go first, but takes over from a dead one.
#[test]
fn damping() {
    let mut rig = Rig::ahead(config(0));
    for _ in 0..3 {
        rig.link(0, LinkState::default());
        rig.link(0, link(0));
        rig.see(PeerReport { term: rig.stats().term, ..rig.report(ROLE_FAULT, 0, Gate::Closed, 0) });
        rig.see(PeerReport { term: rig.stats().term, ..rig.report(ROLE_FAULT, 0, Gate::Closed, 0) });
        assert_eq!(rig.role(), Role::Master);
    }
    assert!(rig.stats().damped_until.is_some());
    let term = rig.stats().term + 256;
    let worse = rig.report(ROLE_MASTER, 0, Gate::Open, term);
    let worse = PeerReport { standing: Standing { advskew: 200, ..worse.standing }, ..worse };
    rig.see(worse);
    assert_eq!(rig.role(), Role::Backup);
    rig.see_for(SECOND * 29, worse);
    assert_eq!((rig.stats().wait, rig.standing().has(FLAG_WANT)), (Some(Wait::Damped), false));
    assert_eq!(rig.standing().demotion, 100);
    rig.see_for(SECOND * 2, worse);
    assert_eq!((rig.stats().damped_until, rig.standing().has(FLAG_WANT)), (None, true));
}
