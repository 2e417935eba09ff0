//! What the answers of two nodes say: who held the addresses when, and whether both ever did at once.

use crate::topology::Node;

/// The lease of a master whose peer is alive, nanoseconds: its answers may not go on for longer than that beside
/// another master's.
pub const LEASE: u64 = 40_000_000;

/// Requests that a master lets pass unanswered, while the other one answers them, before it may be master again within
/// a lease: nobody hands over and takes back between two requests.
const PASSED_MIN: u32 = 3;

/// One answer to one request; times are nanoseconds since the observer began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub node: Node,
    /// When its request was sent.
    pub sent: u64,
    /// When the answer was read: late by as much as the observer was held up, which excuses and never accuses.
    pub arrived: u64,
}

/// The side that a virtual address is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Lan,
    Wan,
}

impl Side {
    /// Both, in the order of [`Timeline`]'s answers.
    pub const BOTH: [Self; 2] = [Self::Lan, Self::Wan];

    /// Position in [`Side::BOTH`].
    pub const fn index(self) -> usize {
        match self {
            Self::Lan => 0,
            Self::Wan => 1,
        }
    }
}

/// Two nodes have answered for one address at once: this node answered a request that was sent after the other one had
/// begun to answer, less than a lease after one that it had answered before, and not on a way there and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    pub side: Side,
    pub node: Node,
    /// When the other node had given its first answer.
    pub other_began: u64,
    /// When the request was sent that this node should not have answered.
    pub sent: u64,
}

/// A time in which the LAN's address was answered for by one node and the WAN's by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart {
    pub lan: Node,
    pub begin: u64,
    pub end: u64,
}

/// A node's uninterrupted answering for one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    pub node: Node,
    /// Its first answer.
    pub began: u64,
    /// Its last answer.
    pub ended: u64,
}

/// The answers of a stretch of time, LAN and WAN, each in the order of arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    pub answers: [Vec<Answer>; 2],
}

impl Timeline {
    /// Every answer that two masters at once have given.
    pub fn violations(&self) -> Vec<Violation> {
        Side::BOTH.into_iter().flat_map(|side| judge(side, self.of(side)).1).collect()
    }

    /// Who answered for the address, one after the other.
    pub fn reigns(&self, side: Side) -> Vec<Reign> {
        judge(side, self.of(side)).0
    }

    /// The longest time for which both nodes kept answering for one address, nanoseconds; 0 when they never did.
    pub fn longest_double(&self) -> u64 {
        let longest = |side: Side| {
            let violations = judge(side, self.of(side)).1;
            let mut begin = None;
            let mut last = 0;
            let mut longest = 0;
            for violation in violations {
                // A pause of a lease between two of them ends a stretch.
                if violation.sent.saturating_sub(last) >= LEASE {
                    begin = None;
                }
                last = violation.sent;
                longest = longest.max(last.saturating_sub(*begin.get_or_insert(violation.other_began)));
            }
            longest
        };
        Side::BOTH.map(longest).into_iter().max().unwrap_or(0)
    }

    /// The longest time without an answer on either side, nanoseconds, between these two instants.
    pub fn longest_silence(&self, from: u64, until: u64) -> u64 {
        let longest = |side: Side| {
            let arrivals = self.of(side).iter().map(|answer| answer.arrived);
            let inside = arrivals.filter(|at| (from..until).contains(at));
            let mut begin = from;
            let gaps = inside.chain([until]).map(|at| at.saturating_sub(std::mem::replace(&mut begin, at)));
            gaps.max().unwrap_or(0)
        };
        Side::BOTH.map(longest).into_iter().max().unwrap_or(0)
    }

    /// When the two addresses were on different nodes.
    pub fn apart(&self) -> Vec<Apart> {
        let wan = self.reigns(Side::Wan);
        let mut found = Vec::new();
        for lan in self.reigns(Side::Lan) {
            for wan in wan.iter().filter(|wan| wan.node != lan.node) {
                let (begin, end) = (lan.began.max(wan.began), lan.ended.min(wan.ended));
                if begin < end {
                    found.push(Apart { lan: lan.node, begin, end });
                }
            }
        }
        found
    }

    /// The longest of them, nanoseconds.
    pub fn longest_apart(&self) -> u64 {
        self.apart().iter().map(|apart| apart.end - apart.begin).max().unwrap_or(0)
    }

    /// Whether the node answered, on either side, a request sent at or after this time.
    pub fn answered_since(&self, node: Node, since: u64) -> bool {
        self.answers.iter().flatten().any(|answer| answer.node == node && answer.sent >= since)
    }

    /// The answers on a side to requests sent within `around` of `at`, one a line in the order of arrival: node, when the
    /// request was sent and when the answer came, milliseconds from `at`.
    pub fn excerpt(&self, side: Side, at: u64, around: u64) -> String {
        let near = self.of(side).iter().filter(|answer| answer.sent.abs_diff(at) <= around);
        let ms = |time: u64| (time as f64 - at as f64) / 1e6;
        near.map(|answer| format!("{} {:+.2} {:+.2}\n", answer.node.name(), ms(answer.sent), ms(answer.arrived)))
            .collect()
    }

    fn of(&self, side: Side) -> &[Answer] {
        let [lan, wan] = &self.answers;
        match side {
            Side::Lan => lan,
            Side::Wan => wan,
        }
    }
}

/// Reads one side's answers in the order of arrival.
///
/// A change of the answering node is lawful if the one that begins has not answered for a lease: the first stays silent
/// from then on. Sooner it is lawful once, as a way there and back: it let [`PASSED_MIN`] requests pass that the other one
/// answered, and no such return was seen for a lease. Two masters at once both answer every request, so whoever goes on
/// after the other one has begun is seen, once for each time it interrupts.
fn judge(side: Side, answers: &[Answer]) -> (Vec<Reign>, Vec<Violation>) {
    let mut reigns: Vec<Reign> = Vec::new();
    let mut violations = Vec::new();
    let mut last_answered: [Option<u64>; 2] = [None; 2];
    // Requests that the present node has answered since the other one's last answer, and when a node last came back.
    let mut passed = 0;
    let mut returned: Option<u64> = None;
    for answer in answers {
        let [fw1, fw2] = &mut last_answered;
        let own = match answer.node {
            Node::Fw1 => fw1,
            Node::Fw2 => fw2,
        };
        let before = own.replace(answer.sent);
        match reigns.last_mut() {
            Some(reign) if reign.node == answer.node => {
                reign.ended = answer.arrived;
                passed += 1;
            }
            // A straggler: the request was on its way before the other one began.
            Some(reign) if answer.sent <= reign.began => passed = 0,
            current => {
                let other_began = current.map(|reign| reign.began);
                let within = |since: Option<u64>| since.is_some_and(|since| answer.sent.saturating_sub(since) < LEASE);
                if let Some(other_began) = other_began.filter(|_| within(before)) {
                    if passed < PASSED_MIN || within(returned) {
                        violations.push(Violation { side, node: answer.node, other_began, sent: answer.sent });
                    }
                    returned = Some(answer.sent);
                }
                reigns.push(Reign { node: answer.node, began: answer.arrived, ended: answer.arrived });
                passed = 1;
            }
        }
    }
    (reigns, violations)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A node's answers to a request each millisecond from `from` up to `until`, each half a millisecond later.
    fn answers(node: Node, from: u64, until: u64) -> Vec<Answer> {
        (from..until).map(|at| Answer { node, sent: at * MS, arrived: at * MS + MS / 2 }).collect()
    }

    fn timeline(lan: Vec<Vec<Answer>>, wan: Vec<Vec<Answer>>) -> Timeline {
        let sorted = |parts: Vec<Vec<Answer>>| {
            let mut answers = parts.concat();
            answers.sort_by_key(|answer| (answer.arrived, answer.node));
            answers
        };
        Timeline { answers: [sorted(lan), sorted(wan)] }
    }

    /// One node after the other, with a silence or without one, there and back, is lawful; an answer to a request that
    /// was on its way when the other one began is, too.
    #[test]
    fn one_after_the_other_is_lawful() {
        let mut late = answers(Node::Fw1, 99, 100);
        late[0].arrived += 3 * MS;
        let lan = vec![answers(Node::Fw1, 0, 99), late, answers(Node::Fw2, 100, 200), answers(Node::Fw1, 205, 300)];
        let seen = timeline(lan, vec![]);
        assert_eq!(seen.violations(), []);
        assert_eq!(seen.longest_double(), 0);
        let nodes: Vec<_> = seen.reigns(Side::Lan).iter().map(|reign| reign.node).collect();
        assert_eq!(nodes, [Node::Fw1, Node::Fw2, Node::Fw1]);
    }

    /// A hand-over whose receiver loses its link at once comes back within a lease, lawfully; there and back twice within a
    /// lease is not the work of one master at a time, nor is a return between two requests.
    #[test]
    fn there_and_back_within_a_lease_is_lawful_once() {
        let (fw1, fw2) = (Node::Fw1, Node::Fw2);
        let once = vec![answers(fw2, 0, 101), answers(fw1, 100, 128), answers(fw2, 130, 300)];
        assert_eq!(timeline(once.clone(), vec![]).violations(), []);
        let twice = vec![answers(fw1, 140, 150), answers(fw2, 155, 300)];
        let lan = [vec![answers(fw2, 0, 101), answers(fw1, 100, 128), answers(fw2, 130, 138)], twice].concat();
        let sent: Vec<u64> = timeline(lan, vec![]).violations().iter().map(|found| found.sent / MS).collect();
        assert_eq!(sent, [140, 155]);
        let short = vec![answers(fw2, 0, 100), answers(fw1, 100, 102), answers(fw2, 103, 300)];
        assert_eq!(timeline(short, vec![]).violations().len(), 1);
    }

    /// An old master that answers one request too many is seen, on the WAN as well.
    #[test]
    fn a_single_answer_too_many_is_a_violation() {
        let wan = vec![answers(Node::Fw1, 0, 101), answers(Node::Fw2, 99, 200)];
        let seen = timeline(vec![], wan);
        let first = seen.violations()[0];
        let expected = Violation { side: Side::Wan, node: Node::Fw1, other_began: 99 * MS + MS / 2, sent: 100 * MS };
        assert_eq!(first, expected);
        assert!((MS / 2..=2 * MS).contains(&seen.longest_double()), "{}", seen.longest_double());
    }

    /// A resumed master that answers while the new one goes on is seen, however long it had been silent; the double
    /// mastership is as long as it lasted.
    #[test]
    fn a_resumed_master_that_carries_on_is_a_violation() {
        let lan = vec![answers(Node::Fw1, 0, 100), answers(Node::Fw2, 150, 3000), answers(Node::Fw1, 2000, 2050)];
        let seen = timeline(lan, vec![]);
        assert!(seen.violations().len() > 40, "{}", seen.violations().len());
        let double = seen.longest_double() / MS;
        assert!((48..=51).contains(&double), "{double} ms");
        let once = vec![answers(Node::Fw1, 0, 100), answers(Node::Fw2, 150, 3000), answers(Node::Fw1, 2000, 2001)];
        assert_eq!(timeline(once, vec![]).violations().len(), 1);
    }

    /// LAN and WAN are apart from the moment when one has moved until the other follows, or the first is silent.
    #[test]
    fn apart_is_both_answering_for_different_sides() {
        let lan = vec![answers(Node::Fw1, 0, 100), answers(Node::Fw2, 100, 200)];
        let wan = vec![answers(Node::Fw1, 0, 120), answers(Node::Fw2, 120, 200)];
        let seen = timeline(lan.clone(), wan);
        assert_eq!(seen.apart(), [Apart { lan: Node::Fw2, begin: 100 * MS + MS / 2, end: 119 * MS + MS / 2 }]);
        assert_eq!(seen.longest_apart(), 19 * MS);
        let silent = vec![answers(Node::Fw1, 0, 100), answers(Node::Fw2, 190, 200)];
        assert_eq!(timeline(lan, silent).apart(), []);
    }

    /// Silence is counted on the worse side, up to the end of what is asked for.
    #[test]
    fn silence_is_the_worse_sides() {
        let lan = vec![answers(Node::Fw1, 0, 100), answers(Node::Fw2, 110, 200)];
        let wan = vec![answers(Node::Fw1, 0, 90), answers(Node::Fw2, 130, 200)];
        let seen = timeline(lan, wan);
        assert_eq!(seen.longest_silence(0, 200 * MS), 41 * MS);
        assert_eq!(seen.longest_silence(150 * MS, 300 * MS), 100 * MS + MS / 2);
        assert!(seen.answered_since(Node::Fw1, 99 * MS) && !seen.answered_since(Node::Fw1, 100 * MS));
    }
}
