use super::super::fixture::config;
use super::super::puppet::Puppet;
use super::super::table::tests::flow;
use super::super::{Config, Input, Mode, encode};
use super::*;
use crate::proto::{self, change::Kind};
use crate::role::NodeId;
use crate::wire::frame::{self, Header};

const NOW: Instant = Instant(1_000_000_000);

fn engine() -> Engine {
    let mut engine = Engine::new(Config { flows_max: 20, ..config(Mode::Ftfw) }, 1);
    engine.peers[0].up = true;
    engine.peers.iter_mut().for_each(|peer| peer.heard = NOW);
    engine
}

/// What the peer's word of a flow leads to.
fn hear(engine: &mut Engine, n: u32, mark: u32, version: u64) -> Vec<Action> {
    let message = encode::flow_message(&Flow { mark, ..flow(n) }, version, false);
    let changes = vec![proto::Change { kind: Some(Kind::Upsert(message)) }];
    let mut out = Vec::new();
    engine.on_data(NOW, PeerId(0), 1, &proto::Data { changes, ..proto::Data::default() }, &mut out);
    out
}

/// A master stood still while this node took over, and tells late what its kernel did before, numbered behind what it
/// heard last: what this node has changed as master stays, and what it has not is taken.
#[test]
fn what_a_new_master_changes_is_newer() {
    let mut engine = engine();
    assert!([1, 2].iter().all(|n| hear(&mut engine, *n, 1, 5).len() == 1));
    engine.handle(NOW, Input::Role(Role::Master), &mut Vec::new());
    engine.on_changed(NOW, &Flow { mark: 3, ..flow(1) }, &mut Vec::new());
    assert_eq!(hear(&mut engine, 1, 2, 10_000), []);
    assert!(matches!(hear(&mut engine, 2, 2, 10_001)[..], [Action::Update(Flow { mark: 2, .. })]));
}

/// This node's loop stood still as it became master: it reads what packets did meanwhile before it hears of its role. That is newer
/// than what the former master, which stood still as well, tells late: a state, and an end.
#[test]
fn what_packets_did_as_a_mastership_began_is_newer() {
    let mut engine = engine();
    engine.on_changed(NOW, &Flow { id: 7, ..flow(2) }, &mut Vec::new());
    assert_eq!(hear(&mut engine, 1, 1, 5).len(), 1);
    engine.handle(NOW, Input::Timer, &mut Vec::new());
    engine.on_changed(NOW, &Flow { mark: 3, ..flow(1) }, &mut Vec::new());
    engine.on_destroyed(NOW, &flow(2).key, 7, &mut Vec::new());
    engine.handle(NOW, Input::Role(Role::Master), &mut Vec::new());
    assert_eq!([hear(&mut engine, 1, 2, 10_000), hear(&mut engine, 2, 2, 10_001)], [[], []]);
}

/// The group was given away and came back, and nothing of the other's mastership had arrived: what it tells late is older than what
/// this node has changed since, also where it has changed more.
#[test]
fn what_an_unheard_mastership_did_is_older() {
    let mut engine = engine();
    assert_eq!(hear(&mut engine, 1, 1, 5).len(), 1);
    engine.handle(NOW, Input::Term(0x2ff), &mut Vec::new());
    engine.handle(NOW, Input::Role(Role::Master), &mut Vec::new());
    engine.on_changed(NOW, &Flow { mark: 3, ..flow(1) }, &mut Vec::new());
    assert_eq!(hear(&mut engine, 1, 2, 0x1fe * MASTERSHIP + 10_000), []);
}

/// A node that has said hello just now becomes master. It says so before it names its flows: where both hold one in the same version
/// the peer goes by who says so.
#[test]
fn a_mastership_is_told_before_its_flows() {
    let own = Config { peers: vec![NodeId(1)], ..config(Mode::Ftfw) };
    let mut engine = Engine::new(own.clone(), 1);
    let mut peer = Puppet::new(&Config { node: NodeId(1), session: 2, nonce: [2; 16], ..own }, NodeId(0));
    let mut out = Vec::new();
    let now = peer.greet(&mut engine, NOW, Role::Backup, &mut out).unwrap();
    engine.on_changed(now, &flow(1), &mut out);
    out.clear();
    engine.handle(now, Input::Role(Role::Master), &mut out);
    let kind = |action: &Action| match action {
        Action::Send { datagram, .. } => Header::parse(datagram).ok().map(|header| header.kind),
        _ => None,
    };
    let sent: Vec<_> = out.iter().filter_map(kind).collect();
    assert_eq!((sent.first(), sent.contains(&frame::Kind::Data)), (Some(&frame::Kind::Hello), true));
}

/// The kernel ends a flow that a peer has told of: on a master it is over and the peer hears so, on a backup it is made
/// anew.
#[test]
fn what_a_masters_kernel_has_ended_is_over() {
    for (role, creations) in [(Role::Master, 0), (Role::Backup, 1)] {
        let (mut engine, mut out) = (engine(), Vec::new());
        engine.handle(NOW, Input::Role(role), &mut out);
        hear(&mut engine, 1, 1, 5);
        out.clear();
        engine.on_destroyed(NOW, &flow(1).key, 0, &mut out);
        assert_eq!((engine.stats().tombstones, out.len()), (1 - creations, 0));
        engine.run_retries(Instant(NOW.0 + 20_000_000), &mut out);
        assert_eq!(out.len() as u64, creations, "{role}");
    }
}

/// A removal rides with a transfer and is lost, and the transfer is begun anew: no walk finds what has ended.
#[test]
fn a_removal_that_a_transfer_owes_is_owed_by_the_next() {
    let mut engine = engine();
    engine.on_changed(NOW, &flow(1), &mut Vec::new());
    let slot = engine.table.find(&flow(1).key).unwrap();
    engine.on_destroyed(NOW, &flow(1).key, 0, &mut Vec::new());
    engine.peers[0].outbox.bulk.owe(slot);
    engine.on_role(NOW, Role::Master, &mut Vec::new());
    assert_eq!(engine.peers[0].outbox.bulk.peek(&engine.table), Some(slot));
}

/// This node stood still, was master before, and hears first what a peer of an earlier mastership had said: that one is not the master.
/// What packets did here keeps its version, also when the node is master again. A later master's word counts more.
#[test]
fn an_earlier_masters_words_that_waited_take_nothing() {
    for (clock, is_taken) in [(0x301 * MASTERSHIP - 1, false), (0x301 * MASTERSHIP, true)] {
        let own = Config { peers: vec![NodeId(1)], ..config(Mode::Ftfw) };
        let mut engine = Engine::new(own.clone(), 1);
        let mut peer = Puppet::new(&Config { node: NodeId(1), session: 2, nonce: [2; 16], ..own }, NodeId(0));
        let mut out = Vec::new();
        let now = peer.greet(&mut engine, NOW, Role::Backup, &mut out).unwrap();
        engine.handle(now, Input::Term(0x300), &mut out);
        engine.handle(now, Input::Role(Role::Master), &mut out);
        engine.on_changed(now, &Flow { mark: 3, ..flow(1) }, &mut out);
        engine.handle(now, Input::Role(Role::Backup), &mut out);
        engine.peer_down(now, 0, &mut out);
        (engine.peers[0].role, engine.peers[0].clock) = (Role::Master, clock);
        engine.table.set_owner(engine.table.find(&flow(1).key).unwrap(), Owner::Local);
        engine.on_heard(now, 0, &mut out);
        let written = hear(&mut engine, 1, 2, 0x2ff * MASTERSHIP).len();
        assert_eq!(written == 1, is_taken, "{clock:x}");
    }
}

/// This node's loop stood still while its mastership ended and another one began: what it reads before it hears of both may have
/// happened in the second, and is newer than what the master between them tells late.
#[test]
fn what_packets_did_in_either_of_two_masterships_is_newer() {
    let mut engine = engine();
    engine.handle(NOW, Input::Role(Role::Master), &mut Vec::new());
    engine.handle(NOW, Input::Timer, &mut Vec::new());
    engine.on_changed(NOW, &Flow { mark: 3, ..flow(1) }, &mut Vec::new());
    for role in [Role::Backup, Role::Master] {
        engine.handle(NOW, Input::Role(role), &mut Vec::new());
    }
    assert_eq!(hear(&mut engine, 1, 2, MASTERSHIP + 10_000), []);
}
