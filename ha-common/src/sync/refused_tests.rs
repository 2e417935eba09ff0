//! Copies that this node's kernel has refused.

use super::engine::Engine;
use super::fixture::config;
use super::flow::Flow;
use super::table::Owner;
use super::table::tests::flow;
use super::{Action, Config, Input, Mode, PeerId, WriteKind, encode};
use crate::proto::{self, change::Kind};
use crate::role::Role;
use crate::time::Instant;

const BEGIN: Instant = Instant(1_000_000_000);
const ENOENT: i32 = 2;
const ENOMEM: i32 = 12;

/// A backup whose only peer has told it of a flow in some epoch, which its kernel has refused.
fn engine() -> Engine {
    let mut engine = Engine::new(Config { flows_max: 20, ..config(Mode::Ftfw) }, 1);
    engine.peers.truncate(1);
    (engine.peers[0].up, engine.peers[0].heard) = (true, BEGIN);
    engine.handle(BEGIN, Input::Role(Role::Backup), &mut Vec::new());
    assert_eq!(hear(&mut engine, upsert()), 1);
    refuse(&mut engine);
    engine
}

fn upsert() -> Kind {
    Kind::Upsert(encode::flow_message(&flow(1), 5, false))
}

/// How many creations what the peer says leads to.
fn hear(engine: &mut Engine, kind: Kind) -> usize {
    let mut out = Vec::new();
    let epoch = engine.peers[0].inbox.epoch;
    let data = proto::Data { epoch, changes: vec![proto::Change { kind: Some(kind) }], ..proto::Data::default() };
    engine.on_data(BEGIN, PeerId(0), 1, &data, &mut out);
    creations(&out)
}

fn refuse(engine: &mut Engine) {
    engine.on_write_failed(BEGIN, &flow(1).key, WriteKind::Create, ENOMEM, &mut Vec::new());
}

fn creations(out: &[Action]) -> usize {
    out.iter().filter(|action| matches!(action, Action::Create(Flow { mark: 0, .. }))).count()
}

/// However often a peer names it meanwhile, each time in vain, it is tried again once a second.
#[test]
fn it_is_tried_again_once() {
    let mut engine = engine();
    for _ in 0..20 {
        assert_eq!(hear(&mut engine, upsert()), 1);
        refuse(&mut engine);
    }
    for second in 2..6 {
        let mut out = Vec::new();
        engine.run_retries(Instant(second * BEGIN.0 + 1), &mut out);
        assert_eq!(creations(&out), 1);
        engine.on_write_failed(Instant(second * BEGIN.0), &flow(1).key, WriteKind::Create, ENOMEM, &mut out);
    }
    assert_eq!(engine.stats().writes_abandoned, 0);
}

/// Its owner has started anew and knows nothing of it, so that it is nobody's. When this node becomes master it answers for the
/// flow, and has it created.
#[test]
fn a_master_creates_what_is_nobodys() {
    let mut engine = engine();
    engine.peers[0].inbox.epoch = 1;
    let end = proto::BulkEnd { epoch: 1, answers: 1, flows: 0, master: false, buckets: vec![], refresh: false };
    hear(&mut engine, Kind::BulkEnd(end));
    assert_eq!(engine.stats().flows_found, 1);
    let mut out = Vec::new();
    engine.handle(BEGIN, Input::Role(Role::Master), &mut out);
    assert_eq!(creations(&out), 1);
}

/// The same when the refusal is told after its owner has left it: the engine knows that the kernel lacks it.
#[test]
fn a_refusal_of_what_has_become_nobodys_is_remembered() {
    let mut engine = Engine::new(Config { flows_max: 20, ..config(Mode::Ftfw) }, 1);
    engine.handle(BEGIN, Input::Role(Role::Backup), &mut Vec::new());
    assert_eq!(hear(&mut engine, upsert()), 1);
    let slot = engine.table.find(&flow(1).key).unwrap();
    engine.table.set_owner(slot, Owner::Found);
    refuse(&mut engine);
    let mut out = Vec::new();
    engine.handle(BEGIN, Input::Role(Role::Master), &mut out);
    assert_eq!(creations(&out), 1);
}

/// Updates were refused more often than is tried each second, and the kernel's entry ended meanwhile: the next update tells that,
/// and the flow is created at once.
#[test]
fn what_has_ended_while_updates_were_refused_is_made_anew() {
    let mut engine = engine();
    let slot = engine.table.find(&flow(1).key).unwrap();
    let update = |engine: &mut Engine, error, out: &mut Vec<Action>| {
        engine.update(BEGIN, slot, out);
        engine.on_write_failed(BEGIN, &flow(1).key, WriteKind::Update, error, out);
    };
    for _ in 0..20 {
        engine.run_retries(Instant(u64::MAX), &mut Vec::new());
        update(&mut engine, ENOMEM, &mut Vec::new());
    }
    let mut out = Vec::new();
    update(&mut engine, ENOENT, &mut out);
    engine.run_retries(Instant(2 * BEGIN.0), &mut out);
    assert_eq!(creations(&out), 1);
}

/// A copy vanishes again and again, more often than is tried each second: it is made anew within forty seconds all the same, long
/// before it would be renewed.
#[test]
fn what_vanishes_too_often_is_made_anew_at_the_next_visit() {
    let mut engine = engine();
    let vanish = |engine: &mut Engine| engine.on_destroyed(BEGIN, &flow(1).key, 0, &mut Vec::new());
    engine.run_retries(Instant(2 * BEGIN.0), &mut Vec::new());
    for _ in 0..20 {
        vanish(&mut engine);
        engine.run_retries(Instant(u64::MAX), &mut Vec::new());
        engine.create(BEGIN, engine.table.find(&flow(1).key).unwrap(), &mut Vec::new());
    }
    vanish(&mut engine);
    let mut out = Vec::new();
    engine.run_keep_alive(Instant(42 * BEGIN.0), &mut out);
    assert_eq!(creations(&out), 1);
}

/// An update was refused, this node becomes master, and its table is read: that the kernel has the earlier state does not make
/// it the newest. It is updated again.
#[test]
fn an_earlier_state_is_no_news_to_a_dump() {
    let mut engine = engine();
    engine.handle(BEGIN, Input::DumpEnd { complete: true }, &mut Vec::new());
    hear(&mut engine, upsert());
    hear(&mut engine, Kind::Upsert(encode::flow_message(&Flow { mark: 2, ..flow(1) }, 6, false)));
    for role in [Role::Backup, Role::Master] {
        engine.handle(BEGIN, Input::Role(role), &mut Vec::new());
        engine.on_write_failed(BEGIN, &flow(1).key, WriteKind::Update, ENOMEM, &mut Vec::new());
    }
    engine.on_dumped(BEGIN, &flow(1), &mut Vec::new());
    assert!(engine.flows(20).all(|(flow, _)| flow.mark == 2));
    let mut out = Vec::new();
    engine.run_retries(Instant(2 * BEGIN.0 + 1), &mut out);
    assert!(matches!(out[..], [Action::Update(Flow { mark: 2, .. })]), "{out:?}");
}

/// A copy that is to be updated is not in the kernel: a standby makes it anew, unless packets have made it, or ended it, since, as
/// events tell before the answer comes; a master, whose kernel ends what is over, reads its table.
#[test]
fn what_an_update_misses_is_made_anew_by_a_standby() {
    let packets = Flow { id: 7, mark: 3, ..flow(1) };
    for (role, events, wanted) in [
        (Role::Backup, 0, (true, 1, false)),
        (Role::Backup, 1, (true, 0, false)),
        (Role::Backup, 2, (false, 0, false)),
        (Role::Master, 0, (true, 0, true)),
        (Role::Master, 2, (false, 0, false)),
    ] {
        let (mut engine, mut out) = (engine(), Vec::new());
        engine.handle(BEGIN, Input::DumpEnd { complete: true }, &mut out);
        hear(&mut engine, upsert());
        engine.handle(BEGIN, Input::Role(role), &mut out);
        engine.handle(BEGIN, Input::DumpEnd { complete: true }, &mut out);
        let newest = engine.clock + 1;
        hear(&mut engine, Kind::Upsert(encode::flow_message(&Flow { mark: 2, ..flow(1) }, newest, false)));
        let told = [Input::Changed(&packets), Input::Destroyed { key: &flow(1).key, id: 7 }];
        told.into_iter().take(events).for_each(|event| engine.handle(BEGIN, event, &mut out));
        out.clear();
        let missed = Input::WriteFailed { key: &flow(1).key, write: WriteKind::Update, errno: ENOENT };
        engine.handle(BEGIN, missed, &mut out);
        assert!(!out.iter().any(|action| matches!(action, Action::Create(_) | Action::Update(_))), "{out:?}");
        engine.handle(Instant(BEGIN.0 + 250_000_000), Input::Timer, &mut out);
        let created = out.iter().filter(|action| matches!(action, Action::Create(Flow { mark: 2, .. }))).count();
        let is_live = engine.flows(20).count() == 1;
        assert_eq!((is_live, created, out.contains(&Action::Dump)), wanted, "{role}, {events} events");
    }
}

/// A former master's kernel has refused an update, and no master names the flow: what the kernel has of it is cut short, and not
/// forgotten, for it would stay there unknown.
#[test]
fn an_earlier_state_that_nobody_names_is_cut() {
    let mut engine = engine();
    hear(&mut engine, upsert());
    hear(&mut engine, Kind::Upsert(encode::flow_message(&Flow { mark: 2, ..flow(1) }, 6, false)));
    engine.on_write_failed(BEGIN, &flow(1).key, WriteKind::Update, ENOMEM, &mut Vec::new());
    (engine.peers[0].role, engine.peers[0].inbox.whole_ended) = (Role::Master, 1);
    engine.expect_judgement(BEGIN);
    let mut out = Vec::new();
    engine.run_purge(Instant(20 * BEGIN.0), &mut out);
    assert!(matches!(out[..], [Action::Update(Flow { mark: 2, timeout: 60, .. })]), "{out:?}");
    assert_eq!((engine.stats().flows_peer, engine.stats().flows_absent), (1, 0));
}

/// A master's kernel has refused to create what it took over, and its table is read: the flow is not over, and is tried again.
#[test]
fn what_a_masters_kernel_refuses_is_not_over() {
    let mut engine = engine();
    for input in [Input::Role(Role::Master), Input::DumpBegin] {
        engine.handle(BEGIN, input, &mut Vec::new());
    }
    engine.handle(BEGIN, Input::DumpEnd { complete: true }, &mut Vec::new());
    refuse(&mut engine);
    engine.handle(BEGIN, Input::DumpBegin, &mut Vec::new());
    engine.handle(BEGIN, Input::DumpEnd { complete: true }, &mut Vec::new());
    let mut out = Vec::new();
    engine.run_retries(Instant(3 * BEGIN.0), &mut out);
    assert_eq!((engine.stats().flows_local, creations(&out)), (1, 1));
}
