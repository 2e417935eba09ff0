//! Two masters that hear each other.

use super::*;

/// A better master on one member makes the whole group retire, with a goodbye on every member.
#[test]
fn retires_as_a_group() {
    let mut rig = Rig::master(config(100));
    rig.hear(WAN, 1, 0);
    assert_eq!(
        rig.summary(),
        "master>backup(better_master) closed adv0=255/255 adv1=255/255 adv0=255/255 adv1=255/255 vips-"
    );
    assert_eq!(rig.stats().dual_master_contacts, 1);
    rig.run(ms(3000));
    assert_eq!(rig.role(), Role::Backup, "the timers are armed");
    rig.run(ms(500));
    assert_eq!(rig.role(), Role::Master);
}

/// A worse master is answered with an advert and an announcement on its member, at most every 100 ms.
#[test]
fn answers_a_worse_master_with_restraint() {
    let mut rig = Rig::master(config(100));
    rig.hear(LAN, 1, 200);
    assert_eq!(rig.summary(), "adv0=1/100 announce0");
    rig.hear(LAN, 1, 200);
    assert_eq!(rig.summary(), "");
    rig.hear(WAN, 1, 200);
    assert_eq!(rig.summary(), "adv1=1/100 announce1", "each member by itself");
    rig.now = rig.now + ms(99);
    rig.hear(LAN, 1, 200);
    assert_eq!(rig.summary(), "");
    rig.now = rig.now + ms(1);
    rig.hear(LAN, 1, 200);
    assert_eq!(rig.summary(), "adv0=1/100 announce0");
    assert_eq!(rig.stats().dual_master_contacts, 1, "one contact, however many adverts");
}

/// The answer takes the place of the regular advert: the next one comes a whole interval later.
#[test]
fn an_answer_is_an_advert() {
    let mut rig = Rig::master(Config { announce_refresh: None, ..config(0) });
    rig.run(ms(500));
    let asked = rig.now;
    rig.hear(LAN, 1, 200);
    rig.run(ms(999));
    assert_eq!(rig.count("adv0"), 0);
    rig.run(ms(1));
    assert_eq!((rig.count("adv0"), rig.now), (1, asked + SECOND));
}

/// When the other one says goodbye, or is silent for two intervals, the announcements begin anew: hosts may have
/// learned the other's address.
#[test]
fn the_end_of_a_contact_is_announced() {
    let mut rig = Rig::master(Config { announce_refresh: None, ..config(0) });
    rig.hear(LAN, 1, 200);
    rig.hear(LAN, 255, 255);
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Master, "announce0 announce1"));
    rig.run(SECOND * 5);
    assert_eq!(rig.count("announce0"), 3, "the rest of the burst");
    rig.hear(LAN, 255, 255);
    assert_eq!(rig.summary(), "", "a goodbye outside of a contact says nothing");

    rig.hear(LAN, 1, 128);
    rig.run(ms(2999));
    assert_eq!(rig.count("announce"), 0);
    rig.run(ms(1));
    assert_eq!((rig.count("announce0"), rig.count("announce1")), (1, 1));
    rig.hear(LAN, 1, 128);
    assert_eq!(rig.stats().dual_master_contacts, 3, "the next advert begins a new contact");
}

/// All paths are cut, and the peer becomes master, hears this better master's adverts over a path that carries one way, and retires
/// unheard. The hosts that have learned its address hear of this node when the peer is heard again.
#[test]
fn a_mastership_that_nobody_heard_of_is_announced_over() {
    for cut in [Sight::Unknown, Sight::Silent { last: Rig::new(config(0)).ready() }] {
        let mut rig = Rig::ahead(Config { announce_refresh: None, ..config(0) });
        rig.input(Input::Peer(cut));
        rig.run(SECOND * 5);
        rig.actions.clear();
        rig.see(PeerReport { term: rig.stats().term + 256, ..rig.ready() });
        assert_eq!((rig.role(), rig.summary().as_str()), (Role::Master, "announce0 announce1"));
    }
}

/// At equal intervals ucarp's address order decides against a foreign peer: the lower last octet stays.
#[test]
fn a_tie_with_a_foreign_peer_goes_by_address() {
    let mut rig = Rig::master(config(100));
    rig.hear_from(LAN, THIRD[0], 1, 100);
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Master, "adv0=1/100 announce0"));
    rig.hear(LAN, 1, 100);
    assert_eq!((rig.role(), rig.cause()), (Role::Backup, Cause::TieBreak));
}

/// With a twinwall peer the lower node id decides, whatever the addresses: here against them, both ways.
#[test]
fn a_tie_with_the_peer_goes_by_node_id() {
    let mut lower = Rig::master(Config { node: NodeId(0), peer_node: Some(NodeId(1)), ..config(100) });
    lower.sync(true, true);
    lower.hear(LAN, 1, 100);
    assert_eq!(lower.role(), Role::Master);

    let mut higher = Rig::master(config(100));
    higher.sync(true, true);
    higher.hear_from(LAN, THIRD[0], 1, 100);
    assert_eq!((higher.role(), higher.cause()), (Role::Backup, Cause::TieBreak));
}

/// The lower id still decides when the sync link has just died, but not in a cluster of more than two.
#[test]
fn what_a_tie_by_id_needs() {
    let lower = |peer_node| {
        let mut rig = Rig::master(Config { node: NodeId(0), peer_node, ..config(100) });
        rig.sync(true, true);
        rig.sync(false, false);
        rig.hear(LAN, 1, 100);
        rig.role()
    };
    assert_eq!(lower(Some(NodeId(1))), Role::Master);
    assert_eq!(lower(None), Role::Backup);
}

/// A tie that lasts means that the other one goes by another rule; then the addresses decide.
#[test]
fn a_lasting_tie_goes_by_address() {
    let mut rig = Rig::master(Config { node: NodeId(0), peer_node: Some(NodeId(1)), ..config(100) });
    rig.sync(true, true);
    rig.run_hearing(SECOND * 2, &[LAN], 1, 100);
    assert_eq!(rig.role(), Role::Master);
    rig.hear(LAN, 1, 100);
    assert_eq!((rig.role(), rig.cause()), (Role::Backup, Cause::TieBreak));
}

/// Two masters that lost a tie to each other get each other's goodbye; they come back at random moments within 250 ms.
#[test]
fn crossed_retirement_returns_after_a_jitter() {
    let mut rig = Rig::master(config(100));
    let mut delays = Vec::new();
    for _ in 0..4 {
        rig.hear(LAN, 1, 100);
        assert_eq!(rig.cause(), Cause::TieBreak);
        rig.hear(LAN, 255, 255);
        assert_eq!(rig.role(), Role::Backup);
        let start = rig.now;
        rig.run(ms(250));
        let back = rig.stats().last_transition.unwrap();
        assert_eq!((back.to, back.cause), (Role::Master, Cause::Goodbye));
        delays.push(back.at.since(start));
    }
    delays.dedup();
    assert_eq!(delays.len(), 4, "{delays:?}");
    assert!(delays.iter().all(|delay| *delay < ms(250)));
}

/// A node that yielded to a better master on one member does not take the goodbye of a third one, which yields as well,
/// for the better one's; but the better one's own goodbye counts.
#[test]
fn the_goodbye_of_another_loser_is_ignored() {
    let mut rig = Rig::backup(config(50));
    rig.sync(true, true);
    rig.hear_from(LAN, THIRD[0], 1, 100);
    rig.hear_from(WAN, THIRD[1], 1, 100);
    assert_eq!(rig.cause(), Cause::Preempt);
    rig.hear(LAN, 1, 0);
    assert_eq!(rig.cause(), Cause::BetterMaster);
    rig.hear_from(LAN, THIRD[0], 255, 255);
    rig.hear_from(WAN, THIRD[1], 255, 255);
    assert_eq!(rig.role(), Role::Backup);
    rig.hear(LAN, 255, 255);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Goodbye));
}

/// Long after a lost tie a goodbye is taken at its word.
#[test]
fn the_jitter_is_for_crossed_retirement_only() {
    let mut rig = Rig::master(config(100));
    rig.hear(LAN, 1, 100);
    rig.run_hearing(SECOND * 4, &[LAN, WAN], 1, 100);
    rig.hear(LAN, 255, 255);
    assert_eq!((rig.role(), rig.cause()), (Role::Master, Cause::Goodbye));
}

/// A tie heard by a family in which this node has no address is left to the other family.
#[test]
fn a_tie_by_a_foreign_family() {
    let mut rig = Rig::master(config(100));
    let source: IpAddr = "fe80::1".parse().unwrap();
    let mut advert = rig.advert(LAN, source, 1, 100);
    advert.destination = "ff02::12".parse().unwrap();
    rig.input(Input::Advert(&advert));
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Master, "adv0=1/100 announce0"));
}

/// The contact with a master that advertises rarely is over after ten seconds, not after minutes.
#[test]
fn the_end_of_a_contact_is_not_awaited_for_ever() {
    let mut rig = Rig::master(Config { announce_refresh: None, ..config(0) });
    rig.hear(LAN, 100, 0);
    rig.run(ms(9999));
    assert_eq!(rig.count("announce"), 0);
    rig.run(ms(1));
    assert_eq!(rig.count("announce"), 2);
}
