//! Flows that are not old enough to be told of: most of them end before they are.
//!
//! All wait equally long, so they wait in one queue; there is no timer of a flow's own. A flow that ends leaves its place in the
//! queue behind, which the serial number tells from that of a later flow with the same tuple.

use crate::sync::flow::{Flow, FlowKey};
use crate::time::Instant;
use core::time::Duration;
use foldhash::quality::FixedState;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Most flows that wait, about 20 MiB of them; a flow that finds no place is told of at once.
pub const YOUNG_MAX: usize = 1 << 17;

struct Place {
    due: Instant,
    serial: u32,
    key: FlowKey,
}

struct Waiting {
    serial: u32,
    flow: Flow,
}

pub(super) struct Young {
    places: VecDeque<Place>,
    flows: HashMap<FlowKey, Waiting, FixedState>,
    serial: u32,
}

impl Young {
    /// `seed` keeps the order of the hash table unknown to those who choose the flows.
    pub fn new(seed: u64) -> Self {
        Self { places: VecDeque::new(), flows: HashMap::with_hasher(FixedState::with_seed(seed)), serial: 0 }
    }

    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Takes the newest state of a flow that waits; whether it does.
    pub fn update(&mut self, flow: &Flow) -> bool {
        let Some(waiting) = self.flows.get_mut(&flow.key) else { return false };
        let mut flow = flow.clone();
        flow.complete_with(&waiting.flow);
        waiting.flow = flow;
        true
    }

    /// Lets a flow wait; whether there is a place for it.
    pub fn insert(&mut self, now: Instant, min_age: Duration, flow: &Flow) -> bool {
        if self.places.len() >= YOUNG_MAX {
            return false;
        }
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        self.places.push_back(Place { due: now + min_age, serial, key: flow.key });
        self.flows.insert(flow.key, Waiting { serial, flow: flow.clone() });
        true
    }

    /// The flow has ended, or is not wanted any more; whether it waited. With another `id` than zero only that entry.
    pub fn remove(&mut self, key: &FlowKey, id: u32) -> bool {
        let Some(waiting) = self.flows.get(key) else { return false };
        // The tuple was used again before the news of the old entry's end came.
        let is_other = id != 0 && waiting.flow.id != 0 && waiting.flow.id != id;
        !is_other && self.flows.remove(key).is_some()
    }

    /// The flow that waits under this key.
    pub fn take(&mut self, key: &FlowKey) -> Option<Flow> {
        self.flows.remove(key).map(|waiting| waiting.flow)
    }

    /// The next flow that is old enough.
    pub fn pop(&mut self, now: Instant) -> Option<Flow> {
        self.pop_if(|place| place.due <= now)
    }

    /// The next flow, old enough or not.
    pub fn pop_any(&mut self) -> Option<Flow> {
        self.pop_if(|_| true)
    }

    /// When the next place is due, which may be that of a flow that has ended.
    pub fn poll_at(&self) -> Option<Instant> {
        self.places.front().map(|place| place.due)
    }

    fn pop_if(&mut self, is_due: impl Fn(&Place) -> bool) -> Option<Flow> {
        while self.places.front().is_some_and(&is_due) {
            let Some(place) = self.places.pop_front() else { break };
            if self.flows.get(&place.key).is_some_and(|waiting| waiting.serial == place.serial) {
                return self.flows.remove(&place.key).map(|waiting| waiting.flow);
            }
        }
        None
    }
}
