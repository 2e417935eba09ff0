//! On loopback, where the kernel joins and cuts datagrams as it does on a link.

use super::*;
use std::net::UdpSocket;

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const FIRST: LinkId = LinkId(0);
const EVERYWHERE: LinkSet = LinkSet(0xff);
const LO: Presence = Presence { index: 1, mtu: 65_536 };

fn settings(interfaces: &[&str], local: IpAddr, port: u16) -> Settings {
    let link = |name: &&str| LinkSettings { interface: (*name).to_owned(), local, peers: vec![LOOPBACK] };
    let links = interfaces.iter().map(link).collect();
    Settings { links, port, group: None, receive_buffer: 1 << 20, send_buffer: 1 << 20 }
}

fn outgoing(bytes: Vec<u8>) -> Outgoing {
    Outgoing { peer: 0, links: EVERYWHERE, bytes }
}

/// A free port of this moment.
fn free_port() -> u16 {
    UdpSocket::bind((LOOPBACK, 0)).unwrap().local_addr().unwrap().port()
}

/// Reads until `count` datagrams have come, or nothing comes for a while.
fn read(sockets: &mut PeerSockets, count: usize) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    for _ in 0..200 {
        sockets.read(|_, bytes| received.push(bytes.to_vec()));
        if received.len() >= count {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    received
}

/// The socket sends to its own address and is its own peer: three hundred datagrams of one size and a shorter one between
/// arrive apart, in order and whole, though few calls have sent them; and what comes from another port is a stranger's.
#[test]
fn datagrams_are_joined_and_cut_apart() {
    let mut sockets = PeerSockets::new(settings(&["lo"], LOOPBACK, free_port()));
    let port = sockets.settings.port;
    assert!(sockets.attach(FIRST, Some(LO)).unwrap());
    assert!(!sockets.attach(FIRST, Some(LO)).unwrap());
    let datagrams: Vec<_> =
        (0..300u16).map(|n| outgoing(n.to_be_bytes().repeat(if n == 100 { 50 } else { 600 }))).collect();
    sockets.send(&datagrams);
    let received = read(&mut sockets, 300);
    assert_eq!(received, datagrams.iter().map(|datagram| datagram.bytes.clone()).collect::<Vec<_>>());
    let stats = sockets.stats().links[0];
    assert_eq!((stats.sent, stats.received), (300, 300));
    assert!(stats.send_calls < 20, "{} calls", stats.send_calls);
    UdpSocket::bind((LOOPBACK, 0)).unwrap().send_to(b"forged", (LOOPBACK, port)).unwrap();
    assert!(read(&mut sockets, 1).is_empty());
    assert_eq!(sockets.stats().strangers, 1);
    assert!(sockets.stats().errors.is_empty());
}

/// A missing interface and a missing address are errors that name it, and sending meanwhile is counted.
#[test]
fn missing_interface_or_address_is_no_end() {
    let mut sockets = PeerSockets::new(settings(&["tw-none"], LOOPBACK, free_port()));
    assert!(sockets.attach(FIRST, None).unwrap_err().to_string().contains("tw-none"));
    assert_eq!(sockets.fds().count(), 0);
    sockets.send(&[outgoing(vec![1]), outgoing(vec![2, 3])]);
    assert_eq!(sockets.stats().errors.values().sum::<u64>(), 2);
    let mut sockets = PeerSockets::new(settings(&["lo"], "192.0.2.1".parse().unwrap(), 3780));
    let error = sockets.attach(FIRST, Some(LO)).unwrap_err();
    assert!(error.to_string().contains("192.0.2.1:3780"), "{error}");
}

/// A datagram for a peer that does not exist is refused, not sent elsewhere, and the next one is sent; one that is for
/// another link is not sent here.
#[test]
fn unknown_peers_and_other_links_are_skipped() {
    let mut sockets = PeerSockets::new(settings(&["lo"], LOOPBACK, free_port()));
    sockets.attach(FIRST, Some(LO)).unwrap();
    let elsewhere = Outgoing { links: LinkSet(0b10), ..outgoing(vec![9]) };
    sockets.send(&[Outgoing { peer: 7, ..outgoing(vec![1]) }, elsewhere, outgoing(vec![2])]);
    assert_eq!(read(&mut sockets, 1), [vec![2]]);
    assert_eq!(sockets.stats().errors, BTreeMap::from([(libc::EDESTADDRREQ, 1)]));
}

/// Datagrams are joined as long as peer, size and link are the same; a shorter one ends the run and belongs to it.
#[test]
fn runs_end_where_they_must() {
    let sized = |size: usize| outgoing(vec![0; size]);
    let other = Outgoing { peer: 1, ..sized(9) };
    let lengths = [
        vec![sized(9), sized(9), sized(9)],
        vec![sized(9), sized(4), sized(9)],
        vec![sized(4), sized(9)],
        vec![sized(9), other],
        vec![sized(40_000), sized(40_000)],
        vec![sized(0), sized(0), sized(0), sized(0), sized(0)],
    ];
    assert_eq!(lengths.map(|datagrams| run_length(&datagrams, FIRST, 4)), [3, 2, 1, 1, 1, 4]);
    assert_eq!(run_length(&[sized(9), sized(9)], FIRST, 1), 1);
}

/// The payload limit is that of the smallest MTU of the links that exist, within bounds, and assumes Ethernet where there
/// is none.
#[test]
fn payload_follows_the_mtu() {
    let mut sockets = PeerSockets::new(settings(&["lo", "lo"], LOOPBACK, free_port()));
    assert_eq!(sockets.datagram_bytes_max(), 1472);
    let mut see = |link: u8, mtu| {
        let _ = sockets.attach(LinkId(link), Some(Presence { index: 1, mtu }));
        sockets.datagram_bytes_max()
    };
    assert_eq!(see(0, 65_536), DATAGRAM_BYTES_MAX);
    assert_eq!(see(1, 1500), 1472);
    assert_eq!(see(1, 1400), 1372);
    assert_eq!(see(1, 100), DATAGRAM_BYTES_MIN);
    let v6 = PeerSockets::new(settings(&["tw-none"], "2001:db8::1".parse().unwrap(), 1));
    assert_eq!(v6.datagram_bytes_max(), 1452);
}
