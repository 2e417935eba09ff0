//! Short races, many of them: both nodes are brought to the point where either might take over, with everything that a
//! decision depends on changing every few hundred microseconds. Every path is clean: nothing is excused.

use super::storms::{first_seed, seeds};
use super::world::World;
use crate::model::daemon::Settings;
use ha_common::election::{Command, Input};
use std::time::Duration;

/// Milliseconds up to `bound`, to the microsecond.
fn up_to(world: &mut World, bound: u64) -> Duration {
    Duration::from_micros(world.rng.below(bound * 1000))
}

/// One small change, of a kind that moves ranks or delays a controller.
fn nudge(world: &mut World) {
    let index = world.rng.below(2) as usize;
    match world.rng.below(8) {
        0 | 1 => {
            let total = world.rng.below(3) as u16;
            world.input(index, Input::Demotion(total));
        }
        2 => {
            let on = world.rng.below(2) == 0;
            world.command(index, Command::Maintenance(on));
        }
        3 => {
            let up = world.link_up[index][0];
            world.set_link(index, 0, !up);
        }
        4 => {
            let length = up_to(world, 70);
            world.freeze(index, length);
        }
        5 => world.hosts[index].freeze_in_tick = Some(up_to(world, 70)),
        6 => world.delay_max = [50, 300, 2000].map(Duration::from_micros)[world.rng.below(3) as usize],
        _ => {
            world.kill(index);
            world.start(index);
        }
    }
}

/// The beginning of a race.
fn begin(world: &mut World) {
    let (first, second) = (up_to(world, 60), up_to(world, 60));
    match world.rng.below(4) {
        // The master's lease is about to lapse, or not quite; its peer may be away as well.
        0 | 1 => {
            let master = usize::from(world.is_open(1));
            world.freeze(master, first);
            if world.rng.below(2) == 0 {
                world.freeze(1 - master, second);
            }
        }
        // Both start within a moment of each other, and find nobody.
        2 => {
            world.kill(0);
            world.kill(1);
            world.run(Duration::from_millis(40));
            world.start(0);
            world.run(first / 10);
            world.start(1);
        }
        _ => {
            let index = world.rng.below(2) as usize;
            world.command(index, Command::Want);
            world.command(1 - index, Command::HandOver { force: world.seed.is_multiple_of(2) });
        }
    }
}

/// Afterwards everything is as before the race.
fn settle(world: &mut World) {
    world.run_ms(160);
    world.delay_max = Duration::from_micros(200);
    for index in 0..2 {
        world.command(index, Command::Maintenance(false));
        world.input(index, Input::Demotion(0));
        if world.hosts[index].daemon.is_none() {
            world.start(index);
        }
        if !world.link_up[index][0] {
            world.set_link(index, 0, true);
        }
    }
    world.run_ms(350);
}

/// Sixty races a seed. The world panics at two open gates; after each race somebody serves.
#[test]
fn never_both() {
    let settings = |advskew| Settings { advskew, preempt: true, maintenance: false, preempt_delay: Duration::ZERO };
    for seed in first_seed()..first_seed() + seeds() {
        let mut world = World::new([settings(0), settings(if seed.is_multiple_of(2) { 0 } else { 100 })], seed);
        world.start(0);
        world.start(1);
        world.run_ms(400);
        for race in 0..60 {
            begin(&mut world);
            for _ in 0..world.rng.below(40) {
                nudge(&mut world);
                let pause = up_to(&mut world, 2);
                world.run(pause);
            }
            settle(&mut world);
            assert!(world.is_open(0) || world.is_open(1), "seed {seed}, race {race}");
        }
    }
}
