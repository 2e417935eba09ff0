//! A connection as conntrack knows it, independent of kernel and wire formats.

pub use super::extra::{Expectation, ExpectedNat, Extra, Sctp, SequenceAdjustment, Synproxy, ZoneDirection};

use std::net::IpAddr;

/// Conntrack status bits (`IPS_*`) that this project uses.
pub mod status {
    pub const EXPECTED: u32 = 0x1;
    pub const SEEN_REPLY: u32 = 0x2;
    pub const ASSURED: u32 = 0x4;
    pub const CONFIRMED: u32 = 0x8;
    pub const SRC_NAT: u32 = 0x10;
    pub const DST_NAT: u32 = 0x20;
    pub const SEQ_ADJUST: u32 = 0x40;
    pub const SRC_NAT_DONE: u32 = 0x80;
    pub const DST_NAT_DONE: u32 = 0x100;
    pub const DYING: u32 = 0x200;
    pub const FIXED_TIMEOUT: u32 = 0x400;
    /// What travels to the peer (`ctnetlink` section 4).
    pub const REPLICATED: u32 = SEEN_REPLY | ASSURED | SRC_NAT | DST_NAT | FIXED_TIMEOUT;
}

/// One direction of a flow.
///
/// For TCP, UDP, UDP-Lite, SCTP and GRE `source_port`/`destination_port` are the ports (GRE: keys). For
/// ICMP and ICMPv6 `source_port` is the id and `destination_port` is `type << 8 | code`. Zero otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
}

/// Identity of a flow on every node: original tuple and zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub original: Tuple,
    pub zone: u16,
}

/// `CTA_PROTOINFO_TCP`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tcp {
    /// `TCP_CONNTRACK_*`, 0..=10.
    pub state: u8,
    /// Window scale per direction (original, reply), 0..=14.
    pub wscale: [u8; 2],
    /// `IP_CT_TCP_FLAG_*` per direction (original, reply).
    pub flags: [u8; 2],
}

/// A conntrack entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub key: FlowKey,
    /// Translated reply tuple as the kernel dumps it; NAT is read off its difference to the original.
    pub reply: Tuple,
    /// `IPS_*` bits as the kernel gave them.
    pub status: u32,
    /// Seconds left.
    pub timeout: u32,
    pub mark: u32,
    /// `None` for other protocols, and in events that did not carry it.
    pub tcp: Option<Tcp>,
    /// `CTA_ID` on the node where it was read; zero when unknown. Never sent.
    pub id: u32,
    /// What few flows have. `None` when there is nothing of it, or when an event did not carry it.
    pub extra: Option<Box<Extra>>,
}

impl Flow {
    /// Takes from `before`, an older state of the same flow, what an event leaves out because it did not change
    /// (`ctnetlink` section 12).
    pub fn complete_with(&mut self, before: &Flow) {
        if self.id == 0 {
            self.id = before.id;
        }
        self.tcp = self.tcp.or(before.tcp);
        match (&mut self.extra, &before.extra) {
            (_, None) => {}
            (None, Some(old)) => self.extra = Some(old.clone()),
            (Some(extra), Some(old)) => extra.complete_with(old),
        }
    }

    /// The rare attributes, to be written to.
    pub fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

impl Tuple {
    /// The reply tuple of an untranslated flow: addresses and ports swapped, ICMP query type answered.
    /// (The kernel does not correct an ICMP reply type: `ctnetlink` section 6.)
    pub fn inverse(&self) -> Tuple {
        let (source_port, destination_port) = match self.protocol {
            1 => (self.source_port, answer_type(self.destination_port, &[(8, 0), (13, 14), (15, 16), (17, 18)])),
            58 => (self.source_port, answer_type(self.destination_port, &[(128, 129), (139, 140)])),
            _ => (self.destination_port, self.source_port),
        };
        Tuple {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
            source_port,
            destination_port,
        }
    }

    /// ICMP or ICMPv6: the port fields carry id, type and code.
    pub fn is_icmp(&self) -> bool {
        matches!(self.protocol, 1 | 58)
    }
}

/// Swaps a query type for its answer and back; the code stays.
fn answer_type(type_code: u16, pairs: &[(u8, u8)]) -> u16 {
    let [kind, code] = type_code.to_be_bytes();
    let answer = pairs.iter().find_map(|&(query, reply)| match kind {
        k if k == query => Some(reply),
        k if k == reply => Some(query),
        _ => None,
    });
    u16::from_be_bytes([answer.unwrap_or(kind), code])
}
