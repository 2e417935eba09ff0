//! What can happen to the master, and how it comes back.

use anyhow::Result;
use ha_tests::lab::Lab;
use ha_tests::topology::{Node, Port};
use rustix::process::Signal;
use serde::Serialize;

/// What happens to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// The host dies: links and daemon at one instant.
    Crash,
    /// The daemon is stopped (SIGTERM), as `systemctl stop` does.
    Stop,
    /// The LAN cable is pulled at the switch.
    LanLink,
    /// The WAN cable is pulled at the switch.
    WanLink,
    /// The daemon is frozen (SIGSTOP) and goes on later.
    Freeze,
}

impl Scenario {
    /// Strikes the node.
    pub fn strike(self, lab: &mut Lab, node: Node) -> Result<()> {
        match self {
            Self::Crash => lab.crash_host(node),
            Self::Stop => {
                lab.signal(node, Signal::TERM);
                Ok(())
            }
            Self::LanLink => lab.plug(node, Port::Lan, false),
            Self::WanLink => lab.plug(node, Port::Wan, false),
            Self::Freeze => {
                lab.signal(node, Signal::STOP);
                Ok(())
            }
        }
    }

    /// Undoes it.
    pub fn mend(self, lab: &mut Lab, node: Node) -> Result<()> {
        match self {
            Self::Crash => {
                lab.pair.reboot(node)?;
                lab.start(node)
            }
            Self::Stop => {
                lab.stop(node)?;
                lab.start(node)
            }
            Self::LanLink => lab.plug(node, Port::Lan, true),
            Self::WanLink => lab.plug(node, Port::Wan, true),
            Self::Freeze => {
                lab.signal(node, Signal::CONT);
                Ok(())
            }
        }
    }

    /// What is done to the node, for the timeline.
    pub fn story(self, node: Node) -> String {
        let name = node.name();
        match self {
            Self::Crash => format!("{name}'s host dies: links and daemon at one instant"),
            Self::Stop => format!("{name}'s daemon is stopped (SIGTERM)"),
            Self::LanLink => format!("{name}'s LAN cable is pulled"),
            Self::WanLink => format!("{name}'s WAN cable is pulled"),
            Self::Freeze => format!("{name}'s daemon is frozen (SIGSTOP); its kernel keeps the addresses"),
        }
    }

    /// How the node comes back, for the timeline.
    pub fn sequel(self, node: Node) -> String {
        let name = node.name();
        match self {
            Self::Crash => format!("{name}'s host is up again, with an empty connection table"),
            Self::Stop => format!("{name}'s daemon starts again"),
            Self::LanLink | Self::WanLink => format!("{name}'s cable is back"),
            Self::Freeze => format!("{name}'s daemon goes on (SIGCONT) and still believes to be master"),
        }
    }
}
