//! What changes in an entry without an event: the sequence adjustment of a helper that rewrites addresses in the data (FTP,
//! SIP over TCP). Such entries are read when a helper announces a connection, every few seconds, and before a flush
//! (`ctnetlink` section 12).

use super::Action;
use super::engine::Engine;
use super::flow::{Flow, FlowKey, status};
use super::table::{Entry, Flags, Owner, Slot};
use crate::time::Instant;
use core::time::Duration;
use std::collections::VecDeque;

/// An entry is read as often as this.
const INTERVAL: Duration = Duration::from_secs(2);
/// Entries read again and again; further ones are read only when their helper announces a connection.
const FLOWS_MAX: usize = 1024;

/// Flows to be read, in the order of their time.
#[derive(Default)]
pub(super) struct Fetches(VecDeque<(Instant, Slot)>);

impl Fetches {
    pub fn poll_at(&self) -> Option<Instant> {
        self.0.front().map(|&(at, _)| at)
    }

    /// A slot that is in it already, for a flow of before, is not added again.
    fn add(&mut self, at: Instant, slot: Slot) -> bool {
        if self.0.len() >= FLOWS_MAX {
            return false;
        }
        if !self.0.iter().any(|&(_, other)| other == slot) {
            self.0.push_back((at, slot));
        }
        true
    }
}

impl Engine {
    /// Reads the flow from now on, if it is this node's and its data may be rewritten.
    pub(super) fn fetch_if_adjusted(&mut self, now: Instant, slot: Slot, out: &mut Vec<Action>) {
        let fresh = |entry: &&mut Entry| !entry.flags.has(Flags::FETCHED) && is_fetched(entry);
        let Some(entry) = self.table.get_mut(slot).filter(fresh) else { return };
        if self.fetches.add(now + INTERVAL, slot) {
            entry.flags.set(Flags::FETCHED);
            out.push(Action::Fetch(entry.key()));
        }
    }

    /// Its helper has just announced a connection, and for that, perhaps, rewritten an address.
    pub(super) fn fetch_now(&mut self, slot: Slot, out: &mut Vec<Action>) {
        if let Some(entry) = self.table.get(slot).filter(|entry| is_fetched(entry)) {
            out.push(Action::Fetch(entry.key()));
        }
    }

    /// Reads all that are read from time to time; returns how many answers will come.
    pub(super) fn fetch_all(&mut self, now: Instant, out: &mut Vec<Action>) -> usize {
        let before = out.len();
        for (at, _) in &mut self.fetches.0 {
            *at = now;
        }
        self.run_fetches(now, out);
        out.len() - before
    }

    /// Reads what is due.
    pub(super) fn run_fetches(&mut self, now: Instant, out: &mut Vec<Action>) {
        for _ in 0..self.fetches.0.len() {
            if self.fetches.0.front().is_none_or(|(at, _)| *at > now) {
                return;
            }
            let Some((_, slot)) = self.fetches.0.pop_front() else { return };
            let Some(entry) = self.table.get_mut(slot).filter(|entry| entry.is_live()) else { continue };
            if !is_fetched(entry) {
                entry.flags.clear(Flags::FETCHED);
                continue;
            }
            out.push(Action::Fetch(entry.key()));
            self.fetches.0.push_back((now + INTERVAL, slot));
        }
    }

    /// The answer. Only what makes no event is taken from it: the rest may be older than the events read meanwhile.
    pub(super) fn on_fetched(&mut self, now: Instant, key: &FlowKey, flow: Option<&Flow>) {
        self.counters.fetched += 1;
        self.flush_further(now);
        let Some((flow, slot)) = flow.zip(self.table.find(key)) else { return };
        let same = |entry: &&mut Entry| entry.is_local() && (entry.id == 0 || flow.id == 0 || entry.id == flow.id);
        let Some(entry) = self.table.get_mut(slot).filter(same) else { return };
        let mut changed = entry.flow();
        changed.status |= flow.status & status::SEQ_ADJUST;
        let told = flow.extra.as_ref().map_or([None; 2], |extra| extra.sequence);
        if told == [None; 2] || changed.extra.as_ref().is_some_and(|extra| extra.sequence == told) {
            return;
        }
        changed.extra_mut().sequence = told;
        entry.set_flow(&changed);
        let version = self.tick();
        self.table.claim(slot, Owner::Local, version);
        self.publish(now, slot);
    }
}

/// The flow is this node's, and its sequence numbers are adjusted or may become so: by a helper that rewrites addresses
/// in a translated TCP connection.
fn is_fetched(entry: &Entry) -> bool {
    let translated = entry.status() & (status::SRC_NAT | status::DST_NAT) != 0;
    let helped = || entry.extra().is_some_and(|extra| extra.helper.is_some());
    entry.is_local() && (entry.status() & status::SEQ_ADJUST != 0 || entry.has_tcp() && translated && helped())
}
