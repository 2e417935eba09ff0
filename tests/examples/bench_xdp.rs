//! `cargo xtask bench xdp`: what the XDP program costs per packet, beside a program that does nothing.
//!
//! Every sample of the tests' corpus is run a million times by BPF test runs, five times, each time next to the empty
//! program on the same frame; the median counts. The figure is the program's alone: no driver, no stack. Adverts run
//! in batches that the ring can hold, and fewer of them: the kernel takes milliseconds to set up each batch. Heartbeats run
//! singly, because an answered one is a probe no more; their figures hold the caches that a system call leaves cold.

#[path = "../tests/netns_xdp/corpus.rs"]
mod corpus;
#[path = "../tests/netns_xdp/rig.rs"]
mod rig;

use anyhow::{Result, ensure};
use corpus::Sample;
use ha_common::abi::SelfEntry;
use ha_common::reason::DropReason;
use ha_common::role::NodeId;
use ha_common::wire::genuine::SessionEntry;
use ha_common::wire::heartbeat::{self, Heartbeat, Standing};
use ha_user::datapath::load::{EDGE, EMPTY};
use rig::{RING_ADVERTS, Rig};
use serde::Serialize;
use std::net::IpAddr;

/// `xdp_action` of linux/bpf.h.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const ROUNDS: usize = 5;
const REPEATS: u32 = 1_000_000;
const ADVERT_BATCHES: u32 = 30;
const SINGLES: u64 = 20_000;

/// One line of the result.
#[derive(Serialize)]
struct Cost {
    packet: String,
    /// Nanoseconds per packet: the program, the empty program, the difference; medians of the rounds.
    edge_ns: u32,
    empty_ns: u32,
    net_ns: i64,
    repeats: u32,
    rounds: usize,
}

fn main() -> Result<()> {
    let json = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--json") => true,
        Some(other) => anyhow::bail!("unknown argument {other}: only --json is known"),
    };
    ensure!(rustix::process::geteuid().is_root(), "BPF test runs need root");
    let mut rig = Rig::new(false)?;
    if !json {
        println!("{REPEATS} runs x {ROUNDS}, median ns per packet; net is the program without the empty one");
        println!("{:<28} {:>8} {:>8} {:>8}", "packet", "program", "empty", "net");
    }
    rig.heartbeat().publish(&corpus::master(1, true))?;
    let mut samples = corpus::all();
    let more = |name: &str, bytes| Sample { name: name.to_owned(), bytes, refused: None };
    samples.push(more("another family's sync frame", corpus::sync_frame_v6(1, 200)));
    samples.push(more("advert, ring full", corpus::advert_frame()));
    for sample in samples {
        let is_delivered = sample.name.starts_with("advert") && !sample.name.ends_with("full");
        let runs = if is_delivered { (RING_ADVERTS, ADVERT_BATCHES) } else { (REPEATS, 1) };
        print(&measure(&mut rig, sample, runs)?, json)?;
    }
    let header = corpus::sync_header(1, 200);
    let current = SessionEntry { session: header.session, stamps: 1, ..SessionEntry::default() };
    rig.sessions.set(NodeId(corpus::PEER_NODE), current)?;
    for (name, stamp, refused) in [
        ("sync frame, stamped", Some(corpus::STAMP_KEY), None),
        ("sync frame, forged", None, Some(DropReason::FrameAuth)),
    ] {
        let sample = Sample { name: name.to_owned(), bytes: corpus::sync_frame_of(&header, stamp), refused };
        print(&measure(&mut rig, sample, (REPEATS, 1))?, json)?;
    }
    let (_, answer) = rig.judge(&corpus::heartbeat_frame(&corpus::probe()))?;
    let answer = Heartbeat::read(&answer[..], corpus::key_of);
    ensure!(answer.is_some_and(|answer| answer.is_ok()), "a probe is not answered: the figures mean nothing");
    print(&measure_singly(&mut rig, "heartbeat probe, answered", XDP_TX, |_| corpus::probe())?, json)?;
    print(&measure_singly(&mut rig, "heartbeat answer, taken", XDP_DROP, corpus::reply)?, json)?;
    let standing = Standing { role: heartbeat::ROLE_BACKUP, ..Standing::default() };
    rig.heartbeat().publish(&SelfEntry { state: standing.pack(), ..corpus::master(1, true) })?;
    let [IpAddr::V4(v4), IpAddr::V6(v6)] = corpus::VIPS else {
        anyhow::bail!("the corpus has one address of each family")
    };
    for (family, bytes) in [("ARP", corpus::arp_request(v4)), ("solicitation", corpus::solicitation(v6))] {
        let refused = Some(DropReason::LeaseClosed);
        let sample = Sample { name: format!("{family}, gate closed"), bytes, refused };
        print(&measure(&mut rig, sample, (REPEATS, 1))?, json)?;
    }
    if let (false, Some(count)) = (json, rig.verified_instructions(EDGE)?) {
        println!("the verifier walked through {count} instructions");
    }
    let delivered: u64 = rig.counters().snapshot().interfaces.iter().map(|interface| interface.adverts).sum();
    ensure!(delivered > 0, "no advert was recognised: the figures mean nothing");
    Ok(())
}

fn print(cost: &Cost, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(cost)?);
    } else {
        println!("{:<28} {:>8} {:>8} {:>8}", cost.packet, cost.edge_ns, cost.empty_ns, cost.net_ns);
    }
    Ok(())
}

/// For heartbeats, which are another frame each time: the median of single runs, each with the next sequence number.
fn measure_singly(rig: &mut Rig, name: &str, action: u32, heartbeat: impl Fn(u64) -> Heartbeat) -> Result<Cost> {
    let mut edge = Vec::new();
    let mut empty = Vec::new();
    for sequence in 1..=SINGLES {
        let frame = corpus::heartbeat_frame(&heartbeat(sequence));
        edge.push(mean_ns(rig, (EDGE, action), &frame, (1, 1))?);
        empty.push(mean_ns(rig, (EMPTY, XDP_PASS), &frame, (1, 1))?);
    }
    let (edge_ns, empty_ns) = (median(edge), median(empty));
    let net_ns = i64::from(edge_ns) - i64::from(empty_ns);
    Ok(Cost { packet: name.to_owned(), edge_ns, empty_ns, net_ns, repeats: 1, rounds: SINGLES as usize })
}

fn measure(rig: &mut Rig, sample: Sample, runs: (u32, u32)) -> Result<Cost> {
    let is_dropped = sample.refused.is_some_and(|reason| !reason.is_passed_on());
    let action = if is_dropped { XDP_DROP } else { XDP_PASS };
    let mut edge = Vec::new();
    let mut empty = Vec::new();
    let mut net = Vec::new();
    for _ in 0..ROUNDS {
        let with = mean_ns(rig, (EDGE, action), &sample.bytes, runs)?;
        let without = mean_ns(rig, (EMPTY, XDP_PASS), &sample.bytes, (REPEATS, 1))?;
        edge.push(with);
        empty.push(without);
        net.push(i64::from(with) - i64::from(without));
    }
    let (edge_ns, empty_ns, net_ns) = (median(edge), median(empty), median(net));
    Ok(Cost { packet: sample.name, edge_ns, empty_ns, net_ns, repeats: runs.0 * runs.1, rounds: ROUNDS })
}

/// The mean over `batches` of `repeat` runs, all of which must end with the given action; the ring is emptied after each.
fn mean_ns(
    rig: &mut Rig,
    (program, action): (&'static str, u32),
    frame: &[u8],
    (repeat, batches): (u32, u32),
) -> Result<u32> {
    let mut total = 0;
    for _ in 0..batches {
        let run = rig.run(program, frame, repeat)?;
        ensure!(run.action == action, "{program} ends with action {}, not {action}", run.action);
        total += run.duration.as_nanos();
        if repeat == RING_ADVERTS {
            rig.drain();
        }
    }
    Ok(u32::try_from(total / u128::from(batches))?)
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}
