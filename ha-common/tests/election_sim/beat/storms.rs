//! Random faults over many seeds, with the watch over the gates after every event; then peace.

use super::world::World;
use crate::model::daemon::Settings;
use crate::model::lease_kernel::PATHS;
use ha_common::election::{Command, Input};
use std::time::Duration;

/// Seeds of one kind of pair; `TWINWALL_SIM_SEEDS` asks for more.
pub fn seeds() -> u64 {
    std::env::var("TWINWALL_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(12)
}

/// `TWINWALL_SIM_FIRST` begins elsewhere.
pub fn first_seed() -> u64 {
    std::env::var("TWINWALL_SIM_FIRST").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0)
}

/// Which faults there are: `clean` leaves one path without loss or cut, so that two open gates are never excused but by
/// what does not run.
#[derive(Clone, Copy)]
struct Kind {
    settings: [Settings; 2],
    clean: bool,
}

fn settings(advskew: u8, preempt: bool) -> Settings {
    Settings { advskew, preempt, maintenance: false, preempt_delay: Duration::ZERO }
}

/// One random change for the worse or the better.
fn fault(world: &mut World, clean: bool) {
    let index = world.rng.below(2) as usize;
    let spared = world.seed as usize % PATHS;
    let path = match world.rng.below(PATHS as u64) as usize {
        path if clean && path == spared => (path + 1) % PATHS,
        path => path,
    };
    let short = Duration::from_micros(world.rng.below(200_000));
    match world.rng.below(20) {
        0 | 1 => world.freeze(index, short),
        2 => world.freeze(index, short * 20),
        3 => world.hosts[index].freeze_in_tick = Some(short),
        4 => world.pause(index, short * 5, world.seed.is_multiple_of(2)),
        5 => world.kill(index),
        6 | 7 => restart(world, index),
        8 => world.crash(index),
        9 => world.cut[path] = [true; 2],
        10 => world.cut[path][index] ^= true,
        11 => world.loss_percent[path] = [0, 10, 50][world.rng.below(3) as usize],
        12 if path < 2 || !clean => {
            let up = world.link_up[index][path];
            world.set_link(index, path, !up);
        }
        13 => world.command(index, Command::HandOver { force: world.seed.is_multiple_of(3) }),
        14 => world.command(index, Command::Want),
        15 => {
            let on = world.rng.below(2) == 0;
            world.hosts[index].settings.maintenance = on;
            world.command(index, Command::Maintenance(on));
        }
        16 => {
            let total = [0, 0, 10, 300][world.rng.below(4) as usize];
            world.input(index, Input::Demotion(total));
        }
        17 => world.command(index, Command::Stop),
        18 => world.delay_max = Duration::from_micros([50, 200, 2000][world.rng.below(3) as usize]),
        _ => peace(world),
    }
}

fn restart(world: &mut World, index: usize) {
    if world.hosts[index].kernel.is_none() {
        world.boot(index);
    } else {
        world.kill(index);
        world.start(index);
    }
}

/// Ends every fault.
fn peace(world: &mut World) {
    world.cut_all(false);
    world.loss_percent = [0; PATHS];
    world.delay_max = Duration::from_micros(200);
    for index in 0..2 {
        world.hosts[index].settings.maintenance = false;
        world.command(index, Command::Maintenance(false));
        world.input(index, Input::Demotion(0));
        for path in 0..PATHS {
            if !world.link_up[index][path] {
                world.set_link(index, path, true);
            }
        }
        if world.hosts[index].kernel.is_none() {
            world.boot(index);
        } else if world.hosts[index].daemon.is_none() {
            world.start(index);
        }
    }
}

/// Forty faults, then peace. Never two open gates (the world panics); then one master soon, with the addresses alone;
/// and it stays, but for one preemption.
fn survives_storms(kind: Kind) {
    for seed in first_seed()..first_seed() + seeds() {
        let mut world = World::new(kind.settings, seed);
        world.start(0);
        world.start(1);
        world.run_ms(500);
        world.master();
        for _ in 0..40 {
            fault(&mut world, kind.clean);
            // Faults come one upon the other, or with time to settle.
            let span = [3_000, 60_000, 600_000][world.rng.below(3) as usize];
            let pause = Duration::from_micros(world.rng.below(span));
            world.run(pause);
        }
        peace(&mut world);
        // The longest freeze, and then a promise at most.
        world.run_ms(4500);
        world.master();
        world.watch_anew();
        world.run_ms(1500);
        assert_eq!(world.watch.none, Duration::ZERO, "seed {seed}: {:?}", world.watch);
        assert!(world.watch.changes <= 2, "seed {seed}: {:?}", world.watch);
        world.master();
    }
}

/// A preferred and a second node, one path always clean.
#[test]
fn unequal_pair_with_a_clean_path() {
    survives_storms(Kind { settings: [settings(0, true), settings(100, true)], clean: true });
}

/// Equal nodes, one path always clean.
#[test]
fn equal_pair_with_a_clean_path() {
    survives_storms(Kind { settings: [settings(0, true), settings(0, true)], clean: true });
}

/// Nobody preempts, one path always clean.
#[test]
fn patient_pair_with_a_clean_path() {
    survives_storms(Kind { settings: [settings(0, false), settings(100, false)], clean: true });
}

/// All paths may be cut: two gates are excused while they are, and no longer.
#[test]
fn unequal_pair_with_everything_cut() {
    survives_storms(Kind { settings: [settings(0, true), settings(100, true)], clean: false });
}
