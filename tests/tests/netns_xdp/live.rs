//! Programs attached to veth in network namespaces: adverts arrive, counters rise, and nothing stays behind.

use crate::corpus;
use ha_common::election::{InterfaceId, MemberId, ReceivedAdvert};
use ha_common::reason::DropReason;
use ha_common::role::NodeId;
use ha_tests::netns::{Netns, cable, wait_until};
use ha_user::clock;
use ha_user::config::XdpChoice;
use ha_user::datapath::{Attachment, Datapath, InterfacePlan, Path, Plan, SyncPlan};
use ha_user::packet_socket::FrameSender;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

const LAN: InterfaceId = InterfaceId(0);
const PATIENCE: Duration = Duration::from_secs(30);
/// Set in the process that the kill test starts: attach and wait to be killed.
const HOLD_VARIABLE: &str = "TWINWALL_TEST_HOLD_XDP";

/// Two namespaces and a cable: what goes in at `s0` comes out at the node's `lan0`.
struct Wire {
    node: Netns,
    sender: Netns,
}

impl Wire {
    fn new() -> Self {
        let node = Netns::new("node").expect("this test needs root");
        let sender = Netns::new("sender").expect("this test needs root");
        cable((&node, "lan0"), (&sender, "s0")).unwrap();
        Self { node, sender }
    }

    fn send(&self, frame: &[u8]) {
        let sent = self.sender.enter(|| {
            let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            FrameSender::open()?.send(name_to_index(any, "s0")?, frame)
        });
        sent.unwrap().unwrap();
    }

    /// What `ip link` shows of the node's interface: `xdp` or `xdpgeneric` when a program is attached.
    fn shown(&self) -> String {
        self.node.run("ip", &["link", "show", "dev", "lan0"]).unwrap()
    }
}

fn plan(choice: XdpChoice) -> Plan {
    let (sync_address, peer) = corpus::sync_addresses(false);
    let members = vec![(MemberId(0), corpus::VHID)];
    Plan {
        interfaces: vec![InterfacePlan { name: "lan0".to_owned(), id: LAN, members, link: Some(0), path: None }],
        sync: SyncPlan::of_one_link(
            NodeId(corpus::NODE),
            corpus::SYNC_PORT,
            sync_address,
            vec![(NodeId(corpus::PEER_NODE), peer)],
        ),
        keys: vec![corpus::KEY],
        heartbeat: None,
        vips: Vec::new(),
        choice,
        pin_directory: None,
    }
}

/// Waits at the ring's descriptor for the next advert.
fn next_advert(datapath: &mut Datapath) -> Option<ReceivedAdvert> {
    if let Some(advert) = datapath.next_advert() {
        return Some(advert);
    }
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    poll(&mut [PollFd::new(&datapath.ring_fd()?, PollFlags::IN)], Some(&limit)).ok()?;
    datapath.next_advert()
}

/// Sends an advert, a forgery and a sync frame, and checks what arrives and what is counted.
fn exchange(wire: &Wire, datapath: &mut Datapath) {
    let before = clock::now();
    wire.send(&corpus::advert_frame());
    let advert = next_advert(datapath).expect("the advert arrives through the ring");
    assert_eq!((advert.member, advert.advert.vhid), (MemberId(0), corpus::VHID));
    assert_eq!(advert.source, IpAddr::from([10, 77, 0, 209]));
    assert!(before <= advert.received && advert.received <= clock::now(), "{:?}", advert.received);
    let mut forged = corpus::advert_frame();
    forged[22] = 254;
    wire.send(&forged);
    wire.send(&corpus::sync_frame(1, 64));
    let counters = datapath.counters();
    wait_until("three frames counted", PATIENCE, || counters.snapshot().interfaces[0].frames == 1).unwrap();
    let snapshot = counters.snapshot();
    let interface = &snapshot.interfaces[0];
    assert_eq!(interface.path, Path::Xdp);
    assert!(interface.packets >= 3);
    // The IP checksum is judged first.
    assert_eq!((interface.adverts, interface.refused[DropReason::IpChecksum as usize]), (1, 1));
    assert_eq!(snapshot.peers[1].stream.frames, 1);
    assert!(datapath.next_advert().is_none());
}

/// Native on veth: an advert arrives through the ring with the time when the kernel saw it, and every packet is counted.
#[test]
fn netns_native_delivers_and_counts() {
    let wire = Wire::new();
    let shown = wire.node.enter(|| {
        let mut datapath = Datapath::start(&plan(XdpChoice::Auto));
        assert_eq!(datapath.attachment(LAN), Some(&Attachment::Native));
        exchange(&wire, &mut datapath);
        wire.shown()
    });
    assert!(shown.unwrap().contains("prog/xdp"));
    assert!(!wire.shown().contains("prog/xdp"));
}

/// Where generic mode is chosen the same happens, and the attachment says that it was chosen.
#[test]
fn netns_generic_delivers_and_counts() {
    let wire = Wire::new();
    let work = wire.node.enter(|| {
        let mut datapath = Datapath::start(&plan(XdpChoice::Generic));
        assert_eq!(datapath.attachment(LAN).map(Attachment::name), Some("generic"));
        assert!(wire.shown().contains("xdpgeneric"));
        exchange(&wire, &mut datapath);
    });
    work.unwrap();
}

/// A driver that refuses native mode (an MTU beyond what veth's can do) gets the generic one, with the driver's reason.
#[test]
fn netns_native_refusal_falls_back_to_generic() {
    let wire = Wire::new();
    wire.node.ip("link set lan0 mtu 9000").unwrap();
    wire.sender.ip("link set s0 mtu 9000").unwrap();
    let attachment = wire.node.enter(|| Datapath::start(&plan(XdpChoice::Auto)).attachment(LAN).cloned());
    let attachment = attachment.unwrap().unwrap();
    assert_eq!(attachment.name(), "generic", "{attachment:?}");
    assert!(attachment.note().unwrap().contains("native"), "{attachment:?}");
    let only_native = wire.node.enter(|| Datapath::start(&plan(XdpChoice::Native)).attachment(LAN).cloned());
    assert_eq!(only_native.unwrap().unwrap().name(), "socket");
}

/// An interface that is missing at start is left to the sockets, and attached when it appears and when it is re-created.
#[test]
fn netns_late_and_recreated_interfaces_are_attached() {
    let node = Netns::new("node").expect("this test needs root");
    let sender = Netns::new("sender").unwrap();
    let work = node.enter(|| {
        let mut datapath = Datapath::start(&plan(XdpChoice::Auto));
        let Some(Attachment::Socket { reason }) = datapath.attachment(LAN) else { panic!("attached to nothing") };
        assert!(reason.contains("lan0 does not exist"), "{reason}");
        cable((&node, "lan0"), (&sender, "s0")).unwrap();
        assert_eq!(datapath.attach(LAN), Some(&Attachment::Native));
        node.ip("link del lan0").unwrap();
        assert_eq!(datapath.attach(LAN).map(Attachment::name), Some("socket"));
        cable((&node, "lan0"), (&sender, "s0")).unwrap();
        assert_eq!(datapath.attach(LAN), Some(&Attachment::Native));
        datapath
    });
    let mut datapath = work.unwrap();
    exchange(&Wire { node, sender }, &mut datapath);
}

/// A daemon killed by SIGKILL leaves no program on the interface: a child attaches, is killed, and `ip link` shows nothing.
#[test]
fn netns_killed_process_leaves_nothing_attached() {
    if std::env::var_os(HOLD_VARIABLE).is_some() {
        let _datapath = Datapath::start(&plan(XdpChoice::Auto));
        // Longer than the parent waits before it kills this process.
        std::thread::sleep(4 * PATIENCE);
        return;
    }
    let wire = Wire::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "live::netns_killed_process_leaves_nothing_attached"]).env(HOLD_VARIABLE, "1");
    command.stdout(Stdio::null());
    let mut child = wire.node.spawn(command).unwrap();
    wait_until("the program is attached", PATIENCE, || wire.shown().contains("prog/xdp")).unwrap();
    child.kill();
    wait_until("the program is gone", PATIENCE, || !wire.shown().contains("prog/xdp")).unwrap();
}
