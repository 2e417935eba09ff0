//! Any configuration, any input, any time: the prober neither panics, nor spins, nor grows.

use crate::world::config;
use ha_common::liveness::{Action, Config, Input, PathId, PathReply, Prober, Refusal};
use ha_common::sight::{PeerReport, Sight};
use ha_common::time::Instant;
use ha_common::wire::heartbeat::Standing;
use proptest::prelude::*;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    /// Also backwards.
    Jump(u64),
    Due,
    Reply {
        path: u8,
        sequence: u64,
        ago: i64,
        session: u64,
        replies: u64,
        rtt: u64,
    },
    /// The newest probe of a path is answered.
    Answer(u8),
    Link(u8, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3_000_000u64).prop_map(Step::Wait),
        1 => (0..5_000_000_000u64).prop_map(Step::Wait),
        1 => any::<u64>().prop_map(Step::Jump),
        6 => Just(Step::Due),
        2 => (0..6u8, prop_oneof![0..20u64, any::<u64>()], any::<i64>(), 0..4u64, any::<u64>(), any::<u64>())
            .prop_map(|(path, sequence, ago, session, replies, rtt)| Step::Reply { path, sequence, ago, session, replies, rtt }),
        5 => (0..3u8).prop_map(Step::Answer),
        2 => (0..6u8, prop::bool::weighted(0.8)).prop_map(|(path, up)| Step::Link(path, up)),
    ]
}

prop_compose! {
    fn any_config()(
        interval in prop_oneof![0..20_000_000u64, any::<u64>()], multiplier in prop_oneof![0..10u32, any::<u32>()],
        max in prop_oneof![0..500_000_000u64, any::<u64>()], paths in 0..20usize,
    ) -> Config {
        let nanos = Duration::from_nanos;
        Config { interval: nanos(interval), multiplier, dead_after_max: nanos(max), ..config(paths) }
    }
}

fn reply(path: u8, sequence: u64, received: Instant, session: u64) -> PathReply {
    let report = PeerReport {
        session,
        term: sequence,
        standing: Standing::unpack(sequence << 40),
        beat_age: Duration::ZERO,
        lease_left: Duration::ZERO,
        heard: received,
        asked: received,
    };
    let rtt = Duration::from_micros(30);
    PathReply { path: PathId(path), sequence, received, rtt, mac: [2; 6], replies: sequence, report }
}

struct Rig {
    prober: Prober,
    now: Instant,
    /// Newest probe of each path.
    sent: [u64; 256],
    paths: usize,
}

impl Rig {
    /// Hands one input in and checks what comes out.
    fn input(&mut self, input: Input<'_>) {
        let mut actions = Vec::new();
        self.prober.handle(self.now, input, &mut actions);
        assert!(actions.len() <= self.paths.min(16) + 1, "{actions:?}");
        for action in actions {
            match action {
                Action::Probe { path, sequence, .. } => {
                    let sent = &mut self.sent[usize::from(path.0)];
                    assert_eq!(sequence, *sent + 1);
                    *sent = sequence;
                }
                Action::Sight(sight) => assert_eq!(
                    std::mem::discriminant(&sight),
                    std::mem::discriminant(&self.prober.sight()),
                    "told otherwise"
                ),
            }
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Wait(nanos) => {
                self.now = self.now + Duration::from_nanos(nanos);
                self.input(Input::Timer);
            }
            Step::Jump(to) => self.now = Instant(to % (1 << 62)),
            Step::Due => {
                self.now = self.prober.poll_at().map_or(self.now, |at| at.max(self.now));
                self.input(Input::Timer);
            }
            Step::Reply { path, sequence, ago, session, replies, rtt } => {
                let received = Instant(self.now.0.saturating_add_signed(ago));
                let rtt = Duration::from_nanos(rtt);
                self.input(Input::Reply(&PathReply { replies, rtt, ..reply(path, sequence, received, session) }));
            }
            Step::Answer(path) => {
                let reply = reply(path, self.sent[usize::from(path)], self.now, 1);
                self.input(Input::Reply(&reply));
            }
            Step::Link(path, up) => self.input(Input::Link { path: PathId(path), up }),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Arbitrary inputs, the clock running backwards too: no panic, probes numbered without gaps, at most one a path and
    /// input, and the timer always settles in the future.
    #[test]
    fn arbitrary_inputs(config in any_config(), seed in any::<u64>(), steps in prop::collection::vec(step(), 0..300)) {
        let paths = config.paths.len();
        let mut rig = Rig { prober: Prober::new(config, seed), now: Instant(0), sent: [0; 256], paths };
        for step in &steps {
            rig.apply(step);
            let stats = rig.prober.stats();
            prop_assert!(stats.paths.len() <= 16 && stats.recovered <= stats.silences);
            if rig.prober.poll_at().is_some_and(|at| at <= rig.now) {
                rig.input(Input::Timer);
                prop_assert!(rig.prober.poll_at().is_none_or(|at| at > rig.now), "the timer stalls");
            }
        }
    }
}

/// Answers that cannot be are counted once each by what is wrong with them, however often they are handed in, and move
/// nothing: an unknown path, a number not sent yet, one from the future, one older than the newest, a former session's.
#[test]
fn impossible_answers_are_refused() {
    let start = Instant(1_000_000_000);
    let mut prober = Prober::new(config(2), 0);
    let mut out = Vec::new();
    (0..2).for_each(|path| prober.handle(start, Input::Link { path: PathId(path), up: true }, &mut out));
    let mut now = start;
    for _ in 0..10 {
        now = prober.poll_at().expect("links are up");
        prober.handle(now, Input::Timer, &mut out);
    }
    let mut give = |reply: PathReply| {
        let mut out = Vec::new();
        (0..3).for_each(|_| prober.handle(now, Input::Reply(&reply), &mut out));
        (out.len(), prober.stats().refused, prober.sight())
    };
    let ms = Duration::from_millis;
    let (told, _, _) = give(reply(0, 5, now - ms(2), 1));
    assert_eq!(told, 1);
    // The peer restarts: seen on path 0, the former process's answer on path 1 comes late.
    let (_, refused, sight) = give(reply(0, 6, now - ms(1), 2));
    assert!(Refusal::ALL.iter().all(|reason| refused.of(*reason) == 0));
    let wrong = [
        (reply(7, 1, now, 2), Refusal::UnknownPath, 3),
        (reply(0, 11, now, 2), Refusal::Impossible, 1),
        (reply(0, 7, now + ms(2000), 2), Refusal::Impossible, 2),
        (reply(0, 4, now, 2), Refusal::Stale, 1),
        (PathReply { rtt: ms(2), ..reply(1, 5, now, 1) }, Refusal::OldSession, 1),
        (reply(1, 6, now - ms(2), 3), Refusal::OldSession, 2),
    ];
    for (reply, reason, count) in wrong {
        let (told, refused, after) = give(reply);
        assert_eq!((told, refused.of(reason), after), (0, count, sight), "{reason:?}");
    }
    assert!(matches!(sight, Sight::Alive(report) if report.session == 2));
    // Not for good: what answers a probe that was sent after the other process was heard last is the one that runs.
    let (told, _, sight) = give(reply(1, 7, now, 3));
    assert_eq!((told, matches!(sight, Sight::Alive(report) if report.session == 3)), (1, true));
}
