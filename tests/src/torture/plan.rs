//! What is done to the pair, drawn from a seed: the same seed is the same plan.
//!
//! Faults come in batches that overlap in time. In each batch one node is the victim; what happens to its peer is at most
//! that it does not hear the victim on two of three paths. So one node is healthy all the time, and the pair has no
//! excuse not to have a master.

use crate::topology::Port;
use std::time::Duration;

/// One of the two nodes, by its part in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Victim,
    Peer,
}

/// Which node is the victim: named when the batch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Master,
    Backup,
}

/// What happens, from its beginning to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The daemon is killed; it is started as usual at the end.
    Kill,
    /// The daemon is stopped cleanly; it is started at the end.
    Stop,
    /// The host dies; it is booted at the end.
    Crash,
    /// The daemon stands still; its kernel goes on.
    Freeze,
    /// The whole host stands still.
    Pause,
    /// An administrator asks for a hand-over. Over at once.
    HandOver,
    /// Neither node hears the other at all.
    Partition,
    /// One way of a path carries nothing.
    Cut { from: Part, path: Port },
    /// One way of a path loses frames.
    Lose { from: Part, path: Port, percent: u8 },
    /// A cable of the victim is out.
    Unplug { port: Port },
    /// An interface of the victim is deleted; it is made anew at the end.
    Delete { port: Port },
}

/// A fault and its time within the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    pub fault: Fault,
    pub begin: Duration,
    pub end: Duration,
}

/// Faults that overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub target: Target,
    pub faults: Vec<Timed>,
    /// The rest that the pair gets before, once it has settled.
    pub rest: Duration,
}

/// The batches of a seed, until there were as many faults as wanted.
#[derive(Clone, Debug)]
pub struct Plan {
    random: Random,
    left: u32,
    /// Whether the daemon knows a command for a hand-over.
    hand_over: bool,
}

impl Plan {
    /// A plan of at least `faults` faults.
    pub fn new(seed: u64, faults: u32, hand_over: bool) -> Self {
        Self { random: Random(seed), left: faults, hand_over }
    }

    fn node_fault(&mut self) -> Fault {
        // Where nobody can ask for a hand-over, a clean stop is the next best.
        match self.random.below(7) {
            0 | 1 => Fault::Kill,
            2 => Fault::Stop,
            3 => Fault::Crash,
            4 => Fault::Freeze,
            5 => Fault::Pause,
            _ if self.hand_over => Fault::HandOver,
            _ => Fault::Stop,
        }
    }

    fn link_fault(&mut self, port: Port, whole: bool) -> Fault {
        let from = if self.random.below(2) == 0 { Part::Victim } else { Part::Peer };
        let percent = u8::try_from(5 + self.random.below(40)).unwrap_or(5);
        match self.random.below(if whole { 5 } else { 3 }) {
            0 | 1 => Fault::Cut { from, path: port },
            2 => Fault::Lose { from, path: port, percent },
            3 => Fault::Unplug { port },
            _ => Fault::Delete { port },
        }
    }

    fn timed(&mut self, fault: Fault) -> Timed {
        let begin = Duration::from_millis(self.random.below(600));
        // Mostly short, around the lease and the dead times; some longer than CARP's own dead time.
        let longest = if self.random.below(5) == 0 { 5_000 } else { 800 };
        Timed { fault, begin, end: begin + Duration::from_millis(20 + self.random.below(longest)) }
    }
}

impl Iterator for Plan {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.left == 0 {
            return None;
        }
        let target = if self.random.below(3) == 0 { Target::Backup } else { Target::Master };
        let rest = Duration::from_millis(self.random.below(400));
        let mut faults = Vec::new();
        if self.random.below(16) == 0 {
            faults.push(self.timed(Fault::Partition));
        } else {
            let node = (self.random.below(3) > 0).then(|| self.node_fault());
            let links = self.random.below(3).max(u64::from(node.is_none()));
            // A dead host's interfaces are not touched.
            let whole = node != Some(Fault::Crash);
            let first = self.random.below(3);
            for link in 0..links {
                let port = match (first + link) % 3 {
                    0 => Port::Lan,
                    1 => Port::Wan,
                    _ => Port::Sync,
                };
                let fault = self.link_fault(port, whole);
                faults.push(self.timed(fault));
            }
            faults.extend(node.map(|fault| self.timed(fault)));
        }
        self.left = self.left.saturating_sub(u32::try_from(faults.len()).unwrap_or(u32::MAX));
        Some(Batch { target, faults, rest })
    }
}

/// `SplitMix64`: small, seeded by any number.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same seed gives the same plan, another one another; a plan has as many faults as asked for, or up to two more.
    #[test]
    fn a_seed_is_a_plan() {
        let plan = |seed| Plan::new(seed, 100, true).collect::<Vec<_>>();
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        let count: usize = plan(7).iter().map(|batch| batch.faults.len()).sum();
        assert!((100..=102).contains(&count), "{count}");
    }

    /// Whatever the seed, a batch leaves its peer healthy: one fault of a node at most, and at least one of the three
    /// paths whole, except in a partition, which comes alone. Every kind of fault is drawn.
    #[test]
    fn a_batch_leaves_one_node_healthy() {
        let mut kinds = std::collections::HashSet::new();
        for batch in (0..50).flat_map(|seed| Plan::new(seed, 100, true)) {
            let mut nodes = 0;
            let mut ports = Vec::new();
            for timed in &batch.faults {
                kinds.insert(std::mem::discriminant(&timed.fault));
                assert!(timed.begin < timed.end);
                match timed.fault {
                    Fault::Partition => assert_eq!(batch.faults.len(), 1),
                    Fault::Cut { path, .. } | Fault::Lose { path, .. } => ports.push(path),
                    Fault::Unplug { port } | Fault::Delete { port } => ports.push(port),
                    Fault::Kill | Fault::Stop | Fault::Crash | Fault::Freeze | Fault::Pause | Fault::HandOver => {
                        nodes += 1;
                    }
                }
            }
            let distinct = ports.iter().all(|port| ports.iter().filter(|other| *other == port).count() == 1);
            assert!(nodes <= 1 && ports.len() <= 2 && distinct, "{batch:?}");
        }
        assert_eq!(kinds.len(), 11);
    }
}
