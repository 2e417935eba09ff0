//! The kernel's connection table, as the engine meets it.

use ha_common::sync::flow::{Flow, FlowKey, status};
use ha_common::time::Instant;
use std::collections::HashMap;
use std::time::Duration;

const ENOENT: i32 = 2;
const EBUSY: i32 = 16;
const ENOMEM: i32 = 12;

/// A conntrack table as far as the engine can tell.
#[derive(Default)]
pub struct Kernel {
    pub flows: HashMap<FlowKey, (Flow, Instant)>,
    next_id: u32,
    /// Creations fail for want of memory.
    pub full: bool,
    pub creates: u64,
    pub updates: u64,
    pub deletes: u64,
}

impl Kernel {
    pub fn put(&mut self, now: Instant, flow: &Flow) -> Flow {
        self.next_id += 1;
        let flow = Flow { id: self.next_id, ..flow.clone() };
        self.flows.insert(flow.key, (flow.clone(), now + Duration::from_secs(flow.timeout.into())));
        flow
    }

    pub fn create(&mut self, now: Instant, flow: &Flow) -> Result<(), i32> {
        self.creates += 1;
        if self.full {
            return Err(ENOMEM);
        }
        self.put(now, flow);
        Ok(())
    }

    /// As the real one: status bits are only ever added, translation cannot change.
    pub fn update(&mut self, now: Instant, flow: &Flow) -> Result<(), i32> {
        self.updates += 1;
        let Some((old, deadline)) = self.flows.get_mut(&flow.key) else { return Err(ENOENT) };
        let sticky = status::SEEN_REPLY | status::ASSURED;
        if old.status & !flow.status & sticky != 0 {
            return Err(EBUSY);
        }
        assert_eq!(old.reply, flow.reply, "an update cannot change the translation");
        (old.status, old.mark, old.tcp) = (old.status | flow.status, flow.mark, flow.tcp.or(old.tcp));
        *deadline = now + Duration::from_secs(flow.timeout.into());
        Ok(())
    }

    pub fn delete(&mut self, key: &FlowKey, id: u32) {
        self.deletes += 1;
        if self.flows.get(key).is_some_and(|(flow, _)| id == 0 || flow.id == id) {
            self.flows.remove(key);
        }
    }
}
