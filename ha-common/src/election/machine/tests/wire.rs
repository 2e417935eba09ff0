//! What is sent: when, from where, to where, with which counter and digest.

use super::*;

/// The adverts of one input or run: member, source, destination, counter.
fn sent(rig: &Rig) -> Vec<(u8, IpAddr, IpAddr, Advert)> {
    let sent = rig.actions.iter().filter_map(|action| match action {
        Action::SendAdvert { member, source, destination, advert } => Some((member.0, *source, *destination, *advert)),
        Action::Vips(_)
        | Action::Announce { .. }
        | Action::Transition(_)
        | Action::Lease(_)
        | Action::HandOverEnded(_) => None,
    });
    sent.collect()
}

/// A master advertises on each member at its interval, 1.39 s at skew 100, without drift even if served late.
#[test]
fn adverts_keep_their_interval() {
    let mut rig = Rig::backup(config(100));
    rig.run(Duration::from_nanos(3_390_625_000));
    assert_eq!(sent(&rig).len(), 2);
    let start = rig.now;
    rig.run(Duration::from_nanos(1_390_625_000 * 100));
    assert_eq!((rig.count("adv0"), rig.count("adv1")), (100, 100));
    rig.now = rig.now + Duration::from_nanos(1_390_625_000) + ms(7);
    rig.input(Input::Timer);
    assert_eq!(rig.election.poll_at(), Some(start + Duration::from_nanos(1_390_625_000 * 102)));
}

/// After a pause of the whole process one advert is sent, not those that were missed.
#[test]
fn missed_adverts_are_not_sent_later() {
    let mut rig = Rig::master(Config { announce_refresh: None, ..config(0) });
    rig.now = rig.now + SECOND * 60;
    rig.input(Input::Timer);
    assert_eq!(rig.count("adv0"), 1);
    assert!(rig.election.poll_at().unwrap() > rig.now);
}

/// The frame's values: own address, group, own VHID, configured interval, byte 4 zero, a digest that verifies.
#[test]
fn the_advert_itself() {
    let mut rig = Rig::master(config(100));
    rig.run(SECOND * 2);
    let (_, source, destination, advert) = sent(&rig)[0];
    assert_eq!((source, destination), (OWN[0].into(), GROUP));
    let auth = Authenticator::new(3, &[IpAddr::from([192, 168, 103, 250])], b"toto");
    let expected = Advert {
        vhid: 3,
        advskew: 100,
        advbase: 1,
        demotion: 0,
        counter: advert.counter,
        digest: auth.digest(advert.counter),
    };
    assert_eq!(advert, expected);
}

/// Addresses of both families: one advert by each, with one counter.
#[test]
fn both_families() {
    let mut config = config(100);
    config.members.truncate(1);
    config.members[0].addresses.push("2001:db8::1".parse().unwrap());
    let mut rig = Rig::new(config);
    let v6: IpAddr = "fe80::1".parse().unwrap();
    rig.link(0, LinkState { source_v6: Some("fe80::1".parse().unwrap()), ..link(0) });
    rig.run(SECOND * 4);
    let adverts = sent(&rig);
    assert_eq!(adverts.len(), 2);
    assert_eq!((adverts[0].1, adverts[0].2), (OWN[0].into(), GROUP));
    assert_eq!((adverts[1].1, adverts[1].2), (v6, "ff02::12".parse::<IpAddr>().unwrap()));
    assert_eq!(adverts[0].3, adverts[1].3);
    assert_eq!(rig.stats().adverts_sent, 2);
}

/// IPv6 addresses alone: nothing is sent by IPv4, although the interface has an address.
#[test]
fn ipv6_alone() {
    let mut config = config(100);
    config.members.truncate(1);
    config.members[0].addresses = vec!["2001:db8::1".parse().unwrap()];
    let mut rig = Rig::new(config);
    rig.link(0, LinkState { source_v6: Some("fe80::1".parse().unwrap()), ..link(0) });
    rig.run(SECOND * 4);
    assert!(sent(&rig).iter().all(|advert| advert.1.is_ipv6()));
    assert_eq!(sent(&rig).len(), 1);
}

/// Unicast: one advert to each peer, by its family.
#[test]
fn unicast_to_each_peer() {
    let mut config = config(100);
    config.members.truncate(1);
    let peers: Vec<IpAddr> = ["10.0.0.1", "10.0.0.2", "fe80::2"].map(|peer| peer.parse().unwrap()).to_vec();
    config.members[0].transport = Transport::Unicast(peers.clone());
    let mut rig = Rig::new(config);
    rig.link(0, LinkState { source_v6: Some("fe80::1".parse().unwrap()), ..link(0) });
    rig.run(SECOND * 4);
    assert_eq!(sent(&rig).iter().map(|advert| advert.2).collect::<Vec<_>>(), peers);
}

/// A takeover after hearing the master continues its counter, as in the capture of a hard kill: …4f8d, …4f8e.
#[test]
fn a_takeover_continues_the_counter() {
    let mut rig = Rig::backup(config(100));
    rig.hear(LAN, 1, 0);
    let (lan, wan) = (rig.counter, rig.counter + 1);
    rig.hear(WAN, 1, 0);
    rig.run(SECOND * 4);
    let counters: Vec<_> = sent(&rig).iter().map(|advert| (advert.0, advert.3.counter)).collect();
    assert_eq!(counters, [(0, lan + 1), (1, wan + 1)]);
}

/// The goodbye is said twice, and the second does not repeat the counter of the first: it would be refused.
#[test]
fn goodbyes_have_counters_of_their_own() {
    let mut rig = Rig::master(config(100));
    rig.input(Input::Command(Command::Stop));
    let lan: Vec<_> = sent(&rig).into_iter().filter(|advert| advert.0 == 0).collect();
    assert_eq!(lan.len(), 2);
    assert_ne!(lan[0].3.counter, lan[1].3.counter);
    assert!(lan.iter().all(|advert| (advert.3.advbase, advert.3.advskew) == (255, 255)));
}

/// The announcements of a takeover follow the configured burst, then the refresh.
#[test]
fn announcements() {
    let mut rig = Rig::backup(config(0));
    rig.run(SECOND * 3);
    assert_eq!((rig.count("announce0"), rig.count("announce1")), (1, 1));
    rig.run(ms(2000));
    assert_eq!((rig.count("announce0"), rig.count("announce1")), (3, 3));
    rig.run(SECOND * 57);
    assert_eq!(rig.count("announce0"), 0);
    rig.run(SECOND);
    assert_eq!((rig.count("announce0"), rig.count("announce1")), (1, 1));
}

/// A backup is silent on the wire.
#[test]
fn a_backup_sends_nothing() {
    let mut rig = Rig::backup(config(200));
    rig.run_hearing(SECOND * 300, &[LAN, WAN], 1, 0);
    assert_eq!(rig.summary(), "");
}

/// Passwords do not reach a log by way of the configuration.
#[test]
fn debug_output_has_no_password() {
    let text = format!("{:?}", config(0));
    assert!(text.contains("vhid: 3") && !text.contains("116, 111, 116, 111") && !text.contains("toto"));
}
