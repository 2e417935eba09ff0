//! Conntrack requests: create, update, delete, get.

use super::attribute::{Builder, Open};
use super::{encode_extra, uapi};
use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple, ZoneDirection, status};
use std::net::IpAddr;

/// The flow cannot be a conntrack entry: its addresses are of different families, or its protocol is not of
/// that family. The kernel would answer EINVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the flow mixes address families")]
pub struct MixedFamilies;

/// What of a flow an update carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateParts {
    /// A stale status that clears a bit is refused with EBUSY.
    pub status: bool,
    /// The entry is a related one, of which a status must repeat the EXPECTED bit, else it is refused with EBUSY.
    pub expected: bool,
    /// An entry without room for labels refuses them with ENOSPC.
    pub labels: bool,
    /// An entry with a fixed timeout refuses another one with EPERM.
    pub timeout: bool,
}

impl UpdateParts {
    pub const ALL: UpdateParts = UpdateParts { status: true, expected: false, labels: true, timeout: true };

    /// Everything that can be set, for an entry that was made as this flow.
    pub fn of(flow: &Flow) -> UpdateParts {
        let related = flow.extra.as_ref().is_some_and(|extra| extra.master.is_some());
        UpdateParts { expected: related, ..Self::ALL }
    }
}

/// Appends a request to create the flow; EEXIST when its tuples are taken.
///
/// The reply tuple is the plain inverse of the original one, and NAT travels in attributes of its own with
/// explicit ports: this is the only form that makes the kernel rewrite packets (`ctnetlink` section 8).
///
/// # Errors
/// [`MixedFamilies`]; nothing is appended then.
pub fn create(out: &mut Builder, sequence: u32, flow: &Flow) -> Result<(), MixedFamilies> {
    let original = &flow.key.original;
    let (zone, original_zone, reply_zone) = match flow.extra.as_ref().map(|extra| extra.zone_direction) {
        None | Some(ZoneDirection::Both) => (flow.key.zone, None, None),
        Some(ZoneDirection::Original) => (0, Some(flow.key.zone), None),
        Some(ZoneDirection::Reply(zone)) => (0, None, Some(zone)),
    };
    nat_families(flow)?;
    let message = out.begin(uapi::CT_NEW, uapi::REQUEST | uapi::CREATE | uapi::EXCL, sequence, family(original)?);
    put_tuple_in_zone(out, uapi::CTA_TUPLE_ORIG, original, original_zone);
    put_tuple_in_zone(out, uapi::CTA_TUPLE_REPLY, &original.inverse(), reply_zone);
    out.put_be32(uapi::CTA_STATUS, wanted_status(flow.status));
    out.put_be32(uapi::CTA_TIMEOUT, flow.timeout);
    out.put_be32(uapi::CTA_MARK, flow.mark);
    put_zone(out, zone);
    put_protocol_state(out, flow);
    put_nat(out, flow);
    if let Some(extra) = &flow.extra {
        encode_extra::put_at_creation(out, flow, extra);
        encode_extra::put_changeable(out, extra, true);
    }
    out.end(message);
    Ok(())
}

/// Appends a request to update the flow; ENOENT when it is not there. NAT is left out: it can never change
/// (`ctnetlink` section 9).
///
/// # Errors
/// [`MixedFamilies`]; nothing is appended then.
pub fn update(out: &mut Builder, sequence: u32, flow: &Flow, parts: UpdateParts) -> Result<(), MixedFamilies> {
    let message = begin(out, uapi::CT_NEW, uapi::REQUEST, sequence, &flow.key)?;
    if parts.status {
        let expected = if parts.expected { status::EXPECTED } else { 0 };
        out.put_be32(uapi::CTA_STATUS, wanted_status(flow.status) | expected);
    }
    if parts.timeout {
        out.put_be32(uapi::CTA_TIMEOUT, flow.timeout);
    }
    out.put_be32(uapi::CTA_MARK, flow.mark);
    put_zone(out, flow.key.zone);
    let is_tcp = flow.key.original.protocol == uapi::IPPROTO_TCP;
    if flow.tcp.is_some() || !is_tcp {
        put_protocol_state(out, flow);
    }
    if let Some(extra) = &flow.extra {
        encode_extra::put_changeable(out, extra, parts.labels);
    }
    out.end(message);
    Ok(())
}

/// Appends a request that opens the windows of a TCP entry and changes nothing else, not even its state: that may have
/// moved on since it was told. ENOENT when the entry is not there.
///
/// # Errors
/// [`MixedFamilies`]; nothing is appended then.
pub fn relax(out: &mut Builder, sequence: u32, key: &FlowKey) -> Result<(), MixedFamilies> {
    let message = begin(out, uapi::CT_NEW, uapi::REQUEST, sequence, key)?;
    put_zone(out, key.zone);
    let info = out.nest(uapi::CTA_PROTOINFO);
    let nest = out.nest(uapi::CTA_PROTOINFO_TCP);
    for kind in [uapi::CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, uapi::CTA_PROTOINFO_TCP_FLAGS_REPLY] {
        out.put(kind, &[uapi::FLAG_BE_LIBERAL, uapi::FLAG_BE_LIBERAL]);
    }
    out.end(nest);
    out.end(info);
    out.end(message);
    Ok(())
}

/// Appends a request to delete the flow; with `id` (not zero) only if it still is that very entry.
///
/// A DELETE without a tuple would flush the whole table: this takes a key, and so cannot be one
/// (`ctnetlink` section 10).
///
/// # Errors
/// [`MixedFamilies`]; nothing is appended then.
pub fn delete(out: &mut Builder, sequence: u32, key: &FlowKey, id: u32) -> Result<(), MixedFamilies> {
    let message = begin(out, uapi::CT_DELETE, uapi::REQUEST, sequence, key)?;
    put_zone(out, key.zone);
    if id != 0 {
        out.put_be32(uapi::CTA_ID, id);
    }
    out.end(message);
    Ok(())
}

/// Appends a request for the entry that has this tuple in either direction; the answer is a `CT_NEW` message.
///
/// # Errors
/// [`MixedFamilies`]; nothing is appended then.
pub fn get(out: &mut Builder, sequence: u32, tuple: &Tuple, zone: u16) -> Result<(), MixedFamilies> {
    let message = begin(out, uapi::CT_GET, uapi::REQUEST, sequence, &FlowKey { original: *tuple, zone })?;
    put_zone(out, zone);
    out.end(message);
    Ok(())
}

/// The status of a new entry: what may be set at creation, and CONFIRMED, which must be (`ctnetlink` section 4).
pub fn wanted_status(of_flow: u32) -> u32 {
    of_flow & (status::SEEN_REPLY | status::ASSURED | status::FIXED_TIMEOUT) | status::CONFIRMED
}

/// The zone in which the reply tuple stands.
pub fn reply_zone(flow: &Flow) -> u16 {
    match flow.extra.as_ref().map(|extra| extra.zone_direction) {
        None | Some(ZoneDirection::Both) => flow.key.zone,
        Some(ZoneDirection::Original) => 0,
        Some(ZoneDirection::Reply(zone)) => zone,
    }
}

/// The source is rewritten: packets of the original direction leave with the reply tuple's destination.
pub fn is_source_nat(flow: &Flow) -> bool {
    let untranslated = flow.key.original.inverse();
    let id_differs = flow.key.original.is_icmp() && flow.reply.source_port != untranslated.source_port;
    flow.status & status::SRC_NAT != 0
        || flow.reply.destination != untranslated.destination
        || id_differs
        || (!flow.key.original.is_icmp() && flow.reply.destination_port != untranslated.destination_port)
}

/// The destination is rewritten: packets of the original direction go to the reply tuple's source.
pub fn is_destination_nat(flow: &Flow) -> bool {
    let untranslated = flow.key.original.inverse();
    flow.status & status::DST_NAT != 0
        || flow.reply.source != untranslated.source
        || (!flow.key.original.is_icmp() && flow.reply.source_port != untranslated.source_port)
}

/// Opens the message and writes the original tuple, by which every request finds its entry.
fn begin(out: &mut Builder, kind: u16, flags: u16, sequence: u32, key: &FlowKey) -> Result<Open, MixedFamilies> {
    let message = out.begin(kind, flags, sequence, family(&key.original)?);
    put_tuple(out, uapi::CTA_TUPLE_ORIG, &key.original);
    Ok(message)
}

pub(super) fn family(tuple: &Tuple) -> Result<u8, MixedFamilies> {
    match (tuple.source, tuple.destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => Ok(uapi::FAMILY_V4),
        (IpAddr::V6(_), IpAddr::V6(_)) => Ok(uapi::FAMILY_V6),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Err(MixedFamilies),
    }
}

fn nat_families(flow: &Flow) -> Result<(), MixedFamilies> {
    let v4 = flow.key.original.source.is_ipv4();
    if flow.reply.source.is_ipv4() == v4 && flow.reply.destination.is_ipv4() == v4 {
        Ok(())
    } else {
        Err(MixedFamilies)
    }
}

fn put_zone(out: &mut Builder, zone: u16) {
    // The default zone is named by the attribute's absence.
    if zone != 0 {
        out.put_be16(uapi::CTA_ZONE, zone);
    }
}

/// Appends a tuple as the attribute of this kind.
pub fn put_tuple(out: &mut Builder, kind: u16, tuple: &Tuple) {
    put_tuple_in_zone(out, kind, tuple, None);
}

/// A tuple, and a zone that counts for its direction alone.
pub(super) fn put_tuple_in_zone(out: &mut Builder, kind: u16, tuple: &Tuple, zone: Option<u16>) {
    let nest = out.nest(kind);
    let ip = out.nest(uapi::CTA_TUPLE_IP);
    match tuple.source {
        IpAddr::V4(address) => out.put(uapi::CTA_IP_V4_SRC, &address.octets()),
        IpAddr::V6(address) => out.put(uapi::CTA_IP_V6_SRC, &address.octets()),
    }
    match tuple.destination {
        IpAddr::V4(address) => out.put(uapi::CTA_IP_V4_DST, &address.octets()),
        IpAddr::V6(address) => out.put(uapi::CTA_IP_V6_DST, &address.octets()),
    }
    out.end(ip);
    let proto = out.nest(uapi::CTA_TUPLE_PROTO);
    out.put(uapi::CTA_PROTO_NUM, &[tuple.protocol]);
    let [icmp_type, icmp_code] = tuple.destination_port.to_be_bytes();
    match tuple.protocol {
        uapi::IPPROTO_ICMP => {
            out.put_be16(uapi::CTA_PROTO_ICMP_ID, tuple.source_port);
            out.put(uapi::CTA_PROTO_ICMP_TYPE, &[icmp_type]);
            out.put(uapi::CTA_PROTO_ICMP_CODE, &[icmp_code]);
        }
        uapi::IPPROTO_ICMPV6 => {
            out.put_be16(uapi::CTA_PROTO_ICMPV6_ID, tuple.source_port);
            out.put(uapi::CTA_PROTO_ICMPV6_TYPE, &[icmp_type]);
            out.put(uapi::CTA_PROTO_ICMPV6_CODE, &[icmp_code]);
        }
        protocol if has_ports(protocol) => {
            out.put_be16(uapi::CTA_PROTO_SRC_PORT, tuple.source_port);
            out.put_be16(uapi::CTA_PROTO_DST_PORT, tuple.destination_port);
        }
        // The kernel tracks other protocols by address alone.
        _ => {}
    }
    out.end(proto);
    if let Some(zone) = zone {
        out.put_be16(uapi::CTA_TUPLE_ZONE, zone);
    }
    out.end(nest);
}

/// Protocols whose tracker keeps ports (GRE: keys) in the tuple.
pub(super) fn has_ports(protocol: u8) -> bool {
    matches!(
        protocol,
        uapi::IPPROTO_TCP
            | uapi::IPPROTO_UDP
            | uapi::IPPROTO_UDPLITE
            | uapi::IPPROTO_SCTP
            | uapi::IPPROTO_DCCP
            | uapi::IPPROTO_GRE
    )
}

/// TCP state with the liberal flag in both directions: windows cannot be transferred, and without the flag
/// the first packets after a takeover would be INVALID (`ctnetlink` section 5).
fn put_protocol_state(out: &mut Builder, flow: &Flow) {
    if flow.key.original.protocol != uapi::IPPROTO_TCP {
        if let Some(extra) = flow.extra.as_ref().filter(|_| flow.key.original.protocol == uapi::IPPROTO_SCTP) {
            encode_extra::put_sctp(out, extra);
        }
        return;
    }
    let tcp = flow.tcp.unwrap_or(Tcp { state: presumed_tcp_state(flow.status), ..Tcp::default() });
    let scaled = tcp.flags[0] & tcp.flags[1] & uapi::FLAG_WINDOW_SCALE != 0;
    let info = out.nest(uapi::CTA_PROTOINFO);
    let nest = out.nest(uapi::CTA_PROTOINFO_TCP);
    if tcp.state <= uapi::TCP_STATE_MAX {
        out.put(uapi::CTA_PROTOINFO_TCP_STATE, &[tcp.state]);
    }
    if scaled {
        out.put(uapi::CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, &[tcp.wscale[0].min(uapi::WSCALE_MAX)]);
        out.put(uapi::CTA_PROTOINFO_TCP_WSCALE_REPLY, &[tcp.wscale[1].min(uapi::WSCALE_MAX)]);
    }
    for (kind, flags) in
        [(uapi::CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, tcp.flags[0]), (uapi::CTA_PROTOINFO_TCP_FLAGS_REPLY, tcp.flags[1])]
    {
        // The other flags describe acknowledgements that this node has not seen.
        let known = flags & (uapi::FLAG_WINDOW_SCALE | uapi::FLAG_SACK_PERM | uapi::FLAG_CLOSE_INIT);
        let flags = known | uapi::FLAG_BE_LIBERAL;
        // The mask says which bits count; without it the kernel changes nothing.
        out.put(kind, &[flags, flags]);
    }
    out.end(nest);
    out.end(info);
}

/// The state that the status bits imply, for a TCP entry whose events carried none so far.
fn presumed_tcp_state(of_flow: u32) -> u8 {
    if of_flow & status::ASSURED != 0 {
        uapi::TCP_ESTABLISHED
    } else if of_flow & status::SEEN_REPLY != 0 {
        uapi::TCP_SYN_RECV
    } else {
        uapi::TCP_SYN_SENT
    }
}

fn put_nat(out: &mut Builder, flow: &Flow) {
    let original = &flow.key.original;
    let icmp = original.is_icmp();
    let port = |port: u16| has_ports(original.protocol).then_some(port);
    let (source, destination) = (is_source_nat(flow), is_destination_nat(flow));
    if source {
        // The id of an ICMP query is its source "port"; the reply repeats it.
        let id = (icmp && flow.reply.source_port != original.source_port).then_some(flow.reply.source_port);
        let port = if icmp { id } else { port(flow.reply.destination_port) };
        put_nat_range(out, uapi::CTA_NAT_SRC, flow.reply.destination, port);
    }
    if destination {
        let port = if icmp { None } else { port(flow.reply.source_port) };
        put_nat_range(out, uapi::CTA_NAT_DST, flow.reply.source, port);
    } else if source && has_ports(original.protocol) && original.protocol != uapi::IPPROTO_GRE {
        // The destination as it is. Left out, it would come to the same by a search of the whole table for the tuple (a null
        // binding has no port, `get_unique_tuple` in net/netfilter/nf_nat_core.c): a sixth of what a creation costs.
        put_nat_range(out, uapi::CTA_NAT_DST, original.destination, Some(original.destination_port));
    }
}

/// One address, and one port unless the protocol has none. Without a port the kernel would silently pick
/// another one when the wanted one is taken.
fn put_nat_range(out: &mut Builder, kind: u16, address: IpAddr, port: Option<u16>) {
    let nest = out.nest(kind);
    match address {
        // The maximum of the address range, left out, is the minimum.
        IpAddr::V4(address) => out.put(uapi::CTA_NAT_V4_MINIP, &address.octets()),
        IpAddr::V6(address) => out.put(uapi::CTA_NAT_V6_MINIP, &address.octets()),
    }
    if let Some(port) = port {
        let proto = out.nest(uapi::CTA_NAT_PROTO);
        out.put_be16(uapi::CTA_PROTONAT_PORT_MIN, port);
        out.put_be16(uapi::CTA_PROTONAT_PORT_MAX, port);
        out.end(proto);
    }
    out.end(nest);
}
