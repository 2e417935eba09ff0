//! Two network namespaces, a veth pair between them as the sync link, and the programs at its receiving end.
//!
//! The receiving end's driver work (NAPI) runs in a kernel thread of its own: on a veth pair it would otherwise run in the
//! sender's context, and nobody could tell whose processor time it is.

use crate::frames;
use anyhow::{Context, Result, ensure};
use aya::maps::{Map, RingBuf, XskMap};
use aya::programs::XdpMode;
use ha_common::election::InterfaceId;
use ha_common::role::NodeId;
use ha_common::wire::frame::DEFAULT_PORT;
use ha_common::wire::genuine::SessionEntry;
use ha_tests::bench::sync_rx::{Mode, Way};
use ha_tests::netns::{Netns, checked};
use ha_user::config::XdpChoice;
use ha_user::datapath::{Counters, DatapathKey, InterfacePlan, Plan, Programs, SyncPlan};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub const SENDER_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 9, 1));
pub const RECEIVER_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 9, 2));
pub const PORT: u16 = DEFAULT_PORT;
const SENDER_MAC: &str = "02:77:00:00:09:01";
const RECEIVER_MAC: &str = "02:77:00:00:09:02";
const RECEIVER_MAC_BYTES: [u8; 6] = [2, 0x77, 0, 0, 9, 2];
/// The interface at the sending end.
pub const SENDER_INTERFACE: &str = "sync0";
/// Where the sender runs, and where everything of the receiving side does.
pub const SENDER_CPU: usize = 0;
pub const RECEIVER_CPU: usize = 1;
/// Real-time priorities, so that other work on the machine is not measured: the driver goes before sender and reader, as a
/// softirq does.
const DRIVER_PRIORITY: &str = "2";
pub const ORDINARY_PRIORITY: i32 = 1;

/// The two ends of the link.
pub struct Link {
    pub sender: Netns,
    pub receiver: Netns,
    /// The interface at the receiving end. Its name is this rig's alone: so is that of its kernel thread.
    pub interface: String,
}

impl Link {
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let interface = format!("r{:x}n{number}", std::process::id());
        let (sender, receiver) = (Netns::new("rxsend")?, Netns::new("rxrecv")?);
        for end in [&sender, &receiver] {
            // What IPv6 says by itself is no part of the load.
            end.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
            end.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        sender.ip(&format!(
            "link add {SENDER_INTERFACE} address {SENDER_MAC} type veth peer name {interface} address {RECEIVER_MAC} netns {}\n\
             addr add {SENDER_ADDRESS}/24 dev {SENDER_INTERFACE}\n\
             link set {SENDER_INTERFACE} up\n\
             neigh replace {RECEIVER_ADDRESS} lladdr {RECEIVER_MAC} dev {SENDER_INTERFACE} nud permanent",
            receiver.name()
        ))?;
        receiver.ip(&format!("addr add {RECEIVER_ADDRESS}/24 dev {interface}\nlink set {interface} up"))?;
        Ok(Self { sender, receiver, interface })
    }

    fn plan(&self) -> Plan {
        let interface = InterfacePlan {
            name: self.interface.clone(),
            id: InterfaceId(0),
            members: Vec::new(),
            link: Some(0),
            path: None,
        };
        let peers = vec![(NodeId(frames::SENDER), SENDER_ADDRESS)];
        Plan {
            interfaces: vec![interface],
            sync: SyncPlan::of_one_link(NodeId(frames::RECEIVER), PORT, RECEIVER_ADDRESS, peers),
            keys: vec![DatapathKey { epoch: frames::KEY_EPOCH, heartbeat: [0, 0], stamp: frames::STAMP }],
            heartbeat: None,
            vips: Vec::new(),
            choice: XdpChoice::Native,
            pin_directory: None,
        }
    }
}

/// The programs at the receiving end, one of them attached, and the kernel threads of its driver.
pub struct Receiver {
    programs: Programs,
    counters: Counters,
    napi: Vec<Pid>,
    pub ifindex: u32,
}

impl Receiver {
    /// Attaches the program of a way. To be called by a thread that is in the receiving namespace. With `is_pinned` the
    /// kernel's thread is kept on the receiving side's processor.
    ///
    /// # Errors
    /// When this build has no programs, or the kernel refuses one or has no threads for the driver (Linux 5.12).
    pub fn new(link: &Link, mode: Mode, way: Way, is_pinned: bool) -> Result<Self> {
        ensure!(mode.has(way), "there is no {way} in {mode} mode: the kernel joins no datagrams there");
        let object = ha_bench_programs::OBJECT
            .context("built without the bench's XDP programs: unset HA_BPF and HA_BPF_OBJECT")?;
        let plan = link.plan();
        let mut programs = Programs::load_object(object, &plan, None)?;
        let ifindex = nix::net::if_::if_nametoindex(link.interface.as_str())?;
        let interface = plan.interfaces.first().context("the plan has an interface")?;
        programs.set_interface(ifindex, RECEIVER_MAC_BYTES, interface)?;
        let mut sessions = programs.take_sessions().context("no map of sessions")?;
        let entry = SessionEntry { session: frames::SESSION, data_from: 1, stamps: 1, ..SessionEntry::default() };
        sessions.set(NodeId(frames::SENDER), entry)?;
        let (name, is_loaded) = match way {
            Way::Socket | Way::SocketNoGro => (ha_user::datapath::load::EDGE, true),
            Way::AfXdp => ("bench_af_xdp", false),
            Way::RingBuffer => ("bench_ring_buffer", false),
        };
        let program = programs.program(name)?;
        if !is_loaded {
            program.load().with_context(|| format!("the kernel refuses program {name}"))?;
        }
        let xdp_mode = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => {
                // Without a native program at the other end veth hands over large packets uncut, and in the sender's context
                // unless the sender segments TCP by itself (`veth_skb_is_eligible_for_gro`).
                let off = ["--features", SENDER_INTERFACE, "tx-udp-segmentation", "off", "tso", "off"];
                link.sender.run("ethtool", &off)?;
                XdpMode::Skb
            }
        };
        program.attach_to_if_index(ifindex, xdp_mode).context("the interface takes no XDP program")?;
        let counters = Counters::new(&plan, Some(programs.counter_maps()));
        // In generic mode it does not join, but it gives veth a driver's thread.
        let gro = match way {
            Way::Socket | Way::AfXdp | Way::RingBuffer => "on",
            Way::SocketNoGro => "off",
        };
        link.receiver.run("ethtool", &["--features", &link.interface, "gro", gro])?;
        let napi = driver_threads(link, is_pinned)?;
        Ok(Self { programs, counters, napi, ifindex })
    }

    /// The map of AF_XDP sockets.
    ///
    /// # Errors
    /// From the second time on.
    pub fn take_sockets(&mut self) -> Result<XskMap<aya::maps::MapData>> {
        Ok(XskMap::try_from(self.take("SOCKETS")?)?)
    }

    /// The ring buffer.
    ///
    /// # Errors
    /// From the second time on.
    pub fn take_ring(&mut self) -> Result<RingBuf<aya::maps::MapData>> {
        Ok(RingBuf::try_from(self.take("FRAMES")?)?)
    }

    fn take(&mut self, name: &str) -> Result<Map> {
        self.programs.take_map(name).with_context(|| format!("the object has no map {name}"))
    }

    /// Frames that the program has admitted, and those that it has refused.
    pub fn judged(&self) -> (u64, u64) {
        let snapshot = self.counters.snapshot();
        let interfaces = snapshot.interfaces.iter();
        interfaces.fold((0, 0), |(frames, refused), interface| {
            (frames + interface.frames, refused + interface.refused.iter().sum::<u64>())
        })
    }

    /// Processor time of the driver's threads, nanoseconds: driver, program, and for the socket the network stack.
    ///
    /// # Errors
    /// When a thread is gone.
    pub fn softirq_ns(&self) -> Result<u64> {
        self.napi.iter().map(|pid| run_time_ns(&format!("/proc/{}/schedstat", pid.as_raw_nonzero()))).sum()
    }
}

/// What a sleeping thread has run, nanoseconds.
fn run_time_ns(schedstat: &str) -> Result<u64> {
    let text = fs::read_to_string(schedstat).with_context(|| format!("cannot read {schedstat}"))?;
    text.split(' ').next().and_then(|word| word.parse().ok()).with_context(|| format!("{schedstat} has no number"))
}

/// Gives the driver of the receiving end threads, and returns them.
fn driver_threads(link: &Link, is_pinned: bool) -> Result<Vec<Pid>> {
    let switch = format!("/sys/class/net/{}/threaded", link.interface);
    let namespace = link.receiver.name();
    // `ip netns exec` shows the namespace's own /sys.
    checked(Command::new("ip").args(["netns", "exec", namespace, "sh", "-c", &format!("echo 1 > {switch}")]))
        .context("this kernel's network driver has no threads (needs Linux 5.12)")?;
    let prefix = format!("napi/{}-", link.interface);
    let is_ours =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(&prefix));
    let processes = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let threads: Vec<Pid> = processes.filter(is_ours).filter_map(Pid::from_raw).collect();
    ensure!(!threads.is_empty(), "no kernel thread {prefix}* although {switch} is on");
    for pid in threads.iter().filter(|_| is_pinned) {
        pin(Some(*pid), RECEIVER_CPU)?;
        checked(Command::new("chrt").args(["--fifo", "--pid", DRIVER_PRIORITY, &pid.as_raw_nonzero().to_string()]))?;
    }
    Ok(threads)
}

/// Keeps a thread on one processor; `None`: the calling one.
///
/// # Errors
/// When the machine has no such processor.
pub fn pin(thread: Option<Pid>, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(thread, &set).with_context(|| format!("processor {cpu} is needed (the bench takes two)"))
}
