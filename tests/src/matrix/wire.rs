//! What comes, or does not come, over the cables.

use super::stage::{PATIENCE, Stage, refused, refused_in_all};
use super::wiretap::Wiretap;
use super::{Extent, Fault, expect_equal_and_proven};
use crate::netns::checked;
use crate::topology::{Node, Port, SERVER};
use crate::torture::plan::Random;
use crate::traffic::flood::Flood;
use anyhow::{Result, ensure};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

pub const OTHER_SECRET: Fault = Fault {
    name: "other-secret",
    harm: "the standby is started with another cluster secret",
    promise: "its frames and heartbeats are refused and counted, it gets no state and takes no role by force; with the right secret all is well again",
    prove: other_secret,
};

fn other_secret(_: Extent) -> Result<String> {
    let mut stage = Stage::new()?;
    let secret = stage.lab.dir().join("secret");
    let right = fs::read(&secret)?;
    stage.lab.kill(Node::Fw2);
    stage.lab.pair[Node::Fw2].run("conntrack", &["-F"])?;
    fs::remove_file(&secret)?;
    let keygen = stage.lab.files(Node::Fw1).command(&["keygen", "--output"])?;
    checked(Command::new(keygen.get_program()).args(keygen.get_args()).arg(&secret))?;
    stage.lab.start(Node::Fw2)?;
    std::thread::sleep(Duration::from_secs(3));
    let [master, stranger] = [stage.lab.status(Node::Fw1)?, stage.lab.status(Node::Fw2)?];
    let [frames, beats] = ["frame_auth", "heartbeat_tag"].map(|reason| refused(&master, reason));
    ensure!(frames > 0 && beats > 0, "{frames} frames and {beats} heartbeats were refused");
    ensure!(!stranger.in_sync() && stranger.number("/sync/flows_peer") == 0, "state was taken: {:?}", stranger.0);
    ensure!((master.role(), stranger.role()) == ("master", "backup"), "{} and {}", master.role(), stranger.role());
    stage.lab.kill(Node::Fw2);
    fs::write(&secret, right)?;
    stage.lab.start(Node::Fw2)?;
    stage.expect_well(Node::Fw1)?;
    Ok(format!(
        "{frames} frames and {beats} heartbeats refused in 3 s, no flow taken; with the right secret proven equal"
    ))
}

pub const FLAPPING_SYNC_LINK: Fault = Fault {
    name: "flapping-sync-link",
    harm: "the sync cable is pulled and plugged 5 times a second while sessions begin",
    promise: "no role changes; once the cable stays, the tables are equal and proven",
    prove: flapping_sync_link,
};

fn flapping_sync_link(extent: Extent) -> Result<String> {
    let stage = Stage::new()?;
    let pair = &stage.lab.pair;
    let flood = Flood::open(&pair.client, &pair.server, SERVER)?;
    let flaps: u16 = extent.pick(15, 300);
    for flap in 0..flaps {
        let begin = Instant::now();
        pair.plug(Node::Fw1, Port::Sync, false)?;
        flood.talk(10_000 + flap * 20..10_020 + flap * 20)?;
        std::thread::sleep(Duration::from_millis(100).saturating_sub(begin.elapsed()));
        pair.plug(Node::Fw1, Port::Sync, true)?;
        std::thread::sleep(Duration::from_millis(200).saturating_sub(begin.elapsed()));
    }
    let begin = Instant::now();
    stage.expect_unmoved()?;
    let well = begin.elapsed().as_secs_f64();
    Ok(format!(
        "{flaps} flaps, {} sessions begun amid them; proven equal and 45 of 45 sessions {well:.1} s later",
        flaps * 20
    ))
}

pub const MTU_BLACK_HOLE: Fault = Fault {
    name: "mtu-black-hole",
    harm: "datagrams of more than 1280 bytes (the least that IPv6 demands of a network) vanish on the sync link, and no ICMP tells of it",
    promise: "frames become smaller by themselves; everything arrives and is proven",
    prove: mtu_black_hole,
};

fn mtu_black_hole(extent: Extent) -> Result<String> {
    let stage = Stage::new()?;
    let pair = &stage.lab.pair;
    let flood = Flood::open(&pair.client, &pair.server, SERVER)?;
    pair.swallow_large(Port::Sync, 1280)?;
    let flows: u16 = extent.pick(2_000, 20_000);
    let begin = Instant::now();
    for first in (10_000..10_000 + flows).step_by(500) {
        flood.talk(first..first + 500)?;
    }
    expect_equal_and_proven(&stage.lab, PATIENCE)?;
    let took = begin.elapsed().as_secs_f64();
    stage.expect_unmoved()?;
    Ok(format!("{flows} sessions begun into the hole: equal and proven {took:.1} s after the first"))
}

pub const GARBAGE: Fault = Fault {
    name: "garbage",
    harm: "200,000 frames a second of noise, half of it with genuine headers, to both nodes on LAN, WAN and sync link (as many as two processors can make beside the pair)",
    promise: "counted refusals, nothing else: no role changes, every session goes on, tables proven equal",
    prove: |extent| siege(extent, Saying::Noise, 200_000),
};

pub const RECORDED_FRAMES: Fault = Fault {
    name: "recorded-frames",
    harm: "everything that a node says to the other on LAN, WAN and sync link is recorded and said again, over and over",
    promise: "the same",
    prove: |extent| siege(extent, Saying::Recorded, 20_000),
};

pub const FORGED_FRAMES: Fault = Fault {
    name: "forged-frames",
    harm: "the same frames with a bit or a byte behind the Ethernet header changed, or cut short",
    promise: "the same",
    prove: |extent| siege(extent, Saying::Forged, 20_000),
};

/// What the stranger says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saying {
    Noise,
    Recorded,
    Forged,
}

/// Frames prepared for each tap, said over and over.
const PREPARED: usize = 2048;
/// How long the stranger listens first.
const LISTENS: Duration = Duration::from_secs(3);

fn siege(extent: Extent, saying: Saying, per_second: u64) -> Result<String> {
    let stage = Stage::new()?;
    let before = Node::BOTH.map(|node| stage.lab.status(node).map(|status| refused_in_all(&status)));
    let mut taps = Vec::new();
    for path in Port::ALL {
        for victim in Node::BOTH {
            taps.push(Wiretap::open(&stage.lab.pair, victim, path)?);
        }
    }
    std::thread::scope(|scope| {
        for tap in &mut taps {
            scope.spawn(|| tap.record(LISTENS));
        }
    });
    ensure!(taps.iter().all(|tap| !tap.recorded.is_empty()), "nothing was heard on some path");
    let mut random = Random(7);
    let prepared: Vec<Vec<Vec<u8>>> = taps.iter().map(|tap| prepare(tap, saying, &mut random)).collect();
    let time = extent.pick(Duration::from_secs(3), Duration::from_secs(60));
    let said: u64 = std::thread::scope(|scope| {
        let each = per_second / taps.len() as u64;
        let talking =
            taps.iter().zip(&prepared).map(|(tap, frames)| scope.spawn(move || talk(tap, frames, time, each)));
        let talking: Vec<_> = talking.collect();
        talking.into_iter().map(|thread| thread.join().unwrap_or_default()).sum()
    });
    stage.expect_unmoved()?;
    let mut refusals = 0;
    for (node, before) in Node::BOTH.into_iter().zip(before) {
        let new = refused_in_all(&stage.lab.status(node)?) - before?;
        ensure!(new > 100, "{}: {new} refusals of {said} frames", node.name());
        refusals += new;
    }
    let rate = said as f64 / time.as_secs_f64();
    Ok(format!("{said} frames, {rate:.0} a second; {refusals} refusals counted; no role changed, 45 of 45 sessions"))
}

fn prepare(tap: &Wiretap, saying: Saying, random: &mut Random) -> Vec<Vec<u8>> {
    let below = |random: &mut Random, limit: usize| usize::try_from(random.below(limit as u64)).unwrap_or(0);
    let mut frame = || match saying {
        Saying::Noise => tap.noise(random),
        Saying::Recorded => tap.recorded[below(random, tap.recorded.len())].clone(),
        Saying::Forged => {
            let mut frame = tap.recorded[below(random, tap.recorded.len())].clone();
            let at = 14 + below(random, frame.len().saturating_sub(14).max(1));
            match random.below(3) {
                0 => frame.truncate(at),
                1 => frame.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
                _ => frame.iter_mut().skip(at).take(1).for_each(|byte| *byte = byte.wrapping_add(1)),
            }
            frame
        }
    };
    (0..PREPARED).map(|_| frame()).collect()
}

/// Says the frames at a steady rate; how many were taken.
fn talk(tap: &Wiretap, frames: &[Vec<u8>], time: Duration, per_second: u64) -> u64 {
    let begin = Instant::now();
    let mut said = 0;
    for (n, frame) in (0..).zip(frames.iter().cycle()) {
        let elapsed = begin.elapsed();
        if elapsed >= time {
            break;
        }
        let due = Duration::from_nanos(n * 1_000_000_000 / per_second.max(1));
        if due > elapsed + Duration::from_millis(1) {
            std::thread::sleep(due - elapsed);
        }
        said += u64::from(tap.say(frame));
    }
    said
}
