//! What reaches a real engine, by its table.

use super::super::{Lists, MarkMatch, TcpStates, YOUNG_MAX};
use super::*;
use crate::role::{NodeId, Role};
use crate::sync::fixture::config;
use crate::sync::flow::{Tcp, status};
use crate::sync::table::tests::flow;
use crate::sync::{Config, Mode};
use core::time::Duration;

struct Stage {
    admission: Admission,
    engine: Engine,
    now: Instant,
    out: Vec<Action>,
}

impl Stage {
    fn new(filter: Filter) -> Self {
        let config = Config { peers: vec![NodeId(1)], flows_max: 1 << 18, ..config(Mode::Ftfw) };
        let mut stage = Self {
            admission: Admission::new(filter, 1),
            engine: Engine::new(config, 1),
            now: Instant(1_000_000_000),
            out: Vec::new(),
        };
        stage.engine.handle(stage.now, Input::Role(Role::Master), &mut stage.out);
        stage.engine.handle(stage.now, Input::DumpEnd { complete: true }, &mut stage.out);
        stage
    }

    fn changed(&mut self, flow: &Flow) {
        self.admission.changed(self.now, flow, &mut self.engine, &mut self.out);
    }

    fn destroyed(&mut self, flow: &Flow) {
        self.admission.destroyed(self.now, &flow.key, &flow.reply, flow.id, &mut self.engine, &mut self.out);
    }

    fn after(&mut self, pause: Duration) {
        self.now = self.now + pause;
        self.admission.on_timer(self.now, &mut self.engine, &mut self.out);
    }

    fn may_write(&mut self, flow: &Flow) -> bool {
        self.admission.may_write(self.now, &flow.key, &mut self.engine, &mut self.out)
    }

    fn filtered(&self, reason: FilterReason) -> u64 {
        self.admission.stats().filtered[reason as usize]
    }

    /// Flows that the engine replicates.
    fn flows(&self) -> u64 {
        self.engine.stats().flows
    }

    /// Whether the engine has asked for a dump since the last time.
    fn asks_for_dump(&mut self) -> bool {
        self.now = self.now + Duration::from_secs(6);
        self.engine.handle(self.now, Input::Timer, &mut self.out);
        let asked = self.out.drain(..).any(|action| action == Action::Dump);
        if asked {
            self.engine.handle(self.now, Input::DumpEnd { complete: false }, &mut self.out);
        }
        asked
    }
}

fn tcp(state: u8, bits: u32) -> Flow {
    let mut flow = Flow { status: bits, tcp: Some(Tcp { state, ..Tcp::default() }), ..flow(1) };
    flow.key.original.protocol = 6;
    flow.reply.protocol = 6;
    flow
}

/// A TCP flow begins to be replicated in a listed state, is followed through all others, and its end is told.
#[test]
fn states_decide_when_it_begins() {
    let mut stage = Stage::new(Filter { tcp_states: TcpStates(1 << 3), ..Filter::default() });
    for state in [1, 2] {
        stage.changed(&tcp(state, 0));
        assert_eq!(stage.flows(), 0, "state {state}");
    }
    assert_eq!(stage.filtered(FilterReason::TcpState), 2);
    for state in [3, 4, 5, 6, 7] {
        stage.changed(&tcp(state, 0));
        let states: Vec<_> = stage.engine.flows(9).map(|(flow, _)| flow.tcp.map(|tcp| tcp.state)).collect();
        assert_eq!(states, [Some(state)]);
    }
    stage.destroyed(&Flow { tcp: None, status: status::DYING, ..tcp(7, 0) });
    assert_eq!(stage.flows(), 0);
}

/// ASSURED comes later: then the flow begins, and not before. A mark that goes away takes it back, one that comes again
/// brings it again, and a deletion in between is no news.
#[test]
fn marks_and_assurance_come_and_go() {
    let marks = Lists { accept: Some(vec![MarkMatch { value: 1, mask: 1 }]), ignore: Vec::new() };
    let mut stage = Stage::new(Filter { assured_only: true, marks, ..Filter::default() });
    let marked = |mark, bits| Flow { mark, ..tcp(3, bits) };
    for (mark, bits, expected) in
        [(1, 0, 0), (0, status::ASSURED, 0), (3, status::ASSURED, 1), (2, status::ASSURED, 0), (1, status::ASSURED, 1)]
    {
        stage.changed(&marked(mark, bits));
        assert_eq!(stage.flows(), expected, "mark {mark}, status {bits}");
    }
    assert_eq!(stage.engine.stats().withdrawn, 1);
    assert_eq!((stage.filtered(FilterReason::Mark), stage.filtered(FilterReason::NotAssured)), (2, 1));
    // The event of its end carries neither.
    stage.destroyed(&marked(0, 0));
    assert_eq!(stage.flows(), 0);
}

/// An event that makes a flow wanted and does not tell its TCP state must not reach the peer without one: the table is
/// read. Where nothing can become wanted later, it is not.
#[test]
fn an_unknown_state_is_looked_up() {
    let stateless = Flow { tcp: None, ..tcp(3, status::ASSURED) };
    for (filter, expected) in [(Filter { assured_only: true, ..Filter::default() }, true), (Filter::default(), false)] {
        let mut stage = Stage::new(filter);
        while stage.asks_for_dump() {}
        stage.engine.handle(stage.now, Input::DumpEnd { complete: true }, &mut stage.out);
        stage.changed(&stateless);
        assert_eq!((stage.flows(), stage.asks_for_dump()), (0, expected));
        stage.admission.dumped(stage.now, &tcp(3, status::ASSURED), &mut stage.engine, &mut stage.out);
        assert_eq!(stage.flows(), 1);
    }
}

/// A flow that ends before `min_age` is never told; one that lives is, with its newest state, in time. A new flow with
/// the tuple of an ended one waits its own time, and the late news of the old one's end does not end it.
#[test]
fn young_flows_wait() {
    let mut stage = Stage::new(Filter { min_age: Duration::from_secs(2), ..Filter::default() });
    let numbered = |id| Flow { id, ..flow(1) };
    stage.changed(&numbered(7));
    stage.after(Duration::from_millis(1900));
    stage.destroyed(&numbered(7));
    assert_eq!((stage.flows(), stage.filtered(FilterReason::ShortLived)), (0, 1));
    stage.changed(&numbered(8));
    stage.destroyed(&numbered(7));
    stage.after(Duration::from_millis(1900));
    assert_eq!((stage.flows(), stage.admission.stats().young), (0, 1), "it waits its own two seconds");
    stage.changed(&Flow { mark: 5, ..numbered(8) });
    assert!(stage.admission.poll_at().is_some_and(|at| at <= stage.now + Duration::from_millis(100)));
    stage.after(Duration::from_millis(100));
    assert_eq!(stage.engine.flows(9).map(|(flow, _)| flow.mark).collect::<Vec<_>>(), [5]);
    assert_eq!((stage.admission.stats().young, stage.admission.poll_at()), (0, None));
    stage.changed(&Flow { mark: 6, ..numbered(8) });
    assert_eq!(stage.engine.flows(9).map(|(flow, _)| flow.mark).collect::<Vec<_>>(), [6], "it is old enough now");
    stage.destroyed(&numbered(8));
    assert_eq!(stage.flows(), 0);
}

/// A planned hand-over does not wait for anybody's age.
#[test]
fn young_flows_are_released() {
    let mut stage = Stage::new(Filter { min_age: Duration::from_secs(60), ..Filter::default() });
    (0..100).for_each(|n| stage.changed(&flow(n)));
    assert_eq!((stage.flows(), stage.admission.stats().young), (0, 100));
    stage.admission.release(stage.now, &mut stage.engine, &mut stage.out);
    assert_eq!((stage.flows(), stage.admission.stats().young), (100, 0));
}

/// When all places to wait are taken, also by flows that have ended, a flow is told of at once and that is counted.
#[test]
fn places_to_wait_are_bounded() {
    let mut stage = Stage::new(Filter { min_age: Duration::from_secs(2), ..Filter::default() });
    let max = u32::try_from(YOUNG_MAX).unwrap();
    for n in 0..max {
        stage.changed(&flow(n));
        if n % 2 == 0 {
            stage.destroyed(&flow(n));
        }
    }
    assert_eq!(stage.flows(), 0);
    stage.changed(&flow(max));
    assert_eq!((stage.flows(), stage.admission.stats().young_full), (1, 1));
    stage.after(Duration::from_secs(2));
    stage.changed(&flow(max + 1));
    assert_eq!(stage.admission.stats().young_full, 1, "there is room again");
    let mut rounds = 0;
    while stage.admission.poll_at().is_some_and(|at| at <= stage.now) {
        stage.after(Duration::ZERO);
        rounds += 1;
    }
    assert!(rounds > 1 && rounds < 100, "the release takes {rounds} portions");
    assert_eq!(stage.flows(), 1 + u64::from(max / 2));
}

/// A new filter takes back what it refuses, keeps the rest, and asks for a dump that brings what it accepts anew;
/// a standby does not read as news what its kernel may have left over, but does when it becomes master.
#[test]
fn a_new_filter_works_both_ways() {
    for role in [Role::Master, Role::Backup] {
        let mut stage = Stage::new(Filter::default());
        while stage.asks_for_dump() {}
        stage.engine.handle(stage.now, Input::DumpEnd { complete: true }, &mut stage.out);
        stage.changed(&tcp(3, 0));
        stage.changed(&flow(2));
        stage.engine.handle(stage.now, Input::Role(role), &mut stage.out);
        while stage.asks_for_dump() {}
        let only_tcp = Filter { protocols: [6].into_iter().collect(), ..Filter::default() };
        stage.admission.set_filter(stage.now, only_tcp, &mut stage.engine, &mut stage.out);
        assert_eq!((stage.flows(), stage.engine.stats().withdrawn), (1, 1));
        assert_eq!(stage.asks_for_dump(), role == Role::Master);
        stage.destroyed(&flow(2));
        assert_eq!(stage.filtered(FilterReason::Protocol), 1);
        stage.engine.handle(stage.now, Input::Role(Role::Master), &mut stage.out);
        assert!(stage.asks_for_dump());
    }
}

/// A flow that waits is let go when this node writes or deletes the peer's flow of that key, and when events were lost: no
/// event will tell its end, and it must not be told as news later.
#[test]
fn what_waits_is_let_go_when_it_may_have_ended() {
    let mut stage = Stage::new(Filter { min_age: Duration::from_secs(1), ..Filter::default() });
    stage.engine.handle(stage.now, Input::Role(Role::Backup), &mut stage.out);
    stage.changed(&flow(1));
    assert!(stage.may_write(&flow(1)));
    stage.changed(&flow(2));
    stage.admission.events_lost(stage.now, &mut stage.engine, &mut stage.out);
    stage.changed(&flow(3));
    stage.after(Duration::from_secs(2));
    assert_eq!((stage.flows(), stage.admission.stats().young), (1, 0));
    assert!(stage.engine.standing(&flow(3).key).is_some());
    stage.engine.handle(stage.now, Input::Role(Role::Master), &mut stage.out);
    assert!(stage.asks_for_dump());
}

/// Packets at a master use a tuple anew, of which a peer tells an older state before the flow is old enough: that is not written over
/// it, and the engine hears what is there.
#[test]
fn what_waits_at_a_master_is_not_written_over() {
    let mut stage = Stage::new(Filter { min_age: Duration::from_secs(1), ..Filter::default() });
    stage.changed(&Flow { mark: 5, ..flow(1) });
    assert!(!stage.may_write(&flow(1)));
    assert_eq!(stage.engine.flows(9).map(|(flow, _)| flow.mark).collect::<Vec<_>>(), [5]);
    assert_eq!(stage.admission.stats().young, 0);
    assert!(stage.may_write(&flow(1)));
}
