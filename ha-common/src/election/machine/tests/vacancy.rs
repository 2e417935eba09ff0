//! A backup with heartbeats: when it takes over, and when it must not.

use super::*;

fn lapsed(rig: &Rig) -> PeerReport {
    rig.report(ROLE_MASTER, 0, Gate::Lapsed, PEER_TERM)
}

fn vacant(rig: &Rig, flags: u8) -> PeerReport {
    rig.report(ROLE_BACKUP, flags, Gate::Closed, PEER_TERM)
}

/// A serving peer that falls silent on every path is dead: its group is taken at once, in a newer term, lease first.
#[test]
fn a_silent_master_is_dead() {
    let mut rig = Rig::behind(config(100));
    let last = rig.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM);
    rig.now = rig.now + ms(5);
    rig.input(Input::Peer(Sight::Silent { last }));
    insta::assert_snapshot!(
        rig.summary(),
        @"backup>master(peer_dead) lease=6 vips+ announce0 announce1 adv0=1/100 adv1=1/100"
    );
    assert_eq!(rig.stats().last_transition.unwrap().last_heard, Some(last.heard));
    assert_eq!(rig.stats().term, 6 << 8 | 254, "the term names its node");
}

/// A lapsed lease is taken over from at once; an open gate never, however long adverts and everything else are silent.
#[test]
fn a_lapsed_master_and_a_serving_one() {
    let mut rig = Rig::behind(config(0));
    let serving = rig.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM);
    rig.see_for(SECOND * 20, serving);
    assert_eq!((rig.role(), rig.stats().silent.as_slice()), (Role::Backup, [true, true].as_slice()));
    rig.see(lapsed(&rig));
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::LeaseLapsed));
}

/// Words that are not fresh are not acted upon, and a goodbye is no word.
#[test]
fn old_words_and_goodbyes() {
    let mut rig = Rig::behind(config(100));
    let old = lapsed(&rig);
    rig.now = rig.now + ms(21);
    rig.input(Input::Peer(Sight::Alive(old)));
    assert_eq!(rig.role(), Role::Backup);
    let mut rig = Rig::behind(config(100));
    rig.hear(LAN, 255, 255);
    rig.hear(WAN, 255, 255);
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Backup, ""));
}

/// A master that let go of its term (here: for a fault) is followed at once; it cannot come back without asking.
#[test]
fn a_master_that_let_go() {
    let mut rig = Rig::behind(config(100));
    rig.see(rig.report(ROLE_FAULT, 0, Gate::Closed, PEER_TERM));
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::NoMaster));
}

/// Nobody masters and the peer does not owe anything: this node announces a term, and takes over when the peer's words
/// carry it. An answer that comes late counts for nothing, and is asked for again.
#[test]
fn a_candidacy_is_answered() {
    let mut rig = Rig::backup(config(0));
    let peer = PeerReport { term: 0, ..rig.report(ROLE_BACKUP, 0, Gate::Closed, 0) };
    let peer = PeerReport { standing: Standing { advskew: 100, ..peer.standing }, ..peer };
    rig.see(peer);
    assert_eq!((rig.stats().wait, rig.summary().as_str()), (Some(Wait::Announced), ""));
    let term = rig.stats().term;
    assert_eq!((term >> 8, rig.stats().role), (1, Role::Backup));
    rig.see_for(ms(39), peer);
    assert_eq!(rig.stats().term, term);
    rig.now = rig.now + ms(2);
    rig.see(PeerReport { term, ..peer });
    assert_eq!(rig.role(), Role::Backup, "too late");
    let again = rig.stats().term;
    assert_eq!(again >> 8, 2);
    rig.see(PeerReport { term: again, ..peer });
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::NoMaster));
    assert_eq!(rig.stats().term >> 8, 3);
}

/// Who hears of a candidacy answers by its term, and takes nothing for 150 ms, whatever it hears; a mastership in that
/// term may be taken over from when it has lapsed.
#[test]
fn a_promise_is_kept() {
    let candidate = 6 << 8 | 255;
    let mut rig = Rig::behind(config(100));
    rig.see(rig.report(ROLE_BACKUP, FLAG_READY, Gate::Closed, candidate));
    assert_eq!((rig.stats().term, rig.role()), (candidate, Role::Backup));
    rig.see_for(ms(149), vacant(&rig, FLAG_MAINTENANCE));
    assert_eq!((rig.role(), rig.stats().wait), (Role::Backup, Some(Wait::PeerFirst)));
    rig.see(lapsed(&rig));
    assert_eq!(rig.role(), Role::Backup, "an old lease that lapsed says nothing of the candidate");

    let mut rig = Rig::behind(config(100));
    rig.see(rig.report(ROLE_BACKUP, FLAG_READY, Gate::Closed, candidate));
    rig.see(rig.report(ROLE_MASTER, 0, Gate::Lapsed, candidate));
    assert_eq!(rig.cause(), Cause::LeaseLapsed);
}

/// The better of the two goes first; the worse waits for three seconds and then takes the group all the same.
#[test]
fn the_better_one_first() {
    let mut rig = Rig::behind(config(100));
    let better = vacant(&rig, FLAG_READY);
    rig.see_for(ms(2999), better);
    assert_eq!((rig.role(), rig.stats().wait), (Role::Backup, Some(Wait::PeerFirst)));
    rig.see_for(ms(5), better);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::NoMaster));
}

/// Better is who can, then who has the flows, then who is less demoted, then whose interval is shorter.
#[test]
fn what_makes_a_node_better() {
    for (flags, demotion, skew, expected) in [
        (FLAG_READY, 0, 0, Role::Backup),
        (0, 0, 0, Role::Master),
        (FLAG_READY | FLAG_MAINTENANCE, 0, 0, Role::Master),
        (FLAG_READY, 1, 0, Role::Master),
        (FLAG_READY, 0, 101, Role::Master),
        (FLAG_READY, 0, 100, Role::Backup),
    ] {
        let mut rig = Rig::behind(config(100));
        rig.sync(true, true);
        let report = vacant(&rig, flags);
        let standing = Standing { demotion, advskew: skew, ..report.standing };
        rig.see(PeerReport { standing, ..report });
        assert_eq!(rig.role(), expected, "{flags} {demotion} {skew}");
    }
}

/// A peer whose controller has not run for 100 ms has to be careful when it runs again: it is not waited for.
#[test]
fn a_dead_controller_is_not_waited_for() {
    let mut rig = Rig::behind(config(100));
    let own = 9 << 8 | 254;
    let report = PeerReport { term: own, ..vacant(&rig, FLAG_READY) };
    rig.see_for(ms(10), PeerReport { beat_age: ms(99), ..report });
    assert_eq!(rig.role(), Role::Backup);
    rig.see(PeerReport { beat_age: ms(100), ..report });
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::NoMaster));
}

/// A controller that was away for longer than 50 ms takes nothing on words alone for 150 ms, and trusts no silence that
/// it knew of before; a silence that is found after that it trusts at once.
#[test]
fn who_was_away_is_careful() {
    let mut rig = Rig::behind(config(100));
    rig.now = rig.now + ms(60);
    rig.see_for(ms(149), lapsed(&rig));
    assert_eq!((rig.role(), rig.stats().wait), (Role::Backup, Some(Wait::Quarantine)));
    rig.see_for(ms(10), lapsed(&rig));
    assert_eq!(rig.role(), Role::Master);

    let mut rig = Rig::behind(config(100));
    rig.now = rig.now + ms(60);
    let last = rig.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM);
    rig.see(last);
    rig.now = rig.now + ms(5);
    rig.input(Input::Peer(Sight::Silent { last }));
    assert_eq!(rig.cause(), Cause::PeerDead);
}

/// The same after a start: this process does not know what the last one promised.
#[test]
fn a_new_process_is_careful() {
    let mut rig = Rig::backup(config(100));
    rig.see_for(ms(149), lapsed(&rig));
    assert_eq!(rig.role(), Role::Backup);
    rig.see_for(ms(10), lapsed(&rig));
    assert_eq!(rig.role(), Role::Master);
}

/// Under maintenance and in fault a node takes nothing, not even from the dead; it does as soon as it is able again.
#[test]
fn who_cannot_takes_nothing() {
    let silent = |rig: &Rig| Sight::Silent { last: rig.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM) };
    let mut rig = Rig::behind(Config { maintenance: true, ..config(0) });
    rig.input(Input::Peer(silent(&rig)));
    assert_eq!((rig.role(), rig.stats().wait), (Role::Backup, Some(Wait::Maintenance)));
    rig.command(Command::Maintenance(false));
    assert_eq!(rig.role(), Role::Master);

    let mut rig = Rig::behind(config(0));
    rig.link(0, LinkState::default());
    rig.input(Input::Peer(silent(&rig)));
    assert_eq!(rig.role(), Role::Fault);
    rig.link(0, link(0));
    rig.run(ms(25));
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::PeerDead));
}

/// A third, foreign master is followed by CARP's rules while the peer, by its own words, does not serve; when it is dead,
/// the group is vacant.
#[test]
fn a_foreign_master_is_followed() {
    let mut rig = Rig::behind(config(100));
    rig.hear_from(LAN, THIRD[0], 0, 200);
    rig.hear_from(WAN, THIRD[1], 0, 200);
    rig.see_for(SECOND * 2, rig.report(ROLE_BACKUP, FLAG_MAINTENANCE, Gate::Closed, PEER_TERM));
    assert_eq!(rig.role(), Role::Backup);
    rig.see_for(SECOND * 2, rig.report(ROLE_BACKUP, FLAG_MAINTENANCE, Gate::Closed, PEER_TERM));
    assert_eq!(rig.cause(), Cause::NoMaster);
}

/// When heartbeats end without proof of death, adverts decide again, and are listened to from then on.
#[test]
fn without_proof_adverts_decide() {
    let mut rig = Rig::behind(config(100));
    rig.see_for(SECOND * 10, rig.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM));
    rig.input(Input::Peer(Sight::Unknown));
    rig.run(ms(3390));
    assert_eq!(rig.role(), Role::Backup);
    rig.run(ms(1));
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::MasterDown));
}

/// A node that hears no heartbeats is stopped. Meanwhile the peer can be heard again, and has become master: the adverts that
/// waited are read before its words, and decide nothing. Where it is not heard within a moment they count.
#[test]
fn adverts_that_waited_do_not_decide_before_words() {
    for (advbase, advskew, cause) in [(1, 100, Cause::Preempt), (255, 255, Cause::Goodbye)] {
        for is_heard in [true, false] {
            let mut rig = Rig::backup(config(0));
            rig.sync(true, true);
            rig.hear(LAN, 1, 0);
            rig.hear(WAN, 1, 0);
            rig.input(Input::Peer(Sight::Unknown));
            rig.now = rig.now + ms(170);
            rig.hear(LAN, advbase, advskew);
            rig.hear(WAN, advbase, advskew);
            rig.input(Input::Peer(Sight::Unknown));
            rig.run(ms(20));
            assert_eq!(rig.role(), Role::Backup);
            if is_heard {
                rig.see(rig.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM));
            }
            rig.run(ms(30));
            let expected = if is_heard { (Role::Backup, Cause::Start) } else { (Role::Master, cause) };
            assert_eq!((rig.role(), rig.cause()), expected);
        }
    }
}

/// A node is stopped as it starts, before it was told anything of its peer: goodbyes that waited decide nothing before the
/// peer's words, where it is heard; those that did not wait decide at once, as without heartbeats.
#[test]
fn goodbyes_that_waited_for_a_start_do_not_decide_before_words() {
    for (waited, is_heard, expected) in
        [(ms(51), true, Role::Backup), (ms(51), false, Role::Master), (ms(50), false, Role::Master)]
    {
        let mut rig = Rig::backup(config(0));
        let adverts = [LAN, WAN].map(|member| rig.advert(member, PEER[usize::from(member.0)], 255, 255));
        rig.now = rig.now + waited;
        adverts.iter().for_each(|advert| rig.input(Input::Advert(advert)));
        assert_eq!(rig.role(), if waited > ms(50) { Role::Backup } else { Role::Master });
        rig.run(ms(20));
        if is_heard {
            rig.see(rig.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM));
        }
        rig.run(ms(30));
        assert_eq!(rig.role(), expected);
    }
}

/// The core has one clock argument: the same inputs with all times shifted by an hour, by ten years or by nothing give
/// the same decisions, so that a step of any other clock cannot matter.
#[test]
fn no_other_clock() {
    let run = |start: u64| {
        let mut rig = Rig::new(config(100));
        rig.now = Instant(start);
        rig.link(0, link(0));
        rig.link(1, link(1));
        rig.see_for(ms(200), rig.report(ROLE_MASTER, 0, Gate::Open, PEER_TERM));
        rig.see(lapsed(&rig));
        let at = rig.stats().last_transition.map(|transition| transition.at.since(Instant(start)));
        (rig.summary(), at, rig.election.poll_at().map(|at| at.since(Instant(start))))
    };
    let now = 1_800_000_000_000_000_000;
    assert_eq!(run(1 << 40), run(now));
    assert_eq!(run(now), run(now + 3_600_000_000_000));
}
