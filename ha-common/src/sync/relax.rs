//! TCP windows of a master that was not the only one.
//!
//! An entry that was made by traffic follows the windows of its connection strictly. While another node forwards, they
//! move unseen, and when the traffic comes back, its packets are INVALID (`ctnetlink` section 5). A standby's entries
//! are opened when it hears of them (`remote`); a master that was frozen, or has met a second one, stays master
//! and opens its own. So does one that ceases to be master: what the new one has told of its flows may have been read
//! while this node still took itself for the master of them.

use super::Action;
use super::engine::Engine;
use super::table::{Entry, Flags, Slot};
use crate::role::Role;
use crate::time::Instant;

/// `TCP_CONNTRACK_ESTABLISHED`: the others are over before they could come back.
const ESTABLISHED: u8 = 3;
/// Slots looked at per call, so that a large table delays nothing else.
const SLOTS_PER_RUN: Slot = 4096;

impl Engine {
    /// A master that was not run for longer than its peers wait may have been replaced meanwhile.
    pub(super) fn relax_after_freeze(&mut self, now: Instant) {
        if self.role == Role::Master && self.was_frozen(now) {
            self.relaxing = Some(0);
        }
    }

    /// From now on another node forwards the flows that were made here.
    pub(super) fn relax_after_mastership(&mut self) {
        self.relaxing = Some(0);
    }

    /// Two masters have met and the other one yielded: it forwarded some of this node's flows.
    pub(super) fn relax_after_dual_mastership(&mut self, peer_before: Role, peer_now: Role) {
        if self.role == Role::Master && peer_before == Role::Master && peer_now != Role::Master {
            self.relaxing = Some(0);
        }
    }

    /// Opens the next portion of the established TCP flows that were never written. Their state is left alone: it may have
    /// moved on in the kernel, and would be set back.
    pub(super) fn run_relax(&mut self, out: &mut Vec<Action>) {
        let Some(first) = self.relaxing else { return };
        let end = first.saturating_add(SLOTS_PER_RUN).min(self.table.slots());
        let is_strict = |entry: &&mut Entry| {
            let established = entry.tcp_state() == Some(ESTABLISHED);
            established && entry.is_live() && !entry.flags.has(Flags::WRITTEN)
        };
        for slot in first..end {
            let Some(entry) = self.table.get_mut(slot).filter(is_strict) else { continue };
            entry.flags.set(Flags::WRITTEN);
            out.push(Action::Relax(entry.key()));
        }
        self.relaxing = (end < self.table.slots()).then_some(end);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::config;
    use super::super::flow::{Flow, Tcp};
    use super::super::table::tests::flow;
    use super::super::{Config, Input, Mode};
    use super::*;
    use crate::role::NodeId;
    use crate::time::Instant;
    use core::time::Duration;

    const TIMEOUT: Duration = Duration::from_millis(500);

    fn engine() -> Engine {
        Engine::new(Config { peers: vec![NodeId(1)], ..config(Mode::Ftfw) }, 1)
    }

    fn tcp(n: u32, state: u8) -> Flow {
        Flow { tcp: Some(Tcp { state, ..Tcp::default() }), ..flow(n) }
    }

    /// Feeds inputs at the engine's own pace of 50 ms and counts the windows that it orders to open.
    fn updates<const N: usize>(engine: &mut Engine, now: &mut Instant, inputs: [Input<'_>; N]) -> usize {
        let mut out = Vec::new();
        for input in inputs {
            *now = *now + Duration::from_millis(50);
            engine.handle(*now, input, &mut out);
        }
        out.iter().filter(|action| matches!(action, Action::Relax(_))).count()
    }

    /// A master that was not run for longer than its peer waits for it has been replaced for a while, perhaps: it
    /// writes its established TCP flows, only those, and once. A table of more than one portion needs more than one
    /// call. A pause that the peer bears changes nothing.
    #[test]
    fn windows_are_relaxed_after_a_freeze() {
        let mut engine = engine();
        let mut now = Instant(1_000_000_000);
        updates(&mut engine, &mut now, [Input::Role(Role::Master)]);
        for n in 0..5000 {
            engine.handle(now, Input::Changed(&tcp(n, ESTABLISHED)), &mut Vec::new());
        }
        engine.handle(now, Input::Changed(&tcp(6000, 4)), &mut Vec::new());
        now = now + TIMEOUT / 2;
        assert_eq!(updates(&mut engine, &mut now, [Input::Timer, Input::Timer]), 0);
        now = now + TIMEOUT;
        let first = updates(&mut engine, &mut now, [Input::Timer]);
        assert!((1..5000).contains(&first), "{first}");
        assert!(engine.poll_at().is_some_and(|at| at <= now), "the rest is due at once");
        assert_eq!(first + updates(&mut engine, &mut now, [Input::Timer, Input::Timer]), 5000);
        now = now + TIMEOUT;
        assert_eq!(updates(&mut engine, &mut now, [Input::Timer, Input::Timer]), 0);
    }

    /// A node that ceases to be master writes the established TCP flows that its own traffic made, once; one that
    /// never was has nothing to write.
    #[test]
    fn windows_are_relaxed_when_a_mastership_ends() {
        let mut engine = engine();
        let mut now = Instant(0);
        updates(&mut engine, &mut now, [Input::Role(Role::Master)]);
        updates(&mut engine, &mut now, [Input::Changed(&tcp(1, ESTABLISHED)), Input::Changed(&tcp(2, 4))]);
        assert_eq!(updates(&mut engine, &mut now, [Input::Role(Role::Backup), Input::Timer]), 1);
        assert_eq!(updates(&mut engine, &mut now, [Input::Role(Role::Fault), Input::Timer]), 0);
    }

    /// Of two masters the one that stays writes its flows when the other has yielded.
    #[test]
    fn windows_are_relaxed_when_a_second_master_yields() {
        let mut engine = engine();
        let mut now = Instant(0);
        updates(&mut engine, &mut now, [Input::Role(Role::Master)]);
        updates(&mut engine, &mut now, [Input::Changed(&tcp(1, ESTABLISHED))]);
        engine.relax_after_dual_mastership(Role::Backup, Role::Backup);
        assert_eq!(updates(&mut engine, &mut now, [Input::Timer]), 0);
        engine.relax_after_dual_mastership(Role::Master, Role::Backup);
        assert_eq!(updates(&mut engine, &mut now, [Input::Timer]), 1);
    }
}
