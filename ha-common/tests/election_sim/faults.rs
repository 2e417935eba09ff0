//! Random faults, then peace.

use crate::node::SEGMENTS;
use crate::world::{Machine, World};
use ha_common::election::Command;
use std::time::Duration;

/// One random change for the worse or the better.
fn fault(world: &mut World) {
    let nodes = world.machines.len() as u64;
    let index = world.rng.below(nodes) as usize;
    let other = world.rng.below(nodes) as usize;
    let segment = world.rng.below(SEGMENTS as u64) as usize;
    match world.rng.below(12) {
        0 | 1 => world.crash(index),
        2 | 3 if matches!(world.machines[index], Machine::Down) => world.start_twinwall(index),
        2 | 3 => {
            world.command(index, Command::Stop);
            world.crash(index);
        }
        4 => {
            let link = world.rng.below(SEGMENTS as u64 + 1) as usize;
            let is = world.cut[link][index][other];
            world.cut[link][index][other] = !is;
            world.cut[link][other][index] = !is;
        }
        5 => world.cut[segment][index][other] ^= true,
        6 => {
            let up = world.link_up[index][segment];
            world.set_link(index, segment, !up);
        }
        7 => world.command(index, Command::HandOver { force: true }),
        8 => world.loss_percent = [0, 0, 5, 30][world.rng.below(4) as usize],
        9 => world.delay_max = [Duration::from_millis(1), Duration::from_millis(80)][world.rng.below(2) as usize],
        _ => peace(world),
    }
}

/// Ends every fault.
pub fn peace(world: &mut World) {
    world.cut.iter_mut().flatten().flatten().for_each(|cut| *cut = false);
    world.loss_percent = 0;
    world.delay_max = Duration::from_millis(2);
    for index in 0..world.machines.len() {
        for segment in 0..SEGMENTS {
            if !world.link_up[index][segment] {
                world.set_link(index, segment, true);
            }
        }
        if matches!(world.machines[index], Machine::Down) {
            world.start_twinwall(index);
        }
    }
}

/// Two simulated minutes of faults.
pub fn storm(world: &mut World) {
    for _ in 0..30 {
        fault(world);
        let pause = Duration::from_millis(world.rng.below(8000));
        world.run(pause);
    }
}
