//! What is left over when frames are lost for good or a mastership ends: it does not live for days, and nothing that lives
//! is taken for it.

use crate::modes::in_modes;
use crate::weather::{FAIR, Weather};
use crate::world::{CACHE_TIMEOUT, MS, PURGE_TIMEOUT, REFRESH_TIME, SECOND, World, tcp};
use ha_common::role::Role;
use ha_common::sync::flow::Flow;
use ha_common::sync::{Event, Input, Mode};
use ha_common::time::Instant;

in_modes! {
    removals_lost_for_good: alarm, notrack;
    changes_lost_for_good: alarm, notrack;
    a_dead_peers_flows_do_not_grow_old: alarm, notrack;
    a_mastership_leaves_no_zombies: ftfw, alarm, notrack;
    nobody_else_is_master: ftfw, alarm, notrack;
    the_newest_flows_go_first: ftfw, alarm, notrack;
    flows_swap_sides: ftfw, alarm;
    a_removal_does_not_end_what_lives_elsewhere: ftfw, alarm, notrack;
    nothing_is_sent_twice: notrack;
    a_takeover_over_a_full_kernel: ftfw, alarm, notrack;
    a_removal_overtakes_the_first_dump: ftfw, alarm, notrack;
}

fn len(world: &World, node: usize) -> usize {
    world.nodes[node].kernel.flows.len()
}

/// For how long the kernel of a node still keeps a flow.
fn left(world: &World, node: usize, flow: &Flow) -> Option<std::time::Duration> {
    world.nodes[node].kernel.flows.get(&flow.key).map(|(_, deadline)| deadline.since(world.now))
}

/// Every removal is lost. In ALARM the copies are deleted after the cache timeout and not before, and what lives stays; in
/// NOTRACK they are not prolonged, and a resync cuts what is left of their time.
fn removals_lost_for_good(mode: Mode) {
    let mut world = World::pair(mode, 1, FAIR);
    (0..100).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.settle();
    world.weather.loss_percent = 100;
    (0..50).for_each(|n| world.end(0, &tcp(n, 3).key));
    world.run(SECOND / 5);
    world.weather = FAIR;
    world.run(CACHE_TIMEOUT / 2);
    assert_eq!(len(&world, 1), 100);
    match mode {
        Mode::Ftfw => unreachable!(),
        Mode::Alarm => world.run(CACHE_TIMEOUT / 2 + REFRESH_TIME * 4),
        Mode::Notrack => {
            world.run(SECOND * 200);
            assert!(left(&world, 1, &tcp(0, 3)).unwrap() < SECOND * 432_000 - SECOND * 200, "prolonged");
            world.give(1, Input::Resync);
            world.run(SECOND / 2);
            assert!(left(&world, 1, &tcp(0, 3)).unwrap() <= PURGE_TIMEOUT);
            assert!(left(&world, 1, &tcp(60, 3)).unwrap() > SECOND * 400_000);
            assert_eq!(world.stats(1).cut, 50);
            world.run(PURGE_TIMEOUT + SECOND);
        }
    }
    assert_eq!(world.difference(), "");
    assert_eq!((len(&world, 1), world.stats(1).flows), (50, 50));
}

/// Changes and new flows are lost. In ALARM a refresh brings them; in NOTRACK the next change or a resync does.
fn changes_lost_for_good(mode: Mode) {
    let mut world = World::pair(mode, 2, FAIR);
    (0..100).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.settle();
    world.weather.loss_percent = 100;
    (50..150).for_each(|n| world.traffic(0, &tcp(n, 4)));
    world.run(SECOND / 5);
    world.weather = FAIR;
    assert!(!world.difference().is_empty());
    match mode {
        Mode::Ftfw => unreachable!(),
        Mode::Alarm => world.run(REFRESH_TIME * 2 + MS * 20),
        Mode::Notrack => {
            (50..100).for_each(|n| world.traffic(0, &tcp(n, 5)));
            world.run(SECOND);
            assert_eq!(len(&world, 1), 100);
            world.give(1, Input::Resync);
            world.run(SECOND / 2);
        }
    }
    assert_eq!(world.difference(), "");
}

/// The master dies: long after the cache timeout all of its flows are on the standby, and belong to it when it takes over. The
/// same if the link alone was cut for as long, and came back.
fn a_dead_peers_flows_do_not_grow_old(mode: Mode) {
    for dies in [true, false] {
        let mut world = World::pair(mode, 3, FAIR);
        (0..100).for_each(|n| world.traffic(0, &tcp(n, 3)));
        world.settle();
        if dies {
            world.kill(0);
        }
        world.weather.loss_percent = 100;
        world.run(CACHE_TIMEOUT * 10);
        world.weather = FAIR;
        if dies {
            world.role(1, Role::Master);
        }
        world.run(REFRESH_TIME * 3);
        assert_eq!(len(&world, 1), 100);
        assert_eq!(world.stats(1).flows_local, if dies { 100 } else { 0 });
    }
}

/// A node loses its mastership while the sync link is cut, and never hears of the new master's flows: what it has is cut to
/// the purge timeout, but for flows with traffic here. When the link is back before that, the new master's word decides.
fn a_mastership_leaves_no_zombies(mode: Mode) {
    for heals in [false, true] {
        let mut world = World::pair(mode, 4, FAIR);
        (0..100).for_each(|n| world.traffic(0, &tcp(n, 3)));
        world.settle();
        world.weather.loss_percent = 100;
        world.run(SECOND);
        world.role(1, Role::Master);
        world.role(0, Role::Backup);
        if heals {
            world.weather = FAIR;
            world.run(SECOND * 20);
            assert_eq!((len(&world, 0), world.stats(0).cut), (100, 0));
            continue;
        }
        world.run(SECOND);
        world.traffic(0, &tcp(7, 4));
        world.run(PURGE_TIMEOUT * 2 + SECOND * 2);
        assert_eq!((len(&world, 0), world.stats(0).cut), (1, 99));
        // With the link, the master's table is here again.
        world.weather = FAIR;
        world.run(SECOND);
        world.settle();
        assert_eq!(len(&world, 0), 100);
    }
}

/// A master is at fault and nobody takes over, whether a peer is there or not: it may be master again, and keeps its flows.
fn nobody_else_is_master(mode: Mode) {
    for alone in [false, true] {
        let mut world = World::pair(mode, 5, FAIR);
        (0..100).for_each(|n| world.traffic(0, &tcp(n, 3)));
        world.settle();
        if alone {
            world.kill(1);
        }
        world.run(SECOND);
        world.role(0, Role::Fault);
        world.run(PURGE_TIMEOUT * 5);
        assert_eq!((len(&world, 0), world.stats(0).cut), (100, 0));
        world.role(0, Role::Master);
        world.run(SECOND);
        assert_eq!(world.stats(0).flows_local, 100);
    }
}

/// Of a large table a joining peer gets first what changed lately: when a small part has arrived, all of that is there. In
/// the end everything is.
fn the_newest_flows_go_first(mode: Mode) {
    let mut world = World::new(mode, 6, FAIR);
    world.window_frames = 8;
    world.start(0, Role::Master);
    (0..20_000).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.run(SECOND * 100);
    // Spread over the whole table.
    let lively: Vec<u32> = (0..20_000).step_by(100).collect();
    lively.iter().for_each(|&n| world.traffic(0, &tcp(n, 4)));
    world.start(1, Role::Backup);
    let arrived =
        |world: &World| lively.iter().filter(|&&n| world.nodes[1].kernel.flows.contains_key(&tcp(n, 4).key)).count();
    while arrived(&world) < lively.len() {
        world.run(MS / 10);
        assert!(len(&world, 1) < 2000, "{} of {} lively ones among {}", arrived(&world), lively.len(), len(&world, 1));
    }
    world.run(SECOND * 3);
    assert_eq!((len(&world, 1), world.difference()), (20_000, String::new()));
}

/// Both nodes forward, and every flow wanders from one to the other with each of its changes: in the end both know the last.
fn flows_swap_sides(mode: Mode) {
    for seed in 0..4 {
        let mut world = World::pair(mode, seed, crate::weather::STORM);
        for round in 0..2000u32 {
            let n = world.random.below(20) as u32;
            let state = 3 + world.random.below(2) as u8;
            world.traffic((round % 2) as usize, &Flow { mark: round, ..tcp(n, state) });
            let pause = world.random.below(1500) as u32;
            world.run(MS / 1000 * pause);
        }
        world.settle();
        assert_eq!([0, 1].map(|node| len(&world, node)), [20, 20]);
    }
}

/// A flow has traffic on both nodes. One of them loses it (its own timeout, or an operator); where it lives it stays, and the
/// other gets it back.
fn a_removal_does_not_end_what_lives_elsewhere(mode: Mode) {
    let mut world = World::pair(mode, 8, FAIR);
    let flow = |mark| Flow { mark, ..tcp(1, 3) };
    world.traffic(0, &flow(1));
    world.run(SECOND / 10);
    // The standby has traffic of it, too: it is the standby's now.
    world.traffic(1, &flow(2));
    world.run(SECOND / 10);
    world.end(0, &flow(0).key);
    world.run(SECOND);
    assert_eq!([0, 1].map(|node| len(&world, node)), [1, 1]);
    assert_eq!(world.difference(), "");
}

/// In NOTRACK a change is in one frame, no acknowledgement answers it, and silence is no reason to say it again. A flush ends
/// when everything was sent.
fn nothing_is_sent_twice(mode: Mode) {
    let mut world = World::pair(mode, 9, FAIR);
    world.run(SECOND);
    let before = [0, 1].map(|node| world.stats(node).peers[0].clone());
    (0..1000).for_each(|n| world.traffic(0, &tcp(n, 3)));
    let asked = world.now;
    world.give(0, Input::Flush);
    world.weather.loss_percent = 100;
    world.run(SECOND / 10);
    assert!(world.stats(0).health.flushed >= asked && asked > Instant(0));
    let after = world.stats(0).peers[0].clone();
    assert_eq!(after.flows_sent - before[0].flows_sent, 1000);
    assert_eq!((after.acked_sequence, after.in_flight_flows, after.backlog_flows), (0, 0, 0));
    world.weather = FAIR;
    world.run(SECOND);
    assert_eq!(world.stats(0).peers[0].flows_sent, after.flows_sent);
    // Hellos alone.
    assert!(world.stats(1).peers[0].frames_sent - before[1].frames_sent < 15);
    assert!(!world.nodes[0].events.iter().any(|event| matches!(event, Event::TablesDiffer { .. })));
}

/// The standby's kernel has no room when it takes over: what it could not create is tried for some seconds more. What fails
/// in the end is not answered for: the returning peer ends it, too.
fn a_takeover_over_a_full_kernel(mode: Mode) {
    for has_room_soon in [true, false] {
        let mut world = World::pair(mode, 7, FAIR);
        world.nodes[1].kernel.full = true;
        (0..20).for_each(|n| world.traffic(0, &tcp(n, 3)));
        world.run(SECOND / 4);
        assert_eq!(len(&world, 1), 0);
        world.kill(0);
        world.role(1, Role::Master);
        world.run(SECOND * 2);
        world.nodes[1].kernel.full = !has_room_soon;
        world.run(SECOND * 10);
        world.nodes[1].kernel.full = false;
        let kept = if has_room_soon { 20 } else { 0 };
        assert_eq!((len(&world, 1), world.stats(1).flows_local), (kept, kept as u64));
        world.start(0, Role::Backup);
        world.settle();
        assert_eq!(len(&world, 0), kept);
    }
}

/// A standby that has started anew still reads its kernel's table, and its peer's transfer is slow, when it hears that flows
/// have ended which neither has named: they go when the kernel names them.
fn a_removal_overtakes_the_first_dump(mode: Mode) {
    let mut world = World::new(mode, 8, Weather { jitter: MS * 3, ..FAIR });
    (world.window_frames, world.dump_lines) = (2, 1);
    world.start(0, Role::Master);
    world.start(1, Role::Backup);
    (0..2000).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.settle();
    world.kill(1);
    world.start(1, Role::Backup);
    for n in 0..1000 {
        world.end(0, &tcp(2 * n, 3).key);
        world.run(MS / 4);
    }
    world.settle();
    assert_eq!((len(&world, 0), len(&world, 1)), (1000, 1000));
}
