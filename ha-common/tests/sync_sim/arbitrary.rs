//! Whatever the engine is given, it neither panics nor forgets its bounds.

use crate::modes::MODES;
use crate::world::{config, tcp, udp};
use ha_common::role::Role;
use ha_common::sync::{Config, Engine, Input, LinkId, WriteKind};
use ha_common::time::Instant;
use proptest::prelude::*;

/// One input as data.
#[derive(Clone, Debug)]
enum Given {
    Bytes(Vec<u8>),
    /// A header that may be right, and a body.
    Framed(u8, u8, u64, u64, Vec<u8>),
    Changed(u32, u8),
    Destroyed(u32, u32),
    Dumped(u32),
    DumpBegin,
    DumpEnd(bool),
    Failed(u32, u8, i32),
    Role(u8),
    EventsLost,
    Resync,
    Timer,
}

fn given() -> impl Strategy<Value = Given> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        bytes().prop_map(Given::Bytes),
        (0u8..5, 0u8..3, 0u64..3, any::<u64>(), bytes())
            .prop_map(|(kind, sender, session, sequence, body)| Given::Framed(kind, sender, session, sequence, body)),
        (0u32..40, 0u8..10).prop_map(|(n, state)| Given::Changed(n, state)),
        (0u32..40, 0u32..3).prop_map(|(n, id)| Given::Destroyed(n, id)),
        (0u32..40).prop_map(Given::Dumped),
        Just(Given::DumpBegin),
        any::<bool>().prop_map(Given::DumpEnd),
        (0u32..40, 0u8..3, prop_oneof![Just(1), Just(2), Just(12), Just(16), Just(17), Just(95), any::<i32>()])
            .prop_map(|(n, write, errno)| Given::Failed(n, write, errno)),
        (0u8..4).prop_map(Given::Role),
        Just(Given::EventsLost),
        Just(Given::Resync),
        Just(Given::Timer),
    ]
}

fn framed(kind: u8, sender: u8, session: u64, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"TWS1\x01".to_vec();
    bytes.extend([kind, sender, 1]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend([0; 6]);
    bytes.extend(session.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(body);
    bytes
}

fn give(engine: &mut Engine, now: Instant, given: &Given, actions: &mut Vec<ha_common::sync::Action>) {
    let flow = |n: u32, state: u8| if n.is_multiple_of(2) { udp(n) } else { tcp(n, state) };
    match given {
        Given::Bytes(bytes) => engine.handle(now, Input::Datagram { link: LinkId(0), bytes }, actions),
        Given::Framed(kind, sender, session, sequence, body) => {
            let bytes = framed(*kind, *sender, *session, *sequence, body);
            engine.handle(now, Input::Datagram { link: LinkId(0), bytes: &bytes }, actions);
        }
        Given::Changed(n, state) => engine.handle(now, Input::Changed(&flow(*n, *state)), actions),
        Given::Destroyed(n, id) => engine.handle(now, Input::Destroyed { key: &flow(*n, 0).key, id: *id }, actions),
        Given::Dumped(n) => engine.handle(now, Input::Dumped(&flow(*n, 3)), actions),
        Given::DumpBegin => engine.handle(now, Input::DumpBegin, actions),
        Given::DumpEnd(complete) => engine.handle(now, Input::DumpEnd { complete: *complete }, actions),
        Given::Failed(n, write, errno) => {
            let write = [WriteKind::Create, WriteKind::Update, WriteKind::Delete][usize::from(*write)];
            engine.handle(now, Input::WriteFailed { key: &flow(*n, 0).key, write, errno: *errno }, actions);
        }
        Given::Role(role) => {
            let role = [Role::Init, Role::Backup, Role::Master, Role::Fault][usize::from(*role)];
            engine.handle(now, Input::Role(role), actions);
        }
        Given::EventsLost => engine.handle(now, Input::EventsLost, actions),
        Given::Resync => engine.handle(now, Input::Resync, actions),
        Given::Timer => engine.handle(now, Input::Timer, actions),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A lone engine under arbitrary inputs with the clock standing, creeping and leaping: no panic, the
    /// table within its limit, and no timer that is due again at once for ever.
    #[test]
    fn arbitrary_inputs(mode in proptest::sample::select(&MODES[..]), inputs in proptest::collection::vec((given(), prop_oneof![Just(0u64), 0..5_000_000u64, any::<u64>()]), 0..120)) {
        let mut engine = Engine::new(Config { mode, flows_max: 30, ..config(0, 1) }, 5);
        let mut now = Instant(0);
        let mut actions = Vec::new();
        for (input, pause) in &inputs {
            now = Instant(now.0.saturating_add(*pause));
            give(&mut engine, now, input, &mut actions);
            prop_assert!(engine.stats().flows + engine.stats().tombstones <= 30);
        }
        let mut spins = 0;
        while engine.poll_at().is_some_and(|at| at <= now) && now.0 < u64::MAX / 2 {
            engine.handle(now, Input::Timer, &mut actions);
            spins += 1;
            prop_assert!(spins < 10, "the timer never settles");
        }
    }

    /// Two engines that talk to each other while both get arbitrary inputs: no panic, and authentic frames
    /// are never refused as malformed.
    #[test]
    fn arbitrary_pairs(mode in proptest::sample::select(&MODES[..]), inputs in proptest::collection::vec((given(), 0usize..2, 0..50_000_000u64), 0..150)) {
        let mut engines = [0, 1].map(|node| Engine::new(Config { mode, flows_max: 30, ..config(node, 1 + u64::from(node)) }, 5));
        let mut now = Instant(1_000_000_000);
        for (input, node, pause) in &inputs {
            now = Instant(now.0 + pause);
            let mut actions = Vec::new();
            give(&mut engines[*node], now, input, &mut actions);
            let mut from = *node;
            for _ in 0..20 {
                let mut answers = Vec::new();
                for action in actions.drain(..) {
                    if let ha_common::sync::Action::Send { datagram, .. } = action {
                        engines[1 - from].handle(now, Input::Datagram { link: LinkId(0), bytes: &datagram }, &mut answers);
                    }
                }
                (actions, from) = (answers, 1 - from);
            }
        }
        for engine in &engines {
            prop_assert!(engine.stats().flows + engine.stats().tombstones <= 30);
        }
    }
}
