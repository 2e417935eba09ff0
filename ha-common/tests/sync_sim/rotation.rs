//! Another secret takes the place of the one in use, while flows change and datagrams are lost: the session goes on.

use crate::modes::in_modes;
use crate::weather::{FAIR, STORM};
use crate::world::{MS, SECOND, World, churn, key};
use ha_common::reason::DropReason;
use ha_common::role::Role;
use ha_common::sync::{Event, Mode, PeerId};

in_modes! {
    amid_churn_and_loss: ftfw, alarm, notrack;
    amid_restarts: ftfw, alarm, notrack;
}

/// Epoch in use, epochs that the peer accepts, session of the peer.
fn keys(world: &World, node: usize) -> (u8, Vec<u8>, u64) {
    let peer = world.stats(node).peers.remove(0);
    (peer.key_epoch, peer.key_epochs_accepted, peer.session)
}

fn sessions(world: &World) -> [u64; 2] {
    [0, 1].map(|node| keys(world, node).2)
}

/// In either order of the reloads, each step amid churn over a link that loses a quarter: the peers move to the new secret
/// when both hold it, the old one is retired, no session ends and no peer is ever down, and the tables are equal. The
/// world fails on any nonce that is used twice.
fn amid_churn_and_loss(mode: Mode) {
    for (seed, order) in [(1, [0, 1]), (2, [1, 0])] {
        let mut world = World::pair(mode, seed, STORM);
        let (before, [first, second]) = (sessions(&world), order);
        world.nodes.iter_mut().for_each(|node| node.events.clear());
        for (node, epochs) in [(first, &[1, 2][..]), (second, &[1, 2]), (first, &[2]), (second, &[2])] {
            assert_eq!(
                world.nodes[node]
                    .engine
                    .as_ref()
                    .unwrap()
                    .peer_without(&epochs.iter().copied().map(key).collect::<Vec<_>>()),
                None
            );
            world.hold(node, epochs);
            churn(&mut world, 0, 200, 1000, SECOND / 2);
        }
        world.settle();
        assert_eq!([0, 1].map(|node| keys(&world, node).0), [2, 2]);
        assert_eq!(sessions(&world), before, "the sessions went on");
        for (node, state) in world.nodes.iter().enumerate() {
            let moved: Vec<_> = state.events.iter().filter(|event| matches!(event, Event::KeyChanged { .. })).collect();
            assert_eq!(moved, [&Event::KeyChanged { peer: PeerId(0), from: 1, to: 2 }], "node {node}");
            let broken = |event: &&Event| matches!(event, Event::PeerDown { .. } | Event::PeerUp { .. });
            assert_eq!(state.events.iter().find(broken), None, "node {node}");
        }
    }
}

/// Nodes are killed and started in the middle of a rotation, with what their files hold then: they find each other
/// under what they have in common.
fn amid_restarts(mode: Mode) {
    let mut world = World::pair(mode, 3, STORM);
    let mut reached = Vec::new();
    for (node, epochs) in [(0, &[1, 2][..]), (1, &[1, 2]), (1, &[2]), (0, &[2]), (0, &[2, 3]), (1, &[2, 3])] {
        world.kill(node);
        world.nodes[node].keys = epochs.iter().copied().map(key).collect();
        // Flows change where the master's packets pass, whether its daemon hears of it or not.
        churn(&mut world, 0, 100, 1000, SECOND / 4);
        world.start(node, if node == 0 { Role::Master } else { Role::Backup });
        world.settle();
        reached.push([0, 1].map(|node| keys(&world, node).0));
    }
    assert_eq!(reached, [[1, 1], [2, 2], [2, 2], [2, 2], [2, 2], [3, 3]]);
}

/// A secret that is taken away and comes back is used with fresh sequences: the world fails on a nonce used twice.
#[test]
fn a_secret_comes_back() {
    let mut world = World::pair(Mode::Ftfw, 4, FAIR);
    for epochs in [&[1, 2][..], &[1], &[1, 2], &[1]] {
        for node in [0, 1] {
            world.hold(node, epochs);
            churn(&mut world, 0, 100, 1000, SECOND / 4);
        }
        world.settle();
        assert_eq!([0, 1].map(|node| keys(&world, node).0), [*epochs.last().unwrap(); 2]);
    }
}

/// A node that is asked to hold a secret alone that its peer does not have says so; a peer that is gone is not asked.
#[test]
fn a_peer_without_the_new_secret_is_named() {
    let mut world = World::pair(Mode::Ftfw, 5, FAIR);
    let without = |world: &World, epoch| world.nodes[0].engine.as_ref().unwrap().peer_without(&[key(epoch)]);
    world.hold(0, &[1, 2]);
    world.run(SECOND);
    assert_eq!((without(&world, 1), without(&world, 2)), (None, Some(PeerId(0))));
    world.hold(1, &[1, 2]);
    world.run(SECOND);
    assert_eq!(without(&world, 2), None);
    world.kill(1);
    world.run(SECOND);
    assert_eq!(without(&world, 7), None);
}

/// After the old secret is retired what is sealed under it is refused by its name; so is everything of a node that
/// still holds it alone.
#[test]
fn a_retired_secret_is_refused() {
    let mut world = World::pair(Mode::Ftfw, 6, FAIR);
    world.hold(0, &[2]);
    world.run(SECOND * 2);
    assert!((0..2).all(|node| world.stats(node).refused[DropReason::FrameKeyEpoch as usize] > 0));
    assert!((0..2).all(|node| !world.stats(node).peers[0].alive));
    world.hold(1, &[1, 2]);
    world.run(SECOND + MS);
    world.settle();
    assert_eq!([0, 1].map(|node| keys(&world, node).0), [2, 2]);
}
