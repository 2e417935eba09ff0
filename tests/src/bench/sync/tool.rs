//! What carries state from one firewall to the other.

use crate::peers::{Delivery, Replication};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One of the tools of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ToolName {
    #[serde(rename = "twinwall")]
    Twinwall,
    /// conntrackd, FT-FW, with its external cache as shipped: the standby's kernel learns the flows at a takeover.
    #[serde(rename = "conntrackd-ftfw")]
    Ftfw,
    /// conntrackd, FT-FW, `DisableExternalCache Yes`: straight into the standby's kernel, as twinwall does.
    #[serde(rename = "conntrackd-ftfw-direct")]
    FtfwDirect,
    /// conntrackd, NOTRACK, `DisableExternalCache Yes`: nothing is acknowledged or sent again.
    #[serde(rename = "conntrackd-notrack-direct")]
    NotrackDirect,
}

impl ToolName {
    /// All, in the order of the tables.
    pub const ALL: [Self; 4] = [Self::Twinwall, Self::Ftfw, Self::FtfwDirect, Self::NotrackDirect];

    /// The name in options, tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Twinwall => "twinwall",
            Self::Ftfw => "conntrackd-ftfw",
            Self::FtfwDirect => "conntrackd-ftfw-direct",
            Self::NotrackDirect => "conntrackd-notrack-direct",
        }
    }

    /// Whether the standby keeps the flows to itself until it is told to commit them.
    pub const fn is_cached(self) -> bool {
        matches!(self, Self::Ftfw)
    }

    /// How conntrackd is set up; `None` for twinwall.
    pub fn replication(self) -> Option<Replication> {
        let delivery = match self {
            Self::Twinwall => return None,
            Self::Ftfw | Self::FtfwDirect => Delivery::Reliable,
            Self::NotrackDirect => Delivery::BestEffort,
        };
        // Buckets enough for a million flows, as its manual asks for.
        Some(Replication { delivery, is_cached: self.is_cached(), hash_size: 524_288, hash_limit: 8_388_608 })
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
        assert!("heartbeat".parse::<ToolName>().unwrap_err().contains("conntrackd-ftfw"));
    }
}
