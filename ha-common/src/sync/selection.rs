//! Flows that are not to be replicated any more, or only now: what a filter in front of the engine asks for.

use super::engine::Engine;
use super::filter::Filter;
use super::flow::FlowKey;
use super::table::{Owner, Slot};
use crate::time::Instant;

/// Whose flow it is that the engine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This node's, or found here at the start.
    Own,
    Peer,
}

impl Engine {
    /// Whether the engine holds this flow, and whose it is.
    pub fn standing(&self, key: &FlowKey) -> Option<Standing> {
        let slot = self.table.find(key)?;
        let entry = self.table.get(slot).filter(|entry| entry.is_live())?;
        Some(match entry.owner() {
            Owner::Local | Owner::Found => Standing::Own,
            Owner::Peer(_) => Standing::Peer,
        })
    }

    pub(super) fn on_withdraw(&mut self, now: Instant, key: &FlowKey) {
        if let Some(slot) = self.table.find(key) {
            self.withdraw(now, slot);
        }
    }

    /// Goes over the whole table once: a reload is rare.
    pub(super) fn on_retain(&mut self, now: Instant, filter: &Filter) {
        for slot in 0..self.table.slots() {
            if self.table.get(slot).is_some_and(|entry| entry.is_live() && !filter.keeps(&entry.flow())) {
                self.withdraw(now, slot);
            }
        }
        self.dump.want_for(self.role);
    }

    pub(super) fn on_reread(&mut self) {
        self.dump.want_for(self.role);
    }

    /// The peers remove their copies; this node's kernel goes on with the flow.
    fn withdraw(&mut self, now: Instant, slot: Slot) {
        let generation = self.dump.generation();
        let Some(entry) = self.table.get_mut(slot).filter(|entry| entry.is_live()) else { return };
        // A line of a running dump is older than this decision.
        entry.dump = generation;
        match entry.owner() {
            Owner::Local => {
                self.counters.withdrawn += 1;
                self.entomb_local(now, slot);
            }
            Owner::Found => self.forget(slot),
            // Its owner has a filter, too.
            Owner::Peer(_) => {}
        }
    }
}
