//! Churn over a cable that loses, doubles and overtakes.

use super::harness::*;
use anyhow::{Context, Result, ensure};
use ha_common::role::Role;
use ha_common::sync::flow::Flow;
use ha_tests::netns::{Netns, cable};
use ha_tests::weather::{Cable, Weather};
use ha_user::conntrack::writer::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const STORM: Weather =
    Weather { loss_percent: 30, duplicate_percent: 10, reorder_percent: 20, delay_max: Duration::from_millis(3) };
const FLOWS: u32 = 100_000;
/// Flows that come between two looks at those that change and go.
const STEP: u32 = 2000;
/// What the repair of so much takes on two busy cores.
const CALM: Duration = Duration::from_secs(60);

/// A hundred thousand flows come, a fifth of them change and a tenth go again, while of every ten datagrams in either
/// direction three are lost, one comes twice and two are overtaken. When the churn ends, both kernels hold the same flows,
/// and both nodes have proven it by digests, without any help and with the weather as bad as before.
#[test]
fn netns_weather_does_not_matter() -> Result<()> {
    let files = Files::new()?;
    let (mut a, mut b, between) = (Node::new("fw1")?, Node::new("fw2")?, Netns::new("weather")?);
    for (node, address, end) in [(&a, "10.77.9.1/24", "left"), (&b, "10.77.9.2/24", "right")] {
        cable((&node.namespace, "sync"), (&between, end))?;
        node.namespace.ip(&format!("addr add {address} dev sync"))?;
        node.namespace.run("ethtool", &["-K", "sync", "tx", "off"])?;
    }
    let weather = Cable::start(&between, ["left", "right"], STORM, 7)?;
    a.start(&files, Role::Master)?;
    b.start(&files, Role::Backup)?;
    let mut gone = 0;
    for first in (0..FLOWS).step_by(STEP as usize) {
        a.traffic(&creates(first..first + STEP));
        a.traffic(&(0..STEP / 5).map(|n| Write::Update(changed(first / STEP, n, STEP))).collect::<Vec<_>>());
        if first >= STEP {
            let doomed = first - STEP..first - STEP + STEP / 10;
            gone += doomed.len();
            a.traffic(&deletes(doomed));
        }
    }
    converge_within(&mut a, &mut b, FLOWS as usize - gone, CALM)?;
    for node in [&a, &b] {
        proven(node, CALM).with_context(|| format!("{} has proven nothing", node.name))?;
    }
    let toll = &weather.toll;
    let harm = [&toll.lost, &toll.duplicated, &toll.held_back].map(|count| count.load(Ordering::Relaxed));
    ensure!(harm.iter().all(|count| *count > 100), "the weather was too fair: {toll:?}");
    Ok(())
}

/// A flow of the `round`th step that is still there, with another mark.
fn changed(round: u32, n: u32, step: u32) -> Flow {
    let number = round * step + step / 2 + n;
    Flow { mark: 0x0100_0000 + n, ..flow(number) }
}

/// Waits until the node's peer was proven to hold all of its flows, by a digest younger than this wait.
fn proven(node: &Node, limit: Duration) -> Result<()> {
    let begin = Instant::now();
    loop {
        let status = node.status()?;
        let peer = status.peers.first().context("no peer")?;
        let age = peer.proven_ms.map(|ms| Duration::from_secs_f64(ms / 1000.0));
        if peer.differing_buckets == 0 && age.is_some_and(|age| age < begin.elapsed()) {
            return Ok(());
        }
        ensure!(begin.elapsed() < limit, "{status:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
