//! What must not be written out of order: a related flow before its master, and a TCP state after a later one.

use super::engine::Engine;
use super::flow::Flow;
use super::table::{Flags, Slot};

/// `TCP_CONNTRACK_*`.
const ESTABLISHED: u8 = 3;
const TIME_WAIT: u8 = 7;

/// How a related flow can be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// It has none, or its master is here.
    Ready,
    /// Its master may still come.
    Awaited,
    /// Its master did not come.
    Missing,
}

impl Engine {
    /// A flow that came in before its master waits for it once; if the kernel knows no such master either, it has to do
    /// without, and loses nothing but that rules call it related (`ctnetlink` section 14).
    pub(super) fn parent_of(&self, slot: Slot) -> Parent {
        let Some(entry) = self.table.get(slot) else { return Parent::Ready };
        let Some(master) = entry.extra().and_then(|extra| extra.master) else { return Parent::Ready };
        let master = self.table.find(&master).and_then(|slot| self.table.get(slot));
        let here = master.is_some_and(|master| master.is_live() && !master.flags.has(Flags::ABSENT));
        match (here, entry.retries) {
            (true, 0 | 1) => Parent::Ready,
            (false, 0) => Parent::Awaited,
            (true | false, _) => Parent::Missing,
        }
    }
}

/// How far a TCP connection is: within one connection it never goes back. Both ends may open or close it, so states with one
/// number have no order.
fn progress(state: u8) -> u8 {
    match state {
        // SYN_SENT, SYN_SENT2.
        1 | 9 => 1,
        // CLOSE follows any state, and TIME_WAIT.
        8 => TIME_WAIT,
        other => other,
    }
}

/// `new` tells an earlier state of the connection than `old`, or a state of another connection with the same tuple.
pub fn is_tcp_set_back(old: &Flow, new: &Flow) -> bool {
    old.tcp.zip(new.tcp).is_some_and(|(old, new)| progress(new.state) < progress(old.state))
}

/// `new` cannot be the connection that `old` was, which is over: the tuple is used again.
pub(super) fn is_reopened(old: &Flow, new: &Flow) -> bool {
    let over = |flow: &Flow| flow.tcp.is_some_and(|tcp| progress(tcp.state) >= TIME_WAIT);
    over(old) && new.tcp.is_some_and(|tcp| progress(tcp.state) <= ESTABLISHED)
}

#[cfg(test)]
mod tests {
    use super::super::flow::Tcp;
    use super::super::table::tests::flow;
    use super::*;

    /// All pairs of states: forward is never set back, a finished connection can only be followed by another, and what
    /// is neither is an older state of the same one.
    #[test]
    fn states_have_an_order() {
        let tcp = |state| Flow { tcp: Some(Tcp { state, ..Tcp::default() }), ..flow(1) };
        let forward = [1, 2, 3, 4, 5, 6, 7];
        for (at, &old) in forward.iter().enumerate() {
            for &new in &forward[at..] {
                assert!(!is_tcp_set_back(&tcp(old), &tcp(new)), "{old} to {new}");
            }
            for &new in &forward[..at] {
                assert!(is_tcp_set_back(&tcp(old), &tcp(new)), "{old} to {new}");
                assert_eq!(is_reopened(&tcp(old), &tcp(new)), old == 7 && new <= 3, "{old} to {new}");
            }
            assert!(!is_tcp_set_back(&tcp(old), &tcp(8)));
        }
        assert!(!is_tcp_set_back(&tcp(1), &tcp(9)) && !is_tcp_set_back(&tcp(9), &tcp(2)));
        assert!(is_reopened(&tcp(8), &tcp(1)) && !is_tcp_set_back(&flow(1), &tcp(1)));
    }
}
