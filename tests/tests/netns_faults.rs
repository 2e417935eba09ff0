//! The lab's faults do what they say, and nothing else: shown between two firewalls without any daemon.

use ha_tests::bpffs::{self, Pins};
use ha_tests::packet;
use ha_tests::topology::{CLIENT, Naming, Node, Pair, Port, SERVER};
use ha_tests::traffic::icmp::{self, ECHO_REQUEST, Echo};
use ha_tests::xdp_verdict::{self, Verdict};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Hardware addresses are known, so that one way of a path can be asked alone: ARP would need both.
fn introduce(pair: &Pair) {
    for node in Node::BOTH {
        let peer = node.peer();
        for (port, address) in [(Port::Lan, peer.lan()), (Port::Wan, peer.wan()), (Port::Sync, peer.sync())] {
            let mac = peer.mac(port).map(|byte| format!("{byte:02x}")).join(":");
            pair[node].ip(&format!("neigh replace {address} lladdr {mac} dev {}", port.interface())).unwrap();
        }
    }
}

/// How many of `count` echo requests arrive at the other firewall by this path.
fn arriving(pair: &Pair, from: Node, path: Port, count: u16) -> usize {
    let to = match path {
        Port::Lan => from.peer().lan(),
        Port::Wan => from.peer().wan(),
        Port::Sync => from.peer().sync(),
    };
    let mut receiver = pair[from.peer()].enter(icmp::socket).unwrap().unwrap();
    let sender = pair[from].enter(icmp::socket).unwrap().unwrap();
    for sequence in 0..count {
        let echo = Echo { kind: ECHO_REQUEST, identifier: 0x7e57, sequence, payload: b"" };
        sender.send_to(&echo.bytes(), &SocketAddr::from((to, 0)).into()).unwrap();
    }
    let deadline = Instant::now() + Duration::from_millis(100);
    let (mut arrived, mut buffer) = (0, [0; 256]);
    while arrived < usize::from(count) && Instant::now() < deadline {
        let Ok(length) = receiver.read(&mut buffer) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let echo = Echo::from_packet(&buffer[..length]);
        arrived += usize::from(echo.is_some_and(|echo| echo.kind == ECHO_REQUEST && echo.identifier == 0x7e57));
    }
    arrived
}

fn pings(pair: &Pair, from: Node, to: Ipv4Addr) -> bool {
    pair[from].run("ping", &["-c1", "-W1", &to.to_string()]).is_ok()
}

/// Every port of the switch that leads to a firewall has the program that XDP_TX needs, also after the firewall's
/// interface was deleted and made anew, which then has its addresses again.
#[test]
fn netns_switch_ports_let_frames_of_xdp_through() {
    let pair = Pair::new(Naming::OfProcess).unwrap();
    introduce(&pair);
    let has_program = |port: Port| {
        let shown = pair.switch.run("ip", &["link", "show", &port.at_switch(Node::Fw1)]).unwrap();
        shown.contains("xdp") && !shown.contains("xdpgeneric")
    };
    for port in Port::ALL {
        assert!(has_program(port));
        pair.delete_interface(Node::Fw1, port).unwrap();
        pair.recreate_interface(Node::Fw1, port).unwrap();
        assert!(has_program(port));
        introduce(&pair);
        assert_eq!(arriving(&pair, Node::Fw1, port, 1), 1);
        assert_eq!(arriving(&pair, Node::Fw2, port, 1), 1);
    }
}

/// A frame that one firewall's program sends back in the driver's path (XDP_TX) arrives at the other firewall, on every
/// path: shown by a program that sends everything back, and a broadcast frame that its sender hears again.
#[test]
fn netns_frames_sent_back_by_xdp_arrive() {
    const ETHERTYPE: u16 = 0x88b5;
    let pair = Pair::new(Naming::OfProcess).unwrap();
    for port in Port::ALL {
        let open = || packet::open(port.interface(), ETHERTYPE);
        let mut socket = pair[Node::Fw2].enter(open).unwrap().unwrap();
        let mut frame = [0xff; 60];
        frame[6..12].copy_from_slice(&Node::Fw2.mac(port));
        frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        let mut comes_back = || {
            socket.send(&frame).unwrap();
            let mut buffer = [0; 128];
            let deadline = Instant::now() + Duration::from_millis(100);
            while Instant::now() < deadline {
                if let Ok(length) = socket.read(&mut buffer) {
                    return buffer[..length] == frame;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            false
        };
        assert!(!comes_back(), "{port:?}");
        xdp_verdict::attach(&pair[Node::Fw1], port.interface(), Verdict::Bounce).unwrap();
        assert!(comes_back(), "{port:?}");
    }
}

/// A cut takes one direction of one path and nothing else: the five other ways between the firewalls carry frames,
/// and both firewalls reach the hosts. A partition takes all six.
#[test]
fn netns_a_cut_takes_one_way_of_one_path() {
    let pair = Pair::new(Naming::OfProcess).unwrap();
    introduce(&pair);
    pair.server.sysctl("net.ipv4.icmp_echo_ignore_all", "0").unwrap();
    let ways = || Node::BOTH.into_iter().flat_map(|from| Port::ALL.map(|path| (from, path)));
    for (from, path) in ways() {
        pair.cut(from, path).unwrap();
        for (node, port) in ways() {
            let expected = usize::from((node, port) != (from, path));
            assert_eq!(arriving(&pair, node, port, 1), expected, "{from:?} {path:?} cut: {node:?} {port:?}");
        }
        assert!(pings(&pair, from, CLIENT) && pings(&pair, from.peer(), SERVER));
        pair.heal(from, path).unwrap();
    }
    pair.partition().unwrap();
    assert!(ways().all(|(node, port)| arriving(&pair, node, port, 1) == 0));
    assert!(pings(&pair, Node::Fw1, CLIENT) && pings(&pair, Node::Fw2, SERVER));
    pair.heal_all().unwrap();
    assert!(ways().all(|(node, port)| arriving(&pair, node, port, 1) == 1));
}

/// Loss takes about its share of one way; a silenced host is heard nowhere but still hears; both end as they should.
#[test]
fn netns_loss_and_silence_have_an_end() {
    let pair = Pair::new(Naming::OfProcess).unwrap();
    introduce(&pair);
    pair.lose(Node::Fw1, Port::Sync, 50).unwrap();
    // 50 of 100 with a standard deviation of 5: outside of this range once in a million runs.
    let through = arriving(&pair, Node::Fw1, Port::Sync, 100);
    assert!((25..=75).contains(&through), "{through} of 100");
    assert_eq!(arriving(&pair, Node::Fw2, Port::Sync, 100), 100);
    pair.lose(Node::Fw1, Port::Sync, 0).unwrap();
    assert_eq!(arriving(&pair, Node::Fw1, Port::Sync, 100), 100);

    pair.silence(Node::Fw1).unwrap();
    for port in Port::ALL {
        assert_eq!((arriving(&pair, Node::Fw1, port, 1), arriving(&pair, Node::Fw2, port, 1)), (0, 1), "{port:?}");
    }
    pair.unsilence(Node::Fw1).unwrap();
    assert!(Port::ALL.into_iter().all(|port| arriving(&pair, Node::Fw1, port, 1) == 1));
}

/// A lab's directory of pins is there while the lab is, and gone with it.
#[test]
fn netns_pins_go_with_their_lab() {
    let dir = tempfile::tempdir().unwrap();
    let path = bpffs::directory(dir.path());
    let pins = Pins::of(dir.path()).unwrap();
    let node = path.join(Node::Fw1.name());
    std::fs::create_dir(&node).unwrap();
    pins.forget(Node::Fw1);
    assert!(path.exists() && !node.exists());
    drop(pins);
    assert!(!path.exists());
}
