//! Links: the start, faults, and their end.

use super::*;

/// Nothing is decided before every member's link is known; then leftovers of a crash are removed.
#[test]
fn start_waits_for_all_links() {
    let mut rig = Rig::new(config(100));
    rig.link(0, link(0));
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Init, ""));
    assert_eq!(rig.stats().faults, [None, Some(Fault::LinkUnknown)]);
    assert_eq!(rig.election.poll_at(), None);
    rig.link(1, link(1));
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Backup, "init>backup(start) vips-"));
}

/// A node that starts with a dead link removes leftovers, too, and waits.
#[test]
fn start_with_a_dead_link() {
    let mut rig = Rig::new(config(100));
    rig.link(0, LinkState::default());
    rig.link(1, link(1));
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Fault, "init>fault(link_down) vips-"));
    rig.run(SECOND * 60);
    assert_eq!(rig.role(), Role::Fault);
    rig.link(0, link(0));
    assert_eq!(rig.summary(), "fault>backup(link_up)");
}

/// One dead link retires the whole group; the goodbye goes out where it still can.
#[test]
fn one_dead_link_is_the_fault_of_all() {
    let mut rig = Rig::master(config(100));
    rig.link(0, LinkState { up: false, ..link(0) });
    assert_eq!(rig.summary(), "master>fault(link_down) closed adv1=255/255 adv1=255/255 vips-");
    assert_eq!(rig.stats().faults, [Some(Fault::LinkDown), None]);
    rig.hear(WAN, 255, 255);
    rig.run(SECOND * 60);
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Fault, ""));
    rig.link(0, link(0));
    assert_eq!((rig.role(), rig.cause()), (Role::Backup, Cause::LinkUp));
    rig.run(ms(3390));
    assert_eq!(rig.role(), Role::Backup, "a whole master-down time from the return of the link");
    rig.run(ms(1));
    assert_eq!(rig.role(), Role::Master);
}

/// A backup goes to fault as well: it must not take over.
#[test]
fn a_backup_with_a_dead_link_does_not_take_over() {
    let mut rig = Rig::backup(config(100));
    rig.link(1, LinkState::default());
    assert_eq!(rig.summary(), "backup>fault(link_down)");
    assert_eq!(rig.election.poll_at(), None);
}

/// The address that adverts are sent from is needed, per family in use: by the virtual addresses with multicast, by
/// the peers with unicast.
#[test]
fn a_missing_source_address_is_a_fault() {
    let v4 = LinkState { up: true, source_v4: Some(OWN[0].into()), source_v6: None };
    let v6 = LinkState { up: true, source_v4: None, source_v6: Some("fe80::1".parse().unwrap()) };
    let both = LinkState { source_v6: v6.source_v6, ..v4 };
    let vip4 = IpAddr::from([192, 168, 103, 210]);
    let vip6: IpAddr = "2001:db8::1".parse().unwrap();
    let unicast = |peer: &str| Transport::Unicast(vec![peer.parse().unwrap()]);
    let cases = [
        (vec![vip4], None, v6, Some(Fault::NoSourceV4)),
        (vec![vip4], None, v4, None),
        (vec![vip6], None, v4, Some(Fault::NoSourceV6)),
        (vec![vip6], None, v6, None),
        (vec![vip4, vip6], None, v4, Some(Fault::NoSourceV6)),
        (vec![vip4, vip6], None, both, None),
        (vec![vip6], Some(unicast("10.0.0.1")), v4, None),
        (vec![vip4], Some(unicast("fe80::2")), v4, Some(Fault::NoSourceV6)),
    ];
    for (addresses, transport, state, expected) in cases {
        let mut config = config(100);
        config.members.truncate(1);
        config.members[0].addresses = addresses;
        config.members[0].transport = transport.unwrap_or(config.members[0].transport.clone());
        let mut rig = Rig::new(config);
        rig.link(0, state);
        assert_eq!(rig.stats().faults, [expected]);
        assert_eq!(rig.role(), if expected.is_some() { Role::Fault } else { Role::Backup });
    }
}

/// The word about an interface of no member changes nothing, and so does the same word again.
#[test]
fn irrelevant_links() {
    let mut rig = Rig::master(config(100));
    rig.link(7, LinkState::default());
    rig.link(0, link(0));
    assert_eq!((rig.role(), rig.summary().as_str()), (Role::Master, ""));
}
