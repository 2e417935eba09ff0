//! Conntrack entries out of events, dumps and answers; only rare attributes (`decode_extra`) cost an allocation.

use super::attribute::{Attributes, Malformed, be16, be32, byte, fixed};
use super::encode::has_ports;
use super::{decode_extra, uapi};
use ha_common::sync::flow::{Extra, Flow, FlowKey, Sctp, Tcp, Tuple, ZoneDirection, status};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of `struct nfgenmsg`, which stands before the attributes.
pub const NFGENMSG_LEN: usize = 4;

/// Reads the entry in the payload of a `CT_NEW` or `CT_DELETE` message.
///
/// Attributes that an event leaves out read as follows: mark 0 (`ctnetlink` section 15), timeout 0, no TCP
/// state, status 0, nothing of `Flow::extra`.
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
            uapi::CTA_TUPLE_ORIG => original = Some(tuple_and_zone(value)?),
            uapi::CTA_TUPLE_REPLY => reply = Some(tuple_and_zone(value)?),
            uapi::CTA_STATUS => found.status = be32(value)?,
            uapi::CTA_PROTOINFO => found.protocol_state(value)?,
            uapi::CTA_TIMEOUT => found.timeout = Some(be32(value)?),
            uapi::CTA_MARK => found.mark = be32(value)?,
            uapi::CTA_ID => found.id = be32(value)?,
            uapi::CTA_ZONE => found.zone = be16(value)?,
            // What newer kernels add, and what does not travel: counters, timestamps, security contexts.
            _ => decode_extra::attribute(kind, value, &mut found.extra)?,
        }
    }
    let (Some((original, original_zone)), Some((reply, reply_zone))) = (original, reply) else {
        return Err(Malformed::TupleMissing);
    };
    if original.protocol != reply.protocol || original.source.is_ipv4() != reply.source.is_ipv4() {
        return Err(Malformed::TuplesDiffer);
    }
    found.complete_offloaded(original.protocol);
    found.directional_zone(original_zone, reply_zone)?;
    found.zone_of_master();
    Ok(Flow {
        key: FlowKey { original, zone: found.zone },
        reply,
        status: found.status,
        timeout: found.timeout.unwrap_or(0),
        mark: found.mark,
        tcp: found.tcp,
        id: found.id,
        extra: found.extra,
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
    extra: Option<Box<Extra>>,
}

impl Found {
    fn protocol_state(&mut self, value: &[u8]) -> Result<(), Malformed> {
        for attribute in Attributes::new(value) {
            let (kind, value) = attribute?;
            match kind {
                uapi::CTA_PROTOINFO_TCP => self.tcp = Some(tcp_info(value)?),
                uapi::CTA_PROTOINFO_SCTP => self.extra.get_or_insert_default().sctp = Some(sctp_info(value)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes note of a zone that stands in a tuple: it counts for that direction, and the other is in the default zone.
    fn directional_zone(&mut self, original: Option<u16>, reply: Option<u16>) -> Result<(), Malformed> {
        let direction = match (original, reply) {
            (None, None) => return Ok(()),
            (Some(zone), None) if self.zone == 0 => {
                self.zone = zone;
                ZoneDirection::Original
            }
            (None, Some(zone)) if self.zone == 0 => ZoneDirection::Reply(zone),
            (Some(_), _) | (None, Some(_)) => return Err(Malformed::TwoZones),
        };
        self.extra.get_or_insert_default().zone_direction = direction;
        Ok(())
    }

    /// The kernel looks a master up in the zone of the flow that it announced, and does not repeat it.
    fn zone_of_master(&mut self) {
        if let Some(master) = self.extra.as_mut().and_then(|extra| extra.master.as_mut()) {
            master.zone = self.zone;
        }
    }

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

/// A tuple without regard to zones.
pub(super) fn tuple(value: &[u8]) -> Result<Tuple, Malformed> {
    tuple_and_zone(value).map(|(tuple, _)| tuple)
}

fn tuple_and_zone(value: &[u8]) -> Result<(Tuple, Option<u16>), Malformed> {
    let mut addresses = (None, None);
    let mut layer4 = None;
    let mut zone = None;
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_TUPLE_IP => addresses = ip(value)?,
            uapi::CTA_TUPLE_PROTO => layer4 = Some(protocol(value)?),
            uapi::CTA_TUPLE_ZONE => zone = Some(be16(value)?),
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
    Ok((Tuple { source, destination, protocol, source_port, destination_port }, zone))
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
    match number {
        uapi::IPPROTO_ICMP | uapi::IPPROTO_ICMPV6 => ports[1] = u16::from_be_bytes(icmp),
        number if has_ports(number) => {}
        // What has none must not be told apart by them: the entry could not be found again.
        _ => ports = [0, 0],
    }
    Ok((number, ports[0], ports[1]))
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

fn sctp_info(value: &[u8]) -> Result<Sctp, Malformed> {
    let mut sctp = Sctp::default();
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_PROTOINFO_SCTP_STATE => sctp.state = byte(value)?,
            uapi::CTA_PROTOINFO_SCTP_VTAG_ORIGINAL => sctp.tags[0] = be32(value)?,
            uapi::CTA_PROTOINFO_SCTP_VTAG_REPLY => sctp.tags[1] = be32(value)?,
            _ => {}
        }
    }
    Ok(sctp)
}
