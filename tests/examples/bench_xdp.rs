//! `cargo xtask bench xdp`: what the XDP program costs per packet, beside a program that does nothing.
//!
//! Every sample of the tests' corpus is run a million times by BPF test runs, five times, each time next to the empty
//! program on the same frame; the median counts. The figure is the program's alone: no driver, no stack.

#[path = "../tests/netns_xdp/corpus.rs"]
mod corpus;
#[path = "../tests/netns_xdp/rig.rs"]
mod rig;

use anyhow::{Result, ensure};
use ha_user::datapath::load::{EDGE, EMPTY};
use rig::{RING_ADVERTS, Rig};
use serde::Serialize;

const ROUNDS: usize = 5;
const REPEATS: u32 = 1_000_000;

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
    let mut samples: Vec<(String, Vec<u8>)> = corpus::all().into_iter().map(|s| (s.name, s.bytes)).collect();
    samples.push(("another family's sync frame".to_owned(), corpus::sync_frame_v6(1, 200)));
    samples.push(("advert, ring full".to_owned(), corpus::advert_frame()));
    for (name, frame) in samples {
        let batch = if name.starts_with("advert") && !name.ends_with("full") { RING_ADVERTS } else { REPEATS };
        let cost = measure(&mut rig, name, &frame, batch)?;
        if json {
            println!("{}", serde_json::to_string(&cost)?);
        } else {
            println!("{:<28} {:>8} {:>8} {:>8}", cost.packet, cost.edge_ns, cost.empty_ns, cost.net_ns);
        }
    }
    if let (false, Some(count)) = (json, rig.verified_instructions(EDGE)?) {
        println!("the verifier walked through {count} instructions");
    }
    Ok(())
}

fn measure(rig: &mut Rig, packet: String, frame: &[u8], batch: u32) -> Result<Cost> {
    let mut edge = Vec::new();
    let mut empty = Vec::new();
    let mut net = Vec::new();
    for _ in 0..ROUNDS {
        let with = mean_ns(rig, EDGE, frame, batch)?;
        let without = mean_ns(rig, EMPTY, frame, REPEATS)?;
        edge.push(with);
        empty.push(without);
        net.push(i64::from(with) - i64::from(without));
    }
    rig.drain();
    let (edge_ns, empty_ns, net_ns) = (median(edge), median(empty), median(net));
    Ok(Cost { packet, edge_ns, empty_ns, net_ns, repeats: REPEATS, rounds: ROUNDS })
}

/// The mean of [`REPEATS`] runs, made in batches that fit into the ring where adverts are delivered.
fn mean_ns(rig: &mut Rig, program: &'static str, frame: &[u8], batch: u32) -> Result<u32> {
    let batches = REPEATS.div_ceil(batch);
    let mut total = 0;
    for _ in 0..batches {
        total += rig.run(program, frame, batch)?.duration.as_nanos();
        if batches > 1 {
            rig.drain();
        }
    }
    Ok(u32::try_from(total / u128::from(batches))?)
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}
