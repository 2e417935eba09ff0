//! Memory over hours of simulated time: what is held after the last hour is what was held after the first ones.

#[path = "../sync_sim/kernel.rs"]
mod kernel;
#[path = "../sync_sim/weather.rs"]
mod weather;
#[expect(dead_code, reason = "the other tests of the simulation use more of it")]
#[path = "../sync_sim/world.rs"]
mod world;

use ha_common::role::Role;
use ha_common::sync::{Input, Mode};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::time::Duration;
use weather::{FAIR, STORM};
use world::{SECOND, World, churn, tcp};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROUNDS: usize = 12;
/// Rounds after which nothing may grow any more: tables, queues and reused buffers keep the size of their worst moment,
/// and that may come late.
const WARM_UP: usize = 8;
const FLOWS: u64 = 1000;

/// Bytes allocated and not freed, in the whole process.
fn held() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// One round of churn with everything that makes the engines queue, resend, repair and start anew.
fn round(world: &mut World, length: Duration, per_second: u32) {
    churn(world, 0, FLOWS, per_second, length / 4);
    world.weather = STORM;
    churn(world, 0, FLOWS, per_second, length / 8);
    world.weather = FAIR;
    world.nodes[0].deaf = true;
    churn(world, 0, FLOWS, per_second, length / 8);
    world.nodes[0].deaf = false;
    world.give(0, Input::EventsLost);
    world.kill(1);
    churn(world, 0, FLOWS, per_second, length / 8);
    world.start(1, Role::Backup);
    churn(world, 0, FLOWS, per_second, length / 8);
    world.flush(1);
    world.settle();
    world.role(0, Role::Backup);
    world.role(1, Role::Master);
    churn(world, 1, FLOWS, per_second, length / 8);
    world.flush(1);
    churn(world, 1, FLOWS, per_second, length / 8);
    world.settle();
    world.role(1, Role::Backup);
    world.role(0, Role::Master);
    // The same flows at the end of each round: what is held beyond them is what has gathered.
    world.flush(0);
    (0..FLOWS as u32).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.settle();
    world.run(SECOND * 5);
    world.settle();
    for node in &mut world.nodes {
        node.events = Vec::new();
    }
}

/// Twelve rounds of churn, bad weather, lost events, restarts, flushes and changes of role: the last four end
/// with no more memory held than the others did, but for a twentieth (where reused buffers lie is chance).
fn memory_is_flat(mode: Mode, length: Duration, per_second: u32) {
    let mut world = World::pair(mode, 12, FAIR);
    let mut ends = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        round(&mut world, length, per_second);
        ends.push(held());
    }
    println!("{mode}: KiB held after each round: {:?}", ends.iter().map(|bytes| bytes / 1024).collect::<Vec<_>>());
    let (early, late) = ends.split_at(WARM_UP);
    let allowed = early.iter().max().unwrap() * 21 / 20;
    assert!(late.iter().all(|bytes| *bytes <= allowed), "{mode}: more than {allowed} bytes: {ends:?}");
    assert!(
        world.stats(0).peers[0].frames_sent > ROUNDS as u64 && world.now.0 > length.as_nanos() as u64 * ROUNDS as u64
    );
}

/// Twelve rounds of 12 s each; one test, because the allocator counts for the whole process.
#[test]
fn memory_is_flat_over_minutes() {
    for mode in [Mode::Ftfw, Mode::Alarm] {
        memory_is_flat(mode, SECOND * 12, 100);
    }
}

/// Twelve rounds of an hour each.
#[test]
#[ignore = "some minutes: cargo xtask test --long"]
fn long_memory_is_flat_over_twelve_hours() {
    memory_is_flat(Mode::Ftfw, SECOND * 3600, 200);
}
