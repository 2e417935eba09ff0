//! Peers that speak an older version, know less, or are configured otherwise.

use crate::modes::in_modes;
use crate::weather::{FAIR, STORM};
use crate::world::{SECOND, World, churn, tcp};
use ha_common::role::Role;
use ha_common::sync::{Capabilities, Event, Mode, VERSION_MIN};

in_modes! {
    a_peer_of_the_version_before: ftfw, alarm, notrack;
}

/// Either node speaks as the version before did, whose hellos say nothing of capabilities, secrets and mode: amid churn and
/// loss, and after a takeover, the tables are as equal as ever, and nothing is said of a difference.
fn a_peer_of_the_version_before(mode: Mode) {
    for older in [0, 1] {
        let mut world = World::new(mode, 11, STORM);
        world.nodes[older].version = VERSION_MIN;
        world.start(0, Role::Master);
        world.start(1, Role::Backup);
        world.settle();
        churn(&mut world, 0, 300, 1000, SECOND);
        world.settle();
        world.role(0, Role::Backup);
        world.role(1, Role::Master);
        churn(&mut world, 1, 300, 1000, SECOND);
        world.settle();
        let seen = world.stats(1 - older).peers.remove(0);
        assert_eq!((seen.version, seen.capabilities, seen.mode), (VERSION_MIN, Capabilities::FIRST, None));
        assert_eq!((seen.key_epoch, seen.key_epochs_accepted), (1, vec![1]));
        let differs = |event: &Event| matches!(event, Event::ModeDiffers { .. } | Event::KeyConflict { .. });
        assert!(!world.nodes.iter().any(|node| node.events.iter().any(differs)));
    }
}

/// A peer of the version before goes on with its one secret while its neighbour holds a second one.
#[test]
fn an_older_peer_keeps_its_secret() {
    let mut world = World::new(Mode::Ftfw, 12, FAIR);
    world.nodes[1].version = VERSION_MIN;
    world.start(0, Role::Master);
    world.start(1, Role::Backup);
    world.settle();
    world.hold(0, &[1, 2]);
    churn(&mut world, 0, 100, 1000, SECOND);
    world.settle();
    assert_eq!(world.stats(0).peers[0].key_epoch, 1);
}

/// A peer that knows no digests is asked for no proof, and its table is equal all the same; one that knows digests but no
/// transfer of some buckets gets the whole table again where they differ.
#[test]
fn what_the_peer_cannot_do_is_not_sent() {
    let without = |capability: Capabilities| {
        let mut world = World::new(Mode::Ftfw, 13, FAIR);
        world.nodes[1].capabilities = Capabilities(Capabilities::ALL.0 & !capability.0);
        world.start(0, Role::Master);
        world.start(1, Role::Backup);
        world.run(SECOND);
        churn(&mut world, 0, 100, 1000, SECOND);
        world.run(SECOND * 3);
        assert_eq!(world.difference(), "");
        world
    };
    let world = without(Capabilities::DIGESTS);
    let peer = world.stats(0).peers.remove(0);
    assert_eq!((peer.proven, peer.digests_equal + peer.digests_unknown), (None, 0));
    let mut world = without(Capabilities::PARTIAL);
    assert!(world.stats(0).peers[0].proven.is_some());
    // A write that fails for good leaves a difference, which the digests find.
    world.nodes[1].kernel.full = true;
    world.traffic(0, &tcp(5000, 3));
    world.run(SECOND * 3);
    world.nodes[1].kernel.full = false;
    world.nodes.iter_mut().for_each(|node| node.events.clear());
    world.run(SECOND * 30);
    assert_eq!(world.difference(), "");
    let repaired = |event: &Event| matches!(event, Event::RepairSent { .. } | Event::RepairReceived { .. });
    assert!(!world.nodes.iter().any(|node| node.events.iter().any(repaired)));
}

/// Nodes of different modes say so once each, and show it.
#[test]
fn modes_that_differ_are_told() {
    let mut world = World::new(Mode::Ftfw, 14, FAIR);
    world.start(0, Role::Master);
    world.mode = Mode::Alarm;
    world.start(1, Role::Backup);
    world.run(SECOND * 2);
    for (node, theirs) in [(0, Mode::Alarm), (1, Mode::Ftfw)] {
        assert_eq!(world.stats(node).peers[0].mode, Some(theirs));
        let told: Vec<_> = world.nodes[node].events.iter().filter(|e| matches!(e, Event::ModeDiffers { .. })).collect();
        assert_eq!(told, [&Event::ModeDiffers { peer: ha_common::sync::PeerId(0), mode: theirs }]);
    }
}
