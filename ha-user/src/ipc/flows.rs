//! A replicated flow as `twinwall flows` shows it.

use ha_common::sync::flow::{Flow, Tuple, status};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// One line of `flows --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLine {
    /// `local`: its packets pass this node; `peer`: received from the peer.
    pub owner: String,
    /// `tcp`, `udp`, …, or the number.
    pub protocol: String,
    pub original: Direction,
    pub reply: Direction,
    /// `none`, `snat`, `dnat` or `snat+dnat`.
    pub nat: String,
    /// TCP only: `ESTABLISHED`, ….
    pub state: Option<String>,
    pub assured: bool,
    pub seen_reply: bool,
    /// Seconds left when it was read last.
    pub timeout: u32,
    pub mark: u32,
    pub zone: u16,
}

/// One direction: for ICMP the ports are identifier and `type << 8 | code`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    pub source: IpAddr,
    pub source_port: u16,
    pub destination: IpAddr,
    pub destination_port: u16,
}

/// `TCP_CONNTRACK_*` of nf_conntrack_tcp.h, in order.
const TCP_STATES: [&str; 11] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
    "MAX",
];

impl FlowLine {
    /// The line of a flow; `peer` tells who owns it.
    pub fn new(flow: &Flow, peer: bool) -> Self {
        let nat = match (flow.status & status::SRC_NAT != 0, flow.status & status::DST_NAT != 0) {
            (false, false) => "none",
            (true, false) => "snat",
            (false, true) => "dnat",
            (true, true) => "snat+dnat",
        };
        let state = flow.tcp.map(|tcp| TCP_STATES.get(usize::from(tcp.state)).copied().unwrap_or("UNKNOWN").to_owned());
        Self {
            owner: if peer { "peer" } else { "local" }.to_owned(),
            protocol: protocol_name(flow.key.original.protocol),
            original: Direction::new(&flow.key.original),
            reply: Direction::new(&flow.reply),
            nat: nat.to_owned(),
            state,
            assured: flow.status & status::ASSURED != 0,
            seen_reply: flow.status & status::SEEN_REPLY != 0,
            timeout: flow.timeout,
            mark: flow.mark,
            zone: flow.key.zone,
        }
    }
}

impl Direction {
    fn new(tuple: &Tuple) -> Self {
        Self {
            source: tuple.source,
            source_port: tuple.source_port,
            destination: tuple.destination,
            destination_port: tuple.destination_port,
        }
    }

    fn endpoint(f: &mut fmt::Formatter<'_>, address: IpAddr, port: u16) -> fmt::Result {
        match address {
            IpAddr::V4(v4) => write!(f, "{v4}:{port}"),
            IpAddr::V6(v6) => write!(f, "[{v6}]:{port}"),
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::endpoint(f, self.source, self.source_port)?;
        f.write_str(" > ")?;
        Self::endpoint(f, self.destination, self.destination_port)
    }
}

impl fmt::Display for FlowLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.as_deref().unwrap_or("-");
        write!(f, "{:5} {:7} {:11} {:5}s {}", self.owner, self.protocol, state, self.timeout, self.original)?;
        if self.nat != "none" {
            write!(f, "  {} {}", self.nat, self.reply)?;
        }
        if self.mark != 0 {
            write!(f, "  mark={:#x}", self.mark)?;
        }
        if self.zone != 0 {
            write!(f, "  zone={}", self.zone)?;
        }
        Ok(())
    }
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        47 => "gre".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ha_common::sync::flow::{FlowKey, Tcp};

    pub fn flow() -> Flow {
        let original = Tuple {
            source: IpAddr::from([192, 168, 103, 10]),
            destination: IpAddr::from([198, 51, 100, 7]),
            protocol: 6,
            source_port: 40000,
            destination_port: 443,
        };
        Flow {
            key: FlowKey { original, zone: 0 },
            reply: Tuple { destination: IpAddr::from([157, 159, 40, 139]), ..original.inverse() },
            status: status::SEEN_REPLY | status::ASSURED | status::SRC_NAT,
            timeout: 432_000,
            mark: 1,
            tcp: Some(Tcp { state: 3, ..Tcp::default() }),
            id: 0,
            extra: None,
        }
    }

    /// A translated TCP flow is shown with owner, state, both directions and mark.
    #[test]
    fn line_of_a_translated_flow() {
        insta::assert_snapshot!(FlowLine::new(&flow(), true), @"peer  tcp     ESTABLISHED 432000s 192.168.103.10:40000 > 198.51.100.7:443  snat 198.51.100.7:443 > 157.159.40.139:40000  mark=0x1");
        let unknown = Flow { tcp: Some(Tcp { state: 200, ..Tcp::default() }), ..flow() };
        assert_eq!(FlowLine::new(&unknown, false).state.as_deref(), Some("UNKNOWN"));
    }
}
