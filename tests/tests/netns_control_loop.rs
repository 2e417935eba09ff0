//! The control loop with a real kernel: elections between two loops, addresses, announcements and repairs.

mod support;

use anyhow::{Context, Result, ensure};
use ha_common::role::Role;
use ha_common::wire::advert::{Verdict, parse_frame};
use ha_common::wire::carp::Advert;
use ha_common::wire::{arp, ndisc};
use ha_tests::netns::{Netns, bridge, cable, wait_until};
use ha_user::config::{Resolved, XdpChoice};
use ha_user::control_loop::realtime::Realtime;
use ha_user::control_loop::{ControlError, ControlLoop};
use ha_user::datapath::{Datapath, Plan};
use ha_user::mailbox::{Mailbox, Postman, mailbox};
use ha_user::packet_socket::FrameReceiver;
use ha_user::request::{ControlRequest, SyncRequest};
use ha_user::status::ControlStatus;
use socket2::SockFilter;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::{resolved, vip};
use tokio::sync::oneshot;

const LIMIT: Duration = Duration::from_secs(5);
const LAN_VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 210);
const LAN_VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x210);
const FW1_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A segment `lan` and a segment `wan`, each a bridge in `switch`.
fn switch() -> Result<Netns> {
    let switch = Netns::new("sw")?;
    bridge(&switch, "br-lan")?;
    bridge(&switch, "br-wan")?;
    Ok(switch)
}

/// Cables one interface of a firewall to its bridge and gives it MAC and own addresses.
fn plug(switch: &Netns, firewall: &Netns, segment: &str, number: u8) -> Result<()> {
    let port = format!("{segment}{number}");
    cable((firewall, segment), (switch, &port))?;
    switch.ip(&format!("link set {port} master br-{segment}"))?;
    let (net, mac) = if segment == "lan" { (1, number) } else { (2, 0x10 + number) };
    firewall.ip(&format!(
        "link set {segment} address 02:00:00:00:00:{mac:02x}\naddress add 10.77.{net}.{number}/24 dev {segment}"
    ))
}

fn firewall(switch: &Netns, number: u8) -> Result<Netns> {
    let firewall = Netns::new(&format!("fw{number}"))?;
    plug(switch, &firewall, "lan", number)?;
    plug(switch, &firewall, "wan", number)?;
    Ok(firewall)
}

/// The pair's configuration with adverts every 20/256 and 60/256 s instead of every second.
fn config(node: u8) -> Resolved {
    let vips = vec![
        vip(3, 0, "lan", &[&format!("{LAN_VIP}/24"), &format!("{LAN_VIP6}/64")], None),
        vip(4, 1, "wan", &["10.77.2.139/24"], Some("10.77.2.254")),
    ];
    let mut config = resolved(node, &["lan", "wan"], vips);
    config.election.advbase = 0;
    config.nodes[0].advskew = 20;
    config.nodes[1].advskew = 60;
    config
}

/// A running loop; dropping it stops it.
struct Node {
    control: Postman<ControlRequest>,
    roles: Mailbox<SyncRequest>,
    thread: Option<JoinHandle<Result<(), ControlError>>>,
}

impl Node {
    fn start(firewall: &Netns, config: Resolved) -> Result<Self> {
        let (control, requests) = mailbox(16)?;
        let (sync, roles) = mailbox(16)?;
        let name = firewall.name().to_owned();
        let thread = std::thread::spawn(move || {
            let namespace = std::fs::File::open(format!("/run/netns/{name}")).expect("the namespace exists");
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .expect("root may enter it");
            let datapath = Datapath::start(&Plan::from_config(&config));
            ControlLoop::new(Arc::new(config), datapath, sync, false)?.realtime(Realtime::Skip).run(requests)
        });
        Ok(Self { control, roles, thread: Some(thread) })
    }

    fn status(&self) -> Result<ControlStatus> {
        let (reply, answer) = oneshot::channel();
        self.control.post(ControlRequest::Status(reply))?;
        answer.blocking_recv().context("the loop ended")
    }

    fn wait_for(&self, role: Role) -> Result<ControlStatus> {
        wait_until(&format!("the role becomes {role}"), LIMIT, || {
            self.status().is_ok_and(|status| status.role == role.name())
        })?;
        self.status()
    }

    fn stop(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let _ = self.control.post(ControlRequest::Stop { keep_role: false });
        thread.join().map_err(|_| anyhow::anyhow!("the loop panicked"))??;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Hears everything that arrives on a bridge of the switch.
fn capture(switch: &Netns, bridge: &str) -> Result<FrameReceiver> {
    let shown = switch.run("ip", &["-o", "link", "show", "dev", bridge])?;
    let ifindex = shown.split(':').next().unwrap_or_default().trim().parse()?;
    Ok(switch.enter(|| FrameReceiver::open(ifindex, &[SockFilter::new(6, 0, 0, 0x4_0000)]))??)
}

fn drain(capture: &mut FrameReceiver) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = capture.receive() {
        frames.push(frame.to_vec());
    }
    frames
}

fn adverts(frames: &[Vec<u8>]) -> Vec<Advert> {
    let heard = frames.iter().filter_map(|frame| match parse_frame(frame.as_slice()) {
        Verdict::Advert(heard) => Some(heard.advert()),
        Verdict::Other | Verdict::Refused(_) => None,
    });
    heard.collect()
}

fn has_vips(firewall: &Netns) -> Result<bool> {
    let addresses = firewall.run("ip", &["-o", "address", "show"])?;
    let held = ["10.77.1.210/24", "fd00:1::210/64", "10.77.2.139/24"].map(|text| addresses.contains(text));
    let route = firewall.run("ip", &["route", "show", "default"])?.contains("proto 112");
    ensure!(held.iter().all(|held| *held == route), "half a group: {held:?}, route {route}");
    Ok(route)
}

/// A lone node takes the addresses: it announces them in the bytes of `carp-wire` section 9 and sends adverts, and
/// the sync loop learns the roles. A clean stop says goodbye (255/255) and leaves nothing behind.
#[test]
fn netns_lone_node_takes_and_releases() -> Result<()> {
    let switch = switch()?;
    let fw1 = firewall(&switch, 1)?;
    let mut lan = capture(&switch, "br-lan")?;
    let mut node = Node::start(&fw1, config(0))?;
    let status = node.wait_for(Role::Master)?;
    ensure!(has_vips(&fw1)?, "no addresses");
    assert!(status.members.iter().all(|member| member.held), "{status:?}");
    assert!(status.interfaces.iter().take(2).all(|interface| interface.up && interface.datapath == "socket"));
    assert!(status.vip_errors.values().all(|count| *count == 0), "{:?}", status.vip_errors);

    let mut frames = Vec::new();
    let announced = [
        ("ARP request", arp::gratuitous(arp::Form::Request, FW1_MAC, LAN_VIP).to_vec()),
        ("ARP reply", arp::gratuitous(arp::Form::Reply, FW1_MAC, LAN_VIP).to_vec()),
        ("neighbour advertisement", ndisc::unsolicited(FW1_MAC, LAN_VIP6).to_vec()),
    ];
    let heard = |frames: &[Vec<u8>], frame: &[u8]| frames.iter().any(|heard| heard == frame);
    wait_until("adverts and announcements are heard", LIMIT, || {
        frames.extend(drain(&mut lan));
        !adverts(&frames).is_empty() && announced.iter().all(|(_, frame)| heard(&frames, frame))
    })
    .with_context(|| {
        let missing = announced.iter().filter(|(_, frame)| !heard(&frames, frame)).map(|(name, _)| *name);
        format!("missing: {:?}; {} adverts", missing.collect::<Vec<_>>(), adverts(&frames).len())
    })?;

    node.stop()?;
    ensure!(!has_vips(&fw1)?, "addresses stay behind");
    let last = adverts(&drain(&mut lan)).last().copied().context("no goodbye")?;
    assert_eq!((last.vhid, last.advbase, last.advskew), (3, 255, 255));
    let mut roles = Vec::new();
    while let Some(request) = node.roles.next() {
        if let SyncRequest::Role { role, .. } = request {
            roles.push(role);
        }
    }
    assert!(roles.starts_with(&[Role::Backup, Role::Master]), "{roles:?}");
    Ok(())
}

/// Of two nodes one is master, on both segments; it stops and the other has taken over well within one advert
/// interval's dead time; a stranger's frames with a wrong password change nothing but a counter.
#[test]
fn netns_pair_elects_and_hands_over() -> Result<()> {
    let switch = switch()?;
    let (fw1, fw2) = (firewall(&switch, 1)?, firewall(&switch, 2)?);
    let mut first = Node::start(&fw1, config(0))?;
    first.wait_for(Role::Master)?;
    let second = Node::start(&fw2, config(1))?;
    let status = second.wait_for(Role::Backup)?;
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(second.status()?.role, "backup", "hears the master: {status:?}");
    ensure!(has_vips(&fw1)? && !has_vips(&fw2)?, "both or none hold the addresses");
    // The LAN's VHID is advertised by IPv6 as well; the WAN's by IPv4 alone.
    let member = &second.status()?.members[1];
    assert_eq!(member.master_heard.as_deref(), Some("10.77.2.1"));
    assert!(member.adverts_received > 0);

    let stopped = Instant::now();
    first.stop()?;
    let status = second.wait_for(Role::Master)?;
    let outage = stopped.elapsed();
    // The dead time of the second node is 60/256 s; the goodbye makes it unnecessary to wait for it.
    assert_eq!(status.last_transition.as_ref().map(|t| t.cause.as_str()), Some("goodbye"), "after {outage:?}");
    assert!(status.last_transition.and_then(|t| t.takeover_ms).is_some());
    ensure!(!has_vips(&fw1)? && has_vips(&fw2)?, "the addresses did not move");

    let mut stranger = config(0);
    for vip in &mut stranger.vips {
        vip.password = b"tata".to_vec().into();
    }
    let _stranger = Node::start(&fw1, stranger)?;
    wait_until("the wrong password is counted", LIMIT, || {
        second.status().is_ok_and(|status| status.members[0].refused.get("bad_digest").is_some_and(|count| *count > 0))
    })?;
    assert_eq!(second.status()?.role, "master");
    Ok(())
}

/// While master, an address taken by hand comes back; an interface that is unplugged brings the whole group down, and
/// one that is re-created under another index and MAC is picked up.
#[test]
fn netns_repairs_and_re_created_interface() -> Result<()> {
    let switch = switch()?;
    let fw1 = firewall(&switch, 1)?;
    let node = Node::start(&fw1, config(0))?;
    node.wait_for(Role::Master)?;

    fw1.ip("address del 10.77.1.210/24 dev lan")?;
    wait_until("the address is restored", LIMIT, || has_vips(&fw1).unwrap_or(false))?;
    fw1.ip("route del default")?;
    wait_until("the route is restored", LIMIT, || has_vips(&fw1).unwrap_or(false))?;
    assert_eq!(node.status()?.transitions, node.wait_for(Role::Master)?.transitions);

    fw1.ip("link del wan")?;
    node.wait_for(Role::Fault)?;
    let addresses = fw1.run("ip", &["-o", "address", "show", "dev", "lan"])?;
    ensure!(!addresses.contains("210"), "the group did not move as one: {addresses}");
    assert!(!node.status()?.interfaces[1].up);

    plug(&switch, &fw1, "wan", 7)?;
    node.wait_for(Role::Master)?;
    ensure!(has_vips(&fw1)?, "no addresses after the interface came back");
    let mut wan = capture(&switch, "br-wan")?;
    let mut heard = Vec::new();
    wait_until("adverts leave the new interface", LIMIT, || {
        heard.extend(drain(&mut wan));
        heard
            .iter()
            .any(|frame| frame[6..12] == [2, 0, 0, 0, 0, 0x17] && !adverts(std::slice::from_ref(frame)).is_empty())
    })?;
    Ok(())
}

/// The pair again with XDP wherever this kernel has it: adverts come through the ring, and an interface that is
/// re-created is attached anew.
#[test]
fn netns_pair_with_xdp() -> Result<()> {
    let switch = switch()?;
    let (fw1, fw2) = (firewall(&switch, 1)?, firewall(&switch, 2)?);
    let with_xdp = |node| Resolved { xdp: XdpChoice::Auto, ..config(node) };
    let mut first = Node::start(&fw1, with_xdp(0))?;
    let status = first.wait_for(Role::Master)?;
    let modes: Vec<_> = status.interfaces.iter().take(2).map(|interface| interface.datapath.as_str()).collect();
    assert_eq!(modes, ["native", "native"], "{:?}", status.interfaces);
    let second = Node::start(&fw2, with_xdp(1))?;
    second.wait_for(Role::Backup)?;
    std::thread::sleep(Duration::from_millis(600));
    let status = second.status()?;
    assert_eq!(status.role, "backup");
    assert!(status.members.iter().all(|member| member.adverts_received > 0), "{status:?}");

    fw2.ip("link del lan")?;
    second.wait_for(Role::Fault)?;
    plug(&switch, &fw2, "lan", 2)?;
    second.wait_for(Role::Backup)?;
    assert_eq!(second.status()?.interfaces[0].datapath, "native");
    let before = second.status()?.members[0].adverts_received;
    wait_until("adverts are heard on the new interface", LIMIT, || {
        second.status().is_ok_and(|status| status.members[0].adverts_received > before)
    })?;
    first.stop()?;
    second.wait_for(Role::Master)?;
    ensure!(has_vips(&fw2)?, "no addresses after the takeover");
    Ok(())
}

/// The control thread runs under SCHED_FIFO and the process's memory is locked, as /proc says.
#[test]
fn netns_realtime_is_entered() -> Result<()> {
    ha_tests::netns::require_root()?;
    let stat = std::thread::spawn(|| {
        Realtime::Wanted.enter();
        std::fs::read_to_string("/proc/thread-self/stat")
    });
    let stat = stat.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
    // The second field is the name in parentheses; rt_priority is field 40 and policy field 41 (proc(5)).
    let after_name = stat.rsplit_once(')').context("no name in stat")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    assert_eq!((fields.get(40 - 3), fields.get(41 - 3)), (Some(&"50"), Some(&"1")), "{stat}");
    let status = std::fs::read_to_string("/proc/self/status")?;
    let locked = status.lines().find(|line| line.starts_with("VmLck:")).context("no VmLck")?;
    assert!(!locked.contains(" 0 kB"), "{locked}");
    Ok(())
}
