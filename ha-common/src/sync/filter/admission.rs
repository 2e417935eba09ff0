//! The filter applied: what the kernel tells goes to the engine, waits, or stays here.

use super::young::Young;
use super::{Filter, FilterReason};
use crate::role::Role;
use crate::sync::flow::{Flow, FlowKey, Tuple};
use crate::sync::{Action, Engine, Input, Standing};
use crate::time::Instant;

const TCP: u8 = 6;
/// Flows that [`Admission::on_timer`] passes on per call; more are due at once.
const RELEASED_PER_CALL: usize = 1024;

/// What admission counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmissionStats {
    /// Events and dumped entries kept local, by the reason's position in [`FilterReason::ALL`].
    pub filtered: [u64; FilterReason::COUNT],
    /// Flows that wait for their age.
    pub young: usize,
    /// Flows that found no place to wait and were told of at once.
    pub young_full: u64,
}

/// Stands in front of the engine, and knows nothing of the kernel or of sockets.
pub struct Admission {
    filter: Filter,
    young: Young,
    stats: AdmissionStats,
}

impl Admission {
    /// `seed`: as the engine's.
    pub fn new(filter: Filter, seed: u64) -> Self {
        Self { filter, young: Young::new(seed), stats: AdmissionStats::default() }
    }

    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    pub fn stats(&self) -> AdmissionStats {
        AdmissionStats { young: self.young.len(), ..self.stats }
    }

    /// Replaces the filter: what it refuses is taken back from the peers, what it accepts anew is found by a dump.
    /// Flows that wait are judged by it when their time comes.
    pub fn set_filter(&mut self, now: Instant, filter: Filter, engine: &mut Engine, out: &mut Vec<Action>) {
        self.filter = filter;
        engine.handle(now, Input::Retain(&self.filter), out);
    }

    /// The kernel created or changed a flow.
    pub fn changed(&mut self, now: Instant, flow: &Flow, engine: &mut Engine, out: &mut Vec<Action>) {
        if let Err(reason) = self.filter.judge(flow) {
            return self.refused(now, flow, reason, engine, out);
        }
        let may_wait = !self.filter.min_age.is_zero() || self.young.len() > 0;
        if may_wait && self.young.update(flow) {
            return;
        }
        let lacks_state = flow.key.original.protocol == TCP && flow.tcp.is_none();
        if !lacks_state && self.filter.min_age.is_zero() || engine.standing(&flow.key).is_some() {
            return engine.handle(now, Input::Changed(flow), out);
        }
        if lacks_state {
            // A dump that will list it is on its way, or it was refused until now: the table says what became of it.
            if self.filter.admits_late() {
                engine.handle(now, Input::Reread, out);
            }
            return;
        }
        if !self.young.insert(now, self.filter.min_age, flow) {
            self.stats.young_full += 1;
            engine.handle(now, Input::Changed(flow), out);
        }
    }

    /// The kernel deleted a flow; `reply` and `id` are what its last event said.
    pub fn destroyed(
        &mut self,
        now: Instant,
        key: &FlowKey,
        reply: &Tuple,
        id: u32,
        engine: &mut Engine,
        out: &mut Vec<Action>,
    ) {
        if self.young.len() > 0 && self.young.remove(key, id) {
            return self.count(FilterReason::ShortLived);
        }
        // Such an event lacks state and mark, and what was told once must be taken back: the identity alone decides,
        // and only where the engine does not know the flow.
        match self.filter.judge_identity(key, reply) {
            Err(reason) if engine.standing(key).is_none() => self.count(reason),
            Ok(()) | Err(_) => engine.handle(now, Input::Destroyed { key, id }, out),
        }
    }

    /// The engine wants a flow written or deleted as a peer has told; whether that is to be done. One that waits under the same key
    /// is not what the kernel has afterwards, and no event will say so. But at a master, whose packets made it, it is newer than
    /// what any peer knows: the engine hears of it instead.
    pub fn may_write(&mut self, now: Instant, key: &FlowKey, engine: &mut Engine, out: &mut Vec<Action>) -> bool {
        let waiting = if self.young.len() > 0 { self.young.take(key) } else { None };
        match (waiting, engine.role) {
            (Some(flow), Role::Master) => {
                self.grown(now, &flow, engine, out);
                false
            }
            (Some(_), Role::Init | Role::Backup | Role::Fault) | (None, _) => true,
        }
    }

    /// Events were lost. What waits may have ended meanwhile: the dump that follows lists what has not.
    pub fn events_lost(&mut self, now: Instant, engine: &mut Engine, out: &mut Vec<Action>) {
        while self.young.pop_any().is_some() {}
        engine.handle(now, Input::EventsLost, out);
    }

    /// An entry that a dump lists. How old it is nobody knows: it does not wait, unless it does already.
    pub fn dumped(&mut self, now: Instant, flow: &Flow, engine: &mut Engine, out: &mut Vec<Action>) {
        match self.filter.judge(flow) {
            Ok(()) if self.young.len() > 0 && self.young.update(flow) => {}
            Ok(()) => engine.handle(now, Input::Dumped(flow), out),
            Err(reason) => match engine.standing(&flow.key) {
                None => self.count(reason),
                Some(Standing::Own) if !reason.only_delays() => self.withdraw(now, flow, reason, engine, out),
                // What is left out of a dump counts as gone, and this is there.
                Some(Standing::Own | Standing::Peer) => engine.handle(now, Input::Dumped(flow), out),
            },
        }
    }

    /// Passes on what has become old enough.
    pub fn on_timer(&mut self, now: Instant, engine: &mut Engine, out: &mut Vec<Action>) {
        for _ in 0..RELEASED_PER_CALL {
            let Some(flow) = self.young.pop(now) else { return };
            self.grown(now, &flow, engine, out);
        }
    }

    /// Passes on what waits, whatever its age: another node is to take over without a loss.
    pub fn release(&mut self, now: Instant, engine: &mut Engine, out: &mut Vec<Action>) {
        while let Some(flow) = self.young.pop_any() {
            self.grown(now, &flow, engine, out);
        }
    }

    /// When [`Admission::on_timer`] is due at the latest.
    pub fn poll_at(&self) -> Option<Instant> {
        self.young.poll_at()
    }

    fn grown(&mut self, now: Instant, flow: &Flow, engine: &mut Engine, out: &mut Vec<Action>) {
        match self.filter.judge(flow) {
            Ok(()) => engine.handle(now, Input::Changed(flow), out),
            // The filter was replaced while it waited.
            Err(reason) => self.count(reason),
        }
    }

    fn refused(&mut self, now: Instant, flow: &Flow, reason: FilterReason, engine: &mut Engine, out: &mut Vec<Action>) {
        if self.young.len() > 0 {
            self.young.remove(&flow.key, 0);
        }
        match engine.standing(&flow.key) {
            Some(_) if reason.only_delays() => engine.handle(now, Input::Changed(flow), out),
            Some(Standing::Own) => self.withdraw(now, flow, reason, engine, out),
            // It is the peer's to say what is replicated of its flows.
            Some(Standing::Peer) | None => self.count(reason),
        }
    }

    fn withdraw(
        &mut self,
        now: Instant,
        flow: &Flow,
        reason: FilterReason,
        engine: &mut Engine,
        out: &mut Vec<Action>,
    ) {
        self.count(reason);
        engine.handle(now, Input::Withdraw { key: &flow.key }, out);
    }

    fn count(&mut self, reason: FilterReason) {
        if let Some(count) = self.stats.filtered.get_mut(reason as usize) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests;
