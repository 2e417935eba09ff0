//! What must be seen, and how soon.

use crate::world::{MS, World};
use ha_common::sight::Sight;
use ha_common::wire::heartbeat::{Gate, ROLE_MASTER, Standing};
use std::time::Duration;

/// How long after a crash of its peer, at a random moment, node 0 found it silent; it is given `patience`.
fn crash(world: &mut World, patience: Duration) -> Duration {
    let phase = world.rng.duration(MS * 50);
    world.run(phase);
    let crashed = world.now;
    world.crash(1);
    world.run(patience);
    world.nodes[0].silent_at().expect("found silent").since(crashed)
}

/// A crash at a random moment on idle links: found within 7 ms (five unanswered rounds, the rest of an interval, and the
/// tick), with two paths as with three; never before four whole intervals are over.
#[test]
fn a_crash_is_found_within_seven_milliseconds() {
    for seed in 0..200 {
        let mut world = World::settled(2 + (seed % 2) as usize, seed);
        let took = crash(&mut world, MS * 100);
        assert!(took <= MS * 7 && took > MS * 4, "seed {seed}: {took:?}");
        assert_eq!(world.nodes[0].silences(), 1);
        assert_eq!(world.nodes[0].prober.stats().silences, 1);
    }
}

/// A crash while every fifth frame is lost each way, after ten seconds of it: found within 60 ms.
#[test]
fn a_crash_under_loss_is_found_within_the_bound() {
    for seed in 0..5 {
        let mut world = World::settled(3, seed);
        world.links.iter_mut().for_each(|link| link.loss = 200);
        world.run(MS * 10_000);
        let took = crash(&mut world, MS * 200);
        assert!(took <= MS * 60, "seed {seed}: {took:?}");
    }
}

/// A crash around a stop of the watcher, of up to two seconds: found within 7 ms after the stop's end, and what the stop
/// has to be made up for by (as long again, up to 200 ms).
#[test]
fn a_crash_during_a_stop_is_found() {
    for seed in 0..40 {
        let mut world = World::settled(3, seed);
        let stop = world.rng.duration(MS * 2000);
        world.stop(0, stop);
        let bound = stop + stop.min(MS * 200) + MS * 7;
        let took = crash(&mut world, bound);
        assert!(took <= bound, "seed {seed}: stop {stop:?}, found after {took:?}");
    }
}

/// All paths cut at once is the same as a crash from outside; healed, the peer is seen within two slow probes, and
/// within a second of the verdict it counts as a false alarm.
#[test]
fn after_silence_every_answer_is_life() {
    for (cut, recovered) in [(MS * 300, 1), (MS * 5000, 0)] {
        let mut world = World::settled(3, 7);
        world.links.iter_mut().for_each(|link| link.cut = true);
        world.run(cut);
        assert!(matches!(world.nodes[0].prober.sight(), Sight::Silent { .. }));
        world.links.iter_mut().for_each(|link| link.cut = false);
        world.run(MS * 20);
        assert!(world.nodes.iter().all(crate::world::Node::is_alive));
        assert_eq!(world.nodes[0].prober.stats().recovered, recovered);
    }
}

/// A peer that restarts is a new report at once, not a death, and its former session is refused from then on.
#[test]
fn a_restart_is_no_death() {
    let mut world = World::settled(3, 3);
    world.restart(1);
    world.run(MS * 100);
    let told: Vec<u64> = world.nodes[0]
        .told
        .iter()
        .map(|(_, sight)| match sight {
            Sight::Alive(report) => report.session,
            Sight::Unknown | Sight::Silent { .. } => panic!("{sight:?}"),
        })
        .collect();
    assert_eq!(told, [2, 4]);
}

/// A change of standing or term is told once, within two intervals, and the ages do not tell anything.
#[test]
fn news_are_told_once() {
    let mut world = World::settled(3, 5);
    world.run(MS * 500);
    assert_eq!(world.nodes[0].told.len(), 1);
    world.nodes[1].standing = Standing { role: ROLE_MASTER, gate: Gate::Open, ..Standing::default() };
    world.nodes[1].term = 0x201;
    world.run(MS * 2);
    let Some((_, Sight::Alive(report))) = world.nodes[0].told.last() else { panic!("not alive") };
    assert!(report.serves() && report.term == 0x201);
    world.run(MS * 100);
    assert_eq!(world.nodes[0].told.len(), 2);
    let Sight::Alive(fresh) = world.nodes[0].prober.sight() else { panic!("not alive") };
    assert!(world.now.since(fresh.heard) <= MS * 2);
}

/// A peer that never answers (ucarp, no XDP) is unknown, and costs few probes: a second at full pace, then 20 a second on
/// each path, all to the group. Once it answers it is alive within that pace.
#[test]
fn a_peer_that_never_answered_is_unknown() {
    let mut world = World::new(3, 9);
    world.links.iter_mut().for_each(|link| link.cut = true);
    world.run(MS * 11_000);
    let node = &world.nodes[0];
    assert!(node.told.is_empty() && node.prober.sight() == Sight::Unknown);
    assert!(node.probes.iter().all(|sent| (1190..=1220).contains(sent)), "{:?}", node.probes);
    assert!(node.to_group.iter().all(|group| *group));
    world.links[1].cut = false;
    world.run(MS * 60);
    assert!(world.nodes[0].is_alive());
}

/// Counters of a path: with one frame of ten lost each way about a fifth of the probes is lost; the round trip is the
/// link's, and while answers come the path is up and probes go to the peer's address.
#[test]
fn paths_are_counted() {
    let mut world = World::settled(3, 21);
    world.links[1].loss = 100;
    world.links[2].cut = true;
    world.run(MS * 10_000);
    let stats = world.nodes[0].prober.stats();
    let [good, lossy, cut] = &stats.paths[..] else { panic!("three paths") };
    assert!(good.up && lossy.up && !cut.up);
    assert_eq!((good.lost, good.sent - good.replies <= 1), (0, true));
    assert!((1600..2200).contains(&lossy.lost), "{}", lossy.lost);
    assert!(cut.sent - cut.replies == cut.lost && cut.lost > 1100, "{}", cut.lost);
    assert_eq!(good.rtt.quantile(1000), Some(good.rtt.max()));
    assert!(good.rtt.max() < MS / 10 && good.jitter < MS / 50 && !good.jitter.is_zero());
    assert_eq!(good.mac, Some([2, 0, 0, 0, 1, 0]));
    assert_eq!(world.nodes[0].to_group, [false, false, true]);
}
