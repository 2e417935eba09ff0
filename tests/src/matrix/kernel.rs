//! What the kernel refuses, loses, takes away or makes wait.

use super::process::message;
use super::stage::{PATIENCE, Stage, refused};
use super::wiretap::Wiretap;
use super::{Extent, Fault};
use crate::bench::preload;
use crate::daemon::Settings;
use crate::lab::Lab;
use crate::netns::wait_until;
use crate::network_lock::NetworkLock;
use crate::topology::{Naming, Node, Port, SERVER};
use crate::traffic::flood::Flood;
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

pub const NO_ROOM: Fault = Fault {
    name: "no-room",
    harm: "the standby's connection table is full (nf_conntrack_max) of entries that are not replicated, while new sessions begin",
    promise: "refused writes are counted, and both nodes say what the standby lacks; once there is room the tables are equal and proven without any command",
    prove: no_room,
};

/// More than that would take minutes to write.
const TABLE_MAX: u64 = 2_000_000;
/// Flows that begin while there is no room.
const NEWCOMERS: std::ops::Range<u16> = 10_000..10_300;

fn no_room(_: Extent) -> Result<String> {
    let stage = Stage::new()?;
    let (pair, standby) = (&stage.lab.pair, &stage.lab.pair[Node::Fw2]);
    let room: u64 = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")?.trim().parse()?;
    ensure!(room <= TABLE_MAX, "nf_conntrack_max is {room}: filling that table takes too long here");
    // ASSURED entries are not dropped to make room (early_drop in net/netfilter/nf_conntrack_core.c); the last ones are
    // refused, which ends the tool with an error.
    let _ = standby.run_with_input("conntrack", &["-R", "-"], &filling(room + 16));
    let held = preload::count(standby)?;
    ensure!(held >= room, "{held} of {room} entries: there is room");
    let flood = Flood::open(&pair.client, &pair.server, SERVER)?;
    flood.talk(NEWCOMERS)?;
    let refusals = || stage.lab.status(Node::Fw2).map(|status| refused_writes(&status.0));
    wait_until("writes are refused", PATIENCE, || refusals().is_ok_and(|count| count >= NEWCOMERS.len() as u64))?;
    let newcomers = NEWCOMERS.len() as u64;
    let absent = || stage.lab.status(Node::Fw2).map(|status| status.number("/sync/flows_absent"));
    wait_until("the standby says what it lacks", PATIENCE, || absent().is_ok_and(|count| count >= newcomers))?;
    let differing = || stage.lab.status(Node::Fw1).map(|status| status.number("/sync/peers/0/differing_buckets"));
    wait_until("the master says what differs", PATIENCE, || differing().is_ok_and(|count| count > 0))?;
    let (absent, differing) = (absent()?, differing()?);
    let begin = Instant::now();
    standby.run("conntrack", &["-D", "-p", "udplite"])?;
    stage.expect_unmoved()?;
    let count = refusals()?;
    Ok(format!(
        "{held} of {room} entries; {count} refused writes counted, the standby says that it lacks {absent} flows, the master that \
         {differing} buckets differ; equal, proven and 45 of 45 sessions {:.1} s after there was room",
        begin.elapsed().as_secs_f64()
    ))
}

/// UDP-Lite, which the lab's filter does not replicate.
fn filling(entries: u64) -> String {
    let mut lines = String::new();
    for entry in 0..entries {
        let (host, port) = (entry / 50_000, 2000 + entry % 50_000);
        let _ = writeln!(
            lines,
            "-I -s 10.200.0.{host} -d 198.18.0.1 -p udplite --sport {port} --dport 53 -t 900 -u SEEN_REPLY,ASSURED"
        );
    }
    lines
}

/// Refusals of creations by the kernel, whatever it says.
fn refused_writes(status: &serde_json::Value) -> u64 {
    let kinds = status.pointer("/sync/writes/by_errno").and_then(serde_json::Value::as_object).into_iter().flatten();
    kinds.filter_map(|(_, by)| by.as_object()).flatten().filter_map(|(_, count)| count.as_u64()).sum()
}

pub const EVENT_STORM: Fault = Fault {
    name: "event-storm",
    harm: "tens of thousands of sessions begin at once while the event socket's buffer holds a fraction of them (ENOBUFS)",
    promise: "lost events are counted and made good by a resync: nothing is missing afterwards",
    prove: event_storm,
};

fn event_storm(extent: Extent) -> Result<String> {
    let buffer = "mode = \"ftfw\"\nnetlink_buffer = 65536\nnetlink_buffer_max = 65536";
    let stage = Stage::with(&Settings { log: "info", sync: buffer, ..Settings::default() })?;
    let flows = extent.pick(20_000, 100_000);
    let [master, standby] = Node::BOTH.map(|node| &stage.lab.pair[node]);
    preload::write(master, flows)?;
    let begin = Instant::now();
    let counts = || Node::BOTH.map(|node| preload::count(&stage.lab.pair[node]).unwrap_or_default());
    wait_until("all are there", PATIENCE, || preload::count(standby).is_ok_and(|count| count >= flows.into()))
        .with_context(|| format!("{:?}", counts()))?;
    let took = begin.elapsed();
    stage.expect_unmoved()?;
    let lost = stage.lab.status(Node::Fw1)?.number("/sync/events_lost");
    ensure!(lost > 0, "no event was lost: the storm was none");
    Ok(format!(
        "{flows} sessions, {lost} losses counted; all on the standby {:.1} s after the last; proven, 45 of 45 sessions",
        took.as_secs_f64()
    ))
}

pub const NETLINK_REFUSED: Fault = Fault {
    name: "netlink-refused",
    harm: "the daemon is started without CAP_NET_ADMIN",
    promise: "it ends at once and names the capability; nothing is left behind",
    prove: netlink_refused,
};

fn netlink_refused(_: Extent) -> Result<String> {
    let lab = Lab::new(&Settings::default(), Naming::OfProcess)?;
    let daemon = lab.files(Node::Fw1).run_command()?;
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]);
    command.arg(daemon.get_program()).args(daemon.get_args());
    for (key, value) in daemon.get_envs() {
        command.env(key, value.unwrap_or_default());
    }
    let said_path = lab.dir().join("said");
    let said_file = std::fs::File::create(&said_path)?;
    command.stdout(said_file.try_clone()?).stderr(said_file);
    let status = lab.pair[Node::Fw1].spawn(command)?.wait(Duration::from_secs(5))?;
    let said = std::fs::read_to_string(&said_path)?;
    ensure!(!status.success(), "it ran: {said}");
    let line = said.lines().find(|line| line.contains("CAP_NET_ADMIN"));
    let line = line.with_context(|| format!("the capability is not named: {said}"))?;
    ensure!(!lab.files(Node::Fw1).socket.exists(), "the control socket is left behind");
    Ok(format!("\"{}\"", message(&lab, line)))
}

pub const RING_OVERRUN: Fault = Fault {
    name: "ring-overrun",
    harm: "the backup's daemon is stopped (SIGSTOP) while recorded adverts fill the ring between its XDP program and it",
    promise: "what does not fit is counted as `ring_full`; when it goes on, no role changes",
    prove: ring_overrun,
};

fn ring_overrun(extent: Extent) -> Result<String> {
    let stage = Stage::new()?;
    let mut tap = Wiretap::open(&stage.lab.pair, Node::Fw2, Port::Lan)?;
    tap.record(Duration::from_millis(3500));
    let adverts: Vec<_> = tap.recorded.iter().filter(|frame| frame.get(23) == Some(&112)).cloned().collect();
    ensure!(!adverts.is_empty(), "no advert was heard in 3.5 s");
    stage.lab.freeze(Node::Fw2);
    let said = (0..extent.pick(20_000, 200_000)).filter(|n| tap.say(&adverts[n % adverts.len()])).count();
    std::thread::sleep(Duration::from_secs(1));
    stage.lab.thaw(Node::Fw2);
    stage.expect_unmoved()?;
    let full = refused(&stage.lab.status(Node::Fw2)?, "ring_full");
    ensure!(full > 0, "{said} adverts fitted into the ring");
    Ok(format!("{said} adverts, {full} counted as `ring_full`; no role changed, 45 of 45 sessions"))
}

pub const INTERFACE_RECREATED: Fault = Fault {
    name: "interface-recreated",
    harm: "the master's LAN interface is deleted, and made anew 300 ms later",
    promise: "the other node takes both addresses; the new interface has its program again, and the node is a backup in sync",
    prove: interface_recreated,
};

fn interface_recreated(extent: Extent) -> Result<String> {
    let stage = Stage::new()?;
    let mut master = Node::Fw1;
    let rounds = extent.pick(1, 10);
    for round in 0..rounds {
        stage.lab.pair.delete_interface(master, Port::Lan)?;
        std::thread::sleep(Duration::from_millis(300));
        stage.lab.pair.recreate_interface(master, Port::Lan)?;
        stage.expect_well(master.peer()).with_context(|| format!("round {round}"))?;
        let datapath = stage.lab.status(master)?.datapath("eth0").to_owned();
        ensure!(datapath == "native", "the new interface's datapath is {datapath}");
        master = master.peer();
    }
    Ok(format!("{rounds} times, from node to node: native XDP again each time, 45 of 45 sessions"))
}

pub const NETWORK_LOCK: Fault = Fault {
    name: "network-lock",
    harm: "the kernel's network lock is held by somebody else for 300 ms while the master's daemon freezes",
    promise: "the other node is master once and stays it; its addresses come when the lock is free",
    prove: network_lock,
};

fn network_lock(extent: Extent) -> Result<String> {
    let rounds = extent.pick(1, 10);
    for round in 0..rounds {
        let stage = Stage::new()?;
        let before = stage.lab.status(Node::Fw2)?.transitions();
        let lock = NetworkLock::hold()?;
        stage.lab.freeze(Node::Fw1);
        std::thread::sleep(Duration::from_millis(300));
        drop(lock);
        std::thread::sleep(Duration::from_millis(300));
        stage.lab.thaw(Node::Fw1);
        stage.expect_well(Node::Fw2).with_context(|| format!("round {round}"))?;
        let changes = stage.lab.status(Node::Fw2)?.transitions() - before;
        ensure!(changes == 1, "{changes} changes of role:\n{}", stage.lab.files(Node::Fw2).log_tail());
    }
    Ok(format!("{rounds} times: one change of role each, 45 of 45 sessions"))
}
