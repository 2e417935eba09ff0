use super::super::Config;
use super::super::encode::tests::any_flow;
use super::super::fixture::config;
use super::*;
use crate::role::NodeId;
use proptest::prelude::*;

fn engine() -> Engine {
    Engine::new(Config { flows_max: 20, ..config(Mode::Ftfw) }, 1)
}

fn upsert(version: u64, state: u8) -> proto::Data {
    let mut flow = crate::sync::table::tests::flow(1);
    flow.mark = u32::from(state);
    let message = encode::flow_message(&flow, version, false);
    proto::Data { changes: vec![proto::Change { kind: Some(Kind::Upsert(message)) }], ..proto::Data::default() }
}

/// Of what a peer says of a flow only the newer counts, and the same said twice is written once.
#[test]
fn newer_wins_and_equal_is_not_written() {
    let mut engine = engine();
    let mut say = |version, state| {
        let mut out = Vec::new();
        engine.on_data(Instant(0), PeerId(0), 1, &upsert(version, state), &mut out);
        out
    };
    assert!(matches!(say(5, 1)[..], [Action::Create(_)]));
    assert_eq!(say(4, 2), []);
    assert_eq!(say(5, 1), []);
    assert!(matches!(say(6, 2)[..], [Action::Update(Flow { mark: 2, .. })]));
    assert_eq!(engine.stats().stale_ignored, 1);
}

/// A copy that vanished is to be created again, and before that is done packets make another flow under its key: the older
/// state is not written over it.
#[test]
fn what_packets_made_meanwhile_is_not_written_over() {
    let mut engine = engine();
    engine.peers[0].up = true;
    let mut out = Vec::new();
    engine.on_data(Instant(0), PeerId(0), 1, &upsert(5, 1), &mut out);
    out.clear();
    let mut flow = crate::sync::table::tests::flow(1);
    engine.on_destroyed(Instant(0), &flow.key, 0, &mut out);
    flow.mark = 9;
    engine.on_changed(Instant(0), &flow, &mut out);
    engine.run_retries(Instant(20_000_000), &mut out);
    assert_eq!(out, []);
    engine.on_data(Instant(0), PeerId(0), 2, &upsert(50, 2), &mut out);
    out.clear();
    engine.on_destroyed(Instant(0), &flow.key, 0, &mut out);
    engine.run_retries(Instant(20_000_000), &mut out);
    assert!(matches!(out[..], [Action::Create(Flow { mark: 2, .. })]), "{out:?}");
}

/// A flow has become nobody's. What was told of it before comes late and is older; what a new transfer says counts, also from
/// a node whose clock has begun anew, but for what comes just after it: its sender has not heard what the owner said last.
#[test]
fn a_late_word_of_nobodys_flow_does_not_count() {
    for (epoch, since_orphaned, accepted) in
        [(3, None, false), (4, Some(99), false), (4, Some(100), true), (4, None, true)]
    {
        let mut engine = engine();
        let now = Instant(5_000_000_000);
        engine.orphans_due = since_orphaned.map(|ms| Instant(now.0 + 1_000_000_000 - ms * 1_000_000));
        let mut found = crate::sync::table::tests::flow(1);
        found.mark = 9;
        engine.insert(&found, Owner::Found, 9, &mut Vec::new());
        engine.peers[0].inbox.epoch = 4;
        let mut out = Vec::new();
        engine.on_data(now, PeerId(0), 1, &proto::Data { epoch, ..upsert(8, 1) }, &mut out);
        assert_eq!((out.len(), engine.stats().flows_peer), (usize::from(accepted), u64::from(accepted)));
    }
}

/// A peer takes over a flow of this node, and ends it: the kernel's entry is deleted whatever its number is, because the
/// write in between may have met another.
#[test]
fn a_claimed_flow_is_deleted_whatever_its_number() {
    let mut engine = engine();
    engine.peers[0].up = true;
    let mut out = Vec::new();
    let flow = Flow { id: 7, ..crate::sync::table::tests::flow(1) };
    engine.on_changed(Instant(0), &flow, &mut out);
    engine.on_data(Instant(0), PeerId(0), 1, &upsert(500, 1), &mut out);
    assert!(matches!(out[..], [Action::Update(_)]), "{out:?}");
    out.clear();
    let ends = Kind::Removal(proto::Removal { key: Some(encode::key_message(&flow.key)), version: 501 });
    let changes = vec![proto::Change { kind: Some(ends) }];
    engine.on_data(Instant(0), PeerId(0), 2, &proto::Data { changes, ..Default::default() }, &mut out);
    assert_eq!(out, [Action::Delete { key: flow.key, id: 0 }]);
}

/// A peer ends a flow while a dump runs that lists it: the line was made before, and makes it nobody's again. What is
/// still there is deleted. A master looks again: what the next dump lists is a newer connection, whose event was lost.
#[test]
fn a_line_of_a_dump_revives_nothing() {
    for role in [Role::Backup, Role::Master] {
        let mut engine = engine();
        let (mut out, now) = (Vec::new(), Instant(1_000_000_000));
        engine.handle(now, crate::sync::Input::Role(role), &mut out);
        engine.peers[0].up = true;
        engine.on_data(now, PeerId(0), 1, &upsert(5, 1), &mut out);
        engine.on_dump_begin(now);
        let key = crate::sync::table::tests::flow(1).key;
        let ends = Kind::Removal(proto::Removal { key: Some(encode::key_message(&key)), version: 6 });
        let changes = vec![proto::Change { kind: Some(ends) }];
        engine.on_data(now, PeerId(0), 2, &proto::Data { changes, ..Default::default() }, &mut out);
        out.clear();
        engine.on_dumped(now, &Flow { id: 9, ..crate::sync::table::tests::flow(1) }, &mut out);
        let deletes = [Action::Delete { key, id: 9 }];
        assert_eq!(out, if role == Role::Backup { &deletes[..] } else { &[] }, "{role}");
        engine.on_dump_end(now, true, &mut out);
        assert_eq!(engine.standing(&key), None, "{role}");
        if role == Role::Master {
            (engine.peers[0].heard, out) = (Instant(u64::MAX), Vec::new());
            engine.handle(Instant(2_000_000_000), crate::sync::Input::Timer, &mut out);
            assert!(out.contains(&Action::Dump));
            engine.on_dumped(now, &Flow { id: 9, ..crate::sync::table::tests::flow(1) }, &mut out);
            assert_eq!(engine.standing(&key), Some(crate::sync::Standing::Own));
        }
    }
}

/// A flow ends during the first dump, and its line is read after that: it is not found. The end is remembered as long as the dump.
#[test]
fn a_line_of_a_flow_that_has_ended_is_not_believed() {
    let mut engine = engine();
    let (mut out, now) = (Vec::new(), Instant(1_000_000_000));
    let flow = Flow { id: 9, ..crate::sync::table::tests::flow(1) };
    engine.on_dump_begin(now);
    engine.on_destroyed(now, &flow.key, flow.id, &mut out);
    engine.on_dumped(now, &flow, &mut out);
    assert_eq!((engine.standing(&flow.key), engine.stats().tombstones), (None, 1));
    engine.on_dump_end(now, true, &mut out);
    assert_eq!((engine.stats().tombstones, &out[..]), (0, &[][..]));
}

/// What a peer says of a copy that is the same is no proof that the kernel has it: a dump that does not list it shows that
/// it has not, and it is created again.
#[test]
fn a_dump_judges_a_copy_that_was_only_named_again() {
    let mut engine = engine();
    engine.peers[0].up = true;
    let (mut out, now) = (Vec::new(), Instant(1_000_000_000));
    engine.on_data(now, PeerId(0), 1, &upsert(5, 1), &mut out);
    engine.on_dump_begin(now);
    engine.on_data(now, PeerId(0), 2, &upsert(5, 1), &mut out);
    out.clear();
    engine.on_dump_end(now, true, &mut out);
    engine.run_retries(Instant(now.0 + 20_000_000), &mut out);
    assert!(out.iter().any(|action| matches!(action, Action::Create(Flow { mark: 1, .. }))), "{out:?}");
}

/// A master takes over what this node has had traffic of, and a frame of its transfer that was lost is sent again: it gives back
/// what it knows to be this node's. Were it the master's then, neither would answer for it.
#[test]
fn a_flow_given_back_stays_this_nodes() {
    for (handover, standing) in [(true, super::super::Standing::Own), (false, super::super::Standing::Peer)] {
        let mut engine = engine();
        (engine.peers[0].up, engine.peers[0].role) = (true, Role::Master);
        let flow = crate::sync::table::tests::flow(1);
        engine.on_changed(Instant(0), &flow, &mut Vec::new());
        let message = encode::flow_message(&flow, engine.clock, handover);
        let changes = vec![proto::Change { kind: Some(Kind::Upsert(message)) }];
        engine.on_data(Instant(0), PeerId(0), 1, &proto::Data { changes, ..Default::default() }, &mut Vec::new());
        assert_eq!(engine.standing(&flow.key), Some(standing));
    }
}

/// Of two masters, the newer of which is this node, the other has given everything away, and its transfer says so. A frame of before
/// that comes late claims nothing; the other's present transfer does.
#[test]
fn a_late_frame_claims_no_flow() {
    for (epoch, standing) in [(6, super::super::Standing::Own), (7, super::super::Standing::Peer)] {
        let mut engine = engine();
        (engine.node, engine.role) = (NodeId(5), Role::Master);
        (engine.peers[0].role, engine.peers[0].inbox.epoch) = (Role::Master, 7);
        let flow = crate::sync::table::tests::flow(1);
        engine.on_changed(Instant(0), &flow, &mut Vec::new());
        let data = proto::Data { epoch, ..upsert(engine.clock, 0) };
        engine.on_data(Instant(0), PeerId(0), 1, &data, &mut Vec::new());
        assert_eq!(engine.standing(&flow.key), Some(standing));
    }
}

/// A master that says less of its flow than this node knows is told: what was given away with the flow was lost.
#[test]
fn a_master_that_knows_less_of_its_flow_is_told() {
    for (role, told) in [(Role::Master, 1), (Role::Backup, 0)] {
        let mut engine = engine();
        (engine.peers[0].up, engine.peers[0].role) = (true, role);
        for version in [5, 4] {
            engine.on_data(Instant(0), PeerId(0), 1, &upsert(version, 1), &mut Vec::new());
        }
        assert_eq!(engine.peers[0].outbox.backlog_flows(), told, "{role}");
    }
}

/// A TCP entry that packets made in this kernel has stale windows once the session goes on at the peer: the first
/// word about it makes it liberal by one write, however equal it looks.
#[test]
fn windows_of_an_own_entry_are_opened_once() {
    let mut engine = engine();
    let mut found = crate::sync::table::tests::flow(1);
    found.tcp = Some(crate::sync::flow::Tcp { state: 3, ..Default::default() });
    let message = encode::flow_message(&found, 5, false);
    let change = proto::Change { kind: Some(Kind::Upsert(message)) };
    let data = proto::Data { changes: vec![change], ..proto::Data::default() };
    engine.insert(&found, Owner::Found, 0, &mut Vec::new());
    let mut hear = || {
        let mut out = Vec::new();
        engine.on_data(Instant(0), PeerId(0), 1, &data, &mut out);
        out
    };
    assert!(matches!(hear()[..], [Action::Update(_)]));
    assert_eq!(hear(), []);
}

/// Two owners of one version: the master's word counts, then the lower node's.
#[test]
fn ties_are_broken_alike_on_both_sides() {
    let mut engine = engine();
    let entry_yields = |engine: &mut Engine, mine, theirs| {
        engine.role = mine;
        engine.peers[0].role = theirs;
        engine.yields_to(PeerId(0))
    };
    assert!(!entry_yields(&mut engine, Role::Master, Role::Backup));
    assert!(entry_yields(&mut engine, Role::Backup, Role::Master));
    assert!(!entry_yields(&mut engine, Role::Master, Role::Master));
    engine.node = NodeId(5);
    assert!(entry_yields(&mut engine, Role::Backup, Role::Fault));
}

fn any_change() -> impl Strategy<Value = proto::Change> {
    let key = || any_flow().prop_map(|flow| encode::key_message(&flow.key));
    let version = || prop_oneof![0u64..5, Just(u64::MAX), any::<u64>()];
    let kind = prop_oneof![
        4 => (any_flow(), version(), any::<bool>())
            .prop_map(|(flow, version, gift)| Kind::Upsert(encode::flow_message(&flow, version, gift))),
        1 => (proptest::option::of(key()), version()).prop_map(|(key, version)| Kind::Removal(proto::Removal { key, version })),
        1 => key().prop_map(Kind::Want),
        1 => (0u32..3, any::<bool>())
            .prop_map(|(epoch, master)| Kind::BulkEnd(proto::BulkEnd { epoch, answers: 1, flows: 0, master, buckets: vec![], refresh: false })),
        1 => (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(state, wscale, flags)| {
            let tcp = Some(proto::Tcp { state, wscale, flags });
            Kind::Upsert(proto::Flow { tcp, ..proto::Flow::default() })
        }),
    ];
    proptest::option::weighted(0.95, kind).prop_map(|kind| proto::Change { kind })
}

proptest! {
    /// Authentic but arbitrary changes (a peer gone mad) neither panic nor break the table's bound.
    #[test]
    fn a_mad_peer_is_survived(
        frames in proptest::collection::vec((proptest::collection::vec(any_change(), 0..8), 0u8..2, any::<u8>()), 0..30),
    ) {
        let mut engine = engine();
        for (at, (changes, peer, role)) in (0u64..).zip(frames) {
            let now = Instant(at * 1_000_000_000);
            let mut out = Vec::new();
            engine.role = if role.is_multiple_of(3) { Role::Master } else { Role::Backup };
            let data = proto::Data { floor: at, epoch: (at % 3) as u32, changes };
            engine.peers[usize::from(peer)].inbox.on_data(now, at * 2 + 1, &data);
            engine.on_data(now, PeerId(peer), at * 2 + 1, &data, &mut out);
            let stats = engine.stats();
            prop_assert!(stats.flows + stats.tombstones <= 20);
        }
    }
}

/// A flow has traffic on a backup, and the master has ended its copy: what the backup says against it is newer than the
/// removal, so that it counts where that is remembered. An older removal is answered with what the backup has.
#[test]
fn who_has_the_traffic_contradicts_a_removal_by_a_newer_word() {
    let mut engine = engine();
    engine.peers[0].up = true;
    engine.on_role(Instant(0), crate::role::Role::Backup, &mut Vec::new());
    let flow = crate::sync::table::tests::flow(1);
    engine.on_changed(Instant(0), &flow, &mut Vec::new());
    let slot = engine.table.find(&flow.key).unwrap();
    let own = engine.table.get(slot).unwrap().version();
    let mut remove = |version| {
        engine.table.get_mut(slot).unwrap().dirty = 0;
        let removal = proto::Removal { key: Some(encode::key_message(&flow.key)), version };
        let change = proto::Change { kind: Some(Kind::Removal(removal)) };
        let data = proto::Data { changes: vec![change], ..proto::Data::default() };
        let mut out = Vec::new();
        engine.on_data(Instant(0), PeerId(0), 1, &data, &mut out);
        assert_eq!(out, []);
        let entry = engine.table.get(slot).unwrap();
        assert!(entry.is_live() && entry.dirty != 0);
        entry.version()
    };
    assert_eq!(remove(own - 1), own);
    let newer = remove(own + 5);
    assert!(newer > own + 5);
    assert_eq!(remove(own + 5), newer);
}

/// Two nodes that did not hear each other have given one version to different states, and a third hears both: the master's
/// word counts, else the lower node's, in whatever order they come. The same state may change hands.
#[test]
fn of_two_peers_with_one_version_one_counts() {
    for (masters, first, second, told, expected) in [
        ([false, true], 0, 1, 2, 2),
        ([true, false], 0, 1, 2, 1),
        ([false, false], 0, 1, 2, 1),
        ([false, false], 1, 0, 2, 2),
        ([true, false], 0, 1, 1, 1),
    ] {
        let mut engine = engine();
        for (peer, master) in engine.peers.iter_mut().zip(masters) {
            peer.up = true;
            peer.role = if master { Role::Master } else { Role::Backup };
        }
        engine.on_data(Instant(0), PeerId(first), 1, &upsert(5, 1), &mut Vec::new());
        engine.on_data(Instant(0), PeerId(second), 1, &upsert(5, told), &mut Vec::new());
        let slot = engine.table.find(&crate::sync::table::tests::flow(1).key).unwrap();
        let entry = engine.table.get(slot).unwrap();
        let changes_hands = u32::from(told) == expected;
        assert_eq!((entry.flow().mark, entry.is_owned_by(PeerId(second))), (expected, changes_hands));
    }
}
