//! Conntrack entries out of events, dumps and answers, without allocating.

use super::attribute::{Attributes, Malformed, be16, be32, byte, fixed};
use super::uapi;
use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple, status};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of `struct nfgenmsg`, which stands before the attributes.
pub const NFGENMSG_LEN: usize = 4;

/// Reads the entry in the payload of a `CT_NEW` or `CT_DELETE` message.
///
/// Attributes that an event leaves out read as follows: mark 0 (`ctnetlink` section 15), timeout 0, no TCP
/// state, status 0.
///
/// # Errors
/// What is malformed, missing or not supported.
pub fn flow(payload: &[u8]) -> Result<Flow, Malformed> {
    let mut original = None;
    let mut reply = None;
    let mut found = Found::default();
    for attribute in Attributes::new(payload.get(NFGENMSG_LEN..).ok_or(Malformed::Message)?) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_TUPLE_ORIG => original = Some(tuple(value)?),
            uapi::CTA_TUPLE_REPLY => reply = Some(tuple(value)?),
            uapi::CTA_STATUS => found.status = be32(value)?,
            uapi::CTA_PROTOINFO => found.tcp = tcp(value)?,
            uapi::CTA_TIMEOUT => found.timeout = Some(be32(value)?),
            uapi::CTA_MARK => found.mark = be32(value)?,
            uapi::CTA_ID => found.id = be32(value)?,
            uapi::CTA_ZONE => found.zone = be16(value)?,
            // Counters, timestamps, helpers, labels and what newer kernels add do not travel.
            _ => {}
        }
    }
    let (Some(original), Some(reply)) = (original, reply) else { return Err(Malformed::TupleMissing) };
    if original.protocol != reply.protocol || original.source.is_ipv4() != reply.source.is_ipv4() {
        return Err(Malformed::TuplesDiffer);
    }
    found.complete_offloaded(original.protocol);
    Ok(Flow {
        key: FlowKey { original, zone: found.zone },
        reply,
        status: found.status,
        timeout: found.timeout.unwrap_or(0),
        mark: found.mark,
        tcp: found.tcp,
        id: found.id,
        extra: None,
    })
}

#[derive(Default)]
struct Found {
    status: u32,
    tcp: Option<Tcp>,
    timeout: Option<u32>,
    mark: u32,
    id: u32,
    zone: u16,
}

impl Found {
    /// An entry that a flowtable forwards hides its state: it is established and assured, and the standby
    /// needs a timeout of its own (`ctnetlink` section 15).
    fn complete_offloaded(&mut self, protocol: u8) {
        /// `nf_conntrack_tcp_timeout_established` and `nf_conntrack_udp_timeout_stream`, the kernel's defaults.
        const TCP_SECONDS: u32 = 432_000;
        const OTHER_SECONDS: u32 = 120;
        if self.status & uapi::STATUS_OFFLOAD == 0 || self.timeout.is_some() {
            return;
        }
        self.status |= status::SEEN_REPLY | status::ASSURED;
        if protocol == uapi::IPPROTO_TCP {
            self.timeout = Some(TCP_SECONDS);
            self.tcp = self.tcp.or(Some(Tcp { state: uapi::TCP_ESTABLISHED, ..Tcp::default() }));
        } else {
            self.timeout = Some(OTHER_SECONDS);
        }
    }
}

fn tuple(value: &[u8]) -> Result<Tuple, Malformed> {
    let mut addresses = (None, None);
    let mut layer4 = None;
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_TUPLE_IP => addresses = ip(value)?,
            uapi::CTA_TUPLE_PROTO => layer4 = Some(protocol(value)?),
            // Sent as an ordinary zone such an entry would stand in another table on the peer.
            uapi::CTA_TUPLE_ZONE => return Err(Malformed::DirectionalZone),
            _ => {}
        }
    }
    let ((Some(source), Some(destination)), Some((protocol, source_port, destination_port))) = (addresses, layer4)
    else {
        return Err(Malformed::TupleIncomplete);
    };
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(Malformed::TuplesDiffer);
    }
    Ok(Tuple { source, destination, protocol, source_port, destination_port })
}

fn ip(value: &[u8]) -> Result<(Option<IpAddr>, Option<IpAddr>), Malformed> {
    let (mut source, mut destination) = (None, None);
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_IP_V4_SRC => source = Some(v4(value)?),
            uapi::CTA_IP_V4_DST => destination = Some(v4(value)?),
            uapi::CTA_IP_V6_SRC => source = Some(v6(value)?),
            uapi::CTA_IP_V6_DST => destination = Some(v6(value)?),
            _ => {}
        }
    }
    Ok((source, destination))
}

fn v4(value: &[u8]) -> Result<IpAddr, Malformed> {
    Ok(IpAddr::V4(Ipv4Addr::from(fixed::<4>(value)?)))
}

fn v6(value: &[u8]) -> Result<IpAddr, Malformed> {
    Ok(IpAddr::V6(Ipv6Addr::from(fixed::<16>(value)?)))
}

/// Protocol, and the two port fields as [`Tuple`] defines them.
fn protocol(value: &[u8]) -> Result<(u8, u16, u16), Malformed> {
    let mut number = None;
    let mut ports = [0, 0];
    let mut icmp = [0, 0];
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_PROTO_NUM => number = Some(byte(value)?),
            uapi::CTA_PROTO_SRC_PORT | uapi::CTA_PROTO_ICMP_ID | uapi::CTA_PROTO_ICMPV6_ID => ports[0] = be16(value)?,
            uapi::CTA_PROTO_DST_PORT => ports[1] = be16(value)?,
            uapi::CTA_PROTO_ICMP_TYPE | uapi::CTA_PROTO_ICMPV6_TYPE => icmp[0] = byte(value)?,
            uapi::CTA_PROTO_ICMP_CODE | uapi::CTA_PROTO_ICMPV6_CODE => icmp[1] = byte(value)?,
            _ => {}
        }
    }
    let number = number.ok_or(Malformed::TupleIncomplete)?;
    if matches!(number, uapi::IPPROTO_ICMP | uapi::IPPROTO_ICMPV6) {
        ports[1] = u16::from_be_bytes(icmp);
    }
    Ok((number, ports[0], ports[1]))
}

fn tcp(value: &[u8]) -> Result<Option<Tcp>, Malformed> {
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        if kind == uapi::CTA_PROTOINFO_TCP {
            return tcp_info(value).map(Some);
        }
    }
    Ok(None)
}

fn tcp_info(value: &[u8]) -> Result<Tcp, Malformed> {
    let mut tcp = Tcp::default();
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_PROTOINFO_TCP_STATE => tcp.state = byte(value)?,
            uapi::CTA_PROTOINFO_TCP_WSCALE_ORIGINAL => tcp.wscale[0] = byte(value)?,
            uapi::CTA_PROTOINFO_TCP_WSCALE_REPLY => tcp.wscale[1] = byte(value)?,
            // Value and mask; the mask means nothing in what the kernel sends.
            uapi::CTA_PROTOINFO_TCP_FLAGS_ORIGINAL => [tcp.flags[0], _] = fixed(value)?,
            uapi::CTA_PROTOINFO_TCP_FLAGS_REPLY => [tcp.flags[1], _] = fixed(value)?,
            _ => {}
        }
    }
    Ok(tcp)
}
