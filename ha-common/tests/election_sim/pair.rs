//! Clusters of twinwall nodes.

use crate::faults::{peace, storm};
use crate::node::Settings;
use crate::world::{Machine, World};
use ha_common::election::Command;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Seeds of one cluster shape; `TWINWALL_SIM_SEEDS` asks for more.
fn seeds() -> u64 {
    std::env::var("TWINWALL_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(60)
}

fn skews(skews: &[u8], preempt: bool) -> Vec<Settings> {
    skews.iter().map(|&advskew| Settings { advskew, preempt }).collect()
}

fn started(settings: &[Settings], seed: u64) -> World {
    let mut world = World::new(settings, seed);
    (0..settings.len()).for_each(|index| world.start_twinwall(index));
    world
}

/// The one node that holds everything.
fn master(world: &World) -> usize {
    let holders = world.holders(0);
    assert_eq!(holders, world.holders(1));
    assert_eq!(holders.len(), 1, "{holders:?}");
    holders[0]
}

/// A node under maintenance leaves a dead master's group alone, without heartbeats as well, and takes it when the maintenance ends:
/// the silence that it found meanwhile is not found again.
#[test]
fn the_end_of_maintenance_takes_a_silent_masters_group() {
    let mut world = started(&skews(&[0, 100], true), 1);
    world.run_secs(10);
    assert_eq!(master(&world), 0);
    world.command(1, Command::Maintenance(true));
    world.crash(0);
    world.run_secs(20);
    assert_eq!(world.holders(0), []);
    world.command(1, Command::Maintenance(false));
    world.run_secs(1);
    assert_eq!(master(&world), 1);
}

/// Storms of faults over many seeds. While masters are connected without loss they are two for no longer than an advert
/// takes; LAN and WAN are never apart; and in peace there is exactly one master soon, and it stays.
fn survives_storms(settings: &[Settings]) {
    for seed in 0..seeds() {
        let mut world = started(settings, seed);
        world.run_secs(10);
        master(&world);
        world.watch_anew();
        storm(&mut world);
        let watch = world.watch;
        assert!(watch.two < SECOND * 2, "{settings:?} seed {seed}: {watch:?}");
        assert_eq!(watch.split, Duration::ZERO, "{settings:?} seed {seed}: {watch:?}");
        peace(&mut world);
        // The longest claim may have to run out before the better node may preempt.
        world.run_secs(10);
        master(&world);
        world.watch_anew();
        world.run_secs(330);
        let watch = world.watch;
        assert!(watch.two < Duration::from_millis(10), "{settings:?} seed {seed}: {watch:?}");
        assert!(watch.none < Duration::from_millis(10), "{settings:?} seed {seed}: {watch:?}");
        // Two segments change hands with each of the better nodes, which may all preempt in the same moment.
        let changes_max = 4 * (settings.len() as u64 - 1);
        assert!(watch.role_changes <= changes_max, "{settings:?} seed {seed}: {watch:?}");
        world.watch_anew();
        world.run_secs(100);
        assert_eq!(world.watch.role_changes, 0, "{settings:?} seed {seed}");
        master(&world);
    }
}

/// A preferred and a second node.
#[test]
fn unequal_pair_survives_storms() {
    survives_storms(&skews(&[0, 100], true));
}

/// Equal nodes, whose addresses disagree about who wins a tie.
#[test]
fn equal_pair_survives_storms() {
    survives_storms(&skews(&[0, 0], true));
}

/// Nobody preempts.
#[test]
fn patient_pair_survives_storms() {
    survives_storms(&skews(&[0, 100], false));
}

/// Three nodes, all different.
#[test]
fn unequal_trio_survives_storms() {
    survives_storms(&skews(&[0, 50, 100], true));
}

/// Three equal nodes: ties go by address.
#[test]
fn equal_trio_survives_storms() {
    survives_storms(&skews(&[0, 0, 0], true));
}

/// A crash costs the master-down time; a clean stop costs one packet's delay.
#[test]
fn crash_and_stop() {
    for stop in [false, true] {
        let mut world = started(&skews(&[0, 100], true), 1);
        world.run_secs(10);
        assert_eq!(master(&world), 0);
        world.watch_anew();
        if stop {
            world.command(0, Command::Stop);
        }
        world.crash(0);
        world.run_secs(5);
        assert_eq!(master(&world), 1);
        let none = world.watch.none;
        if stop {
            assert!(none < Duration::from_millis(3), "{none:?}");
        } else {
            assert!(none > SECOND && none < Duration::from_millis(3400), "{none:?}");
        }
        // It comes back, fetches the state, preempts: no moment without a holder.
        world.watch_anew();
        world.start_twinwall(0);
        world.run_secs(1);
        assert_eq!(master(&world), 1, "not before it holds the state");
        world.run_secs(9);
        assert_eq!(master(&world), 0);
        assert_eq!(world.watch.none, Duration::ZERO);
    }
}

/// A step-down moves the group at once and for good, although the node that stepped down is the better one.
#[test]
fn step_down() {
    let mut world = started(&skews(&[0, 100], true), 2);
    world.run_secs(10);
    world.watch_anew();
    world.command(0, Command::HandOver { force: true });
    world.run_secs(60);
    assert_eq!(master(&world), 1);
    assert!(world.watch.none < Duration::from_millis(3));
}

/// One cable pulled, on either side, moves the whole group, and back when the link is back.
#[test]
fn one_link_moves_the_group() {
    for segment in 0..2 {
        let mut world = started(&skews(&[0, 100], true), 3);
        world.run_secs(10);
        world.watch_anew();
        world.set_link(0, segment, false);
        world.run_secs(10);
        assert_eq!(master(&world), 1);
        assert!(world.watch.none < Duration::from_millis(3), "{:?}", world.watch);
        world.set_link(0, segment, true);
        world.run_secs(10);
        assert_eq!(master(&world), 0);
    }
}

/// A segment that is cut between the nodes while the sync link works moves nothing.
#[test]
fn a_partial_partition_moves_nothing() {
    let mut world = started(&skews(&[0, 0], true), 4);
    world.run_secs(10);
    world.cut[0][0][1] = true;
    world.cut[0][1][0] = true;
    world.watch_anew();
    world.run_secs(600);
    assert_eq!(world.watch.role_changes, 0);
    let backup = 1 - master(&world);
    let Machine::Twinwall(node) = &world.machines[backup] else { panic!("a twinwall node") };
    assert!(node.election.stats().partial_silence);
}

/// A complete partition makes two masters, as it must; when it heals, one advert ends that.
#[test]
fn a_healed_partition() {
    for (settings, winner) in [([0, 100], 0), ([100, 0], 1), ([0, 0], 0)] {
        let mut world = started(&skews(&settings, true), 5);
        world.run_secs(10);
        let set = |world: &mut World, cut| {
            for link in &mut world.cut {
                (link[0][1], link[1][0]) = (cut, cut);
            }
        };
        set(&mut world, true);
        world.run_secs(60);
        assert_eq!(world.holders(0), [0, 1]);
        set(&mut world, false);
        world.watch_anew();
        world.run_secs(60);
        assert_eq!(master(&world), winner, "{settings:?}");
        assert!(world.watch.two < Duration::from_millis(1400), "{:?}", world.watch);
    }
}
