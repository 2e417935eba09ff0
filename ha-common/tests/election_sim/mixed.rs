//! A twinwall node (place 0) and a ucarp host (place 1), as during a migration.

use crate::node::Settings;
use crate::world::{Machine, World};
use ha_common::election::Command;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn mixed(twinwall: (u8, bool), ucarp: (u8, bool), seed: u64) -> World {
    let settings = |(advskew, preempt)| Settings { advskew, preempt };
    World::new(&[settings(twinwall), settings(ucarp)], seed)
}

/// Place of the holder of a segment.
fn holder(world: &World, segment: usize) -> Option<usize> {
    let holders = world.holders(segment);
    assert!(holders.len() <= 1, "{holders:?}");
    holders.first().copied()
}

fn both_held_by(world: &World, place: usize) -> bool {
    (0..2).all(|segment| holder(world, segment) == Some(place))
}

fn kill_process(world: &mut World, segment: usize) {
    let Machine::Ucarp(host) = &mut world.machines[1] else { panic!("a ucarp host") };
    host.processes[segment] = None;
}

/// twinwall is master, ucarp waits; twinwall crashes: ucarp takes over after its time and its pcap delay. twinwall
/// comes back and, being better, preempts, without a moment in which nobody holds the addresses.
#[test]
fn kill_of_twinwall() {
    for seed in 0..20 {
        let mut world = mixed((0, true), (100, false), seed);
        world.start_twinwall(0);
        world.run_secs(5);
        world.start_ucarp(1);
        world.run_secs(30);
        assert!(both_held_by(&world, 0), "seed {seed}");
        world.crash(0);
        world.run_secs(8);
        assert!(both_held_by(&world, 1), "seed {seed}");
        world.watch_anew();
        world.start_twinwall(0);
        world.run_secs(10);
        assert!(both_held_by(&world, 0), "seed {seed}");
        assert_eq!(world.watch.none, Duration::ZERO, "seed {seed}");
        assert!(world.watch.two < Duration::from_millis(1400), "seed {seed}: {:?}", world.watch);
    }
}

/// A clean stop of twinwall: ucarp takes over as soon as pcap delivers the goodbye, in less than a second.
#[test]
fn stop_of_twinwall() {
    for seed in 0..20 {
        let mut world = mixed((0, true), (100, false), seed);
        world.start_twinwall(0);
        world.start_ucarp(1);
        world.run_secs(30);
        assert!(both_held_by(&world, 0), "seed {seed}");
        world.watch_anew();
        world.command(0, Command::Stop);
        world.crash(0);
        world.run_secs(3);
        assert!(both_held_by(&world, 1), "seed {seed}");
        assert!(world.watch.none < Duration::from_millis(1010), "seed {seed}: {:?}", world.watch);
    }
}

/// ucarp is master and its host dies: twinwall takes both VHIDs after its master-down time, and its adverts carry the
/// configured values again before ucarp is back and preempts.
#[test]
fn kill_of_ucarp() {
    for seed in 0..20 {
        let mut world = mixed((100, true), (0, true), seed);
        world.start_ucarp(1);
        world.run_secs(5);
        world.start_twinwall(0);
        world.run_secs(30);
        assert!(both_held_by(&world, 1), "seed {seed}");
        world.watch_anew();
        world.crash(1);
        world.run_secs(4);
        assert!(both_held_by(&world, 0), "seed {seed}");
        assert!(world.watch.none < Duration::from_millis(3400), "seed {seed}: {:?}", world.watch);
        world.start_ucarp(1);
        world.run_secs(8);
        assert!(both_held_by(&world, 1), "seed {seed}");
    }
}

/// One of the two ucarp processes dies: twinwall takes both VHIDs as a unit, and the living process yields.
#[test]
fn kill_of_one_ucarp_process() {
    for seed in 0..20 {
        for segment in 0..2 {
            let mut world = mixed((100, true), (0, false), seed);
            world.start_ucarp(1);
            world.run_secs(5);
            world.start_twinwall(0);
            world.run_secs(30);
            assert!(both_held_by(&world, 1), "seed {seed}");
            world.watch_anew();
            kill_process(&mut world, segment);
            world.run_secs(10);
            assert!(both_held_by(&world, 0), "seed {seed} segment {segment}");
            // For good: without `-P` the living process has no reason to come back.
            world.run_secs(300);
            assert!(both_held_by(&world, 0), "seed {seed} segment {segment}");
            assert!(world.watch.split < SECOND * 2, "seed {seed} segment {segment}: {:?}", world.watch);
        }
    }
}

/// With `-P` the living half of a better ucarp preempts after each claim. The claims grow, so that within an hour the
/// group is out of service for less than two minutes, and never split for longer than an advert and pcap take.
#[test]
fn a_stubborn_half_is_outbid_for_longer_and_longer() {
    let mut world = mixed((100, true), (0, true), 7);
    world.start_ucarp(1);
    world.run_secs(5);
    world.start_twinwall(0);
    world.run_secs(30);
    kill_process(&mut world, 0);
    world.run_secs(10);
    world.watch_anew();
    let mut held = 0;
    for _ in 0..3600 {
        world.run_secs(1);
        held += u32::from(world.holds(0, 0));
    }
    assert!(held > 3500, "{held} of 3600 s");
    let Machine::Twinwall(node) = &world.machines[0] else { panic!("a twinwall node") };
    assert!((10..20).contains(&node.election.stats().claims), "{}", node.election.stats().claims);
}

/// A better ucarp with `-P` preempts per process; the group goes to it as a whole, by goodbye.
#[test]
fn ucarp_preempts() {
    for seed in 0..20 {
        let mut world = mixed((100, true), (0, true), seed);
        world.start_twinwall(0);
        world.run_secs(10);
        assert!(both_held_by(&world, 0));
        world.start_ucarp(1);
        world.watch_anew();
        world.run_secs(8);
        assert!(both_held_by(&world, 1), "seed {seed}");
        assert!(world.watch.none < SECOND, "seed {seed}: {:?}", world.watch);
    }
}

/// Equal parameters, everything cut and healed: both are masters, and the tie is broken by ucarp's rule. The addresses
/// of the two segments disagree, so ucarp wins one, and by the goodbye gets the other.
#[test]
fn equal_tie_with_ucarp() {
    for seed in 0..20 {
        let mut world = mixed((0, true), (0, true), seed);
        for segment in 0..2 {
            (world.cut[segment][0][1], world.cut[segment][1][0]) = (true, true);
        }
        world.start_twinwall(0);
        world.start_ucarp(1);
        world.run_secs(10);
        assert_eq!(world.holders(0), [0, 1]);
        for segment in 0..2 {
            (world.cut[segment][0][1], world.cut[segment][1][0]) = (false, false);
        }
        world.watch_anew();
        world.run_secs(20);
        assert!(both_held_by(&world, 1), "seed {seed}");
        assert!(world.watch.two < SECOND * 3, "seed {seed}: {:?}", world.watch);
        world.watch_anew();
        world.run_secs(600);
        assert_eq!(world.watch.role_changes, 0, "seed {seed}: and it stays");
    }
}

/// Both start at once with equal parameters: one of them has both VHIDs in the end.
#[test]
fn simultaneous_start() {
    for seed in 0..50 {
        let mut world = mixed((0, true), (0, false), seed);
        world.start_twinwall(0);
        world.start_ucarp(1);
        world.run_secs(60);
        let place = holder(&world, 0).expect("a holder");
        assert!(both_held_by(&world, place), "seed {seed}");
        world.watch_anew();
        world.run_secs(600);
        assert_eq!(world.watch.role_changes, 0, "seed {seed}");
    }
}
