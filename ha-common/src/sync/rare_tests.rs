//! Expectations, masters, adjustments and the order of TCP states: what the engine does about them, input by input.

use super::engine::Engine;
use super::extra::EXPECTATIONS_MAX;
use super::fixture::config;
use super::flow::{Expectation, Extra, Flow, FlowKey, SequenceAdjustment, Tcp, status};
use super::table::tests::flow;
use super::table::{Owner, Slot};
use super::{Action, Input, Mode, PeerId, WriteKind, encode};
use crate::proto::{self, change::Kind};
use crate::role::Role;
use crate::time::Instant;
use core::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const BEGIN: Instant = Instant(1_000_000_000);

fn handle(engine: &mut Engine, now: Instant, input: Input<'_>) -> Vec<Action> {
    let mut out = Vec::new();
    engine.handle(now, input, &mut out);
    out
}

/// What a peer says in one frame, each with its version.
fn hear(engine: &mut Engine, now: Instant, flows: &[(&Flow, u64)]) -> Vec<Action> {
    let upsert = |(flow, version): &(&Flow, u64)| proto::Change {
        kind: Some(Kind::Upsert(encode::flow_message(flow, *version, false))),
    };
    let data = proto::Data { changes: flows.iter().map(upsert).collect(), ..proto::Data::default() };
    let mut out = Vec::new();
    engine.on_data(now, PeerId(0), 1, &data, &mut out);
    out
}

fn slot_of(engine: &Engine, flow: &Flow) -> Slot {
    engine.table.find(&flow.key).unwrap()
}

fn expected_of(engine: &Engine, flow: &Flow) -> Vec<Expectation> {
    let entry = engine.table.get(slot_of(engine, flow)).unwrap();
    entry.extra().map_or_else(Vec::new, |extra| extra.expectations.clone())
}

fn expectation(port: u16) -> Expectation {
    let mut tuple = flow(1).reply;
    (tuple.source_port, tuple.destination_port) = (0, port);
    Expectation {
        mask_source: [255; 4].into(),
        mask_source_port: 0,
        tuple,
        timeout: 300,
        helper: Some("ftp".into()),
        class: 0,
        flags: 0,
        nat: None,
        function: None,
    }
}

fn tcp(state: u8) -> Flow {
    Flow { tcp: Some(Tcp { state, ..Tcp::default() }), ..flow(1) }
}

fn with(extra: Extra) -> Flow {
    Flow { extra: Some(Box::new(extra)), ..flow(1) }
}

/// What a helper announces on a connection's first packet is told before the connection: it waits for its master, whether
/// that is new or its tuple was used before. What is withdrawn or over meanwhile, or one of too many, is dropped and
/// counted.
#[test]
fn expectations_wait_for_their_master() {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    let master = flow(1);
    let told = |engine: &mut Engine, at, key: FlowKey, port| {
        handle(engine, at, Input::Expected { master: &key, expectation: &expectation(port) });
    };
    [1, 2, 3, 3].into_iter().for_each(|port| told(&mut engine, BEGIN, master.key, port));
    assert_eq!(engine.clock, 0);
    handle(&mut engine, BEGIN, Input::ExpectationGone { master: &master.key, expectation: &expectation(2) });
    assert_eq!(engine.stats().expectations_foreign, 1);
    handle(&mut engine, BEGIN, Input::Changed(&master));
    assert_eq!(expected_of(&engine, &master), [expectation(1), expectation(3)]);

    handle(&mut engine, BEGIN, Input::Destroyed { key: &master.key, id: 0 });
    told(&mut engine, BEGIN, master.key, 4);
    handle(&mut engine, BEGIN, Input::Changed(&master));
    assert_eq!(expected_of(&engine, &master), [expectation(4)]);

    let late = flow(2);
    told(&mut engine, BEGIN, late.key, 5);
    let after = BEGIN + Duration::from_secs(300);
    handle(&mut engine, after, Input::Changed(&late));
    assert!(expected_of(&engine, &late).is_empty());

    let before = engine.stats().expectations_foreign;
    for port in 0..300 {
        told(&mut engine, after, flow(3).key, port);
    }
    assert_eq!(engine.stats().expectations_foreign, before + 300 - 256);
}

/// An expectation of a flow of this node makes a new version of the flow; told again it does not; it goes as it came. More
/// than a flow can have are refused.
#[test]
fn expectations_are_state_of_their_master() {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    let master = flow(1);
    let told = |engine: &mut Engine, port| {
        let one = expectation(port);
        handle(engine, BEGIN, Input::Expected { master: &master.key, expectation: &one });
        engine.clock
    };
    handle(&mut engine, BEGIN, Input::Changed(&master));
    let first = told(&mut engine, 1);
    assert_eq!(told(&mut engine, 1), first);
    assert!(told(&mut engine, 2) > first);
    assert_eq!(expected_of(&engine, &master), [expectation(1), expectation(2)]);
    // An event of the flow itself says nothing of them, and is no change.
    let before = engine.clock;
    handle(&mut engine, BEGIN, Input::Changed(&master));
    assert_eq!((engine.clock, expected_of(&engine, &master).len()), (before, 2));
    handle(&mut engine, BEGIN, Input::ExpectationGone { master: &master.key, expectation: &expectation(1) });
    assert_eq!(expected_of(&engine, &master), [expectation(2)]);
    for port in 10..30 {
        told(&mut engine, port);
    }
    assert_eq!(expected_of(&engine, &master).len(), EXPECTATIONS_MAX);
    assert_eq!(engine.stats().expectations_refused, 21 - EXPECTATIONS_MAX as u64);
}

/// A dump of expectations adds what events missed and removes what it does not list, but events that came while it ran
/// know better.
#[test]
fn a_dump_of_expectations_is_reconciled() {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    let master = flow(1);
    handle(&mut engine, BEGIN, Input::Changed(&master));
    for port in [1, 2] {
        let one = expectation(port);
        handle(&mut engine, BEGIN, Input::Expected { master: &master.key, expectation: &one });
    }
    handle(&mut engine, BEGIN, Input::DumpBegin);
    handle(&mut engine, BEGIN, Input::Dumped(&master));
    // Withdrawn before its line, announced after the end of the list.
    handle(&mut engine, BEGIN, Input::ExpectationGone { master: &master.key, expectation: &expectation(2) });
    for port in [2, 3] {
        let one = expectation(port);
        handle(&mut engine, BEGIN, Input::DumpedExpectation { master: &master.key, expectation: &one });
    }
    handle(&mut engine, BEGIN, Input::Expected { master: &master.key, expectation: &expectation(4) });
    handle(&mut engine, BEGIN, Input::DumpEnd { complete: true });
    assert_eq!(expected_of(&engine, &master), [expectation(3), expectation(4)]);
    // One that broke off proves nothing.
    handle(&mut engine, BEGIN, Input::DumpBegin);
    handle(&mut engine, BEGIN, Input::DumpEnd { complete: false });
    assert_eq!(expected_of(&engine, &master), [expectation(3), expectation(4)]);
}

/// What a peer's flow expects is written after it, then only the difference; what runs out in this kernel is no news.
#[test]
fn told_expectations_are_written_once() {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    let expects = |ports: &[u16]| {
        let expectations = ports.iter().map(|&port| expectation(port)).collect();
        with(Extra { helper: Some("ftp".into()), expectations, ..Extra::default() })
    };
    let master = expects(&[1, 2]);
    let expect = |port| Action::Expect { master: master.key, expectation: Box::new(expectation(port)) };
    let unexpect = |port| Action::Unexpect { master: master.key, expectation: Box::new(expectation(port)) };
    let first = hear(&mut engine, BEGIN, &[(&master, 1)]);
    assert!(matches!(first[0], Action::Create(_)));
    assert_eq!(first[1..], [expect(1), expect(2)]);
    handle(&mut engine, BEGIN, Input::ExpectationGone { master: &master.key, expectation: &expectation(1) });
    let second = hear(&mut engine, BEGIN, &[(&expects(&[2, 3]), 2)]);
    assert!(matches!(second[0], Action::Update(_)));
    assert_eq!(second[1..], [unexpect(1), expect(3)]);
}

/// In one frame the master is created first, whatever the order. Alone, a related flow waits a second for its master, and
/// is then created without.
#[test]
fn masters_come_first() {
    let (master, mut child) = (flow(1), flow(2));
    child.extra_mut().master = Some(master.key);
    let created = |actions: &[Action]| -> Vec<(Flow, bool)> {
        let creation = |action: &Action| match action {
            Action::Create(flow) => Some((flow.clone(), flow.extra.as_ref().is_some_and(|e| e.master.is_some()))),
            _ => None,
        };
        actions.iter().filter_map(creation).collect()
    };
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    let actions = created(&hear(&mut engine, BEGIN, &[(&child, 1), (&master, 2)]));
    assert_eq!(actions.iter().map(|(flow, _)| flow.key).collect::<Vec<_>>(), [master.key, child.key]);
    assert!(actions[1].1);

    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    assert_eq!(created(&hear(&mut engine, BEGIN, &[(&child, 1)])), []);
    let late = created(&handle(&mut engine, BEGIN + SECOND, Input::Timer));
    assert!(matches!(&late[..], [(flow, false)] if flow.key == child.key), "{late:?}");
    assert_eq!(engine.stats().created_without_master, 1);

    // The master is known here, but the kernel has lost it.
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    hear(&mut engine, BEGIN, &[(&master, 1), (&child, 2)]);
    for again in 1..=2u64 {
        let failed = Input::WriteFailed { key: &child.key, write: WriteKind::Create, errno: 2 };
        let now = BEGIN + SECOND * again as u32;
        handle(&mut engine, now, failed);
        let tried = created(&handle(&mut engine, now + SECOND, Input::Timer));
        assert!(tried.iter().any(|(flow, with)| flow.key == child.key && *with == (again == 1)), "{again}: {tried:?}");
    }
}

/// A translated TCP flow with a helper is read at once, every two seconds and before a flush; the answer changes the
/// adjustment and nothing else, and a flush waits for it. Other flows are never read.
#[test]
fn adjustments_are_fetched() {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    let mut adjusted = tcp(3);
    adjusted.status |= status::SRC_NAT;
    adjusted.extra_mut().helper = Some("ftp".into());
    let fetch = Action::Fetch(adjusted.key);
    let fetches = |actions: Vec<Action>| actions.into_iter().filter(|action| *action == fetch).count();
    assert_eq!(fetches(handle(&mut engine, BEGIN, Input::Changed(&flow(7)))), 0);
    assert_eq!(fetches(handle(&mut engine, BEGIN, Input::Changed(&adjusted))), 1);
    assert_eq!(fetches(handle(&mut engine, BEGIN + SECOND, Input::Timer)), 0);
    assert!(engine.poll_at().is_some_and(|at| at <= BEGIN + SECOND * 2));
    assert_eq!(fetches(handle(&mut engine, BEGIN + SECOND * 2, Input::Timer)), 1);
    assert_eq!(fetches(handle(&mut engine, BEGIN + SECOND * 3, Input::Flush)), 1);
    let version = engine.clock;
    let sequence = [Some(SequenceAdjustment { position: 9, before: 0, after: 1 }), None];
    let mut answer = Flow { mark: 99, status: adjusted.status | status::SEQ_ADJUST, ..tcp(1) };
    answer.extra_mut().sequence = sequence;
    for _ in 0..2 {
        handle(&mut engine, BEGIN + SECOND * 3, Input::Fetched { key: &adjusted.key, flow: Some(&answer) });
        assert_eq!(engine.clock, version + 1);
    }
    let known = engine.table.get(slot_of(&engine, &adjusted)).unwrap().flow();
    let extra = known.extra.as_ref().unwrap();
    assert_eq!((extra.sequence, extra.helper.as_deref()), (sequence, Some("ftp")));
    assert_eq!((known.tcp, known.mark), (adjusted.tcp, 0));
    // Whoever takes a flow over reads it from then on.
    let mut heir = Engine::new(config(Mode::Ftfw), 1);
    assert_eq!(fetches(hear(&mut heir, BEGIN, &[(&adjusted, 1)])), 0);
    assert_eq!(fetches(handle(&mut heir, BEGIN, Input::Role(Role::Master))), 1);
    handle(&mut engine, BEGIN + SECOND * 4, Input::Destroyed { key: &adjusted.key, id: 0 });
    assert_eq!(fetches(handle(&mut engine, BEGIN + SECOND * 6, Input::Timer)), 0);
}

/// Of a session whose packets pass here an earlier state is not believed, and the peers hear so; of a peer's own session
/// it can only be another connection, which gets an entry of its own; so does one after this node's is over.
#[test]
fn tcp_states_are_not_set_back() {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    // Beyond the leap of a mastership.
    let newer = |version: u64| (1 << 40) + version;
    handle(&mut engine, BEGIN, Input::Role(Role::Master));
    handle(&mut engine, BEGIN, Input::Changed(&tcp(3)));
    assert_eq!(hear(&mut engine, BEGIN, &[(&tcp(2), newer(50))]), []);
    assert_eq!(engine.stats().regressions_ignored, 1);
    let entry = engine.table.get(slot_of(&engine, &tcp(3))).unwrap();
    assert_eq!((entry.tcp_state(), entry.owner()), (Some(3), Owner::Local));
    assert!(entry.version() > newer(50));
    let forward = hear(&mut engine, BEGIN, &[(&tcp(7), newer(60))]);
    assert!(matches!(&forward[..], [Action::Update(_)]), "{forward:?}");
    let reopened = hear(&mut engine, BEGIN, &[(&tcp(3), newer(70))]);
    assert!(matches!(&reopened[..], [Action::Delete { .. }, Action::Create(_)]), "{reopened:?}");
    let another = hear(&mut engine, BEGIN, &[(&tcp(1), newer(80))]);
    assert!(matches!(&another[..], [Action::Delete { .. }, Action::Create(_)]), "{another:?}");
}

/// A master insists on nothing that only an earlier mastership had traffic of: it may have ended unheard, and another node, which
/// was master meanwhile, tells of the next connection with the tuple.
#[test]
fn a_new_mastership_insists_on_nothing_older() {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    handle(&mut engine, BEGIN, Input::Role(Role::Master));
    handle(&mut engine, BEGIN, Input::Changed(&tcp(3)));
    handle(&mut engine, BEGIN, Input::Timer);
    handle(&mut engine, BEGIN, Input::Role(Role::Backup));
    handle(&mut engine, BEGIN, Input::Role(Role::Master));
    let begun = hear(&mut engine, BEGIN, &[(&tcp(1), 1 << 40)]);
    assert!(matches!(&begun[..], [Action::Delete { .. }, Action::Create(_)]), "{begun:?}");
    assert_eq!(engine.stats().regressions_ignored, 0);
}

/// A backup had traffic of a session, and hears of an earlier state, from a node that it may not know for the master yet: packets
/// have begun another connection with the tuple there, and the backup does not insist on what is over.
#[test]
fn a_backup_insists_on_nothing() {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    handle(&mut engine, BEGIN, Input::Role(Role::Backup));
    handle(&mut engine, BEGIN, Input::Changed(&tcp(3)));
    let begun = hear(&mut engine, BEGIN, &[(&tcp(1), 50)]);
    assert!(matches!(&begun[..], [Action::Delete { .. }, Action::Create(_)]), "{begun:?}");
    assert_eq!(engine.stats().regressions_ignored, 0);
}

/// Nor does one of two masters: the other's mastership is newer, as its versions say, and this one's is over.
#[test]
fn a_master_insists_on_nothing_against_a_newer_one() {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    handle(&mut engine, BEGIN, Input::Role(Role::Master));
    handle(&mut engine, BEGIN, Input::Changed(&tcp(3)));
    engine.peers[0].role = Role::Master;
    let begun = hear(&mut engine, BEGIN, &[(&tcp(1), 1 << 40)]);
    assert!(matches!(&begun[..], [Action::Delete { .. }, Action::Create(_)]), "{begun:?}");
    assert_eq!(engine.stats().regressions_ignored, 0);
}

/// Nor does one insist that had the traffic as a master, before it has heard that another node is master now.
#[test]
fn a_former_master_insists_on_nothing() {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    handle(&mut engine, BEGIN, Input::Role(Role::Master));
    handle(&mut engine, BEGIN, Input::Changed(&tcp(3)));
    handle(&mut engine, BEGIN, Input::Role(Role::Backup));
    // Beyond the leap of a mastership.
    let begun = hear(&mut engine, BEGIN, &[(&tcp(1), (1 << 40) + 50)]);
    assert!(matches!(&begun[..], [Action::Delete { .. }, Action::Create(_)]), "{begun:?}");
    assert_eq!(engine.stats().regressions_ignored, 0);
}
