//! What happens to the master, or is asked of it.

use super::tool::{Tool, ToolName};
use crate::lab::Lab;
use crate::topology::{Node, Port};
use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One of the bench's scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// The host dies: the switch hears nothing more of it at one instant, then its daemons and cables go.
    Crash,
    /// SIGTERM to what holds the addresses, as `systemctl stop` does.
    Stop,
    /// The LAN cable is pulled at the switch.
    LanLink,
    /// The WAN cable is pulled at the switch.
    WanLink,
    /// SIGSTOP to every daemon of the node.
    Freeze,
    /// `twinwall failover --wait`.
    Handover,
    /// The better node returns and takes the addresses back.
    PreemptBack,
}

impl Scenario {
    /// All, in the order of the tables.
    pub const ALL: [Self; 7] =
        [Self::Crash, Self::Stop, Self::LanLink, Self::WanLink, Self::Freeze, Self::Handover, Self::PreemptBack];

    /// The name in options, tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Stop => "stop",
            Self::LanLink => "lan-link",
            Self::WanLink => "wan-link",
            Self::Freeze => "freeze",
            Self::Handover => "handover",
            Self::PreemptBack => "preempt-back",
        }
    }

    /// Whether the tool has it: the others' ways to hand over on purpose are their clean stop.
    pub const fn is_for(self, tool: ToolName) -> bool {
        match self {
            Self::Crash | Self::Stop | Self::LanLink | Self::WanLink | Self::Freeze => true,
            Self::Handover | Self::PreemptBack => matches!(tool, ToolName::Twinwall),
        }
    }

    /// The node that is master before, and the one that shall be afterwards.
    pub const fn from_to(self) -> (Node, Node) {
        match self {
            Self::Crash | Self::Stop | Self::LanLink | Self::WanLink | Self::Freeze | Self::Handover => {
                (Node::Fw1, Node::Fw2)
            }
            Self::PreemptBack => (Node::Fw2, Node::Fw1),
        }
    }

    /// Within this time the addresses must have moved. Plain CARP and VRRP need 3 to 4 s; a preempting node first
    /// fetches the whole table and waits out its delay.
    pub const fn limit(self) -> Duration {
        match self {
            Self::Crash | Self::Stop | Self::LanLink | Self::WanLink | Self::Freeze | Self::Handover => {
                Duration::from_secs(10)
            }
            Self::PreemptBack => Duration::from_secs(40),
        }
    }

    /// Strikes. `victims` are the processes of the master, listed before: looking for them takes milliseconds.
    ///
    /// # Errors
    /// When the fault cannot be made, or the tool refuses what it is asked.
    pub fn strike(self, lab: &mut Lab, tool: &mut dyn Tool, victims: &[Pid]) -> Result<()> {
        let (master, taker) = self.from_to();
        let signal_all = |signal| {
            for pid in victims {
                // One that has ended by itself meanwhile is no error.
                let _ = kill_process(*pid, signal);
            }
        };
        match self {
            Self::Crash => {
                lab.pair.silence(master)?;
                signal_all(Signal::KILL);
                lab.pair.unplug_all(master)
            }
            Self::Stop => {
                tool.stop(lab, master);
                Ok(())
            }
            Self::LanLink => lab.plug(master, Port::Lan, false),
            Self::WanLink => lab.plug(master, Port::Wan, false),
            Self::Freeze => {
                signal_all(Signal::STOP);
                Ok(())
            }
            Self::Handover => lab.hand_over(master),
            Self::PreemptBack => tool.start(lab, taker),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let mut all = Self::ALL.into_iter();
        all.find(|scenario| scenario.name() == text).ok_or_else(|| format!("there is no scenario {text}: {names}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names are the same in options, on the screen and in JSON.
    #[test]
    fn names_read_back() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(scenario));
            assert_eq!(serde_json::to_string(&scenario).unwrap(), format!("\"{scenario}\""));
        }
        assert!("power".parse::<Scenario>().unwrap_err().contains("lan-link"));
    }
}
