//! Ends of flows that this node did not know any more: a peer's word has led to a deletion that is still under way, and it names no
//! number. Where packets use the tuple again at once, it hits what they have made, and no event tells of that. Nor does one where they
//! change an entry that a peer's word replaces by another.

use super::flow::FlowKey;
use crate::time::Instant;
use core::time::Duration;
use std::collections::VecDeque;

/// Writes are done within this.
const KEPT: Duration = Duration::from_secs(1);
/// Ends that are remembered; of more, the newest.
const STRAYS_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Strays {
    /// When a deletion was last ordered.
    deleted_at: Option<Instant>,
    ended: VecDeque<(Instant, FlowKey)>,
}

impl Strays {
    /// A deletion is ordered.
    pub fn deletion(&mut self, now: Instant) {
        self.deleted_at = Some(now);
    }

    /// A flow that is not known has ended.
    pub fn note(&mut self, now: Instant, key: &FlowKey) {
        if self.deleted_at.is_none_or(|at| now.since(at) > KEPT) {
            return;
        }
        if self.ended.len() >= STRAYS_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back((now, *key));
    }

    /// A flow is deleted and made anew as a peer has told: packets may change the entry that is to go before that is done.
    pub fn replacement(&mut self, now: Instant, key: &FlowKey) {
        self.deletion(now);
        self.note(now, key);
    }

    /// Did this flow end, or is it being replaced, so lately?
    pub fn take(&mut self, now: Instant, key: &FlowKey) -> bool {
        while self.ended.front().is_some_and(|(at, _)| now.since(*at) > KEPT) {
            self.ended.pop_front();
        }
        let found = self.ended.iter().position(|(_, stray)| stray == key);
        found.is_some_and(|at| self.ended.remove(at).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::Engine;
    use super::super::fixture::config;
    use super::super::table::tests::flow;
    use super::super::{Action, Input, Mode, PeerId, encode};
    use super::*;
    use crate::proto::{self, change::Kind};
    use crate::role::Role;
    use crate::sync::flow::Flow;

    const NOW: Instant = Instant(1_000_000_000);

    fn hear(engine: &mut Engine, kind: Kind) -> Vec<Action> {
        let changes = vec![proto::Change { kind: Some(kind) }];
        let mut out = Vec::new();
        engine.on_data(NOW, PeerId(0), 1, &proto::Data { changes, ..proto::Data::default() }, &mut out);
        out
    }

    /// Where nothing was deleted lately, what ends unknown was never replicated, and may come again as often as it likes.
    #[test]
    fn without_deletions_nothing_is_looked_for() {
        let mut strays = Strays::default();
        strays.note(NOW, &flow(1).key);
        assert!(!strays.take(NOW, &flow(1).key));
        strays.deletion(NOW);
        strays.note(NOW + KEPT, &flow(1).key);
        assert_eq!([NOW, NOW].map(|now| strays.take(now, &flow(1).key)), [true, false]);
        strays.note(NOW + KEPT * 2, &flow(1).key);
        assert!(!strays.take(NOW + KEPT * 2, &flow(1).key));
    }

    /// A peer tells that a flow has ended, and packets use the tuple again before the kernel has done the deletion, which has no number:
    /// what it may have hit is found by a dump.
    #[test]
    fn a_tuple_used_again_before_its_deletion_is_looked_for() {
        for role in [Role::Backup, Role::Master] {
            let (mut engine, mut out) = (Engine::new(config(Mode::Ftfw), 1), Vec::new());
            (engine.peers[0].up, engine.peers[0].heard) = (true, Instant(u64::MAX));
            engine.handle(NOW, Input::Role(role), &mut out);
            engine.handle(NOW, Input::DumpEnd { complete: true }, &mut out);
            let told = Kind::Upsert(encode::flow_message(&flow(1), 5, false));
            assert!(matches!(hear(&mut engine, told)[..], [Action::Create(_)]));
            let removal = proto::Removal { key: Some(encode::key_message(&flow(1).key)), version: 6 };
            assert_eq!(hear(&mut engine, Kind::Removal(removal)), [Action::Delete { key: flow(1).key, id: 0 }]);
            out.clear();
            engine.on_destroyed(NOW, &flow(1).key, 3, &mut out);
            engine.on_changed(NOW, &Flow { id: 9, ..flow(1) }, &mut out);
            engine.handle(Instant(NOW.0 + 250_000_000), Input::Timer, &mut out);
            assert!(out.contains(&Action::Dump));
            engine.handle(Instant(NOW.0 + 250_000_000), Input::DumpBegin, &mut out);
            engine.handle(Instant(NOW.0 + 250_000_000), Input::DumpEnd { complete: true }, &mut out);
            assert_eq!(engine.standing(&flow(1).key), None, "{role}");
        }
    }

    /// A peer tells of another connection in the place of a flow, and packets change that before the kernel has replaced it: what it has
    /// then is found by a dump, and told.
    #[test]
    fn an_entry_changed_before_it_is_replaced_is_looked_for() {
        let (mut engine, mut out) = (Engine::new(config(Mode::Ftfw), 1), Vec::new());
        (engine.peers[0].up, engine.peers[0].heard) = (true, Instant(u64::MAX));
        engine.handle(NOW, Input::Role(Role::Master), &mut out);
        engine.handle(NOW, Input::DumpEnd { complete: true }, &mut out);
        let assured = Flow { id: 3, status: crate::sync::flow::status::ASSURED, ..flow(1) };
        engine.on_changed(NOW, &assured, &mut out);
        let told = encode::flow_message(&Flow { mark: 2, ..flow(1) }, engine.clock + 1, false);
        assert!(matches!(hear(&mut engine, Kind::Upsert(told))[..], [Action::Delete { .. }, Action::Create(_)]));
        out.clear();
        engine.on_changed(NOW, &Flow { mark: 5, ..assured }, &mut out);
        engine.handle(Instant(NOW.0 + 250_000_000), Input::Timer, &mut out);
        assert!(out.contains(&Action::Dump));
        engine.handle(Instant(NOW.0 + 250_000_000), Input::DumpBegin, &mut out);
        engine.handle(NOW, Input::Dumped(&Flow { id: 4, mark: 2, ..flow(1) }), &mut out);
        assert!(engine.flows(1).all(|(flow, _)| flow.mark == 2));
    }
}
