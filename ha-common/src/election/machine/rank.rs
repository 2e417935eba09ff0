//! Who of the two should have the group, by words that both know: the order is strict, so that both agree.

use crate::election::Config;
use crate::role::NodeId;
use crate::wire::heartbeat::{FLAG_MAINTENANCE, FLAG_READY, ROLE_BACKUP, ROLE_MASTER, Standing};

/// Smaller is better; the fields count in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// In fault, starting, leaving or under maintenance: cannot take it at all.
    unable: bool,
    /// Does not hold the sessions.
    unready: bool,
    pub(super) merit: Merit,
    /// Makes the order strict.
    node: u8,
}

/// What is configured or wrong with a node: what moves the group away from a master that could keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Merit {
    pub(super) demotion: u8,
    advbase: u8,
    advskew: u8,
}

impl Merit {
    pub(super) fn of(standing: Standing) -> Self {
        Self { demotion: standing.demotion, advbase: standing.advbase, advskew: standing.advskew }
    }
}

impl Rank {
    pub(super) fn of(standing: Standing, node: NodeId) -> Self {
        Self {
            unable: !is_able(standing),
            unready: !standing.has(FLAG_READY),
            merit: Merit::of(standing),
            node: node.0,
        }
    }

    /// The same, of a node whose controller does not run.
    pub(super) fn without_controller(self) -> Self {
        Self { unable: true, ..self }
    }
}

/// Takes part in the election and may take the group.
pub(super) fn is_able(standing: Standing) -> bool {
    matches!(standing.role, ROLE_BACKUP | ROLE_MASTER) && !standing.has(FLAG_MAINTENANCE)
}

/// The skew that is advertised: a demotion makes it worse, but never a goodbye.
pub(super) fn advertised_skew(config: &Config, demotion: u16) -> u8 {
    if demotion == 0 {
        return config.advskew;
    }
    u8::try_from(u16::from(config.advskew).saturating_add(demotion).min(254)).unwrap_or(254)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(change: impl Fn(&mut Standing), node: u8) -> Rank {
        let mut standing =
            Standing { role: ROLE_BACKUP, flags: FLAG_READY, advskew: 100, advbase: 1, ..Standing::default() };
        change(&mut standing);
        Rank::of(standing, NodeId(node))
    }

    /// Each criterion outweighs all that come after it; the node alone decides between equals.
    #[test]
    fn criteria_in_their_order() {
        let worse: [fn(&mut Standing); 6] = [
            |standing| standing.advskew += 1,
            |standing| standing.advbase += 1,
            |standing| standing.demotion += 1,
            |standing| standing.flags = 0,
            |standing| standing.flags |= FLAG_MAINTENANCE,
            |standing| standing.role = 3,
        ];
        assert!(rank(|_| {}, 0) < rank(|_| {}, 1));
        let mut last = rank(|_| {}, 1);
        for change in &worse[..4] {
            let next = rank(change, 0);
            assert!(last < next, "{next:?}");
            last = next;
        }
        for change in &worse[4..] {
            assert!(last < rank(change, 0));
        }
        assert!(rank(|_| {}, 1) < rank(|_| {}, 0).without_controller());
    }
}
