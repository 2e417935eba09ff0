//! What a run ends with: a summary for a person, one JSON object for a program.

use super::scenario::Scenario;
use ha_tests::lab::Lab;
use ha_tests::topology::Node;
use ha_tests::traffic::Traffic;
use ha_tests::traffic::session::Kind;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// The whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    scenario: Scenario,
    /// The longest silence of the probe after a fault, the worse direction, milliseconds.
    outage_ms: f64,
    /// Sessions opened at the begin, of all kinds.
    sessions: usize,
    /// Those of them that still talk, unharmed, after everything.
    survived: usize,
    kinds: BTreeMap<&'static str, Count>,
    directions: Vec<Direction>,
    nodes: [NodeEnd; 2],
}

/// Sessions of one kind.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Count {
    opened: usize,
    survived: usize,
}

/// One node's failure.
#[derive(Debug, Serialize)]
pub struct Direction {
    #[serde(serialize_with = "by_name")]
    pub failed: Node,
    #[serde(serialize_with = "by_name")]
    pub took_over: Node,
    /// Longest interval between two replies of the 1 kHz probe that ends after the fault, milliseconds.
    pub outage_ms: f64,
    /// From the fault until the other node held both addresses, milliseconds.
    pub takeover_ms: f64,
    /// Probes without a reply from the fault until every session had gone on.
    pub lost_probes: u64,
    /// The longest interval in the half second before: what this machine does to the figure by itself.
    pub quiet_gap_ms: f64,
    /// The longest silence while the node came back.
    pub return_gap_ms: f64,
    pub kinds: BTreeMap<&'static str, Count>,
}

/// What a node says at the end.
#[derive(Debug, Serialize)]
pub struct NodeEnd {
    #[serde(serialize_with = "by_name")]
    node: Node,
    role: String,
    in_sync: bool,
    /// Flows that it knows.
    flows: u64,
    /// LAN and WAN address held.
    holds: [bool; 2],
}

fn by_name<S: Serializer>(node: &Node, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(node.name())
}

/// The sessions by kind, judged by what they did after `since`.
pub fn by_kind(traffic: &Traffic, since: u64) -> BTreeMap<&'static str, Count> {
    let count = |kind: Kind| {
        let tally = traffic.tally(kind, since);
        (kind.name(), Count { opened: tally.opened, survived: tally.survived })
    };
    Kind::ALL.into_iter().map(count).collect()
}

impl NodeEnd {
    /// Asks the node.
    pub fn of(lab: &Lab, node: Node) -> Self {
        let holds = lab.pair.vips_held(node).unwrap_or_default();
        let (role, in_sync, flows) = lab.status(node).map_or_else(
            |_| ("silent".to_owned(), false, 0),
            |status| (status.role().to_owned(), status.in_sync(), status.number("/sync/flows")),
        );
        Self { node, role, in_sync, flows, holds }
    }
}

impl Report {
    pub fn new(
        scenario: Scenario,
        traffic: &Traffic,
        since: u64,
        directions: Vec<Direction>,
        nodes: [NodeEnd; 2],
    ) -> Self {
        let kinds = by_kind(traffic, since);
        Self {
            scenario,
            outage_ms: directions.iter().map(|direction| direction.outage_ms).fold(0.0, f64::max),
            sessions: kinds.values().map(|count| count.opened).sum(),
            survived: kinds.values().map(|count| count.survived).sum(),
            kinds,
            directions,
            nodes,
        }
    }

    /// Whether every session that was opened still talks.
    pub fn all_survived(&self) -> bool {
        self.survived == self.sessions
    }

    /// For a person.
    pub fn print(&self) {
        println!();
        for direction in &self.directions {
            println!(
                "{} failed, {} took over: {:.1} ms without a reply ({} probes lost; {:.1} ms when nothing happened), \
                 {:.1} ms while {} came back",
                direction.failed.name(),
                direction.took_over.name(),
                direction.outage_ms,
                direction.lost_probes,
                direction.quiet_gap_ms,
                direction.return_gap_ms,
                direction.failed.name(),
            );
        }
        let kinds: Vec<_> =
            self.kinds.iter().map(|(kind, count)| format!("{kind} {}/{}", count.survived, count.opened)).collect();
        println!("{} of {} sessions survived both: {}", self.survived, self.sessions, kinds.join(", "));
        for node in &self.nodes {
            let sync = if node.in_sync { "in sync" } else { "not in sync" };
            println!("{}: {}, {} flows, {sync}", node.node.name(), node.role, node.flows);
        }
    }
}
