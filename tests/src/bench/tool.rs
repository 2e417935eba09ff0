//! What makes a pair of the two firewalls: twinwall, or ucarp or keepalived beside conntrackd.

use super::others::{Beside, Vrrp};
use super::preload;
use crate::daemon::Settings;
use crate::lab::Lab;
use crate::topology::Node;
use anyhow::Result;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One of the tools of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ToolName {
    #[serde(rename = "twinwall")]
    Twinwall,
    /// keepalived (VRRPv3) with its shortest interval, and conntrackd.
    #[serde(rename = "keepalived-10ms")]
    Keepalived10ms,
    /// keepalived (VRRPv3) with an advert a second, and conntrackd.
    #[serde(rename = "keepalived-1s")]
    Keepalived1s,
    /// ucarp with an advert a second, and conntrackd.
    #[serde(rename = "ucarp")]
    Ucarp,
}

/// Daemons on both nodes. Dropping it ends them, except twinwall's, which the lab has.
pub trait Tool {
    /// Starts the daemons of one node and returns when they run, whatever their roles are by then.
    ///
    /// # Errors
    /// When one is not installed, ends at once or does not answer.
    fn start(&mut self, lab: &mut Lab, node: Node) -> Result<()>;

    /// SIGTERM to what holds the addresses; does not wait for its end.
    fn stop(&mut self, lab: &mut Lab, node: Node);

    /// Whether this node alone holds the addresses and the other one follows it.
    fn is_settled(&self, lab: &Lab, master: Node) -> bool;

    /// Flows that the node could go on with if it had the addresses.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn flows_ready(&self, lab: &Lab, node: Node) -> Result<u64>;

    /// What the node says of itself, for messages.
    fn story(&self, lab: &Lab, node: Node) -> String;
}

impl ToolName {
    /// All, in the order of the tables.
    pub const ALL: [Self; 4] = [Self::Twinwall, Self::Keepalived10ms, Self::Keepalived1s, Self::Ucarp];

    /// The name in options, tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Twinwall => "twinwall",
            Self::Keepalived10ms => "keepalived-10ms",
            Self::Keepalived1s => "keepalived-1s",
            Self::Ucarp => "ucarp",
        }
    }

    /// The tool, not started, for a pair with this many virtual addresses in all.
    pub fn tool(self, vips: u16, preload: u32) -> Box<dyn Tool> {
        match self {
            Self::Twinwall => Box::new(Twinwall),
            Self::Keepalived10ms => Box::new(Beside::new(Vrrp::Keepalived { interval: "0.01" }, vips, preload)),
            Self::Keepalived1s => Box::new(Beside::new(Vrrp::Keepalived { interval: "1" }, vips, preload)),
            Self::Ucarp => Box::new(Beside::new(Vrrp::Ucarp, vips, preload)),
        }
    }
}

impl fmt::Display for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ToolName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|tool| tool.name() == text)
            .ok_or_else(|| format!("there is no tool {text}: {names}"))
    }
}

/// twinwall with its default settings; the lab has its daemons and configuration.
struct Twinwall;

/// The configuration of a run.
pub fn settings(vips: u16, preempt: bool) -> Settings {
    Settings { log: "info", preempt, more_vips: vips.saturating_sub(2), ..Settings::default() }
}

impl Tool for Twinwall {
    fn start(&mut self, lab: &mut Lab, node: Node) -> Result<()> {
        lab.start(node)
    }

    fn stop(&mut self, lab: &mut Lab, node: Node) {
        lab.signal(node, Signal::TERM);
    }

    fn is_settled(&self, lab: &Lab, master: Node) -> bool {
        lab.settled_on(&lab.answers()) == Some(master)
    }

    fn flows_ready(&self, lab: &Lab, node: Node) -> Result<u64> {
        // They are in the kernel's own table, ready to be matched.
        preload::count(&lab.pair[node])
    }

    fn story(&self, lab: &Lab, node: Node) -> String {
        lab.files(node).log_tail()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are the same in options, on the screen and in JSON.
    #[test]
    fn names_read_back() {
        for tool in ToolName::ALL {
            assert_eq!(tool.name().parse(), Ok(tool));
            assert_eq!(serde_json::to_string(&tool).unwrap(), format!("\"{tool}\""));
        }
        assert!("heartbeat".parse::<ToolName>().unwrap_err().contains("ucarp"));
    }
}
