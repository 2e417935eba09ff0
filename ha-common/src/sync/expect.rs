//! Expectations: the connections that a flow has announced are part of its state, and travel with it.
//!
//! Their time is not refreshed: the kernel lets it run out on both nodes alike, and an owner whose expectation is over says so.
//! What the kernel of a copy's node lets run out is no news. So an expectation is written once, after its master.

use super::engine::Engine;
use super::extra::EXPECTATIONS_MAX;
use super::flow::{Expectation, FlowKey};
use super::table::{Owner, Slot};
use super::{Action, PeerId};
use crate::time::Instant;
use core::time::Duration;
use std::collections::VecDeque;

/// Expectations that wait for their master.
const EARLY_MAX: usize = 256;

/// Expectations remembered of one dump; the kernel holds at most `nf_conntrack_expect_max`, some thousand.
const DUMPED_MAX: usize = 65_536;

/// What a running dump has listed, and what events have told meanwhile.
#[derive(Default)]
pub(super) struct ExpectationDump {
    seen: Vec<(Slot, Expectation)>,
    /// Withdrawn while the dump ran: its line may be older.
    gone: Vec<(Slot, Expectation)>,
    /// Not everything could be remembered: the dump proves nothing.
    overflowed: bool,
}

impl ExpectationDump {
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn saw(&mut self, slot: Slot, expectation: &Expectation) {
        if self.seen.len() < DUMPED_MAX {
            self.seen.push((slot, expectation.clone()));
        } else {
            self.overflowed = true;
        }
    }

    fn lost(&mut self, slot: Slot, expectation: &Expectation) {
        self.seen.retain(|(other, seen)| *other != slot || !seen.is_same_place(expectation));
        if self.gone.len() < DUMPED_MAX {
            self.gone.push((slot, expectation.clone()));
        } else {
            self.overflowed = true;
        }
    }
}

/// Expectations told before their master. A helper that works on the first packet of a connection (TFTP, SIP over UDP)
/// announces before the kernel confirms the entry, and so before it tells of it (`nf_ct_expect_related_report`,
/// `__nf_conntrack_confirm`). The master comes at once, or when the filter lets it, or never.
#[derive(Default)]
pub(super) struct EarlyExpectations(VecDeque<(Instant, FlowKey, Expectation)>);

impl EarlyExpectations {
    /// Keeps one until it is over; returns how many others are dropped, being over, or the oldest of too many.
    fn keep(&mut self, now: Instant, master: &FlowKey, expectation: &Expectation) -> u64 {
        self.remove(master, expectation);
        let before = self.0.len();
        self.0.retain(|(until, ..)| *until > now);
        if self.0.len() >= EARLY_MAX {
            self.0.pop_front();
        }
        let dropped = before - self.0.len();
        let until = now + Duration::from_secs(u64::from(expectation.timeout));
        self.0.push_back((until, *master, expectation.clone()));
        dropped as u64
    }

    /// Whether it was there.
    fn remove(&mut self, master: &FlowKey, expectation: &Expectation) -> bool {
        let before = self.0.len();
        self.0.retain(|(_, key, known)| key != master || !known.is_same_place(expectation));
        self.0.len() < before
    }

    /// Those of this master, in the order in which they were told.
    fn take(&mut self, now: Instant, master: &FlowKey) -> Vec<Expectation> {
        let (of_master, others): (VecDeque<_>, _) = self.0.drain(..).partition(|(_, key, _)| key == master);
        self.0 = others;
        of_master.into_iter().filter(|(until, ..)| *until > now).map(|(_, _, expectation)| expectation).collect()
    }
}

impl Engine {
    /// A flow has become known here: what its helper has announced before is its own.
    pub(super) fn expect_early(&mut self, now: Instant, master: &FlowKey, out: &mut Vec<Action>) {
        if !self.early_expectations.0.iter().any(|(_, key, _)| key == master) {
            return;
        }
        for expectation in self.early_expectations.take(now, master) {
            self.on_expected(now, master, &expectation, out);
        }
    }

    /// A helper here waits for a connection.
    pub(super) fn on_expected(
        &mut self,
        now: Instant,
        master: &FlowKey,
        expectation: &Expectation,
        out: &mut Vec<Action>,
    ) {
        let Some(slot) = self.live_master(master) else {
            self.counters.expectations_foreign += self.early_expectations.keep(now, master, expectation);
            return;
        };
        if self.dump.is_running() {
            self.expectation_dump.gone.retain(|(other, gone)| *other != slot || !gone.is_same_place(expectation));
            self.expectation_dump.saw(slot, expectation);
        }
        let Some(entry) = self.table.get(slot) else { return };
        let mut expectations = entry.extra().map_or_else(Vec::new, |extra| extra.expectations.clone());
        let full = expectations.len() >= EXPECTATIONS_MAX;
        match expectations.iter_mut().find(|known| known.is_same_place(expectation)) {
            Some(known) if known.is_same(expectation) => return self.fetch_now(slot, out),
            Some(known) => known.clone_from(expectation),
            None if full => {
                self.counters.expectations_refused += 1;
                return;
            }
            None => expectations.push(expectation.clone()),
        }
        self.set_expectations(now, slot, expectations);
        self.fetch_now(slot, out);
    }

    /// An expectation here is fulfilled or over. What runs out on a node that holds a copy means nothing.
    pub(super) fn on_expectation_gone(&mut self, now: Instant, master: &FlowKey, expectation: &Expectation) {
        let Some(slot) = self.live_master(master) else {
            self.counters.expectations_foreign += u64::from(self.early_expectations.remove(master, expectation));
            return;
        };
        if self.dump.is_running() {
            self.expectation_dump.lost(slot, expectation);
        }
        let Some(entry) = self.table.get(slot) else { return };
        match entry.owner() {
            Owner::Local | Owner::Found => {}
            Owner::Peer(_) => return,
        }
        let Some(known) = entry.extra().map(|extra| &extra.expectations) else { return };
        if known.iter().any(|known| known.is_same_place(expectation)) {
            let rest = known.iter().filter(|known| !known.is_same_place(expectation)).cloned().collect();
            self.set_expectations(now, slot, rest);
        }
    }

    pub(super) fn on_dumped_expectation(&mut self, master: &FlowKey, expectation: &Expectation) {
        let Some(slot) = self.live_master(master) else {
            self.counters.expectations_foreign += 1;
            return;
        };
        let dump = &mut self.expectation_dump;
        let place = |list: &[(Slot, Expectation)]| {
            list.iter().any(|(other, known)| *other == slot && known.is_same_place(expectation))
        };
        // An event was quicker.
        if !place(&dump.gone) && !place(&dump.seen) {
            dump.saw(slot, expectation);
        }
    }

    /// A complete dump has ended: the flows of this node have the expectations that it listed, and no others.
    pub(super) fn reconcile_expectations(&mut self, now: Instant) {
        let mut dump = core::mem::take(&mut self.expectation_dump);
        if dump.overflowed {
            return;
        }
        dump.seen.sort_by_key(|(slot, _)| *slot);
        let mut listed = dump.seen.into_iter().peekable();
        for slot in 0..self.table.slots() {
            let mut expectations = Vec::new();
            while let Some((_, expectation)) = listed.next_if(|(of, _)| *of <= slot) {
                if expectations.len() < EXPECTATIONS_MAX {
                    expectations.push(expectation);
                } else {
                    self.counters.expectations_refused += 1;
                }
            }
            let Some(entry) = self.table.get(slot).filter(|entry| entry.is_live()) else { continue };
            match entry.owner() {
                Owner::Local | Owner::Found => {}
                Owner::Peer(_) => continue,
            }
            let known = entry.extra().map_or(&[][..], |extra| &extra.expectations);
            let same = known.len() == expectations.len()
                && known.iter().all(|known| expectations.iter().any(|listed| listed.is_same(known)));
            if !same {
                self.set_expectations(now, slot, expectations);
            }
        }
    }

    /// Orders what makes the expectations of a peer's flow here those that its owner has told, after it told `before`.
    pub(super) fn expect_as_told(&mut self, slot: Slot, before: &[Expectation], out: &mut Vec<Action>) {
        let Some(entry) = self.table.get(slot) else { return };
        let told = entry.extra().map_or(&[][..], |extra| &extra.expectations);
        let master = entry.key();
        for gone in before.iter().filter(|gone| !told.iter().any(|told| told.is_same(gone))) {
            out.push(Action::Unexpect { master, expectation: Box::new(gone.clone()) });
        }
        for fresh in told.iter().filter(|fresh| !before.iter().any(|before| before.is_same(fresh))) {
            out.push(Action::Expect { master, expectation: Box::new(fresh.clone()) });
        }
    }

    fn live_master(&self, master: &FlowKey) -> Option<Slot> {
        self.table.find(master).filter(|&slot| self.table.get(slot).is_some_and(|entry| entry.is_live()))
    }

    /// A change made here: the flow is this node's from now on, unless nobody has claimed it yet.
    fn set_expectations(&mut self, now: Instant, slot: Slot, expectations: Vec<Expectation>) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        let mut flow = entry.flow();
        flow.extra_mut().expectations = expectations;
        entry.set_flow(&flow);
        match entry.owner() {
            Owner::Found => {}
            Owner::Local | Owner::Peer(PeerId(_)) => {
                let version = self.tick();
                self.table.claim(slot, Owner::Local, version);
                self.publish(now, slot);
            }
        }
    }
}
