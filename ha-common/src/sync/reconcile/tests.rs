use super::super::fixture::config;
use super::super::table::tests::flow;
use super::super::{Input, Mode};
use super::*;

const NOW: Instant = Instant(1_000_000_000);

fn engine() -> Engine {
    let mut engine = Engine::new(config(Mode::Ftfw), 1);
    engine.peers[0].up = true;
    engine.peers.iter_mut().for_each(|peer| peer.heard = NOW);
    engine
}

/// The begin of a connection was not heard, and it ends while a dump runs whose line of it still waits. The line is believed,
/// so the table is read again.
#[test]
fn an_end_amid_a_dump_of_what_was_not_heard_of_is_found() {
    let (mut engine, mut out) = (engine(), Vec::new());
    engine.on_changed(NOW, &Flow { id: 7, ..flow(1) }, &mut out);
    engine.handle(NOW, Input::Role(Role::Master), &mut out);
    assert!(out.contains(&Action::Dump));
    engine.on_destroyed(NOW, &flow(1).key, 9, &mut out);
    engine.on_dumped(NOW, &Flow { id: 9, mark: 2, ..flow(1) }, &mut out);
    out.clear();
    engine.handle(NOW, Input::DumpEnd { complete: true }, &mut out);
    engine.handle(Instant(NOW.0 + 300_000_000), Input::Timer, &mut out);
    assert!(out.contains(&Action::Dump));
    engine.handle(Instant(NOW.0 + 300_000_000), Input::DumpEnd { complete: true }, &mut out);
    assert_eq!(engine.standing(&flow(1).key), None);
}

/// A write replaces the entry that packets have changed since it was ordered, and the new one ends: it is not the one that is known.
/// The table is read.
#[test]
fn an_end_of_another_entry_has_the_table_read() {
    let mut engine = engine();
    engine.handle(NOW, Input::Role(Role::Master), &mut Vec::new());
    engine.handle(NOW, Input::DumpEnd { complete: true }, &mut Vec::new());
    engine.on_changed(NOW, &Flow { id: 7, ..flow(1) }, &mut Vec::new());
    engine.on_destroyed(NOW, &flow(1).key, 9, &mut Vec::new());
    let (mut out, later) = (Vec::new(), Instant(NOW.0 + 300_000_000));
    engine.handle(later, Input::Timer, &mut out);
    assert!(out.contains(&Action::Dump));
    engine.handle(later, Input::DumpEnd { complete: true }, &mut out);
    assert_eq!(engine.standing(&flow(1).key), None);
}

/// A master stood still. That events were lost is heard before the end of its mastership, which waits as well: no peer is told
/// before that it is master.
#[test]
fn no_peer_is_told_anything_when_events_were_lost() {
    let (mut engine, mut out) = (engine(), Vec::new());
    engine.handle(NOW, Input::Role(Role::Master), &mut out);
    let later = Instant(NOW.0 + 2_000_000_000);
    out.clear();
    engine.handle(later, Input::EventsLost, &mut out);
    assert_eq!(out, [Action::Event(Event::EventsLost)]);
    assert!(engine.poll_at().is_some_and(|at| at <= later));
}

/// A copy that was ordered before the mastership is written over what packets have made as a dump waits for that write: the dump
/// tells of it.
#[test]
fn what_was_written_before_a_dump_began_is_told_by_it() {
    let (mut engine, mut out) = (engine(), Vec::new());
    engine.handle(NOW, Input::Role(Role::Master), &mut out);
    assert!(out.contains(&Action::Dump));
    engine.on_changed(NOW, &Flow { id: 7, mark: 2, ..flow(1) }, &mut out);
    engine.handle(NOW, Input::DumpBegin, &mut out);
    engine.on_dumped(NOW, &Flow { id: 9, mark: 1, ..flow(1) }, &mut out);
    assert!(engine.flows(1).all(|(flow, _)| flow.mark == 1));
    engine.on_changed(NOW, &Flow { id: 9, mark: 3, ..flow(1) }, &mut out);
    engine.on_dumped(NOW, &Flow { id: 9, mark: 1, ..flow(1) }, &mut out);
    assert!(engine.flows(1).all(|(flow, _)| flow.mark == 3));
}

/// A creation that was ordered before the mastership is done after what it was to replace has ended: the dump, which waits for it,
/// tells of it.
#[test]
fn what_was_made_before_a_dump_began_is_told_by_it() {
    for is_known in [true, false] {
        let (mut engine, mut out) = (engine(), Vec::new());
        if is_known {
            engine.on_changed(NOW, &Flow { id: 7, ..flow(1) }, &mut out);
        }
        engine.handle(NOW, Input::Role(Role::Master), &mut out);
        assert!(out.contains(&Action::Dump));
        engine.on_destroyed(NOW, &flow(1).key, 7, &mut out);
        engine.handle(NOW, Input::DumpBegin, &mut out);
        engine.on_dumped(NOW, &Flow { id: 9, mark: 1, ..flow(1) }, &mut out);
        assert!(engine.flows(1).any(|(flow, _)| flow.mark == 1));
    }
}

/// The same where the end of the tuple's former use is still remembered: the line is not believed.
#[test]
fn an_end_amid_a_dump_counts_beside_a_former_one() {
    let (mut engine, mut out) = (engine(), Vec::new());
    engine.on_changed(NOW, &Flow { id: 7, ..flow(1) }, &mut out);
    engine.on_destroyed(NOW, &flow(1).key, 7, &mut out);
    assert_eq!(engine.stats().tombstones, 1);
    engine.handle(NOW, Input::Role(Role::Master), &mut out);
    engine.handle(NOW, Input::DumpBegin, &mut out);
    engine.on_destroyed(NOW, &flow(1).key, 9, &mut out);
    engine.on_dumped(NOW, &Flow { id: 9, mark: 2, ..flow(1) }, &mut out);
    assert_eq!(engine.standing(&flow(1).key), None);
}

/// Nobody's flow is let go while a dump runs. A line that lists it tells nothing; one of another flow with the tuple has the table
/// read again.
#[test]
fn another_flow_in_the_place_of_nobodys_is_looked_for() {
    for id in [7, 9] {
        let mut engine = engine();
        engine.insert(&Flow { id: 7, ..flow(1) }, Owner::Found, 5, &mut Vec::new());
        engine.on_dump_begin(NOW);
        engine.forget(0);
        engine.dump.wanted = false;
        engine.on_dumped(NOW, &Flow { id, ..flow(1) }, &mut Vec::new());
        assert_eq!((engine.dump.wanted, engine.standing(&flow(1).key)), (id == 9, None));
    }
}
