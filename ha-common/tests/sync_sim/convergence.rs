//! Whatever happens to nodes, kernels and the link, the tables become equal, and stay within their bounds.

use ha_common::role::Role;
use ha_common::sync::flow::Flow;
use ha_common::sync::{Event, Input, Mode};
use std::time::Duration;

/// Runs of each randomised test; `TWINWALL_SIM_SEEDS` asks for more.
fn seeds() -> u64 {
    std::env::var("TWINWALL_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(8)
}
use crate::modes::in_modes;
use crate::weather::{FAIR, STORM, Weather};
use crate::world::{MS, SECOND, World, churn, tcp, udp};

in_modes! {
    converges_in_a_storm: ftfw, alarm, notrack;
    new_flow_arrives_at_once: ftfw, alarm, notrack;
    bulk_to_a_fresh_node: ftfw, alarm, notrack;
    removals_propagate: ftfw, alarm, notrack;
    restart_of_either_side: ftfw, alarm, notrack;
    takeover_and_return: ftfw;
    mastership_wanders: ftfw, alarm, notrack;
    found_flows_wait_for_a_master: ftfw, alarm, notrack;
    a_restarted_master_proves_nothing: ftfw, alarm, notrack;
    lost_events_are_repaired: ftfw, alarm, notrack;
    both_active: ftfw, alarm, notrack;
    both_touch_the_same_flow: ftfw, alarm, notrack;
    flush_on_either_side: ftfw, alarm, notrack;
    idle_udp_flow_lives: ftfw, alarm;
    orphans_expire: ftfw, alarm, notrack;
    partition_heals: ftfw, alarm, notrack;
    backlog_is_bounded: ftfw;
    full_kernel_recovers: ftfw, alarm;
    full_table_is_reported: ftfw, alarm, notrack;
    resync_by_hand: ftfw;
    restart_of_the_peer_after_a_resync: ftfw, alarm, notrack;
    transfers_of_a_new_session_are_not_those_of_the_old: ftfw, alarm, notrack;
    lag_is_reported: ftfw;
    a_flush_says_that_the_peer_holds_what_was_there: ftfw;
}

/// Under loss, repetition and reordering and with churn on the master the tables are equal soon after the
/// churn ends, for many seeds.
fn converges_in_a_storm(mode: Mode) {
    for seed in 0..seeds() {
        let mut world = World::pair(mode, seed, STORM);
        churn(&mut world, 0, 300, 2000, SECOND);
        world.settle();
        assert!(!world.nodes[0].kernel.flows.is_empty());
        assert_eq!(world.stats(0).peers[0].frames_lost > 0, mode == Mode::Ftfw);
    }
}

/// On an idle link a new flow is in the peer's kernel at once: nothing waits for a timer.
fn new_flow_arrives_at_once(mode: Mode) {
    let mut world = World::pair(mode, 1, FAIR);
    world.run(SECOND);
    world.traffic(0, &tcp(1, 1));
    world.run(MS / 5);
    assert_eq!(world.difference(), "");
    // A second one right after it waits for company, but no longer than a millisecond.
    world.traffic(0, &tcp(2, 1));
    assert_ne!(world.difference(), "");
    world.run(MS + MS / 5);
    assert_eq!(world.difference(), "");
}

/// Ten thousand flows reach a fresh node complete, and both sides say so.
fn bulk_to_a_fresh_node(mode: Mode) {
    for weather in [FAIR, STORM] {
        let mut world = World::new(mode, 2, weather);
        world.start(0, Role::Master);
        (0..10_000).for_each(|n| world.traffic(0, &tcp(n, 3)));
        world.run(SECOND);
        world.start(1, Role::Backup);
        world.settle();
        assert_eq!(world.nodes[1].kernel.flows.len(), 10_000);
        let received = |event: &Event| matches!(event, Event::BulkReceived { flows: 10_000, purged: 0, .. });
        assert!(world.nodes[1].events.iter().any(received), "{:?}", world.nodes[1].events);
        world.run(SECOND);
        assert!(world.nodes[0].events.iter().any(|event| matches!(event, Event::BulkSent { flows: 10_000, .. })));
    }
}

/// Removals propagate, also of a flow that is used again at once, also when frames are reordered.
fn removals_propagate(mode: Mode) {
    for seed in 0..seeds() {
        let mut world = World::pair(mode, seed, STORM);
        (0..200).for_each(|n| world.traffic(0, &tcp(n, 3)));
        world.settle();
        for n in 0..200 {
            world.end(0, &tcp(n, 3).key);
            if n % 2 == 0 {
                world.run(MS);
                // The same tuple with another translation and fewer status bits: not an update.
                let mut again = tcp(n, 1);
                again.reply.destination_port = 7;
                world.traffic(0, &again);
            }
        }
        world.settle();
        assert_eq!(world.nodes[1].kernel.flows.len(), 100);
        world.run(SECOND);
        assert_eq!([0, 1].map(|node| world.stats(node).tombstones), [0, 0]);
    }
}

/// Either daemon is killed and started again amid churn: equal tables every time.
fn restart_of_either_side(mode: Mode) {
    for seed in 0..seeds() {
        let mut world = World::pair(mode, seed, STORM);
        churn(&mut world, 0, 200, 1000, SECOND / 2);
        world.kill(1);
        churn(&mut world, 0, 200, 1000, SECOND / 2);
        world.start(1, Role::Backup);
        churn(&mut world, 0, 200, 1000, SECOND / 2);
        world.settle();
        // The master's daemon dies and returns to its role; traffic goes on, unheard, meanwhile.
        world.kill(0);
        for n in 0..50 {
            world.end(0, &tcp(n, 3).key);
            world.traffic(0, &tcp(1000 + n, 3));
        }
        world.start(0, Role::Master);
        churn(&mut world, 0, 200, 1000, SECOND / 2);
        world.settle();
    }
}

/// The master dies, the standby takes over without one kernel write, and the old master returns as standby:
/// what it held and the new master does not is deleted, the rest is not written again needlessly.
fn takeover_and_return(mode: Mode) {
    let mut world = World::pair(mode, 3, FAIR);
    (0..1000).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.settle();
    world.kill(0);
    let before = world.nodes[1].kernel.creates + world.nodes[1].kernel.updates;
    world.run(SECOND);
    world.role(1, Role::Master);
    world.run(SECOND);
    assert_eq!(world.nodes[1].kernel.creates + world.nodes[1].kernel.updates, before);
    assert_eq!(world.stats(1).flows_local, 1000);
    // The new master ends some and has new ones.
    (0..100).for_each(|n| world.end(1, &tcp(n, 3).key));
    (2000..2100).for_each(|n| world.traffic(1, &tcp(n, 3)));
    let before = world.nodes[0].kernel.creates;
    world.start(0, Role::Backup);
    world.settle();
    assert_eq!(world.nodes[0].kernel.flows.len(), 1000);
    assert_eq!(world.nodes[0].kernel.creates - before, 100);
    assert_eq!(world.stats(0).flows_peer, 1000);
    // And back again, by agreement.
    world.role(0, Role::Master);
    world.role(1, Role::Backup);
    churn(&mut world, 0, 200, 1000, SECOND / 2);
    world.settle();
    assert_eq!(world.stats(1).flows_local, 0);
}

/// Mastership wanders under traffic and a storm; the change of role is seen by the sides in either order.
fn mastership_wanders(mode: Mode) {
    for seed in 0..seeds() {
        let mut world = World::pair(mode, seed, STORM);
        for round in 0..4 {
            let (old, new) = (round % 2, 1 - round % 2);
            churn(&mut world, old, 150, 2000, SECOND / 4);
            let order = if world.random.percent(50) {
                [(old, Role::Backup), (new, Role::Master)]
            } else {
                [(new, Role::Master), (old, Role::Backup)]
            };
            for (node, role) in order {
                world.role(node, role);
                let pause = world.random.below(20) as u32;
                world.run(MS * pause);
            }
        }
        churn(&mut world, 0, 150, 2000, SECOND / 4);
        world.settle();
    }
}

/// Both daemons start over full kernels and nobody is master yet: nothing may be deleted. When one becomes
/// master, the other follows it.
fn found_flows_wait_for_a_master(mode: Mode) {
    let mut world = World::new(mode, 4, FAIR);
    (0..100).for_each(|n| world.traffic(0, &tcp(n, 3)));
    (50..150).for_each(|n| world.traffic(1, &tcp(n, 3)));
    world.start(0, Role::Backup);
    world.start(1, Role::Backup);
    world.run(SECOND * 2);
    assert!(world.nodes[0].in_sync && world.nodes[1].in_sync);
    assert_eq!([0, 1].map(|node| world.nodes[node].kernel.flows.len()), [100, 100]);
    world.role(1, Role::Master);
    world.settle();
    assert!((50..150).all(|n| world.nodes[0].kernel.flows.contains_key(&tcp(n, 3).key)));
    assert_eq!(world.nodes[0].kernel.flows.len(), 100);
    assert_eq!(world.stats(0).flows_found, 0);
}

/// The master's daemon restarts and stays backup at first: its empty claim must not cost the standby a flow.
fn a_restarted_master_proves_nothing(mode: Mode) {
    let mut world = World::pair(mode, 5, FAIR);
    (0..100).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.settle();
    world.kill(0);
    world.start(0, Role::Init);
    world.run(SECOND);
    assert_eq!([0, 1].map(|node| world.nodes[node].kernel.flows.len()), [100, 100]);
    world.role(1, Role::Master);
    world.role(0, Role::Backup);
    world.settle();
    assert_eq!(world.nodes[1].kernel.flows.len(), 100);
}

/// Events are lost on either side (ENOBUFS): a dump repairs what was missed, changes, births and deaths.
fn lost_events_are_repaired(mode: Mode) {
    for node in [0, 1] {
        let mut world = World::pair(mode, 6, STORM);
        churn(&mut world, 0, 200, 2000, SECOND / 2);
        world.nodes[node].deaf = true;
        churn(&mut world, 0, 200, 2000, SECOND / 4);
        world.flush(1);
        world.nodes[node].deaf = false;
        world.give(node, Input::EventsLost);
        churn(&mut world, 0, 200, 2000, SECOND / 2);
        world.give(1, Input::EventsLost);
        world.run(SECOND);
        world.settle();
        assert!(world.stats(node).events_lost >= 1);
        assert!(world.stats(node).dumps >= 2);
    }
}

/// Both nodes see traffic of flows of their own at once: the union is on both, and nothing ping-pongs.
fn both_active(mode: Mode) {
    for seed in 0..seeds() {
        let mut world = World::pair(mode, seed, STORM);
        for _ in 0..200 {
            let node = world.random.below(2) as usize;
            let n = world.random.below(50) as u32 + 1000 * node as u32;
            let state = 1 + world.random.below(7) as u8;
            if world.random.percent(20) {
                world.end(node, &tcp(n, 3).key);
            } else {
                world.traffic(node, &tcp(n, state));
            }
            world.run(MS);
        }
        world.settle();
        assert!(world.stats(0).flows_local > 0 && world.stats(1).flows_local > 0);
        world.weather = FAIR;
        world.run(SECOND);
        if mode == Mode::Alarm {
            continue;
        }
        let before = [0, 1].map(|node| world.stats(node).peers[0].flows_sent);
        world.run(SECOND * 5);
        assert_eq!([0, 1].map(|node| world.stats(node).peers[0].flows_sent), before);
    }
}

/// The same flow has traffic on both nodes: the last word wins on both.
fn both_touch_the_same_flow(mode: Mode) {
    for seed in 0..seeds() {
        let mut world = World::pair(mode, seed, STORM);
        for _ in 0..100 {
            let node = world.random.below(2) as usize;
            let flow = Flow { mark: world.random.next() as u32, ..tcp(world.random.below(3) as u32, 3) };
            world.traffic(node, &flow);
            let pause = world.random.below(3) as u32;
            world.run(MS * pause);
        }
        world.settle();
        assert_eq!(world.nodes[0].kernel.flows.len(), world.nodes[1].kernel.flows.len());
    }
}

/// The table of one side is flushed by an operator: on the standby it is restored, on the master it is meant.
fn flush_on_either_side(mode: Mode) {
    let mut world = World::pair(mode, 7, STORM);
    (0..2000).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.settle();
    world.flush(1);
    world.settle();
    assert_eq!(world.nodes[1].kernel.flows.len(), 2000);
    world.flush(0);
    world.settle();
    assert_eq!(world.nodes[1].kernel.flows.len(), 0);
}

/// An idle UDP flow, kept alive on the master by a packet every 20 s that makes no event, is on the standby
/// for an hour; when it ends on the master it ends there too. The price is about one write a minute.
fn idle_udp_flow_lives(mode: Mode) {
    let mut world = World::pair(mode, 8, FAIR);
    world.traffic(0, &udp(1));
    world.settle();
    for _ in 0..180 {
        world.run(SECOND * 20);
        world.packet(0, &udp(1).key);
        assert_eq!(world.difference(), "");
    }
    assert!((30..100).contains(&world.nodes[1].kernel.updates), "{} updates", world.nodes[1].kernel.updates);
    assert_eq!(world.nodes[1].kernel.creates, 1);
    world.run(SECOND * 40);
    assert_eq!([0, 1].map(|node| world.nodes[node].kernel.flows.len()), [0, 0]);
}

/// A standby whose owner is gone stops prolonging: the flow ends by itself.
fn orphans_expire(mode: Mode) {
    let mut world = World::pair(mode, 9, FAIR);
    world.traffic(0, &udp(1));
    world.settle();
    world.kill(0);
    world.run(SECOND * 130);
    assert_eq!(world.nodes[1].kernel.flows.len(), 0);
    assert_eq!(world.stats(1).flows, 0);
}

/// A partition: both become master and go on; when it heals and one steps down, the tables are equal.
fn partition_heals(mode: Mode) {
    for seed in 0..seeds() {
        let mut world = World::pair(mode, seed, FAIR);
        churn(&mut world, 0, 100, 1000, SECOND / 2);
        world.weather = Weather { loss_percent: 100, ..FAIR };
        world.run(SECOND);
        assert!(!world.nodes[1].in_sync);
        world.role(1, Role::Master);
        churn(&mut world, 0, 100, 1000, SECOND / 4);
        churn(&mut world, 1, 100, 1000, SECOND / 4);
        world.weather = STORM;
        let (winner, loser) = if seed % 2 == 0 { (0, 1) } else { (1, 0) };
        let pause = world.random.below(300) as u32;
        world.run(MS * pause);
        world.role(loser, Role::Backup);
        churn(&mut world, winner, 100, 1000, SECOND / 2);
        world.settle();
        assert!(world.nodes[loser].events.iter().filter(|event| matches!(event, Event::PeerUp { .. })).count() >= 2);
    }
}

/// The window is small and hardly a frame comes through: the backlog is the changed flows and no more, and all
/// of it arrives afterwards.
fn backlog_is_bounded(mode: Mode) {
    let mut world = World::new(mode, 10, FAIR);
    world.window_frames = 4;
    world.start(0, Role::Master);
    world.start(1, Role::Backup);
    (0..500).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.settle();
    world.weather = Weather { loss_percent: 80, ..FAIR };
    let mut most = 0;
    for _ in 0..20 {
        churn(&mut world, 0, 500, 20_000, SECOND / 20);
        let peer = &world.stats(0).peers[0];
        most = most.max(peer.backlog_flows);
        // Every third flow of the churn is UDP: as many keys more than there are TCP flows before it.
        assert!(peer.backlog_flows <= 700 && peer.in_flight_flows <= 4 * 40);
    }
    assert!(most > 100, "the test made no backlog: {most}");
    world.weather = FAIR;
    world.settle();
}

/// The standby's kernel is full for a while: creations are tried again until they succeed.
fn full_kernel_recovers(mode: Mode) {
    let mut world = World::pair(mode, 11, FAIR);
    world.nodes[1].kernel.full = true;
    (0..50).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.run(SECOND * 3);
    assert_eq!(world.nodes[1].kernel.flows.len(), 0);
    // The pauses of retries and of repairs both double; a refresh tries at its own pace.
    assert!(world.nodes[1].kernel.creates < 50 * 16 || mode == Mode::Alarm);
    world.nodes[1].kernel.full = false;
    world.run(SECOND * 2);
    assert_eq!(world.difference(), "");
    // For longer than the retries last, too: the keep-alive comes by.
    world.flush(0);
    world.run(SECOND);
    world.nodes[1].kernel.full = true;
    (0..50).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.run(SECOND * 20);
    assert!(world.stats(1).writes_failed >= 50);
    world.nodes[1].kernel.full = false;
    world.run(SECOND * 60);
    assert_eq!(world.difference(), "");
}

/// More flows than the table may hold are refused, counted and reported once.
fn full_table_is_reported(mode: Mode) {
    let mut world = World::new(mode, 12, FAIR);
    world.flows_max = 100;
    world.start(0, Role::Master);
    (0..150).for_each(|n| world.traffic(0, &tcp(n, 3)));
    assert_eq!((world.stats(0).flows, world.stats(0).flows_refused_full), (100, 50));
    assert_eq!(world.nodes[0].events.iter().filter(|event| **event == Event::TableFull).count(), 1);
}

/// Resync asked for by hand sends both tables again and changes nothing when they are equal.
fn resync_by_hand(mode: Mode) {
    let mut world = World::pair(mode, 13, FAIR);
    (0..1000).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.settle();
    let before = world.nodes[1].kernel.creates + world.nodes[1].kernel.updates + world.nodes[1].kernel.deletes;
    let bulks = |world: &World| {
        world.nodes[1].events.iter().filter(|event| matches!(event, Event::BulkReceived { .. })).count()
    };
    let received = bulks(&world);
    world.give(1, Input::Resync);
    world.run(SECOND);
    assert_eq!(bulks(&world), received + 1);
    assert!(world.is_settled());
    assert_eq!(world.nodes[1].kernel.creates + world.nodes[1].kernel.updates + world.nodes[1].kernel.deletes, before);
}

/// A node that has asked for the peer's table more than once in its life gets it as well from a peer that has just
/// started again, whichever of the two speaks first, and however soon.
fn restart_of_the_peer_after_a_resync(mode: Mode) {
    for seed in 0..seeds().max(50) {
        let mut world = World::pair(mode, seed, FAIR);
        (0..50).for_each(|n| world.traffic(0, &tcp(n, 3)));
        world.settle();
        world.give(1, Input::Resync);
        world.settle();
        world.role(0, Role::Backup);
        world.role(1, Role::Master);
        world.kill(0);
        let pause = world.random.below(300) as u32;
        world.run(MS * pause);
        world.start(0, Role::Backup);
        world.settle();
    }
}

/// Flows that ended while the master's daemon was dead are deleted from the standby when it is back, whatever the
/// numbers of the old and the new session's transfers are.
fn transfers_of_a_new_session_are_not_those_of_the_old(mode: Mode) {
    for (before, after) in (0..6).flat_map(|before| (0..6).map(move |after| (before, after))) {
        let mut world = World::pair(mode, 17, FAIR);
        (0..100).for_each(|n| world.traffic(0, &tcp(n, 3)));
        world.settle();
        let resync = |world: &mut World| {
            world.give(1, Input::Resync);
            world.run(SECOND / 10);
        };
        (0..before).for_each(|_| resync(&mut world));
        world.kill(0);
        (0..20).for_each(|n| world.end(0, &tcp(n, 3).key));
        world.start(0, Role::Master);
        (0..after).for_each(|_| resync(&mut world));
        world.settle();
    }
}

/// The lag is reported while changes wait, and falls back to zero.
fn lag_is_reported(mode: Mode) {
    let mut world = World::pair(mode, 14, FAIR);
    world.weather = Weather { loss_percent: 100, ..FAIR };
    world.traffic(0, &tcp(1, 3));
    world.run(Duration::from_millis(300));
    let lag = world.stats(0).health.lag;
    assert!(lag >= Duration::from_millis(150), "{lag:?}");
    world.weather = FAIR;
    world.settle();
    world.run(Duration::from_millis(300));
    assert_eq!(world.stats(0).health.lag, Duration::ZERO);
}

/// A flush ends under a constant stream of new flows and loss, and then everything older than the request is in the
/// peer's kernel; without a peer it does not end.
fn a_flush_says_that_the_peer_holds_what_was_there(mode: Mode) {
    for seed in 0..seeds() {
        let mut world = World::pair(mode, seed, STORM);
        churn(&mut world, 0, 300, 2000, SECOND / 4);
        let asked = world.now;
        let known: Vec<_> = world.nodes[0].kernel.flows.keys().copied().collect();
        world.give(0, Input::Flush);
        let flushed = (0..2000).find(|n| {
            world.traffic(0, &udp(100_000 + n));
            world.run(MS / 2);
            world.stats(0).health.flushed >= asked
        });
        assert!(flushed.is_some(), "seed {seed}: the flush did not end within a second");
        let absent: Vec<_> = known
            .iter()
            .filter(|key| !world.nodes[1].kernel.flows.contains_key(*key))
            .map(|key| (key, world.nodes[0].kernel.flows.get(key)))
            .collect();
        assert!(absent.is_empty(), "seed {seed}: {absent:?} of {}", known.len());
    }
    let mut alone = World::new(mode, 3, FAIR);
    alone.start(0, Role::Master);
    alone.give(0, Input::Flush);
    alone.run(SECOND * 3);
    assert_eq!(alone.stats(0).health.flushed, ha_common::time::Instant(0));
}
