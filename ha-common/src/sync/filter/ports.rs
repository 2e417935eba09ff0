//! Ranges of ports, of one protocol or of all that have ports.

use crate::sync::flow::Tuple;

/// Ports `first..=last`, of one protocol or of every one that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMatch {
    pub protocol: Option<u8>,
    pub first: u16,
    pub last: u16,
}

impl PortMatch {
    /// The service's port is meant: where the client connects to, or where destination NAT sends that.
    pub(super) fn contains(&self, original: &Tuple, reply: &Tuple) -> bool {
        let is_in = |port| (self.first..=self.last).contains(&port);
        self.protocol.is_none_or(|protocol| protocol == original.protocol)
            && (is_in(original.destination_port) || is_in(reply.source_port))
    }
}

/// TCP, UDP, DCCP, SCTP and UDP-Lite; the port fields of GRE and ICMP are something else.
pub fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}
