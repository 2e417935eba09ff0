//! Forged, recorded, reflected, altered and foreign datagrams: they change counters and nothing else.

use crate::modes::in_modes;
use crate::weather::FAIR;
use crate::world::{MS, SECOND, World, churn, config, key, tcp};
use ha_common::reason::DropReason;
use ha_common::role::Role;
use ha_common::secret::ClusterKey;
use ha_common::sync::{Action, Config, Engine, Input, LinkId, Mode};
use ha_common::time::Instant;

in_modes! {
    replay_and_reflection: ftfw, alarm, notrack;
    old_sessions_stay_ended: ftfw, alarm, notrack;
    altered_and_truncated: ftfw, alarm, notrack;
}

/// What an attack must not change: the kernel, what was written to it, whose session is current.
fn fingerprint(world: &World, node: usize) -> impl PartialEq + std::fmt::Debug + use<> {
    let kernel = &world.nodes[node].kernel;
    let stats = world.stats(node);
    (
        (kernel.creates, kernel.updates, kernel.deletes, kernel.flows.len()),
        (stats.flows, stats.flows_local, stats.flows_peer, stats.tombstones, stats.health),
        stats.peers.iter().map(|peer| (peer.alive, peer.session, peer.received_sequence)).collect::<Vec<_>>(),
    )
}

fn refused(world: &World, node: usize) -> u64 {
    world.stats(node).refused.iter().sum()
}

/// A pair with a recorded past.
fn recorded(mode: Mode) -> (World, [Vec<Vec<u8>>; 2]) {
    let mut world = World::new(mode, 1, FAIR);
    world.record = Some(Default::default());
    world.start(0, Role::Master);
    world.start(1, Role::Backup);
    churn(&mut world, 0, 50, 1000, SECOND / 2);
    world.settle();
    world.run(SECOND);
    let record = world.record.take().unwrap();
    // What was on its way arrives: it is no replay yet.
    world.run(MS);
    (world, record)
}

/// Gives `datagrams` to the node and checks that each was refused and nothing changed.
fn attack<'a>(world: &mut World, node: usize, datagrams: impl Iterator<Item = &'a [u8]>) {
    let before = (fingerprint(world, node), refused(world, node));
    let mut given = 0;
    for bytes in datagrams {
        world.give(node, Input::Datagram { link: LinkId(0), bytes });
        given += 1;
    }
    assert!(given > 0);
    assert_eq!((fingerprint(world, node), refused(world, node)), (before.0, before.1 + given));
}

/// Every datagram of the session so far, given again to its receiver and reflected to its sender, is refused.
fn replay_and_reflection(mode: Mode) {
    let (mut world, record) = recorded(mode);
    for node in [0, 1] {
        attack(&mut world, node, record[1 - node].iter().map(Vec::as_slice));
        attack(&mut world, node, record[node].iter().map(Vec::as_slice));
    }
    assert!(world.stats(0).refused[DropReason::FrameReplay as usize] > 0);
    assert!(world.stats(0).refused[DropReason::FrameTarget as usize] > 0);
}

/// After each side has restarted, the past of the ended sessions is worth nothing, in any order.
fn old_sessions_stay_ended(mode: Mode) {
    let (mut world, record) = recorded(mode);
    for restarted in [0, 1] {
        world.kill(restarted);
        world.start(restarted, world.nodes[restarted].role);
        world.settle();
        world.run(SECOND);
        for node in [0, 1] {
            let before = fingerprint(&world, node);
            for bytes in record[1 - node].iter().chain(record[1 - node].iter().rev()) {
                world.give(node, Input::Datagram { link: LinkId(0), bytes });
            }
            assert_eq!(fingerprint(&world, node), before);
        }
        assert!(world.stats(1).refused[DropReason::FrameSession as usize] > 0);
    }
    churn(&mut world, 0, 50, 1000, SECOND / 4);
    world.settle();
}

/// Fresh datagrams with a bit flipped, cut short or lengthened are refused.
fn altered_and_truncated(mode: Mode) {
    let (mut world, _) = recorded(mode);
    world.record = Some(Default::default());
    // The link carries nothing, so the datagrams made now are new to their receiver.
    world.weather.loss_percent = 100;
    (1000..1020).for_each(|n| world.traffic(0, &tcp(n, 3)));
    world.run(SECOND / 5);
    let fresh = world.record.take().unwrap()[0].clone();
    assert!(fresh.len() > 2);
    let mut altered = Vec::new();
    for datagram in &fresh {
        for _ in 0..50 {
            let mut copy = datagram.clone();
            let bit = world.random.below(copy.len() as u64 * 8) as usize;
            copy[bit / 8] ^= 1 << (bit % 8);
            // Flags and reserved bytes of a sealed frame are covered as well: nothing in it is free.
            altered.push(copy);
        }
        altered.extend((0..datagram.len()).step_by(7).map(|length| datagram[..length].to_vec()));
        altered.push([datagram.as_slice(), &[0]].concat());
    }
    attack(&mut world, 1, altered.iter().map(Vec::as_slice));
    world.weather = FAIR;
    world.settle();
}

/// A node with another secret, another cluster's name, another key epoch or an unknown number is refused,
/// each for its own reason.
#[test]
fn foreigners() {
    let (mut world, _) = recorded(Mode::Ftfw);
    let other = ClusterKey { secret: b"some other secret".to_vec().into(), ..key(1) };
    let foreigners = [
        (Config { keys: vec![other], ..config(0, 77) }, DropReason::FrameAuth),
        (Config { cluster: "core".into(), ..config(0, 77) }, DropReason::FrameCluster),
        (Config { keys: vec![key(2)], ..config(0, 77) }, DropReason::FrameKeyEpoch),
        (Config { node: ha_common::role::NodeId(7), ..config(0, 77) }, DropReason::FrameSender),
    ];
    for (config, reason) in foreigners {
        let mut actions = Vec::new();
        Engine::new(config, 1).handle(world.now, Input::Timer, &mut actions);
        let hello = actions.iter().find_map(|action| match action {
            Action::Send { datagram, .. } => Some(datagram.clone()),
            _ => None,
        });
        let before = world.stats(1).refused[reason as usize];
        attack(&mut world, 1, hello.iter().map(Vec::as_slice));
        assert_eq!(world.stats(1).refused[reason as usize], before + 1, "{reason:?}");
    }
}

/// An unknown session is answered, at most once each 10 ms, and gets nothing else before it proves itself.
#[test]
fn strangers_are_answered_rarely() {
    let (mut world, _) = recorded(Mode::Ftfw);
    let sent = world.stats(1).peers[0].frames_sent;
    for session in 0..1000 {
        let mut actions = Vec::new();
        Engine::new(config(0, 1000 + session), 1).handle(Instant(0), Input::Timer, &mut actions);
        for action in &actions {
            if let Action::Send { datagram, .. } = action {
                world.give(1, Input::Datagram { link: LinkId(0), bytes: datagram });
            }
        }
        world.run(SECOND / 10_000);
    }
    // 100 ms: ten answers and what the session itself sends.
    let answers = world.stats(1).peers[0].frames_sent - sent;
    assert!((5..20).contains(&answers), "{answers} answers");
    assert!(world.is_settled());
}
