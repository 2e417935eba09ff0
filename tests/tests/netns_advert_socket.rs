//! Adverts through real sockets and a real cable.

mod support;

use anyhow::Result;
use ha_common::election::{InterfaceId, Transport};
use ha_common::reason::DropReason;
use ha_common::wire::advert::{self, Frame, Verdict};
use ha_common::wire::carp::Advert;
use ha_tests::netns::{Netns, cable, wait_until};
use ha_user::advert_socket::{AdvertSockets, Heard};
use ha_user::config::Resolved;
use ha_user::packet_socket::{FrameReceiver, FrameSender};
use socket2::SockFilter;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use support::{resolved, vip};

const LAN: InterfaceId = InterfaceId(0);
const LIMIT: Duration = Duration::from_secs(2);
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The advert of `carp-wire` section 14, vector 1.
const ADVERT: Advert = Advert {
    vhid: 3,
    advskew: 0,
    advbase: 1,
    demotion: 0,
    counter: 0x93b8_bb42_2c8f_c007,
    digest: [
        0xa2, 0xc6, 0x83, 0x36, 0x63, 0x95, 0xa8, 0x24, 0xfa, 0x2c, 0x21, 0xd7, 0x17, 0xf4, 0x23, 0xec, 0x4e, 0xa9,
        0xc0, 0x5c,
    ],
};

/// `near` and `far` joined by a cable, the interface named `lan` in both.
fn pair() -> Result<(Netns, Netns)> {
    let (near, far) = (Netns::new("near")?, Netns::new("far")?);
    cable((&near, "lan"), (&far, "lan"))?;
    near.ip("link set lan address 02:00:00:00:00:01\naddress add 10.77.1.1/24 dev lan\n\
             address add fd00:1::1/64 dev lan nodad")?;
    far.ip("link set lan address 02:00:00:00:00:02\naddress add 10.77.1.2/24 dev lan\n\
            address add fd00:1::2/64 dev lan nodad")?;
    Ok((near, far))
}

fn config(transport: Option<Transport>) -> Resolved {
    let mut vip = vip(3, 0, "lan", &["10.77.1.210/24"], None);
    if let Some(transport) = transport {
        vip.transport = transport;
    }
    resolved(0, &["lan"], vec![vip])
}

fn ifindex(namespace: &Netns) -> Result<u32> {
    let shown = namespace.run("ip", &["-o", "link", "show", "dev", "lan"])?;
    Ok(shown.split(':').next().unwrap_or_default().trim().parse()?)
}

/// Sockets on `lan` of a namespace; the thread that opens them is in it.
fn sockets(namespace: &Netns, mac: [u8; 6], listen: bool, transport: Option<Transport>) -> Result<AdvertSockets> {
    let index = ifindex(namespace)?;
    namespace.enter(|| -> Result<AdvertSockets> {
        let mut sockets = AdvertSockets::open(&config(transport))?;
        let errors = sockets.set_interface(LAN, Some((index, mac)), listen);
        anyhow::ensure!(errors.is_empty(), "{errors:?}");
        Ok(sockets)
    })?
}

fn heard(sockets: &mut AdvertSockets) -> Result<Heard> {
    let mut found = None;
    wait_until("a frame of protocol 112 is heard", LIMIT, || {
        found = sockets.receive(LAN);
        found.is_some()
    })?;
    Ok(found.expect("the wait ended with it"))
}

/// A multicast advert arrives at the other end of the cable as exactly the frame of `carp-wire` section 1, with the
/// NIC's own MAC; and the kernel is a member of both groups on the interface.
#[test]
fn netns_multicast_frame_and_membership() -> Result<()> {
    let (near, far) = pair()?;
    let accept_all = [SockFilter::new(6, 0, 0, 0x4_0000)];
    let far_index = ifindex(&far)?;
    let mut capture = far.enter(|| FrameReceiver::open(far_index, &accept_all))??;
    let sockets = sockets(&near, NEAR_MAC, false, None)?;
    sockets.send(LAN, NEAR.into(), GROUP.into(), &ADVERT)?;
    let mut seen = Vec::new();
    wait_until("the advert arrives", LIMIT, || {
        while let Ok(Some(frame)) = capture.receive() {
            if matches!(advert::parse_frame(frame), Verdict::Advert(_)) {
                seen = frame.to_vec();
            }
        }
        !seen.is_empty()
    })?;
    assert_eq!(seen, Frame::multicast_v4(NEAR_MAC, NEAR, GROUP, 0xa2c6, &ADVERT).as_bytes());
    let groups = near.run("ip", &["maddress", "show", "dev", "lan"])?;
    assert!(groups.contains("inet  224.0.0.18") && groups.contains("inet6 ff02::12"), "{groups}");
    drop(sockets);
    let groups = near.run("ip", &["maddress", "show", "dev", "lan"])?;
    assert!(!groups.contains("224.0.0.18"), "{groups}");
    Ok(())
}

/// The listener hears adverts plain and within VLAN tags, names what is wrong with a bad one, and hears neither its
/// own node's frames nor other traffic.
#[test]
fn netns_listener_hears_and_names() -> Result<()> {
    let (near, far) = pair()?;
    let mut listener = sockets(&far, FAR_MAC, true, None)?;
    let index = ifindex(&near)?;
    let sender = near.enter(FrameSender::open)??;
    let frame = Frame::multicast_v4(NEAR_MAC, NEAR, GROUP, 1, &ADVERT);
    let plain = frame.as_bytes().to_vec();

    // Its own advert and an ordinary datagram first: they would be heard first.
    listener.send(LAN, FAR.into(), GROUP.into(), &ADVERT)?;
    let mut udp = plain.clone();
    udp[23] = 17;
    sender.send(index, &udp)?;

    let good = Heard::Advert { source: NEAR.into(), destination: GROUP.into(), advert: ADVERT };
    sender.send(index, &plain)?;
    assert_eq!(heard(&mut listener)?, good);

    let mut tagged = plain.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
    sender.send(index, &tagged)?;
    assert_eq!(heard(&mut listener)?, good);
    // The kernel takes the outer tag off; of two, the inner one is in the frame that the filter sees.
    tagged.splice(12..12, [0x88, 0xa8, 0x00, 0x65]);
    sender.send(index, &tagged)?;
    assert_eq!(heard(&mut listener)?, good);

    let v6 = Frame::multicast_v6(NEAR_MAC, "fe80::1".parse()?, "ff02::12".parse()?, &ADVERT);
    sender.send(index, v6.as_bytes())?;
    let good_v6 = Heard::Advert { source: "fe80::1".parse()?, destination: "ff02::12".parse()?, advert: ADVERT };
    assert_eq!(heard(&mut listener)?, good_v6);

    let mut flipped = plain;
    flipped[69] ^= 1;
    sender.send(index, &flipped)?;
    assert_eq!(heard(&mut listener)?, Heard::Refused { vhid: Some(3), reason: DropReason::CarpChecksum });
    assert_eq!(listener.receive(LAN), None);
    Ok(())
}

/// Unicast adverts of both families reach the peer with hop limit 255 and the source that was asked for, and the
/// peer's kernel does not answer that it knows no such protocol.
#[test]
fn netns_unicast_adverts() -> Result<()> {
    let (near, far) = pair()?;
    let peers = |addresses: [&str; 2]| Transport::Unicast(addresses.map(|text| text.parse().unwrap()).to_vec());
    let sender = sockets(&near, NEAR_MAC, true, Some(peers(["10.77.1.2", "fd00:1::2"])))?;
    let mut listener = sockets(&far, FAR_MAC, true, Some(peers(["10.77.1.1", "fd00:1::1"])))?;
    for (source, destination) in [("10.77.1.1", "10.77.1.2"), ("fd00:1::1", "fd00:1::2")] {
        let (source, destination): (IpAddr, IpAddr) = (source.parse()?, destination.parse()?);
        sender.send(LAN, source, destination, &ADVERT)?;
        assert_eq!(heard(&mut listener)?, Heard::Advert { source, destination, advert: ADVERT });
    }
    let counters = far.run("nstat", &["-asz", "IcmpOutDestUnreachs", "Icmp6OutParmProblems"])?;
    for line in counters.lines().filter(|line| !line.starts_with('#')) {
        assert_eq!(line.split_whitespace().nth(1), Some("0"), "{counters}");
    }
    Ok(())
}

/// A re-created interface under another index is joined and heard again; meanwhile sending says what is wrong.
#[test]
fn netns_interface_re_created() -> Result<()> {
    let (near, far) = pair()?;
    let mut listener = sockets(&far, FAR_MAC, true, None)?;
    far.ip("link del lan")?;
    assert_eq!(listener.set_interface(LAN, None, true).len(), 0);
    let refused = listener.send(LAN, FAR.into(), GROUP.into(), &ADVERT).unwrap_err();
    assert!(refused.to_string().contains("on lan"), "{refused}");
    cable((&near, "lan"), (&far, "lan"))?;
    near.ip("address add 10.77.1.1/24 dev lan")?;
    let index = ifindex(&far)?;
    let errors = far.enter(|| listener.set_interface(LAN, Some((index, FAR_MAC)), true))?;
    assert!(errors.is_empty(), "{errors:?}");
    let sender = sockets(&near, NEAR_MAC, false, None)?;
    sender.send(LAN, NEAR.into(), GROUP.into(), &ADVERT)?;
    let good = Heard::Advert { source: NEAR.into(), destination: GROUP.into(), advert: ADVERT };
    assert_eq!(heard(&mut listener)?, good);
    Ok(())
}
