//! A replicated flow as `twinwall flows` shows it.

use ha_common::sync::flow::{Extra, Flow, Tuple, ZoneDirection, status};
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
    /// TCP and SCTP: `ESTABLISHED`, ….
    pub state: Option<String>,
    pub assured: bool,
    pub seen_reply: bool,
    /// Seconds left when it was read last.
    pub timeout: u32,
    pub mark: u32,
    pub zone: u16,
    /// What few flows have.
    #[serde(default, skip_serializing_if = "Rare::is_empty")]
    pub rare: Rare,
}

/// Attributes that few flows have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rare {
    pub helper: Option<String>,
    /// The connection that has announced this one.
    pub master: Option<Direction>,
    /// Connections that it has announced and that are not open yet.
    pub expectations: usize,
    /// 128 bits, the highest first, in hexadecimal digits.
    pub labels: Option<String>,
    /// Its sequence numbers are changed on the way.
    pub sequence_adjusted: bool,
    pub synproxied: bool,
    /// `original` or `reply`: the zone holds for that direction alone.
    pub zone_direction: Option<String>,
    /// The zone of the reply direction, when it holds for that alone.
    pub reply_zone: Option<u16>,
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

/// `SCTP_CONNTRACK_*` of nf_conntrack_sctp.h, in order.
const SCTP_STATES: [&str; 10] = [
    "NONE",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "ESTABLISHED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
    "HEARTBEAT_ACKED",
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
        let extra = flow.extra.as_deref();
        let name = |names: &[&str], state: u8| names.get(usize::from(state)).copied().unwrap_or("UNKNOWN").to_owned();
        let sctp = extra.and_then(|extra| extra.sctp).map(|sctp| name(&SCTP_STATES, sctp.state));
        let state = flow.tcp.map(|tcp| name(&TCP_STATES, tcp.state)).or(sctp);
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
            rare: extra.map(Rare::new).unwrap_or_default(),
        }
    }
}

impl Rare {
    fn new(extra: &Extra) -> Self {
        let (zone_direction, reply_zone) = match extra.zone_direction {
            ZoneDirection::Both => (None, None),
            ZoneDirection::Original => (Some("original".to_owned()), None),
            ZoneDirection::Reply(zone) => (Some("reply".to_owned()), Some(zone)),
        };
        let labels = |words: [u32; 4]| words.iter().rev().map(|word| format!("{word:08x}")).collect();
        Self {
            helper: extra.helper.as_deref().map(str::to_owned),
            master: extra.master.as_ref().map(|master| Direction::new(&master.original)),
            expectations: extra.expectations.len(),
            labels: extra.labels.map(labels),
            sequence_adjusted: extra.sequence.iter().any(Option::is_some),
            synproxied: extra.synproxy.is_some(),
            zone_direction,
            reply_zone,
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Rare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(direction) = &self.zone_direction {
            write!(f, "  zone-of={direction}")?;
        }
        if let Some(zone) = self.reply_zone {
            write!(f, "  reply-zone={zone}")?;
        }
        if let Some(labels) = &self.labels {
            write!(f, "  labels=0x{}", labels.trim_start_matches('0'))?;
        }
        if let Some(helper) = &self.helper {
            write!(f, "  helper={helper}")?;
        }
        if self.expectations > 0 {
            write!(f, "  expects={}", self.expectations)?;
        }
        if let Some(master) = &self.master {
            write!(f, "  master=({master})")?;
        }
        if self.sequence_adjusted {
            f.write_str("  adjusted")?;
        }
        if self.synproxied {
            f.write_str("  synproxied")?;
        }
        Ok(())
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
        self.rare.fmt(f)
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
    use ha_common::sync::flow::{FlowKey, Sctp, SequenceAdjustment, Tcp};

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

    /// What few flows have is shown where it is, in text and in JSON, and nothing of it where it is not.
    #[test]
    fn line_of_a_flow_with_rare_attributes() {
        let mut rare = flow();
        rare.tcp = None;
        let master = rare.key;
        let extra = rare.extra_mut();
        extra.sctp = Some(Sctp { state: 4, tags: [1, 2] });
        extra.helper = Some("ftp".into());
        extra.master = Some(master);
        extra.labels = Some([0x20, 0, 0, 0]);
        extra.sequence[0] = Some(SequenceAdjustment::default());
        extra.zone_direction = ZoneDirection::Reply(7);
        let line = FlowLine::new(&rare, false);
        insta::assert_snapshot!(line, @"local tcp     ESTABLISHED 432000s 192.168.103.10:40000 > 198.51.100.7:443  snat 198.51.100.7:443 > 157.159.40.139:40000  mark=0x1  zone-of=reply  reply-zone=7  labels=0x20  helper=ftp  master=(192.168.103.10:40000 > 198.51.100.7:443)  adjusted");
        let json = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<FlowLine>(&json).unwrap(), line);
        assert!(!serde_json::to_string(&FlowLine::new(&flow(), false)).unwrap().contains("rare"));
    }
}
