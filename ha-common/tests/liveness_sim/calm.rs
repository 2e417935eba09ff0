//! What must not be taken for death.

use crate::world::{MS, World};
use ha_common::sight::Sight;
use std::time::Duration;

fn assert_calm(world: &World, what: &str) {
    for (index, node) in world.nodes.iter().enumerate() {
        assert_eq!(node.silences(), 0, "{what}: node {index} told {:?}", node.told.last());
    }
}

/// Every fifth frame lost each way on all three paths, from the first moment on: no false alarm in a minute.
///
/// A round (a probe on each path) then goes unanswered with (1 - 0.8²)³ = 4.7 %. Five in a row, which is death on links
/// that lost nothing lately, come once in 75 minutes; what is learned within the first second (two lost rounds in a row, a
/// gap of 3 ms: death after 9 ms) makes it once in 30 years.
#[test]
fn random_loss_on_all_paths() {
    for seed in 0..3 {
        let mut world = World::settled(3, seed);
        world.links.iter_mut().for_each(|link| link.loss = 200);
        world.run(MS * 20_000);
        assert_calm(&world, "20 % loss");
    }
}

/// Bursts of total loss of any length on one or two of three paths, the third good: no verdict.
#[test]
fn bursts_on_some_paths() {
    for seed in 0..5 {
        let mut world = World::settled(3, seed);
        for _ in 0..100 {
            let spared = world.rng.below(3) as usize;
            for path in 0..3 {
                world.links[path].cut = path != spared && world.rng.below(3) > 0;
            }
            let time = world.rng.duration(MS * 300);
            world.run(time);
            assert!(world.nodes.iter().all(crate::world::Node::is_alive));
        }
        assert_calm(&world, "bursts");
    }
}

/// A path that was cut for long is probed seldom. It is healed at the very moment at which the others fall silent: it is asked before
/// the peer counts as dead.
#[test]
fn a_path_that_was_healed_just_now_is_asked() {
    for seed in 0..20 {
        let mut world = World::settled(3, seed);
        world.links[2].cut = true;
        world.run(MS * 1500 + MS * (seed as u32) / 2);
        world.links.iter_mut().for_each(|link| link.cut ^= true);
        world.run(MS * 50);
        assert_calm(&world, "healed just now");
    }
}

/// One path alone never moves anything: lost as the last of one or two (the other was lost before), the peer is unknown
/// after the bound, not silent; and back as soon as one answers.
#[test]
fn the_last_path_alone_is_no_proof() {
    for seed in 0..50 {
        let mut world = World::settled(1 + (seed % 2) as usize, seed);
        if let Some(link) = world.links.get_mut(1) {
            link.cut = true;
        }
        world.run(MS * 150);
        world.links[0].cut = true;
        world.run(MS * 190);
        assert!(world.nodes[0].is_alive());
        world.run(MS * 30);
        assert_eq!(world.nodes[0].prober.sight(), Sight::Unknown);
        world.links[0].cut = false;
        world.run(MS * 60);
        assert!(world.nodes[0].is_alive());
        assert_calm(&world, "the last path");
    }
}

/// All links of this node down at once (its switch, its cards) says nothing of the peer; one of three does, when the
/// others were alive and are silent too.
#[test]
fn own_links_down_are_no_proof() {
    let mut world = World::settled(3, 11);
    for path in 0..3 {
        world.links[path].cut = true;
        world.set_link(0, path, false);
    }
    world.run(MS * 1000);
    assert_eq!(world.nodes[0].prober.sight(), Sight::Unknown);
    assert_eq!(world.nodes[0].silences(), 0);
    let mut world = World::settled(2, 11);
    world.crash(1);
    world.set_link(0, 1, false);
    world.run(MS * 10);
    assert_eq!(world.nodes[0].silences(), 1);
}

/// Stops of one's own process of any length, also many shortly after each other, are no silence.
#[test]
fn own_stops() {
    for seed in 0..10 {
        let mut world = World::settled(3, seed);
        for _ in 0..60 {
            let bound = MS * [1, 10, 100, 3000][world.rng.below(4) as usize];
            let stop = world.rng.duration(bound);
            let index = world.rng.node();
            world.stop(index, stop);
            let time = stop + world.rng.duration(MS * 30);
            world.run(time);
        }
        assert_calm(&world, "own stops");
    }
}

/// Both hosts frozen at once (they share one), woken at different times: what one was late, the other may be later by.
#[test]
fn both_frozen_together() {
    for seed in 0..50 {
        let mut world = World::settled(3, seed);
        for _ in 0..20 {
            let time = world.rng.duration(MS * 150);
            let skew = world.rng.duration(time);
            let first = world.rng.node();
            world.freeze(first, time);
            world.freeze(1 - first, time + skew.min(MS * 100));
            let pause = time * 2 + world.rng.duration(MS * 100);
            world.run(pause);
        }
        assert_calm(&world, "frozen together");
    }
}

/// A suspend, over which the boot clock leaps: nothing but a late tick. One is suspended for a minute while the other
/// lives on, then both for hours; who lives on sees a death, who wakes does not.
#[test]
fn a_suspend_is_a_late_tick() {
    let mut world = World::settled(3, 2);
    world.freeze(0, MS * 60_000);
    world.run(MS * 60_100);
    assert_eq!((world.nodes[0].silences(), world.nodes[1].silences()), (0, 1));
    assert!(world.nodes.iter().all(crate::world::Node::is_alive));
    let hours = Duration::from_secs(7 * 3600);
    world.freeze(0, hours);
    world.freeze(1, hours + MS * 3);
    world.run(hours + MS * 100);
    assert_eq!((world.nodes[0].silences(), world.nodes[1].silences()), (0, 1));
}

/// Stalls of the peer's answers on all paths together that grow slowly (a tenth a second), up to 60 ms: the bound
/// grows with them. Quiet again, a crash is found as fast as before within a minute.
#[test]
fn growing_stalls_are_learned() {
    for seed in 0..2 {
        let mut world = World::settled(3, seed);
        let mut stall = MS;
        while stall < MS * 60 {
            for _ in 0..4 {
                let worst = world.rng.duration(stall).max(stall / 2);
                world.freeze(1, worst);
                world.run(MS * 250);
            }
            stall += stall / 10;
        }
        assert_calm(&world, "growing stalls");
        assert!(world.nodes[0].prober.stats().dead_after > MS * 60);
        world.run(MS * 60_000);
        assert_eq!(world.nodes[0].prober.stats().dead_after, MS * 5);
    }
}

/// Delays and jitter far above the interval, as over a routed network: answers still come every interval.
#[test]
fn long_round_trips() {
    for seed in 0..5 {
        let mut world = World::settled(3, seed);
        for step in 0..40 {
            for link in &mut world.links {
                link.delay = MS * step / 2;
                link.jitter = MS * step / 10;
            }
            world.run(MS * 250);
        }
        assert_calm(&world, "long round trips");
    }
}
