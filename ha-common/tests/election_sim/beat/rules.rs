//! One scenario a rule.

use super::world::World;
use crate::model::daemon::Settings;
use ha_common::election::{Cause, Command, HandOverEnd, Input, Refusal, Wait};
use ha_common::role::Role;
use std::time::Duration;

fn settings(advskew: u8) -> Settings {
    Settings { advskew, preempt: true, maintenance: false, preempt_delay: Duration::ZERO }
}

/// Node 0 is the preferred one and master; everything is in sync.
fn pair(seed: u64) -> World {
    let mut world = World::new([settings(0), settings(100)], seed);
    world.start(0);
    world.start(1);
    world.run_ms(1500);
    assert_eq!(world.master(), 0, "seed {seed}");
    world.watch_anew();
    world
}

const SEEDS: std::ops::Range<u64> = 0..8;

/// Both start at once: the better one is master within 20 ms, and nothing moves after that.
#[test]
fn quick_start() {
    for seed in SEEDS {
        let mut world = World::new([settings(100), settings(0)], seed);
        world.start(0);
        world.start(1);
        world.run_ms(20);
        assert_eq!((world.master(), world.cause(1)), (1, Cause::NoMaster), "seed {seed}");
        world.watch_anew();
        world.run_ms(3000);
        assert_eq!(world.watch.changes, 0, "seed {seed}");
    }
}

/// The other host is powered on half a second later, or never.
#[test]
fn start_alone() {
    let mut world = World::new([settings(100), settings(0)], 1);
    world.start(0);
    world.run_ms(500);
    assert_eq!(world.role(0), Some(Role::Backup));
    world.run_ms(3000);
    assert_eq!(world.role(0), Some(Role::Master));
    let mut world = World::new([settings(100), settings(0)], 1);
    world.start(0);
    world.run_ms(500);
    world.start(1);
    world.run_ms(20);
    assert_eq!(world.master(), 1);
}

/// The master's host dies: its peer has the group within 12 ms.
#[test]
fn crash() {
    for seed in SEEDS {
        let mut world = pair(seed);
        world.crash(0);
        world.run_ms(12);
        assert_eq!((world.master(), world.cause(1)), (1, Cause::PeerDead), "seed {seed}");
    }
}

/// The master's process freezes or is killed: its lease lapses, and its peer has the group within 50 ms. The frozen one,
/// when it goes on, is BACKUP at once, and the better node gets the group back when it may.
#[test]
fn freeze_and_kill() {
    for seed in SEEDS {
        for kill in [false, true] {
            let mut world = pair(seed);
            if kill {
                world.kill(0);
            } else {
                world.freeze(0, Duration::from_millis(2000));
            }
            world.run_ms(50);
            assert!(world.is_open(1) && !world.is_open(0), "seed {seed}");
            assert_eq!(world.cause(1), Cause::LeaseLapsed, "seed {seed}");
            if kill {
                world.start(0);
            }
            world.run_ms(1990);
            assert!(!world.is_open(0) || !world.is_open(1), "seed {seed}");
            world.run_ms(2000);
            assert_eq!((world.master(), world.cause(0)), (0, Cause::Preempt), "seed {seed}");
            assert!(world.watch.none < Duration::from_millis(50), "seed {seed}: {:?}", world.watch);
        }
    }
}

/// A freeze in the middle of a takeover: what was decided before it is void after it.
#[test]
fn freeze_in_the_middle_of_a_takeover() {
    for seed in 0..60 {
        let mut world = pair(seed);
        world.freeze(0, Duration::from_millis(60));
        world.run_ms(35 + seed % 10);
        world.hosts[1].freeze_in_tick = Some(Duration::from_millis(20 + seed));
        world.run_ms(1500);
        world.master();
    }
}

/// A LAN or WAN cable of the master is pulled: the group moves within 8 ms; with one of the sync link nothing moves.
#[test]
fn one_link() {
    for seed in SEEDS {
        for path in 0..3 {
            let mut world = pair(seed);
            world.set_link(0, path, false);
            world.run_ms(8);
            let expected = if path == 2 { 0 } else { 1 };
            assert_eq!(world.master(), expected, "seed {seed}");
            assert!(world.watch.none < Duration::from_millis(6), "seed {seed}: {:?}", world.watch);
        }
    }
}

/// An operator's hand-over: never a moment without an open gate, confirmed, and the better node does not take it back.
#[test]
fn hand_over() {
    for seed in SEEDS {
        let mut world = pair(seed);
        world.command(0, Command::HandOver { force: false });
        world.run_ms(60);
        assert_eq!(world.daemon(0).ends, [HandOverEnd::Done], "seed {seed}");
        assert_eq!((world.cause(0), world.cause(1)), (Cause::HandOver, Cause::HandOver));
        assert!(world.has_vips(0), "the addresses linger");
        world.run_ms(100);
        assert_eq!((world.master(), world.watch.none), (1, Duration::ZERO), "seed {seed}");
        world.run_ms(5000);
        assert_eq!((world.master(), world.watch.changes), (1, 2), "seed {seed}");
    }
}

/// The operator on the backup asks for the group and gets it.
#[test]
fn asking() {
    for seed in SEEDS {
        let mut world = pair(seed);
        world.command(1, Command::Want);
        world.run_ms(300);
        assert_eq!(world.daemon(1).ends, [HandOverEnd::Done], "seed {seed}");
        assert_eq!((world.master(), world.watch.none), (1, Duration::ZERO), "seed {seed}");
    }
}

/// A preferred node comes back: it takes the group once it is in sync, and nobody misses it.
#[test]
fn preemption() {
    for seed in SEEDS {
        let mut world = pair(seed);
        world.crash(0);
        world.run_ms(1000);
        world.watch_anew();
        world.boot(0);
        world.run_ms(200);
        assert_eq!((world.master(), world.daemon(0).election.stats().wait), (1, Some(Wait::NotInSync)));
        world.run_ms(1000);
        assert_eq!((world.master(), world.cause(0)), (0, Cause::Preempt), "seed {seed}");
        assert_eq!(world.watch.none, Duration::ZERO, "seed {seed}");
    }
}

/// A clean stop hands over first; it is over within half a second, and nobody misses the master.
#[test]
fn clean_stop() {
    for seed in SEEDS {
        let mut world = pair(seed);
        world.command(0, Command::Stop);
        world.run_ms(500);
        assert!(world.hosts[0].daemon.is_none(), "stopped");
        assert!(world.is_open(1) && !world.has_vips(0), "seed {seed}");
        assert_eq!(world.watch.none, Duration::ZERO, "seed {seed}");
    }
}

/// A worse demotion moves the group also where nobody preempts, and back when it is over with `preempt` only.
#[test]
fn demotion() {
    for preempt in [false, true] {
        let mut world = World::new([0, 100].map(|skew| Settings { preempt, ..settings(skew) }), 3);
        world.start(0);
        world.start(1);
        world.run_ms(1500);
        world.watch_anew();
        world.input(0, Input::Demotion(10));
        world.run_ms(500);
        assert_eq!((world.master(), world.cause(0), world.cause(1)), (1, Cause::Demoted, Cause::Demoted));
        world.input(0, Input::Demotion(0));
        world.run_ms(500);
        assert_eq!((world.master(), world.watch.none), (if preempt { 0 } else { 1 }, Duration::ZERO));
    }
}

/// Maintenance moves the group away, keeps this node out even when its peer dies, and outlives a restart.
#[test]
fn maintenance() {
    let mut world = pair(4);
    world.command(0, Command::Maintenance(true));
    world.run_ms(500);
    assert_eq!((world.master(), world.cause(0), world.watch.none), (1, Cause::Maintenance, Duration::ZERO));
    world.kill(0);
    world.hosts[0].settings.maintenance = true;
    world.start(0);
    world.run_ms(1000);
    world.command(1, Command::HandOver { force: true });
    world.run_ms(10);
    assert_eq!(world.daemon(1).ends, [HandOverEnd::Refused(Refusal::PeerNotReady)]);
    world.crash(1);
    world.run_ms(10_000);
    assert!(!world.is_open(0));
    assert_eq!(world.daemon(0).election.stats().wait, Some(Wait::Maintenance));
    world.command(0, Command::Maintenance(false));
    world.run_ms(10);
    assert_eq!(world.master(), 0);
}

/// A master under maintenance whose peer cannot take the group keeps it until the peer can.
#[test]
fn maintenance_alone() {
    let mut world = pair(5);
    world.set_link(1, 0, false);
    world.run_ms(10);
    world.command(0, Command::Maintenance(true));
    world.run_ms(2000);
    assert_eq!((world.master(), world.daemon(0).election.stats().wait), (0, Some(Wait::PeerNotReady)));
    world.set_link(1, 0, true);
    world.run_ms(700);
    assert_eq!((world.master(), world.watch.none), (1, Duration::ZERO));
}

/// A process that ends for a restart, and is started again within the grace, goes on in the same term: no gate closes.
#[test]
fn restart_within_the_lease() {
    for seed in SEEDS {
        let mut world = pair(seed);
        let term = world.daemon(0).election.stats().term;
        world.leave(0);
        world.run_ms(300);
        world.start(0);
        world.run_ms(1000);
        assert_eq!((world.master(), world.cause(0)), (0, Cause::Resumed), "seed {seed}");
        assert_eq!((world.daemon(0).election.stats().term, world.watch.changes), (term, 0), "seed {seed}");
    }
}

/// A node in fault whose peer loses its lease: the peer takes the group again itself, at once.
#[test]
fn a_lost_lease_and_nobody_else() {
    for seed in SEEDS {
        let mut world = pair(seed);
        world.set_link(1, 0, false);
        world.run_ms(100);
        world.freeze(0, Duration::from_millis(60));
        world.run_ms(75);
        assert_eq!((world.master(), world.cause(0)), (0, Cause::NoMaster), "seed {seed}");
    }
}

/// The same with a peer whose process is dead, or whose host is.
#[test]
fn a_lost_lease_and_a_dead_peer() {
    for seed in SEEDS {
        for host in [false, true] {
            let mut world = pair(seed);
            if host {
                world.crash(1);
            } else {
                world.kill(1);
            }
            world.run_ms(2000);
            world.freeze(0, Duration::from_millis(1600));
            world.run_ms(1605);
            assert!(!world.is_open(0), "seed {seed}");
            world.run_ms(275);
            assert!(world.is_open(0), "seed {seed}, host {host}");
        }
    }
}

/// Every path is cut: there are two masters, as there must be; when one path is healed, one is left at once, announces
/// again, and nothing storms.
#[test]
fn a_healed_cut() {
    for seed in SEEDS {
        for path in 0..3 {
            let mut world = pair(seed);
            world.cut_all(true);
            world.run_ms(5000);
            assert!(world.is_open(0) && world.is_open(1), "seed {seed}");
            let announced = world.daemon(1).announced;
            world.watch_anew();
            world.cut[path] = [false; 2];
            world.run_ms(100);
            assert_eq!((world.master(), world.cause(0)), (1, Cause::Superseded), "seed {seed}, path {path}");
            assert!(world.daemon(1).announced > announced, "seed {seed}");
            assert_eq!(world.watch.none, Duration::ZERO);
            world.cut_all(false);
            world.run_ms(3000);
            assert!(world.watch.changes <= 4, "seed {seed}: {:?}", world.watch);
        }
    }
}

/// Cut in one direction only, on every path: neither node hears an answer, but the old master's gate is closed by
/// the new one's probes where these arrive.
#[test]
fn a_one_way_cut() {
    for seed in SEEDS {
        let mut world = pair(seed);
        for path in 0..3 {
            world.cut[path][0] = true;
        }
        world.run_ms(20);
        assert!(world.is_open(1) && !world.is_open(0), "seed {seed}");
        world.run_ms(5000);
        assert!(world.is_open(1) && !world.is_open(0), "seed {seed}");
        assert!(world.watch.changes < 10, "seed {seed}: {:?}", world.watch);
    }
}

/// One or two of the three paths cut: nothing moves.
#[test]
fn partial_cuts() {
    for cut in [[true, false, false], [false, true, true], [true, true, false], [true, false, true]] {
        let mut world = pair(6);
        for (path, is_cut) in cut.into_iter().enumerate() {
            world.cut[path] = [is_cut; 2];
        }
        world.run_ms(20_000);
        assert_eq!((world.master(), world.watch.changes), (0, 0), "{cut:?}");
    }
}

/// The whole host is paused, with a clock that counts the pause and with one that does not: the peer takes over, and the
/// paused one finds its gate closed, at the latest by the peer's next probe.
#[test]
fn a_paused_host() {
    for seed in SEEDS {
        for counted in [false, true] {
            let mut world = pair(seed);
            world.pause(0, Duration::from_millis(3000), counted);
            world.run_ms(20);
            assert!(world.is_open(1), "seed {seed}");
            world.run_ms(3030);
            assert!(world.is_open(1) && !world.is_open(0), "seed {seed}");
            assert!(world.watch.excused < Duration::from_millis(25), "seed {seed}: {:?}", world.watch);
            world.run_ms(2000);
            assert_eq!(world.master(), 0, "seed {seed}");
        }
    }
}

/// Flow changes are pending all the time: the operator's hand-over waits half a second for them, and no longer.
#[test]
fn a_busy_sync_link() {
    let mut world = pair(7);
    world.lag = Duration::from_secs(2);
    world.run_ms(200);
    world.command(0, Command::HandOver { force: false });
    world.run_ms(480);
    assert_eq!(world.master(), 0);
    world.run_ms(300);
    assert_eq!((world.master(), world.watch.none), (1, Duration::ZERO));
}

/// A peer that is not in sync is offered nothing, unless forced.
#[test]
fn not_in_sync() {
    let mut world = pair(8);
    world.cut[2] = [true; 2];
    world.run_ms(500);
    world.command(0, Command::HandOver { force: false });
    world.run_ms(10);
    assert_eq!(world.daemon(0).ends, [HandOverEnd::Refused(Refusal::PeerNotReady)]);
    world.command(0, Command::HandOver { force: true });
    world.run_ms(1500);
    assert_eq!((world.master(), world.watch.none), (1, Duration::ZERO));
}
